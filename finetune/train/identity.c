#include "finetune/train/identity.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/train/base_digest.h"
#include "kernels/core/file.h"
#include "kernels/core/sha256.h"
#include "kernels/cuda/load.h"
#include "lora/format_peft.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- which may differ ---- */

/* They cannot change the bytes: what they name or choose is compared by its digest, or is fixed by
 * the checkpoint (chunk and pass), or only says where and how fast. */
static const char *const free_keys[] = {
    "base_model",
    "lora_model_dir",
    "datasets",
    "test_datasets",
    "chat_template",
    "output_dir",
    "resume_from_checkpoint",
    "overwrite_output_dir",
    "micro_batch_size", /* their product is a part */
    "gradient_accumulation_steps",
    "device",
    "precision",
    "threads",
    "memory_budget",
    "gradient_checkpointing",
    "chunk_tokens",
    "gemm_algorithms",
};

/* They change what is to come, in ways that people want. */
static const char *const may_change[] = {
    "max_steps",
    "num_epochs",
    "learning_rate",
    "loraplus_lr_ratio",
    "loraplus_lr_embedding",
    "lr_scheduler",
    "warmup_steps",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "router_aux_loss_coef",
    "max_nonfinite_steps",
    "eval_steps",
    "evals_per_epoch",
    "early_stopping_patience",
    "load_best",
    "sample_prompts",
    "sample_max_tokens",
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "self_check_steps",
    "validation",
    "kernels",
    "program",
};

static bool is_among(const char *name, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(name, list[i]) == 0)
            return true;
    }
    return false;
}

/* ---- digests ---- */

static void add_text(struct sha256 *sum, const char *text)
{
    sha256_update(sum, text, strlen(text) + 1);
}

/* A file by name and content. */
static bool add_file(struct sha256 *sum, const char *folder, const char *name, struct err *err)
{
    char hex[SHA256_HEX_SIZE];
    char *path = file_join(folder, name);
    const bool ok =
        (path != NULL || err_no_memory(err, folder)) && sha256_file(path, hex, NULL, err);
    free(path);
    if (ok) {
        add_text(sum, name);
        add_text(sum, hex);
    }
    return ok;
}

static bool tokenizer_digest(const struct recipe *recipe, char hex[SHA256_HEX_SIZE],
                             struct err *err)
{
    static const char *const files[] = { "tokenizer.json", "tokenizer_config.json" };
    struct sha256 sum;
    sha256_init(&sum);
    char *folder = NULL, *config = NULL;
    bool ok = weights_locate(recipe->base_model, &folder, &config, err);
    for (size_t i = 0; ok && folder != NULL && i < COUNT(files); i++) {
        char *path = file_join(folder, files[i]);
        ok = path != NULL || err_no_memory(err, folder);
        if (ok && file_exists(path))
            ok = add_file(&sum, folder, files[i], err);
        free(path);
    }
    free(folder);
    free(config);
    sha256_end(&sum, hex);
    return ok;
}

/* The documents docs[0..n) of a set, in that order. */
static void documents_digest(const struct document_set *set, const int64_t *docs, int64_t n,
                             char hex[SHA256_HEX_SIZE])
{
    struct sha256 sum;
    sha256_init(&sum);
    for (int64_t i = 0; i < n; i++) {
        const int64_t from = set->start[docs[i]], n_tok = set->start[docs[i] + 1] - from;
        sha256_update(&sum, &n_tok, sizeof n_tok);
        sha256_update(&sum, set->ids + from, (size_t)n_tok * sizeof *set->ids);
        sha256_update(&sum, set->targets + from, (size_t)n_tok * sizeof *set->targets);
    }
    sha256_end(&sum, hex);
}

static void adapter_digest(const struct engine *e, char hex[SHA256_HEX_SIZE])
{
    struct sha256 sum;
    sha256_init(&sum);
    for (int64_t i = 0; i < e->n_module; i++) {
        const struct lora_choice *c = &e->choices[i];
        char text[96];
        if (!c->on)
            continue;
        snprintf(text, sizeof text, "%" PRId64 " %a", c->r, c->scale);
        add_text(&sum, e->modules[i].path);
        add_text(&sum, text);
    }
    sha256_end(&sum, hex);
}

/* Of the adapter that a run began with. */
static bool start_digest(const struct recipe *recipe, char hex[SHA256_HEX_SIZE], struct err *err)
{
    struct sha256 sum;
    sha256_init(&sum);
    const bool ok = recipe->lora_model_dir == NULL ||
                    (add_file(&sum, recipe->lora_model_dir, PEFT_CONFIG_NAME, err) &&
                     add_file(&sum, recipe->lora_model_dir, PEFT_TENSORS_NAME, err));
    sha256_end(&sum, hex);
    return ok;
}

