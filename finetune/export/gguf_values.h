/* Numbers on their way into a GGUF file: rounded to the stored type, nearest even. */
#ifndef FINETUNE_EXPORT_GGUF_VALUES_H
#define FINETUNE_EXPORT_GGUF_VALUES_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/core/dtype.h"

uint16_t gguf_to_f16(float x);

/* n floats as F32, F16 or BF16 to out (any alignment); false when a finite one became infinite. */
bool gguf_round(const float *x, int64_t n, enum dtype to, void *out);

/* The same from stored F32, F16 or BF16 (any alignment). */
bool gguf_convert(const void *in, enum dtype from, int64_t n, enum dtype to, void *out);

#endif
