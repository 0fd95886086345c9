/* Whether an exported adapter changes the weights as the original does.
 *
 *     if (!export_verify_peft(&source, "out", err)) ...
 *
 * A module's change of its weight, D = s B A, is never formed: that would be the size of the model.
 * Two such changes are compared by what they make of random vectors of +-1 (Freivalds): D x for
 * each x, every output by itself, against a bound of the roundings that an exact export may have.
 * A wrong value anywhere in A or B changes D x in some output for at least every other x.
 */
#ifndef FINETUNE_EXPORT_VERIFY_H
#define FINETUNE_EXPORT_VERIFY_H

#include <stdbool.h>

#include "finetune/export/source.h"
#include "kernels/core/err.h"

/* Reads the PEFT folder again and compares each module's change with the source's; what the source
 * does not adapt must not change, and what it adapts must be there. Errors (ERR_INTERNAL) name the
 * module. */
bool export_verify_peft(const struct export_source *s, const char *dir, struct err *err);

/* The part of it that compares: of two adapters of the same modules. place starts the message. */
bool export_same_change(const struct lora_adapter *x, const struct lora_choice *choices_x,
                        const struct lora_adapter *y, const struct lora_choice *choices_y,
                        const char *place, struct err *err);

#endif
