/* Opening base models: every kind of checkpoint gives the same numbers; and random weights. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "finetune/model/weights.h"
#include "kernels/core/text.h"
#include "tests/support/tiny_checkpoint.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const struct tiny_options plain = { 0 };

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

/* ---- what was written is what is read ---- */

static void layer_name(char out[128], int64_t layer, const char *name)
{
    snprintf(out, 128, "model.layers.%d.%s", (int)layer, name);
}

static void expect_matrix(struct weight w, const char *name, int64_t rows, int64_t cols,
                          enum dtype dtype)
{
    assert_non_null(w.data);
    assert_int_equal(w.dtype, dtype);
    assert_int_equal(w.rows, rows);
    assert_int_equal(w.cols, cols);
    assert_int_equal((uintptr_t)w.data % dtype_size(dtype), 0);
    for (int64_t i = 0; i < rows * cols; i++) {
        real x = 0;
        dtype_to_real(dtype, (const char *)w.data + (size_t)i * dtype_size(dtype), 1, &x);
        if (x != (real)tiny_value(name, i))
            fail_msg("%s[%d] is %g, expected %g", name, (int)i, (double)x,
                     (double)tiny_value(name, i));
    }
}

static void expect_vector(const real *x, const char *name, int64_t n)
{
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        if (x[i] != (real)tiny_value(name, i))
            fail_msg("%s[%d] is %g, expected %g", name, (int)i, (double)x[i],
                     (double)tiny_value(name, i));
    }
}

static void expect_mamba(const struct jamba_config *c, int64_t l, const struct mamba_weights *m,
                         enum dtype dtype)
{
    const int64_t h = c->hidden_size, di = c->d_inner, n = c->mamba_d_state, r = c->mamba_dt_rank;
    char name[128];
    const struct {
        struct weight w;
        const char *name;
        int64_t rows, cols;
    } matrices[] = { { m->in_proj, "mamba.in_proj.weight", 2 * di, h },
                     { m->x_proj, "mamba.x_proj.weight", r + 2 * n, di },
                     { m->dt_proj, "mamba.dt_proj.weight", di, r },
                     { m->out_proj, "mamba.out_proj.weight", h, di } };
    const struct {
        const real *x;
        const char *name;
        int64_t n;
    } vectors[] = { { m->dt_bias, "mamba.dt_proj.bias", di },
                    { m->d, "mamba.D", di },
                    { m->dt_norm, "mamba.dt_layernorm.weight", r },
                    { m->b_norm, "mamba.b_layernorm.weight", n },
                    { m->c_norm, "mamba.c_layernorm.weight", n } };
    for (size_t i = 0; i < COUNT(matrices); i++) {
        layer_name(name, l, matrices[i].name);
        expect_matrix(matrices[i].w, name, matrices[i].rows, matrices[i].cols, dtype);
    }
    for (size_t i = 0; i < COUNT(vectors); i++) {
        layer_name(name, l, vectors[i].name);
        expect_vector(vectors[i].x, name, vectors[i].n);
    }
    layer_name(name, l, "mamba.conv1d.weight"); /* the file's (d_inner, 1, d_conv), transposed */
    for (int64_t i = 0; i < di * c->mamba_d_conv; i++)
        assert_true(m->conv_w[i % c->mamba_d_conv * di + i / c->mamba_d_conv] ==
                    (real)tiny_value(name, i));
    layer_name(name, l, "mamba.A_log"); /* the file's (d_inner, d_state) */
    for (int64_t i = 0; i < di * n; i++) {
        const double a = -exp((double)tiny_value(name, i));
        assert_true(fabs((double)m->a[i % n * di + i / n] - a) <= 1e-6 * fabs(a));
    }
    layer_name(name, l, "mamba.conv1d.bias");
    for (int64_t i = 0; !c->mamba_conv_bias && i < di; i++)
        assert_true(m->conv_b[i] == 0);
    if (c->mamba_conv_bias)
        expect_vector(m->conv_b, name, di);
    if (!c->mamba_proj_bias) {
        assert_null(m->in_proj_bias);
        assert_null(m->out_proj_bias);
        return;
    }
    layer_name(name, l, "mamba.in_proj.bias");
    expect_vector(m->in_proj_bias, name, 2 * di);
    layer_name(name, l, "mamba.out_proj.bias");
    expect_vector(m->out_proj_bias, name, h);
}

