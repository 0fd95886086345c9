/* inspect: a checkpoint's config, layers, files, tensors and tokenizer. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "finetune/cli/base.h"
#include "finetune/cli/cli.h"
#include "finetune/cli/inspect.h"
#include "finetune/model/shards.h"
#include "finetune/model/weights.h"
#include "kernels/core/text.h"

static json_t *layers_where(const struct jamba_config *c,
                            bool (*is)(const struct jamba_config *c, int64_t layer))
{
    json_t *list = json_array();
    for (int64_t l = 0; l < c->num_hidden_layers; l++) {
        if (is(c, l))
            json_array_append_new(list, json_integer((json_int_t)l));
    }
    return list;
}

static json_t *integer_or_null(int64_t value)
{
    return value < 0 ? json_null() : json_integer((json_int_t)value);
}

static json_t *end_tokens(const struct jamba_config *c)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < c->n_eos; i++)
        json_array_append_new(list, json_integer((json_int_t)c->eos_token_id[i]));
    return list;
}

struct field {
    const char *name;
    int64_t value;
};

static json_t *config_facts(const struct jamba_config *c)
{
    const struct field fields[] = {
        { "vocab_size", c->vocab_size },
        { "hidden_size", c->hidden_size },
        { "intermediate_size", c->intermediate_size },
        { "num_hidden_layers", c->num_hidden_layers },
        { "num_attention_heads", c->num_attention_heads },
        { "num_key_value_heads", c->num_key_value_heads },
        { "num_experts", c->num_experts },
        { "num_experts_per_tok", c->num_experts_per_tok },
        { "mamba_d_inner", c->d_inner },
        { "mamba_d_state", c->mamba_d_state },
        { "mamba_d_conv", c->mamba_d_conv },
        { "mamba_dt_rank", c->mamba_dt_rank },
    };
    json_t *config = json_object();
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        json_object_set_new(config, fields[i].name, json_integer((json_int_t)fields[i].value));
    json_object_set_new(config, "mamba_conv_bias", json_boolean(c->mamba_conv_bias));
    json_object_set_new(config, "mamba_proj_bias", json_boolean(c->mamba_proj_bias));
    json_object_set_new(config, "tie_word_embeddings", json_boolean(c->tie_word_embeddings));
    json_object_set_new(config, "rms_norm_eps", json_real(c->rms_norm_eps));
    json_object_set_new(config, "dtype", json_string(dtype_name(c->dtype)));
    json_object_set_new(config, "bos_token_id", integer_or_null(c->bos_token_id));
    json_object_set_new(config, "eos_token_id", end_tokens(c));
    json_object_set_new(config, "pad_token_id", integer_or_null(c->pad_token_id));
    return config;
}

static json_t *token_fact(const struct tokenizer *tokenizer, int32_t id)
{
    const char *piece = id >= 0 ? tokenizer_piece(tokenizer, id) : NULL;
    return piece != NULL ? json_string(piece) : json_null();
}

static json_t *tokenizer_facts(const struct base *base)
{
    const struct tokenizer *t = base->tokenizer;
    if (t == NULL)
        return json_string("none");
    return json_pack("{s:I, s:o, s:o, s:o}", "vocab_size", (json_int_t)tokenizer_vocab_size(t),
                     "bos", token_fact(t, tokenizer_bos(t)), "eos", token_fact(t, tokenizer_eos(t)),
                     "ends_documents_with", token_fact(t, base_record_options(base, false).eos));
}

/* ---- files ---- */

static json_t *file_rows(const struct shards *s)
{
    json_t *rows = json_array();
    for (int64_t i = 0; i < s->n_file; i++) {
        const char *slash = strrchr(s->paths[i], '/');
        json_array_append_new(rows,
                              json_pack("{s:o, s:I, s:I}", "file",
                                        cli_json_string(slash != NULL ? slash + 1 : s->paths[i]),
                                        "tensors", (json_int_t)s->files[i].n_tensor, "bytes",
                                        (json_int_t)s->files[i].map.size));
    }
    return rows;
}

/* How many tensors go by the names of the first Jamba's files. */
static int64_t count_translated(const struct shards *s)
{
    int64_t n = 0;
    for (int64_t i = 0; i < s->n_tensor; i++)
        n += strcmp(s->tensors[i].name, s->tensors[i].tensor->name) != 0;
    return n;
}

/* The files' part of the facts, then whether they hold what the config asks for. */
static bool add_files(json_t *facts, const struct base *base, struct err *err)
{
    struct shards shards = { 0 };
    struct inspect_types types = { 0 };
    if (!shards_open(&shards, base->folder, &base->config, err))
        return false;
    for (int64_t i = 0; i < shards.n_tensor; i++)
        inspect_add_tensor(&types, shards.tensors[i].tensor);
    json_object_set_new(facts, "legacy_names", json_integer((json_int_t)count_translated(&shards)));
    json_object_set_new(facts, "types", inspect_types_table(&types));
    json_object_set_new(facts, "files", file_rows(&shards));
    shards_close(&shards);
    struct weights *w = weights_open(base->folder, 0, err);
    weights_close(w);
    return w != NULL;
}

static json_t *collect(const char *base_model, struct base *base, struct err *err)
{
    const struct jamba_config *c = &base->config;
    json_t *facts =
        json_pack("{s:s, s:o, s:I, s:I, s:o, s:o, s:o, s:o}", "kind", "checkpoint", "path",
                  cli_json_string(base->folder != NULL ? base->folder : base_model), "parameters",
                  (json_int_t)jamba_param_count(c), "layers", (json_int_t)c->num_hidden_layers,
                  "attention_layers", layers_where(c, jamba_is_attention), "moe_layers",
                  layers_where(c, jamba_is_moe), "config", config_facts(c), "tokenizer",
                  tokenizer_facts(base));
    if (facts == NULL)
        err_no_memory(err, base_model);
    else if (base->folder != NULL)
        json_object_set_new(facts, "complete", json_boolean(add_files(facts, base, err)));
    return facts;
}

json_t *inspect_checkpoint(const char *base_model, struct err *err)
{
    struct base base = { 0 };
    json_t *facts = NULL;
    if (base_open(base_model, &base, err))
        facts = collect(base_model, &base, err);
    base_close(&base);
    return facts;
}
