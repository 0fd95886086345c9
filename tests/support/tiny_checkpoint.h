/* Small Jamba checkpoints for tests, written to a folder of their own, well-formed or with one
 * thing wrong.
 *
 *     char *folder = tiny_scratch_make();
 *     struct jamba_config config = tiny_config();
 *     config.num_experts = 1;
 *     tiny_checkpoint_write(folder, &config, &(struct tiny_options){ .n_shard = 3 });
 *     ...
 *     tiny_scratch_remove(folder);
 *
 * Failures here are failures of the test: they assert.
 */
#ifndef TESTS_SUPPORT_TINY_CHECKPOINT_H
#define TESTS_SUPPORT_TINY_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "finetune/model/config.h"
#include "kernels/core/dtype.h"
#include "kernels/core/err.h"

struct tiny_options {
    bool legacy_names; /* of the first Jamba's files */
    int n_shard;       /* 0: a single model.safetensors, else shards and an index */
    enum dtype dtype;  /* F32 (0), BF16 or F16 */
    bool unaligned;    /* tensor data at odd addresses */
    bool with_head;    /* lm_head.weight although tied */
    /* One thing wrong, by (today's) tensor name: */
    const char *omit, *rename_to; /* left out; or, with rename_to, under that name */
    const char *misshape;         /* one row more */
    const char *mistype;          /* as I8 */
    const char *repeat;           /* in the last shard too */
    const char *unlisted;         /* not in the index */
    const char *misplaced;        /* in the index under the wrong shard */
    const char *config_members;   /* more members for config.json, as `"a": 1, "b": 2` */
};

/* Four layers, MoE and dense, Mamba and attention; derived fields set. */
struct jamba_config tiny_config(void);

/* Sets the derived fields after a change. */
void tiny_config_derive(struct jamba_config *config);

/* Writes config.json and the weights into the folder. */
void tiny_checkpoint_write(const char *folder, const struct jamba_config *config,
                           const struct tiny_options *options);

/* Element i of the tensor (today's name): exact in F32, BF16 and F16 alike, no two tensors alike.
 */
float tiny_value(const char *name, int64_t i);

/* A fresh folder under TMPDIR or /tmp; and its removal with all it holds (frees the name). */
char *tiny_scratch_make(void);
void tiny_scratch_remove(char *folder);

/* Writes bytes as folder/name. */
void tiny_file_write(const char *folder, const char *name, const void *bytes, size_t n);

/* err's text with the folder's name replaced by DIR. */
void tiny_message(char out[ERR_TEXT_SIZE], const struct err *err, const char *folder);

#endif
