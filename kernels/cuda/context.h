/* Inside the CUDA module: what its parts share. C11 and C++17. */
#ifndef KERNELS_CUDA_CONTEXT_H
#define KERNELS_CUDA_CONTEXT_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/core/device.h"
#include "kernels/cuda/module.h"
#include "kernels/ops.h"

struct cuda_gemm;    /* gemm.c: cuBLASLt's handle and the algorithm of each shape */
struct cuda_sdpa;    /* sdpa.c: cuDNN's handle and the plans of each shape */
struct cuda_marks;   /* marks.c: events in the stream that tell its times */
struct cuda_staging; /* staging.c: pinned memory that to_device and to_host go through */

/* An open device; struct backend.device points to its first member. */
struct cuda_state {
    struct device device;
    struct cuda_options options;
    char name[128]; /* "NVIDIA H100 80GB HBM3" */
    int major, minor, n_sm;
    size_t shared_bytes; /* that a block may have */
    void *stream;        /* cudaStream_t: everything runs in its order */
    struct cuda_gemm *gemm;
    struct cuda_sdpa *sdpa; /* NULL: f32, or no cuDNN at all; our own attention kernels run */
    struct cuda_staging *staging;
    struct cuda_marks *marks; /* NULL before the first */
};

static inline struct cuda_state *cuda_state_of(const struct backend *be)
{
    return (struct cuda_state *)(void *)be->device;
}

/* The first failure of an op sticks in be->err: "NVIDIA ...: <op>: <what>" with ERR_DEVICE. */
void cuda_fail(struct backend *be, const char *op, const char *what);

/* The same message into *err. Returns false. */
bool cuda_explain(const struct cuda_state *s, const char *op, const char *what, struct err *err);

/* Queues the copy behind all ops so far and waits for it. False after a failure, this one or an
 * earlier one: then host is zeros. */
bool cuda_read_back(struct backend *be, const char *op, const void *device, void *host,
                    size_t bytes);

/* Parts of an open device, each in its own file. The stream and the facts are set before; close
 * takes NULL. */
bool cuda_staging_open(struct cuda_state *s, struct err *err);
void cuda_staging_close(struct cuda_staging *staging);
void cuda_marks_close(struct cuda_marks *marks);
bool cuda_gemm_open(struct cuda_state *s, struct err *err);
void cuda_gemm_close(struct cuda_gemm *gemm);

/* Leaves s->sdpa NULL where there is no work for cuDNN; false only when that is an error. */
bool cuda_sdpa_open(struct cuda_state *s, struct err *err);
void cuda_sdpa_close(struct cuda_sdpa *sdpa);
size_t cuda_sdpa_version(void); /* of cuDNN, as it counts; 0: not there */

/* struct device.mark and marked (marks.c). */
void cuda_mark(struct device *d, int tag);
void cuda_marked(struct device *d, double seconds[DEVICE_TAGS]);

/* struct cuda_module.tune (tune.c) and attention_calls (sdpa.c). */
bool cuda_tune(struct device *d, const char *path, struct err *err);
void cuda_attention_calls(struct device *d, struct cuda_attention_calls *out);

/* Every op's entry and scratch size (table.c). */
extern const struct ops cuda_ops;

/* Every op as the module implements it. */
#define CUDA_DECLARE(name, args)                                                                   \
    void cuda_##name(struct backend *be, const struct args *a, void *scratch);
OPS(CUDA_DECLARE)
#undef CUDA_DECLARE

#ifdef __cplusplus
}
#endif

#endif