static void expect_attention(const struct jamba_config *c, int64_t l,
                             const struct attention_weights *a, enum dtype dtype)
{
    const int64_t h = c->hidden_size, kv = c->num_key_value_heads * c->d_head;
    char name[128];
    layer_name(name, l, "self_attn.q_proj.weight");
    expect_matrix(a->q_proj, name, h, h, dtype);
    layer_name(name, l, "self_attn.k_proj.weight");
    expect_matrix(a->k_proj, name, kv, h, dtype);
    layer_name(name, l, "self_attn.v_proj.weight");
    expect_matrix(a->v_proj, name, kv, h, dtype);
    layer_name(name, l, "self_attn.o_proj.weight");
    expect_matrix(a->o_proj, name, h, h, dtype);
}

static void expect_feed_forward(const struct jamba_config *c, int64_t l,
                                const struct layer_weights *lw, enum dtype dtype)
{
    const int64_t h = c->hidden_size, n_ff = c->intermediate_size;
    char name[128], inner[64];
    for (int64_t e = 0; e < (lw->is_moe ? c->num_experts : 1); e++) {
        const struct weight *w[] = { &lw->mlp[e].gate_proj, &lw->mlp[e].up_proj,
                                     &lw->mlp[e].down_proj };
        static const char *const names[] = { "gate", "up", "down" };
        for (int p = 0; p < 3; p++) {
            if (lw->is_moe)
                snprintf(inner, sizeof inner, "feed_forward.experts.%d.%s_proj.weight", (int)e,
                         names[p]);
            else
                snprintf(inner, sizeof inner, "feed_forward.%s_proj.weight", names[p]);
            layer_name(name, l, inner);
            expect_matrix(*w[p], name, p < 2 ? n_ff : h, p < 2 ? h : n_ff, dtype);
        }
    }
    layer_name(name, l, "feed_forward.router.weight");
    if (lw->is_moe)
        expect_matrix(lw->router, name, c->num_experts, h, dtype);
    else
        assert_null(lw->router.data);
}

static void expect_all(struct weights *w, const struct jamba_config *c, enum dtype dtype)
{
    char name[128];
    expect_matrix(weights_embedding(w), "model.embed_tokens.weight", c->vocab_size, c->hidden_size,
                  dtype);
    expect_vector(weights_final_norm(w), "model.final_layernorm.weight", c->hidden_size);
    expect_matrix(weights_head(w),
                  c->tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight",
                  c->vocab_size, c->hidden_size, dtype);
    for (int64_t l = 0; l < c->num_hidden_layers; l++) {
        const struct layer_weights *lw = weights_layer(w, l);
        assert_int_equal(lw->is_attention, jamba_is_attention(c, l));
        assert_int_equal(lw->is_moe, jamba_is_moe(c, l));
        layer_name(name, l, "input_layernorm.weight");
        expect_vector(lw->input_norm, name, c->hidden_size);
        layer_name(name, l, "pre_ff_layernorm.weight");
        expect_vector(lw->pre_ff_norm, name, c->hidden_size);
        if (lw->is_attention)
            expect_attention(c, l, &lw->attention, dtype);
        else
            expect_mamba(c, l, &lw->mamba, dtype);
        expect_feed_forward(c, l, lw, dtype);
    }
}

static void write_and_expect(const char *folder, const struct jamba_config *c,
                             const struct tiny_options *o)
{
    struct err err = { 0 };
    tiny_checkpoint_write(folder, c, o);
    struct weights *w = weights_open(folder, 0, &err);
    if (w == NULL)
        fail_msg("%s", err.text);
    assert_int_equal(weights_config(w)->hidden_size, c->hidden_size);
    assert_int_equal(weights_config(w)->dtype, o->dtype);
    assert_true(weights_mapped_bytes(w) > 0);
    expect_all(w, c, o->dtype);
    weights_close(w);
}

static void every_storage_type_gives_the_same_numbers(void **state)
{
    static const enum dtype types[] = { DTYPE_F32, DTYPE_BF16, DTYPE_F16 };
    const struct jamba_config c = tiny_config();
    for (size_t i = 0; i < COUNT(types); i++)
        write_and_expect(*state, &c, &(struct tiny_options){ .dtype = types[i] });
}

