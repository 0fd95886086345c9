#include "finetune/train/base_digest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/model/shards.h"
#include "finetune/model/weights.h"
#include "kernels/core/file.h"

enum { WHOLE_FILE = 1 << 26, WHOLE_TENSOR = 1 << 20, SAMPLE = 1 << 12, N_SAMPLE = 64 };

static void add_tensor(struct sha256 *sum, const struct safetensors_tensor *t)
{
    const unsigned char *bytes = t->data;
    if (t->bytes <= WHOLE_TENSOR) {
        sha256_update(sum, bytes, t->bytes);
        return;
    }
    const size_t last = t->bytes - SAMPLE, step = last / (N_SAMPLE - 1);
    for (size_t i = 0; i + 1 < N_SAMPLE; i++)
        sha256_update(sum, bytes + i * step, SAMPLE);
    sha256_update(sum, bytes + last, SAMPLE);
}

/* The header lies before all tensors. */
static size_t header_bytes(const struct safetensors *st)
{
    size_t n = st->map.size;
    for (int64_t i = 0; i < st->n_tensor; i++) {
        const size_t at = st->tensors[i].bytes == 0
                              ? n
                              : (size_t)((const unsigned char *)st->tensors[i].data -
                                         (const unsigned char *)st->map.data);
        n = at < n ? at : n;
    }
    return n;
}

static void add_weights(struct sha256 *sum, const char *path, const struct safetensors *st)
{
    char line[320];
    snprintf(line, sizeof line, "%.255s %zu", strrchr(path, '/') + 1, st->map.size);
    sha256_update(sum, line, strlen(line) + 1);
    if (st->map.size <= WHOLE_FILE) {
        sha256_update(sum, st->map.data, st->map.size);
        return;
    }
    sha256_update(sum, st->map.data, header_bytes(st));
    for (int64_t i = 0; i < st->n_tensor; i++)
        add_tensor(sum, &st->tensors[i]);
}

static bool add_folder(struct sha256 *sum, const char *folder, const char *config_path,
                       struct err *err)
{
    struct shards shards = { 0 };
    struct jamba_config config;
    if (!jamba_config_read(config_path, &config, err) ||
        !shards_open(&shards, folder, &config, err))
        return false;
    for (int64_t i = 0; i < shards.n_file; i++)
        add_weights(sum, shards.paths[i], &shards.files[i]);
    shards_close(&shards);
    return true;
}

bool base_digest(const char *base_model, char hex[SHA256_HEX_SIZE], struct err *err)
{
    char *folder = NULL, *config = NULL, of_config[SHA256_HEX_SIZE];
    struct sha256 sum;
    sha256_init(&sum);
    bool ok = weights_locate(base_model, &folder, &config, err);
    if (ok && folder != NULL) {
        free(config);
        config = file_join(folder, "config.json");
        ok = config != NULL || err_no_memory(err, folder);
    }
    ok = ok && sha256_file(config, of_config, NULL, err);
    if (ok)
        sha256_update(&sum, of_config, sizeof of_config);
    ok = ok && (folder == NULL || add_folder(&sum, folder, config, err));
    free(folder);
    free(config);
    sha256_end(&sum, hex);
    return ok;
}
