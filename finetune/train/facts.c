#include "finetune/train/facts.h"

#include <string.h>
#include <unistd.h>

#include "kernels/cuda/load.h"

static json_t *plain(const char *s)
{
    return json_string(text_is_utf8(s, strlen(s), NULL) ? s : "?");
}

/* Modules of one kind with one rank are a row. */
static json_t *adapted_rows(const struct engine *e)
{
    json_t *rows = json_array();
    for (int64_t i = 0; rows != NULL && i < e->n_module; i++) {
        const struct lora_choice *c = &e->choices[i];
        int64_t n = 0;
        if (!c->on || !lora_param_count(&e->modules[i], c->r, &n))
            continue;
        const char *name = lora_kind_name(e->modules[i].kind);
        json_t *row = NULL;
        for (size_t k = 0; k < json_array_size(rows); k++) {
            json_t *have = json_array_get(rows, k);
            if (strcmp(json_string_value(json_object_get(have, "module")), name) == 0 &&
                json_integer_value(json_object_get(have, "rank")) == c->r)
                row = have;
        }
        if (row == NULL) {
            row = json_pack("{s:s,s:I,s:I,s:I}", "module", name, "modules", (json_int_t)0, "rank",
                            (json_int_t)c->r, "parameters", (json_int_t)0);
            if (row == NULL || json_array_append_new(rows, row) != 0)
                break;
        }
        json_t *count = json_object_get(row, "modules"), *sum = json_object_get(row, "parameters");
        json_integer_set(count, json_integer_value(count) + 1);
        json_integer_set(sum, json_integer_value(sum) + n);
    }
    return rows;
}

static json_t *data_facts(const struct train_data *d)
{
    const struct document_report *r = &d->report;
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "documents", (json_int_t)r->n_doc, "records",
                     (json_int_t)r->n_record, "tokens", (json_int_t)r->n_tok, "trained_tokens",
                     (json_int_t)r->n_target, "truncated", (json_int_t)r->n_truncated, "dropped",
                     (json_int_t)(r->n_empty + r->n_too_long + r->n_untargeted),
                     "validation_documents", (json_int_t)d->n_validation);
}

/* The base's digest and the data files with theirs, which tell a sweep whether a finished run is
 * still one. */
static bool put_origins(json_t *facts, json_t *identity)
{
    static const char *const lists[] = { "files", "validation_files" };
    json_t *parts = json_object_get(identity, "parts"), *all = json_array();
    bool ok = all != NULL;
    for (size_t i = 0; ok && i < sizeof lists / sizeof *lists; i++) {
        json_t *files = json_object_get(parts, lists[i]);
        ok = files == NULL || json_array_extend(all, files) == 0;
    }
    return json_object_set_new(facts, "files", all) == 0 && ok &&
           json_object_set(facts, "base_sha256", json_object_get(parts, "base_model")) == 0;
}

json_t *train_facts(const struct trainer *t)
{
    const struct engine *e = &t->engine;
    const struct recipe *r = t->recipe;
    char started[OUTPUT_TIME_SIZE], host[OUTPUT_HOST_SIZE];
    struct cuda_facts cuda;
    output_time(started);
    output_host(host);
    const bool device = e->be.remote && cuda_available(&cuda, NULL);
    json_t *facts =
        json_pack("{s:i,s:o,s:I,s:s,s:s,s:I,s:s,s:s,s:s,s:i,s:I,s:I,s:s,s:I,s:o,s:I,s:o,s:I}",
                  "format", 1, "base_model", plain(r->base_model), "n_step", (json_int_t)t->n_step,
                  "started", started, "host", host, "pid", (json_int_t)getpid(), "version",
                  JAMBATUNE_VERSION, "kernels", e->be.name, "device", device ? cuda.name : "cpu",
                  "threads", e->be.n_thread, "pass_tokens", (json_int_t)t->shape.pass_tokens,
                  "chunk_tokens", (json_int_t)t->shape.chunk_tokens, "gradient_checkpointing",
                  recompute_name(t->shape.recompute), "plan_bytes", (json_int_t)t->bytes.total,
                  "adapted", adapted_rows(e), "adapter_parameters", (json_int_t)e->adapter.n_param,
                  "data", data_facts(&t->data), "logging_steps", (json_int_t)r->logging_steps);
    if (facts != NULL && !put_origins(facts, t->identity)) {
        json_decref(facts);
        return NULL;
    }
    return facts;
}
