// From woven tiles (quant/weave.h) to what a dot product takes: for 16 rows side by side, unsigned
// bytes of 4 consecutive values each, so that one broadcast of 4 activations meets 16 rows, and
// float scales and minimums. kStride: rows of the destination, 16 or more. kBias: of the bytes that
// come out, at least the format's own.
#pragma once

#include "kernels/avx512/grid.h"

namespace q35 {
namespace {

// Word i of 16 rows.
inline __m512i word_at(const uint8_t *tile, uint32_t i) {
  return load64(tile + 64 * i);
}

// 16 halves, as floats.
inline __m512 floats_at(const uint8_t *halves) {
  return _mm512_cvtph_ps(load32(halves));
}

// The lower halves of 16 words, as floats.
inline __m512 low_floats(__m512i words) {
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words));
}

inline __m512i and8(__m512i x, char mask) {
  return _mm512_and_si512(x, _mm512_set1_epi8(mask));
}

// (a & mask) | b
inline __m512i and_or(__m512i a, char mask, __m512i b) {
  return _mm512_ternarylogic_epi64(a, _mm512_set1_epi8(mask), b, 0xea);
}

// Bit `from` of every byte to bit `to`; other bits become anything.
inline __m512i move_bit(__m512i x, uint32_t from, uint32_t to) {
  return from <= to ? _mm512_slli_epi16(x, to - from) : _mm512_srli_epi16(x, from - to);
}

// Where the bytes of a block go: word u of the rows is values 4u .. 4u + 3. kByChunk: whether 32
// values come after another where their bits lie in the same words, which are then read again.
template <class D, uint32_t kStride, int kBias>
struct Bytes {
  static constexpr bool kByChunk = false;
  uint8_t *q;
  void put(uint32_t u, __m512i x) const {
    if constexpr (!D::kHasMin && kBias != D::kBias) {
      x = _mm512_add_epi8(x, _mm512_set1_epi8(static_cast<char>(kBias - D::kBias)));
    }
    _mm512_storeu_si512(q + u * kStride * 4, x);
  }
  void put_turned(uint32_t u, __m512i (&x)[4]) const {
    turn(x);
    for (uint32_t i = 0; i < 4; i++) put(u + i, x[i]);
  }
  void done(uint32_t) const {}
};

// ---- blocks of 32 values ------------------------------------------------------------------------

template <class D, class Out>
inline void spread_bytes(const uint8_t *tile, Out out) {
#pragma GCC unroll 8
  for (uint32_t i = 0; i < 8; i++) out.put(i, D::finish(word_at(tile, i)));
  out.done(8);
}

// first: word of the nibbles; u: of the values
template <class D, class Out>
inline void spread_halves(const uint8_t *tile, uint32_t first, uint32_t u, Out out) {
#pragma GCC unroll 4
  for (uint32_t i = 0; i < 4; i++) {
    const __m512i x = word_at(tile, first + i);
    out.put(u + i, D::finish(and8(x, 15)));
    out.put(u + 4 + i, D::finish(and8(_mm512_srli_epi16(x, 4), 15)));
  }
  out.done(u + 8);
}

template <class D, class Out>
inline void spread_fifths(const uint8_t *tile, Out out) {
  constexpr uint32_t kFirst = D::kHasMin ? 1 : 0;  // behind d and m
  const __m512i bits = word_at(tile, kFirst);
#pragma GCC unroll 4
  for (uint32_t i = 0; i < 4; i++) {
    const __m512i x = word_at(tile, kFirst + 1 + i);
    // Byte b of a word takes the 8 bits around bit 4i + b of the row's word, that one as bit 4.
    const int64_t at = 0x2322212003020100 + (60 + 4 * i) * 0x0101010101010101;  // modulo 64
    const __m512i low = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(at), bits);
    const __m512i high =
        _mm512_multishift_epi64_epi8(_mm512_set1_epi64(at + 0x1010101010101010), bits);
    out.put(i, and_or(low, 16, and8(x, 15)));
    out.put(4 + i, and_or(high, 16, and8(_mm512_srli_epi16(x, 4), 15)));
  }
  out.done(8);
}

