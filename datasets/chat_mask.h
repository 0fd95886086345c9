/* What of a rendered conversation carries loss: see chat_render.h. */
#ifndef DATASETS_CHAT_MASK_H
#define DATASETS_CHAT_MASK_H

#include <stdbool.h>

#include "datasets/byte_range.h"
#include "datasets/chat_marks.h"
#include "datasets/chat_render.h"
#include "kernels/core/err.h"

/* Appends the ranges of the text, merged, that carry loss, and says how they were found. `place`
 * starts the message. */
bool chat_mask_find(const struct chat_plain *plain, const struct chat_options *options,
                    const char *place, struct range_list *out, enum chat_method *method,
                    struct err *err);

#endif
