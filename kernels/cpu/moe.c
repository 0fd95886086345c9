/* Mixture of experts: routing, the sort of rows by expert, and the ways there and back. */
#include "kernels/cpu/variant.h"

/* p = softmax(logits), chosen experts and weights of one token. */
static void route_token(const struct route_args *a, int64_t t)
{
    const real *logits = reals_in(a->logits) + t * a->n_expert;
    real *p = a->p + t * a->n_expert, top = logits[0], sum = 0;
    for (int64_t e = 1; e < a->n_expert; e++)
        top = logits[e] > top ? logits[e] : top;
    for (int64_t e = 0; e < a->n_expert; e++) {
        p[e] = real_exp(logits[e] - top);
        sum += p[e];
    }
    for (int64_t e = 0; e < a->n_expert; e++)
        p[e] /= sum;
    int32_t *chosen = a->expert + t * a->top_k;
    for (int64_t j = 0; j < a->top_k; j++) {
        int32_t best = -1;
        for (int32_t e = 0; e < (int32_t)a->n_expert; e++) {
            bool taken = false;
            for (int64_t i = 0; i < j; i++)
                taken = taken || chosen[i] == e;
            /* best < 0 first: with NaN everywhere an expert is still chosen, and the loss shows the
             * NaN */
            if (!taken && (best < 0 || p[e] > p[best]))
                best = e;
        }
        chosen[j] = best;
        a->weight[t * a->top_k + j] = p[best];
    }
}

void CPU_OP(route_forward)(struct backend *be, const struct route_args *a, void *scratch)
{
    (void)scratch;
#pragma omp parallel for num_threads(be->n_thread) schedule(static) if (a->n_tok > 64)
    for (int64_t t = 0; t < a->n_tok; t++)
        route_token(a, t);
    /* Counting sort of the slots: offset[e] first counts, then is each expert's next free place. */
    const int64_t n_slot = a->n_tok * a->top_k;
    memset(a->offset, 0, (size_t)(a->n_expert + 1) * sizeof *a->offset);
    for (int64_t s = 0; s < n_slot; s++)
        a->offset[a->expert[s] + 1]++;
    for (int64_t e = 0; e < a->n_expert; e++)
        a->offset[e + 1] += a->offset[e];
    for (int64_t s = 0; s < n_slot; s++) {
        const int32_t place = a->offset[a->expert[s]]++;
        a->slot[place] = (int32_t)s;
        a->place[s] = place;
    }
    for (int64_t e = a->n_expert; e > 0; e--)
        a->offset[e] = a->offset[e - 1];
    a->offset[0] = 0;
}

void CPU_OP(route_backward)(struct backend *be, const struct route_args *a, void *scratch)
{
    (void)scratch;
#pragma omp parallel for num_threads(be->n_thread) schedule(static) if (a->n_tok > 64)
    for (int64_t t = 0; t < a->n_tok; t++) {
        const real *p = a->p + t * a->n_expert, *dot_t = a->dot + t * a->top_k;
        const int32_t *chosen = a->expert + t * a->top_k;
        real *d = reals_of(a->dlogits) + t * a->n_expert, sum = 0;
        for (int64_t j = 0; j < a->top_k; j++)
            sum += dot_t[j];
        for (int64_t e = 0; e < a->n_expert; e++)
            d[e] = -p[e] * sum;
        for (int64_t j = 0; j < a->top_k; j++)
            d[chosen[j]] += dot_t[j];
        if (a->aux_f == NULL)
            continue;
        const real *f = a->aux_f + a->doc[t] * a->n_expert, scale = a->aux_scale[a->doc[t]];
        real mean = 0;
        for (int64_t e = 0; e < a->n_expert; e++)
            mean += p[e] * f[e];
        for (int64_t e = 0; e < a->n_expert; e++)
            d[e] += scale * p[e] * (f[e] - mean);
    }
}

void CPU_OP(route_counts)(struct backend *be, const struct route_counts_args *a, void *scratch)
{
    (void)be;
    (void)scratch;
    for (int64_t e = 0; e <= a->n_expert; e++)
        a->host[e] = a->offset[e];
}

void CPU_OP(aux_sums)(struct backend *be, const struct aux_sums_args *a, void *scratch)
{
    (void)be;
    (void)scratch;
    for (int64_t t = 0; t < a->n_tok; t++) {
        real *f = a->f + a->doc[t] * a->n_expert, *psum = a->psum + a->doc[t] * a->n_expert;
        for (int64_t j = 0; j < a->top_k; j++)
            f[a->expert[t * a->top_k + j]] += 1;
        for (int64_t e = 0; e < a->n_expert; e++)
            psum[e] += a->p[t * a->n_expert + e];
    }
}

void CPU_OP(gather_rows)(struct backend *be, const struct gather_rows_args *a, void *scratch)
{
    (void)scratch;
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t i = 0; i < a->n_row; i++) {
        const real *x = reals_in(a->x) + a->index[i] / a->per_row * a->dim;
        real *y = reals_of(a->y) + i * a->dim;
        const real scale = a->scale == NULL ? 1 : a->scale[a->index[i]];
#pragma omp simd
        for (int64_t j = 0; j < a->dim; j++)
            y[j] = scale * x[j];
    }
}

void CPU_OP(combine)(struct backend *be, const struct combine_args *a, void *scratch)
{
    (void)scratch;
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t t = 0; t < a->n_tok; t++) {
        real *y = reals_of(a->y) + t * a->dim;
        if (a->base == NULL)
            memset(y, 0, (size_t)a->dim * sizeof(real));
        else if (a->base != a->y)
            memcpy(y, reals_in(a->base) + t * a->dim, (size_t)a->dim * sizeof(real));
        for (int64_t j = 0; j < a->top_k; j++) {
            const real *x = reals_in(a->x) + a->place[t * a->top_k + j] * a->dim;
            const real w = a->weight == NULL ? 1 : a->weight[t * a->top_k + j];
#pragma omp simd
            for (int64_t d = 0; d < a->dim; d++)
                y[d] += w * x[d];
        }
    }
}

void CPU_OP(row_dot)(struct backend *be, const struct row_dot_args *a, void *scratch)
{
    (void)scratch;
    const real *x = reals_in(a->x), *y = reals_in(a->y);
#pragma omp parallel for num_threads(be->n_thread) schedule(static)
    for (int64_t i = 0; i < a->n_row; i++)
        a->out[a->index[i]] = dot(x + i * a->dim, y + i * a->dim, a->dim);
}

void CPU_OP(aux_loss)(struct backend *be, const struct aux_loss_args *a, void *scratch)
{
    (void)be;
    (void)scratch;
    double total = 0;
    for (int64_t d = 0; d < a->n_doc; d++) {
        const double length = (double)(a->doc_start[d + 1] - a->doc_start[d]);
        const double rows = length * (double)a->n_layer;
        const double weight = length * (double)a->n_expert / (rows * rows);
        double sum = 0;
        for (int64_t i = d * a->n_expert; i < (d + 1) * a->n_expert; i++)
            sum += (double)a->f[i] * (double)a->psum[i];
        total += weight * sum;
        a->scale[d] = (real)(a->aux_scale * weight);
    }
    *a->sum += total;
}
