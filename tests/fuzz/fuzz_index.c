/* model.safetensors.index.json beside two sound shards: nothing but those two, whole and as the
 * index has them, is ever opened.
 */
#include <string.h>

#include "finetune/model/shards.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/lora/tiny_jamba.h"

static void write_shards(void)
{
    static const float value[2] = { 1, 2 };
    static const char *const names[2][2] = {
        { "a", "model.layers.0.feed_forward.experts.0.up_proj.weight" },
        { "b", "model.layers.1.moe.router.weight" },
    };
    static bool are_there;
    for (int f = 0; f < 2 && !are_there; f++) {
        struct safetensors_tensor tensors[2];
        for (int i = 0; i < 2; i++)
            tensors[i] = (struct safetensors_tensor){ .name = names[f][i],
                                                      .dtype = DTYPE_F32,
                                                      .n_dim = 1,
                                                      .dims = { 2 },
                                                      .data = value,
                                                      .bytes = sizeof value };
        char path[FUZZ_PATH_SIZE], none[FUZZ_PATH_SIZE];
        fuzz_write("index", f == 0 ? "1.safetensors" : "2.safetensors", "", 0, path);
        FUZZ_CHECK(safetensors_write(path, tensors, 2, NULL));
        /* Outside the folder, to be named by no one. */
        fuzz_write("beside", f == 0 ? "1.safetensors" : "2.safetensors", "", 0, none);
        FUZZ_CHECK(safetensors_write(none, tensors, 2, NULL));
    }
    are_there = true;
}

bool fuzz_index(const uint8_t *bytes, size_t n, struct err *err)
{
    const char *folder = fuzz_folder("index");
    const struct jamba_config config = tiny_jamba();
    char path[FUZZ_PATH_SIZE];
    write_shards();
    fuzz_write("index", "model.safetensors.index.json", bytes, n, path);
    struct shards s = { 0 };
    if (!shards_open(&s, folder, &config, err))
        return false;
    FUZZ_CHECK(s.n_file >= 1 && s.n_file <= 2 && s.n_tensor == 2 * s.n_file);
    for (int64_t f = 0; f < s.n_file; f++) {
        FUZZ_CHECK(strncmp(s.paths[f], folder, strlen(folder)) == 0);
        FUZZ_CHECK(strchr(s.paths[f] + strlen(folder) + 1, '/') == NULL);
    }
    FUZZ_CHECK(shards_mapped_bytes(&s) > 0);
    FUZZ_CHECK(!shards_check_all_taken(&s, &config, NULL));
    for (int64_t i = 0; i < s.n_tensor; i++)
        FUZZ_CHECK(shards_take(&s, s.tensors[i].name) == &s.tensors[i]);
    FUZZ_CHECK(shards_take(&s, "c") == NULL && shards_check_all_taken(&s, &config, NULL));
    shards_close(&s);
    return true;
}
