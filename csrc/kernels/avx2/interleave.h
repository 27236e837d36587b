// Transposition of quantised rows on AVX2: eight rows side by side, 4 consecutive values each, so
// that one broadcast of 4 activations meets eight rows. Packed formats are transposed packed: half
// the shuffles of nibbles. Rows lie kRows apart in the result, so two calls fill one panel.
#pragma once

#include "kernels/avx2/decode.h"

namespace q35 {
namespace {

constexpr uint32_t kRows = 16;  // of a panel: two vectors of 8 rows

// a[i] lane j becomes a[j] lane i, for 8 x 8 words.
inline void transpose(__m256i (&a)[8]) {
  __m256i b[8];
  for (int i = 0; i < 8; i += 4) {
    const __m256i l0 = _mm256_unpacklo_epi32(a[i], a[i + 1]);
    const __m256i h0 = _mm256_unpackhi_epi32(a[i], a[i + 1]);
    const __m256i l1 = _mm256_unpacklo_epi32(a[i + 2], a[i + 3]);
    const __m256i h1 = _mm256_unpackhi_epi32(a[i + 2], a[i + 3]);
    b[i] = _mm256_unpacklo_epi64(l0, l1);
    b[i + 1] = _mm256_unpackhi_epi64(l0, l1);
    b[i + 2] = _mm256_unpacklo_epi64(h0, h1);
    b[i + 3] = _mm256_unpackhi_epi64(h0, h1);
  }
  for (int j = 0; j < 4; j++) {
    a[j] = _mm256_permute2x128_si256(b[j], b[4 + j], 0x20);
    a[4 + j] = _mm256_permute2x128_si256(b[j], b[4 + j], 0x31);
  }
}

// word[i] lane r = word i of the 16 bytes at `offset` of row r.
inline void words_at(const uint8_t *const (&w)[8], uint32_t offset, __m256i (&word)[4]) {
  __m256i a[4];
  for (uint32_t r = 0; r < 4; r++) {
    a[r] = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(w[r] + offset)),
                                   load16(w[4 + r] + offset), 1);
  }
  const __m256i l0 = _mm256_unpacklo_epi32(a[0], a[1]), h0 = _mm256_unpackhi_epi32(a[0], a[1]);
  const __m256i l1 = _mm256_unpacklo_epi32(a[2], a[3]), h1 = _mm256_unpackhi_epi32(a[2], a[3]);
  word[0] = _mm256_unpacklo_epi64(l0, l1);
  word[1] = _mm256_unpackhi_epi64(l0, l1);
  word[2] = _mm256_unpacklo_epi64(h0, h1);
  word[3] = _mm256_unpackhi_epi64(h0, h1);
}

inline __m256i and8(__m256i x, char mask) {
  return _mm256_and_si256(x, _mm256_set1_epi8(mask));
}

// Word i of chunk c of eight rows: values 32c + 4i .. 32c + 4i + 3.
inline void put(uint8_t *q, uint32_t c, uint32_t i, __m256i x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(q + (8 * c + i) * kRows * 4), x);
}

// ---- bytes of n values from `first` on ----------------------------------------------------------

template <class D>
inline void interleave_bytes(const uint8_t *const (&w)[8], uint32_t n, uint8_t *q) {
  static_assert(D::kUnit == 32, "a block is a chunk");
  for (uint32_t c = 0; c < n / 32; c++) {
    __m256i a[8];
    for (uint32_t r = 0; r < 8; r++) a[r] = D::load(w[r] + c * D::kBytes);
    transpose(a);
    for (uint32_t i = 0; i < 8; i++) put(q, c, i, a[i]);
  }
}

template <class D>
inline void interleave_halves(const uint8_t *const (&w)[8], uint32_t first, uint32_t n,
                              uint8_t *q) {
  constexpr uint32_t kChunks = D::kUnit / 32;
  const uint32_t start = offsetof(typename D::Type, qs) + first / 2;  // in blocks of 256
  for (uint32_t c = 0; c < n / 32; c += 2) {
    // Two chunks at a time; a last single one is its own partner.
    const bool both = c + 1 < n / 32;
    const uint32_t next = both ? c + 1 : c;
    const uint32_t at0 = c / kChunks * D::kBytes + start + c % kChunks * 16;
    const uint32_t at1 = next / kChunks * D::kBytes + start + next % kChunks * 16;
    __m256i a[8];
    for (uint32_t r = 0; r < 8; r++) {
      a[r] = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(w[r] + at0)), load16(w[r] + at1),
                                     1);
    }
    transpose(a);
    for (uint32_t i = 0; i < (both ? 8 : 4); i++) {
      put(q, c + i / 4, i % 4, D::finish(and8(a[i], 15)));
      put(q, c + i / 4, 4 + i % 4, D::finish(and8(_mm256_srli_epi16(a[i], 4), 15)));
    }
  }
}

