#include "datasets/template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datasets/config.h"
#include "datasets/template_frame.h"
#include "kernels/core/file.h"
#include "kernels/core/json.h"
#include "kernels/core/json_memory.h"
#include "kernels/core/text.h"

enum { TEMPLATE_LIMIT = 1 << 20, CONFIG_LIMIT = 64 << 20 };

/* Made by CMake of datasets/templates. */
extern const char template_own_jamba[];
extern const char template_own_chatml[];

struct chat_template {
    struct jinja_template *main, *tool_use; /* tool_use NULL: main is for all */
    char *origin;                           /* NULL: there is none */
    struct err problem; /* why main is NULL, or tool_use refused: said when it is to be rendered */
    bool tool_use_refused;
    json_t *variables; /* special tokens, over them the recipe's */
    struct jinja_env env;
    struct template_frame frame, tool_frame;
};

void template_free(struct chat_template *t)
{
    if (t == NULL)
        return;
    jinja_free(t->main);
    jinja_free(t->tool_use);
    json_decref(t->variables);
    template_frame_free(&t->frame);
    template_frame_free(&t->tool_frame);
    free(t->origin);
    free(t);
}

/* The text of one of ours, or NULL. */
static const char *own_template(const char *name)
{
    if (strcmp(name, "jamba") == 0)
        return template_own_jamba;
    return strcmp(name, "chatml") == 0 ? template_own_chatml : NULL;
}

const char *template_origin(const struct chat_template *t)
{
    return t->origin;
}

/* ---- variables ---- */

/* The text of a token: a string, or an object with "content"; NULL otherwise. */
static json_t *token_text(json_t *value)
{
    json_t *text = json_is_object(value) ? json_object_get(value, "content") : value;
    return json_is_string(text) && json_string_length(text) > 0 ? text : NULL;
}

static bool add_token(json_t *variables, const char *name, json_t *value)
{
    json_t *text = token_text(value);
    if (text == NULL || json_object_get(variables, name) != NULL)
        return true;
    return json_object_set(variables, name, text) == 0;
}

static bool add_more_tokens(json_t *variables, json_t *list)
{
    static const char name[] = "additional_special_tokens";
    if (json_array_size(list) == 0 || json_object_get(variables, name) != NULL)
        return true;
    json_t *texts = json_array();
    bool ok = texts != NULL;
    for (size_t i = 0; ok && i < json_array_size(list); i++) {
        json_t *text = token_text(json_array_get(list, i));
        ok = text == NULL || json_array_append(texts, text) == 0;
    }
    ok = ok && json_object_set(variables, name, texts) == 0;
    json_decref(texts);
    return ok;
}

/* What `map`, a tokenizer_config.json or special_tokens_map.json, names and is not there yet. */
static bool add_tokens(json_t *variables, json_t *map)
{
    static const char *const names[] = { "bos_token", "eos_token", "unk_token", "sep_token",
                                         "pad_token", "cls_token", "mask_token" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!add_token(variables, names[i], json_object_get(map, names[i])))
            return false;
    }
    return add_more_tokens(variables, json_object_get(map, "additional_special_tokens"));
}

/* ---- finding it ---- */

/* Reads folder/name when it is there; *object stays NULL when it is not. */
static bool load_optional(const char *folder, const char *name, json_t **object, struct err *err)
{
    char *path = file_join(folder, name);
    if (path == NULL)
        return err_no_memory(err, folder);
    bool ok = true;
    if (file_exists(path)) {
        *object = json_load_object(path, CONFIG_LIMIT, err);
        ok = *object != NULL;
    }
    free(path);
    return ok;
}

/* A template of the checkpoint: one that does not parse is a problem of conversations only. */
static bool parse_found(struct chat_template *t, struct jinja_template **slot, const char *text,
                        size_t n, const char *origin, struct err *err)
{
    if (slot == &t->main) {
        t->origin = text_copy(origin);
        if (t->origin == NULL)
            return err_no_memory(err, "the chat template");
    }
    struct err problem = { 0 };
    if (n > TEMPLATE_LIMIT)
        err_set(&problem, ERR_DATA, "%s: has %zu bytes; at most %d are expected of a template",
                origin, n, TEMPLATE_LIMIT);
    else
        *slot = jinja_parse(text, n, origin, &problem);
    if (*slot != NULL)
        return true;
    if (problem.code == ERR_NO_MEMORY) {
        if (err != NULL)
            *err = problem;
        return false;
    }
    t->problem = problem;
    t->tool_use_refused = slot == &t->tool_use;
    return true;
}

