/* An adapter as llama.cpp sees it: one pair of tensors for each of the base's that is adapted, and
 * one alpha for all.
 *
 * llama.cpp multiplies a pair's product by adapter.lora.alpha / rank, rank being that of the pair
 * in the file: there is no alpha of one module, no rank pattern and no rsLoRA. What is left of a
 * module's own scale is folded into its B:
 *
 *     scale * B A = alpha / rank * (factor B) A,    factor = scale * rank / alpha
 *
 * and alpha is chosen such that as many factors as possible are 1.
 *
 * The experts of a projection are one pair of stacks, all of one rank and none missing (llama.cpp
 * checks neither, and crashes): smaller ranks are filled up with zero rows and columns, experts
 * that are not adapted with zeros.
 */
#ifndef FINETUNE_EXPORT_GGUF_PAIRS_H
#define FINETUNE_EXPORT_GGUF_PAIRS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/err.h"
#include "kernels/format/gguf.h"
#include "lora/module.h"
#include "lora/target.h"

struct gguf_pair {
    char
        name[GGUF_NAME_SIZE]; /* of the base's tensor; the pair's are this + ".lora_a", ".lora_b" */
    int64_t in, out;          /* of the module; for the embedding vocab and d_model */
    int64_t rank;             /* in the file */
    int64_t n_expert;         /* of a stack; 0: a matrix */
    bool embedding;           /* lora_a is transposed: (vocab, rank) */
    int64_t first, stride;    /* index of the module, or of expert 0's; to the next expert's */
};

struct gguf_pairs {
    struct gguf_pair *pair; /* in the modules' order */
    int64_t n;
    float alpha;
    int64_t n_missing, n_padded, n_folded; /* experts filled in, padded to a rank, scaled */
};

/* modules as jamba_modules lists them. Errors: nothing is adapted; out of memory. */
bool gguf_pairs_plan(const struct lora_module *modules, int64_t n,
                     const struct lora_choice *choices, const char *place, struct gguf_pairs *out,
                     struct err *err);
void gguf_pairs_free(struct gguf_pairs *pairs);

/* What that module's B is multiplied by. */
double gguf_pair_factor(const struct gguf_pairs *pairs, const struct gguf_pair *pair,
                        const struct lora_choice *choice);

/* The names and shapes of the two tensors; the number of dimensions. */
enum gguf_part { GGUF_LORA_A, GGUF_LORA_B };
int gguf_pair_tensor(const struct gguf_pair *pair, enum gguf_part part,
                     char name[GGUF_NAME_SIZE + 8], int64_t dims[3]);

#endif
