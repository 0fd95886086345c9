/* A prompt's continuation, as text, while it is made.
 *
 *     const struct generation g = { .engine = &e, .tokenizer = tok, .end = &end, .sampling = how,
 *                                   .max_new_tokens = 256, .emit = print, .context = ... };
 *     ok = generate_text(&g, ids, n, err);
 */
#ifndef FINETUNE_GENERATE_TEXT_H
#define FINETUNE_GENERATE_TEXT_H

#include <signal.h>

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
    bool keep_special; /* special tokens in the text are spelled out */
    /* Called with whole characters as soon as they are certain; false (with err set) ends the
     * generation. */
    bool (*emit)(void *context, const char *bytes, size_t n, struct err *err);
    void *context;
    const bool *stop; /* NULL, or set by emit: the text ends here, and that is no failure */
    const volatile sig_atomic_t *interrupt; /* NULL, or raised by a signal: likewise */
    int64_t state_tokens; /* above 0: the state lies in the engine's `saved` arena and holds so
                             many tokens (jamba_state_new_in); 0: in memory of its own */
};

/* A prompt that tokenizer_encode read becomes one to continue. What follows an end token is another
 * text: one that the tokenizer puts behind the prompt goes. An empty prompt is BOS alone, also
 * where the tokenizer puts none in front; without any BOS it is an error. */
bool generate_finish_prompt(const struct tokenizer *tokenizer, const struct jamba_config *config,
                            const struct end_tokens *end, struct token_list *prompt,
                            struct err *err);

/* Why a text ended. */
enum text_end {
    TEXT_END_TOKEN,  /* an end token followed */
    TEXT_END_LENGTH, /* max_new_tokens */
    TEXT_END_STOPPED,
};

/* Feeds the prompt (n >= 1) and emits what follows, without the prompt and without special tokens:
 * prompt and continuation together are the text of all ids, so the space between them is the
 * continuation's. Ends before an end token, or after max_new_tokens. */
bool generate_text(const struct generation *g, const int32_t *prompt, int64_t n, struct err *err);

/* The same in turns, the state carried from one to the next:
 *
 *     struct text_run *run = text_run_new(&g, err);
 *     while (...)
 *         ok = text_run_feed(run, ids, n, err) && text_run_write(run, err);
 *     text_run_free(run);
 *
 * What is written belongs to the sequence, but the end token that ended it does not: where it
 * should, it is the first to be fed. After a failure only text_run_free may follow. */
struct text_run;
struct text_run *text_run_new(const struct generation *g, struct err *err);
void text_run_free(struct text_run *run);
bool text_run_feed(struct text_run *run, const int32_t *ids, int64_t n,
                   struct err *err); /* n >= 1 */
bool text_run_write(struct text_run *run, struct err *err);

/* Of the last text_run_write, a failed one too: tokens written, without an end token; and why it
 * ended. */
int64_t text_run_written(const struct text_run *run);
enum text_end text_run_end(const struct text_run *run);

#endif
