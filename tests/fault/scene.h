/* A tiny job in a folder of its own, in memory where the machine has /dev/shm: a Jamba with Mamba,
 * attention, MoE and dense layers, documents, recipes, an adapter.
 *
 *     base/, train.jsonl, train.yaml     training on token ids: dropout, accumulation, packing,
 *                                        evaluations, a checkpoint every other step
 *     swept/                             a sweep's folder, of three runs
 *     talker/, chat.jsonl, chat.yaml     a base with a tokenizer, and conversations; ask.jsonl: one
 * to answer text.jsonl, ids.jsonl, adapter/    records, and what the run below made out/ of runs
 */
#ifndef TESTS_FAULT_SCENE_H
#define TESTS_FAULT_SCENE_H

#include <stdbool.h>

#include "tests/fault/launch.h"
#include "tests/fault/tally.h"
#include "tests/fault/tree.h"

struct scene {
    char *folder, *out, *recipe;
    const char *program, *shim;
    struct tree done; /* out/ after an undisturbed run */
    bool resumes;     /* the program knows checkpoints */
};

/* Runs the recipe once. extra: more lines for train.yaml, or "". */
void scene_open(struct scene *s, const char *program, const char *shim, const char *extra);
void scene_close(struct scene *s);

/* A path in the scene; caller frees. */
char *scene_path(const struct scene *s, const char *name);

/* Goes on with the run in out/, undisturbed: it must succeed and end with the bytes of `done`.
 * `what` starts messages. */
void scene_finish(const struct scene *s, struct tally *t, const char *what);

/* The same after the run has ended: final adapter, best/ and checkpoints. */
void scene_check_done(const struct scene *s, struct tally *t, const char *what);

/* Every checkpoint-N in out/ verifies, and a run that said that it saved one has one. Steps before
 * `least` are not enough. Returns the newest step, 0 when there is none. */
int64_t scene_check_checkpoints(const struct scene *s, struct tally *t, int64_t least,
                                const char *what);

/* The N of the last "checkpoint-N is whole" in bytes[0..n), the word of a run that is stopped; 0:
 * it is not there. */
int64_t scene_step_claimed(const char *bytes, size_t n);

const char *scene_last_line(const char *err);

/* That, for messages; all of err where the environment has FAULT_TRACE, which shows the stack of
 * what failed, too. */
const char *scene_message(const char *err);

#endif