static void shards_give_the_same_numbers(void **state)
{
    const struct jamba_config c = tiny_config();
    write_and_expect(*state, &c, &(struct tiny_options){ .n_shard = 1 });
    char *other = tiny_scratch_make();
    write_and_expect(other, &c, &(struct tiny_options){ .n_shard = 7, .dtype = DTYPE_BF16 });
    tiny_scratch_remove(other);
}

static void legacy_names_give_the_same_numbers(void **state)
{
    struct jamba_config c = tiny_config();
    write_and_expect(*state, &c, &(struct tiny_options){ .legacy_names = true });
    write_and_expect(*state, &c, &(struct tiny_options){ .legacy_names = true, .n_shard = 2 });
    c.num_experts = 1; /* every layer moe.experts.0 */
    write_and_expect(*state, &c, &(struct tiny_options){ .legacy_names = true });
}

static void unaligned_tensors_are_copied(void **state)
{
    const struct jamba_config c = tiny_config();
    struct err err = { 0 };
    write_and_expect(*state, &c, &plain);
    struct weights *w = weights_open(*state, 0, &err);
    const size_t aligned_bytes = weights_owned_bytes(w);
    weights_close(w);
    write_and_expect(*state, &c, &(struct tiny_options){ .unaligned = true, .dtype = DTYPE_BF16 });
    write_and_expect(*state, &c, &(struct tiny_options){ .unaligned = true });
    w = weights_open(*state, 0, &err);
    assert_true(weights_owned_bytes(w) > 2 * aligned_bytes);
    weights_close(w);
}

static void every_shape_of_jamba_is_read(void **state)
{
    static const struct {
        int64_t n_expert, n_head, n_kv, d_conv, expand, d_state, dt_rank;
        bool tied, conv_bias, proj_bias;
    } cases[] = {
        { 1, 4, 1, 4, 2, 16, 2, true, true, false }, /* the 3B's: dense, MQA, tied */
        { 3, 4, 2, 4, 2, 16, 2, false, true, true },
        { 5, 3, 3, 1, 1, 1, 1, false, false, false },
        { 2, 1, 1, 7, 3, 3, 5, true, false, true },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct jamba_config c = tiny_config();
        c.num_experts = cases[i].n_expert;
        c.num_attention_heads = cases[i].n_head;
        c.num_key_value_heads = cases[i].n_kv;
        c.mamba_d_conv = cases[i].d_conv;
        c.mamba_expand = cases[i].expand;
        c.mamba_d_state = cases[i].d_state;
        c.mamba_dt_rank = cases[i].dt_rank;
        c.tie_word_embeddings = cases[i].tied;
        c.mamba_conv_bias = cases[i].conv_bias;
        c.mamba_proj_bias = cases[i].proj_bias;
        tiny_config_derive(&c);
        write_and_expect(*state, &c, &plain);
    }
}

static void tied_model_may_keep_its_own_head(void **state)
{
    struct jamba_config c = tiny_config();
    c.tie_word_embeddings = true;
    write_and_expect(*state, &c, &(struct tiny_options){ .with_head = true });
}

/* ---- random weights ---- */

static struct weights *open_random(const char *folder, uint64_t seed)
{
    char *base_model = text_format("random:%s/config.json", folder);
    struct err err = { 0 };
    struct weights *w = weights_open(base_model, seed, &err);
    if (w == NULL)
        fail_msg("%s", err.text);
    free(base_model);
    return w;
}

static void random_weights_depend_on_the_seed_alone(void **state)
{
    const struct jamba_config c = tiny_config();
    tiny_checkpoint_write(*state, &c, &plain);
    struct weights *a = open_random(*state, 7), *b = open_random(*state, 7),
                   *other = open_random(*state, 8);
    const struct weight x = weights_embedding(a);
    const size_t n = (size_t)(x.rows * x.cols) * sizeof(float);
    assert_int_equal(x.dtype, DTYPE_F32);
    assert_memory_equal(x.data, weights_embedding(b).data, n);
    assert_memory_not_equal(x.data, weights_embedding(other).data, n);
    assert_memory_not_equal(x.data, weights_head(a).data, n);
    assert_int_equal(weights_mapped_bytes(a), 0);
    assert_in_range(weights_owned_bytes(a), (size_t)jamba_param_count(&c) * 4,
                    (size_t)jamba_param_count(&c) * 8 + 64 * 256);
    weights_close(a);
    weights_close(b);
    weights_close(other);
}

