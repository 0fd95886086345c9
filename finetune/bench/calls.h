/* The op calls of a training step, each distinct one once, with how often it is made.
 *
 *     struct bench_calls calls = { .recipe = r, .be = &be, .tokens = 8192, .document = 4096 };
 *     ok = bench_calls_list(&calls, &shapes, err);
 *     free(calls.list);
 */
#ifndef FINETUNE_BENCH_CALLS_H
#define FINETUNE_BENCH_CALLS_H

#include "finetune/model/engine.h"
#include "finetune/bench/operands.h"
#include "recipes/recipe.h"

/* Where calls are counted. */
enum bench_walk {
    BENCH_KEEP,      /* forward and backward, everything kept for the backward */
    BENCH_RECOMPUTE, /* the same with each layer's forward run again */
    BENCH_UPDATE,    /* the optimizer's part: once a step */
    BENCH_N_WALK,
};

struct bench_call {
    enum op_id op;
    union op_args args; /* their pointers say only which operands there are */
    int64_t document;   /* tokens of each document in the chunk */
    char shape[OPERAND_SHAPE_SIZE];
    double calls[BENCH_N_WALK];
    double published; /* seconds that NVIDIA gives for this on an H200; 0: none */
};

/* The first of the list are the yardsticks, the same for every model; the last one is there on a
 * device only. */
enum bench_yardstick {
    YARDSTICK_COPY,
    YARDSTICK_TO_DEVICE,
    YARDSTICK_TO_HOST,
    YARDSTICK_GEMM,
    N_YARDSTICK,
};

struct bench_calls {
    /* Set by the caller, borrowed. */
    const struct recipe *recipe;
    const struct backend *be;
    int64_t tokens, document;
    const char *only; /* ops whose name holds this; NULL: all */
    bool quick;       /* small yardsticks, no long documents */
    /* The answer. */
    struct bench_call *list;
    int64_t n, cap;
    int64_t n_yardstick;
    bool failed;          /* out of memory */
    enum bench_walk walk; /* that is being recorded */
};

/* shapes: engine_open_shapes of the recipe's model; modules are chosen here. NULL: the yardsticks
 * alone. */
bool bench_calls_list(struct bench_calls *b, struct engine *shapes, struct err *err);

#endif
