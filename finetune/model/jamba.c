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
    m->host_sums = calloc(2 * (size_t)max_doc * n_expert, sizeof *m->host_sums);
    if (m->keeps != NULL && m->stores != NULL && m->pos != NULL && m->doc != NULL &&
        m->rows != NULL && m->row_target != NULL && m->counts != NULL && m->host != NULL &&
        m->host_sums != NULL)
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
    free(m->host_sums);
    m->keeps = NULL;
    m->stores = NULL;
    m->pos = m->doc = m->rows = m->row_target = NULL;
    m->counts = NULL;
    m->host = m->host_sums = NULL;
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
    real *x;  /* layer inputs */
    real *dx; /* (n_tok, d_model) */
    struct router_sums sums;
    bool balance; /* the load-balancing loss is on */
};

static struct block block_at(const struct walk *w, int64_t layer, int64_t chunk)
{
    const struct jamba *m = w->m;
    const int64_t t0 = chunk * m->chunk_tokens, left = w->s->n_tok - t0;
    return (struct block){ .be = m->be,
                           .config = m->config,
                           .w = weights_layer(m->weights, layer),
                           .adapter = m->adapter,
                           .dropout = w->pass->dropout,
                           .layer = layer,
                           .n_tok = left < m->chunk_tokens ? left : m->chunk_tokens,
                           .t0 = t0,
                           .first_token = w->s->first_index + t0,
                           .pos = w->pos + t0,
                           .doc = w->doc + t0,
                           .router = w->balance ? &w->sums : NULL,
                           .counts = m->counts };
}

static real *layer_input(const struct walk *w, int64_t layer)
{
    const int64_t n = w->s->n_tok * w->m->config->hidden_size;
    return w->pass->backward ? w->x + layer * n : w->x;
}

