/* Finding the CUDA module: each way in which it can be missing or wrong has its message, and a
 * plan's backend needs none.
 */
#include "tests/support/support.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/load.h"
#include "kernels/cuda/scratch.h"
#include "kernels/plan/plan.h"

static void name_module(const char *path)
{
    assert_int_equal(setenv("JAMBATUNE_CUDA_MODULE", path, 1), 0);
}

/* One of the fakes that CMake builds from fake_module.c. */
static void name_fake(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/libfake_%s.so", FAKE_MODULES, name);
    name_module(path);
}

/* cuda_load fails; the message starts with the module's path (if it names one) and has `part`. */
static void refuses(const char *part)
{
    struct err err = { 0 };
    struct cuda_facts facts;
    struct backend be = { .name = "untouched" };
    const char *path = getenv("JAMBATUNE_CUDA_MODULE");
    assert_null(cuda_load(&err));
    assert_int_equal(err.code, ERR_DEVICE);
    if (strstr(err.text, part) == NULL ||
        (path != NULL && strstr(part, path) == NULL && strncmp(err.text, path, strlen(path)) != 0))
        fail_msg("'%s' where '%s' was expected", err.text, part);
    assert_null(cuda_load(NULL));
    assert_false(cuda_available(&facts, &err));
    assert_false(cuda_backend_open(&be, &(struct cuda_options){ .act = DTYPE_BF16 }, &err));
    assert_null(be.device);
    cuda_backend_close(&be);
}

static void no_driver_is_the_reason(void **state)
{
    (void)state;
    if (REAL_IS_DOUBLE || dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) != NULL)
        skip();
    unsetenv("JAMBATUNE_CUDA_MODULE");
    struct err err = { 0 };
    assert_null(cuda_load(&err));
    assert_string_equal(err.text, "no NVIDIA driver (libcuda.so.1)");
    refuses("no NVIDIA driver");
    name_module(""); /* as if unset */
    assert_null(cuda_load(&err));
    assert_string_equal(err.text, "no NVIDIA driver (libcuda.so.1)");
}

static void a_module_that_is_not_there_is_named(void **state)
{
    (void)state;
    if (REAL_IS_DOUBLE)
        skip();
    name_module("/no/such/libjambatune_cuda.so");
    refuses(": not there; ");
}

static void a_name_without_a_folder_is_not_looked_for(void **state)
{
    (void)state;
    if (REAL_IS_DOUBLE)
        skip();
    name_module("libjambatune_cuda.so");
    refuses("JAMBATUNE_CUDA_MODULE: 'libjambatune_cuda.so' has no folder");
}

static void none_switches_cuda_off(void **state)
{
    (void)state;
    struct err err = { 0 };
    if (REAL_IS_DOUBLE)
        skip();
    name_module("none");
    assert_null(cuda_load(&err));
    assert_string_equal(err.text, "CUDA is switched off (JAMBATUNE_CUDA_MODULE=none)");
    assert_false(cuda_available(NULL, NULL));
}

static void what_is_no_library_is_refused(void **state)
{
    (void)state;
    if (REAL_IS_DOUBLE)
        skip();
    static const size_t sizes[] = { 0, 10, 10000 };
    char path[] = "/tmp/jambatune-load-XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    name_module(path);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        while ((size_t)lseek(fd, 0, SEEK_END) < sizes[i])
            assert_int_equal(write(fd, "garbage ", 8), 8);
        refuses(": cannot be opened: ");
    }
    close(fd);
    unlink(path);
    name_module("/"); /* a folder */
    refuses(": cannot be opened: ");
}

static void a_module_of_another_build_is_refused(void **state)
{
    (void)state;
    if (REAL_IS_DOUBLE)
        skip();
    char expected[128];
    name_fake("nameless");
    refuses(": 'jambatune_cuda_module' is missing; ");
    name_fake("version");
    snprintf(expected, sizeof expected, "(version -1 with %d ops, expected version %d with %d)",
             CUDA_N_OP, CUDA_MODULE_VERSION, CUDA_N_OP);
    refuses(expected);
    name_fake("n_op");
    snprintf(expected, sizeof expected, "(version %d with 1 ops, ", CUDA_MODULE_VERSION);
    refuses(expected);
}

