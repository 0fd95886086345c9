/* Marks in the stream: events whose times tell how long what lies between them took.
 *
 * Events are a ring, made with the first mark, so that a step allocates nothing however many it
 * has: when the ring is full its older half is read, which waits at most for work that lies half a
 * ring of marks back. What fails in here is left for the next op to find (cudaGetLastError), and
 * from then on all times are zeros: a time that is not whole is none.
 */
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/context.h"

enum { N_EVENT = 1024 };

struct cuda_marks {
    cudaEvent_t event[N_EVENT];
    int tag[N_EVENT]; /* of what follows the event */
    int first, n;     /* those in use: n from the first on, round the ring */
    double seconds[DEVICE_TAGS];
    bool failed;
};

static struct cuda_marks *open_marks(void)
{
    struct cuda_marks *m = calloc(1, sizeof *m);
    cudaError_t status = cudaSuccess;
    for (int i = 0; m != NULL && i < N_EVENT && status == cudaSuccess; i++)
        status = cudaEventCreate(&m->event[i]);
    if (m != NULL)
        m->failed = status != cudaSuccess;
    return m;
}

void cuda_marks_close(struct cuda_marks *m)
{
    for (int i = 0; m != NULL && i < N_EVENT; i++) {
        if (m->event[i] != NULL)
            cudaEventDestroy(m->event[i]);
    }
    free(m);
}

static int place(const struct cuda_marks *m, int i)
{
    return (m->first + i) % N_EVENT;
}

/* Reads the times up to the mark that then is the first of `left`, at least 1. */
static void settle(struct cuda_marks *m, int left)
{
    cudaError_t status = cudaEventSynchronize(m->event[place(m, m->n - left)]);
    for (; m->n > left && status == cudaSuccess; m->n--) {
        float ms = 0;
        status = cudaEventElapsedTime(&ms, m->event[m->first], m->event[place(m, 1)]);
        m->seconds[m->tag[m->first]] += 1e-3 * (double)ms;
        m->first = place(m, 1);
    }
    m->failed = m->failed || status != cudaSuccess;
}

static void put(struct cuda_state *s, int tag)
{
    struct cuda_marks *m = s->marks;
    if (m->n == N_EVENT)
        settle(m, N_EVENT / 2);
    if (m->failed)
        return;
    const int at = place(m, m->n);
    m->failed = cudaEventRecord(m->event[at], s->stream) != cudaSuccess;
    m->tag[at] = tag;
    m->n++;
}

void cuda_mark(struct device *d, int tag)
{
    struct cuda_state *s = (struct cuda_state *)(void *)d;
    if (s->marks == NULL)
        s->marks = open_marks();
    if (s->marks != NULL && !s->marks->failed)
        put(s, tag);
}

void cuda_marked(struct device *d, double seconds[DEVICE_TAGS])
{
    struct cuda_state *s = (struct cuda_state *)(void *)d;
    struct cuda_marks *m = s->marks;
    memset(seconds, 0, DEVICE_TAGS * sizeof *seconds);
    if (m == NULL || m->failed || m->n == 0)
        return;
    put(s, m->tag[place(m, m->n - 1)]);
    if (!m->failed)
        settle(m, 1);
    if (!m->failed)
        memcpy(seconds, m->seconds, sizeof m->seconds);
    memset(m->seconds, 0, sizeof m->seconds);
}
