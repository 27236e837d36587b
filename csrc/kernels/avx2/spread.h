// From woven tiles (quant/weave.h) to what a dot product takes: for 16 rows side by side, bytes of
// 4 consecutive values each, so that one broadcast of 4 activations meets eight rows, and float
// scales and minimums. Eight rows at a time.
#pragma once

#include "kernels/avx2/grid.h"

namespace q35 {
namespace {

// The lower halves of 8 words, as floats.
inline __m256 low_floats(__m256i words) {
  const __m256i low = _mm256_and_si256(words, _mm256_set1_epi32(0xffff));
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
  return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
}

inline __m256i and8(__m256i x, char mask) {
  return _mm256_and_si256(x, _mm256_set1_epi8(mask));
}

inline __m256i and_or(__m256i a, char mask, __m256i b) {
  return _mm256_or_si256(and8(a, mask), b);
}

// Bit `from` of every byte to bit `to`; other bits become anything.
inline __m256i move_bit(__m256i x, int from, int to) {
  return from <= to ? _mm256_slli_epi16(x, to - from) : _mm256_srli_epi16(x, from - to);
}

// ---- blocks of 32 values ------------------------------------------------------------------------

// first: word of the nibbles; u: of the values
template <class D, class Out>
inline void spread_halves(HalfTile tile, uint32_t first, uint32_t u, const Out &out) {
#pragma GCC unroll 4
  for (uint32_t i = 0; i < 4; i++) {
    const __m256i x = tile.word(first + i);
    out.put(u + i, D::finish(and8(x, 15)));
    out.put(u + 4 + i, D::finish(and8(_mm256_srli_epi16(x, 4), 15)));
  }
  out.done(u + 8);
}

template <class D, class Out>
inline void spread_fifths(HalfTile tile, const Out &out) {
  constexpr uint32_t kFirst = D::kHasMin ? 1 : 0;  // behind d and m
  const __m256i bits = tile.word(kFirst), four = _mm256_set1_epi32(15);
  const __m256i factor = _mm256_set1_epi32(0x02040810);
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    // Bits 4i .. 4i + 3 of a row's word, each as bit 4 of a byte.
    const __m256i some = _mm256_and_si256(_mm256_srli_epi32(bits, 4 * i), four);
    const __m256i high = _mm256_mullo_epi32(some, factor);
    const __m256i x = tile.word(kFirst + 1 + static_cast<uint32_t>(i % 4));
    const __m256i low = and8(i < 4 ? x : _mm256_srli_epi16(x, 4), 15);
    out.put(static_cast<uint32_t>(i), and_or(high, 16, low));
  }
  out.done(8);
}

template <class D>
inline void block_scale(HalfTile tile, float *scale, float *min) {
  if constexpr (D::kHasMin) {
    _mm256_storeu_ps(scale, low_floats(tile.word(0)));
    const __m256 m = low_floats(_mm256_srli_epi32(tile.word(0), 16));
    _mm256_storeu_ps(min, _mm256_sub_ps(_mm256_setzero_ps(), m));
  } else {
    _mm256_storeu_ps(scale, tile.floats(D::kBlockBytes - 2));
  }
}

// ---- blocks of 256 values -----------------------------------------------------------------------

template <class D, class Out>
inline void spread_pairs(HalfTile tile, const Out &out) {
  constexpr uint32_t kFirst = offsetof(typename D::Type, qs) / 4;
#pragma GCC unroll 4
  for (uint32_t j = 0; j < 4; j++) {
#pragma GCC unroll 8
    for (uint32_t i = 0; i < 8; i++) {
      const __m256i x = tile.word(kFirst + 8 * j + i);
      __m256i low = and8(x, 15), high = and8(_mm256_srli_epi16(x, 4), 15);
      if constexpr (D::kExtraBit) {
        const __m256i bits = tile.word(offsetof(BlockQ5_K, qh) / 4 + i);
        low = and_or(move_bit(bits, static_cast<int>(2 * j), 4), 16, low);
        high = and_or(move_bit(bits, static_cast<int>(2 * j + 1), 4), 16, high);
      }
      out.put(16 * j + i, low);
      out.put(16 * j + 8 + i, high);
    }
    out.done(16 * j + 16);
  }
}

// Four values of chunk j of half a block, from the words of low and of high bits.
inline __m256i quad(__m256i low, __m256i high, uint32_t j) {
  const __m256i nibbles = and8(j < 2 ? low : _mm256_srli_epi16(low, 4), 15);
  return and_or(move_bit(high, static_cast<int>(2 * j), 4), 48, nibbles);
}

template <class Out>
inline void spread_quads(HalfTile tile, const Out &out) {
#pragma GCC unroll 2
  for (uint32_t half = 0; half < 2; half++) {
    const uint32_t low = 16 * half, high = offsetof(BlockQ6_K, qh) / 4 + 8 * half;
    if constexpr (Out::kByChunk) {
#pragma GCC unroll 4
      for (uint32_t j = 0; j < 4; j++) {
#pragma GCC unroll 8
        for (uint32_t i = 0; i < 8; i++) {
          out.put(32 * half + 8 * j + i,
                  quad(tile.word(low + j % 2 * 8 + i), tile.word(high + i), j));
        }
        out.done(32 * half + 8 * j + 8);
      }
    } else {
#pragma GCC unroll 8
      for (uint32_t i = 0; i < 8; i++) {
        const __m256i h = tile.word(high + i);
        const __m256i x[2] = {tile.word(low + i), tile.word(low + 8 + i)};
#pragma GCC unroll 4
        for (uint32_t j = 0; j < 4; j++) out.put(32 * half + 8 * j + i, quad(x[j % 2], h, j));
      }
    }
  }
}

// Four values of chunk j of half a block. i: their place in the words
template <class D>
inline __m256i plane(HalfTile tile, __m256i x, uint32_t half, uint32_t i, uint32_t j) {
  const __m256i q = and8(_mm256_srli_epi16(x, static_cast<int>(2 * j)), 3);
  if constexpr (!D::kExtraBit) return q;
  const __m256i bits = tile.word(offsetof(BlockQ3_K, hmask) / 4 + i);
  return and_or(move_bit(bits, static_cast<int>(4 * half + j), 2), 4, q);
}

template <class D, class Out>
inline void spread_planes(HalfTile tile, const Out &out) {
#pragma GCC unroll 2
  for (uint32_t half = 0; half < 2; half++) {
    const uint32_t pairs = offsetof(typename D::Type, qs) / 4 + 8 * half;
    if constexpr (Out::kByChunk) {
#pragma GCC unroll 4
      for (uint32_t j = 0; j < 4; j++) {
#pragma GCC unroll 8
        for (uint32_t i = 0; i < 8; i++) {
          out.put(32 * half + 8 * j + i, plane<D>(tile, tile.word(pairs + i), half, i, j));
        }
        out.done(32 * half + 8 * j + 8);
      }
    } else {
#pragma GCC unroll 8
      for (uint32_t i = 0; i < 8; i++) {
        const __m256i x = tile.word(pairs + i);
#pragma GCC unroll 4
        for (uint32_t j = 0; j < 4; j++) {
          out.put(32 * half + 8 * j + i, plane<D>(tile, x, half, i, j));
        }
      }
    }
  }
}

// Byte b of every word, as floats.
template <bool kSigned>
inline __m256 byte_floats(__m256i word, int b) {
  const __m256i up = _mm256_slli_epi32(word, 24 - 8 * b);
  return _mm256_cvtepi32_ps(kSigned ? _mm256_srai_epi32(up, 24) : _mm256_srli_epi32(up, 24));
}

// Four scales a word, times d.
template <bool kSigned, int kWords>
inline void byte_scales(const __m256i (&word)[kWords], __m256 d, float *scale) {
#pragma GCC unroll 16
  for (int i = 0; i < 4 * kWords; i++) {
    const __m256 s = byte_floats<kSigned>(word[i / 4], i % 4);
    _mm256_storeu_ps(scale + i * static_cast<int>(kRows), _mm256_mul_ps(s, d));
  }
}

// The 6-bit scales and minimums of Q4_K and Q5_K (layout: unpack_scales_k4).
inline void pair_scales(HalfTile tile, float *scale, float *min) {
  const __m256i d = tile.word(0), a = tile.word(1), b = tile.word(2), c = tile.word(3);
  const __m256i s[2] = {and8(a, 63), and_or(_mm256_srli_epi16(a, 2), 48, and8(c, 15))};
  const __m256i m[2] = {and8(b, 63),
                        and_or(_mm256_srli_epi16(b, 2), 48, and8(_mm256_srli_epi16(c, 4), 15))};
  byte_scales<false>(s, low_floats(d), scale);
  byte_scales<false>(m, low_floats(_mm256_srli_epi32(d, 16)), min);
}

inline void q2_scales(HalfTile tile, float *scale, float *min) {
  __m256i low[4], high[4];
  for (uint32_t i = 0; i < 4; i++) {
    low[i] = and8(tile.word(i), 15);
    high[i] = and8(_mm256_srli_epi16(tile.word(i), 4), 15);
  }
  const __m256i d = tile.word(offsetof(BlockQ2_K, d) / 4);
  byte_scales<false>(low, low_floats(d), scale);
  byte_scales<false>(high, low_floats(_mm256_srli_epi32(d, 16)), min);
}

// Layout: unpack_scales_q3.
inline void q3_scales(HalfTile tile, float *scale) {
  constexpr uint32_t kFirst = offsetof(BlockQ3_K, scales) / 4;
  const __m256i top = tile.word(kFirst + 2);
  __m256i s[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m256i word = tile.word(kFirst + static_cast<uint32_t>(i % 2));
    const __m256i low = and8(_mm256_srli_epi16(word, i / 2 * 4), 15);
    s[i] = _mm256_sub_epi8(and_or(move_bit(top, 2 * i, 4), 48, low), _mm256_set1_epi8(32));
  }
  byte_scales<true>(s, tile.floats(offsetof(BlockQ3_K, d)), scale);
}

inline void q6_scales(HalfTile tile, float *scale) {
  constexpr uint32_t kFirst = offsetof(BlockQ6_K, scales) / 4;
  const __m256i s[4] = {tile.word(kFirst), tile.word(kFirst + 1), tile.word(kFirst + 2),
                        tile.word(kFirst + 3)};
  byte_scales<true>(s, tile.floats(offsetof(BlockQ6_K, d)), scale);
}

// Twice the high two bits of half a tile of Q6_K, as bytes.
inline void spread_high(HalfTile tile, HalfBytes out) {
#pragma GCC unroll 2
  for (uint32_t half = 0; half < 2; half++) {
#pragma GCC unroll 8
    for (uint32_t i = 0; i < 8; i++) {
      const __m256i h = tile.word(offsetof(BlockQ6_K, qh) / 4 + 8 * half + i);
#pragma GCC unroll 4
      for (uint32_t j = 0; j < 4; j++) {
        out.put(32 * half + 8 * j + i, and8(move_bit(h, static_cast<int>(2 * j), 1), 6));
      }
    }
  }
}

// Nibbles of scales_l and bit pairs of scales_h make scales of 6 bits, stored with an offset of 32.
inline void iq4_xs_scales(HalfTile tile, float *scale) {
  const __m256i d_h = tile.word(0), l = tile.word(1);
  const __m256 d = low_floats(d_h);
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    const __m256i low = _mm256_and_si256(_mm256_srli_epi32(l, 4 * i), _mm256_set1_epi32(15));
    const __m256i high = _mm256_and_si256(_mm256_srli_epi32(d_h, 16 + 2 * i), _mm256_set1_epi32(3));
    const __m256i s =
        _mm256_sub_epi32(_mm256_or_si256(low, _mm256_slli_epi32(high, 4)), _mm256_set1_epi32(32));
    _mm256_storeu_ps(scale + i * static_cast<int>(kRows), _mm256_mul_ps(_mm256_cvtepi32_ps(s), d));
  }
}

