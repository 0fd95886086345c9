/* The layer-major walk. What lies in the saved arena during a pass, in order:
 *   pos, doc, ids, rows with a target and their targets     (n_tok) each
 *   layer inputs                                            (n_layer + 1, n_tok, d_model); one in
 * evaluation per layer: Mamba's conv taps and state at each chunk's start, or attention's K, V, O
 * and lse per layer and chunk: what the policy keeps log-probabilities, and in the backward the
 * running gradient (n_tok, d_model)
 */
#include "finetune/model/jamba.h"

#include <stdlib.h>

#include "finetune/model/head.h"
#include "finetune/model/layer.h"
#include "finetune/model/modules.h"
#include "kernels/core/profile.h"
#include "kernels/ops.h"
#include "lora/embed.h"

static int64_t chunks_of(const struct jamba *m, int64_t n_tok)
{
    return (n_tok + m->chunk_tokens - 1) / m->chunk_tokens;
}

bool jamba_init(struct jamba *m, int64_t max_tok, int64_t max_doc, struct err *err)
{
    const size_t n_tok = (size_t)max_tok, n_expert = (size_t)m->config->num_experts;
    m->max_tok = max_tok;
    m->max_doc = max_doc;
    m->keeps =
        calloc((size_t)(m->config->num_hidden_layers * chunks_of(m, max_tok)), sizeof *m->keeps);
    m->stores = calloc((size_t)m->config->num_hidden_layers, sizeof *m->stores);
    m->pos = calloc(n_tok, sizeof *m->pos);
    m->doc = calloc(n_tok, sizeof *m->doc);
    m->rows = calloc(n_tok, sizeof *m->rows);
    m->row_target = calloc(n_tok, sizeof *m->row_target);
    m->counts = calloc(n_expert + 1, sizeof *m->counts);
    m->host = calloc(n_tok, sizeof *m->host);
    m->doc_start = calloc((size_t)max_doc + 1, sizeof *m->doc_start);
    m->sums = arena_push(m->saved, JAMBA_N_SUM * sizeof *m->sums);
    if (m->keeps != NULL && m->stores != NULL && m->pos != NULL && m->doc != NULL &&
        m->rows != NULL && m->row_target != NULL && m->counts != NULL && m->host != NULL &&
        m->doc_start != NULL)
        return true;
    jamba_free(m);
    return err_no_memory(err, "the model's tables");
}

void jamba_free(struct jamba *m)
{
    free(m->keeps);
    free(m->stores);
    free(m->pos);
    free(m->doc);
    free(m->rows);
    free(m->row_target);
    free(m->counts);
    free(m->host);
    free(m->doc_start);
    m->keeps = NULL;
    m->stores = NULL;
    m->pos = m->doc = m->rows = m->row_target = m->doc_start = NULL;
    m->counts = NULL;
    m->host = NULL;
}

/* ---- a pass ---- */

/* A pass under way: the stream on the device, and where things lie. */
struct walk {
    struct jamba *m;
    const struct stream *s;
    const struct jamba_pass *pass;
    int64_t n_chunk,
        lowest; /* the lowest layer with an adapter in or below it: the backward ends there */
    bool embed_adapted;
    const int32_t *ids, *pos, *doc;
    const int32_t *rows, *target; /* (n_row): those with a target */
    int64_t n_row;
    struct act *x;  /* layer inputs */
    struct act *dx; /* (n_tok, d_model) */
    struct router_sums sums;
    const int32_t *doc_start; /* with sums */
    bool balance;             /* the load-balancing loss is on */
};

static struct block block_at(const struct walk *w, int64_t layer, int64_t chunk)
{
    const struct jamba *m = w->m;
    const int64_t t0 = chunk * m->chunk_tokens, left = w->s->n_tok - t0;
    const int64_t n_tok = left < m->chunk_tokens ? left : m->chunk_tokens;
    const bool measuring = m->saved->measuring;
    const int64_t first_doc = measuring ? 0 : m->doc[t0];
    return (struct block){ .be = m->be,
                           .config = m->config,
                           .w = weights_layer(m->weights, layer),
                           .adapter = m->adapter,
                           .dropout = w->pass->dropout,
                           .layer = layer,
                           .n_tok = n_tok,
                           .t0 = t0,
                           .first_token = w->s->first_index + t0,
                           .pos = w->pos + t0,
                           .doc = w->doc + t0,
                           .doc_start = measuring ? NULL : w->s->doc_start + first_doc,
                           .n_doc = measuring ? n_tok : m->doc[t0 + n_tok - 1] - first_doc + 1,
                           .longest = m->longest,
                           .router = w->balance ? &w->sums : NULL,
                           .counts = m->counts };
}

