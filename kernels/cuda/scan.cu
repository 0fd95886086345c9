/* Selective scan, token-major, serial in time, lanes on (channel, state). Nothing is stored per
 * token and state: the forward leaves the states at every tile's start, the backward replays a tile
 * from there, in registers. The kernels: scan_forward.cuh, scan_backward.cuh; scan_tile.cuh has
 * what both use.
 *
 * A block owns n_channel channels (scan_cut) and walks all tokens; the channel's 16 states are
 * shared by 8 lanes of 2 states or, where there are channels enough, 4 lanes of 4. More states, or
 * fewer, are walked in rounds of 16 (MANY): correct for any d_state, tuned for none but 16.
 *
 * Bytes a token, D = d_inner, in bfloat16: forward 8 D (u, dt, z; y), backward 14 D (u, dt, z, dy;
 * du, ddt, dz) and 128 written and read again per block for its part of db and dc: 16 KiB at D
 * 5120, 32 KiB at 8192. Tile states: 2 D either way.
 *
 * Bound: forward by the special-function unit, at 20 operations a token and channel (exp of 16
 * states; two each for softplus and gate); backward by issue slots. Instructions issued per token,
 * channel and state as compiled for sm_90 in bfloat16 (nvcc 13.0), against 6 and 15 in the floor of
 * 40 and 60 us (D 8192, 1024 tokens, H200):
 *
 *                                 forward   backward
 *   groups of tokens, 4 lanes         9.6       19.6
 *     per tile, beside them           2.5          6
 *   groups of tokens, 8 lanes        11.8       23.2
 *     per tile, beside them             3          8
 *
 * In the backward's 19.6: 4.4 replay, 8 gradients and their decays, 2.6 sums over channels, 2.3
 * over states, 1.2 what is computed once per channel. An SM of 132 gets 64 channels of 8192, which
 * two blocks of 32 fill evenly; of 5120 it gets 40, whose 10 warps leave a sixth of the issue slots
 * empty. The backward's registers are full: a handful of values that live from tile to tile is
 * spilled, 32 to 84 bytes a thread and some 20 accesses a tile.
 *
 * Not taken: time in parallel (each exp twice); 1 state a lane (sums over 16 lanes cost more than
 * all else) or 8 (too few warps for one document); decays kept in registers for the way back (as
 * many again as the states); blocks that split at documents' starts (nothing to gain in a chunk of
 * one document, where it would be needed).
 */
#include "kernels/cuda/scan_backward.cuh"
#include "kernels/cuda/scan_forward.cuh"

namespace
{

/* db and dc: the blocks' parts, added in order. A thread owns four numbers of a token. */
template <typename T, int SPLIT>
__global__ void __launch_bounds__(256)
    scan_sum_kernel(const float *__restrict__ parts, T *__restrict__ db, T *__restrict__ dc,
                    int64_t n_tok, int64_t d_state, int64_t n_block)
{
    constexpr int OWN = STATES / SPLIT;
    const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x, t = i / 8;
    const int round = int(blockIdx.y), quad = int(i % 8);
    if (t >= n_tok)
        return;
    float sum[4] = {};
    const float *from = parts + (round * n_tok * 8 + i) * 4;
    const int64_t step = gridDim.y * n_tok * BC_ROW;
#pragma unroll 8
    for (int64_t block = 0; block < n_block; block++) {
        float v[4];
        load_vector(from + block * step, v);
#pragma unroll
        for (int k = 0; k < 4; k++)
            sum[k] += v[k];
    }
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const int64_t n = round * STATES + quad % SPLIT * OWN + quad / SPLIT * 2 + k;
        if (n < d_state) {
            db[t * d_state + n] = from_float<T>(sum[2 * k]);
            dc[t * d_state + n] = from_float<T>(sum[2 * k + 1]);
        }
    }
}

/* ---- launches ---- */

template <typename T> struct scan<T> scan_of(const struct backend *be, const struct scan_args *a) {
    const struct scan_cut cut = scan_cut_of(a->d_inner, a->d_state, be->act == DTYPE_BF16);
    struct scan<T> s = {
    };
    s.u = in<T>(a->u), s.dt = in<T>(a->dt), s.z = in<T>(a->z);
    s.b = in<T>(a->b), s.c = in<T>(a->c), s.dy = in<T>(a->dy);
    s.y = out<T>(a->y), s.du = out<T>(a->du), s.ddt = out<T>(a->ddt), s.dz = out<T>(a->dz);
    s.a = a->a, s.d = a->d, s.dt_bias = a->dt_bias, s.h_in = a->h_in, s.dh_out = a->dh_out;
    s.h_out = a->h_out, s.tile_states = a->tile_states, s.dh_in = a->dh_in;
    s.pos = a->pos;
    s.n_tok = a->n_tok, s.d_inner = a->d_inner, s.d_state = a->d_state;
    s.ldz = a->ldz, s.lddz = a->lddz;
    s.n_channel = int(cut.n_channel), s.n_round = int(cut.n_round);
    s.bc_aligned = rows_aligned(s.b, STATES) && rows_aligned(s.c, STATES);
    return s;
}

/* More than 48 KiB of shared memory must be asked for. */
template <typename K>
bool allow_shared(struct backend *be, const char *op, K *kernel, int bytes)
{
    const cudaError_t failed =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (failed != cudaSuccess)
        cuda_fail(be, op, cudaGetErrorString(failed));
    return failed == cudaSuccess;
}

