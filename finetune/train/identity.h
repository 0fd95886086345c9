/* What the bytes of a run follow from: recipe, base, tokenizer, documents, program. A run goes on
 * only where none of it has changed, or where the user has said what may.
 *
 * A JSON object: "recipe" has every key's value as text; "parts" has digests and names:
 *   base_model     finetune/train/base_digest.h
 *   tokenizer      of tokenizer.json and tokenizer_config.json
 *   documents      of all token ids and targets and which are trained on; the same for validation
 *   files          path and SHA-256 of each data file, to name the one that changed; those of a
 *                  validation set of its own in validation_files
 *   adapter        number of values, and which modules with which rank and scale
 *   start          of the adapter that lora_model_dir continues from
 *   program        of the executable (its kernels are in it), and the CUDA module's facts
 *   kernels        which of its instruction sets or devices, precision and tuned algorithms
 */
#ifndef FINETUNE_TRAIN_IDENTITY_H
#define FINETUNE_TRAIN_IDENTITY_H

#include <jansson.h>
#include <stdbool.h>

#include "finetune/model/engine.h"
#include "finetune/train/data.h"
#include "kernels/core/err.h"
#include "kernels/core/text.h"
#include "recipes/recipe.h"

/* NULL on failure; caller json_decref()s. The engine's modules are chosen, the data loaded. */
json_t *identity_of(const struct recipe *recipe, const struct engine *e,
                    const struct train_data *data, struct err *err);

/* Whether every name of a list may differ; NULL is one of none. Else an error that lists those that
 * may. */
bool identity_check_allowed(const char *allow, struct err *err);

/* Holds a checkpoint's identity (of folder `place`) against this run's. What may always differ is
 * passed over; what `allow` names (keys and parts, separated by commas; NULL: none) goes to
 * `changes`, "learning_rate: 0.001 -> 0.002", a line each; anything else is an error with the field
 * and both values. */
bool identity_compare(json_t *saved, json_t *now, const char *allow, const char *place,
                      struct text *changes, struct err *err);

#endif
