/* What cuDNN is called for, chunk by chunk.
 *
 * A chunk's documents become calls. The one that continues from earlier chunks is a call of its
 * own: its queries against all its keys so far, the diagonal at the bottom right. Those that start
 * in the chunk are sorted by length, in powers of two, and go together with others of their length
 * (the last may go on in the next chunk: its queries so far against its keys so far). Plans are for
 * bounds, so that a run builds few of them (each takes about a second), once: powers of two of
 * tokens, and for each length one number of documents, of which some may be empty; lengths and
 * places are data (ragged tensors, struct sdpa_tables).
 *
 * The forward is a call for each; the backward of a call is cut further until it fits the memory
 * set aside (sdpa_sizes.h): in fixed order cuDNN keeps dS, 2 b h s_q s_kv bytes, which for
 * documents of unlike length in one call would be (number) x (longest)^2. Each call gives dk and dv
 * in bf16, which are added to the stream's f32 in the order of calls.
 *
 * Not for cuDNN, but for our own kernels: f32, head dims that are no multiple of 8, pointers that
 * are not aligned, work too small to be worth a plan, chunks without documents told, and whatever
 * cuDNN refuses (on Ampere it has no backward over ragged documents in fixed order): what was
 * refused once is not asked for again, and is counted (struct cuda_attention_calls). All plans of a
 * chunk are found before anything is queued.
 */
#include "kernels/cuda/sdpa.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/core/act.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/sdpa_graph.h"
#include "kernels/cuda/sdpa_sizes.h"

struct entry {
    struct sdpa_shape shape;
    struct sdpa_plan *plan; /* NULL: refused */
    char *why;              /* then; NULL when memory ran out */
};

struct cuda_sdpa {
    struct sdpa_engine *engine; /* NULL: cuDNN is too old */
    struct entry *entry;
    int64_t n_entry, cap;
    struct cuda_attention_calls calls;
};

/* ---- opening ---- */

bool cuda_sdpa_open(struct cuda_state *s, struct err *err)
{
    const size_t version = sdpa_library_version();
    if (s->options.act != DTYPE_BF16 || version == 0)
        return true;
    struct cuda_sdpa *sdpa = calloc(1, sizeof *sdpa);
    if (sdpa == NULL)
        return err_no_memory(err, "attention plans");
    s->sdpa = sdpa;
    if (version < CUDA_OLDEST_CUDNN)
        return true;
    sdpa->engine = sdpa_engine_open(s->stream, err);
    return sdpa->engine != NULL;
}

void cuda_sdpa_close(struct cuda_sdpa *sdpa)
{
    if (sdpa == NULL)
        return;
    for (int64_t i = 0; i < sdpa->n_entry; i++) {
        sdpa_plan_free(sdpa->entry[i].plan);
        free(sdpa->entry[i].why);
    }
    free(sdpa->entry);
    sdpa_engine_close(sdpa->engine);
    free(sdpa);
}

size_t cuda_sdpa_version(void)
{
    return sdpa_library_version();
}

void cuda_attention_calls(struct device *d, struct cuda_attention_calls *out)
{
    const struct cuda_sdpa *sdpa = ((struct cuda_state *)(void *)d)->sdpa;
    *out = sdpa == NULL ? (struct cuda_attention_calls){ 0 } : sdpa->calls;
}

/* Counts a call that was work for cuDNN. */
static bool count(struct cuda_sdpa *sdpa, bool taken)
{
    if (taken)
        sdpa->calls.taken++;
    else
        sdpa->calls.refused++;
    return taken;
}

/* Why the call at hand will be refused. False. */
static bool refuse(struct cuda_sdpa *sdpa, const char *why)
{
    snprintf(sdpa->calls.why, sizeof sdpa->calls.why, "%s", why);
    return false;
}

/* ---- plans ---- */

static struct entry *new_entry(struct cuda_sdpa *sdpa)
{
    if (sdpa->n_entry == sdpa->cap) {
        const int64_t cap = sdpa->cap == 0 ? 16 : 2 * sdpa->cap;
        struct entry *grown = realloc(sdpa->entry, (size_t)cap * sizeof *grown);
        if (grown == NULL)
            return NULL;
        sdpa->entry = grown;
        sdpa->cap = cap;
    }
    return &sdpa->entry[sdpa->n_entry++];
}

/* NULL when memory ran out. */
static struct entry *build_entry(struct cuda_sdpa *sdpa, const struct sdpa_shape *shape)
{
    struct err err = { 0 };
    struct sdpa_graph *graph = malloc(sizeof *graph);
    struct entry *e = graph == NULL ? NULL : new_entry(sdpa);
    if (e != NULL) {
        sdpa_graph_build(shape, graph);
        *e = (struct entry){ .shape = *shape };
        e->plan = sdpa_plan_build(sdpa->engine, graph, !shape->backward || shape->deterministic,
                                  sdpa_workspace_bytes(shape), &err);
        if (e->plan == NULL)
            e->why = strdup(err.text);
    }
    free(graph);
    return e;
}

