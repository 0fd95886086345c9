/* The whole checkpoint with an adapter folded in: serves everywhere, in any engine, without LoRA.
 *
 *     struct text notes = { 0 };
 *     if (!export_merged(&source, "merged", &notes, err)) ...
 *
 * Adapted matrices are W + scale B A in W's type (lora/merge.h has the arithmetic); all others keep
 * their bytes. Files, tensor names and placement are the base's, and the tokenizer's files, chat
 * templates and configs are copied. Two things may change:
 *
 *   lm_head.weight           is always written, of a tied base as well (a copy of the embedding):
 *                            vLLM's Jamba does not start without it
 *   tie_word_embeddings      becomes false in config.json where the adapter changes the embedding
 * or the head of a tied base: they are two matrices from then on
 */
#ifndef FINETUNE_EXPORT_MERGED_H
#define FINETUNE_EXPORT_MERGED_H

#include <stdbool.h>

#include "finetune/export/source.h"
#include "kernels/core/err.h"
#include "kernels/core/text.h"

/* A few megabytes of memory per thread beside the adapter, whatever the model: blocks of the mapped
 * base go to the output one by one. Each file is read back before it gets its name: every tensor
 * must be there, untouched ones with the base's bytes, merged ones with the change that A and B
 * say. On failure nothing stays in out_dir. What the user should know is appended to notes, one
 * sentence a line.
 *
 * Refused: a base without files (random:) or with tensors that are missing, left over, of another
 * shape or of a type that is not F32, BF16 or F16; an out_dir that is the base's or the adapter's
 * folder or has a model's files in it; too little room on the disk; a merged value that does not
 * fit the type. */
bool export_merged(const struct export_source *s, const char *out_dir, struct text *notes,
                   struct err *err);

#endif
