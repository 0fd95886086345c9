#include "finetune/export/merged_blocks.h"

#include <assert.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "finetune/export/merged_direct.h"
#include "kernels/cpu/cpu.h"
#include "lora/merge.h"

enum { BLOCK_BYTES = 1 << 22 };

/* ---- blocks ---- */

static size_t row_bytes(const struct safetensors_tensor *t)
{
    return (size_t)t->dims[t->n_dim - 1] * dtype_size(t->dtype);
}

/* How much of tensor i is a block: whole rows where it is merged. */
static size_t block_bytes(const struct merged_plan *plan, int64_t i)
{
    if (plan->slots[i] == NULL)
        return BLOCK_BYTES;
    const size_t row = row_bytes(&plan->tensors[i]);
    return row > BLOCK_BYTES ? row : BLOCK_BYTES / row * row;
}

bool merged_list_make(struct merged_list *list, const struct merged_plan *plan,
                      const struct merged_file *file, struct err *err)
{
    size_t n = 0, bytes = 0, covered = 0;
    for (int64_t i = file->first; i < file->first + file->n; i++) {
        n += plan->tensors[i].bytes / block_bytes(plan, i) + 1;
        bytes += plan->tensors[i].bytes;
    }
    *list = (struct merged_list){ .blocks = malloc(n * sizeof *list->blocks + 1) };
    if (list->blocks == NULL)
        return err_no_memory(err, file->name);
    for (int64_t i = file->first; i < file->first + file->n; i++) {
        const size_t step = block_bytes(plan, i), end = plan->tensors[i].bytes;
        for (size_t at = 0; at < end; at += step) {
            const size_t some = end - at < step ? end - at : step;
            list->blocks[list->n++] = (struct merged_block){ .tensor = i, .at = at, .n = some };
            covered += some;
        }
    }
    assert(covered == bytes && "a block is missing: writing and proof would both pass it over");
    return true;
}

void merged_list_free(struct merged_list *list)
{
    free(list->blocks);
    *list = (struct merged_list){ 0 };
}

const char *merged_bytes(const struct merged_plan *plan, struct merged_worker *worker,
                         const struct merged_block *block, size_t place, struct err *err)
{
    const struct safetensors_tensor *t = &plan->tensors[block->tensor];
    const char *base = (const char *)t->data + block->at;
    char *out = worker->buffer + merged_direct_lead(place);
    if (plan->slots[block->tensor] == NULL)
        return memcpy(out, base, block->n);
    const struct lora_merge m = { .slot = plan->slots[block->tensor], .dtype = t->dtype };
    const size_t row = row_bytes(t), past = place % dtype_size(t->dtype);
    /* The place may not be one for such numbers in memory. */
    if (!lora_merge_rows(&worker->be, &m, (int64_t)(block->at / row), (int64_t)(block->n / row),
                         base, out - past)) {
        err_set(err, ERR_DATA,
                "tensor '%s': a value of W + scale B A does not fit in %s; merge into the "
                "checkpoint in BF16 or F32, or check the adapter",
                t->name, dtype_name(t->dtype));
        return NULL;
    }
    return past > 0 ? memmove(out, out - past, block->n) : out;
}

/* ---- threads ---- */

static bool open_worker(struct merged_worker *w, const struct merged_plan *plan, struct err *err)
{
    size_t scratch = 0, buffer = 1;
    cpu_backend_init(&w->be, &w->scratch, 1);
    for (int64_t i = 0; i < plan->n_tensor; i++) {
        const struct lora_merge m = { .slot = plan->slots[i], .dtype = plan->tensors[i].dtype };
        const size_t needed = m.slot != NULL ? lora_merge_scratch(&w->be, &m) : 0;
        scratch = needed > scratch ? needed : scratch;
        const size_t room = block_bytes(plan, i);
        buffer = room > buffer ? room : buffer;
    }
    w->buffer = merged_direct_buffer(buffer);
    return (w->buffer != NULL || err_no_memory(err, "a block of a tensor")) &&
           arena_init(&w->scratch, "merge", scratch, err);
}

