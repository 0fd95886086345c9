#include "finetune/train/data.h"

#include <stdlib.h>

#include "finetune/model/weights.h"
#include "kernels/core/file.h"

bool train_open_tokenizer(const char *base_model, struct tokenizer **out, struct err *err)
{
    *out = NULL;
    char *folder = NULL, *config_path = NULL;
    if (!weights_locate(base_model, &folder, &config_path, err))
        return false;
    bool ok = true;
    if (folder != NULL) {
        char *path = file_join(folder, "tokenizer.json");
        ok = path != NULL || err_no_memory(err, folder);
        if (ok && file_exists(path)) {
            *out = tokenizer_open(folder, err);
            ok = *out != NULL;
        }
        free(path);
    }
    free(folder);
    free(config_path);
    return ok;
}

struct chat_template *train_open_template(const char *base_model, const struct data_config *data,
                                          struct err *err)
{
    char *folder = NULL, *config_path = NULL;
    if (!weights_locate(base_model, &folder, &config_path, err))
        return NULL;
    const struct template_options options = { .model_dir = folder,
                                              .chosen = data->chat_template,
                                              .variables = data->chat_template_kwargs,
                                              .date = data->chat_template_date };
    struct chat_template *t = template_open(&options, err);
    free(folder);
    free(config_path);
    return t;
}

struct record_options train_record_options(const struct tokenizer *tokenizer,
                                           const struct chat_template *chat_template,
                                           const struct data_config *data,
                                           const struct jamba_config *config)
{
    return (struct record_options){ .tokenizer = tokenizer,
                                    .eos = train_eos(tokenizer, config),
                                    .vocab_size = config->vocab_size,
                                    .train_on_inputs = data->train_on_inputs,
                                    .chat_template = chat_template,
                                    .last_turn_only = data->train_on_last_turn_only,
                                    .mask_reasoning = !data->train_on_reasoning };
}

int32_t train_eos(const struct tokenizer *tokenizer, const struct jamba_config *config)
{
    const int32_t named = tokenizer == NULL ? -1 : tokenizer_eos(tokenizer);
    if (named >= 0)
        return named;
    return config->n_eos > 0 ? (int32_t)config->eos_token_id[0] : -1;
}

bool train_data_read(const struct train_data *data, const struct data_source *source,
                     const struct recipe *recipe, const struct jamba_config *config,
                     bool keep_untargeted, struct document_set *set, struct document_report *report,
                     struct err *err)
{
    const struct document_options options = {
        .record = train_record_options(data->tokenizer, data->chat_template, &recipe->data, config),
        .sequence_len = recipe->data.sequence_len,
        .excess = recipe->data.excess,
        .keep_untargeted = keep_untargeted,
    };
    return document_load(set, source, &options, report, err);
}

static bool read_all(struct train_data *data, const struct data_source *sources, int64_t n,
                     const struct recipe *recipe, const struct jamba_config *config,
                     struct err *err)
{
    const bool training = sources == recipe->data.train;
    for (int64_t i = 0; i < n; i++) {
        struct document_report *report = training ? &data->report : &data->own_report;
        if (!train_data_read(data, &sources[i], recipe, config, false,
                             training ? &data->set : &data->own, report, err))
            return false;
        text_printf(&data->types, "%s: %s%s\n", sources[i].path, record_type_name(report->type),
                    report->guessed ? " (guessed)" : "");
    }
    return true;
}

static bool choose_validation(struct train_data *data, const struct recipe *recipe, struct err *err)
{
    if (recipe->data.n_validation == 0) {
        data->validation = &data->set;
        data->validation_docs = data->split.validation;
        data->n_validation = data->split.n_validation;
        return true;
    }
    data->own_docs = calloc((size_t)data->own.n_doc + 1, sizeof *data->own_docs);
    if (data->own_docs == NULL)
        return err_no_memory(err, "the validation documents");
    for (int64_t i = 0; i < data->own.n_doc; i++)
        data->own_docs[i] = i;
    data->validation = &data->own;
    data->validation_docs = data->own_docs;
    data->n_validation = data->own.n_doc;
    return true;
}

bool train_data_load(struct train_data *data, const struct recipe *recipe,
                     const struct jamba_config *config, struct err *err)
{
    *data = (struct train_data){ 0 };
    data->chat_template = train_open_template(recipe->base_model, &recipe->data, err);
    if (data->chat_template == NULL) {
        recipe_add_place(recipe, err);
        return false;
    }
    return train_open_tokenizer(recipe->base_model, &data->tokenizer, err) &&
           read_all(data, recipe->data.train, recipe->data.n_train, recipe, config, err) &&
           read_all(data, recipe->data.validation, recipe->data.n_validation, recipe, config,
                    err) &&
           batch_split_validation(&data->set, &recipe->data, &data->split, err) &&
           choose_validation(data, recipe, err) &&
           batcher_init(&data->batcher, &data->set, data->split.train, data->split.n_train,
                        &recipe->data, err);
}

void train_data_free(struct train_data *data)
{
    batcher_free(&data->batcher);
    batch_split_free(&data->split);
    document_set_free(&data->set);
    document_set_free(&data->own);
    text_free(&data->types);
    free(data->own_docs);
    template_free(data->chat_template);
    tokenizer_free(data->tokenizer);
    *data = (struct train_data){ 0 };
}
