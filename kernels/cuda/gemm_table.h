/* The algorithm of each shape of product, and the file of tuned ones. Knows no CUDA.
 *
 *     const struct gemm_shape shape = gemm_shape_of(args, be->act);
 *     struct gemm_entry *e = gemm_table_find(&table, &shape);
 *     if (e == NULL)
 *         e = gemm_table_add(&table, &shape);
 */
#ifndef KERNELS_CUDA_GEMM_TABLE_H
#define KERNELS_CUDA_GEMM_TABLE_H

#include "kernels/ops.h"

/* Everything that an algorithm may depend on. */
struct gemm_shape {
    int64_t m, n, k, lda, ldb, ldc;
    bool trans_a, trans_b;
    bool bf16;                         /* a and b; else f32 */
    bool c_bf16;                       /* else f32 */
    bool accumulate;                   /* beta is not 0: for timing */
    int32_t align_a, align_b, align_c; /* bytes: 256, 16, 8, 4 or 2 */
};

/* cuBLASLt's own, opaque: valid for its version and for the kind of device only. */
struct gemm_algorithm {
    uint64_t words[8];
};

struct gemm_entry {
    struct gemm_shape shape;
    struct gemm_algorithm algorithm;
    bool ran; /* since the device was opened */
};

struct gemm_table {
    struct gemm_entry *entries; /* a hash table of cap places; shape.n 0 marks a free one */
    int64_t cap, n;
};

/* What algorithms in a file are good for. */
struct gemm_machine {
    char device[128];
    int major, minor, n_sm;
    size_t cublaslt;
};

struct gemm_shape gemm_shape_of(const struct gemm_args *a, enum dtype act);

/* Rows of tokens change with the data, an expert's with every step, so a shape's algorithm is that
 * of its number of rows rounded up: in 8 steps from one power of two to the next. Only a dimension
 * that is contiguous in no operand is rounded, so that alignment never changes. */
struct gemm_shape gemm_shape_rounded(const struct gemm_shape *shape);

bool gemm_shape_equal(const struct gemm_shape *x, const struct gemm_shape *y);

/* Elements of a (b, c): rows times leading dimension. */
int64_t gemm_shape_n_a(const struct gemm_shape *shape);
int64_t gemm_shape_n_b(const struct gemm_shape *shape);
int64_t gemm_shape_n_c(const struct gemm_shape *shape);

/* NULL when it is not there; and, for add, when memory is out. An entry stays where it is until the
 * next add. */
struct gemm_entry *gemm_table_find(const struct gemm_table *t, const struct gemm_shape *shape);
struct gemm_entry *gemm_table_add(struct gemm_table *t, const struct gemm_shape *shape);
void gemm_table_free(struct gemm_table *t);

/* All entries, sorted, so that the same algorithms give the same bytes. */
bool gemm_table_write(const struct gemm_table *t, const struct gemm_machine *machine,
                      const char *path, struct err *err);

/* Adds the entries of a file. Refuses one of another device, or of another version of cuBLASLt. */
bool gemm_table_read(struct gemm_table *t, const struct gemm_machine *machine, const char *path,
                     struct err *err);

#endif
