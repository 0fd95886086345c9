/* One token as a reader can see it. */
#ifndef FINETUNE_CLI_PREVIEW_TOKENS_H
#define FINETUNE_CLI_PREVIEW_TOKENS_H

#include <stdbool.h>
#include <stdint.h>

#include "datasets/tokenizer.h"
#include "kernels/core/err.h"
#include "kernels/core/text.h"

struct preview_token {
    struct text text; /* never empty; no control characters */
    bool special;     /* BOS, EOS and what else the tokenizer calls special */
    bool ends_line;   /* it is a line feed */
};

/* The piece's spelling: a space where it has its own sign for one; line feed and tab as ⏎ and ⇥,
 * other bytes that are no text as <0x1B>, an id without a piece as #123. *out is used again from
 * call to call; tok may be NULL. */
bool preview_token(const struct tokenizer *tok, int32_t id, struct preview_token *out,
                   struct err *err);

#endif
