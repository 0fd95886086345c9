#include "finetune/model/attention.h"

#include "finetune/model/modules.h"
#include "kernels/ops.h"

/* Order of the mixer's modules in jamba_modules. */
enum { Q_PROJ, K_PROJ, V_PROJ, O_PROJ };

static int64_t q_dim(const struct block *b)
{
    return b->config->num_attention_heads * b->config->d_head;
}

static int64_t kv_dim(const struct block *b)
{
    return b->config->num_key_value_heads * b->config->d_head;
}

void attention_keep_gemm(const struct block *b, struct attention_keep *k, struct arena *arena)
{
    k->q = arena_acts(b->be, arena, b->n_tok * q_dim(b));
}

void attention_keep_rest(const struct block *b, struct attention_keep *k, struct arena *arena)
{
    k->h = arena_acts(b->be, arena, b->n_tok * b->config->hidden_size);
}

static struct linear_args linear(const struct block *b, struct weight w, int64_t which)
{
    return block_linear(b, w, jamba_module_mixer(b->config, b->layer) + which);
}

static struct attention_args op_args(const struct block *b, const struct attention_keep *k,
                                     const struct attention_edge *e)
{
    const int64_t row = b->t0 - e->o_first;
    return (struct attention_args){ .q = k->q,
                                    .k = e->k,
                                    .v = e->v,
                                    .pos = b->pos,
                                    .doc_start = b->doc_start,
                                    .n_doc = b->n_doc,
                                    .longest = b->longest,
                                    .o = act_at(b->be, e->o, row * q_dim(b)),
                                    .lse = e->lse + row * b->config->num_attention_heads,
                                    .n_tok = b->n_tok,
                                    .t0 = b->t0,
                                    .n_head = b->config->num_attention_heads,
                                    .n_kv = b->config->num_key_value_heads,
                                    .d_head = b->config->d_head };
}

void attention_forward(const struct block *b, struct attention_keep *k,
                       const struct attention_edge *edge, struct act *out, bool have_gemm,
                       bool have_attention)
{
    const struct attention_weights *w = &b->w->attention;
    const struct {
        struct weight w;
        int which;
        struct act *y;
        bool have;
    } inputs[] = {
        { w->q_proj, Q_PROJ, k->q, have_gemm },
        { w->k_proj, K_PROJ, act_at(b->be, edge->k, b->t0 * kv_dim(b)), have_attention },
        { w->v_proj, V_PROJ, act_at(b->be, edge->v, b->t0 * kv_dim(b)), have_attention },
    };
    for (int i = 0; i < 3; i++) {
        if (inputs[i].have)
            continue;
        struct linear_args l = linear(b, inputs[i].w, inputs[i].which);
        l.x = k->h;
        l.y = inputs[i].y;
        linear_forward(b->be, &l);
    }
    const struct attention_args a = op_args(b, k, edge);
    if (!have_attention)
        op_attention_forward(b->be, &a);
    if (out == NULL)
        return;
    struct linear_args o = linear(b, w->o_proj, O_PROJ);
    o.x = a.o;
    o.y = out;
    linear_forward(b->be, &o);
}

/* n finished sums as activations: rounded in scratch, or where reals are activations themselves. */
static const struct act *as_acts(const struct block *b, const real *x, int64_t n)
{
    if (b->be->act == DTYPE_REAL)
        return acts_in(x);
    struct act *y = arena_acts(b->be, b->be->scratch, n);
    op_cast(b->be,
            &(struct cast_args){
                .from = x, .from_dtype = DTYPE_REAL, .to = y, .to_dtype = b->be->act, .n = n });
    return y;
}

void attention_backward(const struct block *b, const struct attention_keep *k,
                        const struct attention_edge *edge, real *dk, real *dv, const struct act *dy,
                        struct act *dh)
{
    const struct attention_weights *w = &b->w->attention;
    struct arena *scratch = b->be->scratch;
    const size_t mark = arena_mark(scratch);
    struct act *d_o = arena_acts(b->be, scratch, b->n_tok * q_dim(b)),
               *dq = arena_acts(b->be, scratch, b->n_tok * q_dim(b));
    struct attention_args a = op_args(b, k, edge);
    struct linear_args o = linear(b, w->o_proj, O_PROJ);
    o.x = a.o;
    o.dy = dy;
    o.dx = d_o;
    linear_backward(b->be, &o);
    a.d_o = d_o;
    a.dq = dq;
    a.dk = dk;
    a.dv = dv;
    op_attention_backward(b->be, &a);
    /* Later chunks have added theirs: the rows of dk and dv of this chunk are complete. */
    const struct {
        struct weight w;
        int which;
        const struct act *dy;
    } inputs[] = {
        { w->q_proj, Q_PROJ, dq },
        { w->k_proj, K_PROJ, as_acts(b, dk + b->t0 * kv_dim(b), b->n_tok * kv_dim(b)) },
        { w->v_proj, V_PROJ, as_acts(b, dv + b->t0 * kv_dim(b), b->n_tok * kv_dim(b)) },
    };
    for (int i = 0; i < 3; i++) {
        struct linear_args l = linear(b, inputs[i].w, inputs[i].which);
        l.x = k->h;
        l.dy = inputs[i].dy;
        l.dx = dh;
        l.add_dx = i > 0;
        linear_backward(b->be, &l);
    }
    arena_rewind(scratch, mark);
}
