/* The tensor list is written out here a second time, apart from finetune/model/slots.c, so that a
 * name or a shape that is wrong there does not go unseen.
 */
#include "tests/support/tiny_checkpoint.h"

#include <dirent.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/core/file.h"
#include "kernels/core/rng.h"
#include "kernels/core/text.h"
#include "kernels/format/safetensors.h"

enum { MAX_TENSOR = 512, NAME_SIZE = 128 };

struct list {
    struct safetensors_tensor tensors[MAX_TENSOR];
    char names[MAX_TENSOR][NAME_SIZE];   /* today's */
    char written[MAX_TENSOR][NAME_SIZE]; /* as they go into the file */
    int shard[MAX_TENSOR];
    struct safetensors_tensor chosen[MAX_TENSOR]; /* of the shard being written */
    int64_t n;
    const struct jamba_config *config;
    const struct tiny_options *options;
};

/* ---- values ---- */

static uint64_t hash_name(const char *name)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a */
    for (; *name != '\0'; name++)
        h = (h ^ (unsigned char)*name) * 1099511628211u;
    return h;
}

float tiny_value(const char *name, int64_t i)
{
    const double u = 2 * rng_uniform(hash_name(name), RNG_INIT_WEIGHTS, 0, (uint64_t)i) - 1;
    double x = 0.35 * u;
    if (strstr(name, "norm.weight") != NULL || text_ends_with(name, ".D"))
        x = 1 + 0.3 * u;
    else if (text_ends_with(name, "A_log"))
        x = 1.2 + 1.1 * u;
    else if (text_ends_with(name, "dt_proj.bias"))
        x = -2 + 1.5 * u;
    /* bfloat16, and no subnormal halves: then every type holds it exactly. */
    const float rounded = dtype_from_bf16(dtype_to_bf16((float)x));
    return rounded < 0.001f && rounded > -0.001f ? 0.0f : rounded;
}

/* Exact for the values above. */
static uint16_t to_f16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x == 0)
        return 0;
    const uint32_t exponent = (bits >> 23 & 0xFF) - 112;
    return (uint16_t)((bits >> 16 & 0x8000) | exponent << 10 | (bits >> 13 & 0x3FF));
}

static void fill(struct safetensors_tensor *t, const char *name, int64_t n)
{
    t->bytes = (size_t)n * dtype_size(t->dtype);
    char *data = calloc(t->bytes + 1, 1);
    assert_non_null(data);
    for (int64_t i = 0; i < n; i++) {
        const float x = tiny_value(name, i);
        const uint16_t half = t->dtype == DTYPE_F16 ? to_f16(x) : dtype_to_bf16(x);
        if (t->dtype == DTYPE_F32)
            memcpy(data + 4 * i, &x, 4);
        else if (t->dtype == DTYPE_BF16 || t->dtype == DTYPE_F16)
            memcpy(data + 2 * i, &half, 2);
    }
    t->data = data;
}

/* ---- the list ---- */

static bool is(const char *option, const char *name)
{
    return option != NULL && strcmp(option, name) == 0;
}

/* The name that the first Jamba's code gave it. */
static void legacy_name(const struct jamba_config *c, const char *name, char out[NAME_SIZE])
{
    static const char *const swaps[][2] = { { ".feed_forward.", ".moe." },
                                            { "pre_ff_layernorm", "pre_moe_layernorm" },
                                            { "b_layernorm", "B_layernorm" },
                                            { "c_layernorm", "C_layernorm" } };
    int64_t layer = 0;
    const bool dense =
        sscanf(name, "model.layers.%" SCNd64, &layer) == 1 && !jamba_is_moe(c, layer);
    snprintf(out, NAME_SIZE, "%s", name);
    for (size_t i = 0; i < sizeof swaps / sizeof swaps[0]; i++) {
        const char *at = strstr(name, swaps[i][0]);
        if (at == NULL)
            continue;
        snprintf(out, NAME_SIZE, "%.*s%s%s%s", (int)(at - name), name, swaps[i][1],
                 i == 0 && dense ? "experts.0." : "", at + strlen(swaps[i][0]));
    }
}

