/* A checkpoint as GGUF: every value from its tensor, keys from its config, the tokenizer in
 * llama.cpp's terms, and what is refused. */
#include "finetune/export/gguf_base.h"

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "finetune/export/gguf_values.h"
#include "kernels/core/file.h"
#include "kernels/format/gguf.h"
#include "tests/support/tiny_checkpoint.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static int make_folder(void **state)
{
    *state = tiny_scratch_make();
    return 0;
}

static int remove_folder(void **state)
{
    tiny_scratch_remove(*state);
    return 0;
}

/* Exports folder to folder/base.gguf. */
static bool export_to(const char *folder, enum dtype dtype, struct text *notes, struct err *err)
{
    char *path = file_join(folder, "base.gguf");
    assert_non_null(path);
    const bool ok = export_gguf_base(folder, dtype, path, notes, err);
    assert_int_equal(file_exists(path), ok); /* whole or not at all */
    free(path);
    return ok;
}

static void open_base(const char *folder, struct gguf *g)
{
    struct err err = { 0 };
    char *path = file_join(folder, "base.gguf");
    if (!gguf_open(path, g, &err))
        fail_msg("%s", err.text);
    free(path);
}

static void export_ok(const char *folder, enum dtype dtype, struct gguf *g)
{
    struct err err = { 0 };
    struct text notes = { 0 };
    if (!export_to(folder, dtype, &notes, &err))
        fail_msg("%s", err.text);
    text_free(&notes);
    open_base(folder, g);
}

static void write_text(const char *folder, const char *name, const char *text)
{
    tiny_file_write(folder, name, text, strlen(text));
}

/* ---- values ---- */

static const struct gguf_tensor *get(const struct gguf *g, const char *name)
{
    const struct gguf_tensor *t = gguf_find(g, name);
    if (t == NULL)
        fail_msg("%s is missing", name);
    return t;
}

static float value(const struct gguf_tensor *t, int64_t i)
{
    real x;
    dtype_to_real(t->dtype, t->data + (size_t)i * dtype_size(t->dtype), 1, &x);
    return (float)x;
}

/* Elements [begin, begin + n) of the file's tensor are the checkpoint's. */
static void expect_values(const struct gguf_tensor *t, int64_t begin, int64_t n, const char *name)
{
    for (int64_t i = 0; i < n; i++) {
        const float x = tiny_value(name, i);
        const float want = strstr(name, "A_log") != NULL ? (float)-exp((double)x) : x;
        if (value(t, begin + i) != want)
            fail_msg("%s[%d] is %g; expected %s[%d], %g", t->name, (int)(begin + i),
                     (double)value(t, begin + i), name, (int)i, (double)want);
    }
}

static int64_t size_of(const struct gguf_tensor *t)
{
    return (int64_t)(t->bytes / dtype_size(t->dtype));
}

/* Names by hand, apart from the exporter's table: of a Mamba layer (0), an attention layer (1) and
 * what lies outside. */
static const struct {
    const char *ours, *theirs;
    bool f32;
} names[] = {
    { "token_embd.weight", "model.embed_tokens.weight", false },
    { "output_norm.weight", "model.final_layernorm.weight", true },
    { "output.weight", "lm_head.weight", false },
    { "blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight", true },
    { "blk.0.ssm_in.weight", "model.layers.0.mamba.in_proj.weight", false },
    { "blk.0.ssm_conv1d.weight", "model.layers.0.mamba.conv1d.weight", true },
    { "blk.0.ssm_conv1d.bias", "model.layers.0.mamba.conv1d.bias", true },
    { "blk.0.ssm_x.weight", "model.layers.0.mamba.x_proj.weight", false },
    { "blk.0.ssm_dt.weight", "model.layers.0.mamba.dt_proj.weight", false },
    { "blk.0.ssm_dt.bias", "model.layers.0.mamba.dt_proj.bias", true },
    { "blk.0.ssm_dt_norm.weight", "model.layers.0.mamba.dt_layernorm.weight", true },
    { "blk.0.ssm_b_norm.weight", "model.layers.0.mamba.b_layernorm.weight", true },
    { "blk.0.ssm_c_norm.weight", "model.layers.0.mamba.c_layernorm.weight", true },
    { "blk.0.ssm_a", "model.layers.0.mamba.A_log", true },
    { "blk.0.ssm_d", "model.layers.0.mamba.D", true },
    { "blk.0.ssm_out.weight", "model.layers.0.mamba.out_proj.weight", false },
    { "blk.0.ffn_norm.weight", "model.layers.0.pre_ff_layernorm.weight", true },
    { "blk.0.ffn_gate.weight", "model.layers.0.feed_forward.gate_proj.weight", false },
    { "blk.0.ffn_up.weight", "model.layers.0.feed_forward.up_proj.weight", false },
    { "blk.0.ffn_down.weight", "model.layers.0.feed_forward.down_proj.weight", false },
    { "blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight", false },
    { "blk.1.attn_k.weight", "model.layers.1.self_attn.k_proj.weight", false },
    { "blk.1.attn_v.weight", "model.layers.1.self_attn.v_proj.weight", false },
    { "blk.1.attn_output.weight", "model.layers.1.self_attn.o_proj.weight", false },
    { "blk.1.ffn_gate_inp.weight", "model.layers.1.feed_forward.router.weight", true },
};

