/* A recipe's documents: read, cut, split into training and validation. */
#ifndef FINETUNE_TRAIN_DATA_H
#define FINETUNE_TRAIN_DATA_H

#include "datasets/batch.h"
#include "datasets/document.h"
#include "datasets/template.h"
#include "datasets/tokenizer.h"
#include "finetune/model/config.h"
#include "kernels/core/text.h"
#include "recipes/recipe.h"

struct train_data {
    struct tokenizer
        *tokenizer; /* NULL when the checkpoint has none: then records must be input_ids */
    struct chat_template *chat_template; /* for conversations */
    struct document_set set;             /* training documents, and validation's when split off */
    struct document_set own;             /* validation files of their own */
    struct batch_split split;
    struct document_report report, own_report;
    struct text types; /* "quotes.jsonl: text (guessed)", a line each, of every data set in order */
    struct batcher batcher;
    /* Validation, whichever way it came: documents docs[0..n) of *from. */
    const struct document_set *validation;
    const int64_t *validation_docs;
    int64_t n_validation;
    int64_t *own_docs;
};

/* Of `folder` (NULL, or without tokenizer files: *out NULL). */
bool train_open_tokenizer(const char *base_model, struct tokenizer **out, struct err *err);

/* The recipe's chat template, else that of the base model. */
struct chat_template *train_open_template(const char *base_model, const struct data_config *data,
                                          struct err *err);

/* How records become tokens; train_on_reasoning and the like are the recipe's. */
struct record_options train_record_options(const struct tokenizer *tokenizer,
                                           const struct chat_template *chat_template,
                                           const struct data_config *data,
                                           const struct jamba_config *config);

/* tokenizer_config.json's eos_token, else the config's first eos_token_id, else -1. */
int32_t train_eos(const struct tokenizer *tokenizer, const struct jamba_config *config);

bool train_data_load(struct train_data *data, const struct recipe *recipe,
                     const struct jamba_config *config, struct err *err);

/* Appends one file or data set to a set, for validation: untargeted documents are kept on request.
 */
bool train_data_read(const struct train_data *data, const struct data_source *source,
                     const struct recipe *recipe, const struct jamba_config *config,
                     bool keep_untargeted, struct document_set *set, struct document_report *report,
                     struct err *err);
void train_data_free(struct train_data *data);

#endif