static bool describe_kernels(const struct recipe *recipe, const struct backend *be,
                             struct text *out, struct err *err)
{
    struct cuda_facts facts;
    uint64_t tuned = 0;
    text_printf(out, "%s, activations %s%s%s", be->name, dtype_name(be->act),
                be->gemm_bf16 ? ", products of bfloat16" : "",
                be->nondeterministic ? ", in any order" : "");
    if (be->remote && cuda_available(&facts, NULL))
        text_printf(out, ", %s, cuBLASLt %zu, cuDNN %zu", facts.name, facts.cublaslt, facts.cudnn);
    if (recipe->gemm_algorithms == NULL)
        return true;
    if (!cuda_tuned_digest(recipe->gemm_algorithms, &tuned, err))
        return false;
    text_printf(out, ", algorithms %016" PRIx64, tuned);
    return true;
}

/* ---- putting it together ---- */

static bool put(json_t *object, const char *name, const char *value)
{
    return json_object_set_new(object, name, json_string(value)) == 0;
}

static bool put_keys(json_t *keys, const struct recipe *recipe)
{
    bool ok = true;
    for (int i = 0; ok && i < recipe_n_key(); i++) {
        struct text value = { 0 };
        recipe_value(recipe, i, &value);
        /* A path may hold what JSON cannot. */
        if (value.data != NULL && !text_is_utf8(value.data, value.len, NULL))
            text_clear(&value);
        ok = !value.failed && put(keys, recipe_key(i), value.data != NULL ? value.data : "");
        text_free(&value);
    }
    return ok;
}

static bool put_files(json_t *parts, const struct document_set *set, const char *name,
                      struct err *err)
{
    json_t *files = json_array();
    bool ok = files != NULL || err_no_memory(err, name);
    for (int64_t i = 0; ok && i < set->n_file; i++) {
        char hex[SHA256_HEX_SIZE];
        const char *path = set->files[i].path;
        const bool plain = text_is_utf8(path, strlen(path), NULL);
        ok = sha256_file(path, hex, NULL, err);
        if (ok && json_array_append_new(files, json_pack("{s:s,s:s}", "path", plain ? path : "?",
                                                         "sha256", hex)) != 0)
            ok = err_no_memory(err, name);
    }
    if (ok && json_object_set(parts, name, files) != 0)
        ok = err_no_memory(err, name);
    json_decref(files);
    return ok;
}

static bool put_parts(json_t *parts, const struct recipe *recipe, const struct engine *e,
                      const struct train_data *data, struct err *err)
{
    char base[SHA256_HEX_SIZE], tokenizer[SHA256_HEX_SIZE], documents[SHA256_HEX_SIZE];
    char validation[SHA256_HEX_SIZE], adapter[SHA256_HEX_SIZE], start[SHA256_HEX_SIZE];
    char program[SHA256_HEX_SIZE], batch[32];
    struct text kernels = { 0 };
    bool ok = base_digest(recipe->base_model, base, err) &&
              tokenizer_digest(recipe, tokenizer, err) && start_digest(recipe, start, err) &&
              sha256_file("/proc/self/exe", program, NULL, err) &&
              describe_kernels(recipe, &e->be, &kernels, err);
    if (ok) {
        documents_digest(&data->set, data->split.train, data->split.n_train, documents);
        documents_digest(data->validation, data->validation_docs, data->n_validation, validation);
        adapter_digest(e, adapter);
        snprintf(batch, sizeof batch, "%" PRId64,
                 recipe->data.micro_batch_size * recipe->data.gradient_accumulation_steps);
        ok = (!kernels.failed && put(parts, "base_model", base) &&
              put(parts, "tokenizer", tokenizer) && put(parts, "documents", documents) &&
              put(parts, "validation", validation) && put(parts, "adapter", adapter) &&
              put(parts, "start", start) && put(parts, "program", program) &&
              put(parts, "batch", batch) && put(parts, "kernels", kernels.data)) ||
             err_no_memory(err, "the run's identity");
    }
    text_free(&kernels);
    const bool own = data->validation != NULL && data->validation != &data->set;
    return ok && put_files(parts, &data->set, "files", err) &&
           (!own || put_files(parts, data->validation, "validation_files", err));
}

json_t *identity_of(const struct recipe *recipe, const struct engine *e,
                    const struct train_data *data, struct err *err)
{
    json_t *identity = json_object(), *keys = json_object(), *parts = json_object();
    bool ok = (keys != NULL && parts != NULL && put_keys(keys, recipe) &&
               json_object_set(identity, "recipe", keys) == 0 &&
               json_object_set(identity, "parts", parts) == 0) ||
              err_no_memory(err, "the run's identity");
    ok = ok && put_parts(parts, recipe, e, data, err);
    json_decref(keys);
    json_decref(parts);
    if (ok)
        return identity;
    json_decref(identity);
    return NULL;
}

/* ---- comparing ---- */

/* The next name of a list: commas and blanks apart. Its length; 0 at the end. */
static size_t next_name(const char **p)
{
    if (*p == NULL)
        return 0;
    *p += strspn(*p, ", ");
    return strcspn(*p, ", ");
}

