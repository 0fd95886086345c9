/* A golden tiny Jamba (tests/fixtures/models, written by tests/reference/make_models.py), ready to
 * run. */
#ifndef TESTS_SUPPORT_MODEL_H
#define TESTS_SUPPORT_MODEL_H

#include "finetune/model/jamba.h"
#include "finetune/model/modules.h"
#include "kernels/format/safetensors.h"
#include "lora/adapter.h"
#include "lora/config.h"
#include "tests/support/support.h"

struct test_model {
    struct test_backend t;
    struct arena saved, adapter_arena;
    struct weights *weights;
    struct lora_module *modules;
    int64_t n_module;
    struct lora_choice *choices;
    struct lora_config lora;
    struct lora_adapter adapter;
    struct jamba jamba;
    struct safetensors golden;
    struct stream stream; /* all of the golden's documents */
};

/* Opens fixture `name`, its adapter and the golden stream of `file` ("golden.safetensors"). */
void test_model_open(struct test_model *m, const char *name, const char *file);
void test_model_close(struct test_model *m);

/* A tensor of the golden file as reals; its size must be n when n >= 0. Caller test_release()s. */
real *test_golden(const struct test_model *m, const char *name, int64_t n);
double test_golden_double(const struct test_model *m, const char *name);

/* A stream of some of the documents; buffers of its own. */
void test_stream_of(const struct test_model *m, const int32_t *docs, int64_t n, struct stream *out);
void test_stream_free(struct stream *s);

/* Forward and, with backward, gradients (zeroed first) of mean cross entropy over the stream's
 * targets. */
struct jamba_result test_run(struct test_model *m, const struct stream *s, bool backward);

extern const char *const test_model_names[];
enum { TEST_N_MODEL = 5 };

#endif
