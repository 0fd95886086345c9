#include "finetune/train/options.h"

struct engine_options engine_options_of(const struct recipe *r)
{
    static const enum compute_device devices[] = {
        [DEVICE_AUTO] = COMPUTE_AUTO, [DEVICE_CPU] = COMPUTE_CPU, [DEVICE_CUDA] = COMPUTE_CUDA
    };
    static const enum compute_precision precisions[] = {
        [PRECISION_AUTO] = COMPUTE_PRECISION_AUTO,
        [PRECISION_FP32] = COMPUTE_FP32,
        [PRECISION_BF16] = COMPUTE_BF16,
    };
    return (struct engine_options){ .base_model = r->base_model,
                                    .seed = r->seed,
                                    .compute = { .device = devices[r->device],
                                                 .precision = precisions[r->precision],
                                                 .threads = (int)r->threads,
                                                 .nondeterministic = !r->deterministic,
                                                 .algorithms = r->gemm_algorithms } };
}
