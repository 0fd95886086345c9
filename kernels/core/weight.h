/* A stored matrix of the frozen base. */
#ifndef KERNELS_CORE_WEIGHT_H
#define KERNELS_CORE_WEIGHT_H

#include <stdint.h>

#include "kernels/core/dtype.h"

/* (rows = out, cols = in), row-major, y = x W^T. data NULL: absent. */
struct weight {
    const void *data;
    enum dtype dtype;
    int64_t rows, cols;
};

#endif