static struct act *layer_input(const struct walk *w, int64_t layer)
{
    const int64_t n = w->s->n_tok * w->m->config->hidden_size;
    return act_at(w->m->be, w->x, w->pass->backward ? layer * n : 0);
}

/* Row t of layer l's input. */
static struct act *input_row(const struct walk *w, int64_t layer, int64_t t)
{
    return act_at(w->m->be, layer_input(w, layer), t * w->m->config->hidden_size);
}

static struct act *dx_row(const struct walk *w, int64_t t)
{
    return act_at(w->m->be, w->dx, t * w->m->config->hidden_size);
}

static struct layer_store push_store(const struct walk *w, int64_t layer)
{
    const struct jamba_config *c = w->m->config;
    const struct backend *be = w->m->be;
    struct arena *saved = w->m->saved;
    const int64_t n = w->s->n_tok;
    struct layer_store s = { 0 };
    if (jamba_is_attention(c, layer)) {
        s.attention.k = arena_acts(be, saved, n * c->num_key_value_heads * c->d_head);
        s.attention.v = arena_acts(be, saved, n * c->num_key_value_heads * c->d_head);
        s.attention.o = arena_acts(be, saved, n * c->num_attention_heads * c->d_head);
        s.attention.lse = arena_reals(saved, n * c->num_attention_heads);
    } else {
        s.conv = arena_acts(be, saved, (w->n_chunk + 1) * (c->mamba_d_conv - 1) * c->d_inner);
        s.h = arena_reals(saved, (w->n_chunk + 1) * c->mamba_d_state * c->d_inner);
    }
    return s;
}

static struct layer_edge edge_of(const struct walk *w, const struct layer_store *s, int64_t chunk)
{
    const struct jamba_config *c = w->m->config;
    const int64_t n_conv = (c->mamba_d_conv - 1) * c->d_inner, n_h = c->mamba_d_state * c->d_inner;
    struct layer_edge e = { .attention = s->attention };
    if (s->h != NULL)
        e.mamba = (struct mamba_edge){ .conv_in = act_in(w->m->be, s->conv, chunk * n_conv),
                                       .h_in = s->h + chunk * n_h,
                                       .conv_out = act_at(w->m->be, s->conv, (chunk + 1) * n_conv),
                                       .h_out = s->h + (chunk + 1) * n_h };
    return e;
}

static void zero_reals(const struct jamba *m, real *x, int64_t n)
{
    op_zero(m->be, &(struct zero_args){ .y = x, .bytes = (size_t)n * sizeof *x });
}

static void zero_acts(const struct jamba *m, struct act *x, int64_t n)
{
    op_zero(m->be, &(struct zero_args){ .y = x, .bytes = act_bytes(m->be, n) });
}

/* The stream starts from an empty state: the first chunk's first token begins a document and reads
 * none, but what is carried through untouched must be defined. */
static void zero_first_edge(const struct walk *w, const struct layer_store *s)
{
    const struct jamba_config *c = w->m->config;
    if (s->h == NULL)
        return;
    zero_acts(w->m, s->conv, (c->mamba_d_conv - 1) * c->d_inner);
    zero_reals(w->m, s->h, c->mamba_d_state * c->d_inner);
}

/* Which of a keep's classes outlive the forward. */
static bool keeps_gemm(const struct walk *w)
{
    return w->pass->backward && w->m->recompute != RECOMPUTE_LAYER;
}

static bool keeps_rest(const struct walk *w)
{
    return w->pass->backward && w->m->recompute == RECOMPUTE_NONE;
}

static struct block_keep *keep_of(const struct walk *w, int64_t layer, int64_t chunk)
{
    return &w->m->keeps[layer * w->n_chunk + chunk];
}