static void add(struct list *list, const char *name, int n_dim, int64_t d0, int64_t d1, int64_t d2)
{
    const struct tiny_options *o = list->options;
    if (is(o->omit, name) && o->rename_to == NULL)
        return;
    const int64_t at = list->n++;
    assert_true(at < MAX_TENSOR);
    struct safetensors_tensor *t = &list->tensors[at];
    *t = (struct safetensors_tensor){ .dtype = o->dtype, .n_dim = n_dim, .dims = { d0, d1, d2 } };
    if (is(o->misshape, name))
        t->dims[0]++;
    if (is(o->mistype, name))
        t->dtype = DTYPE_I8;
    snprintf(list->names[at], NAME_SIZE, "%s", name);
    snprintf(list->written[at], NAME_SIZE, "%s", is(o->omit, name) ? o->rename_to : name);
    if (o->legacy_names)
        legacy_name(list->config, name, list->written[at]);
    int64_t n = 1;
    for (int i = 0; i < n_dim; i++)
        n *= t->dims[i];
    fill(t, name, n);
    t->name = list->written[at];
    list->shard[at] = o->n_shard > 0 ? (int)(at % o->n_shard) : 0;
}

static void add_in(struct list *list, int64_t layer, const char *name, int n_dim,
                   const int64_t dims[3])
{
    char full[NAME_SIZE];
    const int n = snprintf(full, sizeof full, "model.layers.%" PRId64 ".%s", layer, name);
    assert_in_range(n, 1, NAME_SIZE - 1);
    add(list, full, n_dim, dims[0], dims[1], dims[2]);
}

#define DIMS(...)                                                                                  \
    (const int64_t[3])                                                                             \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

static void add_mamba(struct list *list, int64_t l)
{
    const struct jamba_config *c = list->config;
    const int64_t h = c->hidden_size, di = c->mamba_expand * h, n = c->mamba_d_state,
                  r = c->mamba_dt_rank;
    add_in(list, l, "mamba.A_log", 2, DIMS(di, n));
    add_in(list, l, "mamba.D", 1, DIMS(di));
    add_in(list, l, "mamba.in_proj.weight", 2, DIMS(2 * di, h));
    add_in(list, l, "mamba.conv1d.weight", 3, DIMS(di, 1, c->mamba_d_conv));
    if (c->mamba_conv_bias)
        add_in(list, l, "mamba.conv1d.bias", 1, DIMS(di));
    add_in(list, l, "mamba.x_proj.weight", 2, DIMS(r + 2 * n, di));
    add_in(list, l, "mamba.dt_proj.weight", 2, DIMS(di, r));
    add_in(list, l, "mamba.dt_proj.bias", 1, DIMS(di));
    add_in(list, l, "mamba.out_proj.weight", 2, DIMS(h, di));
    if (c->mamba_proj_bias) {
        add_in(list, l, "mamba.in_proj.bias", 1, DIMS(2 * di));
        add_in(list, l, "mamba.out_proj.bias", 1, DIMS(h));
    }
    add_in(list, l, "mamba.dt_layernorm.weight", 1, DIMS(r));
    add_in(list, l, "mamba.b_layernorm.weight", 1, DIMS(n));
    add_in(list, l, "mamba.c_layernorm.weight", 1, DIMS(n));
}

static void add_attention(struct list *list, int64_t l)
{
    const struct jamba_config *c = list->config;
    const int64_t h = c->hidden_size, kv = h / c->num_attention_heads * c->num_key_value_heads;
    add_in(list, l, "self_attn.q_proj.weight", 2, DIMS(h, h));
    add_in(list, l, "self_attn.k_proj.weight", 2, DIMS(kv, h));
    add_in(list, l, "self_attn.v_proj.weight", 2, DIMS(kv, h));
    add_in(list, l, "self_attn.o_proj.weight", 2, DIMS(h, h));
}

