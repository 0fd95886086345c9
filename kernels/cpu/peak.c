/* What the processor can do at most: multiply-adds on registers alone, nothing loaded or stored.
 *
 * CHAINS independent sums hide the latency of a multiply-add (4 cycles on two units wants 8); with
 * the two operands they fit into the registers of every instruction set here. Compiled per
 * instruction set, like the ops, so that the number is of the same kind as theirs.
 */
#include "kernels/cpu/variant.h"

#include <omp.h>

#include "kernels/cpu/vector.h"

enum { CHAINS = 12, ROUNDS = 4096 };

double CPU_OP(peak_flops)(int n_thread, double seconds);

/* ROUNDS times x = x a + b on every chain; the sum keeps the compiler from dropping them. With
 * |a| < 1 no value overflows or becomes subnormal. */
static real multiply_add(real a, real b)
{
    vector x[CHAINS];
    const vector scale = a - (vector){ 0 }, shift = b - (vector){ 0 };
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++)
        x[i] = shift * (real)(i + 1);
    for (int round = 0; round < ROUNDS; round++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            x[i] = x[i] * scale + shift;
    }
    vector sum = { 0 };
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++)
        sum += x[i];
    real total = 0;
    for (int j = 0; j < VECTOR_REALS; j++)
        total += sum[j];
    return total;
}

/* FLOP per second of all threads together over one slice of time. */
static double slice(int n_thread, double seconds, double *sink)
{
    double flops = 0, sums = 0;
    const double start = omp_get_wtime();
#pragma omp parallel num_threads(n_thread) reduction(+ : flops, sums)
    {
        while (omp_get_wtime() - start < seconds) {
            sums += (double)multiply_add((real)0.999, (real)(0.5 + 1e-3 * (double)*sink));
            flops += 2.0 * CHAINS * ROUNDS * VECTOR_REALS;
        }
    }
    *sink = sums > 0 ? 1 : 0;
    return flops / (omp_get_wtime() - start);
}

double CPU_OP(peak_flops)(int n_thread, double seconds)
{
    enum { SLICES = 10 };
    double best = 0, sink = 0;
    for (int i = 0; i < SLICES; i++) {
        const double rate = slice(n_thread, seconds / SLICES, &sink);
        best = rate > best ? rate : best;
    }
    return best;
}