/* The plan for a shape, built when it is met first; NULL: cuDNN does not take it. */
static struct sdpa_plan *find_plan(struct cuda_sdpa *sdpa, const struct sdpa_shape *shape)
{
    const struct entry *e = NULL;
    for (int64_t i = 0; i < sdpa->n_entry && e == NULL; i++) {
        if (memcmp(&sdpa->entry[i].shape, shape, sizeof *shape) == 0)
            e = &sdpa->entry[i];
    }
    if (e == NULL)
        e = build_entry(sdpa, shape);
    if (e == NULL || e->plan == NULL)
        refuse(sdpa, e == NULL || e->why == NULL ? "out of memory" : e->why);
    return e == NULL ? NULL : e->plan;
}

/* ---- calls ---- */

/* One pass over a chunk's documents: to find the plans, or to queue the calls. */
struct run {
    struct backend *be;
    struct cuda_sdpa *sdpa;
    const struct attention_args *a;
    struct sdpa_shape whole; /* all heads; what the budget is for */
    size_t budget;
    char *scratch;
    bool queue;
};

/* Scratch handed out from the front. */
static void *take(char **scratch, size_t bytes)
{
    void *p = *scratch;
    *scratch += sdpa_align(bytes);
    return p;
}

/* Queues a plan. After a failure, which sticks, nothing matters any more. */
static void run_plan(const struct run *r, const struct sdpa_plan *plan, void *const *bound,
                     void *workspace)
{
    struct err err = { 0 };
    if (!sdpa_plan_run(r->sdpa->engine, plan, bound, workspace, &err))
        cuda_fail(r->be, r->whole.backward ? "attention_backward" : "attention_forward", err.text);
}

/* An input as cuDNN takes it: it asks for pointers to what it may write. */
static void *input(const struct backend *be, const struct act *x, int64_t at)
{
    const struct act *p = act_in(be, x, at);
    void *out;
    memcpy(&out, &p, sizeof out);
    return out;
}

static void bind_tables(struct sdpa_tables *t, void **bound)
{
    bound[SDPA_LEN_Q] = t->len_q;
    bound[SDPA_LEN_K] = t->len_k;
    bound[SDPA_AT_Q] = t->at_q;
    bound[SDPA_AT_K] = t->at_k;
    bound[SDPA_AT_DK] = t->at_dk;
}

/* From the call's heads `head` on. */
static void bind_inputs(const struct run *r, int64_t head, void **bound)
{
    const struct attention_args *a = r->a;
    const int64_t q = head * a->d_head, k = head / (a->n_head / a->n_kv) * a->d_head;
    bound[SDPA_Q] = input(r->be, a->q, q);
    bound[SDPA_K] = input(r->be, a->k, k);
    bound[SDPA_V] = input(r->be, a->v, k);
    bound[SDPA_O] = act_at(r->be, a->o, q);
}

static bool forward_call(const struct run *r, const struct sdpa_docs *docs,
                         const struct sdpa_shape *s)
{
    const struct sdpa_plan *plan = find_plan(r->sdpa, s);
    if (plan == NULL || !r->queue)
        return plan != NULL;
    char *scratch = r->scratch;
    struct sdpa_tables *tables = take(&scratch, sdpa_tables_bytes());
    float *stats = take(&scratch, sdpa_stats_bytes(s));
    void *bound[SDPA_N_BOUND] = { [SDPA_STATS] = stats };
    bind_tables(tables, bound);
    bind_inputs(r, 0, bound);
    cuda_sdpa_write_tables(r->be, docs, s, tables);
    run_plan(r, plan, bound, scratch);
    cuda_sdpa_scatter_stats(r->be, r->a, s, tables, stats);
    return true;
}

static int64_t keys_of(const struct sdpa_docs *docs)
{
    int64_t n = 0;
    for (int32_t i = 0; i < docs->n; i++)
        n += docs->n_k[i];
    return n;
}