static void add_feed_forward(struct list *list, int64_t l)
{
    static const char *const names[] = { "gate_proj", "up_proj", "down_proj" };
    const struct jamba_config *c = list->config;
    const int64_t h = c->hidden_size, i = c->intermediate_size;
    const int64_t n_expert = jamba_is_moe(c, l) ? c->num_experts : 0;
    if (n_expert > 0)
        add_in(list, l, "feed_forward.router.weight", 2, DIMS(n_expert, h));
    for (int64_t e = n_expert > 0 ? 0 : -1; e < n_expert; e++) {
        for (int p = 0; p < 3; p++) {
            char name[NAME_SIZE];
            if (e >= 0)
                snprintf(name, sizeof name, "feed_forward.experts.%" PRId64 ".%s.weight", e,
                         names[p]);
            else
                snprintf(name, sizeof name, "feed_forward.%s.weight", names[p]);
            add_in(list, l, name, 2, p < 2 ? DIMS(i, h) : DIMS(h, i));
        }
    }
}

static void add_all(struct list *list)
{
    const struct jamba_config *c = list->config;
    add(list, "model.embed_tokens.weight", 2, c->vocab_size, c->hidden_size, 0);
    for (int64_t l = 0; l < c->num_hidden_layers; l++) {
        add_in(list, l, "input_layernorm.weight", 1, DIMS(c->hidden_size));
        if (l % c->attn_layer_period == c->attn_layer_offset)
            add_attention(list, l);
        else
            add_mamba(list, l);
        add_in(list, l, "pre_ff_layernorm.weight", 1, DIMS(c->hidden_size));
        add_feed_forward(list, l);
    }
    add(list, "model.final_layernorm.weight", 1, c->hidden_size, 0, 0);
    if (!c->tie_word_embeddings || list->options->with_head)
        add(list, "lm_head.weight", 2, c->vocab_size, c->hidden_size, 0);
}

/* ---- files ---- */

void tiny_file_write(const char *folder, const char *name, const void *bytes, size_t n)
{
    /* Not file_write: its fsync is most of the time of a test with hundreds of small files. */
    char *path = file_join(folder, name);
    assert_non_null(path);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
    free(path);
}

static const char *truth(bool value)
{
    return value ? "true" : "false";
}

static void write_config(const char *folder, const struct jamba_config *c,
                         const struct tiny_options *o)
{
    static const char *const dtypes[] = {
        [DTYPE_F32] = "float32", [DTYPE_BF16] = "bfloat16", [DTYPE_F16] = "float16"
    };
    struct text t = { 0 };
    const struct {
        const char *key;
        int64_t value;
    } ints[] = {
        { "vocab_size", c->vocab_size },
        { "hidden_size", c->hidden_size },
        { "intermediate_size", c->intermediate_size },
        { "num_hidden_layers", c->num_hidden_layers },
        { "num_attention_heads", c->num_attention_heads },
        { "num_key_value_heads", c->num_key_value_heads },
        { "num_experts", c->num_experts },
        { "num_experts_per_tok", c->num_experts_per_tok },
        { "expert_layer_period", c->expert_layer_period },
        { "expert_layer_offset", c->expert_layer_offset },
        { "attn_layer_period", c->attn_layer_period },
        { "attn_layer_offset", c->attn_layer_offset },
        { "mamba_d_state", c->mamba_d_state },
        { "mamba_d_conv", c->mamba_d_conv },
        { "mamba_expand", c->mamba_expand },
        { "mamba_dt_rank", c->mamba_dt_rank },
        { "pad_token_id", c->pad_token_id },
        { "bos_token_id", c->bos_token_id },
    };
    text_puts(&t,
              "{\n  \"architectures\": [\"JambaForCausalLM\"],\n  \"model_type\": \"jamba\",\n");
    for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++)
        text_printf(&t, "  \"%s\": %" PRId64 ",\n", ints[i].key, ints[i].value);
    text_puts(&t, "  \"eos_token_id\": [");
    for (int64_t i = 0; i < c->n_eos; i++)
        text_printf(&t, "%s%" PRId64, i > 0 ? ", " : "", c->eos_token_id[i]);
    text_printf(&t, "],\n  \"rms_norm_eps\": %.17g,\n  \"initializer_range\": %.17g,\n",
                c->rms_norm_eps, c->initializer_range);
    text_printf(
        &t,
        "  \"tie_word_embeddings\": %s,\n  \"mamba_conv_bias\": %s,\n  \"mamba_proj_bias\": %s,\n",
        truth(c->tie_word_embeddings), truth(c->mamba_conv_bias), truth(c->mamba_proj_bias));
    text_printf(&t, "  \"torch_dtype\": \"%s\"%s%s\n}\n", dtypes[o->dtype],
                o->config_members != NULL ? ", " : "",
                o->config_members != NULL ? o->config_members : "");
    assert_false(t.failed);
    tiny_file_write(folder, "config.json", t.data, t.len);
    text_free(&t);
}

