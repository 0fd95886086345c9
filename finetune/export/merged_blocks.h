/* The data of a merged checkpoint block by block: each thread takes the next one, computes its
 * bytes from the mapped base and hands them on, so that some read while others compute or write.
 *
 *     struct merged_team team = { 0 };
 *     ok = merged_team_open(&team, &plan, err) &&
 *          merged_team_run(&team, &plan.files[0], work, context, err);
 *     merged_team_close(&team);
 */
#ifndef FINETUNE_EXPORT_MERGED_BLOCKS_H
#define FINETUNE_EXPORT_MERGED_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "finetune/export/merged_plan.h"
#include "kernels/core/arena.h"
#include "kernels/core/backend.h"
#include "kernels/core/err.h"

/* Some of a tensor: bytes at .. at + n of its data; whole rows where the tensor is merged. */
struct merged_block {
    int64_t tensor; /* in the plan */
    size_t at, n;
};

/* What a thread works with. */
struct merged_worker {
    struct backend be; /* one thread's */
    struct arena scratch;
    char *buffer; /* room for a block */
};

struct merged_team {
    const struct merged_plan *plan;
    struct merged_worker *workers;
    int n_worker;
};

bool merged_team_open(struct merged_team *team, const struct merged_plan *plan, struct err *err);
void merged_team_close(struct merged_team *team);

typedef bool merged_work(void *context, struct merged_worker *worker,
                         const struct merged_block *block, struct err *err);

/* Calls work for every block of the file, by all threads, until one fails. Afterwards the base's
 * pages of a block are given back: they come from its mapped file. */
bool merged_team_run(struct merged_team *team, const struct merged_file *file, merged_work *work,
                     void *context, struct err *err);

/* The block's bytes as they are to be written: in the base's mapping, or merged in the worker's
 * buffer. NULL with a message when a value does not fit its type. */
const void *merged_bytes(const struct merged_plan *plan, struct merged_worker *worker,
                         const struct merged_block *block, struct err *err);

/* Advice to the kernel about n bytes of a mapped file, whole pages of them: they are read soon; or
 * were read for the last time, and would look like memory in use. */
void merged_soon(const void *data, size_t n);
void merged_done(const void *data, size_t n);

#endif