static bool parse_file(struct chat_template *t, struct jinja_template **slot, const char *path,
                       struct err *err)
{
    char *text = NULL;
    size_t n = 0;
    const bool ok =
        file_read(path, TEMPLATE_LIMIT, &text, &n, err) && parse_found(t, slot, text, n, path, err);
    free(text);
    return ok;
}

/* folder/name when it is there. */
static bool parse_optional(struct chat_template *t, struct jinja_template **slot,
                           const char *folder, const char *name, struct err *err)
{
    char *path = file_join(folder, name);
    if (path == NULL)
        return err_no_memory(err, folder);
    const bool ok = !file_exists(path) || parse_file(t, slot, path, err);
    free(path);
    return ok;
}

/* One of the named templates of tokenizer_config.json: an object of texts, or a list of objects. */
static json_t *find_named(json_t *templates, const char *name)
{
    if (json_is_object(templates))
        return json_object_get(templates, name);
    for (size_t i = 0; i < json_array_size(templates); i++) {
        json_t *entry = json_array_get(templates, i);
        const json_t *its = json_object_get(entry, "name");
        if (json_is_string(its) && strcmp(json_string_value(its), name) == 0)
            return json_object_get(entry, "template");
    }
    return NULL;
}

static bool parse_member(struct chat_template *t, struct jinja_template **slot, json_t *value,
                         const char *path, const char *name, struct err *err)
{
    char *origin = text_format("%s: %s", path, name);
    if (origin == NULL)
        return err_no_memory(err, path);
    bool ok = true;
    if (json_is_string(value))
        ok = parse_found(t, slot, json_string_value(value), json_string_length(value), origin, err);
    else
        err_set(&t->problem, ERR_DATA, "%s: is %s; expected a template's text", origin,
                json_type_name(value));
    free(origin);
    return ok;
}

static bool parse_config(struct chat_template *t, json_t *templates, const char *path,
                         struct err *err)
{
    if (templates == NULL || json_is_null(templates))
        return true;
    if (!json_is_array(templates) && !json_is_object(templates))
        return parse_member(t, &t->main, templates, path, "chat_template", err);
    json_t *main = find_named(templates, "default"), *tool_use = find_named(templates, "tool_use");
    if (main == NULL) {
        err_set(&t->problem, ERR_DATA,
                "%s: \"chat_template\" has several templates, but none is named 'default'; set "
                "chat_template to a file with the one to use",
                path);
        return true;
    }
    return parse_member(t, &t->main, main, path, "chat_template (default)", err) &&
           (tool_use == NULL ||
            parse_member(t, &t->tool_use, tool_use, path, "chat_template (tool_use)", err));
}

static bool find_own(struct chat_template *t, const char *folder, json_t *config, struct err *err)
{
    char *path = file_join(folder, "tokenizer_config.json");
    if (path == NULL)
        return err_no_memory(err, folder);
    err_set(&t->problem, ERR_NO_INPUT,
            "%s has no chat template, neither chat_template.jinja nor \"chat_template\" in "
            "tokenizer_config.json; set chat_template to a template's file, to 'jamba' (<|bom|> "
            "... <|eom|>) or to 'chatml' (<|im_start|> ... <|im_end|>)",
            folder);
    bool ok = parse_optional(t, &t->main, folder, "chat_template.jinja", err);
    if (ok && t->origin != NULL)
        ok = parse_optional(t, &t->tool_use, folder, "additional_chat_templates/tool_use.jinja",
                            err);
    else if (ok)
        ok = parse_config(t, json_object_get(config, "chat_template"), path, err);
    free(path);
    return ok;
}

