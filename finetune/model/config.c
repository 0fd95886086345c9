/* config.json of a Jamba, strictly: every field has a type, a range and the default of Hugging
 * Face's JambaConfig; a field that would change the computation in a way we do not implement is
 * refused.
 *
 * The upper bounds are generous (the largest published Jamba has hidden 8192, 72 layers, 16
 * experts) and such that no product of sizes in the program can overflow 63 bits.
 */
#include "finetune/model/config.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "kernels/core/json.h"
#include "kernels/core/text.h"

enum { CONFIG_MAX_BYTES = 1 << 20 };

struct int_field {
    const char *key;
    size_t offset;
    int64_t low, high, fallback;
};

#define INT_FIELD(name, low, high, fallback)                                                       \
    {                                                                                              \
#name, offsetof(struct jamba_config, name), low, high, fallback                            \
    }

static const struct int_field int_fields[] = {
    INT_FIELD(vocab_size, 1, 1 << 24, 65536),
    INT_FIELD(hidden_size, 1, 1 << 17, 4096),
    INT_FIELD(intermediate_size, 1, 1 << 20, 14336),
    INT_FIELD(num_hidden_layers, 1, 1024, 32),
    INT_FIELD(num_attention_heads, 1, 4096, 32),
    INT_FIELD(num_experts, 1, 1024, 16),
    INT_FIELD(expert_layer_period, 1, 1 << 20, 2),
    INT_FIELD(expert_layer_offset, 0, 1 << 20, 1),
    INT_FIELD(attn_layer_period, 1, 1 << 20, 8),
    INT_FIELD(attn_layer_offset, 0, 1 << 20, 4),
    INT_FIELD(mamba_d_state, 1, 256, 16),
    INT_FIELD(mamba_d_conv, 1, 256, 4),
    INT_FIELD(mamba_expand, 1, 64, 2),
};

struct real_field {
    const char *key;
    size_t offset;
    double low, high, fallback;
};

#define REAL_FIELD(name, low, high, fallback)                                                      \
    {                                                                                              \
#name, offsetof(struct jamba_config, name), low, high, fallback                            \
    }

static const struct real_field real_fields[] = {
    REAL_FIELD(rms_norm_eps, 0, 1, 1e-6),
    REAL_FIELD(initializer_range, 0, 1000, 0.02),
    REAL_FIELD(router_aux_loss_coef, 0, 1000, 0.001),
    REAL_FIELD(attention_dropout, 0, 1, 0),
};

struct bool_field {
    const char *key;
    size_t offset;
    bool fallback;
};

static const struct bool_field bool_fields[] = {
    { "tie_word_embeddings", offsetof(struct jamba_config, tie_word_embeddings), false },
    { "mamba_conv_bias", offsetof(struct jamba_config, mamba_conv_bias), true },
    { "mamba_proj_bias", offsetof(struct jamba_config, mamba_proj_bias), false },
};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* The file being read: every check needs its parsed root and its path. */
struct source {
    json_t *root;
    const char *path;
    struct err *err;
};

/* json_get_* take null for missing; here only fields that say so may be null. */
static bool refuse_null(const struct source *s, const char *key, const char *expected)
{
    const json_t *value = json_object_get(s->root, key);
    if (value == NULL || !json_is_null(value))
        return true;
    return err_set(s->err, ERR_DATA, "%s: \"%s\" is null; expected %s", s->path, key, expected);
}

static bool read_int(const struct source *s, const char *key, int64_t low, int64_t high,
                     int64_t *out)
{
    return refuse_null(s, key, "an integer") &&
           json_get_int(s->root, key, false, low, high, out, s->path, s->err);
}

static bool read_fields(const struct source *s, struct jamba_config *config)
{
    char *base = (char *)config;
    for (size_t i = 0; i < COUNT(int_fields); i++) {
        const struct int_field *f = &int_fields[i];
        int64_t value = f->fallback;
        if (!read_int(s, f->key, f->low, f->high, &value))
            return false;
        memcpy(base + f->offset, &value, sizeof value);
    }
    for (size_t i = 0; i < COUNT(real_fields); i++) {
        const struct real_field *f = &real_fields[i];
        double value = f->fallback;
        if (!refuse_null(s, f->key, "a number") ||
            !json_get_real(s->root, f->key, false, &value, s->path, s->err))
            return false;
        if (!(value >= f->low && value <= f->high))
            return err_set(s->err, ERR_DATA, "%s: \"%s\" is %g; expected %g to %g", s->path, f->key,
                           value, f->low, f->high);
        memcpy(base + f->offset, &value, sizeof value);
    }
    for (size_t i = 0; i < COUNT(bool_fields); i++) {
        const struct bool_field *f = &bool_fields[i];
        bool value = f->fallback;
        if (!refuse_null(s, f->key, "true or false") ||
            !json_get_bool(s->root, f->key, false, &value, s->path, s->err))
            return false;
        memcpy(base + f->offset, &value, sizeof value);
    }
    return true;
}

