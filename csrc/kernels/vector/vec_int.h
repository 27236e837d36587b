// Integer companions of vec.h for the 8-bit attention cache: products of 16-bit values summed to
// 32 bits. vi has kVec lanes of 32 bits, vw twice as many of 16 bits.
#pragma once

#include <string.h>

#include "kernels/vector/vec.h"

namespace q35 {
namespace {

// Four floats.
#if defined(__aarch64__)
using v4 = float32x4_t;
inline v4 v4_load(const float *p) {
  return vld1q_f32(p);
}
inline void v4_store(float *p, v4 a) {
  vst1q_f32(p, a);
}
inline v4 v4_set(float a) {
  return vdupq_n_f32(a);
}
inline v4 v4_mul(v4 a, v4 b) {
  return vmulq_f32(a, b);
}
#else
using v4 = __m128;
inline v4 v4_load(const float *p) {
  return _mm_loadu_ps(p);
}
inline void v4_store(float *p, v4 a) {
  _mm_storeu_ps(p, a);
}
inline v4 v4_set(float a) {
  return _mm_set1_ps(a);
}
inline v4 v4_mul(v4 a, v4 b) {
  return _mm_mul_ps(a, b);
}
#endif

// 16 bytes
#if defined(__aarch64__)
using b16 = uint8x16_t;
inline b16 b16_load(const uint8_t *p) {
  return vld1q_u8(p);
}
inline void b16_store(int8_t *p, b16 a) {
  vst1q_u8(reinterpret_cast<uint8_t *>(p), a);
}
// The low and high four bits of each byte.
inline b16 b16_low(b16 a) {
  return vandq_u8(a, vdupq_n_u8(15));
}
inline b16 b16_high(b16 a) {
  return vshrq_n_u8(a, 4);
}
// table[a]
inline b16 b16_lookup(b16 table, b16 a) {
  return vqtbl1q_u8(table, a);
}
#else
using b16 = __m128i;
inline b16 b16_load(const uint8_t *p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
}
inline void b16_store(int8_t *p, b16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), a);
}
inline b16 b16_low(b16 a) {
  return _mm_and_si128(a, _mm_set1_epi8(15));
}
inline b16 b16_high(b16 a) {
  return b16_low(_mm_srli_epi16(a, 4));
}
inline b16 b16_lookup(b16 table, b16 a) {
  return _mm_shuffle_epi8(table, a);
}
#endif

#if defined(__AVX512F__)

using vi = __m512i;
using vw = __m512i;
inline vi vzero_i() {
  return _mm512_setzero_si512();
}
inline vw vload_w(const int16_t *p) {
  return _mm512_loadu_si512(p);
}
inline vw vload_i8w(const int8_t *p) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}
inline vf vload_i8(const int8_t *p) {
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(b));
}
inline vf vfloat(vi a) {
  return _mm512_cvtepi32_ps(a);
}
// acc + products of a and b, summed to the lanes of acc in some way.
inline vi vdot_w(vi acc, vw a, vw b) {
  return _mm512_dpwssd_epi32(acc, a, b);
}
inline int32_t vsum_i(vi a) {
  return _mm512_reduce_add_epi32(a);
}
// Rounds to int16 (values already in [-32767, 32767]).
inline void vstore_i16(int16_t *p, vf a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p),
                      _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(a)));
}
// The sums of four vectors.
inline v4 vsum4(const vf *a) {
  const vf ab = vadd(_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpackhi_ps(a[0], a[1]));
  const vf cd = vadd(_mm512_unpacklo_ps(a[2], a[3]), _mm512_unpackhi_ps(a[2], a[3]));
  const __m512d x = _mm512_castps_pd(ab), y = _mm512_castps_pd(cd);
  const vf s =
      vadd(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
  return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}
inline v4 vsum4(const vi *a) {
  const vi ab =
      _mm512_add_epi32(_mm512_unpacklo_epi32(a[0], a[1]), _mm512_unpackhi_epi32(a[0], a[1]));
  const vi cd =
      _mm512_add_epi32(_mm512_unpacklo_epi32(a[2], a[3]), _mm512_unpackhi_epi32(a[2], a[3]));
  const vi s = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i h = _mm256_add_epi32(_mm512_castsi512_si256(s), _mm512_extracti64x4_epi64(s, 1));
  const __m128i q = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  return _mm_cvtepi32_ps(q);
}

#elif defined(__AVX2__)

using vi = __m256i;
using vw = __m256i;
inline vi vzero_i() {
  return _mm256_setzero_si256();
}
inline vw vload_w(const int16_t *p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
}
inline vw vload_i8w(const int8_t *p) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}
inline vf vload_i8(const int8_t *p) {
  const __m128i b = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(p));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b));
}
inline vf vfloat(vi a) {
  return _mm256_cvtepi32_ps(a);
}
inline vi vdot_w(vi acc, vw a, vw b) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
}
inline int32_t vsum_i(vi a) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
inline void vstore_i16(int16_t *p, vf a) {
  const __m256i i = _mm256_cvtps_epi32(a);
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p),
                   _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1)));
}
inline v4 vsum4(const vf *a) {
  const vf s = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
  return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}
