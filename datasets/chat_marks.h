/* Where the strings of a conversation end up in the rendered text: rendered again with a pair of
 * private-use characters around each, which a template passes through like any other letter.
 *
 *     struct chat_marks marks = { 0 };
 *     ok = chat_marks_find(&plain, MARK_CONTENTS, &marks, err);
 *     if (ok && marks.same) ... marks.at[0..n) ...
 *     chat_marks_free(&marks);
 *
 * The result counts only when it is the unmarked text but for the marks: a template may look into a
 * content, and do something else with a marked one. White space at the ends of a string stays
 * outside its marks (templates trim), and reasoning inside <think> tags has marks of its own
 * (templates split there).
 */
#ifndef DATASETS_CHAT_MARKS_H
#define DATASETS_CHAT_MARKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datasets/chat.h"
#include "datasets/template.h"
#include "datasets/tokenizer.h"
#include "kernels/core/err.h"

enum chat_mark_what {
    MARK_CONTENTS, /* the strings of messages, tool calls and all */
    MARK_SPECIALS, /* the spellings of special tokens, in strings and names anywhere, and parts of
                      them at their ends, which other text may complete */
    MARK_SPECIALS_INSIDE, /* the same, and what could stand in the middle of a spelling */
};

/* One marked piece, in the order in which they stand in the text. */
struct chat_mark {
    int64_t message; /* -1: of tools, documents or variables */
    bool reasoning;
    bool again; /* the same piece stood in the text before */
    bool whole; /* both its ends are there; else it was cut, and begin == end is the one that is */
    size_t begin, end; /* bytes of the unmarked text */
};

struct chat_marks {
    bool tried; /* they were looked for */
    bool same;  /* the text is the unmarked one: the marks count */
    struct chat_mark *at;
    int64_t n, cap;
    /* MARK_SPECIALS: the first, as "messages[2]", and how many are spelled whole and in part. */
    char where[64], spelled[64];
    int64_t n_special, n_part;
};

/* What was rendered, and with what. */
struct chat_plain {
    const struct chat *chat;
    const struct chat_template *template;
    const struct tokenizer *tokenizer; /* needed for MARK_SPECIALS and MARK_SPECIALS_INSIDE */
    const struct jinja_output *output; /* the unmarked text */
    bool add_generation_prompt;
};

/* False only when memory is out. With MARK_SPECIALS nothing is rendered when there are none (same
 * is then true). */
bool chat_marks_find(const struct chat_plain *plain, enum chat_mark_what what,
                     struct chat_marks *out, struct err *err);
void chat_marks_free(struct chat_marks *marks);

#endif
