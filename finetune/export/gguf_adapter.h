/* An adapter as a GGUF file for llama.cpp (and Ollama, LM Studio, ...): `llama-server --lora FILE`.
 *
 *     struct text notes = { 0 };
 *     if (!export_gguf_adapter(&source, DTYPE_F32, "adapter.gguf", &notes, err)) ...
 */
#ifndef FINETUNE_EXPORT_GGUF_ADAPTER_H
#define FINETUNE_EXPORT_GGUF_ADAPTER_H

#include <stdbool.h>

#include "finetune/export/source.h"
#include "kernels/core/dtype.h"
#include "kernels/core/err.h"
#include "kernels/core/text.h"

/* Writes the adapter as F32 or F16, whole or not at all: before it is renamed to path the file is
 * read back, and what llama.cpp will add to each weight held against the adapter's own scale * B A
 * (gguf_proof.h says how closely). What the user should know of it is appended to notes, one
 * sentence a line.
 *
 * Refused, by name: what llama.cpp would abort on, crash on or silently leave out (an embedding's
 * or head's pair on a tied base, a base it does not run), and values that do not fit the type. */
bool export_gguf_adapter(const struct export_source *s, enum dtype dtype, const char *path,
                         struct text *notes, struct err *err);

#endif
