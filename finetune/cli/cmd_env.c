/* jambatune env: what a report of a fault or of a timing should name. */
#include <inttypes.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <yaml.h>
#include <zlib.h>

#include "finetune/cli/cli.h"
#include "finetune/cli/commands.h"
#include "finetune/model/plan.h"
#include "kernels/core/dtype.h"
#include "kernels/core/file.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/load.h"

const char cmd_env_help[] =
    "usage: jambatune env [--json]\n"
    "\n"
    "Shows the program's version and build, the processor and which variant of the\n"
    "kernels it runs, threads, memory, and the versions of the libraries in use; the\n"
    "GPU, its driver and libraries and which kernels run on it, or why there is none:\n"
    "what a report of a fault or of a timing should name.\n"
    "\n"
    "Options:\n"
    "  --json   print one JSON object\n"
    "\n"
    "Examples:\n"
    "  jambatune env\n"
    "  jambatune env --json | jq -r .kernels\n";

#define STRING_OF(token) #token
#define STRING(macro) STRING_OF(macro)
#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

/* "model name" of /proc/cpuinfo, where there is one. */
static void processor_name(char out[128])
{
    char text[1024];
    file_read_start("/proc/cpuinfo", text, sizeof text);
    const char *line = strstr(text, "\nmodel name"),
               *value = line != NULL ? strstr(line, ": ") : NULL;
    if (value != NULL)
        snprintf(out, 128, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
    else
        snprintf(out, 128, "unknown");
}

static json_t *kernel_variants(void)
{
    static const char *const names[] = { "avx512", "avx2", "baseline" };
    json_t *list = json_array();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (cpu_ops_by_name(names[i]) != NULL)
            json_array_append_new(list, json_string(names[i]));
    }
    return list;
}

static json_t *library_versions(void)
{
    char pcre2[64] = "unknown";
    if (pcre2_config(PCRE2_CONFIG_VERSION, NULL) < (int)sizeof pcre2)
        pcre2_config(PCRE2_CONFIG_VERSION, pcre2);
    return json_pack("{s:s, s:s, s:s, s:s}", "jansson", jansson_version_str(), "libyaml",
                     yaml_get_version_string(), "PCRE2", pcre2, "zlib", zlibVersion());
}

/* 13010 is 13.1 for CUDA; 91900 is 9.19.0 for its libraries, 0 that there is none. */
static json_t *cuda_version(int version)
{
    return json_sprintf("%d.%d", version / 1000, version % 1000 / 10);
}

static json_t *cuda_library_version(size_t version)
{
    if (version == 0)
        return json_string("none");
    return json_sprintf("%zu.%zu.%zu", version / 10000, version / 100 % 100, version % 100);
}

static const char *attention_kernels(size_t cudnn)
{
    if (cudnn >= CUDA_OLDEST_CUDNN)
        return "cuDNN in bfloat16, else our own";
    return cudnn == 0 ? "our own" : "our own (cuDNN is too old)";
}

/* The device that training would take, or why there is none. */
static json_t *cuda_device(void)
{
    struct cuda_facts facts;
    struct err err = { 0 };
    if (!cuda_available(&facts, &err)) {
        char reason[ERR_TEXT_SIZE + 8];
        snprintf(reason, sizeof reason, "none: %s", err.text);
        return cli_json_string(reason);
    }
    return json_pack(
        "{s:o, s:o, s:i, s:I, s:I, s:o, s:o, s:o, s:o, s:s, s:s, s:s}", "device",
        cli_json_string(facts.name), "compute_capability",
        json_sprintf("%d.%d", facts.major, facts.minor), "multiprocessors", facts.n_sm,
        "memory_bytes", (json_int_t)facts.memory, "l2_bytes", (json_int_t)facts.l2_bytes, "driver",
        cuda_version(facts.driver), "runtime", cuda_version(facts.runtime), "cuBLASLt",
        cuda_library_version(facts.cublaslt), "cuDNN", cuda_library_version(facts.cudnn),
        "built_for", facts.built_for, "gemm",
        facts.cublaslt != 0 ? "cuBLASLt (the heuristic's algorithms, or a tuned file's)"
                            : "emulated",
        "attention", attention_kernels(facts.cudnn));
}

static json_t *collect(void)
{
    char cpu[128];
    struct utsname system = { 0 };
    struct backend be;
    cpu_backend_init(&be, NULL, 0);
    processor_name(cpu);
    uname(&system);
    return json_pack("{s:s, s:s, s:s, s:s, s:s+++, s:s, s:i, s:s, s:o, s:I, s:o, s:o}", "version",
                     JAMBATUNE_VERSION, "compiler", COMPILER, "real",
                     REAL_IS_DOUBLE ? "double (for tests)" : "float", "openmp", STRING(_OPENMP),
                     "system", system.sysname, " ", system.release, "", "processor", cpu, "threads",
                     be.n_thread, "kernels", be.name, "variants", kernel_variants(), "memory_bytes",
                     (json_int_t)plan_machine_memory(), "libraries", library_versions(), "cuda",
                     cuda_device());
}

int cmd_env(int argc, char **argv)
{
    bool as_json = false;
    const struct cli_option options[] = { { "json", NULL, NULL, &as_json } };
    struct cli_words words;
    struct err err = { 0 };
    if (!cli_parse(argc, argv, options, 1, &words, &err) ||
        !cli_expect_args(&words, 0, 0, "jambatune env [--json]", &err) ||
        !cli_expect_no_overrides(&words, &err))
        return cli_fail(&err);
    return cli_end_facts(collect(), as_json);
}
