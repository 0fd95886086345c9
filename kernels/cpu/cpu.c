/* Picks the variant of the ops that the processor can run. */
#include "kernels/cpu/cpu.h"

#include <omp.h>
#include <stddef.h>
#include <string.h>

#include "kernels/ops.h"

extern const struct ops cpu_ops_baseline;
double cpu_peak_flops_baseline(int n_thread, double seconds);
#if defined(__x86_64__)
extern const struct ops cpu_ops_avx2, cpu_ops_avx512;
double cpu_peak_flops_avx2(int n_thread, double seconds);
double cpu_peak_flops_avx512(int n_thread, double seconds);
#endif

static const struct variant {
    const char *isa, *name;
    const struct ops *ops;
    double (*peak_flops)(int n_thread, double seconds); /* peak.c */
} variants[] = { /* best first */
#if defined(__x86_64__)
                 { "avx512", "cpu avx512", &cpu_ops_avx512, cpu_peak_flops_avx512 },
                 { "avx2", "cpu avx2", &cpu_ops_avx2, cpu_peak_flops_avx2 },
#endif
                 { "baseline", "cpu baseline", &cpu_ops_baseline, cpu_peak_flops_baseline }
};

static bool processor_has(const char *isa)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (strcmp(isa, "avx512") == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("fma");
    if (strcmp(isa, "avx2") == 0)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return strcmp(isa, "baseline") == 0;
}

bool cpu_has_bf16(void)
{
#if defined(__x86_64__) && !REAL_IS_DOUBLE
    return processor_has("avx512") && __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

const struct ops *cpu_ops_by_name(const char *isa)
{
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        if (strcmp(variants[i].isa, isa) == 0 && processor_has(isa))
            return variants[i].ops;
    }
    return NULL;
}

static const struct variant *best_variant(void)
{
    const struct variant *v = variants;
    while (!processor_has(v->isa))
        v++;
    return v;
}

double cpu_peak_flops(int n_thread, double seconds)
{
    return best_variant()->peak_flops(n_thread, seconds);
}

void cpu_backend_init(struct backend *be, struct arena *scratch, int n_thread)
{
    const struct variant *v = best_variant();
    *be = (struct backend){ .k = v->ops, .name = v->name, .act = DTYPE_REAL, .scratch = scratch };
    be->n_thread = n_thread > 0 ? n_thread : omp_get_num_procs();
}
