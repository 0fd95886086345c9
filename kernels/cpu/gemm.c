/* GEMM in registers of reals: c = beta c + alpha op(a) op(b), in tiles of c (tile.c).
 *
 *   b   packed per task, block by block: panels of TILE_PANEL columns, (k of the block, TILE_PANEL)
 *       each, zero beyond the last column; stored weights are widened on the way. For few rows
 *       (LoRA's weight gradients have m = rank) it is read in place instead
 *   a   read in place, transposed or not
 *   c   partial sums of the k blocks go through c itself
 *
 * An element of c is the same sum in the same order however c is cut into tiles and tasks, so no
 * bit depends on threads, nor a row's bits on the rows beside it. Products with few columns or
 * single rows are gemm_dot.c's.
 */
#include "kernels/cpu/gemm_bf16.h"
#include "kernels/cpu/gemm_dot.h"

#include <omp.h>

#include "kernels/cpu/tile.h"

enum {
    BLOCK_N = 4 * TILE_PANEL,
    BLOCK_K = 256,              /* a packed block of b is 128 KiB of f32 at AVX-512: in L2 */
    ROW_GROUP = 12 * TILE_ROWS, /* worked on before the next panel: a's block stays in L2, too */
    TASKS_PER_THREAD = 4,       /* so that an uneven split costs little */
    MOST_ROWS_IN_PLACE = 24,    /* up to here packing b costs more than it saves */
    MIN_TASK_ROWS = 96,         /* below that packing b shows */
    SMALL_PRODUCT = 1 << 22,    /* multiply-adds that are not worth waking threads for */
};

/* ---- packing ---- */

/* A panel of op(b): rows k0 .. k0+n_k, columns n0 .. n0+n, n <= TILE_PANEL. */
struct panel {
    int64_t k0, n_k, n0, n;
};

/* Columns of op(b) are rows of b when it is transposed. */
static void pack_transposed(const struct gemm_args *a, const struct panel *p, real *restrict out)
{
    enum { SOME = 4 };
    const size_t size = dtype_size(a->b_dtype);
    const char *from = (const char *)a->b + (size_t)(p->n0 * a->ldb + p->k0) * size;
    if (a->b_dtype == DTYPE_REAL) {
        const real *x = (const real *)(const void *)from;
        CPU_OP(tile_transpose)(x, a->ldb, p->n, p->n_k, out, TILE_PANEL);
        return;
    }
    real widened[SOME * BLOCK_K];
    for (int64_t j = 0; j < p->n; j += SOME) {
        const int64_t n = min_i64(SOME, p->n - j);
        for (int64_t i = 0; i < n; i++)
            dtype_to_real(a->b_dtype, from + (size_t)((j + i) * a->ldb) * size, p->n_k,
                          widened + i * BLOCK_K);
        CPU_OP(tile_transpose)(widened, BLOCK_K, n, p->n_k, out + j, TILE_PANEL);
    }
}

static void pack(const struct gemm_args *a, const struct panel *p, real *restrict out)
{
    const size_t size = dtype_size(a->b_dtype);
    for (int64_t l = 0; l < p->n_k && p->n < TILE_PANEL; l++)
        memset(out + l * TILE_PANEL + p->n, 0, (size_t)(TILE_PANEL - p->n) * sizeof(real));
    if (a->trans_b) {
        pack_transposed(a, p, out);
        return;
    }
    for (int64_t l = 0; l < p->n_k; l++) {
        const char *from = (const char *)a->b + (size_t)((p->k0 + l) * a->ldb + p->n0) * size;
        if (a->b_dtype == DTYPE_REAL)
            memcpy(out + l * TILE_PANEL, from, (size_t)p->n * sizeof(real));
        else
            dtype_to_real(a->b_dtype, from, p->n, out + l * TILE_PANEL);
    }
}

/* ---- the product ---- */

/* A product as it is computed: gemm_args, or their transpose. */
struct product {
    struct gemm_args a;
    int64_t row_step, col_step; /* of c */
    bool in_place;              /* b is read where it is, but for a ragged end */
};

/* c^T = op(b)^T op(a)^T, where b is the small one of two that have their rows along k: so that
 * lanes run along the long side of dB = dy^T t. */
static struct product product_of(const struct gemm_args *a)
{
    struct product p = { .a = *a, .row_step = a->ldc, .col_step = 1 };
    const bool is_real = a->b_dtype == DTYPE_REAL;
    if (a->trans_a && !a->trans_b && is_real && a->n < a->m && a->n <= MOST_ROWS_IN_PLACE) {
        p.a.m = a->n;
        p.a.n = a->m;
        p.a.a = acts_in(a->b);
        p.a.lda = a->ldb;
        p.a.b = a->a;
        p.a.ldb = a->lda;
        p.row_step = 1;
        p.col_step = a->ldc;
    }
    p.in_place = !p.a.trans_b && is_real && p.a.m <= MOST_ROWS_IN_PLACE;
    return p;
}