static bool is_allowed(const char *name, const char *allow)
{
    size_t n;
    for (const char *p = allow; (n = next_name(&p)) > 0; p += n) {
        if (n == strlen(name) && strncmp(p, name, n) == 0)
            return true;
    }
    return false;
}

bool identity_check_allowed(const char *allow, struct err *err)
{
    size_t n;
    for (const char *p = allow; (n = next_name(&p)) > 0; p += n) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), p);
        if (is_among(name, may_change, COUNT(may_change)))
            continue;
        struct text list = { 0 };
        for (size_t i = 0; i < COUNT(may_change); i++)
            text_printf(&list, "%s%s", i > 0 ? ", " : "", may_change[i]);
        err_set(err, ERR_USAGE,
                "command line: --allow-change: '%s' may not differ; expected some of: %s", name,
                list.data != NULL ? list.data : "?");
        text_free(&list);
        return false;
    }
    return true;
}

/* What a part is called in a message. */
static const char *part_text(const char *name)
{
    static const char *const texts[][2] = {
        { "base_model", "the base model" },
        { "tokenizer", "the base model's tokenizer" },
        { "documents", "the training documents" },
        { "validation", "the validation documents" },
        { "adapter", "the adapted modules" },
        { "start", "the adapter of lora_model_dir" },
        { "program", "the program" },
        { "batch", "micro_batch_size * gradient_accumulation_steps" },
        { "kernels", "what computes" },
    };
    for (size_t i = 0; i < COUNT(texts); i++) {
        if (strcmp(texts[i][0], name) == 0)
            return texts[i][1];
    }
    return name;
}

/* The first data file of a part that is another one now, or NULL. */
static const char *changed_file(json_t *saved, json_t *now, const char *part)
{
    const bool validation =
        strcmp(part, "validation") == 0 && json_object_get(now, "validation_files") != NULL;
    const char *list = validation ? "validation_files" : "files";
    json_t *a = json_object_get(saved, list), *b = json_object_get(now, list);
    for (size_t i = 0; i < json_array_size(b); i++) {
        json_t *x = json_array_get(a, i), *y = json_array_get(b, i);
        const char *was = json_string_value(json_object_get(x, "sha256"));
        const char *is = json_string_value(json_object_get(y, "sha256"));
        if (was == NULL || is == NULL || strcmp(was, is) != 0)
            return json_string_value(json_object_get(y, "path"));
    }
    return NULL;
}

static bool refuse(const char *place, const char *name, const char *what, const char *was,
                   const char *is, struct err *err)
{
    const bool way = is_among(name, may_change, COUNT(may_change));
    return err_set(err, ERR_RECIPE,
                   "%s: was made with another value of %s: '%.200s' there, '%.200s' now; set it "
                   "back, %s%s",
                   place, what, was, is,
                   way ? "or allow it: --allow-change " : "or begin a new run", way ? name : "");
}

/* One value there and now; unequal ones are allowed, or an error. */
static bool compare(const char *name, const char *what, json_t *was, json_t *is, const char *allow,
                    const char *place, struct text *changes, struct err *err)
{
    const char *x = json_string_value(was), *y = json_string_value(is);
    if (x != NULL && y != NULL && strcmp(x, y) == 0)
        return true;
    x = x != NULL ? x : "(not there)";
    y = y != NULL ? y : "(not there)";
    if (!is_allowed(name, allow))
        return refuse(place, name, what, x, y, err);
    text_printf(changes, "%s: %.200s -> %.200s\n", name, x, y);
    return true;
}

static bool compare_parts(json_t *saved, json_t *now, const char *allow, const char *place,
                          struct text *changes, struct err *err)
{
    const char *name = NULL;
    json_t *value = NULL;
    json_object_foreach(now, name, value)
    {
        if (json_is_array(value)) /* files: they name what a digest finds */
            continue;
        if (compare(name, part_text(name), json_object_get(saved, name), value, allow, place,
                    changes, err))
            continue;
        const char *file = strcmp(name, "documents") == 0 || strcmp(name, "validation") == 0
                               ? changed_file(saved, now, name)
                               : NULL;
        if (file != NULL)
            err_prefix(err, "%s: has changed", file);
        return false;
    }
    return true;
}

bool identity_compare(json_t *saved, json_t *now, const char *allow, const char *place,
                      struct text *changes, struct err *err)
{
    json_t *was = json_object_get(saved, "recipe"), *is = json_object_get(now, "recipe");
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(is, key, value)
    {
        char what[96];
        snprintf(what, sizeof what, "'%.80s'", key);
        if (!is_among(key, free_keys, COUNT(free_keys)) &&
            !compare(key, what, json_object_get(was, key), value, allow, place, changes, err))
            return false;
    }
    return compare_parts(json_object_get(saved, "parts"), json_object_get(now, "parts"), allow,
                         place, changes, err);
}