static void expect_experts(const struct gguf *g, const char *ours, const char *theirs, int n_expert)
{
    const struct gguf_tensor *t = get(g, ours);
    assert_true(t->n_dim == 3 && t->dims[0] == n_expert);
    for (int e = 0; e < n_expert; e++) {
        char name[100];
        const int64_t n = t->dims[1] * t->dims[2];
        snprintf(name, sizeof name, "model.layers.3.feed_forward.experts.%d.%s.weight", e, theirs);
        expect_values(t, e * n, n, name);
    }
}

static void every_value_is_its_tensors(void **state)
{
    static const struct {
        struct tiny_options options;
        enum dtype dtype;
    } cases[] = {
        { { .dtype = DTYPE_F32 }, DTYPE_F32 },
        { { .dtype = DTYPE_BF16, .n_shard = 3 }, DTYPE_BF16 },
        { { .dtype = DTYPE_F16, .unaligned = true }, DTYPE_F32 },
        { { .dtype = DTYPE_F32, .legacy_names = true }, DTYPE_BF16 },
        { { .dtype = DTYPE_BF16, .n_shard = 2, .legacy_names = true }, DTYPE_F16 },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct jamba_config config = tiny_config();
        char *folder = tiny_scratch_make();
        struct gguf g = { 0 };
        tiny_checkpoint_write(folder, &config, &cases[i].options);
        export_ok(folder, cases[i].dtype, &g);
        for (size_t j = 0; j < COUNT(names); j++) {
            const struct gguf_tensor *t = get(&g, names[j].ours);
            expect_values(t, 0, size_of(t), names[j].theirs);
            assert_int_equal(t->dtype, names[j].f32 ? DTYPE_F32 : cases[i].dtype);
        }
        expect_experts(&g, "blk.3.ffn_gate_exps.weight", "gate_proj", 3);
        expect_experts(&g, "blk.3.ffn_up_exps.weight", "up_proj", 3);
        expect_experts(&g, "blk.3.ffn_down_exps.weight", "down_proj", 3);
        /* Outside; Mamba + MLP, attention + experts, Mamba + MLP, Mamba + experts. */
        assert_int_equal(g.n_tensor, 3 + 17 + 10 + 17 + 18);
        gguf_close(&g);
        tiny_scratch_remove(folder);
    }
    (void)state;
}

static void a_tied_base_has_no_head_and_a_missing_conv_bias_is_zero(void **state)
{
    struct jamba_config config = tiny_config();
    struct gguf g = { 0 };
    config.tie_word_embeddings = true;
    config.mamba_conv_bias = false;
    tiny_checkpoint_write(*state, &config, &(struct tiny_options){ .with_head = true });
    export_ok(*state, DTYPE_F32, &g);
    assert_null(gguf_find(&g, "output.weight"));
    const struct gguf_tensor *bias = get(&g, "blk.0.ssm_conv1d.bias");
    assert_true(bias->n_dim == 1 && bias->dims[0] == 48);
    for (int64_t i = 0; i < 48; i++)
        assert_true(value(bias, i) == 0);
    const struct gguf_tensor *conv = get(&g, "blk.0.ssm_conv1d.weight");
    assert_true(conv->n_dim == 2 && conv->dims[0] == 48 && conv->dims[1] == 4);
    gguf_close(&g);
}

/* ---- keys ---- */

static void expect_u32(const struct gguf *g, const char *key, uint32_t want)
{
    uint32_t have = ~want;
    if (!gguf_get_u32(g, key, &have) || have != want)
        fail_msg("%s is %u; expected %u", key, have, want);
}