template <typename T, int SPLIT, bool MANY>
void launch_forward(struct backend *be, const struct scan<T> &s, int64_t n_block)
{
    const dim3 grid(unsigned(n_block), 1, 1), block(unsigned(s.n_channel * SPLIT), 1, 1);
    const int bytes = forward_layout_of<T, SPLIT, MANY>(s.n_channel, s.n_round).bytes;
    if (!allow_shared(be, "scan_forward", scan_forward_kernel<T, SPLIT, MANY>, bytes))
        return;
    LAUNCH((scan_forward_kernel<T, SPLIT, MANY>), grid, block, size_t(bytes), stream_of(be), s);
    CHECK_LAUNCH(be, "scan_forward");
}

template <typename T> void forward(struct backend *be, const struct scan_args *a)
{
    const struct scan_cut cut = scan_cut_of(a->d_inner, a->d_state, be->act == DTYPE_BF16);
    struct scan<T> s = scan_of<T>(be, a);
    s.aligned = rows_aligned(s.u, s.d_inner) && rows_aligned(s.dt, s.d_inner) &&
                rows_aligned(s.z, s.ldz) && rows_aligned(s.y, s.d_inner);
    if (s.d_state != STATES)
        launch_forward<T, 8, true>(be, s, cut.n_block);
    else if (cut.n_wave == 1)
        launch_forward<T, 8, false>(be, s, cut.n_block);
    else
        launch_forward<T, 4, false>(be, s, cut.n_block);
}

template <typename T, int SPLIT, bool MANY>
void launch_backward(struct backend *be, const struct scan<T> &s, const struct scan_cut &cut, T *db,
                     T *dc)
{
    const dim3 grid(unsigned(cut.n_block), 1, 1), block(unsigned(s.n_channel * SPLIT), 1, 1);
    const int bytes = backward_layout_of<T, SPLIT, MANY>(s.n_channel, s.n_round).bytes;
    if (!allow_shared(be, "scan_backward", scan_backward_kernel<T, SPLIT, MANY>, bytes))
        return;
    LAUNCH((scan_backward_kernel<T, SPLIT, MANY>), grid, block, size_t(bytes), stream_of(be), s);
    CHECK_LAUNCH(be, "scan_backward");
    if (s.n_tok == 0)
        return;
    const dim3 sum_grid(unsigned(blocks_for(s.n_tok * 8, 256)), unsigned(s.n_round));
    LAUNCH((scan_sum_kernel<T, SPLIT>), sum_grid, dim3(256), 0, stream_of(be),
           static_cast<const float *>(s.parts), db, dc, s.n_tok, s.d_state, cut.n_block);
    CHECK_LAUNCH(be, "scan_backward");
}

/* Range by range from the last, so that the parts of db and dc fit their scratch; between ranges
 * the gradient of the state waits in scratch, too. */
template <typename T> void backward(struct backend *be, const struct scan_args *a, void *scratch)
{
    const struct scan_cut cut = scan_cut_of(a->d_inner, a->d_state, be->act == DTYPE_BF16);
    const struct scan<T> whole = scan_of<T>(be, a);
    float *between = static_cast<float *>(scratch);
    int64_t end = whole.n_tok;
    do {
        const int64_t from = end > 0 ? (end - 1) / cut.range * cut.range : 0;
        struct scan<T> s = whole;
        s.parts = between + scan_carry_size(a->d_inner, a->d_state);
        s.n_tok = end - from;
        s.u += from * s.d_inner, s.dt += from * s.d_inner, s.z += from * s.ldz;
        s.b += from * s.d_state, s.c += from * s.d_state, s.dy += from * s.d_inner;
        s.du += from * s.d_inner, s.ddt += from * s.d_inner, s.dz += from * s.lddz;
        s.pos += from;
        s.tile_states += from / TILE * s.d_state * s.d_inner;
        s.dh_out = end == whole.n_tok ? whole.dh_out : between;
        s.dh_in = from == 0 ? whole.dh_in : between;
        s.bc_aligned = rows_aligned(s.b, STATES) && rows_aligned(s.c, STATES);
        s.aligned = rows_aligned(s.u, s.d_inner) && rows_aligned(s.dt, s.d_inner) &&
                    rows_aligned(s.z, s.ldz) && rows_aligned(s.dy, s.d_inner) &&
                    rows_aligned(s.du, s.d_inner) && rows_aligned(s.ddt, s.d_inner) &&
                    rows_aligned(s.dz, s.lddz);
        T *db = out<T>(a->db) + from * s.d_state, *dc = out<T>(a->dc) + from * s.d_state;
        if (s.d_state != STATES)
            launch_backward<T, 8, true>(be, s, cut, db, dc);
        else if (cut.n_wave == 1)
            launch_backward<T, 8, false>(be, s, cut, db, dc);
        else
            launch_backward<T, 4, false>(be, s, cut, db, dc);
        end = from;
    } while (end > 0);
}

} // namespace

extern "C" void cuda_scan_forward(struct backend *be, const struct scan_args *a, void *)
{
    WITH_ACT(be, T, { forward<T>(be, a); });
}

extern "C" void cuda_scan_backward(struct backend *be, const struct scan_args *a, void *scratch)
{
    WITH_ACT(be, T, { backward<T>(be, a, scratch); });
}
