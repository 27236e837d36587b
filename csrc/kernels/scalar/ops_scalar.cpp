// The reference: what every element-wise and float kernel computes, in the plainest form.
#include <cmath>

#include "base/half.h"
#include "kernels/scalar/tier_scalar.h"

namespace q35 {
namespace {

float sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}

void s_quantize_q8(const float *x, uint32_t k, int8_t *q, float *d, float *s) {
  for (uint32_t g = 0; g < k / kActGroup; g++) {
    const float *xg = x + g * kActGroup;
    float peak = 0.0f;
    for (uint32_t i = 0; i < kActGroup; i++) peak = std::fmax(peak, std::fabs(xg[i]));
    const float scale = peak / 127.0f;
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    d[g] = scale;
    int32_t sum[2] = {0, 0};
    for (uint32_t i = 0; i < kActGroup; i++) {
      // fmax and fmin matter only for NaN and infinity, which a damaged file can produce.
      const float limited = std::fmin(std::fmax(xg[i] * inverse, -127.0f), 127.0f);
      const int32_t v = static_cast<int32_t>(std::nearbyint(limited));
      q[g * kActGroup + i] = static_cast<int8_t>(v);
      sum[i / 16] += v;
    }
    s[g * 2] = scale * static_cast<float>(sum[0]);
    s[g * 2 + 1] = scale * static_cast<float>(sum[1]);
  }
}

float sum_of_squares(const float *x, uint32_t n) {
  float sum = 0.0f;
  for (uint32_t i = 0; i < n; i++) sum += x[i] * x[i];
  return sum;
}

void s_rms_norm(const float *x, const float *w, uint32_t n, float eps, float *y) {
  const float factor = 1.0f / std::sqrt(sum_of_squares(x, n) / static_cast<float>(n) + eps);
  for (uint32_t i = 0; i < n; i++) y[i] = x[i] * factor * w[i];
}

void s_layer_norm(const float *x, const float *w, const float *b, uint32_t n, float eps, float *y) {
  float sum = 0.0f, squares = 0.0f;
  for (uint32_t i = 0; i < n; i++) sum += x[i];
  const float mean = sum / static_cast<float>(n);
  for (uint32_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
  const float factor = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
  for (uint32_t i = 0; i < n; i++) y[i] = (x[i] - mean) * factor * w[i] + b[i];
}

// 0.5 x (1 + tanh(u)) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
void s_gelu_tanh(float *x, const float *bias, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    const float v = x[i] + bias[i];
    x[i] = v * sigmoid(1.5957691216f * (v + 0.044715f * v * v * v));
  }
}

void s_gelu_erf(float *x, const float *bias, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    const float v = x[i] + bias[i];
    x[i] = 0.5f * v * (1.0f + std::erf(v * 0.70710678f));
  }
}

void s_gated_norm(const float *x, const float *z, const float *w, uint32_t n, float eps, float *y) {
  const float factor = 1.0f / std::sqrt(sum_of_squares(x, n) / static_cast<float>(n) + eps);
  for (uint32_t i = 0; i < n; i++) y[i] = x[i] * factor * w[i] * (z[i] * sigmoid(z[i]));
}

void s_l2_norm(float *x, uint32_t n, float eps, float scale) {
  const float factor = scale / std::sqrt(sum_of_squares(x, n) + eps);
  for (uint32_t i = 0; i < n; i++) x[i] *= factor;
}

void s_add(float *x, const float *y, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) x[i] += y[i];
}

void s_silu_mul(const float *gate, const float *up, uint32_t n, float *y) {
  for (uint32_t i = 0; i < n; i++) y[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

void s_sigmoid_mul(float *x, const float *gate, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) x[i] *= sigmoid(gate[i]);
}

void s_scale(float *x, float factor, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) x[i] *= factor;
}

void s_rope(float *x, const float *cos, const float *sin, uint32_t n_rot) {
  const uint32_t half = n_rot / 2;
  for (uint32_t i = 0; i < half; i++) {
    const float a = x[i], b = x[half + i];
    x[i] = a * cos[i] - b * sin[i];
    x[half + i] = b * cos[i] + a * sin[i];
  }
}

void s_conv4_silu(const float *x0, const float *x1, const float *x2, const float *x3,
                  const float *w, uint64_t w_stride, uint32_t n, float *y) {
  for (uint32_t i = 0; i < n; i++) {
    const float a = w[i] * x0[i] + w[w_stride + i] * x1[i] + w[2 * w_stride + i] * x2[i] +
                    w[3 * w_stride + i] * x3[i];
    y[i] = a * sigmoid(a);
  }
}