bool merged_team_open(struct merged_team *team, const struct merged_plan *plan, struct err *err)
{
    *team = (struct merged_team){ .plan = plan, .n_worker = omp_get_max_threads() };
    team->workers = calloc((size_t)team->n_worker, sizeof *team->workers);
    bool ok = team->workers != NULL || err_no_memory(err, "the threads");
    for (int i = 0; ok && i < team->n_worker; i++)
        ok = open_worker(&team->workers[i], plan, err);
    if (!ok)
        merged_team_close(team);
    return ok;
}

void merged_team_close(struct merged_team *team)
{
    for (int i = 0; team->workers != NULL && i < team->n_worker; i++) {
        arena_free(&team->workers[i].scratch);
        free(team->workers[i].buffer);
    }
    free(team->workers);
    *team = (struct merged_team){ 0 };
}

/* The first error of any thread. */
struct outcome {
    bool failed;
    struct err *err;
};

static bool has_failed(struct outcome *o)
{
    bool failed = false;
#pragma omp atomic read
    failed = o->failed;
    return failed;
}

static void fail(struct outcome *o, const struct err *why)
{
#pragma omp critical(merged_failure)
    if (!has_failed(o)) {
        if (o->err != NULL)
            *o->err = *why;
#pragma omp atomic write
        o->failed = true;
    }
}

bool merged_team_run(struct merged_team *team, struct merged_list *list, merged_work *work,
                     void *context, struct err *err)
{
    struct outcome outcome = { .err = err };
#pragma omp parallel for num_threads(team->n_worker) schedule(dynamic)
    for (int64_t i = 0; i < list->n; i++) {
        struct err why = { 0 };
        if (!has_failed(&outcome) &&
            !work(context, &team->workers[omp_get_thread_num()], &list->blocks[i], &why))
            fail(&outcome, &why);
    }
    return !outcome.failed;
}

/* ---- checksums ---- */

/* Fletcher's: a sum, and the sum of its values on the way, in lanes that make vector code. */
uint64_t merged_sum(const void *bytes, size_t n)
{
    enum { LANES = 8 };
    uint64_t sum[LANES] = { 0 }, sums[LANES] = { 0 }, x[LANES];
    const char *from = bytes;
    for (; n > 0;) {
        const size_t some = n < sizeof x ? n : sizeof x;
        if (some < sizeof x)
            memset(x, 0, sizeof x);
        memcpy(x, from, some);
        for (int i = 0; i < LANES; i++) {
            sum[i] += x[i];
            sums[i] += sum[i];
        }
        from += some;
        n -= some;
    }
    uint64_t all = 0;
    for (int i = 0; i < 2 * LANES; i++) {
        all = (all ^ (i < LANES ? sum[i] : sums[i - LANES])) * 0x9E3779B97F4A7C15u;
        all ^= all >> 32; /* a product carries upwards only */
    }
    return all;
}

/* ---- pages ---- */

/* The whole pages of data .. data + n; false when there is none. */
static bool whole_pages(const void *data, size_t n, uintptr_t *begin, uintptr_t *end)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    *begin = ((uintptr_t)data + page - 1) / page * page;
    *end = ((uintptr_t)data + n) / page * page;
    return *begin < *end;
}

/* Asking for what is in the page cache already costs as much as copying a tenth of it. */
void merged_soon(const void *data, size_t n)
{
    uintptr_t begin, end;
    unsigned char is_there = 0;
    if (whole_pages(data, n, &begin, &end) &&
        (mincore((void *)begin, 1, &is_there) != 0 || (is_there & 1) == 0))
        madvise((void *)begin, end - begin, MADV_WILLNEED); /* best effort */
}

void merged_done(const void *data, size_t n)
{
    uintptr_t begin, end;
    if (whole_pages(data, n, &begin, &end))
        madvise((void *)begin, end - begin, MADV_DONTNEED); /* best effort */
}
