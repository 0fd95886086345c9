/* Copies between the host and the device: to_device, to_host and what ops read back.
 *
 * They go through a ring of pinned memory, so that to_device returns once the bytes are in the
 * ring, while the device still copies, and the host waits only when the ring comes round to a slot
 * whose copies have not passed. Small uploads share a slot: a step's ids and positions do not wait
 * for the work queued before them. Bytes enter and leave the ring by several threads, since one
 * copies at a fifth of what PCIe 5 carries.
 */
#include <cuda_runtime_api.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/context.h"

enum {
    N_SLOT = 4,
    SLOT_BYTES = 8 << 20,
    ALIGN = 256,
    MAX_THREAD = 8,
    THREAD_BYTES = 1 << 20, /* not worth another thread below that */
};

struct cuda_staging {
    char *memory;               /* N_SLOT * SLOT_BYTES, pinned */
    cudaEvent_t passed[N_SLOT]; /* the last copies of the slot */
    size_t slot, used;          /* where the next upload goes */
};

bool cuda_staging_open(struct cuda_state *s, struct err *err)
{
    struct cuda_staging *g = calloc(1, sizeof *g);
    s->staging = g;
    if (g == NULL)
        return err_no_memory(err, "the device's staging memory");
    void *memory = NULL;
    cudaError_t status = cudaHostAlloc(&memory, (size_t)N_SLOT * SLOT_BYTES, cudaHostAllocDefault);
    g->memory = memory;
    for (int i = 0; i < N_SLOT && status == cudaSuccess; i++)
        status = cudaEventCreateWithFlags(&g->passed[i], cudaEventDisableTiming);
    if (status == cudaSuccess)
        return true;
    return cuda_explain(s, "pinned memory", cudaGetErrorString(status), err);
}

void cuda_staging_close(struct cuda_staging *g)
{
    if (g == NULL)
        return;
    for (int i = 0; i < N_SLOT; i++) {
        if (g->passed[i] != NULL)
            cudaEventDestroy(g->passed[i]);
    }
    cudaFreeHost(g->memory);
    free(g);
}

/* memcpy by several threads. */
static void copy_bytes(char *to, const char *from, size_t bytes)
{
    int n_thread = (int)(bytes / THREAD_BYTES);
    if (n_thread <= 1) {
        memcpy(to, from, bytes);
        return;
    }
    const int most = omp_get_num_procs() < MAX_THREAD ? omp_get_num_procs() : MAX_THREAD;
    n_thread = n_thread < most ? n_thread : most;
    const size_t part = bytes / (size_t)n_thread;
#pragma omp parallel for num_threads(n_thread) schedule(static)
    for (int i = 0; i < n_thread; i++) {
        const size_t at = (size_t)i * part;
        memcpy(to + at, from + at, i == n_thread - 1 ? bytes - at : part);
    }
}

/* ---- to the device ---- */

/* The ring's next *n bytes, at most `wanted`. */
static cudaError_t take_room(struct cuda_state *s, size_t wanted, char **at, size_t *n)
{
    struct cuda_staging *g = s->staging;
    if (g->used == SLOT_BYTES) {
        cudaError_t status = cudaEventRecord(g->passed[g->slot], s->stream);
        g->slot = (g->slot + 1) % N_SLOT;
        g->used = 0;
        if (status == cudaSuccess)
            status = cudaEventSynchronize(g->passed[g->slot]);
        if (status != cudaSuccess)
            return status;
    }
    const size_t left = SLOT_BYTES - g->used;
    *n = wanted < left ? wanted : left;
    *at = g->memory + g->slot * SLOT_BYTES + g->used;
    g->used += (*n + ALIGN - 1) / ALIGN * ALIGN;
    return cudaSuccess;
}

void cuda_to_device(struct backend *be, const struct copy_args *a, void *scratch)
{
    (void)scratch;
    struct cuda_state *s = cuda_state_of(be);
    cudaError_t status = cudaSuccess;
    size_t n = 0;
    for (size_t done = 0; done < a->bytes && be->err.code == ERR_NONE; done += n) {
        char *at = NULL;
        status = take_room(s, a->bytes - done, &at, &n);
        if (status == cudaSuccess) {
            copy_bytes(at, (const char *)a->from + done, n);
            status =
                cudaMemcpyAsync((char *)a->to + done, at, n, cudaMemcpyHostToDevice, s->stream);
        }
        if (status != cudaSuccess)
            cuda_fail(be, "to_device", cudaGetErrorString(status));
    }
}

/* ---- to the host ---- */

/* A slot a piece, all slots in flight. Nothing uploaded is lost: the stream's order has it pass
 * before the ring is written by the device; and all slots are free once the last piece is here. */
static cudaError_t download(struct cuda_state *s, const char *from, char *to, size_t bytes)
{
    struct cuda_staging *g = s->staging;
    const size_t n_piece = (bytes + SLOT_BYTES - 1) / SLOT_BYTES;
    cudaError_t status = cudaSuccess;
    for (size_t i = 0; i < n_piece + N_SLOT - 1 && status == cudaSuccess; i++) {
        if (i < n_piece) {
            const size_t at = i * SLOT_BYTES;
            const size_t n = i == n_piece - 1 ? bytes - at : SLOT_BYTES;
            status = cudaMemcpyAsync(g->memory + i % N_SLOT * SLOT_BYTES, from + at, n,
                                     cudaMemcpyDeviceToHost, s->stream);
            if (status == cudaSuccess)
                status = cudaEventRecord(g->passed[i % N_SLOT], s->stream);
        }
        if (i < N_SLOT - 1 || status != cudaSuccess)
            continue;
        const size_t j = i - (N_SLOT - 1), at = j * SLOT_BYTES;
        status = cudaEventSynchronize(g->passed[j % N_SLOT]);
        if (status == cudaSuccess)
            copy_bytes(to + at, g->memory + j % N_SLOT * SLOT_BYTES,
                       j == n_piece - 1 ? bytes - at : SLOT_BYTES);
    }
    g->used = 0;
    return status;
}

bool cuda_read_back(struct backend *be, const char *op, const void *device, void *host,
                    size_t bytes)
{
    if (bytes > 0 && be->err.code == ERR_NONE) {
        const cudaError_t status = download(cuda_state_of(be), device, host, bytes);
        if (status != cudaSuccess)
            cuda_fail(be, op, cudaGetErrorString(status));
    }
    if (be->err.code == ERR_NONE)
        return true;
    memset(host, 0, bytes);
    return false;
}

void cuda_to_host(struct backend *be, const struct copy_args *a, void *scratch)
{
    (void)scratch;
    cuda_read_back(be, "to_host", a->from, a->to, a->bytes);
}