void s_delta_step(float *state, uint32_t d, const float *q, const float *k, float *v, float decay,
                  float beta, float *o) {
  for (uint32_t c = 0; c < kTileCols; c++) {
    float predicted = 0.0f;
    for (uint32_t i = 0; i < d; i++) {
      state[i * kTileCols + c] *= decay;
      predicted += state[i * kTileCols + c] * k[i];
    }
    const float delta = beta * (v[c] - predicted);
    float sum = 0.0f;
    for (uint32_t i = 0; i < d; i++) {
      state[i * kTileCols + c] += k[i] * delta;
      sum += state[i * kTileCols + c] * q[i];
    }
    v[c] = delta;
    o[c] = sum;
  }
}

void s_delta_apply(float *state, uint32_t d, const float *k, const float *delta, float decay) {
  for (uint32_t i = 0; i < d; i++) {
    float *row = state + i * kTileCols;
    for (uint32_t c = 0; c < kTileCols; c++) row[c] = row[c] * decay + k[i] * delta[c];
  }
}

float s_softmax_step(float *s, uint32_t n, float *m, float *l) {
  float peak = *m;
  for (uint32_t i = 0; i < n; i++) peak = std::fmax(peak, s[i]);
  float sum = 0.0f;
  for (uint32_t i = 0; i < n; i++) {
    s[i] = std::exp(s[i] - peak);
    sum += s[i];
  }
  const float shrink = std::exp(*m - peak);
  *m = peak;
  *l = *l * shrink + sum;
  return shrink;
}

void s_softmax_cols(float *s, uint32_t n, float *m, float *l, float *shrink) {
  for (uint32_t c = 0; c < kTileCols; c++) {
    float peak = m[c];
    for (uint32_t i = 0; i < n; i++) peak = std::fmax(peak, s[i * kTileCols + c]);
    float sum = 0.0f;
    for (uint32_t i = 0; i < n; i++) {
      float &at = s[i * kTileCols + c];
      at = std::exp(at - peak);
      sum += at;
    }
    shrink[c] = std::exp(m[c] - peak);
    m[c] = peak;
    l[c] = l[c] * shrink[c] + sum;
  }
}

void s_scale_cols(float *x, const float *factor, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    for (uint32_t c = 0; c < kTileCols; c++) x[i * kTileCols + c] *= factor[c];
  }
}

void s_f16_to_f32(const uint16_t *x, uint32_t n, float *y) {
  for (uint32_t i = 0; i < n; i++) y[i] = half_to_float(x[i]);
}

void s_f32_to_f16(const float *x, uint32_t n, uint16_t *y) {
  for (uint32_t i = 0; i < n; i++) y[i] = float_to_half(x[i]);
}

void s_gemm_f32(const float *a, uint64_t a_row, uint64_t a_k, uint32_t m, const float *b,
                uint64_t b_stride, uint32_t k_count, float alpha, float *c, uint64_t c_stride) {
  for (uint32_t i = 0; i < m; i++) {
    float sum[kTileCols] = {};
    for (uint32_t k = 0; k < k_count; k++) {
      const float x = a[i * a_row + k * a_k];
      for (uint32_t j = 0; j < kTileCols; j++) sum[j] += x * b[k * b_stride + j];
    }
    for (uint32_t j = 0; j < kTileCols; j++) {
      float &at = c[i * c_stride + j];
      at = alpha == 0.0f ? sum[j] : alpha * at + sum[j];
    }
  }
}

void s_solve_lower(const float *a, uint64_t a_stride, uint32_t n, float *x, uint64_t x_stride) {
  for (uint32_t i = 1; i < n; i++) {
    for (uint32_t j = 0; j < i; j++) {
      const float factor = a[i * a_stride + j];
      for (uint32_t c = 0; c < kTileCols; c++) x[i * x_stride + c] -= factor * x[j * x_stride + c];
    }
  }
}

}  // namespace

void q35_init_scalar(Kernels *t) {
  t->isa = "scalar";
  t->same_cols = kGemvMaxCols;
  t->same_many = true;
  t->quantize_q8 = s_quantize_q8;
  t->rms_norm = s_rms_norm;
  t->gated_norm = s_gated_norm;
  t->l2_norm = s_l2_norm;
  t->add = s_add;
  t->layer_norm = s_layer_norm;
  t->gelu_tanh = s_gelu_tanh;
  t->gelu_erf = s_gelu_erf;
  t->silu_mul = s_silu_mul;
  t->sigmoid_mul = s_sigmoid_mul;
  t->scale = s_scale;
  t->rope = s_rope;
  t->conv4_silu = s_conv4_silu;
  t->delta_step = s_delta_step;
  t->delta_apply = s_delta_apply;
  t->softmax_step = s_softmax_step;
  t->softmax_cols = s_softmax_cols;
  t->scale_cols = s_scale_cols;
  t->f16_to_f32 = s_f16_to_f32;
  t->f32_to_f16 = s_f32_to_f16;
  t->gemm_f32 = s_gemm_f32;
  t->solve_lower = s_solve_lower;
  q35_init_attention_scalar(t);
  q35_init_gemv_scalar(t);
  q35_init_gemm_scalar(t);
}

}  // namespace q35
