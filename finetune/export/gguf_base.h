/* A checkpoint as a GGUF file for llama.cpp: what a GGUF adapter is loaded onto.
 *
 *     struct text notes = { 0 };
 *     if (!export_gguf_base("models/jamba", DTYPE_BF16, "jamba.gguf", &notes, err)) ...
 */
#ifndef FINETUNE_EXPORT_GGUF_BASE_H
#define FINETUNE_EXPORT_GGUF_BASE_H

#include <stdbool.h>
#include <stdint.h>

#include "finetune/model/config.h"
#include "finetune/model/slots.h"
#include "kernels/core/dtype.h"
#include "kernels/core/err.h"
#include "kernels/core/text.h"
#include "kernels/format/gguf.h"

/* A tensor of the file. */
struct gguf_base_tensor {
    char name[GGUF_NAME_SIZE];
    enum dtype dtype;
    int n_dim;
    int64_t dims[3];
    int64_t n_part;        /* n_expert for a stack, else 1; 0: zeros, the checkpoint has none */
    int64_t first, stride; /* index of its slot, or of expert 0's; to the next expert's */
};

/* All of them, and the checkpoint's tensors that they are made of: a function of the config. */
struct gguf_base {
    struct gguf_base_tensor *tensors;
    int64_t n_tensor;
    struct slot *slots;
    int64_t n_slot;
};

/* Matrices in dtype; vectors, the convolution, A and the router are F32, as llama.cpp wants them.
 */
bool gguf_base_plan(const struct jamba_config *config, enum dtype dtype, struct gguf_base *out,
                    struct err *err);
void gguf_base_free(struct gguf_base *base);

/* base: a folder in Hugging Face layout, as base_model takes one. Every tensor is converted from
 * the mapped file a piece at a time, so the memory it takes does not depend on the model. Before it
 * is renamed to path the file is opened again: every tensor must be there with its name, shape and
 * type, and begin and end with what was written. Notes as export_gguf_adapter's.
 *
 * Refused: a Jamba that llama.cpp does not run, a tokenizer that it cannot follow
 * (gguf_tokenizer.h), tensors missing, left over or of another shape, values that do not fit F16.
 */
bool export_gguf_base(const char *base, enum dtype dtype, const char *path, struct text *notes,
                      struct err *err);

#endif
