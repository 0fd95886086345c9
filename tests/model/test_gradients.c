/* The whole model's gradients against central differences, in the double build: every adapter
 * tensor of every kind, with dropout, the load-balancing loss, several documents and chunks. */
#include "tests/support/model.h"

#include <stdio.h>
#include <string.h>

/* The loss's third derivatives and double rounding at a step of 1e-5 leave a few 1e-9 on these
 * models. */
static const double tolerance = 1e-7;

static const struct jamba_pass pass = { .backward = true,
                                        .grad_scale = (real)0.05,
                                        .aux_scale = 2e-3,
                                        .dropout = { .rate = 0.1, .seed = 9, .step = 2 } };

/* Documents of 7, 2, 1 and 5 tokens: few, since every probe is two forwards of the whole model. */
static const int32_t some[] = { 1, 3, 5, 6 };

struct subject {
    struct test_model m;
    struct stream stream;
};

static double loss(void *context)
{
    struct subject *s = context;
    struct jamba_pass forward = pass;
    forward.backward = false;
    jamba_begin_step(&s->m.jamba);
    jamba_run(&s->m.jamba, &s->stream, &forward, NULL);
    const struct jamba_losses l = jamba_end_step(&s->m.jamba);
    return (double)pass.grad_scale * l.loss_sum + pass.aux_scale * l.aux_sum;
}

static void every_adapter_tensor_agrees_with_differences(void **state)
{
    (void)state;
    if (!REAL_IS_DOUBLE)
        return; /* central differences need double; test_golden holds the float build */
    for (int i = 0; i < TEST_N_MODEL; i++) {
        struct subject subject;
        struct test_model *m = &subject.m;
        test_model_open(m, test_model_names[i], "golden.safetensors");
        test_stream_of(m, some, sizeof some / sizeof *some, &subject.stream);
        m->jamba.chunk_tokens = 6;
        struct jamba_result r;
        memset(m->adapter.grads, 0, (size_t)m->adapter.n_param * sizeof(real));
        jamba_run(&m->jamba, &subject.stream, &pass, &r);
        for (int64_t k = 0; k < m->adapter.n_slot; k++) {
            const struct lora_slot *s = &m->adapter.slots[k];
            const struct test_variable v[2] = {
                { "A", s->a, s->da, s->rank * s->module->in },
                { "B", s->b, s->db, s->rank * s->module->out },
            };
            for (int ab = 0; ab < 2; ab++) {
                const bool pad_row = s->module->kind == LORA_EMBED_TOKENS && ab == 0;
                if (pad_row && m->jamba.config->pad_token_id >= 0)
                    continue; /* the pad column is frozen by definition, not by calculus: see
                                 test_golden */
                const double error = test_gradient_error(loss, &subject, &v[ab], 6);
                if (!(error < tolerance))
                    fail_msg("%s: %s.%s: error %.3g", test_model_names[i], s->module->path,
                             v[ab].name, error);
            }
        }
        test_stream_free(&subject.stream);
        test_model_close(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_adapter_tensor_agrees_with_differences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
