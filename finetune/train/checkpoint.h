/* checkpoint-N/: the adapter after step N, and all that is needed to go on from there.
 *
 *     adapter_config.json, adapter_model.safetensors    an adapter folder like any other
 *     recipe.yaml                                       the recipe that was running
 *     training_state.safetensors                        finetune/train/state.h
 *     manifest.json                                     size and SHA-256 of each of the others
 *
 * Written as checkpoint-N.tmp/, every file synced, then renamed, then the folder synced: under its
 * own name a checkpoint is whole. What is damaged later is found by the manifest.
 */
#ifndef FINETUNE_TRAIN_CHECKPOINT_H
#define FINETUNE_TRAIN_CHECKPOINT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "finetune/train/state.h"
#include "kernels/core/err.h"
#include "kernels/core/text.h"
#include "lora/adapter.h"
#include "lora/config.h"
#include "lora/format_peft.h"

/* What is written; borrowed. */
struct checkpoint {
    int64_t step;
    const struct lora_adapter *adapter; /* its params are written */
    const struct lora_config *lora;
    struct peft_model_facts facts;
    const char *recipe; /* text of recipe.yaml */
    struct state_blocks blocks;
    json_t *state;
};

/* Writes output_dir/checkpoint-N whole, over one that is there. Too little space on the disk is
 * told before anything is written. */
bool checkpoint_write(const char *output_dir, const struct checkpoint *c, struct err *err);

/* Reads all of a checkpoint's files and holds them against its manifest: missing, extra size, other
 * bytes are errors that name the file (ERR_DATA). */
bool checkpoint_verify(const char *dir, struct err *err);

/* The folders checkpoint-N of output_dir, newest first; a folder that is not there has none. */
struct checkpoint_list {
    int64_t *steps;
    int64_t n;
};
bool checkpoint_list(const char *output_dir, struct checkpoint_list *list, struct err *err);
void checkpoint_list_free(struct checkpoint_list *list);

/* output_dir/checkpoint-N; caller frees; NULL when memory is out. */
char *checkpoint_path(const char *output_dir, int64_t step);

/* For a run that begins, before any is looked for: where the replacing of a checkpoint was cut
 * short, the old one goes back to its place, or goes away where the new one has it. */
bool checkpoint_settle(const char *output_dir, struct err *err);

/* The newest whole one (verified); damaged ones on the way are named in `notes`, a line each. *dir
 * is NULL when there is none at all; damaged ones alone are an error that says so. Caller frees. */
bool checkpoint_find(const char *output_dir, char **dir, struct text *notes, struct err *err);

/* Removes all but the `keep` newest (0: keeps all), and what unfinished writes left. Never the one
 * of step `newest`. */
bool checkpoint_prune(const char *output_dir, int64_t keep, int64_t newest, struct err *err);

/* For a run that goes on from step `step`: later ones that are damaged become checkpoint-N.damaged;
 * one that is whole is an error. */
bool checkpoint_set_aside(const char *output_dir, int64_t step, struct err *err);

/* Removes every one, and those that were set aside. */
bool checkpoint_remove_all(const char *output_dir, struct err *err);

/* Bytes that one takes on the disk, a little more than less. */
size_t checkpoint_bytes(int64_t n_param, int64_t n_slot);

#endif