// Half a block: 128 values.
template <class D, uint32_t kHalf>
inline void interleave_pairs(const uint8_t *const (&w)[8], uint8_t *q) {
  __m256i high[8];
  if constexpr (D::kFifthBit) {
    for (uint32_t r = 0; r < 8; r++) high[r] = load32(w[r] + offsetof(BlockQ5_K, qh));
    transpose(high);
  }
#pragma GCC unroll 2
  for (uint32_t j = 0; j < 2; j++) {
    constexpr uint32_t kFirst = offsetof(typename D::Type, qs) + 64 * kHalf;
    __m256i a[8];
    for (uint32_t r = 0; r < 8; r++) a[r] = load32(w[r] + kFirst + 32 * j);
    transpose(a);
    for (uint32_t i = 0; i < 8; i++) {
      __m256i low = and8(a[i], 15), up = and8(_mm256_srli_epi16(a[i], 4), 15);
      if constexpr (D::kFifthBit) {
        // Bit 2j of the half's nibble belongs to low, the one above it to up.
        const __m256i h = kHalf == 0 ? _mm256_slli_epi16(high[i], 4) : high[i];
        low = _mm256_or_si256(low, and8(_mm256_srli_epi16(h, static_cast<int>(2 * j)), 16));
        up = _mm256_or_si256(up, and8(_mm256_srli_epi16(h, static_cast<int>(2 * j + 1)), 16));
      }
      put(q, 2 * j, i, low);
      put(q, 2 * j + 1, i, up);
    }
  }
}

// Half a block: 128 values.
inline void interleave_quads(const uint8_t *const (&w)[8], uint32_t half, uint8_t *q) {
  __m256i a[8], b[8], high[8];
  for (uint32_t r = 0; r < 8; r++) {
    a[r] = load32(w[r] + offsetof(BlockQ6_K, ql) + 64 * half);
    b[r] = load32(w[r] + offsetof(BlockQ6_K, ql) + 64 * half + 32);
    high[r] = load32(w[r] + offsetof(BlockQ6_K, qh) + 32 * half);
  }
  transpose(a);
  transpose(b);
  transpose(high);
  for (uint32_t i = 0; i < 8; i++) {
    const __m256i h = high[i];
    const __m256i a4 = _mm256_srli_epi16(a[i], 4), b4 = _mm256_srli_epi16(b[i], 4);
    const __m256i h0 = and8(_mm256_slli_epi16(h, 4), 48), h1 = and8(_mm256_slli_epi16(h, 2), 48);
    const __m256i h2 = and8(h, 48), h3 = and8(_mm256_srli_epi16(h, 2), 48);
    put(q, 0, i, _mm256_or_si256(and8(a[i], 15), h0));
    put(q, 1, i, _mm256_or_si256(and8(b[i], 15), h1));
    put(q, 2, i, _mm256_or_si256(and8(a4, 15), h2));
    put(q, 3, i, _mm256_or_si256(and8(b4, 15), h3));
  }
}

// ---- scales of n values: [n / group][kRows] ----------------------------------------------------

// Byte b of every word, as floats.
template <bool kSigned>
inline __m256 byte_floats(__m256i word, int b) {
  const __m256i up = _mm256_slli_epi32(word, 24 - 8 * b);
  return _mm256_cvtepi32_ps(kSigned ? _mm256_srai_epi32(up, 24) : _mm256_srli_epi32(up, 24));
}

// Blocks of 32 values with a half-precision scale.
template <class D>
inline void block_scales(const uint8_t *const (&w)[8], uint32_t n, float *scale) {
  for (uint32_t i = 0; i < n / 32; i++) {
    _mm256_storeu_ps(scale + i * kRows,
                     halves_at(w, i * D::kBytes + offsetof(typename D::Type, d)));
  }
}

