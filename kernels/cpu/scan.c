/* Selective scan (Gu and Dao, "Mamba", 2023), token-major, serial in time, SIMD over channels.
 *
 * A task owns a group of GROUP channels and walks the chunk's tokens; LANES channels fill a
 * register, the states of a block are an array of d_state registers' worth. Nothing is stored per
 * token and state: the forward leaves the states at every SCAN_TILE-th token, the backward replays
 * one tile at a time from there (states and decays of the tile in a buffer that stays in cache) and
 * then runs it in reverse:
 *
 *   dy_t = dout_t silu(z_t)                 dz_t = dout_t y_t s (1 + z (1 - s)),  s = sigmoid(z_t)
 *   g_t = c_t dy_t + decay_{t+1} g_{t+1}    (0 across a document's start)
 *   du_t = d dy_t + delta_t sum_n g_t b_t   ddelta_t = sum_n g_t (b_t u_t + a decay_t h_{t-1})
 *   db_t = sum_channels g_t delta_t u_t     dc_t = sum_channels dy_t h_t
 *
 * db and dc are summed over channels in two fixed levels: within a group in registers' worth of
 * lanes, then over groups in order; so no bit depends on threads.
 */
#include "kernels/cpu/variant.h"

#include <omp.h>

enum {
    GROUP = 64, /* channels of a task */
    N_BLOCK = GROUP / LANES,
};

/* ---- loads and stores of up to LANES channels ---- */

static inline void load(real out[restrict LANES], const real *in, int64_t n)
{
    if (n == LANES) {
        memcpy(out, in, LANES * sizeof(real));
        return;
    }
    for (int64_t i = 0; i < LANES; i++)
        out[i] = i < n ? in[i] : 0;
}

static inline void store(real *out, const real in[LANES], int64_t n)
{
    memcpy(out, in, (size_t)n * sizeof(real));
}

/* The step sizes of one token: delta, and delta's derivative in the raw dt. */
static inline void step_sizes(const real dt[LANES], const real bias[LANES],
                              real delta[restrict LANES])
{
#pragma omp simd
    for (int i = 0; i < LANES; i++)
        delta[i] = real_softplus(dt[i] + bias[i]);
}

/* h = decay h + delta u b, y = sum_n c h; decay and the new h are kept when keep_* is given. */
struct token_in {
    const real *u, *delta; /* (LANES) */
    const real *b, *c;     /* (d_state) */
    bool first;
};

static inline void advance(const struct token_in *in, const real *restrict a, int64_t d_state,
                           real *restrict h, real *restrict keep_decay, real y[restrict LANES])
{
    real du[LANES];
#pragma omp simd
    for (int i = 0; i < LANES; i++) {
        du[i] = in->delta[i] * in->u[i];
        y[i] = 0;
    }
    for (int64_t n = 0; n < d_state; n++) {
        const real b = in->b[n], c = in->c[n], carry = in->first ? 0 : 1;
        const real *restrict an = a + n * LANES;
        real *restrict hn = h + n * LANES;
        real decay[LANES];
#pragma omp simd
        for (int i = 0; i < LANES; i++) {
            decay[i] = carry * real_exp(in->delta[i] * an[i]);
            hn[i] = decay[i] * hn[i] + du[i] * b;
            y[i] += c * hn[i];
        }
        if (keep_decay != NULL)
            memcpy(keep_decay + n * LANES, decay, sizeof decay);
    }
}

/* The constants of a block of lanes. */
struct lane_block {
    int64_t first, n; /* channels */
    real a[SCAN_MAX_STATE * LANES];
    real d[LANES], bias[LANES];
};

static void load_block(const struct scan_args *s, int64_t first, struct lane_block *b)
{
    b->first = first;
    b->n = min_i64(LANES, s->d_inner - first);
    for (int64_t n = 0; n < s->d_state; n++)
        load(b->a + n * LANES, s->a + n * s->d_inner + first, b->n);
    load(b->d, s->d + first, b->n);
    load(b->bias, s->dt_bias + first, b->n);
}

