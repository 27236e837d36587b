// The reference: attention of few query rows over each type of cache, in the plainest form.
#include <cmath>

#include "base/half.h"
#include "kernels/scalar/tier_scalar.h"

namespace q35 {
namespace {

float value_of(const float *p) {
  return *p;
}
float value_of(const uint16_t *p) {
  return half_to_float(*p);
}

template <class T>
void s_qk(const float *q, uint64_t q_stride, uint32_t nq, const T *k, uint64_t k_stride, uint32_t n,
          uint32_t d, float *s, uint64_t s_stride, const void *) {
  for (uint32_t r = 0; r < nq; r++) {
    for (uint32_t j = 0; j < n; j++) {
      float sum = 0.0f;
      for (uint32_t i = 0; i < d; i++) sum += q[r * q_stride + i] * value_of(k + j * k_stride + i);
      s[r * s_stride + j] = sum;
    }
  }
}

template <class T>
void s_pv(const float *p, uint64_t p_stride, uint32_t nq, const T *v, uint64_t v_stride, uint32_t n,
          uint32_t d, float *o, uint64_t o_stride, const void *) {
  for (uint32_t r = 0; r < nq; r++) {
    for (uint32_t j = 0; j < n; j++) {
      const float w = p[r * p_stride + j];
      for (uint32_t i = 0; i < d; i++) o[r * o_stride + i] += w * value_of(v + j * v_stride + i);
    }
  }
}

void s_qk_q8(const int16_t *q, const float *q_scale, uint32_t nq, const int8_t *k,
             const float *k_scale, uint32_t n, uint32_t d, float *s, uint64_t s_stride,
             const void *) {
  for (uint32_t r = 0; r < nq; r++) {
    for (uint32_t j = 0; j < n; j++) {
      int32_t sum = 0;
      for (uint32_t i = 0; i < d; i++) sum += q[r * d + i] * k[j * d + i];
      s[r * s_stride + j] = static_cast<float>(sum) * (q_scale[r] * k_scale[j]);
    }
  }
}

void s_pv_q8(const int16_t *p, uint64_t p_stride, const float *p_scale, uint32_t nq,
             const int8_t *v, uint32_t n, uint32_t d, float *o, uint64_t o_stride, const void *) {
  for (uint32_t r = 0; r < nq; r++) {
    for (uint32_t i = 0; i < d; i++) {
      int32_t sum = 0;
      for (uint32_t j = 0; j < n; j++) sum += p[r * p_stride + j] * v[j * d + i];
      o[r * o_stride + i] += p_scale[r] * static_cast<float>(sum);
    }
  }
}

// Both limits of int8 and int16 leave out the most negative value.
template <class T>
float quantize_row(const float *x, const float *factor, uint32_t n, float limit, T *q) {
  float peak = 0.0f;
  for (uint32_t i = 0; i < n; i++) {
    peak = std::fmax(peak, std::fabs(factor == nullptr ? x[i] : x[i] * factor[i]));
  }
  const float scale = peak / limit, inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
  for (uint32_t i = 0; i < n; i++) {
    const float value = (factor == nullptr ? x[i] : x[i] * factor[i]) * inverse;
    // fmax and fmin matter only for NaN and infinity, which a damaged file can produce.
    q[i] = static_cast<T>(std::nearbyint(std::fmin(std::fmax(value, -limit), limit)));
  }
  return scale;
}

float s_quantize_i8(const float *x, uint32_t n, int8_t *q) {
  return quantize_row(x, nullptr, n, 127.0f, q);
}

float s_quantize_i16(const float *x, const float *factor, uint32_t n, int16_t *q) {
  const float scale = quantize_row(x, factor, n, 32767.0f, q);
  if (n % 2 != 0) q[n] = 0;
  return scale;
}

void s_i8_to_f32(const int8_t *x, float scale, uint32_t n, float *y) {
  for (uint32_t i = 0; i < n; i++) y[i] = scale * static_cast<float>(x[i]);
}

// Place of the value of kNormal16 that is nearest to x.
uint8_t nearest_place(float x) {
  const float size = std::fabs(x);
  uint8_t above = 0;  // of the eight sizes, those smaller than the nearest
  for (uint32_t i = 8; i < 15; i++) {
    above += size > 0.5f * static_cast<float>(kNormal16[i] + kNormal16[i + 1]) ? 1 : 0;
  }
  return static_cast<uint8_t>(x < 0.0f ? 7 - above : 8 + above);
}

float s_quantize_i4(const float *x, uint32_t n, uint8_t *packed) {
  float squares = 0.0f;
  for (uint32_t i = 0; i < n; i++) squares += x[i] * x[i];
  float scale = 2.733f / 127.0f * std::sqrt(squares / static_cast<float>(n));
  if (!(scale > 0.0f && scale <= 3e38f)) scale = 0.0f;  // NaN and infinity: a damaged file
  const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
  float products = 0.0f, lengths = 0.0f;
  for (uint32_t first = 0; first < n; first += 32) {
    for (uint32_t i = 0; i < 16; i++) {
      const float low = x[first + i], high = x[first + 16 + i];
      const uint8_t a = nearest_place(low * inverse), b = nearest_place(high * inverse);
      const float p = kNormal16[a], q = kNormal16[b];
      products += low * p + high * q;
      lengths += p * p + q * q;
      packed[first / 2 + i] = static_cast<uint8_t>(a | b << 4);
    }
  }
  // The scale that fits the chosen values best.
  return scale > 0.0f ? products / lengths : 0.0f;
}

void s_unpack_i4(const uint8_t *packed, uint32_t n, int8_t *q) {
  for (uint32_t first = 0; first < n; first += 32) {
    for (uint32_t i = 0; i < 16; i++) {
      const uint8_t byte = packed[first / 2 + i];
      q[first + i] = kNormal16[byte & 15];
      q[first + 16 + i] = kNormal16[byte >> 4];
    }
  }
}

void s_hadamard(float *x, uint32_t n) {
  const uint32_t block = n & (0u - n);
  const float norm = 1.0f / std::sqrt(static_cast<float>(block));
  for (uint32_t first = 0; first < n; first += block) {
    float *b = x + first;
    for (uint32_t half = 1; half < block; half *= 2) {
      for (uint32_t i = 0; i < block; i++) {
        if ((i & half) != 0) continue;
        const float low = b[i], high = b[i + half];
        b[i] = low + high;
        b[i + half] = low - high;
      }
    }
    for (uint32_t i = 0; i < block; i++) b[i] *= norm;
  }
}

}  // namespace

void q35_init_attention_scalar(Kernels *t) {
  t->qk_f16 = s_qk<uint16_t>;
  t->qk_f32 = s_qk<float>;
  t->pv_f16 = s_pv<uint16_t>;
  t->pv_f32 = s_pv<float>;
  t->qk_q8 = s_qk_q8;
  t->pv_q8 = s_pv_q8;
  t->quantize_i8 = s_quantize_i8;
  t->quantize_i16 = s_quantize_i16;
  t->i8_to_f32 = s_i8_to_f32;
  t->quantize_i4 = s_quantize_i4;
  t->unpack_i4 = s_unpack_i4;
  t->hadamard = s_hadamard;
}

}  // namespace q35
