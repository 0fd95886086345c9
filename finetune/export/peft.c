#include "finetune/export/peft.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <unistd.h>

#include "finetune/export/verify.h"
#include "kernels/core/file.h"
#include "lora/format_peft.h"
#include "lora/peft_spelling.h"

/* ---- rules ---- */

bool export_judge(const struct export_source *s, struct lora_report *report, struct err *err)
{
    struct peft_traits traits = { 0 };
    struct lora_subject subject = { .modules = s->modules,
                                    .n_module = s->n_module,
                                    .choices = s->choices,
                                    .config = &s->lora,
                                    .traits = &traits,
                                    .tied = s->config.tie_word_embeddings };
    const bool ok = peft_read_traits(s->adapter_dir, s->modules, s->n_module, &s->lora, s->choices,
                                     &traits, err) &&
                    lora_judge(&subject, report, err);
    peft_traits_free(&traits);
    return ok;
}

static bool refuse_incurable(const struct export_source *s, enum lora_engine engine,
                             struct err *err)
{
    struct lora_report report = { 0 };
    bool ok = export_judge(s, &report, err);
    for (int i = 0; ok && i < report.n_finding; i++) {
        const struct lora_finding *f = &report.findings[i];
        if (f->engine == engine && !f->cured)
            ok = err_set(err, ERR_DATA, "%s: %s: %s; %s", s->adapter_dir, f->subject, f->problem,
                         f->remedy);
    }
    lora_report_free(&report);
    return ok;
}

/* The rules once more, on what was written. */
static bool check_result(const struct export_source *s, enum lora_engine engine, const char *dir,
                         struct err *err)
{
    struct export_source again = { 0 };
    struct lora_report report = { 0 };
    if (!export_open(&again, dir, s->base_name, err))
        return false;
    bool ok = export_judge(&again, &report, err);
    for (int i = 0; ok && i < report.n_finding; i++) {
        const struct lora_finding *f = &report.findings[i];
        if (f->engine == engine)
            ok = err_set(err, ERR_INTERNAL, "%s: %s: %s, after the export too", dir, f->subject,
                         f->problem);
    }
    lora_report_free(&report);
    export_close(&again);
    return ok;
}

/* ---- folding ---- */

/* Whether transformers 5 takes each layer's experts as they are. */
static bool experts_fuse(const struct export_source *s)
{
    const struct peft_view view = {
        .modules = s->modules, .n = s->n_module, .choices = s->choices, .config = &s->lora
    };
    for (int64_t at = 0; at < view.n;) {
        if (s->modules[at].expert < 0) {
            at++;
            continue;
        }
        const struct peft_experts e = peft_layer_experts(&view, &at);
        if (e.any && !e.fused)
            return false;
    }
    return true;
}

enum lora_fold_what export_fold_for(const struct export_source *s, enum lora_engine engine)
{
    if (engine == LORA_ENGINE_VLLM)
        return LORA_FOLD_ALL;
    if (engine == LORA_ENGINE_TRANSFORMERS5 && !experts_fuse(s))
        return LORA_FOLD_EXPERTS;
    return LORA_FOLD_NOTHING;
}

static void note_fold(const struct lora_fold *f, enum lora_fold_what what, struct text *notes)
{
    const struct {
        int64_t n;
        const char *what;
    } parts[] = {
        { f->n_padded, "modules of a lower rank, filled up with zeros" },
        { f->n_scaled, "modules of another scale, folded into lora_B" },
        { f->n_filled,
          "experts' projections that are not adapted, given a pair of zeros, which adds "
          "nothing" },
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i].n > 0)
            text_printf(notes, "%s: %" PRId64 "\n", parts[i].what, parts[i].n);
    }
    if (what == LORA_FOLD_ALL)
        text_printf(notes, "every module has r %" PRId64 " and lora_alpha %.15g\n", f->config.r,
                    f->config.alpha);
}

static void note_vllm(const struct export_source *s, int64_t r, struct text *notes)
{
    enum { BY_DEFAULT = 16 };
    const int64_t rank = lora_vllm_rank(r);
    text_printf(notes, "start vLLM with --enable-lora --max-lora-rank %" PRId64 "%s\n",
                rank < BY_DEFAULT ? (int64_t)BY_DEFAULT : rank,
                rank <= BY_DEFAULT ? ", its default" : "");
    if (s->config.tie_word_embeddings)
        text_puts(notes, "the base is tied, and vLLM loads a Jamba only from files that have "
                         "lm_head.weight: where the base's do not, serve `jambatune export --to "
                         "merged`\n");
}

/* ---- writing ---- */

/* What does not prove itself must not be taken for an export; a folder made for it goes, too. */
static void undo(const char *dir, bool was_there, bool is_written)
{
    static const char *const names[] = { PEFT_CONFIG_NAME, PEFT_TENSORS_NAME };
    for (size_t i = 0; (is_written || !was_there) && i < sizeof names / sizeof *names; i++) {
        char *path = file_join(dir, names[i]);
        if (path != NULL)
            (void)remove(path);
        free(path);
    }
    if (!was_there)
        (void)rmdir(dir);
}

/* Writes the folded adapter; its values are given back before the files are read again. */
static bool write_folded(const struct export_source *s, enum lora_engine engine,
                         const char *out_dir, struct text *notes, struct err *err)
{
    const struct peft_model_facts facts = { .base_model = s->base_name,
                                            .tied = s->config.tie_word_embeddings,
                                            .router_parameter =
                                                engine == LORA_ENGINE_TRANSFORMERS5 };
    const enum lora_fold_what what = export_fold_for(s, engine);
    struct lora_fold f = { 0 };
    if (!lora_fold_open(&f, &s->adapter, s->choices, &s->lora, what, err))
        return false;
    const bool ok = peft_write(out_dir, &f.adapter, &f.config, &facts, err);
    note_fold(&f, what, notes);
    if (engine == LORA_ENGINE_VLLM)
        note_vllm(s, lora_highest_rank(f.choices, s->n_module), notes);
    lora_fold_close(&f);
    return ok;
}

bool export_peft(const struct export_source *s, enum lora_engine engine, const char *out_dir,
                 struct text *notes, struct err *err)
{
    const bool was_there = file_exists(out_dir);
    if (!refuse_incurable(s, engine, err))
        return false;
    const bool is_written = write_folded(s, engine, out_dir, notes, err);
    const bool ok =
        is_written && export_verify_peft(s, out_dir, err) && check_result(s, engine, out_dir, err);
    if (!ok)
        undo(out_dir, was_there, is_written);
    return ok;
}

bool export_import(const struct export_source *s, const char *out_dir, struct err *err)
{
    const struct peft_model_facts facts = { .base_model = s->base_name,
                                            .tied = s->config.tie_word_embeddings };
    const bool was_there = file_exists(out_dir);
    const bool is_written = peft_write(out_dir, &s->adapter, &s->lora, &facts, err);
    const bool ok = is_written && export_verify_peft(s, out_dir, err);
    if (!ok)
        undo(out_dir, was_there, is_written);
    return ok;
}