/* What names another model, or asks for a computation that is not done here. */
static bool check_supported(const struct source *s)
{
    const char *model_type = NULL, *act = "silu";
    bool inner_norms = true;
    if (!json_get_string(s->root, "model_type", true, &model_type, s->path, s->err) ||
        !json_get_string(s->root, "hidden_act", false, &act, s->path, s->err) ||
        !json_get_bool(s->root, "mamba_inner_layernorms", false, &inner_norms, s->path, s->err))
        return false;
    if (strcmp(model_type, "jamba") != 0)
        return err_set(s->err, ERR_DATA,
                       "%s: \"model_type\" is \"%.64s\"; only \"jamba\" is supported", s->path,
                       model_type);
    if (strcmp(act, "silu") != 0)
        return err_set(s->err, ERR_DATA,
                       "%s: \"hidden_act\" is \"%.64s\"; only \"silu\" is supported", s->path, act);
    if (!inner_norms)
        return err_set(s->err, ERR_DATA,
                       "%s: \"mamba_inner_layernorms\" is false; only Jambas with dt, B and C "
                       "norms are supported",
                       s->path);
    static const struct {
        const char *key, *remedy;
    } refused[] = {
        { "sliding_window", "attention over a window is not supported; expected null" },
        { "quantization_config",
          "quantized checkpoints are not supported; use the unquantized one" },
    };
    for (size_t i = 0; i < COUNT(refused); i++) {
        const json_t *value = json_object_get(s->root, refused[i].key);
        if (value != NULL && !json_is_null(value))
            return err_set(s->err, ERR_DATA, "%s: \"%s\" is %s; %s", s->path, refused[i].key,
                           json_type_name(value), refused[i].remedy);
    }
    return true;
}

/* transformers 5 knows num_experts by a second name. */
static bool read_expert_alias(const struct source *s, struct jamba_config *config)
{
    int64_t alias = config->num_experts;
    if (!json_get_int(s->root, "num_local_experts", false, 1, 1024, &alias, s->path, s->err))
        return false;
    if (alias != config->num_experts && json_object_get(s->root, "num_experts") != NULL)
        return err_set(s->err, ERR_DATA,
                       "%s: \"num_experts\" is %" PRId64 ", but \"num_local_experts\" is %" PRId64,
                       s->path, config->num_experts, alias);
    config->num_experts = alias;
    return true;
}

static bool read_experts(const struct source *s, struct jamba_config *config)
{
    if (!read_expert_alias(s, config))
        return false;
    if (config->num_experts == 1) { /* dense: there is no router, whatever the other fields say */
        config->num_experts_per_tok = 1;
        return true;
    }
    config->num_experts_per_tok = 2;
    if (!read_int(s, "num_experts_per_tok", 1, 1024, &config->num_experts_per_tok))
        return false;
    if (config->num_experts_per_tok > config->num_experts)
        return err_set(s->err, ERR_DATA,
                       "%s: \"num_experts_per_tok\" is %" PRId64
                       "; expected at most \"num_experts\", %" PRId64,
                       s->path, config->num_experts_per_tok, config->num_experts);
    return true;
}

static bool check_multiple(const struct source *s, const char *key, int64_t value,
                           const char *divisor_key, int64_t divisor)
{
    if (value % divisor == 0)
        return true;
    return err_set(s->err, ERR_DATA,
                   "%s: \"%s\" is %" PRId64 "; expected a multiple of \"%s\", %" PRId64, s->path,
                   key, value, divisor_key, divisor);
}

static bool read_heads(const struct source *s, struct jamba_config *config)
{
    const json_t *kv = json_object_get(s->root, "num_key_value_heads");
    config->num_key_value_heads = kv != NULL && json_is_null(kv) ? config->num_attention_heads : 8;
    if (!json_get_int(s->root, "num_key_value_heads", false, 1, 4096, &config->num_key_value_heads,
                      s->path, s->err))
        return false;
    if (!check_multiple(s, "hidden_size", config->hidden_size, "num_attention_heads",
                        config->num_attention_heads) ||
        !check_multiple(s, "num_attention_heads", config->num_attention_heads,
                        "num_key_value_heads", config->num_key_value_heads))
        return false;
    config->d_head = config->hidden_size / config->num_attention_heads;
    /* Not a field of Jamba's, but transformers 5 would follow it. */
    int64_t d_head = config->d_head;
    if (!json_get_int(s->root, "head_dim", false, 1, 1 << 17, &d_head, s->path, s->err))
        return false;
    if (d_head != config->d_head)
        return err_set(s->err, ERR_DATA,
                       "%s: \"head_dim\" is %" PRId64
                       "; expected \"hidden_size\" / \"num_attention_heads\", %" PRId64,
                       s->path, d_head, config->d_head);
    return true;
}

