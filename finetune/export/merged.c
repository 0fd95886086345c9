#include "finetune/export/merged.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/export/merged_blocks.h"
#include "finetune/export/merged_direct.h"
#include "finetune/export/merged_folder.h"
#include "finetune/export/merged_plan.h"
#include "finetune/export/merged_proof.h"
#include "kernels/core/file.h"

struct job {
    const struct export_source *s;
    const char *out;
    struct shards shards;
    struct merged_plan plan;
    struct merged_folder folder;
    struct merged_team team;
    struct safetensors_writer *writers; /* (n_file) */
};

/* ---- one file ---- */

struct writing {
    const struct merged_plan *plan;
    const struct merged_file *file;
    struct merged_list *list;
    const struct safetensors_writer *writer;
    const struct merged_direct *direct;
    const char *path;
    int n_worker;
};

/* What goes past the page cache, and the rest. */
static bool put_block(const struct writing *w, const struct merged_block *block, size_t place,
                      const char *bytes, struct err *err)
{
    const int64_t index = block->tensor - w->file->first;
    struct merged_part done;
    if (!merged_direct_write(w->direct, place, bytes, block->n, &done))
        return err_set(err, ERR_IO, "%s: cannot be written: %s", w->path, strerror(errno));
    return safetensors_writer_put(w->writer, index, block->at, bytes, done.begin, err) &&
           safetensors_writer_put(w->writer, index, block->at + done.end, bytes + done.end,
                                  block->n - done.end, err);
}

static bool write_block(void *context, struct merged_worker *worker, struct merged_block *block,
                        struct err *err)
{
    const struct writing *w = context;
    const struct merged_block *next = block + w->n_worker;
    if (next - w->list->blocks < w->list->n)
        merged_soon((const char *)w->plan->tensors[next->tensor].data + next->at, next->n);
    const size_t place = w->writer->begin[block->tensor - w->file->first] + block->at;
    const char *bytes = merged_bytes(w->plan, worker, block, place, err);
    if (bytes == NULL)
        return err_prefix(err, "%s", w->path);
    if (w->plan->slots[block->tensor] != NULL)
        block->sum = merged_sum(bytes, block->n);
    merged_done((const char *)w->plan->tensors[block->tensor].data + block->at, block->n);
    return put_block(w, block, place, bytes, err);
}

static bool write_blocks(struct job *job, struct writing *w, struct err *err)
{
    struct merged_direct direct =
        merged_direct_open(safetensors_writer_temporary(w->writer), w->writer->begin[w->file->n]);
    w->direct = &direct;
    const bool ok = merged_team_run(&job->team, w->list, write_block, w, err);
    merged_direct_close(&direct);
    return ok;
}

/* Writes it beside its place, and reads it back. */
static bool write_file(struct job *job, int64_t index, struct err *err)
{
    const struct merged_file *file = &job->plan.files[index];
    struct safetensors_writer *writer = &job->writers[index];
    struct merged_list list = { 0 };
    char *path = file_join(job->out, file->name);
    struct writing w = { .plan = &job->plan,
                         .file = file,
                         .list = &list,
                         .writer = writer,
                         .path = path,
                         .n_worker = job->team.n_worker };
    const bool ok =
        (path != NULL || err_no_memory(err, file->name)) &&
        merged_list_make(&list, &job->plan, file, err) &&
        safetensors_writer_open(writer, path, job->plan.tensors + file->first, file->n, err) &&
        write_blocks(job, &w, err) &&
        merged_prove(&job->team, &list, file, safetensors_writer_temporary(writer), path, err);
    merged_list_free(&list);
    free(path);
    return ok;
}

/* ---- the whole ---- */

static bool open_job(struct job *job, struct err *err)
{
    if (job->s->base_dir == NULL)
        return err_set(err, ERR_USAGE,
                       "'%s': has no weights to merge into; say with --base which checkpoint's "
                       "folder to merge into",
                       job->s->base_name);
    return merged_folder_open(&job->folder, job->out, job->s, err) &&
           shards_open(&job->shards, job->s->base_dir, &job->s->config, err) &&
           merged_plan_make(job->s, &job->shards, &job->plan, err) &&
           merged_team_open(&job->team, &job->plan, err);
}

static bool make_room(struct job *job, struct err *err)
{
    size_t bytes = 0;
    job->writers = calloc((size_t)job->plan.n_file, sizeof *job->writers);
    if (job->writers == NULL)
        return err_no_memory(err, job->out);
    for (int64_t f = 0; f < job->plan.n_file; f++) {
        const struct merged_file *file = &job->plan.files[f];
        const size_t n = safetensors_file_bytes(job->plan.tensors + file->first, file->n);
        if (n == 0 || !size_add(bytes, n, &bytes))
            return err_no_memory(err, file->name);
    }
    return merged_folder_room(&job->folder, bytes, err);
}

static bool write_all(struct job *job, struct err *err)
{
    for (int64_t f = 0; f < job->plan.n_file; f++) {
        if (!write_file(job, f, err))
            return false;
    }
    /* Nothing has its name yet. config.json comes last: without it nobody loads the folder. */
    if (!merged_folder_copy_sides(&job->folder, err))
        return false;
    for (int64_t f = 0; f < job->plan.n_file; f++) {
        if (!safetensors_writer_commit(&job->writers[f], err) ||
            !merged_folder_add(&job->folder, job->plan.files[f].name, err))
            return false;
    }
    const bool sharded = strcmp(job->plan.files[0].name, "model.safetensors") != 0;
    return (!sharded || merged_write_index(&job->folder, &job->plan, err)) &&
           merged_write_config(&job->folder, &job->plan, err);
}

static void close_job(struct job *job, bool ok)
{
    for (int64_t f = 0; job->writers != NULL && f < job->plan.n_file; f++)
        safetensors_writer_abandon(&job->writers[f]);
    free(job->writers);
    merged_folder_close(&job->folder, ok);
    merged_team_close(&job->team);
    merged_plan_free(&job->plan);
    shards_close(&job->shards);
}

static void note(const struct job *job, struct text *notes)
{
    int64_t n_merged = 0;
    for (int64_t i = 0; i < job->plan.n_tensor; i++)
        n_merged += job->plan.slots[i] != NULL;
    text_printf(notes, "%" PRId64 " of %" PRId64 " tensors are merged, the others are the base's\n",
                n_merged, job->plan.n_tensor);
    if (job->plan.untied)
        text_puts(notes, "the base's head is tied, and the adapter changes the embedding or the "
                         "head: they are two matrices now, and tie_word_embeddings is false\n");
    else if (job->s->config.tie_word_embeddings)
        text_puts(notes, "lm_head.weight is written although the head is tied, equal to the "
                         "embedding: vLLM's Jamba asks for it\n");
}

bool export_merged(const struct export_source *s, const char *out_dir, struct text *notes,
                   struct err *err)
{
    struct job job = { .s = s, .out = out_dir };
    const bool ok = open_job(&job, err) && make_room(&job, err) && write_all(&job, err);
    if (ok)
        note(&job, notes);
    close_job(&job, ok);
    return ok;
}