/* All heads, as many at a time as the shape has. */
static bool backward_call(const struct run *r, const struct sdpa_docs *docs,
                          const struct sdpa_shape *s)
{
    const struct attention_args *a = r->a;
    const struct sdpa_plan *plan = find_plan(r->sdpa, s);
    if (plan == NULL || !r->queue)
        return plan != NULL;
    char *scratch = r->scratch;
    struct sdpa_tables *tables = take(&scratch, sdpa_tables_bytes());
    float *stats = take(&scratch, sdpa_stats_bytes(s));
    void *bound[SDPA_N_BOUND] = { [SDPA_STATS] = stats };
    bind_tables(tables, bound);
    bound[SDPA_SOFTMAX_SUM] = take(&scratch, sdpa_stats_bytes(s));
    bound[SDPA_DK] = take(&scratch, sdpa_dk_bytes(s));
    bound[SDPA_DV] = take(&scratch, sdpa_dk_bytes(s));
    if (!s->deterministic)
        bound[SDPA_DQ_SUM] = take(&scratch, sdpa_dq_sum_bytes(s));
    cuda_sdpa_write_tables(r->be, docs, s, tables);
    for (int64_t head = 0; head < a->n_head; head += s->n_head) {
        bind_inputs(r, head, bound);
        bound[SDPA_D_O] = input(r->be, a->d_o, head * a->d_head);
        bound[SDPA_DQ] = act_at(r->be, a->dq, head * a->d_head);
        cuda_sdpa_gather_stats(r->be, a, head, s, tables, stats);
        run_plan(r, plan, bound, scratch);
        cuda_sdpa_add_keys(r->be, a, head / (a->n_head / a->n_kv), docs->n, keys_of(docs), s,
                           tables, bound[SDPA_DK], bound[SDPA_DV]);
    }
    return true;
}

/* ---- cutting ---- */

/* Queries from .. to of the only document, and the keys that they see. */
static struct sdpa_docs piece_of(const struct sdpa_docs *docs, int64_t from, int64_t to)
{
    struct sdpa_docs piece = { .n = 1 };
    piece.q_row[0] = docs->q_row[0] + (int32_t)from;
    piece.n_q[0] = (int32_t)(to - from);
    piece.k_row[0] = docs->k_row[0];
    piece.n_k[0] = docs->n_k[0] - (docs->n_q[0] - (int32_t)to);
    return piece;
}

/* Documents of one length, or the one that continues. */
static bool backward_docs(const struct run *r, const struct sdpa_docs *docs,
                          const struct sdpa_shape *cut)
{
    struct sdpa_shape s = *cut;
    if (docs->n > 1 || docs->n_q[0] <= s.s_q)
        return backward_call(r, docs, &s);
    s.bottom_right = 1;
    for (int64_t from = 0; from < docs->n_q[0]; from += cut->s_q) {
        const int64_t to = from + cut->s_q < docs->n_q[0] ? from + cut->s_q : docs->n_q[0];
        const struct sdpa_docs piece = piece_of(docs, from, to);
        s.s_kv = sdpa_tokens_bound(piece.n_k[0]);
        if (!backward_call(r, &piece, &s))
            return false;
    }
    return true;
}

static bool call_docs(const struct run *r, const struct sdpa_docs *docs,
                      const struct sdpa_shape *cut)
{
    return r->whole.backward ? backward_docs(r, docs, cut) : forward_call(r, docs, cut);
}

/* What the chunk's backward has scratch for. */
static bool cut_to_budget(const struct run *r, struct sdpa_shape *s)
{
    return !r->whole.backward || sdpa_cut(s, r->budget) ||
           refuse(r->sdpa, "too little scratch for the smallest call");
}

/* The chunk's part of document i, rows of the chunk and of the stream; 0 queries when it has none
 * that starts there. */
static void add_document(const struct run *r, int64_t i, struct sdpa_docs *docs)
{
    const struct attention_args *a = r->a;
    const int64_t end = a->t0 + a->n_tok, start = a->doc_start[i];
    const int64_t first = start > a->t0 ? start : a->t0;
    const int64_t last = a->doc_start[i + 1] < end ? a->doc_start[i + 1] : end;
    docs->q_row[docs->n] = (int32_t)(first - a->t0);
    docs->n_q[docs->n] = (int32_t)(last - first);
    docs->k_row[docs->n] = (int32_t)start;
    docs->n_k[docs->n] = (int32_t)(last - start);
    docs->n++;
}

/* Whether document i has queries in the chunk, and all its keys; their number. */
static int64_t starting_tokens(const struct run *r, int64_t i)
{
    const struct attention_args *a = r->a;
    const int64_t end = a->t0 + a->n_tok, start = a->doc_start[i];
    const int64_t last = a->doc_start[i + 1] < end ? a->doc_start[i + 1] : end;
    return start >= a->t0 && last > start ? last - start : 0;
}

static bool continuing_document(const struct run *r)
{
    const struct attention_args *a = r->a;
    struct sdpa_docs docs = { 0 };
    if (a->doc_start[0] >= a->t0 || a->doc_start[1] <= a->t0)
        return true;
    add_document(r, 0, &docs);
    struct sdpa_shape s = r->whole;
    s.bottom_right = 1;
    s.s_q = sdpa_tokens_bound(docs.n_q[0]);
    s.s_kv = sdpa_tokens_bound(docs.n_k[0]);
    return cut_to_budget(r, &s) && call_docs(r, &docs, &s);
}

