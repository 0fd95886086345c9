/* One variant's table of ops: compiled once per instruction set, like the ops themselves. */
#include "kernels/cpu/variant.h"

extern const struct ops CPU_OP(ops);

const struct ops CPU_OP(ops) = {
#define CPU_ENTRY(name, args) .name = CPU_OP(name),
#define CPU_SCRATCH_ENTRY(name, args) .name##_scratch = CPU_OP(name##_scratch),
    OPS(CPU_ENTRY) CPU_SCRATCH_OPS(CPU_SCRATCH_ENTRY)
};
