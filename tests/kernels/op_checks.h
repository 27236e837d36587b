// Checks of the element-wise, row and float matrix kernels of one tier: against the same formula in
// double, within bounds that follow from the operands; moves and conversions bit for bit.
#pragma once

#include <cmath>
#include <limits>

#include "base/half.h"
#include "guarded.h"
#include "kernels/kernels.h"
#include "report.h"
#include "tolerance.h"

namespace q35 {

using Floats = Guarded<float>;

inline void fill(Floats &x, Random &random, float size = 1.0f) {
  for (size_t i = 0; i < x.size(); i++) x[i] = random.unit() * size;
}

inline void copy(const Floats &from, Floats &to) {
  std::memcpy(to.data(), from.data(), from.size() * sizeof(float));
}

inline double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

// Relative bound of an exponential, or of a sigmoid, in any tier (vec.h: 2e-7), and of the few
// products around it. kTiny covers inputs beyond -87, whose exponential a tier may hold at 1.7e-38.
constexpr double kExpError = 2e-7 + 4 * kUnit;
constexpr double kTiny = 1e-37;

inline double rms_factor(const Floats &x, double eps) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); i++) sum += double{x[i]} * x[i];
  return 1.0 / std::sqrt(sum / static_cast<double>(x.size()) + eps);
}

inline void check_norms(Report &report, const Kernels &k, Random &random, uint32_t n) {
  Floats x(n), w(n), z(n), y(n), g(n), l(n);
  fill(x, random, 3.0f);
  fill(w, random);
  fill(z, random, 120.0f);  // beyond both ends of the exponential's range
  copy(x, l);
  const float eps = 1e-6f;
  k.rms_norm(x.data(), w.data(), n, eps, y.data());
  k.gated_norm(x.data(), z.data(), w.data(), n, eps, g.data());
  k.l2_norm(l.data(), n, eps, 0.25f);
  const double f = rms_factor(x, eps);
  const double l2 = 0.25 / std::sqrt(n * (1 / f / f - double{eps}) + eps);
  for (uint32_t i = 0; i < n; i++) {
    // Half the relative error of the sum of squares, and the handful of operations after it.
    const double want = x[i] * f * w[i], rounding = sum_bound(1.0, n / 2 + 8);
    const double gate = z[i] * sigmoid(z[i]);
    report.near("rms_norm", n, y[i], want, std::fabs(want) * rounding);
    report.near("gated_norm", n, g[i], want * gate,
                std::fabs(want * gate) * (rounding + kExpError) + kTiny * std::fabs(want * z[i]));
    report.near("l2_norm", n, l[i], x[i] * l2, std::fabs(x[i] * l2) * rounding);
  }
}

