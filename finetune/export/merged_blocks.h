/* The data of a merged checkpoint block by block: each thread takes the next one, computes its
 * bytes from the mapped base and hands them on, so that some read while others compute or write.
 *
 *     struct merged_list list = { 0 };       // of a file's blocks
 *     struct merged_team team = { 0 };
 *     ok = merged_list_make(&list, &plan, &plan.files[0], err) &&
 *          merged_team_open(&team, &plan, err) &&
 *          merged_team_run(&team, &list, work, context, err);
 *     merged_list_free(&list);
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
    uint64_t sum; /* merged_sum of what was written, for who reads it back */
};

/* Every byte of a file's tensors, each in one block. */
struct merged_list {
    struct merged_block *blocks;
    int64_t n;
};

bool merged_list_make(struct merged_list *list, const struct merged_plan *plan,
                      const struct merged_file *file, struct err *err);
void merged_list_free(struct merged_list *list);

/* What a thread works with. */
struct merged_worker {
    struct backend be; /* one thread's */
    struct arena scratch;
    char *buffer; /* room for a block at any place of a file */
};

struct merged_team {
    const struct merged_plan *plan;
    struct merged_worker *workers;
    int n_worker;
};

bool merged_team_open(struct merged_team *team, const struct merged_plan *plan, struct err *err);
void merged_team_close(struct merged_team *team);

typedef bool merged_work(void *context, struct merged_worker *worker, struct merged_block *block,
                         struct err *err);

/* Calls work for every block, by all threads, until one fails. */
bool merged_team_run(struct merged_team *team, struct merged_list *list, merged_work *work,
                     void *context, struct err *err);

/* The block's bytes as they are to be written at `place` of the file: in the worker's buffer, where
 * merged_direct.h has them. NULL with a message when a value does not fit its type. */
const char *merged_bytes(const struct merged_plan *plan, struct merged_worker *worker,
                         const struct merged_block *block, size_t place, struct err *err);

/* A checksum that any other byte changes, and any other place of one. */
uint64_t merged_sum(const void *bytes, size_t n);

/* Advice to the kernel about n bytes of a mapped file, whole pages of them: they are read soon; or
 * were read for the last time, and would look like memory in use. */
void merged_soon(const void *data, size_t n);
void merged_done(const void *data, size_t n);

#endif