static void the_keys_say_what_the_config_says(void **state)
{
    const struct jamba_config config = tiny_config();
    struct gguf g = { 0 };
    float eps = 0;
    tiny_checkpoint_write(
        *state, &config,
        &(struct tiny_options){ .config_members = "\"max_position_embeddings\": 4096" });
    export_ok(*state, DTYPE_BF16, &g);
    assert_true(gguf_says(&g, "general.architecture", "jamba"));
    assert_true(gguf_says(&g, "general.type", "model"));
    expect_u32(&g, "general.file_type", 32);
    expect_u32(&g, "jamba.vocab_size", 61);
    expect_u32(&g, "jamba.block_count", 4);
    expect_u32(&g, "jamba.context_length", 4096);
    expect_u32(&g, "jamba.embedding_length", 24);
    expect_u32(&g, "jamba.feed_forward_length", 20);
    expect_u32(&g, "jamba.attention.head_count", 4);
    expect_u32(&g, "jamba.ssm.conv_kernel", 4);
    expect_u32(&g, "jamba.ssm.inner_size", 48);
    expect_u32(&g, "jamba.ssm.state_size", 5);
    expect_u32(&g, "jamba.ssm.time_step_rank", 3);
    expect_u32(&g, "jamba.expert_count", 3);
    expect_u32(&g, "jamba.expert_used_count", 2);
    assert_true(gguf_get_f32(&g, "jamba.attention.layer_norm_rms_epsilon", &eps) && eps == 1e-6f);
    const struct gguf_kv *kv = gguf_key(&g, "jamba.attention.head_count_kv");
    assert_true(kv->element == GGUF_I32 && kv->n == 4);
    assert_memory_equal(kv->data, "\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0", 16);
    gguf_close(&g);
}

static void a_dense_base_has_no_experts(void **state)
{
    struct jamba_config config = tiny_config();
    struct gguf g = { 0 };
    config.num_experts = 1;
    config.num_experts_per_tok = 2; /* an abort in llama.cpp, if it were copied */
    tiny_checkpoint_write(*state, &config, &(struct tiny_options){ 0 });
    export_ok(*state, DTYPE_F16, &g);
    expect_u32(&g, "jamba.expert_count", 0);
    expect_u32(&g, "jamba.expert_used_count", 0);
    expect_u32(&g, "jamba.context_length", 262144);
    expect_u32(&g, "general.file_type", 1);
    assert_null(gguf_find(&g, "blk.1.ffn_gate_inp.weight"));
    assert_non_null(gguf_find(&g, "blk.1.ffn_gate.weight"));
    gguf_close(&g);
}

/* ---- refusals ---- */

static void expect_refusal(const char *folder, enum dtype dtype, const char *expected)
{
    char text[ERR_TEXT_SIZE];
    struct err err = { 0 };
    struct text notes = { 0 };
    assert_false(export_to(folder, dtype, &notes, &err));
    tiny_message(text, &err, folder);
    assert_string_equal(text, expected);
    text_free(&notes);
}

static void a_checkpoint_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    static const struct {
        struct tiny_options options;
        enum dtype dtype;
        const char *expected;
    } cases[] = {
        { { .omit = "model.layers.2.mamba.D" },
          DTYPE_F32,
          "DIR: tensor 'model.layers.2.mamba.D' is missing" },
        { { .misshape = "model.layers.1.self_attn.k_proj.weight" },
          DTYPE_F32,
          "DIR/model.safetensors: tensor 'model.layers.1.self_attn.k_proj.weight': shape (13, 24), "
          "expected (12, 24)" },
        { { .mistype = "model.layers.0.mamba.A_log" },
          DTYPE_F32,
          "DIR/model.safetensors: tensor 'model.layers.0.mamba.A_log': type I8; expected F32, BF16 "
          "or F16" },
        { { .omit = "model.layers.0.mamba.D", .rename_to = "model.layers.9.mamba.D" },
          DTYPE_F32,
          "DIR: tensor 'model.layers.0.mamba.D' is missing" },
        { { .config_members = "\"max_position_embeddings\": 0" },
          DTYPE_F32,
          "DIR/config.json: \"max_position_embeddings\" is 0; expected 1 to 2147483647" },
        { { .dtype = DTYPE_F32 }, DTYPE_I8, "a GGUF base is F32, F16 or BF16, not I8" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct jamba_config config = tiny_config();
        char *folder = tiny_scratch_make();
        tiny_checkpoint_write(folder, &config, &cases[i].options);
        expect_refusal(folder, cases[i].dtype, cases[i].expected);
        tiny_scratch_remove(folder);
    }
}

