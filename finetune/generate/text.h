/* A prompt's continuation, as text, while it is made.
 *
 *     const struct generation g = { .engine = &e, .tokenizer = tok, .end = &end, .sampling = how,
 *                                   .max_new_tokens = 256, .emit = print, .context = ... };
 *     ok = generate_text(&g, ids, n, err);
 */
#ifndef FINETUNE_GENERATE_TEXT_H
#define FINETUNE_GENERATE_TEXT_H

#include "datasets/tokenizer.h"
#include "finetune/generate/end.h"
#include "finetune/generate/sample.h"
#include "finetune/model/engine.h"

struct generation {
    struct engine *engine; /* after engine_allocate_generation */
    const struct tokenizer *tokenizer;
    const struct end_tokens *end;
    struct sampling sampling;
    int64_t max_new_tokens;
    /* Called with whole characters as soon as they are certain; false (with err set) ends the
     * generation. */
    bool (*emit)(void *context, const char *bytes, size_t n, struct err *err);
    void *context;
};

/* Feeds the prompt (n >= 1) and emits what follows, without the prompt and without special tokens:
 * prompt and continuation together are the text of all ids, so the space between them is the
 * continuation's. Ends before an end token, or after max_new_tokens. */
bool generate_text(const struct generation *g, const int32_t *prompt, int64_t n, struct err *err);

#endif