// The 6-bit scales and minimums of Q4_K and Q5_K (layout: unpack_scales_k4) times d and dmin.
inline void pair_scales(const uint8_t *const (&w)[8], float *scale, float *min) {
  __m256i word[4];  // d and dmin; packed bytes 0-3, 4-7, 8-11
  words_at(w, 0, word);
  const __m256i halves = _mm256_permute4x64_epi64(
      _mm256_packus_epi32(_mm256_and_si256(word[0], _mm256_set1_epi32(0xffff)),
                          _mm256_srli_epi32(word[0], 16)),
      _MM_SHUFFLE(3, 1, 2, 0));
  const __m256 d = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
  const __m256 dmin = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
  const __m256i top = _mm256_set1_epi8(48);
  const __m256i high_scale = _mm256_and_si256(_mm256_srli_epi16(word[1], 2), top);
  const __m256i high_min = _mm256_and_si256(_mm256_srli_epi16(word[2], 2), top);
  const __m256i s[2] = {and8(word[1], 63), _mm256_or_si256(and8(word[3], 15), high_scale)};
  const __m256i m[2] = {and8(word[2], 63),
                        _mm256_or_si256(and8(_mm256_srli_epi16(word[3], 4), 15), high_min)};
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    const __m256 si = byte_floats<false>(s[i / 4], i % 4), mi = byte_floats<false>(m[i / 4], i % 4);
    _mm256_storeu_ps(scale + i * kRows, _mm256_mul_ps(si, d));
    _mm256_storeu_ps(min + i * kRows, _mm256_mul_ps(mi, dmin));
  }
}

inline void quad_scales(const uint8_t *const (&w)[8], float *scale) {
  __m256i word[4];
  words_at(w, offsetof(BlockQ6_K, scales), word);
  const __m256 d = halves_at(w, offsetof(BlockQ6_K, d));
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) {
    _mm256_storeu_ps(scale + i * kRows, _mm256_mul_ps(byte_floats<true>(word[i / 4], i % 4), d));
  }
}

// Nibbles of scales_l and bit pairs of scales_h make scales of 6 bits, stored with an offset of 32.
inline void iq4_xs_scales(const uint8_t *const (&w)[8], float *scale) {
  __m256i word[4];  // d and scales_h; scales_l; values
  words_at(w, 0, word);
  const __m256 d = halves_at(w, offsetof(BlockIQ4_XS, d));
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    const __m256i low = _mm256_and_si256(_mm256_srli_epi32(word[1], 4 * i), _mm256_set1_epi32(15));
    const __m256i high =
        _mm256_and_si256(_mm256_srli_epi32(word[0], 16 + 2 * i), _mm256_set1_epi32(3));
    const __m256i s =
        _mm256_sub_epi32(_mm256_or_si256(low, _mm256_slli_epi32(high, 4)), _mm256_set1_epi32(32));
    _mm256_storeu_ps(scale + i * kRows, _mm256_mul_ps(_mm256_cvtepi32_ps(s), d));
  }
}

// ---- what a format is made of ------------------------------------------------------------------

// Values of which the scales are decoded together, of which kPart are interleaved at a time: the
// smaller, the more evenly memory is read between the products of a few tokens. Where sums of
// activations are needed, more at a time costs less.
template <class D>
constexpr uint32_t kStep = D::kUnit == 32 && D::kBias == 0 ? 64 : 256;
template <class D>
constexpr uint32_t kPart = D::kUnit == 256 ? 128 : kStep<D>;

// Values [first, first + n) of eight rows of blocks at w: q [n / 4][kRows][4]. first is a multiple
// of kPart below kStep, n at most kPart and less only at the end of a row.
template <class D>
inline void interleave(const uint8_t *const (&w)[8], uint32_t first, uint32_t n, uint8_t *q) {
  if constexpr (D::kPacking == Packing::Pairs) {
    if (first == 0) {
      interleave_pairs<D, 0>(w, q);
    } else {
      interleave_pairs<D, 1>(w, q);
    }
  } else if constexpr (D::kPacking == Packing::Quads) {
    interleave_quads(w, first / 128, q);
  } else if constexpr (D::kPacking == Packing::Halves) {
    interleave_halves<D>(w, first, n, q);
  } else {
    interleave_bytes<D>(w, n, q);
  }
}

// Scales and minimums of n <= kStep values: [n / group][kRows].
template <class D>
inline void interleave_scales(const uint8_t *const (&w)[8], uint32_t n, float *scale, float *min) {
  if constexpr (D::kPacking == Packing::Pairs) {
    pair_scales(w, scale, min);
  } else if constexpr (D::kPacking == Packing::Quads) {
    quad_scales(w, scale);
  } else if constexpr (D::kUnit == 256) {
    iq4_xs_scales(w, scale);
  } else {
    block_scales<D>(w, n, scale);
  }
}

}  // namespace
}  // namespace q35