static void shard_name(const struct tiny_options *o, int shard, char out[NAME_SIZE])
{
    if (o->n_shard == 0)
        snprintf(out, NAME_SIZE, "model.safetensors");
    else
        snprintf(out, NAME_SIZE, "model-%05d-of-%05d.safetensors", shard + 1, o->n_shard);
}

/* A file of our own layout rather than safetensors_write's: one odd byte first, so that no tensor
 * is aligned. */
static void write_unaligned(const char *folder, const char *name,
                            const struct safetensors_tensor *tensors, int64_t n)
{
    struct text header = { 0 }, data = { 0 };
    text_puts(&header, "{");
    for (int64_t i = 0; i < n; i++) {
        text_printf(&header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i > 0 ? "," : "",
                    tensors[i].name, dtype_name(tensors[i].dtype));
        for (int d = 0; d < tensors[i].n_dim; d++)
            text_printf(&header, "%s%" PRId64, d > 0 ? "," : "", tensors[i].dims[d]);
        text_printf(&header, "],\"data_offsets\":[%zu,%zu]}", data.len,
                    data.len + tensors[i].bytes);
        text_append(&data, tensors[i].data, tensors[i].bytes);
    }
    text_puts(&header, "}");
    while (header.len % 8 != 1) /* 8 bytes of length and an odd header: odd addresses */
        text_puts(&header, " ");
    struct text file = { 0 };
    const uint64_t length = header.len;
    for (int i = 0; i < 8; i++)
        text_append(&file, &(const char){ (char)(length >> (8 * i) & 0xFF) }, 1);
    text_append(&file, header.data, header.len);
    text_append(&file, data.data, data.len);
    assert_false(file.failed || header.failed || data.failed);
    tiny_file_write(folder, name, file.data, file.len);
    text_free(&file);
    text_free(&header);
    text_free(&data);
}

static void write_shard(const char *folder, struct list *list, int shard)
{
    const struct tiny_options *o = list->options;
    int64_t n = 0;
    for (int64_t i = 0; i < list->n; i++) {
        const bool again = is(o->repeat, list->names[i]) && shard == o->n_shard - 1;
        if (list->shard[i] == shard || again)
            list->chosen[n++] = list->tensors[i];
    }
    char name[NAME_SIZE];
    shard_name(o, shard, name);
    if (o->unaligned) {
        write_unaligned(folder, name, list->chosen, n);
        return;
    }
    struct err err = { 0 };
    char *path = file_join(folder, name);
    assert_non_null(path);
    if (!safetensors_write(path, list->chosen, n, &err))
        fail_msg("%s", err.text);
    free(path);
}

