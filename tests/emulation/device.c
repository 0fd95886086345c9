/* The emulated device: what kernels/cuda's C files make of a real one. All runs at once and in
 * order, so there is nothing to wait for; memory is the host's, closed to it (emulated.h).
 *
 * In the environment: CUDA_EMULATION_MEMORY, bytes there are (default 1 GiB);
 * CUDA_EMULATION_SHARED, bytes of shared memory that a block may have (default 227 KiB).
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/context.h"
#include "tests/emulation/emulated.h"

static const char device_name[] = "emulated device";

static size_t device_memory(void)
{
    const char *bytes = getenv("CUDA_EMULATION_MEMORY");
    return bytes == NULL ? (size_t)1 << 30 : (size_t)strtoull(bytes, NULL, 10);
}

static size_t shared_bytes(void)
{
    const char *bytes = getenv("CUDA_EMULATION_SHARED");
    return bytes == NULL ? (size_t)227 << 10 : (size_t)strtoull(bytes, NULL, 10);
}

/* ---- struct device ---- */

static void *device_alloc(struct device *d, size_t bytes, struct err *err)
{
    void *p = bytes > d->memory - emulated_used() ? NULL : emulated_alloc(bytes);
    if (p == NULL)
        err_set(err, ERR_NO_MEMORY, "%s: out of memory for %zu bytes; %zu of %zu are in use",
                device_name, bytes, emulated_used(), d->memory);
    return p;
}

static void device_free(struct device *d, void *p)
{
    (void)d;
    emulated_free(p);
}

static bool device_finish(struct device *d, struct err *err)
{
    (void)d;
    const char *report = emulated_unchecked();
    return report == NULL ||
           err_set(err, ERR_DEVICE, "%s: a launch without CHECK_LAUNCH: %s", device_name, report);
}

static size_t device_used(struct device *d)
{
    (void)d;
    return emulated_used();
}

static void device_close(struct device *d)
{
    struct cuda_state *s = (struct cuda_state *)(void *)d;
    cuda_sdpa_close(s->sdpa);
    free(s);
}

/* ---- the module ---- */

static bool device_facts(struct cuda_facts *out, struct err *err)
{
    (void)err;
    /* Few and an odd number of multiprocessors: nothing may depend on it. */
    *out = (struct cuda_facts){ .major = 9,
                                .n_sm = 3,
                                .memory = device_memory(),
                                .l2_bytes = (size_t)1 << 20,
                                .shared_bytes = shared_bytes(),
                                .cudnn = cuda_sdpa_version() };
    memcpy(out->name, device_name, sizeof device_name);
    memcpy(out->built_for, "host", sizeof "host");
    return true;
}

static struct device *device_open(const struct cuda_options *options, struct err *err)
{
    struct cuda_state *s = calloc(1, sizeof *s);
    if (s == NULL) {
        err_no_memory(err, device_name);
        return NULL;
    }
    s->device = (struct device){ .memory = device_memory(),
                                 .alloc = device_alloc,
                                 .free = device_free,
                                 .finish = device_finish,
                                 .used = device_used,
                                 .close = device_close };
    s->options = *options;
    memcpy(s->name, device_name, sizeof device_name);
    s->major = 9;
    s->n_sm = 3;
    s->shared_bytes = shared_bytes();
    if (!cuda_sdpa_open(s, err)) {
        device_close(&s->device);
        return NULL;
    }
    return &s->device;
}

static bool device_tune(struct device *d, const char *path, struct err *err)
{
    (void)d;
    return err_set(err, ERR_USAGE, "%s: the %s has no GEMMs to tune", path, device_name);
}

const struct cuda_module jambatune_cuda_module = { .version = CUDA_MODULE_VERSION,
                                                   .n_op = CUDA_N_OP,
                                                   .ops = &cuda_ops,
                                                   .facts = device_facts,
                                                   .open = device_open,
                                                   .tune = device_tune,
                                                   .attention_calls = cuda_attention_calls };

/* ---- errors and copies ---- */

bool cuda_explain(const struct cuda_state *s, const char *op, const char *what, struct err *err)
{
    return err_set(err, ERR_DEVICE, "%s: %s: %s", s->name, op, what);
}

void cuda_fail(struct backend *be, const char *op, const char *what)
{
    if (be->err.code == ERR_NONE)
        cuda_explain(cuda_state_of(be), op, what, &be->err);
}

/* Whether each end of a copy lies on the side it should. */
static bool sides_are(struct backend *be, const char *op, const struct copy_args *a, bool from,
                      bool to)
{
    if (emulated_contains(a->from, a->bytes) == from && emulated_contains(a->to, a->bytes) == to)
        return true;
    cuda_fail(be, op, "an end of the copy is not where it should be");
    return false;
}

void cuda_to_device(struct backend *be, const struct copy_args *a, void *scratch)
{
    (void)scratch;
    if (a->bytes > 0 && sides_are(be, "to_device", a, false, true))
        emulated_copy(a->to, a->from, a->bytes);
}

bool cuda_read_back(struct backend *be, const char *op, const void *device, void *host,
                    size_t bytes)
{
    const struct copy_args a = { .from = device, .to = host, .bytes = bytes };
    if (bytes == 0)
        return be->err.code == ERR_NONE;
    if (be->err.code == ERR_NONE && sides_are(be, op, &a, true, false)) {
        emulated_copy(host, device, bytes);
        return true;
    }
    memset(host, 0, bytes);
    return false;
}

void cuda_to_host(struct backend *be, const struct copy_args *a, void *scratch)
{
    (void)scratch;
    cuda_read_back(be, "to_host", a->from, a->to, a->bytes);
}