static void random_matrices_have_the_spread_of_initializer_range(void **state)
{
    struct jamba_config c = tiny_config();
    c.vocab_size = 4096;
    c.initializer_range = 0.05;
    tiny_checkpoint_write(*state, &c, &(struct tiny_options){ .dtype = DTYPE_BF16 });
    struct weights *w = open_random(*state, 1);
    const struct weight e = weights_embedding(w);
    assert_int_equal(e.dtype, DTYPE_BF16);
    const uint16_t *x = e.data;
    double sum = 0, squares = 0, fourth = 0;
    const int64_t n = e.rows * e.cols;
    for (int64_t i = 0; i < n; i++) {
        const double v = (double)dtype_from_bf16(x[i]) / 0.05;
        sum += v;
        squares += v * v;
        fourth += v * v * v * v;
    }
    /* Of 98304 numbers: the mean errs by 0.003, the variance by 0.004, the fourth moment (2.7) by
     * 0.03. */
    assert_true(fabs(sum / (double)n) < 0.015);
    assert_true(fabs(squares / (double)n - 1) < 0.02);
    assert_true(fabs(fourth / (double)n - 2.7) < 0.15);
    weights_close(w);
}

static void random_vectors_start_as_mamba_does(void **state)
{
    struct jamba_config c = tiny_config();
    c.mamba_conv_bias = false;
    c.mamba_proj_bias = true;
    tiny_checkpoint_write(*state, &c, &plain);
    struct weights *w = open_random(*state, 1);
    const struct mamba_weights *m = &weights_layer(w, 0)->mamba;
    bool lively = false;
    for (int64_t d = 0; d < c.d_inner; d++) {
        const double dt = log1p(exp((double)m->dt_bias[d]));
        assert_true(dt > 0.00099 && dt < 0.101);
        assert_true(m->d[d] == 1 && m->conv_b[d] == 0 && m->in_proj_bias[d] == 0);
        for (int64_t n = 0; n < c.mamba_d_state; n++)
            assert_true(m->a[n * c.d_inner + d] == (real) - (n + 1));
        for (int64_t k = 0; k < c.mamba_d_conv; k++) {
            assert_true(fabs((double)m->conv_w[k * c.d_inner + d]) <= 0.5);
            lively = lively || fabs((double)m->conv_w[k * c.d_inner + d]) > 0.4;
        }
    }
    assert_true(lively);
    assert_true(weights_layer(w, 0)->input_norm[0] == 1 && weights_final_norm(w)[3] == 1);
    weights_close(w);
}

static void random_weights_that_cannot_fit_are_refused(void **state)
{
    static const char json[] =
        "{\"model_type\": \"jamba\", \"vocab_size\": 16777216, \"hidden_size\": 131072, "
        "\"num_hidden_layers\": 2, \"mamba_expand\": 64}";
    struct err err = { 0 };
    tiny_file_write(*state, "config.json", json, sizeof json - 1);
    char *base_model = text_format("random:%s/config.json", (const char *)*state),
         text[ERR_TEXT_SIZE];
    assert_null(weights_open(base_model, 0, &err));
    assert_int_equal(err.code, ERR_NO_MEMORY);
    tiny_message(text, &err, *state);
    assert_true(text_starts_with(text, "DIR/config.json: random weights of this shape take "));
    free(base_model);
}

#define IN_A_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_A_FOLDER(every_storage_type_gives_the_same_numbers),
        IN_A_FOLDER(shards_give_the_same_numbers),
        IN_A_FOLDER(legacy_names_give_the_same_numbers),
        IN_A_FOLDER(unaligned_tensors_are_copied),
        IN_A_FOLDER(every_shape_of_jamba_is_read),
        IN_A_FOLDER(tied_model_may_keep_its_own_head),
        IN_A_FOLDER(random_weights_depend_on_the_seed_alone),
        IN_A_FOLDER(random_matrices_have_the_spread_of_initializer_range),
        IN_A_FOLDER(random_vectors_start_as_mamba_does),
        IN_A_FOLDER(random_weights_that_cannot_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