inline void check_layer_norm(Report &report, const Kernels &k, Random &random, uint32_t n) {
  Floats x(n), w(n), b(n), y(n);
  fill(x, random, 3.0f);
  fill(w, random);
  fill(b, random);
  for (size_t i = 0; i < n; i++) x[i] += 2.0f;  // a mean that matters
  const float eps = 1e-6f;
  k.layer_norm(x.data(), w.data(), b.data(), n, eps, y.data());
  double sum = 0, magnitude = 0, squares = 0;
  for (uint32_t i = 0; i < n; i++) {
    sum += x[i];
    magnitude += std::fabs(double{x[i]});
  }
  const double mean = sum / n;
  for (uint32_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
  const double f = 1.0 / std::sqrt(squares / n + eps);
  for (uint32_t i = 0; i < n; i++) {
    // The mean's error moves every value; then the sum of squares and the operations after it.
    const double away = x[i] - mean, scale = std::fabs(w[i] * f);
    const double bound =
        scale * (sum_bound(magnitude / n, n + 4) + std::fabs(away) * sum_bound(1.0, n / 2 + 12)) +
        sum_bound(std::fabs(away) * scale + std::fabs(double{b[i]}), 3);
    report.near("layer_norm", n, y[i], away * f * w[i] + b[i], bound);
  }
}

inline void check_gelu(Report &report, const Kernels &k, Random &random, uint32_t n) {
  Floats x(n), bias(n), soft(n), exact(n);
  fill(x, random, 12.0f);
  fill(bias, random);
  copy(x, soft);
  copy(x, exact);
  k.gelu_tanh(soft.data(), bias.data(), n);
  k.gelu_erf(exact.data(), bias.data(), n);
  for (uint32_t i = 0; i < n; i++) {
    const double v = static_cast<double>(x[i] + bias[i]);  // in floats, as the kernels add
    const double u = 1.5957691216057308 * (v + 0.044715 * v * v * v);
    // An absolute error of u is a relative one of its exponential.
    const double want = v * sigmoid(u);
    report.near("gelu_tanh", n, soft[i], want,
                std::fabs(want) * (kExpError + sum_bound(std::fabs(u) + 1, 8)) + kTiny);
    const double erf_want = 0.5 * v * (1 + std::erf(v * 0.7071067811865476));
    // 1 + erf cancels for negative v: its error is absolute.
    report.near("gelu_erf", n, exact[i], erf_want, std::fabs(v) * sum_bound(1.0, 16));
  }
}

inline void check_elementwise(Report &report, const Kernels &k, Random &random, uint32_t n) {
  Floats x(n), y(n), gate(n), sum(n), scaled(n), silu(n), gated(n);
  fill(x, random);
  fill(y, random);
  fill(gate, random, 100.0f);
  copy(x, sum);
  copy(x, scaled);
  copy(x, gated);
  k.add(sum.data(), y.data(), n);
  k.scale(scaled.data(), 0.3f, n);
  k.silu_mul(gate.data(), y.data(), n, silu.data());
  k.sigmoid_mul(gated.data(), gate.data(), n);
  for (uint32_t i = 0; i < n; i++) {
    const double s = sigmoid(gate[i]), sy = s * gate[i] * y[i], sx = s * x[i];
    report.near("add", n, sum[i], x[i] + y[i], 0);
    report.near("scale", n, scaled[i], x[i] * 0.3f, 0);
    report.near("silu_mul", n, silu[i], sy,
                std::fabs(sy) * kExpError + kTiny * std::fabs(gate[i] * y[i]));
    report.near("sigmoid_mul", n, gated[i], sx, std::fabs(sx) * kExpError + kTiny);
  }
}

inline void check_rope(Report &report, const Kernels &k, Random &random, uint32_t n_rot) {
  const uint32_t half = n_rot / 2;
  Floats x(n_rot), cos(half), sin(half), y(n_rot);
  fill(x, random);
  fill(cos, random);
  fill(sin, random);
  copy(x, y);
  k.rope(y.data(), cos.data(), sin.data(), n_rot);
  for (uint32_t i = 0; i < half; i++) {
    const double a = x[i], b = x[half + i], c = cos[i], s = sin[i];
    report.near("rope", n_rot, y[i], a * c - b * s,
                sum_bound(std::fabs(a * c) + std::fabs(b * s), 3));
    report.near("rope", n_rot, y[half + i], b * c + a * s,
                sum_bound(std::fabs(b * c) + std::fabs(a * s), 3));
  }
}

inline void check_conv(Report &report, const Kernels &k, Random &random, uint32_t n) {
  const uint64_t stride = n + 16;
  Floats x(4 * n), w(3 * stride + n), y(n);
  fill(x, random);
  fill(w, random, 4.0f);
  k.conv4_silu(x.data(), x.data() + n, x.data() + 2 * n, x.data() + 3 * n, w.data(), stride, n,
               y.data());
  for (uint32_t i = 0; i < n; i++) {
    double a = 0, size = 0;
    for (uint32_t j = 0; j < 4; j++) {
      const double term = double{w[j * stride + i]} * x[j * n + i];
      a += term;
      size += std::fabs(term);
    }
    const double want = a * sigmoid(a);  // its slope is at most 1.1
    report.near("conv4_silu", n, y[i], want,
                1.1 * sum_bound(size, 5) + std::fabs(want) * kExpError);
  }
}

inline void check_delta_step(Report &report, const Kernels &k, Random &random, uint32_t d) {
  Floats state(d * kTileCols), q(d), key(d), v(kTileCols), after(d * kTileCols), o(kTileCols);
  fill(state, random);
  fill(q, random);
  fill(key, random, 0.2f);
  fill(v, random);
  copy(state, after);
  const float decay = 0.9f, beta = 0.7f;
  Floats change(kTileCols), applied(d * kTileCols);
  copy(v, change);
  copy(state, applied);
  k.delta_step(after.data(), d, q.data(), key.data(), change.data(), decay, beta, o.data());
  k.delta_apply(applied.data(), d, key.data(), change.data(), decay);
  for (uint32_t i = 0; i < d * kTileCols; i++) {
    report.near("delta_apply", d, applied[i], after[i], 0);
  }
  for (uint32_t c = 0; c < kTileCols; c++) {
    double predicted = 0, size = std::fabs(v[c]);
    for (uint32_t i = 0; i < d; i++) {
      const double term = double{decay} * state[i * kTileCols + c] * key[i];
      predicted += term;
      size += std::fabs(term);
    }
    const double delta = beta * (v[c] - predicted);
    const double delta_error = beta * sum_bound(size, d + 4);
    report.near("delta_step delta", d, change[c], delta, delta_error);
    double want = 0, bound = 0;
    for (uint32_t i = 0; i < d; i++) {
      const double kept = double{decay} * state[i * kTileCols + c], added = key[i] * delta;
      const double error =
          std::fabs(key[i]) * delta_error + sum_bound(std::fabs(kept) + std::fabs(added), 3);
      report.near("delta_step state", d, after[i * kTileCols + c], kept + added, error);
      want += (kept + added) * q[i];
      bound += std::fabs(q[i]) * error + sum_bound(std::fabs((kept + added) * q[i]), d + 1);
    }
    report.near("delta_step", d, o[c], want, bound);
  }
}

// s, m, l, shrink of one softmax row against the double form. stride: of s.
inline void compare_softmax(Report &report, const char *what, const Floats &before, const float *s,
                            uint32_t n, uint32_t stride, uint32_t first, float m0, float l0,
                            float m, float l, float shrink) {
  float peak = m0;
  for (uint32_t i = 0; i < n; i++) peak = std::fmax(peak, before[first + i * stride]);
  double sum = 0;
  for (uint32_t i = 0; i < n; i++) {
    const double want = std::exp(double{before[first + i * stride] - peak});
    report.near(what, n, s[first + i * stride], want, want * kExpError + kTiny);
    sum += want;
  }
  const double factor = std::exp(double{m0 - peak}), total = l0 * factor + sum;
  report.near(what, n, shrink, factor, factor * kExpError + kTiny);
  report.near(what, n, m, peak, 0);
  report.near(what, n, l, total, total * (kExpError + sum_bound(1.0, n + 2)) + kTiny * n);
}

inline void check_softmax(Report &report, const Kernels &k, Random &random, uint32_t n) {
  for (int round = 0; round < 3; round++) {
    // First block of a row (nothing before it), one below the earlier maximum, one masked.
    const float m0 = round == 0 ? -INFINITY : round == 1 ? 60.0f : 0.5f;
    const float l0 = round == 0 ? 0.0f : 3.0f;
    Floats before(n), s(n);
    fill(before, random, 50.0f);
    if (round == 2) before[n / 2] = -INFINITY;
    copy(before, s);
    float m = m0, l = l0;
    const float shrink = k.softmax_step(s.data(), n, &m, &l);
    compare_softmax(report, "softmax_step", before, s.data(), n, 1, 0, m0, l0, m, l, shrink);

    Floats cols(n * kTileCols), after(n * kTileCols), ms(kTileCols), ls(kTileCols), f(kTileCols);
    fill(cols, random, 50.0f);
    if (round == 2) cols[5] = -INFINITY;
    copy(cols, after);
    for (uint32_t c = 0; c < kTileCols; c++) {
      ms[c] = m0;
      ls[c] = l0;
    }
    if (n == 1 && round == 2) continue;  // a column masked whole has no softmax
    k.softmax_cols(after.data(), n, ms.data(), ls.data(), f.data());
    for (uint32_t c = 0; c < kTileCols; c++) {
      compare_softmax(report, "softmax_cols", cols, after.data(), n, kTileCols, c, m0, l0, ms[c],
                      ls[c], f[c]);
    }
    copy(cols, after);
    k.scale_cols(after.data(), ls.data(), n);
    for (uint32_t i = 0; i < n * kTileCols; i++) {
      report.near("scale_cols", n, after[i], cols[i] * ls[i % kTileCols], 0);
    }
  }
}

inline void check_attention(Report &report, const Kernels &k, Random &random, uint32_t nq,
                            uint32_t n, uint32_t d) {
  const uint64_t stride = d + 32, s_stride = n + 1;
  const size_t rows = (n - 1) * stride + d;
  Floats q((nq - 1) * stride + d), kv(rows), s((nq - 1) * s_stride + n), o((nq - 1) * stride + d);
  Guarded<uint16_t> half(rows);
  fill(q, random);
  fill(kv, random);
  for (size_t i = 0; i < rows; i++) {
    half[i] = float_to_half(kv[i]);
    kv[i] = half_to_float(half[i]);  // both element types hold the same values
  }
  for (const bool f16 : {false, true}) {
    if (f16) {
      k.qk_f16(q.data(), stride, nq, half.data(), stride, n, d, s.data(), s_stride, nullptr);
    } else {
      k.qk_f32(q.data(), stride, nq, kv.data(), stride, n, d, s.data(), s_stride, nullptr);
    }
    for (uint32_t r = 0; r < nq; r++) {
      for (uint32_t j = 0; j < n; j++) {
        double want = 0, size = 0;
        for (uint32_t i = 0; i < d; i++) {
          const double term = double{q[r * stride + i]} * kv[j * stride + i];
          want += term;
          size += std::fabs(term);
        }
        report.near(f16 ? "qk_f16" : "qk_f32", n, s[r * s_stride + j], want, sum_bound(size, d));
      }
    }
    fill(o, random);
    Floats o0(o.size());
    copy(o, o0);
    if (f16) {
      k.pv_f16(s.data(), s_stride, nq, half.data(), stride, n, d, o.data(), stride, nullptr);
    } else {
      k.pv_f32(s.data(), s_stride, nq, kv.data(), stride, n, d, o.data(), stride, nullptr);
    }
    for (uint32_t r = 0; r < nq; r++) {
      for (uint32_t i = 0; i < d; i++) {
        double want = o0[r * stride + i], size = std::fabs(want);
        for (uint32_t j = 0; j < n; j++) {
          const double term = double{s[r * s_stride + j]} * kv[j * stride + i];
          want += term;
          size += std::fabs(term);
        }
        report.near(f16 ? "pv_f16" : "pv_f32", n, o[r * stride + i], want, sum_bound(size, n + 1));
      }
    }
  }
}

// Rounding to integers is checked bit by bit, sums of integers are exact: only the scales round.
inline void check_attention_q8(Report &report, const Kernels &k, const Kernels &scalar,
                               Random &random, uint32_t nq, uint32_t n, uint32_t d) {
  const uint64_t s_stride = n + 1, o_stride = d + 32, p_stride = n + 1;
  Floats x(d), kv_scale(n), q_scale(nq), s((nq - 1) * s_stride + n), o((nq - 1) * o_stride + d);
  Guarded<int8_t> kv(size_t{n} * d), kv0(d);
  Guarded<int16_t> q(size_t{nq} * d), q0(d), p(nq * p_stride), p0(n + 1);
  for (uint32_t j = 0; j < n; j++) {
    fill(x, random);
    kv_scale[j] = k.quantize_i8(x.data(), d, kv.data() + j * d);
    report.that(kv_scale[j] == scalar.quantize_i8(x.data(), d, kv0.data()) &&
                    std::memcmp(kv.data() + j * d, kv0.data(), d) == 0,
                "quantize_i8", d, 0);
  }
  // The largest sums that 32 bits must hold.
  if (n % 2 == 0) std::memset(kv.data(), 127, kv.size());
  for (uint32_t r = 0; r < nq; r++) {
    fill(x, random);
    if (r == 1) {
      for (uint32_t i = 0; i < d; i++) x[i] = 1.0f;
    }
    q_scale[r] = k.quantize_i16(x.data(), nullptr, d, q.data() + r * d);
    report.that(q_scale[r] == scalar.quantize_i16(x.data(), nullptr, d, q0.data()) &&
                    std::memcmp(q.data() + r * d, q0.data(), 2 * d) == 0,
                "quantize_i16", d, 0);
  }
  k.qk_q8(q.data(), q_scale.data(), nq, kv.data(), kv_scale.data(), n, d, s.data(), s_stride,
          kv.data());
  for (uint32_t r = 0; r < nq; r++) {
    for (uint32_t j = 0; j < n; j++) {
      int64_t dot = 0;
      for (uint32_t i = 0; i < d; i++) dot += int64_t{q[r * d + i]} * kv[j * d + i];
      const double want = double{q_scale[r]} * kv_scale[j] * static_cast<double>(dot);
      report.near("qk_q8", n, s[r * s_stride + j], want, sum_bound(std::fabs(want), 3));
    }
  }
  Floats p_scale(nq), o0(o.size());
  for (uint32_t r = 0; r < nq; r++) {
    for (uint32_t j = 0; j < n; j++) s[r * s_stride + j] = r == 1 ? 1.0f : random.unit();
    p_scale[r] =
        k.quantize_i16(s.data() + r * s_stride, kv_scale.data(), n, p.data() + r * p_stride);
    report.that(
        p_scale[r] == scalar.quantize_i16(s.data() + r * s_stride, kv_scale.data(), n, p0.data()) &&
            std::memcmp(p.data() + r * p_stride, p0.data(), 2 * (n + n % 2)) == 0,
        "quantize_i16 by factors", n, 0);
  }
  fill(o, random);
  copy(o, o0);
  k.pv_q8(p.data(), p_stride, p_scale.data(), nq, kv.data(), n, d, o.data(), o_stride, kv.data());
  for (uint32_t r = 0; r < nq; r++) {
    for (uint32_t i = 0; i < d; i++) {
      int64_t dot = 0;
      for (uint32_t j = 0; j < n; j++) dot += int64_t{p[r * p_stride + j]} * kv[j * d + i];
      const double term = double{p_scale[r]} * static_cast<double>(dot);
      const double want = o0[r * o_stride + i] + term;
      report.near("pv_q8", n, o[r * o_stride + i], want,
                  sum_bound(std::fabs(o0[r * o_stride + i]) + std::fabs(term), 3));
    }
  }
}

inline void check_rotation(Report &report, const Kernels &k, Random &random, uint32_t n) {
  const uint32_t block = n & (0u - n);
  Floats x(n), y(n), back(n);
  fill(x, random);
  copy(x, y);
  k.hadamard(y.data(), n);
  for (uint32_t i = 0; i < n; i++) {
    double want = 0, size = 0;
    for (uint32_t j = 0; j < block; j++) {
      const float term = x[i / block * block + j];
      want += __builtin_parity(i % block & j) != 0 ? -term : term;
      size += std::fabs(term);
    }
    report.near("hadamard", n, y[i], want / std::sqrt(block),
                sum_bound(size / std::sqrt(block), 12));
  }
  Guarded<int8_t> q(n);
  for (uint32_t i = 0; i < n; i++) q[i] = static_cast<int8_t>(i * 37);
  k.i8_to_f32(q.data(), 0.3f, n, back.data());
  for (uint32_t i = 0; i < n; i++) {
    report.near("i8_to_f32", n, back[i], 0.3f * static_cast<float>(q[i]), 0);
  }
}

// Every value gets the nearest of the 16, and unpacking is exact.
inline void check_i4(Report &report, const Kernels &k, Random &random, uint32_t n) {
  Floats x(n);
  Guarded<uint8_t> packed(n / 2);
  Guarded<int8_t> q(n);
  fill(x, random);
  const float scale = k.quantize_i4(x.data(), n, packed.data());
  k.unpack_i4(packed.data(), n, q.data());
  double squares = 0, products = 0, lengths = 0;
  for (uint32_t i = 0; i < n; i++) {
    const uint8_t byte = packed[i / 32 * 16 + i % 16];
    const int8_t want = kNormal16[i % 32 < 16 ? byte & 15 : byte >> 4];
    report.that(q[i] == want, "unpack_i4", n, i);
    squares += double{x[i]} * x[i];
    products += double{x[i]} * want;
    lengths += static_cast<double>(want) * want;
  }
  report.near("quantize_i4 scale", n, scale, products / lengths, 1e-5 * products / lengths);
  const double step = 2.733 / 127 * std::sqrt(squares / n);  // what the places were chosen with
  for (uint32_t i = 0; i < n; i++) {
    double least = 1e30;
    for (const int8_t value : kNormal16) least = std::min(least, std::fabs(x[i] / step - value));
    report.near("quantize_i4", n, std::fabs(x[i] / step - q[i]), least, 1e-3);
  }
  fill(x, random);
  for (uint32_t i = 0; i < n; i++) x[i] = 0.0f;
  report.that(k.quantize_i4(x.data(), n, packed.data()) == 0.0f, "quantize_i4 of zeros", n, 0);
}

inline void check_gemm_f32(Report &report, const Kernels &k, Random &random, uint32_t m,
                           uint32_t k_count, bool transposed, float alpha) {
  const uint64_t a_row = transposed ? 1 : k_count + 3, a_k = transposed ? m + 3 : 1;
  const uint64_t b_stride = kTileCols + 16, c_stride = kTileCols + 8;
  Floats a((m - 1) * a_row + (k_count - 1) * a_k + 1), b((k_count - 1) * b_stride + kTileCols);
  Floats c((m - 1) * c_stride + kTileCols), c0(c.size());
  fill(a, random);
  fill(b, random);
  fill(c, random);
  if (alpha == 0.0f) {
    for (size_t i = 0; i < c.size(); i++) c[i] = NAN;  // must not be read
  }
  copy(c, c0);
  k.gemm_f32(a.data(), a_row, a_k, m, b.data(), b_stride, k_count, alpha, c.data(), c_stride);
  for (uint32_t i = 0; i < m; i++) {
    for (uint32_t j = 0; j < kTileCols; j++) {
      double want = alpha == 0.0f ? 0.0 : double{alpha} * c0[i * c_stride + j];
      double size = std::fabs(want);
      for (uint32_t t = 0; t < k_count; t++) {
        const double term = double{a[i * a_row + t * a_k]} * b[t * b_stride + j];
        want += term;
        size += std::fabs(term);
      }
      report.near("gemm_f32", k_count, c[i * c_stride + j], want, sum_bound(size, k_count + 2));
    }
  }
}

inline void check_solve(Report &report, const Kernels &k, Random &random, uint32_t n) {
  const uint64_t a_stride = n + 2, x_stride = kTileCols + 16;
  Floats a((n - 1) * a_stride + n), x((n - 1) * x_stride + kTileCols), x0(x.size());
  fill(a, random, 0.5f);
  fill(x, random);
  copy(x, x0);
  k.solve_lower(a.data(), a_stride, n, x.data(), x_stride);
  for (uint32_t c = 0; c < kTileCols; c++) {
    Guarded<double> want(n), error(n);
    for (uint32_t i = 0; i < n; i++) {
      double size = std::fabs(x0[i * x_stride + c]);
      want[i] = x0[i * x_stride + c];
      error[i] = 0;
      for (uint32_t j = 0; j < i; j++) {
        const double factor = a[i * a_stride + j];
        want[i] -= factor * want[j];
        size += std::fabs(factor) * (std::fabs(want[j]) + error[j]);
        error[i] += std::fabs(factor) * error[j];
      }
      error[i] += sum_bound(size, i + 2);
      report.near("solve_lower", n, x[i * x_stride + c], want[i], error[i]);
    }
  }
}

inline bool same_bits(const void *a, const void *b, size_t bytes) {
  return std::memcmp(a, b, bytes) == 0;
}

inline void check_quantize(Report &report, const Kernels &k, const Kernels &scalar, Random &random,
                           uint32_t n, int kind) {
  Floats x(n), d(n / 32), s(n / 16), d0(n / 32), s0(n / 16);
  Guarded<int8_t> q(n), q0(n);
  fill(x, random, kind == 0 ? 1.0f : 1e-3f);
  if (kind == 1) std::memset(x.data(), 0, n * sizeof(float));
  if (kind == 2) {  // ties: halves of the step, which must go to even
    for (uint32_t i = 0; i < n; i++) x[i] = 0.5f * static_cast<float>(random.below(255)) - 63.5f;
    for (uint32_t i = 0; i < n; i += 32) x[i] = 127.0f;
  }
  if (kind == 3) x[n / 2] = 1e-42f;
  if (kind == 4) x[n / 3] = INFINITY;
  if (kind == 5) x[n / 3] = NAN;
  if (kind == 6) {
    for (uint32_t i = 0; i < n; i++) x[i] = random.unit() * 3e-45f;  // subnormal scales
  }
  k.quantize_q8(x.data(), n, q.data(), d.data(), s.data());
  scalar.quantize_q8(x.data(), n, q0.data(), d0.data(), s0.data());
  for (uint32_t i = 0; i < n; i++) {
    if (kind == 5 && i / 32 == n / 3 / 32) {  // what a NaN becomes is open, but not its range
      report.that(q[i] >= -127, "quantize_q8 of NaN", n, kind);
      continue;
    }
    report.that(q[i] == q0[i], "quantize_q8 q", n, kind);
    report.that(d[i / 32] == d0[i / 32], "quantize_q8 d", n, kind);
    report.that(s[i / 16] == s0[i / 16] || std::isnan(s0[i / 16]), "quantize_q8 s", n, kind);
  }
}

inline void check_halves(Report &report, const Kernels &k) {
  constexpr uint32_t kAll = 1 << 16;
  Guarded<uint16_t> h(kAll), back(kAll);
  Floats f(kAll);
  for (uint32_t i = 0; i < kAll; i++) h[i] = static_cast<uint16_t>(i);
  k.f16_to_f32(h.data(), kAll, f.data());
  for (uint32_t i = 0; i < kAll; i++) {
    const float want = half_to_float(h[i]);
    report.that(same_bits(&f[i], &want, 4) || (std::isnan(f[i]) && std::isnan(want)), "f16_to_f32",
                i, 0);
  }
  // Every half, the floats around the middle between it and the next, and beyond the range.
  for (int shift = -1; shift <= 1; shift++) {
    for (uint32_t i = 0; i < kAll; i++) {
      const float low = half_to_float(h[i]);
      const float high = half_to_float(static_cast<uint16_t>((i & 0x8000u) | ((i + 1) & 0x7fffu)));
      const float middle = 0.5f * low + 0.5f * high;
      f[i] =
          shift == 0 ? middle : bits_to_float(float_to_bits(middle) + static_cast<uint32_t>(shift));
    }
    k.f32_to_f16(f.data(), kAll, back.data());
    for (uint32_t i = 0; i < kAll; i++) {
      const bool nan = std::isnan(f[i]) && std::isnan(half_to_float(back[i]));
      report.that(nan || back[i] == float_to_half(f[i]), "f32_to_f16", i, shift);
    }
  }
}

inline void check_ops(Report &report, const Kernels &kernels, const Kernels &scalar) {
  Random random(2);
  for (const uint32_t n : {32u, 64u, 128u, 1024u, 2080u}) {
    check_norms(report, kernels, random, n);
    check_layer_norm(report, kernels, random, n);
    check_gelu(report, kernels, random, n);
    check_elementwise(report, kernels, random, n);
    check_conv(report, kernels, random, n);
    for (int kind = 0; kind < 7; kind++) check_quantize(report, kernels, scalar, random, n, kind);
  }
  for (const uint32_t n : {2u, 4u, 14u, 16u, 32u, 34u, 62u, 64u, 128u}) {
    check_rope(report, kernels, random, n);
  }
  for (const uint32_t d : {32u, 64u, 128u}) check_delta_step(report, kernels, random, d);
  for (uint32_t n = 1; n < 40; n++) check_softmax(report, kernels, random, n);
  check_softmax(report, kernels, random, 200);
  for (uint32_t nq = 1; nq <= 9; nq++) {
    check_attention(report, kernels, random, nq, 1 + random.below(40), 32 * (1 + random.below(8)));
  }
  for (uint32_t nq = 1; nq <= 9; nq++) {
    for (const uint32_t n : {1u, 2u, 5u, 16u, 33u, 64u}) {
      check_attention_q8(report, kernels, scalar, random, nq, n, 32 * (1 + random.below(16)));
    }
  }
  for (const uint32_t n : {32u, 64u, 96u, 256u, 448u, 512u})
    check_rotation(report, kernels, random, n);
  for (const uint32_t n : {32u, 96u, 256u, 512u}) check_i4(report, kernels, random, n);
  for (uint32_t m = 1; m < 28; m++) {
    for (const bool transposed : {false, true}) {
      check_gemm_f32(report, kernels, random, m, 1 + random.below(70), transposed,
                     m % 3 == 0   ? 0.0f
                     : m % 3 == 1 ? 1.0f
                                  : 0.6f);
    }
  }
  for (const uint32_t n : {1u, 2u, 5u, 16u, 31u, 64u}) check_solve(report, kernels, random, n);
  check_halves(report, kernels);
}

}  // namespace q35