static void load_states(const struct scan_args *s, const real *from, const struct lane_block *b,
                        real *h)
{
    for (int64_t n = 0; n < s->d_state; n++)
        load(h + n * LANES, from + n * s->d_inner + b->first, b->n);
}

static void store_states(const struct scan_args *s, real *to, const struct lane_block *b,
                         const real *h)
{
    for (int64_t n = 0; n < s->d_state; n++)
        store(to + n * s->d_inner + b->first, h + n * LANES, b->n);
}

/* ---- forward ---- */

static void forward_block(const struct scan_args *s, const struct lane_block *b, real *h)
{
    if (s->h_in != NULL)
        load_states(s, s->h_in, b, h);
    else
        memset(h, 0, (size_t)(s->d_state * LANES) * sizeof(real));
    for (int64_t t = 0; t < s->n_tok; t++) {
        if (s->tile_states != NULL && t % SCAN_TILE == 0)
            store_states(s, s->tile_states + t / SCAN_TILE * s->d_state * s->d_inner, b, h);
        const int64_t at = t * s->d_inner + b->first;
        real u[LANES], dt[LANES], delta[LANES], z[LANES], y[LANES];
        load(u, reals_in(s->u) + at, b->n);
        load(dt, reals_in(s->dt) + at, b->n);
        load(z, reals_in(s->z) + t * s->ldz + b->first, b->n);
        step_sizes(dt, b->bias, delta);
        const struct token_in in = { u, delta, reals_in(s->b) + t * s->d_state,
                                     reals_in(s->c) + t * s->d_state, s->pos[t] == 0 };
        advance(&in, b->a, s->d_state, h, NULL, y);
#pragma omp simd
        for (int i = 0; i < LANES; i++)
            y[i] = (y[i] + b->d[i] * u[i]) * z[i] * real_sigmoid(z[i]);
        store(reals_of(s->y) + at, y, b->n);
    }
    if (s->h_out != NULL)
        store_states(s, s->h_out, b, h);
}

/* Per thread: a lane block's constants and states. */
struct forward_work {
    struct lane_block block;
    real h[SCAN_MAX_STATE * LANES];
};

size_t CPU_OP(scan_forward_scratch)(const struct backend *be, const struct scan_args *a)
{
    (void)a;
    return (size_t)be->n_thread * sizeof(struct forward_work);
}

void CPU_OP(scan_forward)(struct backend *be, const struct scan_args *a, void *scratch)
{
    struct forward_work *works = scratch;
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t first = 0; first < a->d_inner; first += LANES) {
        struct forward_work *w = &works[omp_get_thread_num()];
        load_block(a, first, &w->block);
        forward_block(a, &w->block, w->h);
    }
}

/* ---- backward ---- */

/* What a thread needs for a group: constants and adjoint states of its blocks, one tile's replay,
 * and the tile's db and dc by lane. Arrays after the struct, sized by d_state. */
struct group_work {
    struct lane_block *blocks; /* (N_BLOCK) */
    real *g;                   /* (N_BLOCK, d_state, LANES) */
    real *h;         /* (SCAN_TILE + 1, d_state, LANES): state before each token of the tile */
    real *decay;     /* (SCAN_TILE, d_state, LANES) */
    real *db, *dc;   /* (SCAN_TILE, d_state, LANES) */
    real *y, *delta; /* (SCAN_TILE, LANES): ungated output, step size */
};

static size_t group_bytes(int64_t d_state)
{
    const int64_t n = d_state * LANES;
    const int64_t reals =
        N_BLOCK * n + (SCAN_TILE + 1) * n + 3 * SCAN_TILE * n + 2 * SCAN_TILE * LANES;
    return N_BLOCK * sizeof(struct lane_block) + (size_t)reals * sizeof(real);
}

static struct group_work group_at(void *memory, int64_t d_state)
{
    const int64_t n = d_state * LANES;
    struct group_work w = { .blocks = memory };
    w.g = (real *)(void *)(w.blocks + N_BLOCK);
    w.h = w.g + N_BLOCK * n;
    w.decay = w.h + (SCAN_TILE + 1) * n;
    w.db = w.decay + SCAN_TILE * n;
    w.dc = w.db + SCAN_TILE * n;
    w.y = w.dc + SCAN_TILE * n;
    w.delta = w.y + SCAN_TILE * LANES;
    return w;
}

