/* A base model as far as reading data for it needs it: config and tokenizer, no weights.
 *
 *     struct base base = { 0 };
 *     ok = base_open("models/jamba", &base, &err);
 *     const struct record_options options = base_record_options(&base, false);
 *     base_close(&base);
 */
#ifndef FINETUNE_CLI_BASE_H
#define FINETUNE_CLI_BASE_H

#include <stdbool.h>

#include "datasets/record.h"
#include "datasets/tokenizer.h"
#include "finetune/model/config.h"
#include "kernels/core/err.h"

struct base {
    char *folder; /* NULL: random weights */
    char *config_path;
    bool has_config; /* it could be read */
    struct jamba_config config;
    struct tokenizer *tokenizer; /* NULL: the folder has none; only ready-made ids can be read */
    struct chat_template *chat_template; /* NULL before base_data_options */
};

/* base_model as in a recipe. On failure *base holds what there is of it. */
bool base_open(const char *base_model, struct base *base, struct err *err);
void base_close(struct base *base);

/* How records become tokens of this model; conversations only by base_data_options. */
struct record_options base_record_options(const struct base *base, bool train_on_inputs);

/* Conversations, too: with the recipe's settings. The base keeps the template. */
bool base_data_options(struct base *base, const char *base_model, const struct data_config *data,
                       struct record_options *out, struct err *err);

#endif