static bool read_dt_rank(const struct source *s, struct jamba_config *config)
{
    static const char key[] = "mamba_dt_rank";
    const json_t *value = json_object_get(s->root, key);
    config->mamba_dt_rank = (config->hidden_size + 15) / 16;
    if (value == NULL || (json_is_string(value) && strcmp(json_string_value(value), "auto") == 0))
        return true;
    if (!json_is_integer(value))
        return err_set(s->err, ERR_DATA, "%s: \"%s\" is %s; expected an integer or \"auto\"",
                       s->path, key,
                       json_is_string(value) ? "another string" : json_type_name(value));
    return read_int(s, key, 1, 1 << 17, &config->mamba_dt_rank);
}

static bool check_offset(const struct source *s, const char *offset_key, int64_t offset,
                         const char *period_key, int64_t period)
{
    if (offset < period)
        return true;
    return err_set(s->err, ERR_DATA,
                   "%s: \"%s\" is %" PRId64 "; expected less than \"%s\", %" PRId64, s->path,
                   offset_key, offset, period_key, period);
}

/* Newer files may spell out each layer's kind; it must be the one that period and offset give. */
static bool check_layer_types(const struct source *s, const char *key,
                              const struct jamba_config *config)
{
    const json_t *types = json_object_get(s->root, key);
    if (types == NULL || json_is_null(types))
        return true;
    if (!json_is_array(types) || (int64_t)json_array_size(types) != config->num_hidden_layers)
        return err_set(s->err, ERR_DATA,
                       "%s: \"%s\" is not a list of \"num_hidden_layers\", %" PRId64 ", kinds",
                       s->path, key, config->num_hidden_layers);
    for (int64_t l = 0; l < config->num_hidden_layers; l++) {
        const char *type = json_string_value(json_array_get(types, (size_t)l));
        const bool is_attention = type != NULL && text_ends_with(type, "attention") &&
                                  strcmp(type, "linear_attention") != 0;
        const bool is_mamba =
            type != NULL && (strcmp(type, "mamba") == 0 || strcmp(type, "linear_attention") == 0);
        if (jamba_is_attention(config, l) ? is_attention : is_mamba)
            continue;
        return err_set(s->err, ERR_DATA,
                       "%s: \"%s\"[%" PRId64
                       "] is \"%.32s\"; \"attn_layer_period\" and \"attn_layer_offset\" "
                       "make it \"%s\"",
                       s->path, key, l, type != NULL ? type : "(no string)",
                       jamba_is_attention(config, l) ? "attention" : "mamba");
    }
    return true;
}

/* An id below the vocabulary; `key` as it should read in a message. */
static bool check_id(const struct source *s, const char *key, const json_t *value,
                     const struct jamba_config *config, int64_t *id)
{
    if (!json_is_integer(value))
        return err_set(s->err, ERR_DATA, "%s: \"%s\" is %s; expected a token id", s->path, key,
                       json_type_name(value));
    *id = json_integer_value(value);
    if (*id < 0 || *id >= config->vocab_size)
        return err_set(s->err, ERR_DATA,
                       "%s: \"%s\" is %" PRId64 "; expected an id below \"vocab_size\", %" PRId64,
                       s->path, key, *id, config->vocab_size);
    return true;
}

/* An id, or null for none (-1). The default is an id too: a tiny vocabulary may not have it. */
static bool read_id(const struct source *s, const char *key, int64_t fallback,
                    const struct jamba_config *config, int64_t *id)
{
    const json_t *value = json_object_get(s->root, key);
    *id = -1;
    if (value != NULL && json_is_null(value))
        return true;
    if (value != NULL)
        return check_id(s, key, value, config, id);
    *id = fallback < config->vocab_size ? fallback : -1;
    return true;
}