static bool find_chosen(struct chat_template *t, const char *chosen, struct err *err)
{
    const char *own = own_template(chosen);
    if (own == NULL && !file_exists(chosen))
        return err_set(err, ERR_RECIPE,
                       "chat_template: '%.200s' is no file, and no template of ours; expected a "
                       "path, 'jamba' or 'chatml'",
                       chosen);
    if (own != NULL ? !parse_found(t, &t->main, own, strlen(own), chosen, err)
                    : !parse_file(t, &t->main, chosen, err))
        return false;
    if (t->main == NULL && err != NULL)
        *err = t->problem;
    return t->main != NULL;
}

static bool prepare(struct chat_template *t, const struct template_options *o, json_t *config,
                    json_t *map, struct err *err)
{
    t->variables = json_object();
    if (t->variables == NULL || !add_tokens(t->variables, config) ||
        !add_tokens(t->variables, map) ||
        (o->variables != NULL && json_object_update(t->variables, o->variables) != 0))
        return err_no_memory(err, "the chat template");
    const char *date = o->date != NULL ? o->date : DATA_DATE;
    if (!data_date_read(date, &t->env.now))
        return err_set(err, ERR_RECIPE,
                       "chat_template_date: is '%.60s'; expected a date such as 2025-01-01 or "
                       "2025-01-01 18:30:00",
                       date);
    if (o->chosen != NULL)
        return find_chosen(t, o->chosen, err);
    if (o->model_dir != NULL)
        return find_own(t, o->model_dir, config, err);
    err_set(&t->problem, ERR_NO_INPUT,
            "there is no checkpoint to take a chat template from; set chat_template to a "
            "template's file, to 'jamba' or to 'chatml'");
    return true;
}

struct chat_template *template_open(const struct template_options *options, struct err *err)
{
    struct chat_template *t = calloc(1, sizeof *t);
    json_t *config = NULL, *map = NULL;
    bool ok = t != NULL || err_no_memory(err, "the chat template");
    if (ok && options->model_dir != NULL)
        ok = load_optional(options->model_dir, "tokenizer_config.json", &config, err) &&
             load_optional(options->model_dir, "special_tokens_map.json", &map, err);
    ok = ok && prepare(t, options, config, map, err);
    ok = ok && template_frame_learn(t, false, &t->frame, err) &&
         template_frame_learn(t, true, &t->tool_frame, err);
    json_decref(config);
    json_decref(map);
    if (ok)
        return t;
    template_free(t);
    return NULL;
}

/* ---- rendering ---- */

static const struct jinja_template *pick(const struct chat_template *t, bool has_tools)
{
    return has_tools && t->tool_use != NULL ? t->tool_use : t->main;
}

bool template_marks_generation(const struct chat_template *t, bool has_tools)
{
    const struct jinja_template *picked = pick(t, has_tools);
    return picked != NULL && jinja_has_generation(picked);
}

const struct template_frame *template_frame(const struct chat_template *t, bool has_tools)
{
    return has_tools ? &t->tool_frame : &t->frame;
}

static bool set_or_none(json_t *variables, const char *name, json_t *value)
{
    return json_object_set_new(variables, name, value != NULL ? json_incref(value) : json_null()) ==
           0;
}

bool template_render(const struct chat_template *t, const struct template_input *in,
                     struct jinja_output *out, struct err *err)
{
    const struct jinja_template *picked = pick(t, in->tools != NULL);
    if (t->main == NULL || (in->tools != NULL && t->tool_use_refused))
        return err_set(err, t->problem.code, "%s", t->problem.text);
    json_t *variables = json_copy(t->variables);
    const bool ready =
        variables != NULL &&
        (in->variables == NULL || json_object_update(variables, in->variables) == 0) &&
        set_or_none(variables, "messages", in->messages) &&
        set_or_none(variables, "tools", in->tools) &&
        set_or_none(variables, "documents", in->documents) &&
        json_object_set_new(variables, "add_generation_prompt",
                            json_boolean(in->add_generation_prompt)) == 0 &&
        !json_memory_failed(); /* a copy lacks what there was no room for, and says nothing */
    const bool ok = ready ? jinja_render(picked, &t->env, variables, out, err)
                          : err_no_memory(err, "a chat template's variables");
    json_decref(variables);
    return ok;
}