static void a_jamba_that_llama_cpp_does_not_run_is_refused(void **state)
{
    struct jamba_config config = tiny_config();
    struct err err = { 0 };
    struct text notes = { 0 };
    config.mamba_expand = 3;
    tiny_config_derive(&config);
    tiny_checkpoint_write(*state, &config, &(struct tiny_options){ 0 });
    expect_refusal(*state, DTYPE_F32,
                   "DIR/config.json: \"mamba_expand\" is 3; llama.cpp runs Jambas with 2 only, and "
                   "aborts on others");
    assert_false(
        export_gguf_base("random:tests/bench/jamba-3b.json", DTYPE_F32, "/dev/null", &notes, &err));
    assert_string_equal(err.text,
                        "random:tests/bench/jamba-3b.json: is no checkpoint; there are no "
                        "weights to export");
}

/* tests/fixtures has no value beyond F16's range; a patched one does. */
static void a_value_beyond_f16_is_refused_by_tensor(void **state)
{
    const struct jamba_config config = tiny_config();
    char *path = file_join(*state, "model.safetensors"), *bytes = NULL;
    size_t n = 0;
    struct err err = { 0 };
    struct safetensors st = { 0 };
    tiny_checkpoint_write(*state, &config, &(struct tiny_options){ 0 });
    assert_true(safetensors_open(path, &st, &err));
    const struct safetensors_tensor *t =
        safetensors_find(&st, "model.layers.3.feed_forward.experts.2.up_proj.weight");
    const size_t at = (size_t)((const uint8_t *)t->data - st.map.data) + t->bytes - 4;
    safetensors_close(&st);
    assert_true(file_read(path, 1 << 24, &bytes, &n, &err));
    memcpy(bytes + at, &(const float){ 70000 }, 4);
    assert_true(file_write(path, bytes, n, &err));
    free(bytes);
    free(path);
    expect_refusal(*state, DTYPE_F16,
                   "DIR: tensor 'model.layers.3.feed_forward.experts.2.up_proj.weight': has a "
                   "value that does not fit in F16; write BF16 or F32");
    struct gguf g = { 0 };
    export_ok(*state, DTYPE_BF16, &g);
    gguf_close(&g);
}

/* ---- the tokenizer ---- */

/* A tokenizer.json of 256 byte tokens, some letters and what the case adds to it. */
struct json_parts {
    const char *normalizer, *pre, *post, *model, *vocab, *merges, *added;
};

#define ESCAPE "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xE2\x96\x81\"}"
#define SPECIAL(id, content)                                                                       \
    "{\"id\":" #id ",\"content\":\"" content "\",\"single_word\":false,\"lstrip\":false,"          \
    "\"rstrip\":false,\"normalized\":false,\"special\":true}"
#define ADDED(id, content, more)                                                                   \
    ",{\"id\":" #id ",\"content\":\"" content "\",\"single_word\":false," more ",\"special\":"     \
    "false}"
#define PLAIN "\"lstrip\":false,\"rstrip\":false,\"normalized\":false"

enum { N_VOCAB = 300 };

static const char *or_else(const char *s, const char *fallback)
{
    return s != NULL ? s : fallback;
}

static void write_tokenizer(const char *folder, const struct json_parts *p)
{
    struct text t = { 0 };
    text_printf(&t,
                "{\"version\":\"1.0\",\"added_tokens\":[" SPECIAL(0, "<pad>") "," SPECIAL(
                    1, "<s>") "," SPECIAL(2, "</s>") "%s],\"normalizer\":%s,\"pre_tokenizer\":%s,",
                or_else(p->added, ""), or_else(p->normalizer, ESCAPE), or_else(p->pre, "null"));
    text_printf(&t,
                "\"post_processor\":%s,\"decoder\":null,\"model\":{\"type\":\"BPE\",%s,"
                "\"vocab\":{\"<pad>\":0,\"<s>\":1,\"</s>\":2",
                or_else(p->post, "null"),
                or_else(p->model, "\"byte_fallback\":true,\"unk_token\":\"<pad>\""));
    for (int b = 0; b < 256; b++)
        text_printf(&t, ",\"<0x%02X>\":%d", (unsigned)b, 3 + b);
    text_printf(&t,
                ",\"\xE2\x96\x81\":259,\"a\":260,\"b\":261,\"ab\":262,\"\xE2\x96\x81"
                "a\":263%s}",
                or_else(p->vocab, ""));
    text_printf(&t, ",\"merges\":[%s]}}", or_else(p->merges, "\"a b\",[\"\xE2\x96\x81\",\"a\"]"));
    assert_false(t.failed);
    tiny_file_write(folder, "tokenizer.json", t.data, t.len);
    text_free(&t);
}

static void write_base(const char *folder, const char *config_members)
{
    struct jamba_config config = tiny_config();
    config.vocab_size = N_VOCAB;
    tiny_checkpoint_write(folder, &config,
                          &(struct tiny_options){ .config_members = config_members });
}

