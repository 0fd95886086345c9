/* The walk of one sequence, for generation: chunk-major, with the state carried in memory of its
 * own.
 *
 * Training walks layer by layer, so that each layer's weights are asked for once per pass. Here the
 * next token is known only after the last layer, so each chunk goes through all layers before the
 * next one, and what a layer carries outlives the call: Mamba's conv taps and SSM state, of a fixed
 * size; attention's keys and values over the whole sequence, in buffers that double. The blocks are
 * the same as in training: a state is the edge they read and write, in place.
 *
 * In the arenas during a chunk of n rows:
 *   saved     ids, pos, doc (n) each; the residual stream (n, d_model); of the last chunk the
 * logits (vocab) scratch   a layer's keep, attention's output and lse (n rows), and what the ops
 * take
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "finetune/model/head.h"
#include "finetune/model/jamba.h"
#include "finetune/model/layer.h"
#include "kernels/core/text.h"
#include "kernels/ops.h"
#include "lora/embed.h"

/* What one layer carries. */
struct layer_state {
    struct act *conv;    /* Mamba: (d_conv-1, d_inner) */
    real *h;             /* and (d_state, d_inner) */
    struct arena memory; /* attention: k and v, (n_cap, n_kv, d_head) each */
    struct act *k, *v;
    int64_t n_cap;
};

struct jamba_state {
    const struct jamba_config *config;
    struct arena memory; /* of all Mamba layers */
    struct arena *home;  /* not NULL: everything lies there, from `mark` on */
    size_t mark, bytes;
    struct layer_state *layers;
    int64_t n_fed; /* tokens so far */
};

/* ---- the state ---- */

enum { FIRST_CAPACITY = 16 }; /* tokens of the first K and V buffers */

static int64_t conv_size(const struct jamba_config *c)
{
    return (c->mamba_d_conv - 1) * c->d_inner;
}

static int64_t ssm_size(const struct jamba_config *c)
{
    return c->mamba_d_state * c->d_inner;
}

/* Elements of a token's keys, and of its values. */
static int64_t kv_size(const struct jamba_config *c)
{
    return c->num_key_value_heads * c->d_head;
}

/* Lays the Mamba layers' states on an arena: run twice, first to measure it. */
static void push_mamba(const struct jamba *m, struct jamba_state *state, struct arena *arena)
{
    const struct jamba_config *c = state->config;
    for (int64_t l = 0; l < c->num_hidden_layers; l++) {
        if (jamba_is_attention(c, l))
            continue;
        state->layers[l].conv = arena_acts(m->be, arena, conv_size(c));
        state->layers[l].h = arena_reals(arena, ssm_size(c));
    }
}

/* The first token begins the document and reads none of it, but what is carried must be defined. */
static void zero_mamba(const struct jamba *m, const struct jamba_state *state)
{
    const struct jamba_config *c = state->config;
    for (int64_t l = 0; l < c->num_hidden_layers; l++) {
        if (jamba_is_attention(c, l))
            continue;
        op_zero(m->be, &(struct zero_args){ .y = state->layers[l].conv,
                                            .bytes = act_bytes(m->be, conv_size(c)) });
        op_zero(m->be, &(struct zero_args){ .y = state->layers[l].h,
                                            .bytes = (size_t)ssm_size(c) * sizeof(real) });
    }
}

static struct jamba_state *new_tables(const struct jamba *m, struct err *err)
{
    struct jamba_state *state = calloc(1, sizeof *state);
    if (state != NULL)
        state->layers = calloc((size_t)m->config->num_hidden_layers, sizeof *state->layers);
    if (state == NULL || state->layers == NULL) {
        free(state);
        err_no_memory(err, "the state of a sequence");
        return NULL;
    }
    state->config = m->config;
    return state;
}

struct jamba_state *jamba_state_new(const struct jamba *m, struct err *err)
{
    struct jamba_state *state = new_tables(m, err);
    if (state == NULL)
        return NULL;
    struct arena measured;
    arena_init_measuring(&measured, "state");
    push_mamba(m, state, &measured);
    if (!arena_init_in(&state->memory, m->be->device, "state", measured.peak, err)) {
        jamba_state_free(state);
        return NULL;
    }
    push_mamba(m, state, &state->memory);
    zero_mamba(m, state);
    return state;
}

struct jamba_state *jamba_state_new_in(const struct jamba *m, struct arena *arena, int64_t n_tok,
                                       struct err *err)
{
    const struct jamba_config *c = m->config;
    struct jamba_state *state = new_tables(m, err);
    if (state == NULL)
        return NULL;
    state->home = arena;
    state->mark = arena_mark(arena);
    push_mamba(m, state, arena);
    for (int64_t l = 0; l < c->num_hidden_layers; l++) {
        struct layer_state *layer = &state->layers[l];
        if (!jamba_is_attention(c, l))
            continue;
        layer->n_cap = n_tok;
        layer->k = arena_acts(m->be, arena, n_tok * kv_size(c));
        layer->v = arena_acts(m->be, arena, n_tok * kv_size(c));
    }
    state->bytes = arena_mark(arena) - state->mark;
    zero_mamba(m, state);
    return state;
}

