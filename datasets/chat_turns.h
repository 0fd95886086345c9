/* Where in the rendered text the assistant's messages stand. */
#ifndef DATASETS_CHAT_TURNS_H
#define DATASETS_CHAT_TURNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datasets/chat_marks.h"
#include "datasets/chat_render.h"
#include "kernels/core/err.h"

/* One stretch that the assistant writes, with what ends its turn; a message may have several. */
struct chat_turn {
    int64_t message; /* -1: not known, and not needed: all messages are wanted */
    size_t begin, end;
};

struct chat_turns {
    struct chat_turn *at;
    int64_t n, cap;
    enum chat_method method;
};

/* The turns of the messages with wanted[i], which are all the assistant's. `marks` are of
 * MARK_CONTENTS, found when first needed: zeroed, or of an earlier call for the same text. */
bool chat_turns_find(const struct chat_plain *plain, const bool *wanted, const char *place,
                     struct chat_marks *marks, struct chat_turns *out, struct err *err);
void chat_turns_free(struct chat_turns *turns);

/* Fills `marks` unless they are already. */
bool chat_turns_marks(const struct chat_plain *plain, struct chat_marks *marks, struct err *err);

#endif
