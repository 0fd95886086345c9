/* Modules that cuda_load must refuse, and one that it takes, for test_load.c: this file compiled
 * with FAKE_VERSION, FAKE_N_OP, FAKE_SYMBOL or FAKE_BROKEN.
 */
#include <string.h>

#include "kernels/core/err.h"
#include "kernels/cuda/module.h"

#ifndef FAKE_VERSION
#define FAKE_VERSION CUDA_MODULE_VERSION
#endif
#ifndef FAKE_N_OP
#define FAKE_N_OP CUDA_N_OP
#endif
#ifndef FAKE_SYMBOL
#define FAKE_SYMBOL jambatune_cuda_module
#endif

extern const struct cuda_module FAKE_SYMBOL __attribute__((visibility("default")));

static const struct ops no_ops;

static bool facts(struct cuda_facts *out, struct err *err)
{
#ifdef FAKE_BROKEN
    err->code = ERR_DEVICE;
    memcpy(err->text, "broken", sizeof "broken");
    return out == NULL;
#else
    (void)err;
    *out = (struct cuda_facts){ .name = "fake", .major = 9, .memory = 12345 };
    return true;
#endif
}

static void close_device(struct device *d)
{
    d->memory = 0;
}

static struct device *open_device(const struct cuda_options *options, struct err *err)
{
    static struct device device;
    if (options->tuned != NULL) {
        err->code = ERR_DATA;
        memcpy(err->text, "refused", sizeof "refused");
        return NULL;
    }
    device = (struct device){ .memory = 12345, .close = close_device };
    return &device;
}

const struct cuda_module FAKE_SYMBOL = {
    .version = FAKE_VERSION, .n_op = FAKE_N_OP, .ops = &no_ops, .facts = facts, .open = open_device
};