void jamba_state_free(struct jamba_state *state)
{
    if (state == NULL)
        return;
    if (state->home != NULL)
        arena_rewind(state->home, state->mark);
    for (int64_t l = 0; l < state->config->num_hidden_layers; l++)
        arena_free(&state->layers[l].memory);
    arena_free(&state->memory);
    free(state->layers);
    free(state);
}

int64_t jamba_state_length(const struct jamba_state *state)
{
    return state->n_fed;
}

size_t jamba_state_bytes(const struct jamba_state *state)
{
    size_t bytes = state->bytes + state->memory.cap;
    for (int64_t l = 0; l < state->config->num_hidden_layers; l++)
        bytes += state->layers[l].memory.cap;
    return bytes;
}

static void copy(const struct jamba *m, const struct act *from, struct act *to, int64_t n)
{
    op_copy(m->be, &(struct copy_args){ .from = from, .to = to, .bytes = act_bytes(m->be, n) });
}

/* Room for n_tok tokens in one attention layer. */
static bool grow_layer(const struct jamba *m, const struct jamba_state *state,
                       struct layer_state *layer, int64_t n_tok, struct err *err)
{
    const int64_t row = kv_size(state->config), used = state->n_fed * row;
    const int64_t doubled = layer->n_cap > 0 ? 2 * layer->n_cap : FIRST_CAPACITY;
    const int64_t n_cap = doubled > n_tok ? doubled : n_tok;
    size_t bytes = 0;
    struct layer_state grown = { .n_cap = n_cap };
    if (!size_mul((size_t)n_cap, 2 * act_bytes(m->be, row), &bytes) ||
        !size_add(bytes, 2 * ARENA_ALIGN, &bytes))
        return err_no_memory(err, "the keys and values of a sequence");
    if (!arena_init_in(&grown.memory, m->be->device, "keys and values", bytes, err))
        return false;
    grown.k = arena_acts(m->be, &grown.memory, n_cap * row);
    grown.v = arena_acts(m->be, &grown.memory, n_cap * row);
    if (used > 0) {
        copy(m, layer->k, grown.k, used);
        copy(m, layer->v, grown.v, used);
    }
    arena_free(&layer->memory);
    *layer = grown;
    return true;
}

/* Layer by layer, so that only one is there twice at a time. */
static bool grow(const struct jamba *m, struct jamba_state *state, int64_t n_tok, struct err *err)
{
    for (int64_t l = 0; l < state->config->num_hidden_layers; l++) {
        struct layer_state *layer = &state->layers[l];
        if (!jamba_is_attention(state->config, l) || layer->n_cap >= n_tok)
            continue;
        assert(state->home == NULL && "a sequence is longer than its state was made for");
        if (!grow_layer(m, state, layer, n_tok, err))
            return false;
    }
    return true;
}

/* ---- the walk ---- */

/* A chunk under way. */
struct chunk {
    struct jamba *m;
    struct jamba_state *state;
    int64_t n_tok;
    const int32_t *ids, *pos, *doc; /* on the device */
    struct act *x;                  /* (n_tok, d_model): the residual stream */
    int64_t doc_start[2];           /* the sequence is one document */
};

static struct block block_at(const struct chunk *c, int64_t layer)
{
    const struct jamba *m = c->m;
    return (struct block){ .be = m->be,
                           .config = m->config,
                           .w = weights_layer(m->weights, layer),
                           .adapter = m->adapter,
                           .layer = layer,
                           .n_tok = c->n_tok,
                           .t0 = c->state->n_fed,
                           .first_token = c->state->n_fed,
                           .pos = c->pos,
                           .doc = c->doc,
                           .doc_start = m->saved->measuring ? NULL : c->doc_start,
                           .n_doc = 1,
                           .counts = m->counts };
}

/* The layer's state as its edge, read and written in place; attention's output only for these rows.
 */
static struct layer_edge edge_of(const struct chunk *c, int64_t layer)
{
    const struct jamba_config *config = c->m->config;
    const struct layer_state *s = &c->state->layers[layer];
    struct arena *scratch = c->m->be->scratch;
    if (!jamba_is_attention(config, layer))
        return (struct layer_edge){
            .mamba = { .conv_in = s->conv, .h_in = s->h, .conv_out = s->conv, .h_out = s->h }
        };
    const int64_t n_head = config->num_attention_heads;
    struct layer_edge e = { .attention = { .k = s->k, .v = s->v, .o_first = c->state->n_fed } };
    e.attention.o = arena_acts(c->m->be, scratch, c->n_tok * n_head * config->d_head);
    e.attention.lse = arena_reals(scratch, c->n_tok * n_head);
    return e;
}