static void a_module_is_opened_and_asked(void **state)
{
    (void)state;
    if (REAL_IS_DOUBLE)
        skip();
    struct err err = { 0 };
    struct cuda_facts facts = { 0 };
    struct backend be;
    name_fake("good");
    const struct cuda_module *module = cuda_load(&err);
    assert_non_null(module);
    assert_ptr_equal(module, cuda_load(&err));
    assert_true(cuda_available(&facts, &err));
    assert_string_equal(facts.name, "fake");
    assert_true(cuda_available(NULL, &err));
    assert_true(cuda_backend_open(
        &be, &(struct cuda_options){ .act = DTYPE_F32, .nondeterministic = true }, &err));
    assert_ptr_equal(be.k, module->ops);
    assert_int_equal(be.device->memory, 12345);
    assert_int_equal(be.act, DTYPE_F32);
    assert_true(be.nondeterministic);
    cuda_backend_close(&be);
    assert_null(be.device);
    cuda_backend_close(&be);
    assert_false(cuda_backend_open(&be, &(struct cuda_options){ .tuned = "x" }, &err));
    assert_string_equal(err.text, "refused"); /* the module's own message */
    assert_int_equal(err.code, ERR_DATA);
    name_fake("broken");
    assert_false(cuda_available(NULL, &err));
    assert_string_equal(err.text, "broken");
}

/* The module itself, built beside this program: all that it needs is found, nothing of it can be
 * mistaken for the program's, and without a device it says so. */
static void the_real_module_opens(void **state)
{
    (void)state;
#ifdef REAL_MODULE
    static const char *const hidden[] = { "cuda_gemm", "cuda_ops", "err_set", "cudaMalloc" };
    struct err err = { 0 };
    struct cuda_facts facts;
    name_module(REAL_MODULE);
    if (cuda_load(&err) == NULL)
        fail_msg("%s", err.text);
    void *library = dlopen(REAL_MODULE, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
        assert_null(dlsym(library, hidden[i]));
    dlclose(library);
    if (cuda_available(&facts, &err)) {
        assert_true(facts.major >= 8 && facts.n_sm > 0 && facts.memory > 0 && facts.cublaslt > 0);
    } else {
        assert_int_equal(err.code, ERR_DEVICE);
        print_message("%s\n", err.text);
    }
#else
    skip();
#endif
}

static void a_plan_knows_scratch_without_a_device(void **state)
{
    (void)state;
    const enum dtype acts[] = { DTYPE_F32, DTYPE_BF16 };
    name_module("/no/such/file");
    for (int i = 0; i < 2; i++) {
        struct backend be;
        struct arena scratch;
        struct plan_backend plan;
        const struct gemm_args args = { .m = 3, .n = 4, .k = 5, .lda = 5, .ldb = 4, .ldc = 4 };
        cuda_backend_for_plan(&be, acts[i], i == 1);
        assert_null(be.device);
        assert_int_equal(be.act, acts[i]);
        assert_int_equal(be.nondeterministic, i == 1);
        assert_string_equal(be.name, "cuda");
        assert_null(be.k->gemm);
        assert_int_equal(be.k->gemm_scratch(&be, &args), cuda_gemm_scratch(&be, &args));
        arena_init_measuring(&scratch, "scratch");
        plan_backend_init(&plan, &be, &scratch);
        assert_int_equal(plan.be.nondeterministic, i == 1);
        op_gemm(&plan.be, &args);
        assert_true(scratch.peak >= cuda_gemm_scratch(&be, &args));
        cuda_backend_close(&be);
    }
}

static void a_tuned_file_has_a_digest(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t digest;
    } known[] = { /* FNV-1a's own test vectors */
                  { "", 0xcbf29ce484222325u },
                  { "a", 0xaf63dc4c8601ec8cu },
                  { "foobar", 0x85944171f73967e8u }
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        char path[] = "/tmp/jambatune-digest-XXXXXX";
        struct err err = { 0 };
        uint64_t digest = 0;
        const int fd = mkstemp(path);
        const size_t n = strlen(known[i].text);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, known[i].text, n), n);
        close(fd);
        if (!cuda_tuned_digest(path, &digest, &err))
            fail_msg("%s", err.text);
        assert_true(digest == known[i].digest);
        unlink(path);
        assert_false(cuda_tuned_digest(path, &digest, &err));
        assert_int_equal(err.code, ERR_NO_INPUT);
    }
}

static void a_double_build_has_no_device(void **state)
{
    (void)state;
    if (!REAL_IS_DOUBLE)
        skip();
    struct err err = { 0 };
    assert_null(cuda_load(&err));
    assert_non_null(strstr(err.text, "in double"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_driver_is_the_reason),
        cmocka_unit_test(a_module_that_is_not_there_is_named),
        cmocka_unit_test(a_name_without_a_folder_is_not_looked_for),
        cmocka_unit_test(none_switches_cuda_off),
        cmocka_unit_test(what_is_no_library_is_refused),
        cmocka_unit_test(a_module_of_another_build_is_refused),
        cmocka_unit_test(a_module_is_opened_and_asked),
        cmocka_unit_test(the_real_module_opens),
        cmocka_unit_test(a_plan_knows_scratch_without_a_device),
        cmocka_unit_test(a_tuned_file_has_a_digest),
        cmocka_unit_test(a_double_build_has_no_device),
    };
    return cmocka_run_group_tests_name("cuda load", tests, NULL, NULL);
}