static struct layer_store push_store(const struct walk *w, int64_t layer)
{
    const struct jamba_config *c = w->m->config;
    struct arena *saved = w->m->saved;
    const int64_t n = w->s->n_tok;
    struct layer_store s = { 0 };
    if (jamba_is_attention(c, layer)) {
        s.attention.k = arena_reals(saved, n * c->num_key_value_heads * c->d_head);
        s.attention.v = arena_reals(saved, n * c->num_key_value_heads * c->d_head);
        s.attention.o = arena_reals(saved, n * c->num_attention_heads * c->d_head);
        s.attention.lse = arena_reals(saved, n * c->num_attention_heads);
    } else {
        s.conv = arena_reals(saved, (w->n_chunk + 1) * (c->mamba_d_conv - 1) * c->d_inner);
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
        e.mamba = (struct mamba_edge){ .conv_in = s->conv + chunk * n_conv,
                                       .h_in = s->h + chunk * n_h,
                                       .conv_out = s->conv + (chunk + 1) * n_conv,
                                       .h_out = s->h + (chunk + 1) * n_h };
    return e;
}

/* The stream starts from an empty state: the first chunk's first token begins a document and reads
 * none, but what is carried through untouched must be defined. */
static void zero_first_edge(const struct walk *w, const struct layer_store *s)
{
    const struct jamba_config *c = w->m->config;
    if (s->h == NULL)
        return;
    op_zero(w->m->be, &(struct zero_args){ .y = s->conv, .n = (c->mamba_d_conv - 1) * c->d_inner });
    op_zero(w->m->be, &(struct zero_args){ .y = s->h, .n = c->mamba_d_state * c->d_inner });
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
    const struct block b = block_at(w, layer, chunk);
    const size_t mark = arena_mark(m->be->scratch);
    const bool needed = layer >= w->lowest;
    struct block_keep *k = keep_of(w, layer, chunk);
    layer_keep_gemm(&b, k, needed && keeps_gemm(w) ? m->saved : m->be->scratch);
    layer_keep_rest(&b, k, needed && keeps_rest(w) ? m->saved : m->be->scratch);
    const struct layer_edge edge = edge_of(w, store, chunk);
    const int64_t at = b.t0 * m->config->hidden_size;
    const int64_t next = w->pass->backward ? layer + 1 : layer;
    layer_forward(&b, k, &edge, layer_input(w, layer) + at, layer_input(w, next) + at);
    arena_rewind(m->be->scratch, mark);
}

static void backward_chunk(const struct walk *w, const struct layer_store *store, int64_t layer,
                           int64_t chunk, const struct layer_dedge *dedge)
{
    struct jamba *m = w->m;
    const struct block b = block_at(w, layer, chunk);
    const size_t mark = arena_mark(m->be->scratch);
    struct block_keep *k = keep_of(w, layer, chunk);
    const struct layer_edge edge = edge_of(w, store, chunk);
    const int64_t at = b.t0 * m->config->hidden_size;
    if (!keeps_gemm(w))
        layer_keep_gemm(&b, k, m->be->scratch);
    if (!keeps_rest(w)) {
        layer_keep_rest(&b, k, m->be->scratch);
        layer_recompute(&b, k, &edge, layer_input(w, layer) + at, keeps_gemm(w));
    }
    layer_backward(&b, k, &edge, dedge, layer_input(w, layer) + at, w->dx + at);
    arena_rewind(m->be->scratch, mark);
}

static void backward_layer(const struct walk *w, const struct layer_store *store, int64_t layer)
{
    const struct jamba_config *c = w->m->config;
    struct arena *scratch = w->m->be->scratch;
    const size_t mark = arena_mark(scratch);
    struct layer_dedge d = { 0 };
    struct zero_args zero[2];
    if (jamba_is_attention(c, layer)) {
        const int64_t n = w->s->n_tok * c->num_key_value_heads * c->d_head;
        zero[0] = (struct zero_args){ .y = d.dk = arena_reals(scratch, n), .n = n };
        zero[1] = (struct zero_args){ .y = d.dv = arena_reals(scratch, n), .n = n };
    } else {
        const int64_t n_conv = (c->mamba_d_conv - 1) * c->d_inner,
                      n_h = c->mamba_d_state * c->d_inner;
        zero[0] =
            (struct zero_args){ .y = d.mamba.dconv = arena_reals(scratch, n_conv), .n = n_conv };
        zero[1] = (struct zero_args){ .y = d.mamba.dstate = arena_reals(scratch, n_h), .n = n_h };
    }
    op_zero(w->m->be, &zero[0]);
    op_zero(w->m->be, &zero[1]);
    for (int64_t chunk = w->n_chunk - 1; chunk >= 0; chunk--)
        backward_chunk(w, store, layer, chunk, &d);
    arena_rewind(scratch, mark);
}

/* ---- the ends ---- */

static struct embed_lookup embed_chunk(const struct walk *w, int64_t chunk, real *y)
{
    const struct block b = block_at(w, 0, chunk);
    return (struct embed_lookup){ .w = weights_embedding(w->m->weights),
                                  .lora = w->m->adapter == NULL
                                              ? NULL
                                              : lora_adapter_slot(w->m->adapter, 0),
                                  .ids = w->ids + b.t0,
                                  .y = y + b.t0 * w->m->config->hidden_size,
                                  .dy = y + b.t0 * w->m->config->hidden_size,
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

static void run_head(struct walk *w, const int32_t *rows, const int32_t *target, int64_t n_row,
                     real *logprob)
{
    struct jamba *m = w->m;
    struct block b = block_at(w, 0, 0);
    b.first_token = w->s->first_index;
    b.router = NULL;
    head_run(&b,
             &(struct head_args){ .w = weights_head(m->weights),
                                  .norm = weights_final_norm(m->weights),
                                  .x = layer_input(w, m->config->num_hidden_layers),
                                  .rows = rows,
                                  .target = target,
                                  .n_row = n_row,
                                  .block_rows = head_block_rows(m->config->vocab_size, w->s->n_tok),
                                  .logprob = logprob,
                                  .grad_scale = w->pass->backward ? w->pass->grad_scale : 0,
                                  .dx = w->dx });
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
 * Of one document alone, over all its MoE layers, M = layers * length rows
 * (load_balancing_loss_func of transformers): E sum_e F_e P_e, F_e = choices of e / M, P_e = mean
 * probability. Weighted by length over the step's tokens, times the coefficient. In a row's logits:
 * scale p_e (F_e - sum p F). */

static int64_t moe_layers(const struct jamba_config *c)
{
    int64_t n = 0;
    for (int64_t l = 0; l < c->num_hidden_layers; l++)
        n += jamba_is_moe(c, l);
    return n;
}

static void push_sums(struct walk *w)
{
    const int64_t n = w->m->max_doc * w->m->config->num_experts;
    w->sums.f = arena_reals(w->m->saved, n);
    w->sums.psum = arena_reals(w->m->saved, n);
    w->sums.scale = arena_reals(w->m->saved, w->m->max_doc);
    op_zero(w->m->be, &(struct zero_args){ .y = w->sums.f, .n = n });
    op_zero(w->m->be, &(struct zero_args){ .y = w->sums.psum, .n = n });
}

/* Reads the sums back, returns sum over documents of length * loss, and sets the gradient's scales.
 * With f = choices and psum = sum of p unscaled: loss = E/M^2 sum f psum, d/dlogit = E/M^2 p (f -
 * sum p f). */
static double finish_sums(struct walk *w)
{
    struct jamba *m = w->m;
    const int64_t n_expert = m->config->num_experts, n_doc = w->s->n_doc;
    const size_t bytes = (size_t)(n_doc * n_expert) * sizeof(real);
    real *f = m->host_sums, *psum = f + m->max_doc * n_expert, *scale = m->host;
    op_to_host(m->be, &(struct copy_args){ .from = w->sums.f, .to = f, .bytes = bytes });
    op_to_host(m->be, &(struct copy_args){ .from = w->sums.psum, .to = psum, .bytes = bytes });
    double total = 0;
    for (int64_t d = 0; d < n_doc; d++) {
        const double length = (double)(w->s->doc_start[d + 1] - w->s->doc_start[d]);
        const double rows = length * (double)moe_layers(m->config);
        const double weight = length * (double)n_expert / (rows * rows);
        double sum = 0;
        for (int64_t e = 0; e < n_expert; e++)
            sum += (double)f[d * n_expert + e] * (double)psum[d * n_expert + e];
        total += weight * sum;
        scale[d] = (real)(w->pass->aux_scale * weight);
    }
    op_to_device(m->be, &(struct copy_args){ .from = scale,
                                             .to = w->sums.scale,
                                             .bytes = (size_t)n_doc * sizeof(real) });
    return total;
}

/* ---- the walk ---- */

static void forward(struct walk *w)
{
    struct jamba *m = w->m;
    for (int64_t chunk = 0; chunk < w->n_chunk; chunk++) {
        const struct embed_lookup e = embed_chunk(w, chunk, w->x);
        embed_lookup_forward(m->be, &e);
    }
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
    for (int64_t chunk = 0; w->embed_adapted && chunk < w->n_chunk; chunk++) {
        const struct embed_lookup e = embed_chunk(w, chunk, w->dx);
        embed_lookup_backward(m->be, &e);
    }
}

static void read_result(struct walk *w, const real *logprob, int64_t n_row, struct jamba_result *r)
{
    struct jamba *m = w->m;
    op_to_host(m->be, &(struct copy_args){
                          .from = logprob, .to = m->host, .bytes = (size_t)n_row * sizeof(real) });
    for (int64_t i = 0; i < n_row; i++)
        r->loss_sum -= (double)m->host[i];
    r->logprob = m->host;
    r->rows = m->rows;
    r->n_row = n_row;
}

void jamba_run(struct jamba *m, const struct stream *s, const struct jamba_pass *pass,
               struct jamba_result *result)
{
    *result = (struct jamba_result){ 0 };
    const size_t mark = arena_mark(m->saved);
    const int64_t n = s->n_tok, d_model = m->config->hidden_size,
                  n_layer = m->config->num_hidden_layers;
    struct walk w = { .m = m, .s = s, .pass = pass, .n_chunk = chunks_of(m, n) };
    find_lowest(&w);
    w.balance = pass->aux_scale != 0 && moe_layers(m->config) > 0;
    const int64_t n_row = read_stream(m, s);
    w.ids = push_ints(m, s->ids, n, n);
    w.pos = push_ints(m, m->pos, n, n);
    w.doc = push_ints(m, m->doc, n, n);
    const int32_t *rows = push_ints(m, m->rows, n_row, n);
    const int32_t *target = push_ints(m, m->row_target, n_row, n);
    w.x = arena_reals(m->saved, (pass->backward ? n_layer + 1 : 1) * n * d_model);
    if (w.balance)
        push_sums(&w);
    forward(&w);
    real *logprob = arena_reals(m->saved, n);
    if (pass->backward) {
        w.dx = arena_reals(m->saved, n * d_model);
        op_zero(m->be, &(struct zero_args){ .y = w.dx, .n = n * d_model });
    }
    run_head(&w, rows, target, n_row, logprob);
    if (w.balance && !m->saved->measuring)
        result->aux_sum = finish_sums(&w);
    if (pass->backward)
        backward(&w);
    if (!m->saved->measuring)
        read_result(&w, logprob, n_row, result);
    arena_rewind(m->saved, mark);
}
