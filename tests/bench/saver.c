/* How long a checkpoint holds a step up, with an adapter of 131 M values (or as many as are asked
 * for):
 *
 *     build/bench_saver FOLDER [VALUES]
 *
 * Each round is what the loop does: the saver is started, matrix products run for as long as a step
 * of so large an adapter takes at the very least (SECONDS), and then the copy is waited for. The
 * write itself goes on meanwhile.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "finetune/train/saver.h"
#include "kernels/cpu/cpu.h"
#include "kernels/ops.h"

enum { N_ROUND = 5, SIDE = 1024 };
#define SECONDS 2.0

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

/* One embedding of rank 64: two matrices, as a file of few tensors is written fastest. */
struct subject {
    struct lora_module module;
    struct lora_choice choice;
    struct lora_adapter adapter;
    struct arena arena, scratch;
    struct backend be;
    real *x;
};

static bool make(struct subject *s, int64_t n_value, struct err *err)
{
    const int64_t rank = 64, side = n_value / rank / 2;
    *s = (struct subject){ .choice = { .on = true, .r = rank, .alpha = 64, .scale = 1 } };
    s->module = (struct lora_module){
        .path = "model.layers.0.mamba.in_proj", .kind = LORA_IN_PROJ, .in = side, .out = side
    };
    cpu_backend_init(&s->be, &s->scratch, 0);
    struct arena measured;
    arena_init_measuring(&measured, "adapter");
    const struct lora_adapter_args args = { .modules = &s->module,
                                            .n_module = 1,
                                            .choices = &s->choice,
                                            .be = &s->be,
                                            .arena = &measured,
                                            .with_training = true };
    struct lora_adapter_args real_args = args;
    real_args.arena = &s->arena;
    s->x = calloc(3 * SIDE * SIDE, sizeof *s->x);
    if (s->x == NULL || !lora_adapter_init(&s->adapter, &args, err))
        return false;
    lora_adapter_free(&s->adapter);
    if (!arena_init(&s->arena, "adapter", measured.peak, err) ||
        !arena_init(&s->scratch, "scratch", (size_t)1 << 26, err) ||
        !lora_adapter_init(&s->adapter, &real_args, err))
        return false;
    lora_adapter_reset(&s->adapter, 1);
    lora_adapter_push(&s->adapter, &s->be);
    return true;
}

static void compute(struct subject *s)
{
    const struct gemm_args g = { .m = SIDE,
                                 .n = SIDE,
                                 .k = SIDE,
                                 .a = acts_in(s->x),
                                 .lda = SIDE,
                                 .b = s->x + SIDE * SIDE,
                                 .ldb = SIDE,
                                 .b_dtype = DTYPE_REAL,
                                 .c = s->x + 2 * SIDE * SIDE,
                                 .ldc = SIDE,
                                 .c_real = true,
                                 .alpha = 1 };
    const double end = now() + SECONDS;
    while (now() < end)
        op_gemm(&s->be, &g);
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y ? 1 : 0;
}

static bool run(struct subject *s, const char *folder, struct err *err)
{
    struct saver saver = { 0 };
    const struct lora_config lora = { .r = 64, .alpha = 64 };
    double stalls[N_ROUND];
    bool ok = saver_open(&saver, folder, 1, &s->adapter, err);
    for (int i = 0; ok && i < N_ROUND; i++) {
        struct saver_job job = {
            .step = i, .state = json_pack("{s:i}", "step", i), .log = -1, .lora = &lora
        };
        job.recipe = strdup("seed: 1\n");
        const double start = now();
        ok = saver_start(&saver, &s->be, &job, err);
        const double started = now();
        compute(s);
        const double waits = now();
        saver_await_copy(&saver);
        stalls[i] = started - start + now() - waits;
        ok = ok && saver_finish(&saver, err); /* the next step may be far off */
        printf("round %d: %.1f ms before the next step, %.1f ms at its end, %.2f s to write\n",
               i + 1, 1e3 * (started - start), 1e3 * (stalls[i] - (started - start)),
               saver.seconds);
    }
    if (ok) {
        qsort(stalls, N_ROUND, sizeof *stalls, compare);
        printf("a checkpoint of %lld values holds a step up for %.1f ms (median of %d)\n",
               (long long)s->adapter.n_param, 1e3 * stalls[N_ROUND / 2], (int)N_ROUND);
    }
    saver_close(&saver);
    return ok;
}

int main(int argc, char **argv)
{
    struct subject s;
    struct err err = { 0 };
    if (argc < 2) {
        fputs("usage: bench_saver FOLDER [VALUES]\n", stderr);
        return ERR_USAGE;
    }
    const bool ok = make(&s, argc > 2 ? atoll(argv[2]) : 131072000, &err) &&
                    run(&s, argv[1], &err) && checkpoint_remove_all(argv[1], &err);
    if (!ok)
        fprintf(stderr, "%s\n", err.text);
    lora_adapter_free(&s.adapter);
    arena_free(&s.arena);
    arena_free(&s.scratch);
    free(s.x);
    return ok ? 0 : 1;
}