// ---- any format ---------------------------------------------------------------------------------

// The scales and minimums of eight rows of a tile. scale, min: [kBlock / group], kRows apart
template <class D>
inline void block_scales(HalfTile tile, float *scale, float *min) {
  if constexpr (D::kPacking == Packing::Grid) {
    grid_scales<D>(tile, scale);
  } else if constexpr (D::kBlock == 32) {
    block_scale<D>(tile, scale, min);
  } else if constexpr (D::kPacking == Packing::Pairs) {
    pair_scales(tile, scale, min);
  } else if constexpr (D::kPacking == Packing::Quads) {
    q6_scales(tile, scale);
  } else if constexpr (D::kPacking == Packing::Halves) {
    iq4_xs_scales(tile, scale);
  } else if constexpr (D::kHasMin) {
    q2_scales(tile, scale, min);
  } else {
    q3_scales(tile, scale);
  }
}

// The bytes of eight rows of a tile: out.put(u, x) takes values 4u .. 4u + 3; out.done(u) says that
// all values before 4u have come, where out.kByChunk.
template <class D, class Out>
inline void block_bytes(HalfTile tile, const Out &out) {
  if constexpr (D::kPacking == Packing::Grid) {
    spread_grid<D>(tile, out);
  } else if constexpr (D::kPacking == Packing::Bytes) {
#pragma GCC unroll 8
    for (uint32_t i = 0; i < 8; i++) out.put(i, D::finish(tile.word(i)));
    out.done(8);
  } else if constexpr (D::kPacking == Packing::Fifths) {
    spread_fifths<D>(tile, out);
  } else if constexpr (D::kPacking == Packing::Pairs) {
    spread_pairs<D>(tile, out);
  } else if constexpr (D::kPacking == Packing::Quads) {
    spread_quads(tile, out);
  } else if constexpr (D::kPacking == Packing::Planes) {
    spread_planes<D>(tile, out);
  } else if constexpr (D::kBlock == 32) {
    spread_halves<D>(tile, D::kHasMin ? 1 : 0, 0, out);
  } else {
#pragma GCC unroll 8
    for (uint32_t i = 0; i < 8; i++) {
      spread_halves<D>(tile, offsetof(BlockIQ4_XS, qs) / 4 + 4 * i, 8 * i, out);
    }
  }
}

