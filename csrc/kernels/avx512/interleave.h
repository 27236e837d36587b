// Transposition of decoded blocks: 16 rows side by side, 4 consecutive values each, so that one
// broadcast of 4 activations meets 16 rows. Bytes are as in decode.h, but for formats without a
// minimum always biased by 128. kStride: rows of the destination, 16 or more.
#pragma once

#include "kernels/avx512/decode.h"

namespace q35 {
namespace {

// a[i] lane j becomes a[j] lane i, for 16 x 16 words.
inline void transpose(__m512i (&a)[16]) {
  __m512i b[16];
  for (int i = 0; i < 16; i += 4) {
    const __m512i l0 = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    const __m512i h0 = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    const __m512i l1 = _mm512_unpacklo_epi32(a[i + 2], a[i + 3]);
    const __m512i h1 = _mm512_unpackhi_epi32(a[i + 2], a[i + 3]);
    b[i] = _mm512_unpacklo_epi64(l0, l1);
    b[i + 1] = _mm512_unpackhi_epi64(l0, l1);
    b[i + 2] = _mm512_unpacklo_epi64(h0, h1);
    b[i + 3] = _mm512_unpackhi_epi64(h0, h1);
  }
  // b[4m + j] quarter l holds rows 4m..4m+3 of column 4l + j.
  for (int j = 0; j < 4; j++) {
    const __m512i x0 = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88);
    const __m512i x1 = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xdd);
    const __m512i y0 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88);
    const __m512i y1 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xdd);
    a[j] = _mm512_shuffle_i32x4(x0, y0, 0x88);
    a[8 + j] = _mm512_shuffle_i32x4(x0, y0, 0xdd);
    a[4 + j] = _mm512_shuffle_i32x4(x1, y1, 0x88);
    a[12 + j] = _mm512_shuffle_i32x4(x1, y1, 0xdd);
  }
}

// Stores lane words of 16 rows of scales, one per 16 values, as [group][kStride].
template <uint32_t kGroup, uint32_t kStride>
inline void store_scales(__m512i (&a)[16], float *out) {
  transpose(a);
  for (uint32_t i = 0; i < 16; i += kGroup / 16) {
    _mm512_storeu_si512(out + i / (kGroup / 16) * kStride, a[i]);
  }
}

// 256 values of 16 rows. w: [16] rows; q: [64][kStride][4]; scale, min: [256 / group][kStride].
template <class D, uint32_t kStride>
inline void interleave_256(const uint8_t *const (&w)[16], uint8_t *q, float *scale, float *min) {
  __m512i a[16];
  for (int c = 0; c < 4; c++) {
    for (int r = 0; r < 16; r++) {
      a[r] = D::load(w[r], c);
      if constexpr (!D::kHasMin && D::kBias != 128) {
        a[r] = _mm512_add_epi8(a[r], _mm512_set1_epi8(static_cast<char>(128 - D::kBias)));
      }
    }
    transpose(a);
    for (int i = 0; i < 16; i++) _mm512_storeu_si512(q + (16 * c + i) * kStride * 4, a[i]);
  }
  __m512i m[16];
  for (int r = 0; r < 16; r++) {
    const Scales scales = D::scales(w[r]);
    a[r] = _mm512_castps_si512(scales.scale);
    m[r] = _mm512_castps_si512(scales.min);
  }
  store_scales<D::kGroup, kStride>(a, scale);
  if constexpr (D::kHasMin) store_scales<D::kGroup, kStride>(m, min);
}

// The last n = k % 256 values: on zero-padded copies, through buffers of full size.
template <class D, uint32_t kStride>
void interleave_rest(const uint8_t *const (&w)[16], uint32_t n, uint8_t *q, float *scale,
                     float *min) {
  constexpr uint32_t kGroups = 256 / D::kGroup;
  uint8_t copy[16][D::kBytes + 64] = {};
  uint8_t q_full[64 * kStride * 4];
  float scale_full[kGroups * kStride], min_full[kGroups * kStride];
  const uint8_t *rows[16];
  for (int r = 0; r < 16; r++) {
    __builtin_memcpy(copy[r], w[r], n / D::kBlock * D::kBlockBytes);
    rows[r] = copy[r];
  }
  interleave_256<D, kStride>(rows, q_full, scale_full, min_full);
  for (uint32_t i = 0; i < n / 4; i++) {
    _mm512_storeu_si512(q + i * kStride * 4, load64(q_full + i * kStride * 4));
  }
  for (uint32_t i = 0; i < n / D::kGroup; i++) {
    _mm512_storeu_si512(scale + i * kStride, load64(scale_full + i * kStride));
    if constexpr (D::kHasMin)
      _mm512_storeu_si512(min + i * kStride, load64(min_full + i * kStride));
  }
}

// -128 * (sum of the integers) of each 16 of n <= 256 activations; 0 for groups beyond n.
inline __m512i group_starts(const int8_t *x, uint32_t n) {
  const __m512i bias = _mm512_set1_epi8(-128);
  __m512i all = _mm512_setzero_si512();  // lane 4l + j: group 4j + l
#pragma GCC unroll 4
  for (uint32_t j = 0; j < 4; j++) {
    const uint32_t left = n > 64 * j ? n - 64 * j : 0;
    const __mmask16 some = static_cast<__mmask16>(left >= 64 ? 0xffffu : (1u << left / 4) - 1);
    const __m512i words = _mm512_dpbusd_epi32(_mm512_setzero_si512(), bias,
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
