// The integer product on AVX2, with or without VNNI: 16 rows side by side (spread.h) by up to six
// tokens. Few tokens and many meet here, so that a token's result has the same bits however many
// share its step.
#pragma once

#include "kernels/avx2/spread.h"

namespace q35 {
namespace {

// How many unsigned bytes times +-127 a 16-bit lane can sum, in pairs: 8 (bytes up to 15), 4 (up to
// 31), 2 (up to 63), 1 (up to 127), or 0 for signed bytes of full range. VNNI sums in 32 bits: 8
// stands for all.
template <class D>
constexpr uint32_t kRunOf = kVnni           ? 8
                            : D::kSigned    ? 0
                            : D::kMax <= 15 ? 8
                            : D::kMax <= 31 ? 4
                            : D::kMax <= 63 ? 2
                                            : 1;

// Whether bytes may carry a bias: signed ones and those of formats with a minimum never do.
template <uint32_t kRun, bool kMin>
constexpr bool kBiased = kRun != 0 && !kMin;

// Compilers turn chains of integer additions into trees, whose leaves then do not fit the
// registers.
inline void keep_order(__m256i *x) {
  __asm__("" : "+x"(*x));
}

// 16-bit sums of the products of pairs, over kRun steps of 4 values; kRun 0: one signed step. x:
// the tokens' bytes, kStep apart from one 4 values to the next.
template <uint32_t kRun, uint32_t kC, uint32_t kStep>
inline void pair_sums(const uint8_t *q, const int8_t *const (&x)[kC], uint32_t at,
                      __m256i (&pairs)[2][kC]) {
#pragma GCC unroll 8
  for (uint32_t i = 0; i < (kRun == 0 ? 1 : kRun); i++) {
    const __m256i w[2] = {load32(q + i * kRows * 4), load32(q + i * kRows * 4 + 32)};
#pragma GCC unroll 4
    for (uint32_t t = 0; t < kC; t++) {
      const __m256i xt = _mm256_set1_epi32(static_cast<int>(load_u32(x[t] + (at + i) * kStep)));
      for (uint32_t v = 0; v < 2; v++) {
        const __m256i p =
            kRun == 0 ? _mm256_maddubs_epi16(_mm256_abs_epi8(w[v]), _mm256_sign_epi8(xt, w[v]))
                      : _mm256_maddubs_epi16(w[v], xt);
        pairs[v][t] = i == 0 ? p : _mm256_add_epi16(pairs[v][t], p);
        keep_order(&pairs[v][t]);
      }
    }
  }
}

#ifdef __AVXVNNI__
// dot: the integer products of kGroup values, unbiased.
template <uint32_t kRun, uint32_t kGroup, uint32_t kC, uint32_t kStep>
inline void dots(const uint8_t *q, const int8_t *const (&x)[kC], __m256i (&dot)[2][kC]) {
  for (uint32_t t = 0; t < kC; t++) dot[0][t] = dot[1][t] = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (uint32_t i = 0; i < kGroup / 4; i++) {
    const __m256i w0 = load32(q + i * kRows * 4), w1 = load32(q + i * kRows * 4 + 32);
#pragma GCC unroll 4
    for (uint32_t t = 0; t < kC; t++) {
      const __m256i xt = _mm256_set1_epi32(static_cast<int>(load_u32(x[t] + i * kStep)));
      dot[0][t] = _mm256_dpbusd_avx_epi32(dot[0][t], w0, xt);
      dot[1][t] = _mm256_dpbusd_avx_epi32(dot[1][t], w1, xt);
    }
  }
}
#else
// dot: the integer products of kGroup values, unbiased.
template <uint32_t kRun, uint32_t kGroup, uint32_t kC, uint32_t kStep>
inline void dots(const uint8_t *q, const int8_t *const (&x)[kC], __m256i (&dot)[2][kC]) {
  constexpr uint32_t kSteps = kGroup / 4;
  constexpr uint32_t kStride = kRun == 0 ? 1 : kRun < kSteps ? kRun : kSteps;
  constexpr uint32_t kFit = kRun == 0 ? 0 : kStride;
#pragma GCC unroll 8
  for (uint32_t i = 0; i < kSteps; i += kStride) {
    __m256i pairs[2][kC];
    pair_sums<kFit, kC, kStep>(q + i * kRows * 4, x, i, pairs);
    for (uint32_t v = 0; v < 2; v++) {
#pragma GCC unroll 4
      for (uint32_t t = 0; t < kC; t++) {
        const __m256i words = _mm256_madd_epi16(pairs[v][t], _mm256_set1_epi16(1));
        dot[v][t] = i == 0 ? words : _mm256_add_epi32(dot[v][t], words);
        keep_order(&dot[v][t]);
      }
    }
  }
}
#endif

// What the tokens bring to a group of values, read where it is used: registers are scarce.
template <uint32_t kC>
struct GroupOf {
  const float *d[kC];        // scale
  const int32_t *start[kC];  // bias * (sum of the integers)
  const float *s[kC];        // d * (sum of the integers); [2] when kSplit: of 16 values each
};

// The sums are in memory, and the compiler is kept from holding them in registers as well.
inline float *in_memory(float *p) {
  __asm__("" : "+r"(p));
  return p;
}

// sum[t] += the products of one group. scale, min: [kRows]; sum: [tokens][kRows]
template <uint32_t kRun, uint32_t kGroup, bool kMin, bool kSplit, uint32_t kC, uint32_t kStep>
inline void add_group(const uint8_t *q, const float *scale, const float *min,
                      const int8_t *const (&x)[kC], const GroupOf<kC> &group, float (*sum)[kRows]) {
  __m256i dot[2][kC];
  dots<kRun, kGroup, kC, kStep>(q, x, dot);
#pragma GCC unroll 4
  for (uint32_t t = 0; t < kC; t++) {
    float *out = in_memory(sum[t]);
    __m256 y[2];
    for (uint32_t v = 0; v < 2; v++) {
      if constexpr (kBiased<kRun, kMin>) {
        dot[v][t] = _mm256_sub_epi32(dot[v][t], _mm256_set1_epi32(*group.start[t]));
      }
      y[v] = _mm256_mul_ps(_mm256_cvtepi32_ps(dot[v][t]), _mm256_loadu_ps(scale + 8 * v));
    }
    const __m256 d = _mm256_broadcast_ss(group.d[t]);
    for (uint32_t v = 0; v < 2; v++) y[v] = _mm256_fmadd_ps(y[v], d, _mm256_load_ps(out + 8 * v));
    if constexpr (kMin) {
      const float *s = group.s[t];
      const __m256 total = _mm256_set1_ps(kSplit ? s[0] + s[1] : s[0]);
      for (uint32_t v = 0; v < 2; v++) {
        y[v] = _mm256_fnmadd_ps(_mm256_loadu_ps(min + 8 * v), total, y[v]);
      }
    }
    for (uint32_t v = 0; v < 2; v++) _mm256_store_ps(out + 8 * v, y[v]);
  }
}

}  // namespace
}  // namespace q35
