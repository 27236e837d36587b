// The IQ2 and IQ3 formats on AVX-512. 64 places in a table of values are looked up at once, byte by
// byte in registers (vpermi2b knows 128 bytes), and not as values but as codes: an entry of 8
// values of 2 bits, or of 4 of 3 bits, is two bytes. A code and a sign bit then pick the value
// (vpermb).
//
// A byte of the table stands for several values, so what comes out is turned: byte b of word j of
// 16 values is value 4b + j, not 4j + b. turn() does the same to activations, and to bytes where
// their order matters.
#pragma once

#include "kernels/avx512/weave.h"
#include "quant/grid_scales.h"
#include "quant/iq_grids.h"

namespace q35 {
namespace {

// ---- tables -------------------------------------------------------------------------------------

// Entries as two bytes of codes each: the first and the second half of an entry's values.
template <int kN, int kValues>
struct Codes {
  static constexpr int kEntries = kN, kPerEntry = kValues;
  alignas(64) uint8_t half[2][kN];
};

template <int kValues, int kN>
constexpr Codes<kN, kValues> codes_of(const uint16_t (&packed)[kN]) {
  Codes<kN, kValues> codes{};
  for (int i = 0; i < kN; i++) {
    codes.half[0][i] = static_cast<uint8_t>(packed[i]);
    codes.half[1][i] = static_cast<uint8_t>(packed[i] >> 8);
  }
  return codes;
}

// What a byte's low bits mean, code then sign: 128 + the value. Bits above do not matter.
struct Values {
  alignas(64) uint8_t of[64];
};

template <int kLevels>
constexpr Values values_of(const int8_t (&levels)[kLevels], int sign_bit) {
  Values values{};
  for (int i = 0; i < 64; i++) {
    const int code = i & ((1 << sign_bit) - 1), level = code < kLevels ? levels[code] : 0;
    values.of[i] = static_cast<uint8_t>(128 + (i >> sign_bit & 1 ? -level : level));
  }
  return values;
}

// ---- bits and bytes -----------------------------------------------------------------------------

// For multishift: the bits of a word where each of its 4 bytes begins, `at` and those of `steps`.
inline __m512i starts(uint32_t at, uint32_t steps) {
  const uint64_t word = at * 0x01010101u + steps;
  return _mm512_set1_epi64(static_cast<int64_t>(word | (word + 0x20202020u) << 32));
}

// Byte b of every word: the bits from bit at + step * b of the word on, what follows above them.
inline __m512i bits_at(__m512i words, uint32_t at, uint32_t step) {
  return _mm512_multishift_epi64_epi8(starts(at, step * 0x03020100u), words);
}

// Bytes at bits `at` and 16 + at of words a, then those of words b.
inline __m512i halves_at(__m512i a, __m512i b, uint32_t at) {
  const __m512i from = starts(at, 0x10001000u);
  return _mm512_mask_multishift_epi64_epi8(_mm512_multishift_epi64_epi8(from, a),
                                           0xccccccccccccccccu, from, b);
}

// In every word the two bytes of a from bit `at` on, each with that of b behind it.
inline __m512i both_halves(__m512i a, __m512i b, uint32_t at) {
  const __m512i from = starts(at, 0x08080000u);
  return _mm512_mask_multishift_epi64_epi8(_mm512_multishift_epi64_epi8(from, a),
                                           0xaaaaaaaaaaaaaaaau, from, b);
}

constexpr auto kEvenSigns = iq::kEvenSigns;  // not inline: other tiers have theirs

// Sign bytes from their low 7 bits; the eighth is ignored.
inline __m512i even_signs(__m512i seven) {
  const uint8_t *table = kEvenSigns.row;
  return _mm512_permutex2var_epi8(load64(table), seven, load64(table + 64));
}

inline __mmask64 has_bit(__m512i x, char bit) {
  return _mm512_test_epi8_mask(x, _mm512_set1_epi8(bit));
}

// Bytes of a table of kN at places whose low 7 bits are those of `place` and whose bits above are
// high[0], high[1], ..
template <int kN>
inline __m512i look_up(const uint8_t *table, __m512i place, const __mmask64 *high) {
  if constexpr (kN == 128) {
    return _mm512_permutex2var_epi8(load64(table), place, load64(table + 64));
  } else {
    constexpr int kBit = kN == 256 ? 0 : kN == 512 ? 1 : 2;
    const __m512i low = look_up<kN / 2>(table, place, high);
    return _mm512_mask_blend_epi8(high[kBit], low, look_up<kN / 2>(table + kN / 2, place, high));
  }
}

// 4 x 4 bytes in every 16: byte 4i + j becomes byte 4j + i. Its own inverse.
inline __m512i turn(__m512i x) {
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(order));
}

// The same for words of 16 rows that lie in four vectors: byte j of word i becomes byte i of word
// j.
inline void turn(__m512i (&word)[4]) {
  constexpr __mmask64 kOdd = 0xaaaaaaaaaaaaaaaau;
  constexpr __mmask32 kUpper = 0xaaaaaaaau;
  __m512i pair[4];  // of words 0 and 2, then 1 and 3: halves exchanged
  for (int i = 0; i < 2; i++) {
    const __m512i a = word[i], b = word[i + 2];
    pair[i] = _mm512_mask_blend_epi16(kUpper, a, _mm512_slli_epi32(b, 16));
    pair[i + 2] = _mm512_mask_blend_epi16(kUpper, _mm512_srli_epi32(a, 16), b);
  }
  for (int i = 0; i < 4; i += 2) {
    const __m512i a = pair[i], b = pair[i + 1];
    word[i] = _mm512_mask_blend_epi8(kOdd, a, _mm512_slli_epi16(b, 8));
    word[i + 1] = _mm512_mask_blend_epi8(kOdd, _mm512_srli_epi16(a, 8), b);
  }
}

// ---- formats ------------------------------------------------------------------------------------

// What 32 values of 16 rows are made from.
struct Places {
  __m512i signs;         // a byte for each 8 values
  __m512i place[2];      // four of entries of 8 values in the first, or twice four of 4 values
  __mmask64 high[2][3];  // their bits above the seventh, as look_up() takes them
};

// A format has kCodes, kValues and places(tile, g): of group g of 32 values.
template <class Block>
struct GridLayout : Layout<Block, Packing::Grid, 128> {
  static constexpr GridScales kScales = grid_scales_of(static_cast<const Block *>(nullptr));
  static __m512i word(const uint8_t *tile, uint32_t i) { return load64(tile + 64 * i); }
};

struct IQ2_XXS : GridLayout<BlockIQ2_XXS> {
  static constexpr auto kCodes = codes_of<8>(iq::kIq2XxsPacked);
  static constexpr Values kValues = values_of(iq::kIq2XxsLevels, 2);
  static Places places(const uint8_t *tile, uint32_t g) {
    const __m512i place = word(tile, 2 * g);
    const __m512i signs = even_signs(bits_at(word(tile, 2 * g + 1), 0, 7));
    return {signs, {place, place}, {{_mm512_movepi8_mask(place)}}};
  }
};

struct IQ2_XS : GridLayout<BlockIQ2_XS> {
  static constexpr auto kCodes = codes_of<8>(iq::kIq2XsPacked);
  static constexpr Values kValues = values_of(iq::kIq2XsLevels, 2);
  static Places places(const uint8_t *tile, uint32_t g) {
    const __m512i a = word(tile, 2 * g), b = word(tile, 2 * g + 1);
    const __m512i place = halves_at(a, b, 0), upper = halves_at(a, b, 8);
    const __m512i signs = even_signs(_mm512_srli_epi16(upper, 1));
    return {signs, {place, place}, {{_mm512_movepi8_mask(place), has_bit(upper, 1)}}};
  }
};

struct IQ2_S : GridLayout<BlockIQ2_S> {
  static constexpr auto kCodes = codes_of<8>(iq::kIq2SPacked);
  static constexpr Values kValues = values_of(iq::kIq2SLevels, 2);
  static Places places(const uint8_t *tile, uint32_t g) {
    const __m512i place = word(tile, g);
    const __m512i upper = bits_at(word(tile, 16 + g / 4), g % 4 * 8, 2);
    return {word(tile, 8 + g),
            {place, place},
            {{_mm512_movepi8_mask(place), has_bit(upper, 1), has_bit(upper, 2)}}};
  }
};

struct IQ3_XXS : GridLayout<BlockIQ3_XXS> {
  static constexpr auto kCodes = codes_of<4>(iq::kIq3XxsPacked);
  static constexpr Values kValues = values_of(iq::kIq3XxsLevels, 3);
  static Places places(const uint8_t *tile, uint32_t g) {
    const __m512i a = word(tile, 2 * g), b = word(tile, 2 * g + 1);
    const __m512i signs = even_signs(bits_at(word(tile, 16 + g), 0, 7));
    return {signs, {a, b}, {{_mm512_movepi8_mask(a)}, {_mm512_movepi8_mask(b)}}};
  }
};

struct IQ3_S : GridLayout<BlockIQ3_S> {
  static constexpr auto kCodes = codes_of<4>(iq::kIq3SPacked);
  static constexpr Values kValues = values_of(iq::kIq3SLevels, 3);
  static Places places(const uint8_t *tile, uint32_t g) {
    const __m512i a = word(tile, 2 * g), b = word(tile, 2 * g + 1);
    const __m512i upper = bits_at(word(tile, 16 + g / 4), g % 4 * 8, 1);
    const __m512i later = _mm512_srli_epi16(upper, 4);
    return {
        word(tile, 18 + g),
        {a, b},
        {{_mm512_movepi8_mask(a), has_bit(upper, 1)}, {_mm512_movepi8_mask(b), has_bit(later, 1)}}};
  }
};

// ---- any of them --------------------------------------------------------------------------------

// 128 + values, from codes at bit kFrom of every byte and signs at bit kSign.
template <class D, uint32_t kFrom, uint32_t kSign>
inline __m512i grid_values(__m512i codes, __m512i signs) {
  constexpr uint32_t kTop = D::kCodes.kPerEntry == 8 ? 2 : 3;  // where the sign goes
  if constexpr (kFrom != 0) codes = _mm512_srli_epi16(codes, kFrom);
  if constexpr (kSign < kTop) signs = _mm512_slli_epi16(signs, kTop - kSign);
  if constexpr (kSign > kTop) signs = _mm512_srli_epi16(signs, kSign - kTop);
  const __m512i top = _mm512_set1_epi8(1 << kTop);
  return _mm512_permutexvar_epi8(_mm512_ternarylogic_epi64(top, signs, codes, 0xca),
                                 load64(D::kValues.of));
}

// The bytes of a tile, turned: out.put_turned(u, x) takes values 4u .. 4u + 15.
template <class D, class Out>
inline void spread_grid(const uint8_t *tile, Out out) {
  constexpr int kN = D::kCodes.kEntries;
#pragma GCC unroll 8
  for (uint32_t g = 0; g < 8; g++) {
    const Places at = D::places(tile, g);
    __m512i a = look_up<kN>(D::kCodes.half[0], at.place[0], at.high[0]);
    __m512i b = look_up<kN>(D::kCodes.half[1], at.place[0], at.high[0]);
#pragma GCC unroll 2
    for (uint32_t h = 0; h < 2; h++) {
      const __m512i signs = bits_at(at.signs, 16 * h, 4);
      __m512i x[4];
      if constexpr (D::kCodes.kPerEntry == 8) {
        const __m512i codes = both_halves(a, b, 16 * h);
        x[0] = grid_values<D, 0, 0>(codes, signs);
        x[1] = grid_values<D, 2, 1>(codes, signs);
        x[2] = grid_values<D, 4, 2>(codes, signs);
        x[3] = grid_values<D, 6, 3>(codes, signs);
      } else {
        if (h == 1) {
          a = look_up<kN>(D::kCodes.half[0], at.place[1], at.high[1]);
          b = look_up<kN>(D::kCodes.half[1], at.place[1], at.high[1]);
        }
        x[0] = grid_values<D, 0, 0>(a, signs);
        x[1] = grid_values<D, 4, 1>(a, signs);
        x[2] = grid_values<D, 0, 2>(b, signs);
        x[3] = grid_values<D, 4, 3>(b, signs);
      }
      out.put_turned(8 * g + 4 * h, x);
    }
    out.done(8 * g + 8);
  }
}

template <class D, uint32_t kStride>
inline void grid_scales(const uint8_t *tile, float *scale) {
  constexpr GridScales kAt = D::kScales;
  const __m512 d = _mm512_cvtph_ps(load32(tile + 16 * (D::kBlockBytes - 2)));
  const __m512 base = _mm512_mul_ps(d, _mm512_set1_ps(kAt.base));
  const __m512 step = _mm512_mul_ps(d, _mm512_set1_ps(kAt.step));
#pragma GCC unroll 16
  for (uint32_t i = 0; i < 256 / D::kGroup; i++, scale += kStride) {
    __m512i nibble;
    if constexpr (kAt.next != 0) {
      nibble = _mm512_srli_epi32(D::word(tile, kAt.word + kAt.next * i), 28);
    } else {
      const __m512i word = D::word(tile, kAt.word + i / 8);
      nibble = _mm512_and_si512(_mm512_srli_epi32(word, i % 8 * 4), _mm512_set1_epi32(15));
    }
    // Halves times small integers: exact in any order.
    _mm512_storeu_ps(scale, _mm512_fmadd_ps(_mm512_cvtepi32_ps(nibble), step, base));
  }
}

}  // namespace
}  // namespace q35