/* The documents that start in the chunk and have more than s / 2 tokens there, s at most: in calls
 * of one shape, whatever their number, the last filled up with empty documents. */
static bool documents_of(const struct run *r, int64_t s)
{
    const int64_t least = s == SDPA_LEAST_TOKENS ? 0 : s / 2;
    int64_t n = 0;
    for (int64_t i = 0; i < r->a->n_doc; i++) {
        const int64_t length = starting_tokens(r, i);
        n += length > least && length <= s;
    }
    if (n == 0)
        return true;
    struct sdpa_shape cut = r->whole;
    cut.s_q = cut.s_kv = s;
    cut.b = sdpa_class_docs(r->a->n_tok, s);
    if (!cut_to_budget(r, &cut))
        return false;
    struct sdpa_docs docs = { 0 };
    for (int64_t i = 0; i < r->a->n_doc; i++) {
        const int64_t length = starting_tokens(r, i);
        if (length <= least || length > s)
            continue;
        add_document(r, i, &docs);
        if (docs.n == cut.b) {
            if (!call_docs(r, &docs, &cut))
                return false;
            docs.n = 0;
        }
    }
    return docs.n == 0 || call_docs(r, &docs, &cut);
}

static bool all_documents(const struct run *r)
{
    bool taken = continuing_document(r);
    for (int64_t s = SDPA_LEAST_TOKENS; taken && s <= r->whole.s_q; s *= 2)
        taken = documents_of(r, s);
    return taken;
}

/* ---- the two ops ---- */

static bool aligned(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

/* Whether the call is work for cuDNN; if so, whether it may be asked. */
static bool is_work(const struct backend *be, const struct attention_args *a)
{
    if (cuda_state_of(be)->sdpa == NULL || be->act != DTYPE_BF16 || a->doc_start == NULL ||
        a->n_doc < 1)
        return false;
    const double keys = (double)(a->t0 + a->n_tok - a->doc_start[0]);
    return keys * (double)(a->n_tok * a->n_head * a->d_head) >= sdpa_least_work();
}

static bool may_ask(struct cuda_sdpa *sdpa, const struct attention_args *a, bool backward)
{
    char why[sizeof sdpa->calls.why];
    const size_t version = sdpa_library_version(), least = CUDA_OLDEST_CUDNN;
    if (sdpa->engine == NULL) {
        snprintf(why, sizeof why, "cuDNN %zu.%zu.%zu is older than %zu.%zu.%zu", version / 10000,
                 version / 100 % 100, version % 100, least / 10000, least / 100 % 100, least % 100);
        return refuse(sdpa, why);
    }
    if (a->d_head % 8 != 0 || a->d_head > ATTENTION_MOST_D_HEAD)
        return refuse(sdpa, "it takes heads of a multiple of 8 dims, up to 256");
    const bool ok =
        aligned(a->q) && aligned(a->k) && aligned(a->v) && aligned(a->o) &&
        (!backward || (aligned(a->d_o) && aligned(a->dq) && aligned(a->dk) && aligned(a->dv)));
    return ok || refuse(sdpa, "it takes rows that are aligned to 16 bytes");
}

static bool find_and_queue(struct run *r)
{
    if (!all_documents(r))
        return false;
    r->queue = true;
    all_documents(r);
    return true;
}

bool cuda_sdpa_forward(struct backend *be, const struct attention_args *a, void *scratch)
{
    if (!is_work(be, a))
        return false;
    struct run r = { .be = be, .sdpa = cuda_state_of(be)->sdpa, .a = a, .scratch = scratch };
    r.whole = sdpa_whole(a->n_tok, a->t0, a->n_head, a->n_kv, a->d_head);
    return count(r.sdpa, may_ask(r.sdpa, a, false) && find_and_queue(&r));
}

bool cuda_sdpa_backward(struct backend *be, const struct attention_args *a, void *scratch)
{
    if (!is_work(be, a))
        return false;
    struct run r = { .be = be, .sdpa = cuda_state_of(be)->sdpa, .a = a, .scratch = scratch };
    r.whole = sdpa_whole(a->n_tok, a->t0, a->n_head, a->n_kv, a->d_head);
    r.whole.backward = 1;
    r.whole.deterministic = !be->nondeterministic;
    r.budget = sdpa_backward_budget(&r.whole);
    if (r.budget > sdpa_most_scratch())
        r.budget = sdpa_most_scratch();
    return count(r.sdpa, may_ask(r.sdpa, a, true) && find_and_queue(&r));
}
