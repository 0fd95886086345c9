#include "finetune/train/self_check.h"

#include <inttypes.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "finetune/train/optim.h"
#include "finetune/train/save.h"
#include "kernels/ops.h"

enum { PIECE = 1 << 20, N_PIECE = 64 };

bool self_check_due(const struct trainer *t)
{
    const int64_t every = t->recipe->self_check_steps;
    return every > 0 && (t->state.step + 1) % every == 0;
}

/* Takes up a word: for either argument as it is, a bijection of the other. So a single word that
 * differs is always seen, and several with all but certainty. */
static uint64_t mix(uint64_t sum, uint64_t word)
{
    const uint64_t x = (sum ^ word) * 0x9E3779B97F4A7C15u;
    return x << 29 | x >> 35;
}

static uint64_t fold(const void *data, size_t n)
{
    enum { N_LANE = 8, WORD = sizeof(uint64_t) }; /* lanes, for the processor to overlap */
    uint64_t lane[N_LANE] = { 1, 2, 3, 4, 5, 6, 7, 8 }, sum = n;
    const unsigned char *bytes = data;
    size_t at = 0;
    for (; at + sizeof lane <= n; at += sizeof lane) {
        uint64_t word[N_LANE];
        memcpy(word, bytes + at, sizeof word);
        for (int i = 0; i < N_LANE; i++)
            lane[i] = mix(lane[i], word[i]);
    }
    for (size_t i = 0; at < n; at += WORD, i++) {
        uint64_t word = 0;
        memcpy(&word, bytes + at, n - at < WORD ? n - at : WORD);
        lane[i] = mix(lane[i], word);
    }
    for (int i = 0; i < N_LANE; i++)
        sum = mix(sum, lane[i]);
    return sum;
}

/* By pieces, which the run's threads take: a step must not wait for one. */
static uint64_t fold_pieces(uint64_t sum, const void *data, size_t n, int n_thread)
{
    const unsigned char *bytes = data;
    while (n > 0) {
        uint64_t piece[N_PIECE];
        const size_t most = (size_t)N_PIECE * PIECE, part = n < most ? n : most;
        const int n_piece = (int)((part + PIECE - 1) / PIECE);
#pragma omp parallel for num_threads(n_thread) schedule(dynamic)
        for (int i = 0; i < n_piece; i++) {
            const size_t from = (size_t)i * PIECE, left = part - from;
            piece[i] = fold(bytes + from, left < PIECE ? left : PIECE);
        }
        sum = mix(sum, fold(piece, (size_t)n_piece * sizeof *piece));
        bytes += part;
        n -= part;
    }
    return sum;
}

/* n_param values that lie where ops work: of a device by way of t->check, and then with the threads
 * that have nothing else to do. */
static uint64_t fold_values(struct trainer *t, uint64_t sum, const real *values)
{
    struct backend *be = &t->engine.be;
    const size_t bytes = (size_t)t->engine.adapter.n_param * sizeof(real);
    if (t->check == NULL)
        return fold_pieces(sum, values, bytes, be->n_thread);
    op_to_host(be, &(struct copy_args){ .from = values, .to = t->check, .bytes = bytes });
    return fold_pieces(sum, t->check, bytes, omp_get_max_threads());
}

uint64_t self_check_passes(struct trainer *t, const struct jamba_losses *losses)
{
    const double sums[] = { losses->loss_sum, losses->aux_sum };
    return fold_values(t, fold(sums, sizeof sums), t->engine.adapter.grads);
}

bool self_check_same(const struct trainer *t, const char *what, uint64_t first, uint64_t second,
                     struct err *err)
{
    return first == second ||
           err_set(
               err, ERR_DEVICE,
               "step %" PRId64 " was computed twice and came out different (%s %016" PRIx64
               " and %016" PRIx64
               "): the memory or the processor cannot be trusted. The step is not applied, and "
               "nothing was written after it; --resume on a sound machine goes on from the last "
               "checkpoint",
               t->state.step + 1, what, first, second);
}

bool self_check_norm(struct trainer *t, double first, struct err *err)
{
    const double second = optim_grad_norm(&t->engine.be, &t->engine.adapter);
    return trainer_check_device(t, err) &&
           self_check_same(t, "the gradients' norm", fold(&first, sizeof first),
                           fold(&second, sizeof second), err);
}

bool self_check_begin(struct trainer *t, struct err *err)
{
    return saver_finish(&t->saver, err) && saver_keep(&t->saver, &t->engine.be, err);
}

static uint64_t fold_state(struct trainer *t)
{
    const struct lora_adapter *a = &t->engine.adapter;
    return fold_values(t, fold_values(t, fold_values(t, 0, a->master), a->m), a->v);
}

bool self_check_again(struct trainer *t, uint64_t *first, struct err *err)
{
    *first = fold_state(t);
    return trainer_put_back(t, err);
}

bool self_check_end(struct trainer *t, uint64_t first, struct err *err)
{
    const uint64_t second = fold_state(t);
    return trainer_check_device(t, err) && self_check_same(t, "values", first, second, err);
}