inline v4 vsum4(const vi *a) {
  const vi s = _mm256_hadd_epi32(_mm256_hadd_epi32(a[0], a[1]), _mm256_hadd_epi32(a[2], a[3]));
  const __m128i q = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
  return _mm_cvtepi32_ps(q);
}

#else  // NEON

using vi = int32x4_t;
using vw = int16x8_t;
inline vi vzero_i() {
  return vdupq_n_s32(0);
}
inline vw vload_w(const int16_t *p) {
  return vld1q_s16(p);
}
inline vw vload_i8w(const int8_t *p) {
  return vmovl_s8(vld1_s8(p));
}
inline vf vload_i8(const int8_t *p) {
  int32_t four;
  memcpy(&four, p, 4);
  const int16x8_t w = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(w)));
}
inline vf vfloat(vi a) {
  return vcvtq_f32_s32(a);
}
inline vi vdot_w(vi acc, vw a, vw b) {
  return vmlal_high_s16(vmlal_s16(acc, vget_low_s16(a), vget_low_s16(b)), a, b);
}
inline int32_t vsum_i(vi a) {
  return vaddvq_s32(a);
}
inline void vstore_i16(int16_t *p, vf a) {
  vst1_s16(p, vqmovn_s32(vcvtnq_s32_f32(a)));
}
inline v4 vsum4(const vf *a) {
  return vpaddq_f32(vpaddq_f32(a[0], a[1]), vpaddq_f32(a[2], a[3]));
}
inline v4 vsum4(const vi *a) {
  return vcvtq_f32_s32(vpaddq_s32(vpaddq_s32(a[0], a[1]), vpaddq_s32(a[2], a[3])));
}

#endif

// Two 16-bit rows a and b of 2 * kVec values and a pair of factors (x, y): a * x + b * y, 32 bits
// wide, in two vectors. vzip brings the rows to the order that the product wants, once for all
// pairs of factors; vunzip brings the sums back to the order of the rows.
#if defined(__AVX512F__)

using vpair = __m512i;
inline vpair vload_pair(const int16_t *p) {
  int32_t both;
  memcpy(&both, p, 4);
  return _mm512_set1_epi32(both);
}
inline void vzip(vw *a, vw *b) {
  const vw low = _mm512_unpacklo_epi16(*a, *b);
  *b = _mm512_unpackhi_epi16(*a, *b);
  *a = low;
}
inline void vmac_pair(vi *acc, vw a, vw b, vpair p) {
  acc[0] = _mm512_dpwssd_epi32(acc[0], a, p);
  acc[1] = _mm512_dpwssd_epi32(acc[1], b, p);
}
inline void vunzip(vi *acc) {
  const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  const vi first = _mm512_permutex2var_epi32(acc[0], low, acc[1]);
  acc[1] = _mm512_permutex2var_epi32(acc[0], high, acc[1]);
  acc[0] = first;
}

#elif defined(__AVX2__)

using vpair = __m256i;
inline vpair vload_pair(const int16_t *p) {
  int32_t both;
  memcpy(&both, p, 4);
  return _mm256_set1_epi32(both);
}
inline void vzip(vw *a, vw *b) {
  const vw low = _mm256_unpacklo_epi16(*a, *b);
  *b = _mm256_unpackhi_epi16(*a, *b);
  *a = low;
}
inline void vmac_pair(vi *acc, vw a, vw b, vpair p) {
  acc[0] = vdot_w(acc[0], a, p);
  acc[1] = vdot_w(acc[1], b, p);
}
inline void vunzip(vi *acc) {
  const vi first = _mm256_permute2x128_si256(acc[0], acc[1], 0x20);
  acc[1] = _mm256_permute2x128_si256(acc[0], acc[1], 0x31);
  acc[0] = first;
}

#else  // NEON multiplies by one factor at a time: the rows stay as they are

struct vpair {
  int16_t x, y;
};
inline vpair vload_pair(const int16_t *p) {
  return {p[0], p[1]};
}
inline void vzip(vw *, vw *) {}
inline void vmac_pair(vi *acc, vw a, vw b, vpair p) {
  acc[0] = vmlal_n_s16(acc[0], vget_low_s16(a), p.x);
  acc[0] = vmlal_n_s16(acc[0], vget_low_s16(b), p.y);
  acc[1] = vmlal_high_n_s16(acc[1], a, p.x);
  acc[1] = vmlal_high_n_s16(acc[1], b, p.y);
}
inline void vunzip(vi *) {}

#endif

}  // namespace
}  // namespace q35