static void expect_item(const struct gguf_kv *kv, int64_t index, const char *want)
{
    const char *s = NULL;
    size_t at = 0, n = 0;
    for (int64_t i = 0; i <= index; i++)
        assert_true(gguf_next_string(kv, &at, &s, &n));
    assert_int_equal(n, strlen(want));
    assert_memory_equal(s, want, n);
}

static int type_at(const struct gguf_kv *kv, int64_t index)
{
    return kv->data[4 * index];
}

static void the_tokenizer_is_written_in_llama_cpps_terms(void **state)
{
    struct gguf g = { 0 };
    bool bos = false, eos = true, prefix = true;
    write_base(*state, NULL);
    write_tokenizer(
        *state,
        &(struct json_parts){
            .vocab = ",\"gap\":270",
            .merges = "[\"\xE2\x96\x81\",\"a\"],\"a b\"",
            .added = ADDED(265, "<tool>", PLAIN),
            .post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
                    "\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],"
                    "\"pair\":[],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[1],"
                    "\"tokens\":[\"<s>\"]}}}" });
    write_text(*state, "tokenizer_config.json",
               "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"chat_template\":\"{{ x }}\"}");
    write_text(*state, "generation_config.json", "{\"eos_token_id\":[2,265,270,263]}");
    struct err err = { 0 };
    struct text notes = { 0 };
    if (!export_to(*state, DTYPE_F32, &notes, &err))
        fail_msg("%s", err.text);
    assert_string_equal(notes.data,
                        "1 more tokens end a text than the 3 that llama.cpp is told of; stop at "
                        "them by their text\n"
                        "its tokenizer needs llama.cpp b9094 (May 2026) or newer\n");
    text_free(&notes);
    open_base(*state, &g);
    assert_true(gguf_says(&g, "tokenizer.ggml.model", "gpt2"));
    assert_true(gguf_says(&g, "tokenizer.ggml.pre", "sarvam-moe"));
    assert_true(gguf_says(&g, "tokenizer.chat_template", "{{ x }}"));
    const struct gguf_kv *tokens = gguf_key(&g, "tokenizer.ggml.tokens");
    const struct gguf_kv *types = gguf_key(&g, "tokenizer.ggml.token_type");
    const struct gguf_kv *merges = gguf_key(&g, "tokenizer.ggml.merges");
    assert_true(tokens->n == N_VOCAB && types->n == N_VOCAB && merges->n == 2);
    static const struct {
        int64_t id;
        const char *piece;
        int type;
    } want[] = { { 0, "<pad>", 3 },
                 { 1, "<s>", 3 },
                 { 13, "<0x0A>", 6 },
                 { 258, "<0xFF>", 6 },
                 { 260, "a", 1 },
                 { 263,
                   "\xE2\x96\x81"
                   "a",
                   1 },
                 { 265, "<tool>", 4 },
                 { 264, "[PAD264]", 5 },
                 { 270, "gap", 1 },
                 { 299, "[PAD299]", 5 } };
    for (size_t i = 0; i < COUNT(want); i++) {
        expect_item(tokens, want[i].id, want[i].piece);
        assert_int_equal(type_at(types, want[i].id), want[i].type);
    }
    expect_item(merges, 0, "\xE2\x96\x81 a");
    expect_item(merges, 1, "a b");
    expect_u32(&g, "tokenizer.ggml.bos_token_id", 1);
    expect_u32(&g, "tokenizer.ggml.eos_token_id", 2);
    expect_u32(&g, "tokenizer.ggml.eot_token_id", 265);
    expect_u32(&g, "tokenizer.ggml.eom_token_id", 270);
    expect_u32(&g, "tokenizer.ggml.unknown_token_id", 0);
    assert_true(gguf_get_bool(&g, "tokenizer.ggml.add_bos_token", &bos) && bos);
    assert_true(gguf_get_bool(&g, "tokenizer.ggml.add_eos_token", &eos) && !eos);
    assert_true(gguf_get_bool(&g, "tokenizer.ggml.add_space_prefix", &prefix) && !prefix);
    gguf_close(&g);
}

static void a_base_without_a_tokenizer_has_placeholders(void **state)
{
    struct gguf g = { 0 };
    struct err err = { 0 };
    struct text notes = { 0 };
    char text[ERR_TEXT_SIZE];
    write_base(*state, NULL);
    assert_true(export_to(*state, DTYPE_F32, &notes, &err));
    snprintf(err.text, sizeof err.text, "%s", notes.data);
    tiny_message(text, &err, *state);
    assert_string_equal(
        text, "DIR: has no tokenizer.json; the file takes and gives token ids only, no text\n");
    text_free(&notes);
    open_base(*state, &g);
    expect_item(gguf_key(&g, "tokenizer.ggml.tokens"), 17, "[17]");
    assert_int_equal(gguf_key(&g, "tokenizer.ggml.tokens")->n, N_VOCAB);
    gguf_close(&g);
}