/* States, decays, outputs and step sizes of tokens t0 .. t0+n of one block. */
static void replay_tile(const struct scan_args *s, const struct lane_block *b, int64_t t0,
                        int64_t n, const struct group_work *w)
{
    const int64_t size = s->d_state * LANES;
    load_states(s, s->tile_states + t0 / SCAN_TILE * s->d_state * s->d_inner, b, w->h);
    for (int64_t i = 0; i < n; i++) {
        const int64_t t = t0 + i, at = t * s->d_inner + b->first;
        real u[LANES], dt[LANES], *y = w->y + i * LANES, *delta = w->delta + i * LANES;
        load(u, reals_in(s->u) + at, b->n);
        load(dt, reals_in(s->dt) + at, b->n);
        step_sizes(dt, b->bias, delta);
        real *h = w->h + (i + 1) * size;
        memcpy(h, h - size, (size_t)size * sizeof(real));
        const struct token_in in = { u, delta, reals_in(s->b) + t * s->d_state,
                                     reals_in(s->c) + t * s->d_state, s->pos[t] == 0 };
        advance(&in, b->a, s->d_state, h, w->decay + i * size, y);
#pragma omp simd
        for (int l = 0; l < LANES; l++)
            y[l] += b->d[l] * u[l];
    }
}

/* One token of the reverse walk; g holds decay_{t+1} g_{t+1} on entry, decay_t g_t on return. */
static void reverse_token(const struct scan_args *s, const struct lane_block *b, int64_t t,
                          int64_t i, const struct group_work *w, real *restrict g)
{
    const int64_t at = t * s->d_inner + b->first, size = s->d_state * LANES;
    real u[LANES], dt[LANES], z[LANES], dout[LANES], dy[LANES], dz[LANES], sum_b[LANES],
        sum_a[LANES];
    load(u, reals_in(s->u) + at, b->n);
    load(dt, reals_in(s->dt) + at, b->n);
    load(z, reals_in(s->z) + t * s->ldz + b->first, b->n);
    load(dout, reals_in(s->dy) + at, b->n);
    const real *delta = w->delta + i * LANES, *y = w->y + i * LANES;
    const real *b_t = reals_in(s->b) + t * s->d_state, *c_t = reals_in(s->c) + t * s->d_state;
#pragma omp simd
    for (int l = 0; l < LANES; l++) {
        const real sig = real_sigmoid(z[l]);
        dz[l] = dout[l] * y[l] * sig * (1 + z[l] * (1 - sig));
        dy[l] = dout[l] * z[l] * sig;
        sum_b[l] = sum_a[l] = 0;
    }
    for (int64_t n = 0; n < s->d_state; n++) {
        const real bn = b_t[n], cn = c_t[n];
        const real *restrict before = w->h + i * size + n * LANES, *restrict after = before + size;
        const real *restrict decay = w->decay + i * size + n * LANES, *restrict an =
                                                                          b->a + n * LANES;
        real *restrict gn = g + n * LANES;
        real *restrict db = w->db + i * size + n * LANES, *restrict dc =
                                                              w->dc + i * size + n * LANES;
#pragma omp simd
        for (int l = 0; l < LANES; l++) {
            const real gl = gn[l] + cn * dy[l];
            sum_b[l] += gl * bn;
            sum_a[l] += gl * an[l] * (decay[l] * before[l]);
            db[l] += gl * delta[l] * u[l];
            dc[l] += dy[l] * after[l];
            gn[l] = gl * decay[l];
        }
    }
    real du[LANES], ddt[LANES];
#pragma omp simd
    for (int l = 0; l < LANES; l++) {
        const real raw = dt[l] + b->bias[l];
        du[l] = b->d[l] * dy[l] + delta[l] * sum_b[l];
        ddt[l] = (sum_b[l] * u[l] + sum_a[l]) * (raw > 20 ? 1 : real_sigmoid(raw));
    }
    store(reals_of(s->du) + at, du, b->n);
    store(reals_of(s->ddt) + at, ddt, b->n);
    store(reals_of(s->dz) + t * s->lddz + b->first, dz, b->n);
}

