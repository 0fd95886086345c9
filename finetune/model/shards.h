/* The safetensors files of a checkpoint folder as one set of tensors under today's names.
 *
 *     struct shards s = { 0 };
 *     if (!shards_open(&s, folder, &config, err)) ...
 *     const struct shard_tensor *t = shards_take(&s, "model.embed_tokens.weight");   // NULL: not
 * there if (!shards_check_all_taken(&s, &config, err)) ...                             // no tensor
 * is left over shards_close(&s);
 *
 * A folder has model.safetensors, or model.safetensors.index.json and the shards it names. Names of
 * the first Jamba's files (moe, pre_moe_layernorm, B_layernorm, a dense layer as experts.0) are
 * translated.
 */
#ifndef FINETUNE_MODEL_SHARDS_H
#define FINETUNE_MODEL_SHARDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "finetune/model/config.h"
#include "kernels/core/err.h"
#include "kernels/format/safetensors.h"

struct shard_tensor {
    const char *name;                        /* today's; tensor->name is the file's */
    const struct safetensors_tensor *tensor; /* inside a mapped file */
    const char *path;                        /* of that file, for messages */
    bool taken;
};

struct shards {
    struct safetensors *files;
    char **paths;
    int64_t n_file;
    struct shard_tensor *tensors; /* sorted by name */
    int64_t n_tensor;
    char *names; /* owns the translated names */
};

/* Errors: no weights, a pytorch .bin only, a malformed file or index, an index that disagrees with
 * its shards, a tensor twice. On failure *s is zeroed. */
bool shards_open(struct shards *s, const char *folder, const struct jamba_config *config,
                 struct err *err);
void shards_close(struct shards *s);

/* The tensor of that (today's) name, marked as taken; NULL when there is none. */
const struct shard_tensor *shards_take(struct shards *s, const char *name);

/* Whether every tensor was taken; a tied model's own lm_head.weight may stay behind. */
bool shards_check_all_taken(const struct shards *s, const struct jamba_config *config,
                            struct err *err);

size_t shards_mapped_bytes(const struct shards *s);

#endif
