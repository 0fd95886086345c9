/* An op of the CUDA backend against the same op of the CPU's, in emulation or on a device.
 *
 *     struct parity p;
 *     parity_open(&p, DTYPE_BF16);
 *     real *x = parity_random(&p, n, 1, 1.0), *y = parity_reals_out(&p, n);
 *     struct act *dx = parity_act(&p, x, n), *dy = parity_act(&p, NULL, n);
 *     op_add(&p.cpu, &(struct add_args){ .a = acts_in(x), .b = acts_in(x), .y = acts_of(y), .n = n
 * }); op_add(&p.cuda, &(struct add_args){ .a = dx, .b = dx, .y = dy, .n = n });
 *     parity_check_act(&p, "y", dy, y, n);
 *     parity_close(&p);
 *
 * The inputs are numbers that activations hold exactly, so that both sides compute from the same.
 * Each buffer has guards around it, each CUDA op gets scratch of exactly the bytes that it says,
 * filled with NaN and guarded, and after it a device error or a write outside fails the test at
 * once. In emulation, under ASan, guards are poisoned too: a read outside is an error.
 *
 * Without a device (and without an emulated module in JAMBATUNE_CUDA_MODULE) parity_open skips the
 * test.
 */
#ifndef TESTS_CUDA_PARITY_H
#define TESTS_CUDA_PARITY_H

#include "kernels/core/act.h"
#include "kernels/core/arena.h"
#include "kernels/core/backend.h"
#include "kernels/ops.h"
#include "tests/support/support.h"

struct parity_buffer;

struct parity {
    struct backend cpu;  /* one thread; activations are reals */
    struct backend cuda; /* be.k: the backend's ops with checks around each */
    enum dtype act;      /* of the CUDA backend */
    double tolerance;    /* of activations: 1e-5 in f32, 1e-2 in bf16 */
    bool emulated;

    const struct ops *real;
    struct ops checked;
    struct arena cpu_scratch, cuda_scratch;
    struct parity_buffer *buffers, *scratch; /* on the device */
    void **host;                             /* freed by parity_close */
    int64_t n_host;
};

void parity_open(struct parity *p, enum dtype act);

/* Asserts that no guard was written and that the device has no error. */
void parity_close(struct parity *p);

/* Whether cases should be small: emulation under TSan is a hundred times slower. */
bool parity_small(void);

/* Host values, standard normal times scale, exact in p->act; n NaNs; both freed by parity_close. */
real *parity_random(struct parity *p, int64_t n, uint64_t seed, double scale);
real *parity_reals_out(struct parity *p, int64_t n);

/* x rounded to what an activation holds. */
real parity_round(const struct parity *p, real x);

/* Copies in device memory, aligned to 256 bytes; of NULL: 0xff (NaN, or -1) in the first MiB. */
struct act *parity_act(struct parity *p, const real *x, int64_t n);
real *parity_reals(struct parity *p, const real *x, int64_t n);
int32_t *parity_ints(struct parity *p, const int32_t *x, int64_t n);
void *parity_bytes(struct parity *p, const void *x, size_t bytes);

/* Back on the host; freed by parity_close. */
real *parity_read_act(struct parity *p, const struct act *x, int64_t n);
real *parity_read_reals(struct parity *p, const real *x, int64_t n);

/* Asserts that ||got - expected|| <= tolerance ||expected||; what is not finite must be so on both
 * sides. Reals are held to 1e-5 whatever the activations; ints must be equal. */
void parity_check_act(struct parity *p, const char *name, const struct act *got,
                      const real *expected, int64_t n);
void parity_check_reals(struct parity *p, const char *name, const real *got, const real *expected,
                        int64_t n);
void parity_check_ints(struct parity *p, const char *name, const int32_t *got,
                       const int32_t *expected, int64_t n);

/* The same with a tolerance of the caller's, who says why. */
void parity_check_within(struct parity *p, const char *name, double tolerance, const real *got,
                         const real *expected, int64_t n);

#endif
