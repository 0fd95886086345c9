// Selective scan, forward and backward, as a PyTorch extension for train_quickstart_base.py (the scan in
// plain PyTorch is a Python loop over time, too slow to train on a CPU).
//
// u, dt, y: (batch, len, d_inner), dt after softplus. a: (d_inner, n_state), negative. b, c: (batch, len,
// n_state). d: (d_inner). states: (batch, d_inner, len, n_state), every h_t, kept for the backward.
//   h_t = exp(dt_t a) h_{t-1} + dt_t b_t u_t;   y_t = c_t . h_t + d u_t
#include <torch/extension.h>
#include <cmath>
#include <cstring>
#include <vector>

namespace {

constexpr int N = 8; // d_state of the quick start's base

// exp for x <= 0 to about 1e-6: 2^i times a polynomial in the fraction; vectorises over the states.
inline float exp_negative(float x)
{
    const float t = std::max(x, -80.f) * 1.44269504f;
    const float i = std::floor(t), f = t - i;
    const float p =
        1.f + f * (0.69314718f + f * (0.24022651f + f * (0.05550411f + f * (0.00961813f + f * 0.00133336f))));
    const int bits = (static_cast<int>(i) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

struct shape {
    int64_t batch, len, d_inner;
};

shape shape_of(const at::Tensor &u)
{
    return {u.size(0), u.size(1), u.size(2)};
}

} // namespace

std::vector<at::Tensor> forward(at::Tensor u, at::Tensor dt, at::Tensor a, at::Tensor b, at::Tensor c, at::Tensor d)
{
    TORCH_CHECK(a.size(1) == N, "built for d_state ", N);
    const auto s = shape_of(u);
    auto y = at::empty_like(u), states = at::empty({s.batch, s.d_inner, s.len, N}, u.options());
    const float *pu = u.data_ptr<float>(), *pdt = dt.data_ptr<float>(), *pa = a.data_ptr<float>(),
                *pb = b.data_ptr<float>(), *pc = c.data_ptr<float>(), *pd = d.data_ptr<float>();
    float *py = y.data_ptr<float>(), *ph = states.data_ptr<float>();
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < s.batch; row++)
        for (int64_t ch = 0; ch < s.d_inner; ch++) {
            float h[N] = {0}, *out = ph + (row * s.d_inner + ch) * s.len * N;
            for (int64_t t = 0; t < s.len; t++) {
                const int64_t tok = row * s.len + t;
                const float dtv = pdt[tok * s.d_inner + ch], uv = pu[tok * s.d_inner + ch];
                float sum = 0;
                for (int n = 0; n < N; n++) {
                    h[n] = exp_negative(dtv * pa[ch * N + n]) * h[n] + dtv * uv * pb[tok * N + n];
                    out[t * N + n] = h[n];
                    sum += h[n] * pc[tok * N + n];
                }
                py[tok * s.d_inner + ch] = sum + pd[ch] * uv;
            }
        }
    return {y, states};
}

std::vector<at::Tensor> backward(at::Tensor u, at::Tensor dt, at::Tensor a, at::Tensor b, at::Tensor c, at::Tensor d,
                                 at::Tensor states, at::Tensor dy)
{
    const auto s = shape_of(u);
    auto du = at::empty_like(u), ddt = at::empty_like(u), db = at::zeros_like(b), dc = at::zeros_like(c);
    auto da = at::zeros({s.batch, s.d_inner, N}, u.options()), dd = at::zeros({s.batch, s.d_inner}, u.options());
    const float *pu = u.data_ptr<float>(), *pdt = dt.data_ptr<float>(), *pa = a.data_ptr<float>(),
                *pb = b.data_ptr<float>(), *pc = c.data_ptr<float>(), *pd = d.data_ptr<float>(),
                *ph = states.data_ptr<float>(), *pdy = dy.data_ptr<float>();
    float *pdu = du.data_ptr<float>(), *pddt = ddt.data_ptr<float>(), *pda = da.data_ptr<float>(),
          *pdb = db.data_ptr<float>(), *pdc = dc.data_ptr<float>(), *pdd = dd.data_ptr<float>();
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < s.batch; row++)
        for (int64_t ch = 0; ch < s.d_inner; ch++) {
            float g[N] = {0}, ga[N] = {0}, gd = 0;
            const float *h = ph + (row * s.d_inner + ch) * s.len * N;
            for (int64_t t = s.len - 1; t >= 0; t--) {
                const int64_t tok = row * s.len + t, i = tok * s.d_inner + ch;
                const float dtv = pdt[i], uv = pu[i], gy = pdy[i];
                float sum_dt = 0, sum_b = 0;
                for (int n = 0; n < N; n++) {
                    const float decay = exp_negative(dtv * pa[ch * N + n]);
                    const float before = t ? h[(t - 1) * N + n] : 0.f;
                    g[n] += gy * pc[tok * N + n];
                    pdc[tok * N + n] += gy * h[t * N + n];
                    sum_dt += g[n] * before * decay * pa[ch * N + n];
                    ga[n] += g[n] * before * decay * dtv;
                    sum_b += g[n] * pb[tok * N + n];
                    pdb[tok * N + n] += g[n] * dtv * uv;
                    g[n] *= decay;
                }
                pddt[i] = sum_dt + sum_b * uv;
                pdu[i] = sum_b * dtv + gy * pd[ch];
                gd += gy * uv;
            }
            for (int n = 0; n < N; n++)
                pda[(row * s.d_inner + ch) * N + n] = ga[n];
            pdd[row * s.d_inner + ch] = gd;
        }
    return {du, ddt, da.sum(0), db, dc, dd.sum(0)};
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m)
{
    m.def("forward", &forward);
    m.def("backward", &backward);
}
