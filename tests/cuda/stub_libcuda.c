/* A driver without a device, for tests that build cuDNN plans on any machine: libcuda.so.1 for one
 * process, by LD_LIBRARY_PATH.
 *
 * The CUDA runtime asks for every function through cuGetProcAddress and gets one that does nothing
 * and succeeds, but for those below, whose results are looked at; cuDNN looks some up by name, and
 * they must be there. What is built with it cannot run.
 */
#include <stddef.h>
#include <string.h>

enum { SUCCESS = 0, NO_DEVICE = 100, NOT_FOUND = 500 };

#define STUB(name, ...)                                                                            \
    int name(__VA_ARGS__);                                                                         \
    int name(__VA_ARGS__)

/* Looked up by name, not called. */
#define NOTHING(X)                                                                                 \
    X(cuCtxGetCurrent)                                                                             \
    X(cuCtxGetLimit)                                                                               \
    X(cuCtxPopCurrent)                                                                             \
    X(cuCtxPushCurrent)                                                                            \
    X(cuDeviceGet)                                                                                 \
    X(cuKernelSetAttribute)                                                                        \
    X(cuLaunchCooperativeKernel)                                                                   \
    X(cuLaunchKernel)                                                                              \
    X(cuLaunchKernelEx)                                                                            \
    X(cuLibraryLoadFromFile)                                                                       \
    X(cuLibraryUnload)                                                                             \
    X(cuLinkAddData)                                                                               \
    X(cuLinkComplete)                                                                              \
    X(cuLinkCreate)                                                                                \
    X(cuLinkDestroy)                                                                               \
    X(cuOccupancyMaxPotentialClusterSize)                                                          \
    X(cuStreamGetCtx)                                                                              \
    X(any_other)
#define STUB_NOTHING(name)                                                                         \
    STUB(name, void)                                                                               \
    {                                                                                              \
        return SUCCESS;                                                                            \
    }
NOTHING(STUB_NOTHING)

STUB(cuInit, unsigned flags)
{
    (void)flags;
    return NO_DEVICE;
}

STUB(cuDriverGetVersion, int *version)
{
    *version = 13000;
    return SUCCESS;
}

STUB(cuDeviceGetCount, int *count)
{
    *count = 0;
    return SUCCESS;
}

STUB(cuGetErrorString, int error, const char **text)
{
    (void)error;
    *text = "no device";
    return SUCCESS;
}

STUB(cuGetErrorName, int error, const char **text)
{
    (void)error;
    *text = "NO_DEVICE";
    return SUCCESS;
}

/* Loading code: handles that are not NULL. */

static char handle;

STUB(cuLibraryLoadData, void **library, const void *code)
{
    (void)code;
    *library = &handle;
    return SUCCESS;
}

STUB(cuLibraryGetKernel, void **kernel, void *library, const char *name)
{
    (void)library;
    (void)name;
    *kernel = &handle;
    return SUCCESS;
}

STUB(cuLibraryGetModule, void **module, void *library)
{
    (void)library;
    *module = &handle;
    return SUCCESS;
}

STUB(cuKernelGetFunction, void **function, void *kernel)
{
    (void)kernel;
    *function = &handle;
    return SUCCESS;
}

STUB(cuModuleLoadData, void **module, const void *code)
{
    (void)code;
    *module = &handle;
    return SUCCESS;
}

STUB(cuModuleGetFunction, void **function, void *module, const char *name)
{
    (void)module;
    (void)name;
    *function = &handle;
    return SUCCESS;
}

STUB(cuFuncGetAttribute, int *value, int attribute, void *function)
{
    (void)attribute;
    (void)function;
    *value = 128;
    return SUCCESS;
}

STUB(cuKernelGetAttribute, int *value, int attribute, void *kernel, int device)
{
    (void)device;
    return cuFuncGetAttribute(value, attribute, kernel);
}

STUB(cuOccupancyMaxActiveBlocksPerMultiprocessor, int *blocks, void *function, int threads,
     size_t shared)
{
    (void)function;
    (void)threads;
    (void)shared;
    *blocks = 1;
    return SUCCESS;
}

/* ---- the one door ---- */

STUB(cuGetProcAddress_v2, const char *name, void **function, int version, unsigned long long flags,
     int *status);

typedef void (*any_function)(void);

static const struct {
    const char *name;
    any_function function;
} known[] = {
#define KNOWN(name)                                                                                \
    {                                                                                              \
#name, (any_function)name                                                                  \
    }
    KNOWN(cuInit),
    KNOWN(cuDriverGetVersion),
    KNOWN(cuDeviceGetCount),
    KNOWN(cuGetErrorString),
    KNOWN(cuGetErrorName),
    KNOWN(cuLibraryLoadData),
    KNOWN(cuLibraryGetKernel),
    KNOWN(cuLibraryGetModule),
    KNOWN(cuKernelGetFunction),
    KNOWN(cuModuleLoadData),
    { "cuModuleLoadDataEx", (any_function)cuModuleLoadData },
    KNOWN(cuModuleGetFunction),
    KNOWN(cuFuncGetAttribute),
    KNOWN(cuKernelGetAttribute),
    KNOWN(cuOccupancyMaxActiveBlocksPerMultiprocessor),
    { "cuGetProcAddress", (any_function)cuGetProcAddress_v2 },
    { "cuGetProcAddress_v2", (any_function)cuGetProcAddress_v2 },
};

int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags,
                        int *status)
{
    any_function found = (any_function)any_other;
    (void)version;
    (void)flags;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].name, name) == 0)
            found = known[i].function;
    }
    memcpy(function, &found, sizeof *function);
    if (status != NULL)
        *status = 0;
    return SUCCESS;
}

STUB(cuGetProcAddress, const char *name, void **function, int version, unsigned long long flags)
{
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