template <class D>
inline void block_scale(const uint8_t *tile, float *scale, float *min) {
  if constexpr (D::kHasMin) {
    const __m512i d_m = word_at(tile, 0);
    _mm512_storeu_ps(scale, low_floats(d_m));
    const __m512 m = low_floats(_mm512_srli_epi32(d_m, 16));
    _mm512_storeu_ps(min, _mm512_sub_ps(_mm512_setzero_ps(), m));
  } else {
    _mm512_storeu_ps(scale, floats_at(tile + 16 * (D::kBlockBytes - 2)));
  }
}

// ---- blocks of 256 values -----------------------------------------------------------------------

template <class D, class Out>
inline void spread_pairs(const uint8_t *tile, Out out) {
  constexpr uint32_t kFirst = offsetof(typename D::Type, qs) / 4;
  constexpr bool kFifthBit = D::kExtraBit;
#pragma GCC unroll 4
  for (uint32_t j = 0; j < 4; j++) {
#pragma GCC unroll 8
    for (uint32_t i = 0; i < 8; i++) {
      const __m512i x = word_at(tile, kFirst + 8 * j + i);
      __m512i low = and8(x, 15), high = and8(_mm512_srli_epi16(x, 4), 15);
      if constexpr (kFifthBit) {
        const __m512i bits = word_at(tile, offsetof(BlockQ5_K, qh) / 4 + i);
        low = and_or(move_bit(bits, 2 * j, 4), 16, low);
        high = and_or(move_bit(bits, 2 * j + 1, 4), 16, high);
      }
      out.put(16 * j + i, low);
      out.put(16 * j + 8 + i, high);
    }
    out.done(16 * j + 16);
  }
}

// Four values of chunk j of half a tile, from the words of low and of high bits.
inline __m512i quad(__m512i low, __m512i high, uint32_t j) {
  const __m512i nibbles = and8(j < 2 ? low : _mm512_srli_epi16(low, 4), 15);
  return and_or(move_bit(high, 2 * j, 4), 48, nibbles);
}

template <class Out>
inline void spread_quads(const uint8_t *tile, Out out) {
#pragma GCC unroll 2
  for (uint32_t half = 0; half < 2; half++) {
    const uint8_t *low = tile + 64 * 16 * half;
    const uint8_t *high = tile + 64 * (offsetof(BlockQ6_K, qh) / 4 + 8 * half);
    if constexpr (Out::kByChunk) {
#pragma GCC unroll 4
      for (uint32_t j = 0; j < 4; j++) {
#pragma GCC unroll 8
        for (uint32_t i = 0; i < 8; i++) {
          out.put(32 * half + 8 * j + i, quad(word_at(low, j % 2 * 8 + i), word_at(high, i), j));
        }
        out.done(32 * half + 8 * j + 8);
      }
    } else {
#pragma GCC unroll 8
      for (uint32_t i = 0; i < 8; i++) {
        const __m512i h = word_at(high, i), x[2] = {word_at(low, i), word_at(low, 8 + i)};
#pragma GCC unroll 4
        for (uint32_t j = 0; j < 4; j++) out.put(32 * half + 8 * j + i, quad(x[j % 2], h, j));
      }
      out.done(32 * half + 32);
    }
  }
}

// Four values of chunk j of half a tile. bits: of the third bits, for formats that have them
template <class D>
inline __m512i plane(__m512i x, const uint8_t *bits, uint32_t half, uint32_t j) {
  const __m512i q = and8(_mm512_srli_epi16(x, 2 * j), 3);
  if constexpr (!D::kExtraBit) return q;
  return and_or(move_bit(load64(bits), 4 * half + j, 2), 4, q);
}

template <class D, class Out>
inline void spread_planes(const uint8_t *tile, Out out) {
  const uint8_t *bits = tile + 16 * offsetof(BlockQ3_K, hmask);
#pragma GCC unroll 2
  for (uint32_t half = 0; half < 2; half++) {
    const uint8_t *pairs = tile + 64 * (offsetof(typename D::Type, qs) / 4 + 8 * half);
    if constexpr (Out::kByChunk) {
#pragma GCC unroll 4
      for (uint32_t j = 0; j < 4; j++) {
#pragma GCC unroll 8
        for (uint32_t i = 0; i < 8; i++) {
          out.put(32 * half + 8 * j + i, plane<D>(word_at(pairs, i), bits + 64 * i, half, j));
        }
        out.done(32 * half + 8 * j + 8);
      }
    } else {
#pragma GCC unroll 8
      for (uint32_t i = 0; i < 8; i++) {
        const __m512i x = word_at(pairs, i);
#pragma GCC unroll 4
        for (uint32_t j = 0; j < 4; j++) {
          out.put(32 * half + 8 * j + i, plane<D>(x, bits + 64 * i, half, j));
        }
      }
      out.done(32 * half + 32);
    }
  }
}

