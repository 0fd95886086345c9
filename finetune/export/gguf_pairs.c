#include "finetune/export/gguf_pairs.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "finetune/export/gguf_names.h"

/* Where the next expert's module of the same kind is; 0 when `first` is no expert's. */
static int64_t find_stride(const struct lora_module *modules, int64_t n, int64_t first)
{
    const struct lora_module *m = &modules[first];
    if (m->expert < 0 || m->n_expert < 2)
        return 0;
    for (int64_t i = first + 1; i < n; i++) {
        if (modules[i].kind == m->kind && modules[i].expert == 1)
            return i - first;
    }
    return 0;
}

/* The pair of modules[i], into *pair; false when it is not adapted. */
static bool make_pair(const struct lora_module *modules, int64_t n,
                      const struct lora_choice *choices, int64_t i, struct gguf_pair *pair)
{
    const struct lora_module *m = &modules[i];
    const int64_t n_expert = m->expert < 0 ? 0 : m->n_expert;
    char path[sizeof m->path + 8];
    *pair = (struct gguf_pair){ .in = m->in,
                                .out = m->out,
                                .n_expert = n_expert,
                                .embedding = m->kind == LORA_EMBED_TOKENS,
                                .first = i,
                                .stride = find_stride(modules, n, i) };
    for (int64_t e = 0; e < (n_expert > 0 ? n_expert : 1); e++) {
        const struct lora_choice *c = &choices[i + e * pair->stride];
        if (c->on && c->r > pair->rank)
            pair->rank = c->r;
    }
    snprintf(path, sizeof path, "%s.weight", m->path);
    const bool known = gguf_tensor_name(path, pair->name);
    assert(known && "a module that llama.cpp has no name for");
    (void)known;
    return pair->rank > 0;
}

/* ---- alpha ---- */

/* What alpha would have to be for this module's B to stay as it is; 0 when its delta is. */
static double wanted_alpha(const struct gguf_pair *pair, const struct lora_choice *choice)
{
    return choice->on ? choice->scale * (double)pair->rank : 0;
}

struct candidate {
    double alpha;
    int64_t n;
};

static void visit_alphas(const struct gguf_pairs *pairs, const struct lora_choice *choices,
                         struct candidate *like)
{
    for (int64_t i = 0; i < pairs->n; i++) {
        const struct gguf_pair *pair = &pairs->pair[i];
        for (int64_t e = 0; e < (pair->n_expert > 0 ? pair->n_expert : 1); e++) {
            const double alpha = wanted_alpha(pair, &choices[pair->first + e * pair->stride]);
            if (fabs(alpha - like->alpha) <= 1e-9 * fabs(like->alpha))
                like->n++;
        }
    }
}

/* The alpha that most modules want, as far as a float can hold it. Never 0, which llama.cpp takes
 * for "do not scale". */
static float choose_alpha(const struct gguf_pairs *pairs, const struct lora_choice *choices)
{
    struct candidate best = { .alpha = 1 };
    visit_alphas(pairs, choices, &best);
    for (int64_t i = 0; i < pairs->n; i++) {
        const struct gguf_pair *pair = &pairs->pair[i];
        for (int64_t e = 0; e < (pair->n_expert > 0 ? pair->n_expert : 1); e++) {
            struct candidate c = { .alpha = wanted_alpha(
                                       pair, &choices[pair->first + e * pair->stride]) };
            const double size = fabs(c.alpha);
            if (!(size > 1e-30 && size < 1e30) || fabs(c.alpha - best.alpha) <= 1e-9 * size)
                continue; /* counted already, or no number for a float */
            visit_alphas(pairs, choices, &c);
            if (c.n > best.n)
                best = c;
        }
    }
    return (float)best.alpha;
}

double gguf_pair_factor(const struct gguf_pairs *pairs, const struct gguf_pair *pair,
                        const struct lora_choice *choice)
{
    return choice->scale * (double)pair->rank / (double)pairs->alpha;
}

/* ---- the plan ---- */

static void count(struct gguf_pairs *pairs, const struct lora_choice *choices)
{
    for (int64_t i = 0; i < pairs->n; i++) {
        const struct gguf_pair *pair = &pairs->pair[i];
        for (int64_t e = 0; e < (pair->n_expert > 0 ? pair->n_expert : 1); e++) {
            const struct lora_choice *c = &choices[pair->first + e * pair->stride];
            pairs->n_missing += !c->on;
            pairs->n_padded += c->on && c->r < pair->rank;
            pairs->n_folded += c->on && fabs(gguf_pair_factor(pairs, pair, c) - 1) > 1e-6;
        }
    }
}

bool gguf_pairs_plan(const struct lora_module *modules, int64_t n,
                     const struct lora_choice *choices, const char *place, struct gguf_pairs *out,
                     struct err *err)
{
    *out = (struct gguf_pairs){ .pair = calloc((size_t)n + 1, sizeof *out->pair) };
    if (out->pair == NULL)
        return err_no_memory(err, "the list of tensors");
    for (int64_t i = 0; i < n; i++) {
        if (modules[i].expert <= 0 && make_pair(modules, n, choices, i, &out->pair[out->n]))
            out->n++;
    }
    if (out->n == 0) {
        gguf_pairs_free(out);
        return err_set(err, ERR_DATA, "%s: adapts nothing; there is nothing to export", place);
    }
    out->alpha = choose_alpha(out, choices);
    count(out, choices);
    return true;
}

void gguf_pairs_free(struct gguf_pairs *pairs)
{
    free(pairs->pair);
    *pairs = (struct gguf_pairs){ 0 };
}

int gguf_pair_tensor(const struct gguf_pair *pair, enum gguf_part part,
                     char name[GGUF_NAME_SIZE + 8], int64_t dims[3])
{
    const bool a = part == GGUF_LORA_A;
    int n = 0;
    snprintf(name, GGUF_NAME_SIZE + 8, "%s%s", pair->name, a ? ".lora_a" : ".lora_b");
    if (pair->n_expert > 0)
        dims[n++] = pair->n_expert;
    if (a && !pair->embedding) {
        dims[n++] = pair->rank;
        dims[n++] = pair->in;
    } else {
        dims[n++] = a ? pair->in : pair->out;
        dims[n++] = pair->rank;
    }
    return n;
}
