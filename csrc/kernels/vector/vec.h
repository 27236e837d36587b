// vf: the widest float vector of the tier that includes this file, with the few operations the
// element-wise kernels need. Everything is static: each tier has its own copy, never merged.
// vmax and vmin give b when a is NaN, so that vmax(x, low) is never NaN.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#else
#error "vec.h needs AVX2, AVX-512 or NEON; the scalar tier has its own code"
#endif

namespace q35 {
namespace {

#if defined(__AVX512F__)

using vf = __m512;
constexpr uint32_t kVec = 16;
inline vf vload(const float *p) {
  return _mm512_loadu_ps(p);
}
inline void vstore(float *p, vf a) {
  _mm512_storeu_ps(p, a);
}
inline vf vset(float a) {
  return _mm512_set1_ps(a);
}
inline vf vadd(vf a, vf b) {
  return _mm512_add_ps(a, b);
}
inline vf vsub(vf a, vf b) {
  return _mm512_sub_ps(a, b);
}
inline vf vmul(vf a, vf b) {
  return _mm512_mul_ps(a, b);
}
inline vf vdiv(vf a, vf b) {
  return _mm512_div_ps(a, b);
}
inline vf vmax(vf a, vf b) {
  return _mm512_max_ps(a, b);
}
inline vf vmin(vf a, vf b) {
  return _mm512_min_ps(a, b);
}
inline vf vfma(vf a, vf b, vf c) {
  return _mm512_fmadd_ps(a, b, c);
}  // a * b + c
inline vf vfnma(vf a, vf b, vf c) {
  return _mm512_fnmadd_ps(a, b, c);
}  // c - a * b
inline vf vabs(vf a) {
  return _mm512_abs_ps(a);
}
inline vf vround(vf a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline vf vpow2i(vf a) {
  return _mm512_scalef_ps(_mm512_set1_ps(1.0f), a);
}  // 2^a, a integral
inline float vsum(vf a) {
  return _mm512_reduce_add_ps(a);
}
inline float vhmax(vf a) {
  return _mm512_reduce_max_ps(a);
}
inline vf vload_f16(const uint16_t *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}
inline void vstore_f16(uint16_t *p, vf a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p),
                      _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
inline vf vload_bf16(const uint16_t *p) {
  const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
// Rounds to int8 (values already in [-127, 127]) and returns the sum of the integers.
inline int32_t vstore_i8(int8_t *p, vf a) {
  const __m512i i = _mm512_cvtps_epi32(a);
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtsepi32_epi8(i));
  return _mm512_reduce_add_epi32(i);
}

#elif defined(__AVX2__)

using vf = __m256;
constexpr uint32_t kVec = 8;
inline vf vload(const float *p) {
  return _mm256_loadu_ps(p);
}
inline void vstore(float *p, vf a) {
  _mm256_storeu_ps(p, a);
}
inline vf vset(float a) {
  return _mm256_set1_ps(a);
}
inline vf vadd(vf a, vf b) {
  return _mm256_add_ps(a, b);
}
inline vf vsub(vf a, vf b) {
  return _mm256_sub_ps(a, b);
}
inline vf vmul(vf a, vf b) {
  return _mm256_mul_ps(a, b);
}
inline vf vdiv(vf a, vf b) {
  return _mm256_div_ps(a, b);
}
inline vf vmax(vf a, vf b) {
  return _mm256_max_ps(a, b);
}
inline vf vmin(vf a, vf b) {
  return _mm256_min_ps(a, b);
}
inline vf vfma(vf a, vf b, vf c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline vf vfnma(vf a, vf b, vf c) {
  return _mm256_fnmadd_ps(a, b, c);
}
inline vf vabs(vf a) {
  return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
inline vf vround(vf a) {
  return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline vf vpow2i(vf a) {
  const __m256i i = _mm256_cvtps_epi32(a);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(i, _mm256_set1_epi32(127)), 23));
}
inline float vsum(vf a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float vhmax(vf a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
inline vf vload_f16(const uint16_t *p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}
inline void vstore_f16(uint16_t *p, vf a) {
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
inline vf vload_bf16(const uint16_t *p) {
  const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
inline int32_t vstore_i8(int8_t *p, vf a) {
  const __m256i i = _mm256_cvtps_epi32(a);
  const __m128i w = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i *>(p), _mm_packs_epi16(w, w));
  __m128i s = _mm_madd_epi16(w, _mm_set1_epi16(1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

#else  // NEON

using vf = float32x4_t;
constexpr uint32_t kVec = 4;
inline vf vload(const float *p) {
  return vld1q_f32(p);
}
inline void vstore(float *p, vf a) {
  vst1q_f32(p, a);
}
inline vf vset(float a) {
  return vdupq_n_f32(a);
}
inline vf vadd(vf a, vf b) {
  return vaddq_f32(a, b);
}
inline vf vsub(vf a, vf b) {
  return vsubq_f32(a, b);
}
inline vf vmul(vf a, vf b) {
  return vmulq_f32(a, b);
}
inline vf vdiv(vf a, vf b) {
  return vdivq_f32(a, b);
}
inline vf vmax(vf a, vf b) {
  return vmaxnmq_f32(a, b);
}
inline vf vmin(vf a, vf b) {
  return vminnmq_f32(a, b);
}
inline vf vfma(vf a, vf b, vf c) {
  return vfmaq_f32(c, a, b);
}
inline vf vfnma(vf a, vf b, vf c) {
  return vfmsq_f32(c, a, b);
}
inline vf vabs(vf a) {
  return vabsq_f32(a);
}
inline vf vround(vf a) {
  return vrndnq_f32(a);
}
inline vf vpow2i(vf a) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(a), vdupq_n_s32(127)), 23));
}
inline float vsum(vf a) {
  return vaddvq_f32(a);
}
inline float vhmax(vf a) {
  return vmaxvq_f32(a);
}
inline vf vload_f16(const uint16_t *p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
inline void vstore_f16(uint16_t *p, vf a) {
  vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a)));
}
inline vf vload_bf16(const uint16_t *p) {
  return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
inline int32_t vstore_i8(int8_t *p, vf a) {
  const int32x4_t i = vcvtnq_s32_f32(a);
  const int16x4_t h = vqmovn_s32(i);
  const int8x8_t b = vqmovn_s16(vcombine_s16(h, h));
  vst1_lane_s32(reinterpret_cast<int32_t *>(p), vreinterpret_s32_s8(b), 0);
  return vaddvq_s32(i);
}

#endif

// exp(x), relative error below 2e-7 on [-87, 88]; inputs outside are clamped to it, so exp(-inf) is
// 1.6e-38 instead of 0, which every use here adds to something near 1. 2^n * p(r) with x = n ln2 +
// r, |r| <= ln2/2; p is the degree-6 Taylor polynomial, whose remainder r^7/5040 is 1.2e-7.
inline vf vexp(vf x) {
  x = vmin(vmax(x, vset(-87.0f)), vset(88.0f));
  const vf n = vround(vmul(x, vset(1.44269504f)));
  // ln2 in two parts: the first has few bits, so n * hi is exact.
  vf r = vfnma(n, vset(0.693359375f), x);
  r = vfnma(n, vset(-2.12194440e-4f), r);
  vf p = vset(1.0f / 720);
  p = vfma(p, r, vset(1.0f / 120));
  p = vfma(p, r, vset(1.0f / 24));
  p = vfma(p, r, vset(1.0f / 6));
  p = vfma(p, r, vset(0.5f));
  p = vfma(p, r, vset(1.0f));
  p = vfma(p, r, vset(1.0f));
  return vmul(p, vpow2i(n));
}

inline vf vsigmoid(vf x) {
  return vdiv(vset(1.0f), vadd(vset(1.0f), vexp(vsub(vset(0.0f), x))));
}

}  // namespace
}  // namespace q35
