// Element-wise and row kernels written once against vec.h; each tier includes this file and calls
// fill_ops(). The scalar twins, which define what these compute, are in scalar/ops_scalar.cpp.
#pragma once

#include "kernels/kernels.h"
#include "kernels/vector/attention.h"
#include "kernels/vector/vec.h"

namespace q35 {
namespace {

constexpr uint32_t kColVecs = kTileCols / kVec;  // vectors in one row of a 32-column tile

void v_quantize_q8(const float *x, uint32_t k, int8_t *q, float *d, float *s) {
  for (uint32_t g = 0; g < k / kActGroup; g++) {
    const float *xg = x + g * kActGroup;
    vf peak = vset(0.0f);
    for (uint32_t i = 0; i < kActGroup; i += kVec) peak = vmax(peak, vabs(vload(xg + i)));
    const float scale = vhmax(peak) / 127.0f;
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    d[g] = scale;
    for (uint32_t half = 0; half < 2; half++) {
      int32_t sum = 0;
      for (uint32_t i = 0; i < 16; i += kVec) {
        const uint32_t at = half * 16 + i;
        // The limits matter only for NaN and infinity, which a damaged file can produce.
        const vf v = vmin(vmax(vmul(vload(xg + at), vset(inverse)), vset(-127.0f)), vset(127.0f));
        sum += vstore_i8(q + g * kActGroup + at, v);
      }
      s[g * 2 + half] = scale * static_cast<float>(sum);
    }
  }
}

inline float sum_of_squares(const float *x, uint32_t n) {
  vf sum = vset(0.0f);
  for (uint32_t i = 0; i < n; i += kVec) {
    const vf a = vload(x + i);
    sum = vfma(a, a, sum);
  }
  return vsum(sum);
}

void v_rms_norm(const float *x, const float *w, uint32_t n, float eps, float *y) {
  const float mean = sum_of_squares(x, n) / static_cast<float>(n);
  const vf factor = vset(1.0f / __builtin_sqrtf(mean + eps));
  for (uint32_t i = 0; i < n; i += kVec) {
    vstore(y + i, vmul(vmul(vload(x + i), factor), vload(w + i)));
  }
}

void v_layer_norm(const float *x, const float *w, const float *b, uint32_t n, float eps, float *y) {
  vf sum = vset(0.0f), squares = vset(0.0f);
  for (uint32_t i = 0; i < n; i += kVec) sum = vadd(sum, vload(x + i));
  const vf mean = vset(vsum(sum) / static_cast<float>(n));
  for (uint32_t i = 0; i < n; i += kVec) {
    const vf away = vsub(vload(x + i), mean);
    squares = vfma(away, away, squares);
  }
  const vf factor = vset(1.0f / __builtin_sqrtf(vsum(squares) / static_cast<float>(n) + eps));
  for (uint32_t i = 0; i < n; i += kVec) {
    vstore(y + i, vfma(vmul(vsub(vload(x + i), mean), factor), vload(w + i), vload(b + i)));
  }
}

void v_gelu_tanh(float *x, const float *bias, uint32_t n) {
  for (uint32_t i = 0; i < n; i += kVec) {
    const vf v = vadd(vload(x + i), vload(bias + i));
    const vf cubic = vfma(vmul(vset(0.044715f), vmul(v, v)), v, v);
    vstore(x + i, vmul(v, vsigmoid(vmul(vset(1.5957691216f), cubic))));
  }
}

void v_gated_norm(const float *x, const float *z, const float *w, uint32_t n, float eps, float *y) {
  const float mean = sum_of_squares(x, n) / static_cast<float>(n);
  const vf factor = vset(1.0f / __builtin_sqrtf(mean + eps));
  for (uint32_t i = 0; i < n; i += kVec) {
    const vf gate = vload(z + i);
    const vf silu = vmul(gate, vsigmoid(gate));
    vstore(y + i, vmul(vmul(vmul(vload(x + i), factor), vload(w + i)), silu));
  }
}

void v_l2_norm(float *x, uint32_t n, float eps, float scale) {
  const vf factor = vset(scale / __builtin_sqrtf(sum_of_squares(x, n) + eps));
  for (uint32_t i = 0; i < n; i += kVec) vstore(x + i, vmul(vload(x + i), factor));
}

void v_add(float *x, const float *y, uint32_t n) {
  for (uint32_t i = 0; i < n; i += kVec) vstore(x + i, vadd(vload(x + i), vload(y + i)));
}

void v_silu_mul(const float *gate, const float *up, uint32_t n, float *y) {
  for (uint32_t i = 0; i < n; i += kVec) {
    const vf g = vload(gate + i);
    vstore(y + i, vmul(vmul(g, vsigmoid(g)), vload(up + i)));
  }
}

void v_sigmoid_mul(float *x, const float *gate, uint32_t n) {
  for (uint32_t i = 0; i < n; i += kVec) {
    vstore(x + i, vmul(vload(x + i), vsigmoid(vload(gate + i))));
  }
}

void v_scale(float *x, float factor, uint32_t n) {
  const vf f = vset(factor);
  for (uint32_t i = 0; i < n; i += kVec) vstore(x + i, vmul(vload(x + i), f));
}

void v_rope(float *x, const float *cos, const float *sin, uint32_t n_rot) {
  const uint32_t half = n_rot / 2;
  uint32_t i = 0;
  for (; i + kVec <= half; i += kVec) {
    const vf a = vload(x + i), b = vload(x + half + i);
    const vf c = vload(cos + i), s = vload(sin + i);
    vstore(x + i, vfnma(b, s, vmul(a, c)));
    vstore(x + half + i, vfma(a, s, vmul(b, c)));
  }
  for (; i < half; i++) {
    const float a = x[i], b = x[half + i];
    x[i] = a * cos[i] - b * sin[i];
    x[half + i] = b * cos[i] + a * sin[i];
  }
}

void v_conv4_silu(const float *x0, const float *x1, const float *x2, const float *x3,
                  const float *w, uint64_t w_stride, uint32_t n, float *y) {
  for (uint32_t i = 0; i < n; i += kVec) {
    vf a = vmul(vload(x0 + i), vload(w + i));
    a = vfma(vload(x1 + i), vload(w + w_stride + i), a);
    a = vfma(vload(x2 + i), vload(w + 2 * w_stride + i), a);
    a = vfma(vload(x3 + i), vload(w + 3 * w_stride + i), a);
    vstore(y + i, vmul(a, vsigmoid(a)));
  }
}

// Two passes over a 32-column block of the state, which stays in the first-level cache between
// them.
void v_delta_step(float *state, uint32_t d, const float *q, const float *k, float *v, float decay,
                  float beta, float *o) {
  // decay * (S^T k) equals (decay * S)^T k: the stored state is scaled only in the second pass.
  vf even[kColVecs], odd[kColVecs];
  for (uint32_t c = 0; c < kColVecs; c++) even[c] = odd[c] = vset(0.0f);
  for (uint32_t i = 0; i < d; i += 2) {
    const vf k0 = vset(k[i]), k1 = vset(k[i + 1]);
    for (uint32_t c = 0; c < kColVecs; c++) {
      even[c] = vfma(vload(state + i * kTileCols + c * kVec), k0, even[c]);
      odd[c] = vfma(vload(state + (i + 1) * kTileCols + c * kVec), k1, odd[c]);
    }
  }
  vf delta[kColVecs];
  for (uint32_t c = 0; c < kColVecs; c++) {
    const vf predicted = vmul(vset(decay), vadd(even[c], odd[c]));
    delta[c] = vmul(vset(beta), vsub(vload(v + c * kVec), predicted));
    vstore(v + c * kVec, delta[c]);
    even[c] = odd[c] = vset(0.0f);
  }
  const vf g = vset(decay);
  for (uint32_t i = 0; i < d; i += 2) {
    const vf k0 = vset(k[i]), k1 = vset(k[i + 1]);
    const vf q0 = vset(q[i]), q1 = vset(q[i + 1]);
    for (uint32_t c = 0; c < kColVecs; c++) {
      float *s0 = state + i * kTileCols + c * kVec;
      float *s1 = s0 + kTileCols;
      const vf a = vfma(k0, delta[c], vmul(vload(s0), g));
      const vf b = vfma(k1, delta[c], vmul(vload(s1), g));
      vstore(s0, a);
      vstore(s1, b);
      even[c] = vfma(a, q0, even[c]);
      odd[c] = vfma(b, q1, odd[c]);
    }
  }
  for (uint32_t c = 0; c < kColVecs; c++) vstore(o + c * kVec, vadd(even[c], odd[c]));
}

void v_delta_apply(float *state, uint32_t d, const float *k, const float *delta, float decay) {
  const vf g = vset(decay);
  vf added[kColVecs];
  for (uint32_t c = 0; c < kColVecs; c++) added[c] = vload(delta + c * kVec);
  for (uint32_t i = 0; i < d; i++) {
    const vf key = vset(k[i]);
    for (uint32_t c = 0; c < kColVecs; c++) {
      float *s = state + i * kTileCols + c * kVec;
      vstore(s, vfma(key, added[c], vmul(vload(s), g)));
    }
  }
}

float v_softmax_step(float *s, uint32_t n, float *m, float *l) {
  const uint32_t whole = n / kVec * kVec;
  float peak = *m;
  if (whole != 0) {
    vf top = vload(s);
    for (uint32_t i = kVec; i < whole; i += kVec) top = vmax(top, vload(s + i));
    const float t = vhmax(top);
    if (t > peak) peak = t;
  }
  for (uint32_t i = whole; i < n; i++) {
    if (s[i] > peak) peak = s[i];
  }
  vf sum = vset(0.0f);
  for (uint32_t i = 0; i < whole; i += kVec) {
    const vf e = vexp(vsub(vload(s + i), vset(peak)));
    vstore(s + i, e);
    sum = vadd(sum, e);
  }
  float total = vsum(sum);
  for (uint32_t i = whole; i < n; i++) {
    float lane[kVec];
    vstore(lane, vexp(vset(s[i] - peak)));
    s[i] = lane[0];
    total += s[i];
  }
  float lane[kVec];
  vstore(lane, vexp(vset(*m - peak)));
  *m = peak;
  *l = *l * lane[0] + total;
  return lane[0];
}

void v_softmax_cols(float *s, uint32_t n, float *m, float *l, float *shrink) {
  for (uint32_t c = 0; c < kTileCols; c += kVec) {
    const vf old = vload(m + c);
    vf peak = old;
    for (uint32_t i = 0; i < n; i++) peak = vmax(peak, vload(s + i * kTileCols + c));
    vf sum = vset(0.0f);
    for (uint32_t i = 0; i < n; i++) {
      const vf e = vexp(vsub(vload(s + i * kTileCols + c), peak));
      vstore(s + i * kTileCols + c, e);
      sum = vadd(sum, e);
    }
    const vf factor = vexp(vsub(old, peak));
    vstore(m + c, peak);
    vstore(l + c, vfma(vload(l + c), factor, sum));
    vstore(shrink + c, factor);
  }
}

void v_scale_cols(float *x, const float *factor, uint32_t n) {
  for (uint32_t c = 0; c < kTileCols; c += kVec) {
    const vf f = vload(factor + c);
    for (uint32_t i = 0; i < n; i++) {
      vstore(x + i * kTileCols + c, vmul(vload(x + i * kTileCols + c), f));
    }
  }
}

void v_f16_to_f32(const uint16_t *x, uint32_t n, float *y) {
  for (uint32_t i = 0; i < n; i += kVec) vstore(y + i, vload_f16(x + i));
}

void v_f32_to_f16(const float *x, uint32_t n, uint16_t *y) {
  for (uint32_t i = 0; i < n; i += kVec) vstore_f16(y + i, vload(x + i));
}

void fill_ops(Kernels *t) {
  fill_attention(t);
  t->quantize_q8 = v_quantize_q8;
  t->rms_norm = v_rms_norm;
  t->gated_norm = v_gated_norm;
  t->l2_norm = v_l2_norm;
  t->add = v_add;
  t->layer_norm = v_layer_norm;
  t->gelu_tanh = v_gelu_tanh;
  t->silu_mul = v_silu_mul;
  t->sigmoid_mul = v_sigmoid_mul;
  t->scale = v_scale;
  t->rope = v_rope;
  t->conv4_silu = v_conv4_silu;
  t->delta_step = v_delta_step;
  t->delta_apply = v_delta_apply;
  t->softmax_step = v_softmax_step;
  t->softmax_cols = v_softmax_cols;
  t->scale_cols = v_scale_cols;
  t->f16_to_f32 = v_f16_to_f32;
  t->f32_to_f16 = v_f32_to_f16;
}

}  // namespace
}  // namespace q35