static void write_index(const char *folder, const struct list *list)
{
    const struct tiny_options *o = list->options;
    struct text t = { 0 };
    bool first = true;
    text_puts(&t, "{\"metadata\": {\"total_size\": 0}, \"weight_map\": {");
    for (int64_t i = 0; i < list->n; i++) {
        char file[NAME_SIZE];
        if (is(o->unlisted, list->names[i]))
            continue;
        shard_name(o,
                   is(o->misplaced, list->names[i]) ? (list->shard[i] + 1) % o->n_shard
                                                    : list->shard[i],
                   file);
        text_printf(&t, "%s\n  \"%s\": \"%s\"", first ? "" : ",", list->written[i], file);
        first = false;
    }
    text_puts(&t, "\n}}\n");
    assert_false(t.failed);
    tiny_file_write(folder, "model.safetensors.index.json", t.data, t.len);
    text_free(&t);
}

void tiny_checkpoint_write(const char *folder, const struct jamba_config *config,
                           const struct tiny_options *options)
{
    struct list *list = calloc(1, sizeof *list);
    assert_non_null(list);
    list->config = config;
    list->options = options;
    add_all(list);
    write_config(folder, config, options);
    for (int s = 0; s < (options->n_shard > 0 ? options->n_shard : 1); s++)
        write_shard(folder, list, s);
    if (options->n_shard > 0)
        write_index(folder, list);
    for (int64_t i = 0; i < list->n; i++)
        free((void *)(uintptr_t)list->tensors[i].data);
    free(list);
}

struct jamba_config tiny_config(void)
{
    struct jamba_config c = { .vocab_size = 61,
                              .hidden_size = 24,
                              .intermediate_size = 20,
                              .num_hidden_layers = 4,
                              .num_attention_heads = 4,
                              .num_key_value_heads = 2,
                              .num_experts = 3,
                              .num_experts_per_tok = 2,
                              .expert_layer_period = 2,
                              .expert_layer_offset = 1,
                              .attn_layer_period = 3,
                              .attn_layer_offset = 1,
                              .mamba_d_state = 5,
                              .mamba_d_conv = 4,
                              .mamba_expand = 2,
                              .mamba_dt_rank = 3,
                              .rms_norm_eps = 1e-6,
                              .initializer_range = 0.02,
                              .router_aux_loss_coef = 0.001,
                              .mamba_conv_bias = true,
                              .bos_token_id = 1,
                              .eos_token_id = { 2 },
                              .n_eos = 1 };
    tiny_config_derive(&c);
    return c;
}

void tiny_config_derive(struct jamba_config *config)
{
    config->d_inner = config->mamba_expand * config->hidden_size;
    config->d_head = config->hidden_size / config->num_attention_heads;
}

/* ---- folders and messages ---- */

char *tiny_scratch_make(void)
{
    const char *root = getenv("TMPDIR");
    char *folder =
        text_format("%s/jambatune-test-XXXXXX", root != NULL && *root != '\0' ? root : "/tmp");
    assert_non_null(folder);
    assert_non_null(mkdtemp(folder));
    return folder;
}

static void remove_tree(const char *path)
{
    DIR *dir = opendir(path);
    if (dir == NULL) {
        unlink(path);
        return;
    }
    for (const struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        char *inner = file_join(path, e->d_name);
        struct stat st;
        if (inner != NULL && lstat(inner, &st) == 0 && S_ISDIR(st.st_mode))
            remove_tree(inner);
        else if (inner != NULL)
            unlink(inner);
        free(inner);
    }
    closedir(dir);
    rmdir(path);
}

void tiny_scratch_remove(char *folder)
{
    remove_tree(folder);
    free(folder);
}

void tiny_message(char out[ERR_TEXT_SIZE], const struct err *err, const char *folder)
{
    struct text t = { 0 };
    const char *p = err->text;
    for (const char *at = strstr(p, folder); at != NULL; at = strstr(p, folder)) {
        text_append(&t, p, (size_t)(at - p));
        text_puts(&t, "DIR");
        p = at + strlen(folder);
    }
    text_puts(&t, p);
    snprintf(out, ERR_TEXT_SIZE, "%s", t.data != NULL ? t.data : "");
    text_free(&t);
}
