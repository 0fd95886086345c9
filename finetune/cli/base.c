#include "finetune/cli/base.h"

#include <stdlib.h>

#include "finetune/model/weights.h"
#include "finetune/train/data.h"

bool base_open(const char *base_model, struct base *base, struct err *err)
{
    if (!weights_locate(base_model, &base->folder, &base->config_path, err))
        return false;
    base->has_config = jamba_config_read(base->config_path, &base->config, err);
    return base->has_config && train_open_tokenizer(base_model, &base->tokenizer, err);
}

void base_close(struct base *base)
{
    free(base->folder);
    free(base->config_path);
    tokenizer_free(base->tokenizer);
    *base = (struct base){ 0 };
}

struct record_options base_record_options(const struct base *base, bool train_on_inputs)
{
    return (struct record_options){ .tokenizer = base->tokenizer,
                                    .eos = train_eos(base->tokenizer, &base->config),
                                    .vocab_size = base->config.vocab_size,
                                    .train_on_inputs = train_on_inputs };
}
