/* Whether a GGUF adapter does what the adapter does: the file is read back and used as llama.cpp
 * uses it.
 *
 * For each module a random vector x goes through both: y = scale * B (A x) from the adapter, and
 * y' = alpha / rank * lora_b (lora_a x) from the file, in double. Two matrices that differ by more
 * than rounding give other products for almost every x. The bound of |y'_o - y_o| is worked out
 * with the sums, element by element, from the one rounding that each number of the file had: 2^-24
 * of it for F32, and for F16 2^-11 of it or 2^-25, whichever is more.
 */
#ifndef FINETUNE_EXPORT_GGUF_PROOF_H
#define FINETUNE_EXPORT_GGUF_PROOF_H

#include <stdbool.h>

#include "finetune/export/gguf_pairs.h"
#include "finetune/export/source.h"
#include "kernels/core/dtype.h"
#include "kernels/core/err.h"
#include "kernels/core/text.h"

/* Errors (ERR_INTERNAL for a difference): the file cannot be read, or is not the adapter. Where F16
 * loses much of a module, notes say so. */
bool gguf_prove_adapter(const struct export_source *s, const struct gguf_pairs *pairs,
                        enum dtype dtype, const char *path, struct text *notes, struct err *err);

#endif