#define CANNOT "; llama.cpp's tokenizers cannot do the same"
#define METASPACE(prefix, split)                                                                   \
    "{\"type\":\"Metaspace\",\"replacement\":\"\xE2\x96\x81\",\"prepend_scheme\":\"" prefix        \
    "\",\"split\":" split "}"
#define ADD_TOKEN(id) "{\"SpecialToken\":{\"id\":\"" id "\",\"type_id\":0}}"
#define TEMPLATE(single)                                                                           \
    "{\"type\":\"TemplateProcessing\",\"single\":[" single "],\"pair\":[],\"special_tokens\":{"    \
    "\"<s>\":{\"id\":\"<s>\",\"ids\":[1],\"tokens\":[\"<s>\"]},"                                   \
    "\"<pad>\":{\"id\":\"<pad>\",\"ids\":[0],\"tokens\":[\"<pad>\"]}}}"
#define SEQUENCE_A "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"

static void a_tokenizer_that_llama_cpp_cannot_follow_is_refused(void **state)
{
    (void)state;
    static const struct {
        struct json_parts parts;
        const char *expected;
    } cases[] = {
        { { .normalizer = "null" }, "normalizer: keeps spaces as they are" CANNOT },
        { { .normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\","
                          "\"prepend\":\"\xE2\x96\x81\"}," ESCAPE "]}" },
          "normalizer: puts a prefix in front of a text" CANNOT },
        { { .normalizer = "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":"
                          "\"b\"}" },
          "normalizer: replaces something else than ' ' by U+2581" CANNOT },
        { { .pre = "{\"type\":\"Digits\",\"individual_digits\":true}" },
          "pre_tokenizer: splits a text before the merges" CANNOT },
        { { .pre = METASPACE("always", "false") },
          "pre_tokenizer: puts a prefix in front of a text" CANNOT },
        { { .pre = METASPACE("never", "true"),
            .vocab = ",\"a\xE2\x96\x81\":265",
            .merges = "[\"a\",\"\xE2\x96\x81\"]" },
          "pre_tokenizer: splits pieces that the merges would make" CANNOT },
        { { .model = "\"byte_fallback\":false,\"unk_token\":\"<pad>\"" },
          "model: has \"byte_fallback\" false" CANNOT },
        { { .model = "\"byte_fallback\":true,\"ignore_merges\":true" },
          "model: has \"ignore_merges\" true" CANNOT },
        { { .vocab = ",\"<0x41>a\":265", .merges = "\"<0x41> a\"" },
          "model.merges: merges a byte token or the unknown token" CANNOT },
        { { .vocab = ",\"\\n\":265,\"a\\n\":266", .merges = "\"a \\n\"" },
          "model.merges: makes a piece of newlines and other characters" CANNOT },
        { { .vocab = ",\" \":265,\"a \":266", .merges = "[\"a\",\" \"]" },
          "model.merges: has a piece with a space, which no text has by then" CANNOT },
        { { .vocab = ",\"far\":300" },
          "model.vocab: 'far' has id 300; the embedding has 300 rows (vocab_size)" },
        { { .added = ADDED(264, "<t>", "\"lstrip\":true,\"rstrip\":false,\"normalized\":false") },
          "added_tokens: '<t>': takes in the spaces beside it (\"lstrip\", \"rstrip\")" CANNOT },
        { { .added = ADDED(264, "a b", "\"lstrip\":false,\"rstrip\":false,\"normalized\":true") },
          "added_tokens: 'a b': has spaces that are to be normalized" CANNOT },
        { { .added = ADDED(264, "z", PLAIN) },
          "added_tokens: 'z': is a single character outside the model's vocabulary" CANNOT },
        { { .post = TEMPLATE(ADD_TOKEN("<s>") "," ADD_TOKEN("<pad>") "," SEQUENCE_A) },
          "post_processor: adds more than one token in front or the end token" CANNOT },
        { { .post = TEMPLATE(SEQUENCE_A "," ADD_TOKEN("<pad>")) },
          "post_processor: adds more than one token in front or the end token" CANNOT },
        { { .merges = "\"x y\"" },
          "model.merges[0]: \"x\" is not in the vocabulary; both parts and what they make must "
          "be" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *folder = tiny_scratch_make(), expected[512];
        write_base(folder, NULL);
        write_tokenizer(folder, &cases[i].parts);
        snprintf(expected, sizeof expected, "DIR/tokenizer.json: %s", cases[i].expected);
        expect_refusal(folder, DTYPE_F32, expected);
        tiny_scratch_remove(folder);
    }
}

/* These change nothing that llama.cpp could see. */
static void harmless_steps_are_taken(void **state)
{
    (void)state;
    static const struct json_parts cases[] = {
        { .normalizer = "null", .pre = METASPACE("never", "false") },
        { .pre = METASPACE("never", "true") }, /* no merge reaches over a space */
        { .vocab = ",\"\\n\":265,\"\\n\\n\":266", .merges = "\"\\n \\n\"" },
        { .added = ADDED(264, "<t>", "\"lstrip\":false,\"rstrip\":false,\"normalized\":true") },
        { .merges = "" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *folder = tiny_scratch_make();
        struct gguf g = { 0 };
        write_base(folder, NULL);
        write_tokenizer(folder, &cases[i]);
        export_ok(folder, DTYPE_F32, &g);
        gguf_close(&g);
        tiny_scratch_remove(folder);
    }
}

/* The order is all that llama.cpp has of the ranks. */
static void merges_keep_their_order(void **state)
{
    enum { N = 8 };
    char vocab[512] = "", merges[512] = "";
    for (int i = 0; i < N; i++) { /* "cc":265, ...; merges backwards */
        const char c = (char)('c' + i), back = (char)('c' + N - 1 - i);
        size_t n = strlen(vocab), m = strlen(merges);
        snprintf(vocab + n, sizeof vocab - n, ",\"%c\":%d,\"%c%c\":%d", c, 264 + i, c, c,
                 264 + N + i);
        snprintf(merges + m, sizeof merges - m, "%s\"%c %c\"", i > 0 ? "," : "", back, back);
    }
    struct gguf g = { 0 };
    write_base(*state, NULL);
    write_tokenizer(*state, &(struct json_parts){ .vocab = vocab, .merges = merges });
    export_ok(*state, DTYPE_F32, &g);
    for (int i = 0; i < N; i++) {
        const char back = (char)('c' + N - 1 - i);
        expect_item(gguf_key(&g, "tokenizer.ggml.merges"), i, (char[]){ back, ' ', back, '\0' });
    }
    gguf_close(&g);
}

/* A merge that is listed twice counts where it is listed last; llama.cpp would take the first. */
static void a_merge_that_is_listed_twice_is_written_once(void **state)
{
    struct gguf g = { 0 };
    write_base(*state, NULL);
    write_tokenizer(
        *state, &(struct json_parts){ .merges = "\"a b\",[\"\xE2\x96\x81\",\"a\"],[\"a\",\"b\"]" });
    export_ok(*state, DTYPE_F32, &g);
    const struct gguf_kv *merges = gguf_key(&g, "tokenizer.ggml.merges");
    assert_int_equal(merges->n, 2);
    expect_item(merges, 0, "\xE2\x96\x81 a");
    expect_item(merges, 1, "a b");
    gguf_close(&g);
}

static void overlapping_added_tokens_are_remarked(void **state)
{
    struct err err = { 0 };
    struct text notes = { 0 };
    write_base(*state, NULL);
    write_tokenizer(
        *state, &(struct json_parts){ .added = ADDED(264, "<<", PLAIN) ADDED(265, "a<", PLAIN) });
    if (!export_to(*state, DTYPE_F32, &notes, &err))
        fail_msg("%s", err.text);
    assert_string_equal(notes.data,
                        "added tokens '<<' and '<pad>' can overlap; there llama.cpp may take the "
                        "other one\n"
                        "its tokenizer needs llama.cpp b9094 (May 2026) or newer\n");
    text_free(&notes);
}

static void a_text_must_have_an_end(void **state)
{
    struct jamba_config config = tiny_config();
    config.vocab_size = N_VOCAB;
    config.n_eos = 0;
    tiny_checkpoint_write(*state, &config, &(struct tiny_options){ 0 });
    char *path = file_join(*state, "config.json"), *bytes = NULL;
    size_t n = 0;
    struct err err = { 0 };
    assert_true(file_read(path, 1 << 20, &bytes, &n, &err));
    char *list = strstr(bytes, "\"eos_token_id\": []");
    assert_non_null(list);
    struct text t = { 0 }; /* an empty list is refused elsewhere */
    text_append(&t, bytes, (size_t)(list - bytes));
    text_printf(&t, "\"eos_token_id\": null%s", list + strlen("\"eos_token_id\": []"));
    tiny_file_write(*state, "config.json", t.data, t.len);
    text_free(&t);
    free(bytes);
    free(path);
    write_tokenizer(*state, &(struct json_parts){ 0 });
    expect_refusal(*state, DTYPE_F32,
                   "DIR: no token ends a text (\"eos_token\" of tokenizer_config.json, "
                   "\"eos_token_id\" of config.json); llama.cpp would take another for it");
}

/* ---- templates ---- */

static void templates_are_taken_from_where_they_are(void **state)
{
    (void)state;
    static const struct {
        const char *config, *own, *text, *named; /* expected: without a name, and "tool" */
    } cases[] = {
        { "{}", NULL, NULL, NULL },
        { "{\"chat_template\":null}", NULL, NULL, NULL },
        { "{\"chat_template\":\"A\"}", NULL, "A", NULL },
        { "{\"chat_template\":\"A\"}", "B", "B", NULL },
        { "{\"chat_template\":[{\"name\":\"default\",\"template\":\"A\"},{\"name\":\"tool\","
          "\"template\":\"T\"}]}",
          NULL, "A", "T" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *folder = tiny_scratch_make();
        struct gguf g = { 0 };
        write_base(folder, NULL);
        write_tokenizer(folder, &(struct json_parts){ 0 });
        tiny_file_write(folder, "tokenizer_config.json", cases[i].config, strlen(cases[i].config));
        if (cases[i].own != NULL)
            write_text(folder, "chat_template.jinja", cases[i].own);
        export_ok(folder, DTYPE_F32, &g);
        assert_int_equal(gguf_key(&g, "tokenizer.chat_template") != NULL, cases[i].text != NULL);
        assert_int_equal(gguf_key(&g, "tokenizer.chat_templates") != NULL, cases[i].named != NULL);
        if (cases[i].text != NULL)
            assert_true(gguf_says(&g, "tokenizer.chat_template", cases[i].text));
        if (cases[i].named != NULL) {
            assert_true(gguf_says(&g, "tokenizer.chat_template.tool", cases[i].named));
            expect_item(gguf_key(&g, "tokenizer.chat_templates"), 0, "tool");
        }
        gguf_close(&g);
        tiny_scratch_remove(folder);
    }
}

static void a_malformed_template_is_refused(void **state)
{
    (void)state;
    static const char *const configs[] = {
        "{\"chat_template\":7}",
        "{\"chat_template\":[7]}",
        "{\"chat_template\":[{\"name\":\"a\"}]}",
        "{\"chat_template\":[{\"name\":\"\",\"template\":\"x\"}]}",
        "{\"chat_template\":[{\"name\":\"a b\",\"template\":\"x\"}]}",
        ("{\"chat_template\":[{\"name\":\"a\",\"template\":\"x\"},"
         "{\"name\":\"a\",\"template\":\"y\"}]}"),
    };
    for (size_t i = 0; i <= COUNT(configs); i++) {
        char *folder = tiny_scratch_make();
        write_base(folder, NULL);
        write_tokenizer(folder, &(struct json_parts){ 0 });
        if (i < COUNT(configs)) {
            write_text(folder, "tokenizer_config.json", configs[i]);
            expect_refusal(folder, DTYPE_F32,
                           "DIR/tokenizer_config.json: \"chat_template\": expected a string, or a "
                           "list of {\"name\": ..., \"template\": ...} with a name each");
        } else {
            tiny_file_write(folder, "chat_template.jinja", "a\xFF", 2);
            expect_refusal(folder, DTYPE_F32,
                           "DIR/chat_template.jinja: is not valid UTF-8 at byte 1");
        }
        tiny_scratch_remove(folder);
    }
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_is_its_tensors),
        IN_FOLDER(a_tied_base_has_no_head_and_a_missing_conv_bias_is_zero),
        IN_FOLDER(the_keys_say_what_the_config_says),
        IN_FOLDER(a_dense_base_has_no_experts),
        cmocka_unit_test(a_checkpoint_that_does_not_fit_is_refused),
        IN_FOLDER(a_jamba_that_llama_cpp_does_not_run_is_refused),
        IN_FOLDER(a_value_beyond_f16_is_refused_by_tensor),
        IN_FOLDER(the_tokenizer_is_written_in_llama_cpps_terms),
        IN_FOLDER(a_base_without_a_tokenizer_has_placeholders),
        cmocka_unit_test(a_tokenizer_that_llama_cpp_cannot_follow_is_refused),
        cmocka_unit_test(harmless_steps_are_taken),
        IN_FOLDER(merges_keep_their_order),
        IN_FOLDER(a_merge_that_is_listed_twice_is_written_once),
        IN_FOLDER(overlapping_added_tokens_are_remarked),
        IN_FOLDER(a_text_must_have_an_end),
        cmocka_unit_test(templates_are_taken_from_where_they_are),
        cmocka_unit_test(a_malformed_template_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
