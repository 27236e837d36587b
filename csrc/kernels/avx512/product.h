// How the integer product of 32 values joins the float sums of 16 rows. Few tokens (gemv) and many
// (gemm) meet here, so that a token's result has the same bits however many share its step.
#pragma once

#include "kernels/avx512/spread.h"

namespace q35 {
namespace {

// total + the products of a group of 32. scale, min: of 16 rows; d, s: the token's scale and d *
// (sum of its integers)
template <bool kMin>
inline __m512 add_32(__m512 total, __m512i dot, __m512 scale, __m512 min, __m512 d, __m512 s) {
  total = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dot), scale), d, total);
  if constexpr (kMin) total = _mm512_fnmadd_ps(min, s, total);
  return total;
}

// The same for two groups of 16, which share the multiplication by the activation scale.
template <bool kMin>
inline __m512 add_16(__m512 total, const __m512i (&dot)[2], const __m512 (&scale)[2],
                     const __m512 (&min)[2], __m512 d, const float *s, uint32_t s_stride) {
  __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[0]), scale[0]);
  y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[1]), scale[1], y);
  total = _mm512_fmadd_ps(y, d, total);
  if constexpr (kMin) {
    total = _mm512_fnmadd_ps(min[0], _mm512_set1_ps(s[0]), total);
    total = _mm512_fnmadd_ps(min[1], _mm512_set1_ps(s[s_stride]), total);
  }
  return total;
}

// Vectors of rows for groups of 16, kStride apart; zero for formats without a minimum.
template <bool kRead, uint32_t kStride>
inline void load_pair(const float *from, __m512 (&to)[2]) {
  to[0] = kRead ? _mm512_loadu_ps(from) : _mm512_setzero_ps();
  to[1] = kRead ? _mm512_loadu_ps(from + kStride) : _mm512_setzero_ps();
}

// -bias * (sum of the integers) of each 16 of n <= 256 activations; 0 for groups beyond n. The
// bytes of biased weights make dots that are too large by bias * sum: a dot that starts here ends
// as the exact integer. bias: up to 128
inline __m512i group_starts(const int8_t *x, uint32_t n, int bias) {
  const __m512i factor = _mm512_set1_epi8(static_cast<char>(bias));
  __m512i all = _mm512_setzero_si512();  // lane 4l + j: group 4j + l
#pragma GCC unroll 4
  for (uint32_t j = 0; j < 4; j++) {
    const uint32_t left = n > 64 * j ? n - 64 * j : 0;
    const __mmask16 some = static_cast<__mmask16>(left >= 64 ? 0xffffu : (1u << left / 4) - 1);
    const __m512i words = _mm512_dpbusd_epi32(_mm512_setzero_si512(), factor,
                                              _mm512_maskz_loadu_epi32(some, x + 64 * j));
    __m512i sum = _mm512_add_epi32(words, _mm512_shuffle_epi32(words, _MM_PERM_BADC));
    sum = _mm512_add_epi32(sum, _mm512_shuffle_epi32(sum, _MM_PERM_CDAB));
    all = _mm512_mask_mov_epi32(all, static_cast<__mmask16>(0x1111u << j), sum);
  }
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, _mm512_sub_epi32(_mm512_setzero_si512(), all));
}

}  // namespace
}  // namespace q35
