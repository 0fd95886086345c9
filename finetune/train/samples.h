/* Texts continued by the model under training, at each evaluation: the recipe's sample_prompts,
 * greedily, up to sample_max_tokens.
 *
 *     struct samples s = { 0 };
 *     ok = samples_open(&s, recipe, &engine, tokenizer, err);     // before the plan
 *     subject.sample_tokens = samples_tokens(&s);                 // of struct plan_subject
 *     ... engine_allocate ...
 *     ok = samples_run(&s, 0, watch->stop, each, context, err);   // between passes, any time
 *     samples_free(&s);
 *
 * Nothing of the run is touched: a sample runs in the engine's scratch and `saved` arenas, which
 * are empty between passes, the sequence's state included, so the plan holds it. Greedy: the same
 * adapter, the same text.
 */
#ifndef FINETUNE_TRAIN_SAMPLES_H
#define FINETUNE_TRAIN_SAMPLES_H

#include <signal.h>

#include "finetune/generate/text.h"
#include "recipes/recipe.h"

struct samples {
    struct engine *engine;             /* borrowed, as are the next two */
    const struct tokenizer *tokenizer; /* NULL only without prompts */
    const struct recipe *recipe;
    struct end_tokens end;
    struct token_list *prompts; /* (n): recipe->sample_prompts in tokens */
    int64_t n;
};

struct sample {
    const char *prompt; /* as in the recipe */
    const char *text;   /* what followed, n_byte long and ended by a NUL beside */
    size_t n_byte;
    int64_t n_token;
    const char *end; /* "eos"; "length"; "nonfinite": the model's logits were no numbers */
};

/* False, with err set, ends samples_run. */
typedef bool samples_each(void *context, const struct sample *s, struct err *err);

/* e after engine_open; t: the base's, or NULL when it has none, which with prompts is an error. A
 * prompt longer than sequence_len is one too. Messages begin with the key ("sample_prompts: ..."),
 * for recipe_add_place. Without sample_prompts: true, and samples_run does nothing. */
bool samples_open(struct samples *s, const struct recipe *r, struct engine *e,
                  const struct tokenizer *t, struct err *err);
void samples_free(struct samples *s);

/* Tokens of the longest text there will be, for struct plan_subject.sample_tokens: 0 without
 * prompts. samples_bound is an upper bound from the recipe alone. */
int64_t samples_tokens(const struct samples *s);
int64_t samples_bound(const struct recipe *r);

/* Each prompt's text to `each`, in order, from prompt `from` on. A raised stop (NULL: none) ends
 * it, without an error and without the text under way; it is polled before each token. */
bool samples_run(struct samples *s, int64_t from, const volatile sig_atomic_t *stop,
                 samples_each *each, void *context, struct err *err);

#endif