static void forward_chunk(const struct walk *w, const struct layer_store *store, int64_t layer,
                          int64_t chunk)
{
    struct jamba *m = w->m;
    struct block b = block_at(w, layer, chunk);
    const size_t mark = arena_mark(m->be->scratch);
    const bool needed = layer >= w->lowest;
    b.states = needed && keeps_rest(w);
    struct block_keep *k = keep_of(w, layer, chunk);
    layer_keep_gemm(&b, k, needed && keeps_gemm(w) ? m->saved : m->be->scratch);
    layer_keep_rest(&b, k, needed && keeps_rest(w) ? m->saved : m->be->scratch);
    const struct layer_edge edge = edge_of(w, store, chunk);
    const int64_t next = w->pass->backward ? layer + 1 : layer;
    layer_forward(&b, k, &edge, input_row(w, layer, b.t0), input_row(w, next, b.t0));
    arena_rewind(m->be->scratch, mark);
}

static void backward_chunk(const struct walk *w, const struct layer_store *store, int64_t layer,
                           int64_t chunk, const struct layer_dedge *dedge)
{
    struct jamba *m = w->m;
    struct block b = block_at(w, layer, chunk);
    const size_t mark = arena_mark(m->be->scratch);
    struct block_keep *k = keep_of(w, layer, chunk);
    const struct layer_edge edge = edge_of(w, store, chunk);
    b.states = true;
    const struct act *x = input_row(w, layer, b.t0);
    if (!keeps_gemm(w))
        layer_keep_gemm(&b, k, m->be->scratch);
    if (!keeps_rest(w)) {
        layer_keep_rest(&b, k, m->be->scratch);
        layer_recompute(&b, k, &edge, x, keeps_gemm(w));
    }
    layer_backward(&b, k, &edge, dedge, x, dx_row(w, b.t0));
    arena_rewind(m->be->scratch, mark);
}

static void backward_layer(const struct walk *w, const struct layer_store *store, int64_t layer)
{
    const struct jamba_config *c = w->m->config;
    struct arena *scratch = w->m->be->scratch;
    const size_t mark = arena_mark(scratch);
    struct layer_dedge d = { 0 };
    if (jamba_is_attention(c, layer)) {
        const int64_t n = w->s->n_tok * c->num_key_value_heads * c->d_head;
        zero_reals(w->m, d.dk = arena_reals(scratch, n), n);
        zero_reals(w->m, d.dv = arena_reals(scratch, n), n);
    } else {
        const int64_t n_conv = (c->mamba_d_conv - 1) * c->d_inner,
                      n_h = c->mamba_d_state * c->d_inner;
        zero_reals(w->m, d.mamba.dconv = arena_reals(scratch, n_conv), n_conv);
        zero_reals(w->m, d.mamba.dstate = arena_reals(scratch, n_h), n_h);
    }
    for (int64_t chunk = w->n_chunk - 1; chunk >= 0; chunk--)
        backward_chunk(w, store, layer, chunk, &d);
    arena_rewind(scratch, mark);
}

/* ---- the ends ---- */

static struct embed_lookup embed_chunk(const struct walk *w, int64_t chunk, struct act *y)
{
    const struct block b = block_at(w, 0, chunk);
    struct act *row = act_at(w->m->be, y, b.t0 * w->m->config->hidden_size);
    return (struct embed_lookup){ .w = weights_embedding(w->m->weights),
                                  .lora = w->m->adapter == NULL
                                              ? NULL
                                              : lora_adapter_slot(w->m->adapter, 0),
                                  .ids = w->ids + b.t0,
                                  .y = row,
                                  .dy = row,
                                  .n_row = b.n_tok,
                                  .pad_id = w->m->config->pad_token_id };
}

/* Host arrays of the stream: positions, documents, rows with a target. A measuring run has no data:
 * every row has a target there, the bound. */
static int64_t read_stream(struct jamba *m, const struct stream *s)
{
    if (m->saved->measuring)
        return s->n_tok;
    int64_t n_row = 0;
    for (int64_t d = 0; d < s->n_doc; d++) {
        for (int64_t t = s->doc_start[d]; t < s->doc_start[d + 1]; t++) {
            m->pos[t] = (int32_t)(t - s->doc_start[d]);
            m->doc[t] = (int32_t)d;
            if (s->targets[t] < 0)
                continue;
            m->rows[n_row] = (int32_t)t;
            m->row_target[n_row++] = s->targets[t];
        }
    }
    return n_row;
}

