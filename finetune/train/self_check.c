#include "finetune/train/self_check.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "finetune/train/optim.h"
#include "finetune/train/save.h"
#include "kernels/core/sha256.h"
#include "kernels/ops.h"

enum { PIECE = 1 << 20, N_PIECE = 64 };

bool self_check_due(const struct trainer *t)
{
    const int64_t every = t->recipe->self_check_steps;
    return every > 0 && (t->state.step + 1) % every == 0;
}

/* The digests of its pieces, which are taken by all threads: a step must not wait for one. */
static void add_pieces(struct sha256 *sum, const void *data, size_t n)
{
    const unsigned char *bytes = data;
    while (n > 0) {
        char hex[N_PIECE][SHA256_HEX_SIZE];
        const size_t most = (size_t)N_PIECE * PIECE, part = n < most ? n : most;
        const int n_piece = (int)((part + PIECE - 1) / PIECE);
#pragma omp parallel for schedule(dynamic)
        for (int i = 0; i < n_piece; i++) {
            const size_t from = (size_t)i * PIECE, left = part - from;
            sha256_of(bytes + from, left < PIECE ? left : PIECE, hex[i]);
        }
        sha256_update(sum, hex, (size_t)n_piece * sizeof *hex);
        bytes += part;
        n -= part;
    }
}

/* n_param values that lie where ops work: of a device by way of t->check. */
static void add_values(struct trainer *t, struct sha256 *sum, const real *values)
{
    const size_t bytes = (size_t)t->engine.adapter.n_param * sizeof(real);
    if (t->check != NULL)
        op_to_host(&t->engine.be,
                   &(struct copy_args){ .from = values, .to = t->check, .bytes = bytes });
    add_pieces(sum, t->check != NULL ? t->check : values, bytes);
}

void self_check_passes(struct trainer *t, const struct jamba_losses *losses,
                       char hex[SHA256_HEX_SIZE])
{
    struct sha256 sum;
    sha256_init(&sum);
    sha256_update(&sum, &losses->loss_sum, sizeof losses->loss_sum);
    sha256_update(&sum, &losses->aux_sum, sizeof losses->aux_sum);
    add_values(t, &sum, t->engine.adapter.grads);
    sha256_end(&sum, hex);
}

bool self_check_same(const struct trainer *t, const char *what, const char *first,
                     const char *second, struct err *err)
{
    return strcmp(first, second) == 0 ||
           err_set(
               err, ERR_DEVICE,
               "step %" PRId64
               " was computed twice and came out different (%s %.16s... and %.16s...): the "
               "memory or the processor cannot be trusted. The step is not applied, and nothing "
               "was written after it; --resume on a sound machine goes on from the last "
               "checkpoint",
               t->state.step + 1, what, first, second);
}

bool self_check_norm(struct trainer *t, double first, struct err *err)
{
    char a[SHA256_HEX_SIZE], b[SHA256_HEX_SIZE];
    const double second = optim_grad_norm(&t->engine.be, &t->engine.adapter);
    sha256_of(&first, sizeof first, a);
    sha256_of(&second, sizeof second, b);
    return trainer_check_device(t, err) && self_check_same(t, "the gradients' norm", a, b, err);
}

bool self_check_begin(struct trainer *t, struct err *err)
{
    return saver_finish(&t->saver, err) && saver_keep(&t->saver, &t->engine.be, err);
}

static void digest_values(struct trainer *t, char hex[SHA256_HEX_SIZE])
{
    const struct lora_adapter *a = &t->engine.adapter;
    struct sha256 sum;
    sha256_init(&sum);
    add_values(t, &sum, a->master);
    add_values(t, &sum, a->m);
    add_values(t, &sum, a->v);
    sha256_end(&sum, hex);
}

bool self_check_again(struct trainer *t, char first[SHA256_HEX_SIZE], struct err *err)
{
    digest_values(t, first);
    return trainer_put_back(t, err);
}

bool self_check_end(struct trainer *t, const char *first, struct err *err)
{
    char second[SHA256_HEX_SIZE];
    digest_values(t, second);
    return trainer_check_device(t, err) && self_check_same(t, "values", first, second, err);
}
