/* The tokens that end a text, by everything the checkpoint says: "eos_token_id" of config.json and
 * of generation_config.json (which may list more), and tokenizer_config.json's "eos_token". */
#ifndef FINETUNE_GENERATE_END_H
#define FINETUNE_GENERATE_END_H

#include "datasets/tokenizer.h"
#include "finetune/model/config.h"

enum { END_MAX = 2 * JAMBA_MAX_EOS + 1 };

struct end_tokens {
    int64_t id[END_MAX];
    int64_t n;
};

/* folder: the checkpoint's; it need not hold a generation_config.json. */
bool end_tokens_read(const char *folder, const struct jamba_config *config,
                     const struct tokenizer *tok, struct end_tokens *out, struct err *err);

bool end_tokens_has(const struct end_tokens *end, int32_t id);

#endif