// n <= 256 values, a multiple of the block. q: [n / 4][kRows][4]; scale, min: [n / group][kRows]
template <class D>
inline void spread(const uint8_t *tiles, uint32_t n, uint8_t *q, float *scale, float *min) {
  for (uint32_t i = 0; i < n / D::kBlock; i++) {
    for (uint32_t half = 0; half < 2; half++) {
      const HalfTile tile = {tiles, half};
      block_scales<D>(tile, scale + 8 * half, min + 8 * half);
      block_bytes<D>(tile, HalfBytes{q + 32 * half});
    }
    constexpr uint32_t kGroups = D::kBlock / D::kGroup;
    tiles += kRows * D::kBlockBytes;
    q += D::kBlock * kRows;
    scale += kGroups * kRows;
    min += kGroups * kRows;
  }
}

// f of the format of a type, for example f(Q4_K{}); false for types that have none here.
template <class F>
inline bool with_format(DType type, F f) {
  switch (type) {
    case DType::Q4_0:
      return f(Q4_0{}), true;
    case DType::Q4_1:
      return f(Q4_1{}), true;
    case DType::Q5_0:
      return f(Q5_0{}), true;
    case DType::Q5_1:
      return f(Q5_1{}), true;
    case DType::Q8_0:
      return f(Q8_0{}), true;
    case DType::Q2_K:
      return f(Q2_K{}), true;
    case DType::Q3_K:
      return f(Q3_K{}), true;
    case DType::Q4_K:
      return f(Q4_K{}), true;
    case DType::Q5_K:
      return f(Q5_K{}), true;
    case DType::Q6_K:
      return f(Q6_K{}), true;
    case DType::IQ4_NL:
      return f(IQ4_NL{}), true;
    case DType::IQ4_XS:
      return f(IQ4_XS{}), true;
    case DType::IQ2_XXS:
      return f(IQ2_XXS{}), true;
    case DType::IQ2_XS:
      return f(IQ2_XS{}), true;
    case DType::IQ2_S:
      return f(IQ2_S{}), true;
    case DType::IQ3_XXS:
      return f(IQ3_XXS{}), true;
    case DType::IQ3_S:
      return f(IQ3_S{}), true;
    default:
      return false;
  }
}

}  // namespace
}  // namespace q35