/* db and dc of the tile, summed over the group's lanes, into the group's part (n_tok, 2 * d_state).
 */
static void reduce_tile(const struct scan_args *s, int64_t t0, int64_t n,
                        const struct group_work *w, real *part)
{
    for (int64_t i = 0; i < n * s->d_state; i++) {
        real sum_b = 0, sum_c = 0;
        for (int l = 0; l < LANES; l++) {
            sum_b += w->db[i * LANES + l];
            sum_c += w->dc[i * LANES + l];
        }
        real *out = part + (t0 + i / s->d_state) * 2 * s->d_state + i % s->d_state;
        out[0] = sum_b;
        out[s->d_state] = sum_c;
    }
}

static void backward_group(const struct scan_args *s, int64_t first, const struct group_work *w,
                           real *part)
{
    const int64_t size = s->d_state * LANES;
    const int64_t n_block = div_up(min_i64(GROUP, s->d_inner - first), LANES);
    for (int64_t k = 0; k < n_block; k++) {
        load_block(s, first + k * LANES, &w->blocks[k]);
        if (s->dh_out != NULL)
            load_states(s, s->dh_out, &w->blocks[k], w->g + k * size);
        else
            memset(w->g + k * size, 0, (size_t)size * sizeof(real));
    }
    for (int64_t tile = div_up(s->n_tok, SCAN_TILE) - 1; tile >= 0; tile--) {
        const int64_t t0 = tile * SCAN_TILE, n = min_i64(SCAN_TILE, s->n_tok - t0);
        memset(w->db, 0, (size_t)(n * size) * sizeof(real));
        memset(w->dc, 0, (size_t)(n * size) * sizeof(real));
        for (int64_t k = 0; k < n_block; k++) {
            replay_tile(s, &w->blocks[k], t0, n, w);
            for (int64_t i = n - 1; i >= 0; i--)
                reverse_token(s, &w->blocks[k], t0 + i, i, w, w->g + k * size);
        }
        reduce_tile(s, t0, n, w, part);
    }
    for (int64_t k = 0; k < n_block && s->dh_in != NULL; k++)
        store_states(s, s->dh_in, &w->blocks[k], w->g + k * size);
}

static size_t work_bytes(const struct scan_args *a)
{
    return (group_bytes(a->d_state) + 63) / 64 * 64;
}

size_t CPU_OP(scan_backward_scratch)(const struct backend *be, const struct scan_args *a)
{
    const int64_t n_group = div_up(a->d_inner, GROUP);
    return (size_t)be->n_thread * work_bytes(a) +
           (size_t)(n_group * a->n_tok * 2 * a->d_state) * sizeof(real);
}

void CPU_OP(scan_backward)(struct backend *be, const struct scan_args *a, void *scratch)
{
    const int64_t n_group = div_up(a->d_inner, GROUP), part_size = a->n_tok * 2 * a->d_state;
    real *db = reals_of(a->db), *dc = reals_of(a->dc);
    char *work = scratch;
    real *parts =
        (real *)(void *)(work + (size_t)be->n_thread * work_bytes(a)); /* (n_group, n_tok, 2N) */
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t g = 0; g < n_group; g++) {
        const struct group_work w =
            group_at(work + (size_t)omp_get_thread_num() * work_bytes(a), a->d_state);
        backward_group(a, g * GROUP, &w, parts + g * part_size);
    }
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t t = 0; t < a->n_tok; t++) {
        for (int64_t n = 0; n < a->d_state; n++) {
            real sum_b = 0, sum_c = 0;
            for (int64_t g = 0; g < n_group; g++) {
                const real *part = parts + g * part_size + t * 2 * a->d_state;
                sum_b += part[n];
                sum_c += part[a->d_state + n];
            }
            db[t * a->d_state + n] = sum_b;
            dc[t * a->d_state + n] = sum_c;
        }
    }
}