static void forward_layer(const struct chunk *c, int64_t layer)
{
    struct arena *scratch = c->m->be->scratch;
    const size_t mark = arena_mark(scratch);
    const struct block b = block_at(c, layer);
    const struct layer_edge edge = edge_of(c, layer);
    struct block_keep keep = { 0 };
    layer_keep_gemm(&b, &keep, scratch);
    layer_keep_rest(&b, &keep, scratch);
    layer_forward(&b, &keep, &edge, c->x, c->x);
    arena_rewind(scratch, mark);
}

static int32_t *push_ints(const struct jamba *m, const int32_t *from, int64_t n)
{
    int32_t *to = arena_push(m->saved, (size_t)n * sizeof *to);
    op_to_device(m->be,
                 &(struct copy_args){ .from = from, .to = to, .bytes = (size_t)n * sizeof *to });
    return to;
}

/* The logits of the chunk's last row, to the host. */
static void read_logits(const struct chunk *c, real *logits)
{
    const struct jamba *m = c->m;
    const struct block b = block_at(c, 0);
    const int32_t last = (int32_t)(c->n_tok - 1);
    const int64_t vocab = m->config->vocab_size;
    struct act *out = arena_acts(m->be, m->saved, vocab);
    head_logits(&b,
                &(struct head_args){ .w = weights_head(m->weights),
                                     .norm = weights_final_norm(m->weights),
                                     .x = c->x,
                                     .rows = push_ints(m, &last, 1),
                                     .n_row = 1 },
                out);
    const void *from = out;
    if (m->be->act != DTYPE_REAL) {
        real *wide = arena_reals(m->saved, vocab);
        op_cast(m->be, &(struct cast_args){ .from = out,
                                            .from_dtype = m->be->act,
                                            .to = wide,
                                            .to_dtype = DTYPE_REAL,
                                            .n = vocab });
        from = wide;
    }
    op_to_host(m->be, &(struct copy_args){
                          .from = from, .to = logits, .bytes = (size_t)vocab * sizeof(real) });
}

/* n rows through all layers; logits NULL: more chunks follow. */
static void feed_chunk(struct jamba *m, struct jamba_state *state, const int32_t *ids, int64_t n,
                       real *logits)
{
    const size_t mark = arena_mark(m->saved);
    for (int64_t i = 0; i < n; i++) {
        m->pos[i] = (int32_t)(state->n_fed + i);
        m->doc[i] = 0;
    }
    struct chunk c = { .m = m, .state = state, .n_tok = n, .doc_start = { 0, state->n_fed + n } };
    c.ids = push_ints(m, ids, n);
    c.pos = push_ints(m, m->pos, n);
    c.doc = push_ints(m, m->doc, n);
    c.x = arena_acts(m->be, m->saved, n * m->config->hidden_size);
    embed_lookup_forward(m->be,
                         &(struct embed_lookup){
                             .w = weights_embedding(m->weights),
                             .lora = m->adapter == NULL ? NULL : lora_adapter_slot(m->adapter, 0),
                             .ids = c.ids,
                             .y = c.x,
                             .n_row = n,
                             .pad_id = m->config->pad_token_id });
    for (int64_t layer = 0; layer < m->config->num_hidden_layers; layer++)
        forward_layer(&c, layer);
    if (logits != NULL)
        read_logits(&c, logits);
    state->n_fed += n;
    arena_rewind(m->saved, mark);
}

static bool check_ids(const struct jamba *m, const struct jamba_state *state, const int32_t *ids,
                      int64_t n, struct err *err)
{
    if (n > INT32_MAX - state->n_fed)
        return err_set(err, ERR_DATA,
                       "a sequence of %" PRId64 " tokens is too long; expected at most %d",
                       state->n_fed + n, INT32_MAX);
    for (int64_t i = 0; i < n && !m->saved->measuring; i++) {
        if (ids[i] < 0 || ids[i] >= m->config->vocab_size)
            return err_set(err, ERR_DATA,
                           "token %" PRId64 ": id %" PRId32
                           " is outside the model's vocabulary of %" PRId64,
                           state->n_fed + i, ids[i], m->config->vocab_size);
    }
    return true;
}

bool jamba_feed(struct jamba *m, struct jamba_state *state, const int32_t *ids, int64_t n,
                real *logits, struct err *err)
{
    assert(n > 0 && m->chunk_tokens > 0 && m->chunk_tokens <= m->max_tok);
    if (!check_ids(m, state, ids, n, err) || !grow(m, state, state->n_fed + n, err))
        return false;
    for (int64_t at = 0; at < n; at += m->chunk_tokens) {
        const int64_t left = n - at, size = left < m->chunk_tokens ? left : m->chunk_tokens;
        /* A measuring run has no ids. */
        feed_chunk(m, state, ids == NULL ? NULL : ids + at, size, size == left ? logits : NULL);
    }
    if (m->be->err.code == ERR_NONE)
        return true;
    return err_set(err, m->be->err.code, "%s", m->be->err.text);
}