// Byte b of every word, as floats.
template <bool kSigned>
inline __m512 byte_floats(__m512i word, uint32_t b) {
  const __m512i up = _mm512_slli_epi32(word, 24 - 8 * b);
  return _mm512_cvtepi32_ps(kSigned ? _mm512_srai_epi32(up, 24) : _mm512_srli_epi32(up, 24));
}

// Four scales a word, times d.
template <uint32_t kStride, bool kSigned, uint32_t kWords>
inline void byte_scales(const __m512i (&word)[kWords], __m512 d, float *scale) {
#pragma GCC unroll 16
  for (uint32_t i = 0; i < 4 * kWords; i++) {
    const __m512 s = byte_floats<kSigned>(word[i / 4], i % 4);
    _mm512_storeu_ps(scale + i * kStride, _mm512_mul_ps(s, d));
  }
}

// The 6-bit scales and minimums of Q4_K and Q5_K (layout: unpack_scales_k4).
template <uint32_t kStride>
inline void pair_scales(const uint8_t *tile, float *scale, float *min) {
  const __m512i d = word_at(tile, 0), a = word_at(tile, 1), b = word_at(tile, 2);
  const __m512i c = word_at(tile, 3);
  const __m512i s[2] = {and8(a, 63), and_or(_mm512_srli_epi16(a, 2), 48, and8(c, 15))};
  const __m512i m[2] = {and8(b, 63),
                        and_or(_mm512_srli_epi16(b, 2), 48, and8(_mm512_srli_epi16(c, 4), 15))};
  byte_scales<kStride, false>(s, low_floats(d), scale);
  byte_scales<kStride, false>(m, low_floats(_mm512_srli_epi32(d, 16)), min);
}

template <uint32_t kStride>
inline void q2_scales(const uint8_t *tile, float *scale, float *min) {
  __m512i low[4], high[4];
  for (uint32_t i = 0; i < 4; i++) {
    low[i] = and8(word_at(tile, i), 15);
    high[i] = and8(_mm512_srli_epi16(word_at(tile, i), 4), 15);
  }
  const __m512i d = word_at(tile, offsetof(BlockQ2_K, d) / 4);
  byte_scales<kStride, false>(low, low_floats(d), scale);
  byte_scales<kStride, false>(high, low_floats(_mm512_srli_epi32(d, 16)), min);
}

// Layout: unpack_scales_q3.
template <uint32_t kStride>
inline void q3_scales(const uint8_t *tile, float *scale) {
  constexpr uint32_t kFirst = offsetof(BlockQ3_K, scales) / 4;
  const __m512i top = word_at(tile, kFirst + 2);
  __m512i s[4];
#pragma GCC unroll 4
  for (uint32_t i = 0; i < 4; i++) {
    const __m512i low = and8(_mm512_srli_epi16(word_at(tile, kFirst + i % 2), i / 2 * 4), 15);
    s[i] = _mm512_sub_epi8(and_or(move_bit(top, 2 * i, 4), 48, low), _mm512_set1_epi8(32));
  }
  byte_scales<kStride, true>(s, floats_at(tile + 16 * offsetof(BlockQ3_K, d)), scale);
}

template <uint32_t kStride>
inline void q6_scales(const uint8_t *tile, float *scale) {
  constexpr uint32_t kFirst = offsetof(BlockQ6_K, scales) / 4;
  const __m512i s[4] = {word_at(tile, kFirst), word_at(tile, kFirst + 1), word_at(tile, kFirst + 2),
                        word_at(tile, kFirst + 3)};
  byte_scales<kStride, true>(s, floats_at(tile + 16 * offsetof(BlockQ6_K, d)), scale);
}

