/* Finding and opening the CUDA module. What there is no driver for is never opened: libcublasLt
 * alone maps half a gigabyte. Nothing is kept here: a library that is open already is handed out
 * again by dlopen, which locks for itself, and none is ever closed.
 */
#include "kernels/cuda/load.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/core/file.h"
#include "kernels/cuda/scratch.h"

#define DRIVER "libcuda.so.1"
#define MODULE "libjambatune_cuda.so"

enum { MAX_TUNED_BYTES = 1 << 24 };

/* "/where/the/program/is/libjambatune_cuda.so" */
static bool module_beside_program(char path[PATH_MAX], struct err *err)
{
    const ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - sizeof MODULE);
    path[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(path, '/');
    if (slash == NULL || n == PATH_MAX - (ssize_t)sizeof MODULE)
        return err_set(err, ERR_DEVICE,
                       MODULE ": the program's own folder cannot be found (/proc/self/exe); name "
                              "the file in JAMBATUNE_CUDA_MODULE");
    memcpy(slash + 1, MODULE, sizeof MODULE);
    return true;
}

static bool find_driver(struct err *err)
{
    if (dlopen(DRIVER, RTLD_LAZY | RTLD_LOCAL) != NULL)
        return true;
    const char *why = dlerror();
    if (why == NULL || strstr(why, "No such file or directory") != NULL)
        return err_set(err, ERR_DEVICE, "no NVIDIA driver (" DRIVER ")");
    return err_set(err, ERR_DEVICE, "the NVIDIA driver cannot be used (%s)", why);
}

static const struct cuda_module *open_module(const char *path, struct err *err)
{
    /* A name without '/' would be looked for in the system's folders. */
    if (strchr(path, '/') == NULL) {
        err_set(err, ERR_DEVICE, "JAMBATUNE_CUDA_MODULE: '%s' has no folder; expected a path",
                path);
        return NULL;
    }
    if (access(path, F_OK) != 0) {
        err_set(err, ERR_DEVICE,
                "%s: not there; this build has no CUDA part, or the file was left behind", path);
        return NULL;
    }
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *why = dlerror();
        const size_t n = strlen(path);
        if (why != NULL && strncmp(why, path, n) == 0 && strncmp(why + n, ": ", 2) == 0)
            why += n + 2;
        err_set(err, ERR_DEVICE, "%s: cannot be opened: %s", path, why != NULL ? why : "?");
        return NULL;
    }
    const struct cuda_module *module = dlsym(library, CUDA_MODULE_SYMBOL);
    if (module == NULL) {
        err_set(err, ERR_DEVICE, "%s: '%s' is missing; this is no module of jambatune", path,
                CUDA_MODULE_SYMBOL);
        return NULL;
    }
    if (module->version != CUDA_MODULE_VERSION || module->n_op != CUDA_N_OP) {
        err_set(err, ERR_DEVICE,
                "%s: of another build (version %d with %d ops, expected version %d with %d); build "
                "both together",
                path, module->version, module->n_op, (int)CUDA_MODULE_VERSION, (int)CUDA_N_OP);
        return NULL;
    }
    return module;
}

const struct cuda_module *cuda_load(struct err *err)
{
    const char *named = getenv("JAMBATUNE_CUDA_MODULE");
    if (named != NULL && strcmp(named, "none") == 0) {
        err_set(err, ERR_DEVICE, "CUDA is switched off (JAMBATUNE_CUDA_MODULE=none)");
        return NULL;
    }
    if (REAL_IS_DOUBLE) {
        err_set(err, ERR_DEVICE, "this build computes in double; CUDA devices need one in float");
        return NULL;
    }
    if (named != NULL && named[0] != '\0')
        return open_module(named, err);
    char path[PATH_MAX];
    if (!find_driver(err) || !module_beside_program(path, err))
        return NULL;
    return open_module(path, err);
}

bool cuda_available(struct cuda_facts *facts, struct err *err)
{
    struct cuda_facts unwanted;
    const struct cuda_module *module = cuda_load(err);
    return module != NULL && module->facts(facts != NULL ? facts : &unwanted, err);
}

bool cuda_backend_open(struct backend *be, const struct cuda_options *options, struct err *err)
{
    *be = (struct backend){ 0 };
    const struct cuda_module *module = cuda_load(err);
    struct device *device = module != NULL ? module->open(options, err) : NULL;
    if (device == NULL)
        return false;
    *be = (struct backend){ .k = module->ops,
                            .name = "cuda",
                            .act = options->act,
                            .n_thread = 1,
                            .nondeterministic = options->nondeterministic,
                            .device = device };
    return true;
}

void cuda_backend_close(struct backend *be)
{
    if (be->device != NULL)
        be->device->close(be->device);
    *be = (struct backend){ 0 };
}

void cuda_backend_for_plan(struct backend *be, enum dtype act, bool nondeterministic)
{
    static const struct ops sizes = {
#define SCRATCH_ENTRY(name, args) .name##_scratch = cuda_##name##_scratch,
        CUDA_SCRATCH_OPS(SCRATCH_ENTRY)
#undef SCRATCH_ENTRY
    };
    *be = (struct backend){
        .k = &sizes, .name = "cuda", .act = act, .n_thread = 1, .nondeterministic = nondeterministic
    };
}

void cuda_backend_attention_calls(const struct backend *be, struct cuda_attention_calls *out)
{
    struct err err = { 0 };
    *out = (struct cuda_attention_calls){ 0 };
    if (be->device == NULL || be->name == NULL || strcmp(be->name, "cuda") != 0)
        return;
    const struct cuda_module *module = cuda_load(&err);
    if (module != NULL)
        module->attention_calls(be->device, out);
}

bool cuda_attention_note(const struct backend *be, char text[CUDA_NOTE_SIZE])
{
    struct cuda_attention_calls calls;
    cuda_backend_attention_calls(be, &calls);
    if (calls.refused == 0)
        return false;
    snprintf(text, CUDA_NOTE_SIZE,
             "%" PRId64 " of %" PRId64 " attention calls ran on our own kernels, which are slower "
             "than cuDNN's: %s",
             calls.refused, calls.refused + calls.taken, calls.why);
    return true;
}

bool cuda_tuned_digest(const char *path, uint64_t *digest, struct err *err)
{
    char *bytes = NULL;
    size_t n = 0;
    if (!file_read(path, MAX_TUNED_BYTES, &bytes, &n, err))
        return false;
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (unsigned char)bytes[i]) * 0x100000001b3u;
    free(bytes);
    *digest = hash;
    return true;
}