/* Copies n ints to the saved arena, in room for `cap` of them. */
static int32_t *push_ints(struct jamba *m, const int32_t *from, int64_t n, int64_t cap)
{
    int32_t *to = arena_push(m->saved, (size_t)cap * sizeof *to);
    if (!m->saved->measuring)
        op_to_device(
            m->be, &(struct copy_args){ .from = from, .to = to, .bytes = (size_t)n * sizeof *to });
    return to;
}

/* The stream to the device. */
static void push_stream(struct walk *w)
{
    struct jamba *m = w->m;
    const int64_t n = w->s->n_tok;
    const enum profile_block before = profile_enter(m->be->profile, PROFILE_DATA);
    w->n_row = read_stream(m, w->s);
    w->ids = push_ints(m, w->s->ids, n, n);
    w->pos = push_ints(m, m->pos, n, n);
    w->doc = push_ints(m, m->doc, n, n);
    w->rows = push_ints(m, m->rows, w->n_row, n);
    w->target = push_ints(m, m->row_target, w->n_row, n);
    profile_leave(m->be->profile, before);
}

static void run_head(const struct walk *w, real *logprob)
{
    struct jamba *m = w->m;
    const enum profile_block before = profile_enter(m->be->profile, PROFILE_HEAD);
    struct block b = block_at(w, 0, 0);
    b.first_token = w->s->first_index;
    b.router = NULL;
    head_run(&b, &(struct head_args){
                     .w = weights_head(m->weights),
                     .norm = weights_final_norm(m->weights),
                     .x = layer_input(w, m->config->num_hidden_layers),
                     .rows = w->rows,
                     .target = w->target,
                     .n_row = w->n_row,
                     .block_rows = head_block_rows(m->be, m->config->vocab_size, w->s->n_tok),
                     .logprob = logprob,
                     .grad_scale = w->pass->backward ? w->pass->grad_scale : 0,
                     .dx = w->dx });
    op_add_sum(m->be,
               &(struct add_sum_args){
                   .x = logprob, .sum = &m->sums[JAMBA_SUM_LOSS], .scale = -1, .n = w->n_row });
    profile_leave(m->be->profile, before);
}

/* The lowest layer whose modules, or anything below, are adapted: nothing under it needs a
 * gradient. */
static void find_lowest(struct walk *w)
{
    const struct lora_adapter *a = w->m->adapter;
    w->lowest = w->m->config->num_hidden_layers;
    for (int64_t i = 0; a != NULL && i < a->n_slot; i++) {
        const struct lora_module *module = a->slots[i].module;
        if (module->kind == LORA_EMBED_TOKENS)
            w->embed_adapted = true;
        else if (module->layer >= 0 && module->layer < w->lowest)
            w->lowest = module->layer;
    }
    if (w->embed_adapted)
        w->lowest = 0;
}

/* ---- the load-balancing loss ----
 * Of one document alone, over all its MoE layers (op aux_loss has the formula); weighted by length
 * over the step's tokens, times the coefficient. */

static int64_t moe_layers(const struct jamba_config *c)
{
    int64_t n = 0;
    for (int64_t l = 0; l < c->num_hidden_layers; l++)
        n += jamba_is_moe(c, l);
    return n;
}

static void push_sums(struct walk *w)
{
    struct jamba *m = w->m;
    const int64_t n = m->max_doc * m->config->num_experts;
    for (int64_t d = 0; d <= w->s->n_doc && !m->saved->measuring; d++)
        m->doc_start[d] = (int32_t)w->s->doc_start[d];
    w->doc_start = push_ints(m, m->doc_start, w->s->n_doc + 1, m->max_doc + 1);
    zero_reals(m, w->sums.f = arena_reals(m->saved, n), n);
    zero_reals(m, w->sums.psum = arena_reals(m->saved, n), n);
    w->sums.scale = arena_reals(m->saved, m->max_doc);
}

/* The loss of the pass to the step's sum, and the scales of its gradient. */
static void finish_sums(const struct walk *w)
{
    struct jamba *m = w->m;
    const enum profile_block before = profile_enter(m->be->profile, PROFILE_MOE);
    op_aux_loss(m->be, &(struct aux_loss_args){ .f = w->sums.f,
                                                .psum = w->sums.psum,
                                                .doc_start = w->doc_start,
                                                .scale = w->sums.scale,
                                                .sum = &m->sums[JAMBA_SUM_AUX],
                                                .aux_scale = w->pass->aux_scale,
                                                .n_doc = w->s->n_doc,
                                                .n_expert = m->config->num_experts,
                                                .n_layer = moe_layers(m->config) });
    profile_leave(m->be->profile, before);
}