// Nibbles of scales_l and bit pairs of scales_h make scales of 6 bits, stored with an offset of 32.
template <uint32_t kStride>
inline void iq4_xs_scales(const uint8_t *tile, float *scale) {
  const __m512i d_h = word_at(tile, 0), l = word_at(tile, 1);
  const __m512 d = low_floats(d_h);
#pragma GCC unroll 8
  for (uint32_t i = 0; i < 8; i++) {
    const __m512i low = _mm512_and_si512(_mm512_srli_epi32(l, 4 * i), _mm512_set1_epi32(15));
    const __m512i high = _mm512_and_si512(_mm512_srli_epi32(d_h, 16 + 2 * i), _mm512_set1_epi32(3));
    const __m512i s =
        _mm512_sub_epi32(_mm512_or_si512(low, _mm512_slli_epi32(high, 4)), _mm512_set1_epi32(32));
    _mm512_storeu_ps(scale + i * kStride, _mm512_mul_ps(_mm512_cvtepi32_ps(s), d));
  }
}

// ---- any format ---------------------------------------------------------------------------------

// The scales and minimums of a tile. scale, min: [kBlock / group][kStride]
template <class D, uint32_t kStride>
inline void block_scales(const uint8_t *tile, float *scale, float *min) {
  if constexpr (D::kPacking == Packing::Grid) {
    grid_scales<D, kStride>(tile, scale);
  } else if constexpr (D::kBlock == 32) {
    block_scale<D>(tile, scale, min);
  } else if constexpr (D::kPacking == Packing::Pairs) {
    pair_scales<kStride>(tile, scale, min);
  } else if constexpr (D::kPacking == Packing::Quads) {
    q6_scales<kStride>(tile, scale);
  } else if constexpr (D::kPacking == Packing::Halves) {
    iq4_xs_scales<kStride>(tile, scale);
  } else if constexpr (D::kHasMin) {
    q2_scales<kStride>(tile, scale, min);
  } else {
    q3_scales<kStride>(tile, scale);
  }
}

// The bytes of a tile: out.put(u, x) takes values 4u .. 4u + 3 of 16 rows; out.done(u) says that
// all values before 4u have come.
template <class D, class Out>
inline void block_bytes(const uint8_t *tile, Out out) {
  if constexpr (D::kPacking == Packing::Bytes) {
    spread_bytes<D>(tile, out);
  } else if constexpr (D::kPacking == Packing::Fifths) {
    spread_fifths<D>(tile, out);
  } else if constexpr (D::kPacking == Packing::Pairs) {
    spread_pairs<D>(tile, out);
  } else if constexpr (D::kPacking == Packing::Quads) {
    spread_quads(tile, out);
  } else if constexpr (D::kPacking == Packing::Planes) {
    spread_planes<D>(tile, out);
  } else if constexpr (D::kPacking == Packing::Grid) {
    spread_grid<D>(tile, out);
  } else if constexpr (D::kBlock == 32) {
    spread_halves<D>(tile, D::kHasMin ? 1 : 0, 0, out);
  } else {
#pragma GCC unroll 8
    for (uint32_t i = 0; i < 8; i++) {
      spread_halves<D>(tile, offsetof(BlockIQ4_XS, qs) / 4 + 4 * i, 8 * i, out);
    }
  }
}

// A tile. q: [kBlock / 4][kStride][4]; scale, min: [kBlock / group][kStride]
template <class D, uint32_t kStride, int kBias>
inline void spread_block(const uint8_t *tile, uint8_t *q, float *scale, float *min) {
  block_scales<D, kStride>(tile, scale, min);
  block_bytes<D>(tile, Bytes<D, kStride, kBias>{q});
}

// n <= 256 values, a multiple of the block. q: [n / 4][kStride][4]; scale, min: [n /
// group][kStride]
template <class D, uint32_t kStride, int kBias>
inline void spread(const uint8_t *tiles, uint32_t n, uint8_t *q, float *scale, float *min) {
  for (uint32_t i = 0; i < n / D::kBlock; i++) {
    constexpr uint32_t kGroups = D::kBlock / D::kGroup;
    spread_block<D, kStride, kBias>(tiles, q, scale, min);
    tiles += 16 * D::kBlockBytes;
    q += D::kBlock * kStride;
    scale += kGroups * kStride;
    min += kGroups * kStride;
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