static bool read_end_ids(const struct source *s, struct jamba_config *config)
{
    static const char key[] = "eos_token_id";
    const json_t *value = json_object_get(s->root, key);
    if (!json_is_array(value)) {
        int64_t id = -1;
        if (!read_id(s, key, 2, config, &id))
            return false;
        config->eos_token_id[0] = id;
        config->n_eos = id >= 0 ? 1 : 0;
        return true;
    }
    const size_t n = json_array_size(value);
    if (n == 0 || n > JAMBA_MAX_EOS)
        return err_set(s->err, ERR_DATA, "%s: \"%s\" has %zu ids; expected 1 to %d", s->path, key,
                       n, JAMBA_MAX_EOS);
    for (size_t i = 0; i < n; i++) {
        if (!check_id(s, key, json_array_get(value, i), config, &config->eos_token_id[i]))
            return false;
    }
    config->n_eos = (int64_t)n;
    return true;
}

static bool read_dtype(const struct source *s, struct jamba_config *config)
{
    /* "dtype" since transformers 4.56, "torch_dtype" before; the newer name wins, as there. */
    const char *key = "dtype", *name = NULL;
    if (!json_get_string(s->root, key, false, &name, s->path, s->err))
        return false;
    if (name == NULL) {
        key = "torch_dtype";
        if (!json_get_string(s->root, key, false, &name, s->path, s->err))
            return false;
    }
    static const struct {
        const char *name;
        enum dtype dtype;
    } types[] = { { "float32", DTYPE_F32 }, { "bfloat16", DTYPE_BF16 }, { "float16", DTYPE_F16 } };
    config->dtype = DTYPE_F32;
    if (name == NULL)
        return true;
    for (size_t i = 0; i < COUNT(types); i++) {
        if (strcmp(types[i].name, name) == 0) {
            config->dtype = types[i].dtype;
            return true;
        }
    }
    return err_set(s->err, ERR_DATA,
                   "%s: \"%s\" is \"%.32s\"; expected \"float32\", \"bfloat16\" or \"float16\"",
                   s->path, key, name);
}

static bool read_all(const struct source *s, struct jamba_config *config)
{
    if (!check_supported(s) || !read_fields(s, config) || !read_experts(s, config) ||
        !read_heads(s, config) || !read_dt_rank(s, config))
        return false;
    if (!check_offset(s, "attn_layer_offset", config->attn_layer_offset, "attn_layer_period",
                      config->attn_layer_period) ||
        !check_offset(s, "expert_layer_offset", config->expert_layer_offset, "expert_layer_period",
                      config->expert_layer_period) ||
        !check_layer_types(s, "layer_types", config) ||
        !check_layer_types(s, "layers_block_type", config))
        return false;
    config->d_inner = config->mamba_expand * config->hidden_size;
    return read_id(s, "pad_token_id", 0, config, &config->pad_token_id) &&
           read_id(s, "bos_token_id", 1, config, &config->bos_token_id) &&
           read_end_ids(s, config) && read_dtype(s, config);
}

bool jamba_config_read(const char *path, struct jamba_config *config, struct err *err)
{
    *config = (struct jamba_config){ 0 };
    const struct source s = { .root = json_load_object(path, CONFIG_MAX_BYTES, err),
                              .path = path,
                              .err = err };
    if (s.root == NULL)
        return false;
    const bool ok = read_all(&s, config);
    json_decref(s.root);
    return ok;
}

bool jamba_is_attention(const struct jamba_config *config, int64_t layer)
{
    return layer % config->attn_layer_period == config->attn_layer_offset;
}

bool jamba_is_moe(const struct jamba_config *config, int64_t layer)
{
    return config->num_experts > 1 &&
           layer % config->expert_layer_period == config->expert_layer_offset;
}

static int64_t mixer_param_count(const struct jamba_config *c, bool is_attention)
{
    const int64_t h = c->hidden_size, di = c->d_inner, n = c->mamba_d_state, r = c->mamba_dt_rank;
    if (is_attention)
        return 2 * h * h + 2 * h * c->num_key_value_heads * c->d_head;
    int64_t count = 2 * di * h + di * c->mamba_d_conv; /* in_proj, conv */
    count += (r + 2 * n) * di + di * r + di;           /* x_proj, dt_proj and its bias */
    count += r + 2 * n + di * n + di + h * di;         /* norms, A_log, D, out_proj */
    count += c->mamba_conv_bias ? di : 0;
    return count + (c->mamba_proj_bias ? 2 * di + h : 0);
}

int64_t jamba_param_count(const struct jamba_config *config)
{
    const int64_t h = config->hidden_size, mlp = 3 * h * config->intermediate_size;
    int64_t count = (config->tie_word_embeddings ? 1 : 2) * config->vocab_size * h + h;
    for (int64_t l = 0; l < config->num_hidden_layers; l++) {
        count += 2 * h + mixer_param_count(config, jamba_is_attention(config, l));
        count += jamba_is_moe(config, l) ? config->num_experts * (h + mlp) : mlp;
    }
    return count;
}
