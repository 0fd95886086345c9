/* The folder of a merged checkpoint, and what goes there beside the tensors.
 *
 *     struct merged_folder f = { 0 };
 *     ok = merged_folder_open(&f, out, &source, err) && ...
 *          merged_folder_room(&f, bytes, err) &&       // then the folder is made
 *          ... merged_folder_add(&f, "model.safetensors", err), after each file that is there ...
 *     merged_folder_close(&f, ok);                     // not ok: removes what was added
 */
#ifndef FINETUNE_EXPORT_MERGED_FOLDER_H
#define FINETUNE_EXPORT_MERGED_FOLDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "finetune/export/merged_plan.h"
#include "finetune/export/source.h"
#include "kernels/core/err.h"
#include "kernels/core/text.h"

/* Names of files, relative to a folder. */
struct merged_names {
    char **names;
    int64_t n, cap;
};

struct merged_folder {
    const char *path, *base;   /* borrowed */
    struct merged_names sides; /* the base's files to be copied, sorted */
    size_t side_bytes;
    struct merged_names added;
    bool made; /* it was not there before */
};

/* Looks at out and lists the base's files that are copied. Refuses an out that is the base's or the
 * adapter's folder, that is no folder, or that has files of a model in it. */
bool merged_folder_open(struct merged_folder *f, const char *out, const struct export_source *s,
                        struct err *err);

/* Whether `bytes` and the copies fit on out's disk; then makes the folder. */
bool merged_folder_room(struct merged_folder *f, size_t bytes, struct err *err);

/* Remembers a file that now is in the folder. */
bool merged_folder_add(struct merged_folder *f, const char *name, struct err *err);

/* Tokenizer, chat templates, generation_config.json and the like: .json (but for config.json and
 * the tensors' index), .jinja, .txt, .model, .tiktoken, .py and the licence; never weights. */
bool merged_folder_copy_sides(struct merged_folder *f, struct err *err);

void merged_folder_close(struct merged_folder *f, bool keep);

/* model.safetensors.index.json and config.json, by way of a temporary file each. */
bool merged_write_index(struct merged_folder *f, const struct merged_plan *plan, struct err *err);
bool merged_write_config(struct merged_folder *f, const struct merged_plan *plan, struct err *err);

/* config.json's bytes with "tie_word_embeddings" false and nothing else changed; `place` starts a
 * message. */
bool merged_untie_config(const char *bytes, size_t n, const char *place, struct text *out,
                         struct err *err);

#endif
