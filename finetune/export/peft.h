/* An adapter as a PEFT folder that one engine takes whole.
 *
 *     struct text notes = { 0 };
 *     if (!export_peft(&source, LORA_ENGINE_VLLM, "out", &notes, err)) ...
 *
 * What the engine would refuse, scale wrongly or ignore is rewritten where that is possible
 * (lora/fold.h), and else refused by name (lora/engines.h has the rules). Dropout is 0. What is
 * written reads back with the same change of every weight, and the rules then find nothing left;
 * else the files are removed again.
 */
#ifndef FINETUNE_EXPORT_PEFT_H
#define FINETUNE_EXPORT_PEFT_H

#include <stdbool.h>

#include "finetune/export/source.h"
#include "kernels/core/err.h"
#include "kernels/core/text.h"
#include "lora/engines.h"
#include "lora/fold.h"

/* engine: transformers 4 or 5, or vLLM. What the user should know is appended to notes, one
 * sentence a line. */
bool export_peft(const struct export_source *s, enum lora_engine engine, const char *out_dir,
                 struct text *notes, struct err *err);

/* The adapter as it is, in our own layout: from there training continues. */
bool export_import(const struct export_source *s, const char *out_dir, struct err *err);

/* How much the engine needs folded. */
enum lora_fold_what export_fold_for(const struct export_source *s, enum lora_engine engine);

/* The judgement of the adapter as it lies in its folder. lora_report_free it. */
bool export_judge(const struct export_source *s, struct lora_report *report, struct err *err);

#endif