/* Of a thread, for any shape: a plan made for the most rows must hold for fewer. */
enum { PACKED_REALS = BLOCK_K * BLOCK_N };

size_t CPU_OP(gemm_scratch)(const struct backend *be, const struct gemm_args *a)
{
    (void)a;
#if CPU_BUILDS_BF16
    if (be->gemm_bf16)
        return CPU_OP(gemm_bf16_scratch)(be, a);
#endif
    return (size_t)be->n_thread * PACKED_REALS * sizeof(real);
}

/* Rows m0 .. m0+m and columns n0 .. n0+n of c. */
struct task {
    int64_t m0, m, n0, n;
};

/* The panel of b as the micro-kernel reads it: t->b and t->ldb. */
static void place_panel(const struct product *p, const struct panel *panel, real *packed,
                        struct tile *t)
{
    const bool whole = panel->n == tile_width(panel->n);
    if (p->in_place && whole) {
        t->b = (const real *)p->a.b + panel->k0 * p->a.ldb + panel->n0;
        t->ldb = p->a.ldb;
        return;
    }
    pack(&p->a, panel, packed);
    t->b = packed;
    t->ldb = TILE_PANEL;
}

static void multiply_task(const struct product *p, const struct task *task, real *packed)
{
    const struct gemm_args *a = &p->a;
    struct tile t = { .row_step = a->trans_a ? 1 : a->lda,
                      .k_step = a->trans_a ? a->lda : 1,
                      .ldc = p->row_step,
                      .col_step = p->col_step,
                      .alpha = a->alpha };
    struct tile panels[BLOCK_N / TILE_PANEL];
    for (int64_t k0 = 0; k0 < a->k; k0 += BLOCK_K) {
        t.k = min_i64(BLOCK_K, a->k - k0);
        t.beta = k0 == 0 ? a->beta : 1;
        for (int64_t m = 0; m < task->m; m += ROW_GROUP) {
            for (int64_t j = 0; j < task->n; j += TILE_PANEL) {
                const struct panel panel = { k0, t.k, task->n0 + j,
                                             min_i64(TILE_PANEL, task->n - j) };
                struct tile *at = &panels[j / TILE_PANEL];
                if (m == 0) {
                    *at = t;
                    place_panel(p, &panel, p->in_place ? packed : packed + j * t.k, at);
                }
                at->a = reals_in(a->a) + (task->m0 + m) * t.row_step + k0 * t.k_step;
                at->c = (real *)a->c + (task->m0 + m) * p->row_step + panel.n0 * p->col_step;
                CPU_OP(tile_multiply)(at, min_i64(ROW_GROUP, task->m - m), panel.n);
            }
        }
    }
}

/* Columns are cut into blocks, then rows until there is enough for the threads. */
static struct task first_task(const struct gemm_args *a, int n_thread)
{
    struct task t = { .n = min_i64(BLOCK_N, a->n), .m = a->m };
    const int64_t wanted = (int64_t)n_thread * TASKS_PER_THREAD, cols = div_up(a->n, t.n);
    if (cols < wanted) {
        const int64_t rows = div_up(a->m, div_up(wanted, cols));
        t.m = min_i64(a->m,
                      div_up(rows > MIN_TASK_ROWS ? rows : MIN_TASK_ROWS, TILE_ROWS) * TILE_ROWS);
    }
    if (div_up(a->m, t.m) * cols < wanted)
        t.n = min_i64(TILE_PANEL, a->n);
    return t;
}

static void multiply(struct backend *be, const struct product *p, real *scratch)
{
    const struct gemm_args *a = &p->a;
    const struct task first = first_task(a, be->n_thread);
    const int64_t rows = div_up(a->m, first.m), cols = div_up(a->n, first.n);
    const bool alone = rows * cols == 1 || a->m * a->n * a->k <= SMALL_PRODUCT;
#pragma omp parallel for collapse(2) num_threads(be->n_thread) schedule(dynamic) if (!alone)
    for (int64_t j = 0; j < cols; j++) {
        for (int64_t i = 0; i < rows; i++) {
            struct task t = { .m0 = i * first.m, .n0 = j * first.n };
            t.m = min_i64(first.m, a->m - t.m0);
            t.n = min_i64(first.n, a->n - t.n0);
            multiply_task(p, &t, scratch + omp_get_thread_num() * PACKED_REALS);
        }
    }
}

void CPU_OP(gemm)(struct backend *be, const struct gemm_args *a, void *scratch)
{
    if (a->m == 0)
        return;
#if CPU_BUILDS_BF16
    if (be->gemm_bf16) {
        CPU_OP(gemm_bf16)(be, a, scratch);
        return;
    }
#endif
    if (CPU_OP(gemm_dot_suits)(a)) {
        CPU_OP(gemm_dot)(be, a, scratch, PACKED_REALS);
        return;
    }
    const struct product p = product_of(a);
    multiply(be, &p, scratch);
}
