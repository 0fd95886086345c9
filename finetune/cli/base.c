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
    template_free(base->chat_template);
    *base = (struct base){ 0 };
}

struct record_options base_record_options(const struct base *base, bool train_on_inputs)
{
    return (struct record_options){ .tokenizer = base->tokenizer,
                                    .eos = train_eos(base->tokenizer, &base->config),
                                    .vocab_size = base->config.vocab_size,
                                    .train_on_inputs = train_on_inputs };
}

bool base_data_options(struct base *base, const char *base_model, const struct data_config *data,
                       struct record_options *out, struct err *err)
{
    if (base->chat_template == NULL)
        base->chat_template = train_open_template(base_model, data, err);
    *out = train_record_options(base->tokenizer, base->chat_template, data, &base->config);
    return base->chat_template != NULL;
}
