/* What stands behind the pointers of an op's arguments, so that any recorded call can be made again
 * on memory of its own.
 *
 *     struct operands o;
 *     operands_of(&be, OP_gemm, &args, document, &o);     // args: a call's, its pointers set
 *     char *at = arena_push(&pool, o.bytes);
 *     operands_bind(&o, at, host);                        // args now points there
 *     operands_fill(&be, &o, seed, err);
 *
 * A pointer that is NULL in args stays NULL. Operands that are one in the recorded call are
 * separate here: repeated in place, values would grow or die out.
 */
#ifndef FINETUNE_BENCH_OPERANDS_H
#define FINETUNE_BENCH_OPERANDS_H

#include "kernels/ops.h"

union op_args {
#define OP_ARGS_MEMBER(name, args) struct args name;
    OPS(OP_ARGS_MEMBER)
#undef OP_ARGS_MEMBER
};

enum operand_fill {
    FILL_RANDOM, /* mean 0, variance 1 */
    FILL_ZERO,
    FILL_DECAY,     /* -1: the scan's a */
    FILL_POSITIONS, /* (first + i) modulo limit */
    FILL_DOCUMENTS, /* i / limit */
    FILL_STEPS,     /* (first + i) * limit, at most last; the last is last */
    FILL_SHUFFLE,   /* a permutation of 0 .. n-1 */
    FILL_BELOW,     /* random, below limit */
};

struct operand {
    void *field; /* of the arguments: a pointer's address */
    void *data;  /* what it points to, once bound */
    enum operand_fill fill;
    enum dtype dtype; /* I32 and I64 for the fills of numbers */
    bool host;
    int64_t n, limit, first, last;
};

enum { MAX_OPERAND = 24, OPERAND_SHAPE_SIZE = 80 };

struct operands {
    const struct backend *be;
    enum op_id op;
    int64_t document; /* tokens of each document of a sequence op */
    struct operand list[MAX_OPERAND];
    int n;
    size_t bytes, host_bytes;       /* of all, each at ARENA_ALIGN */
    char shape[OPERAND_SHAPE_SIZE]; /* "8192 x 2560"; calls of one op differ in it or not at all */
};

/* Also completes what a measuring run leaves open in args: the documents of attention. */
void operands_of(const struct backend *be, enum op_id op, union op_args *args, int64_t document,
                 struct operands *out);

/* Points the fields into memory of `bytes` of the backend's and `host_bytes` of the host's. */
void operands_bind(struct operands *o, void *memory, void *host);

/* Uses be->scratch, at most OPERANDS_SCRATCH bytes of it. Differs with seed. */
enum { OPERANDS_SCRATCH = 1 << 19 };
bool operands_fill(struct backend *be, const struct operands *o, uint64_t seed, struct err *err);

#endif