/* ---- the walk ---- */

static void embed_forward(const struct walk *w)
{
    const enum profile_block before = profile_enter(w->m->be->profile, PROFILE_HEAD);
    for (int64_t chunk = 0; chunk < w->n_chunk; chunk++) {
        const struct embed_lookup e = embed_chunk(w, chunk, w->x);
        embed_lookup_forward(w->m->be, &e);
    }
    profile_leave(w->m->be->profile, before);
}

static void embed_backward(const struct walk *w)
{
    const enum profile_block before = profile_enter(w->m->be->profile, PROFILE_HEAD);
    for (int64_t chunk = 0; w->embed_adapted && chunk < w->n_chunk; chunk++) {
        const struct embed_lookup e = embed_chunk(w, chunk, w->dx);
        embed_lookup_backward(w->m->be, &e);
    }
    profile_leave(w->m->be->profile, before);
}

static void forward(struct walk *w)
{
    struct jamba *m = w->m;
    embed_forward(w);
    for (int64_t layer = 0; layer < m->config->num_hidden_layers; layer++) {
        const size_t mark = arena_mark(m->saved);
        const struct layer_store store = push_store(w, layer);
        zero_first_edge(w, &store);
        for (int64_t chunk = 0; chunk < w->n_chunk; chunk++)
            forward_chunk(w, &store, layer, chunk);
        if (w->pass->backward && layer >= w->lowest)
            m->stores[layer] = store;
        else
            arena_rewind(m->saved, mark);
    }
}

static void backward(struct walk *w)
{
    struct jamba *m = w->m;
    for (int64_t layer = m->config->num_hidden_layers - 1; layer >= w->lowest; layer--)
        backward_layer(w, &m->stores[layer], layer);
    embed_backward(w);
}

/* The targets' log-probabilities to the host: waits. */
static void read_result(const struct walk *w, const real *logprob, struct jamba_result *r)
{
    struct jamba *m = w->m;
    op_to_host(m->be, &(struct copy_args){ .from = logprob,
                                           .to = m->host,
                                           .bytes = (size_t)w->n_row * sizeof(real) });
    for (int64_t i = 0; i < w->n_row; i++)
        r->loss_sum -= (double)m->host[i];
    r->logprob = m->host;
    r->rows = m->rows;
    r->n_row = w->n_row;
}

void jamba_begin_step(struct jamba *m)
{
    op_zero(m->be, &(struct zero_args){ .y = m->sums, .bytes = JAMBA_N_SUM * sizeof *m->sums });
}

struct jamba_losses jamba_end_step(struct jamba *m)
{
    double sums[JAMBA_N_SUM] = { 0 };
    op_to_host(m->be, &(struct copy_args){ .from = m->sums, .to = sums, .bytes = sizeof sums });
    return (struct jamba_losses){ .loss_sum = sums[JAMBA_SUM_LOSS],
                                  .aux_sum = sums[JAMBA_SUM_AUX] };
}

void jamba_run(struct jamba *m, const struct stream *s, const struct jamba_pass *pass,
               struct jamba_result *result)
{
    if (result != NULL)
        *result = (struct jamba_result){ 0 };
    const size_t mark = arena_mark(m->saved);
    const int64_t n = s->n_tok, d_model = m->config->hidden_size,
                  n_layer = m->config->num_hidden_layers;
    struct walk w = { .m = m, .s = s, .pass = pass, .n_chunk = chunks_of(m, n) };
    find_lowest(&w);
    w.balance = pass->aux_scale != 0 && moe_layers(m->config) > 0;
    push_stream(&w);
    w.x = arena_acts(m->be, m->saved, (pass->backward ? n_layer + 1 : 1) * n * d_model);
    if (w.balance)
        push_sums(&w);
    forward(&w);
    real *logprob = arena_reals(m->saved, n);
    if (pass->backward) {
        w.dx = arena_acts(m->be, m->saved, n * d_model);
        zero_acts(m, w.dx, n * d_model);
    }
    run_head(&w, logprob);
    if (w.balance)
        finish_sums(&w);
    if (pass->backward)
        backward(&w);
    if (result != NULL && !m->saved->measuring)
        read_result(&w, logprob, result);
    arena_rewind(m->saved, mark);
}
