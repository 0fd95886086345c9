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
};

/* base_model as in a recipe. On failure *base holds what there is of it. */
bool base_open(const char *base_model, struct base *base, struct err *err);
void base_close(struct base *base);

/* How records become tokens of this model. */
struct record_options base_record_options(const struct base *base, bool train_on_inputs);

#endif
