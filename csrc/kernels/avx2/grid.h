// The IQ2 and IQ3 formats on AVX2: places in a table of values are made for eight rows at a time,
// and looked up one by one, which costs what the CPU's gathers cost where those are good, and much
// less on the many CPUs where they are not.
#pragma once

#include "kernels/avx2/weave.h"
#include "quant/grid_scales.h"
#include "quant/iq_grids.h"

namespace q35 {
namespace {

// Bits `from` to `from` + 6 of a word, as bits `to` and up.
inline __m256i seven_bits(__m256i words, int from, int to) {
  const __m256i moved =
      from < to ? _mm256_slli_epi32(words, to - from) : _mm256_srli_epi32(words, from - to);
  return _mm256_and_si256(moved, _mm256_set1_epi32(127 << to));
}

// Sign bytes from their low 7 bits: the eighth makes the number of bits even.
inline __m256i even_signs(__m256i seven) {
  const __m256i odd = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0));
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i low = _mm256_shuffle_epi8(odd, _mm256_and_si256(seven, nibble));
  const __m256i high =
      _mm256_shuffle_epi8(odd, _mm256_and_si256(_mm256_srli_epi16(seven, 4), nibble));
  return _mm256_or_si256(seven, _mm256_xor_si256(low, high));
}

// The sign bytes of 32 values from a word of four times 7 bits.
inline __m256i packed_signs(__m256i words) {
  const __m256i a = _mm256_or_si256(seven_bits(words, 0, 0), seven_bits(words, 7, 8));
  const __m256i b = _mm256_or_si256(seven_bits(words, 14, 16), seven_bits(words, 21, 24));
  return even_signs(_mm256_or_si256(a, b));
}

// `count` bits of a word, as bits `to` and up.
inline __m256i some_bits(__m256i words, uint32_t from, int count, int to) {
  const __m256i low = _mm256_srli_epi32(words, static_cast<int>(from));
  return _mm256_slli_epi32(_mm256_and_si256(low, _mm256_set1_epi32((1 << count) - 1)), to);
}

// ---- formats ------------------------------------------------------------------------------------

// A format has kTable, of 8 or 4 values, its own copy because tiers share no symbols; place(tile,
// e): of entry e in the table, for 8 rows; signs(tile, g): of group g of 32 values, a byte for 8.
template <class Block, int kLargest>
struct GridLayout : Layout<Block, Packing::Grid, kLargest, 2 * kLargest> {
  static constexpr GridScales kScales = grid_scales_of(static_cast<const Block *>(nullptr));
};

struct IQ2_XXS : GridLayout<BlockIQ2_XXS, 43> {
  static constexpr auto kTable = iq::kIq2Xxs;
  static __m256i place(HalfTile tile, uint32_t e) {
    return some_bits(tile.word(e / 4 * 2), e % 4 * 8, 8, 0);
  }
  static __m256i signs(HalfTile tile, uint32_t g) { return packed_signs(tile.word(2 * g + 1)); }
};

struct IQ2_XS : GridLayout<BlockIQ2_XS, 43> {
  static constexpr auto kTable = iq::kIq2Xs;
  static __m256i place(HalfTile tile, uint32_t e) {
    return some_bits(tile.word(e / 2), e % 2 * 16, 9, 0);
  }
  static __m256i signs(HalfTile tile, uint32_t g) {
    const __m256i w = tile.word(2 * g), x = tile.word(2 * g + 1);
    const __m256i a = _mm256_or_si256(seven_bits(w, 9, 0), seven_bits(w, 25, 8));
    const __m256i b = _mm256_or_si256(seven_bits(x, 9, 16), seven_bits(x, 25, 24));
    return even_signs(_mm256_or_si256(a, b));
  }
};

struct IQ2_S : GridLayout<BlockIQ2_S, 43> {
  static constexpr auto kTable = iq::kIq2S;
  static __m256i place(HalfTile tile, uint32_t e) {
    return _mm256_or_si256(some_bits(tile.word(e / 4), e % 4 * 8, 8, 0),
                           some_bits(tile.word(16 + e / 16), e % 16 * 2, 2, 8));
  }
  static __m256i signs(HalfTile tile, uint32_t g) { return tile.word(8 + g); }
};

struct IQ3_XXS : GridLayout<BlockIQ3_XXS, 62> {
  static constexpr auto kTable = iq::kIq3Xxs;
  static __m256i place(HalfTile tile, uint32_t e) {
    return some_bits(tile.word(e / 4), e % 4 * 8, 8, 0);
  }
  static __m256i signs(HalfTile tile, uint32_t g) { return packed_signs(tile.word(16 + g)); }
};

struct IQ3_S : GridLayout<BlockIQ3_S, 15> {
  static constexpr auto kTable = iq::kIq3S;
  static __m256i place(HalfTile tile, uint32_t e) {
    return _mm256_or_si256(some_bits(tile.word(e / 4), e % 4 * 8, 8, 0),
                           some_bits(tile.word(16 + e / 32), e % 32, 1, 8));
  }
  static __m256i signs(HalfTile tile, uint32_t g) { return tile.word(18 + g); }
};

// ---- any of them --------------------------------------------------------------------------------

// The entries of the table as they are, before their signs. q: as HalfBytes has it
template <class D>
inline void put_entries(HalfTile tile, uint8_t *q) {
  constexpr uint32_t kWords = sizeof(D::kTable.row[0]) / 4;
#pragma GCC unroll 4
  for (uint32_t e = 0; e < 64 / kWords; e++, q += kWords * kRows * 4) {
    alignas(32) uint32_t place[8];
    _mm256_store_si256(reinterpret_cast<__m256i *>(place), D::place(tile, e));
#pragma GCC unroll 8
    for (uint32_t r = 0; r < 8; r++) {
      const auto *entry = D::kTable.row + place[r];
      for (uint32_t i = 0; i < kWords; i++) {
        __builtin_memcpy(q + (i * kRows + r) * 4, reinterpret_cast<const char *>(entry) + 4 * i, 4);
      }
    }
  }
}

// The signs, and the bias: in a pass of its own, because a load of what narrower stores have just
// written waits for them.
template <class D>
inline void put_signs(HalfTile tile, uint8_t *q) {
  const __m256i row = _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404,
                                        0x08080808, 0x0c0c0c0c);
  for (uint32_t g = 0; g < 8; g++) {
    const __m256i signs = D::signs(tile, g);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++, q += kRows * 4) {
      const __m256i from = _mm256_add_epi8(row, _mm256_set1_epi8(static_cast<char>(i / 2)));
      const uint32_t four = i % 2 == 0 ? 0x08040201u : 0x80402010u;
      const __m256i bits = _mm256_set1_epi32(static_cast<int>(four));
      const __m256i set = _mm256_and_si256(_mm256_shuffle_epi8(signs, from), bits);
      const __m256i minus = _mm256_cmpeq_epi8(set, bits);
      const __m256i bias = _mm256_sub_epi8(_mm256_set1_epi8(D::kBias), minus);
      store32(q, _mm256_add_epi8(_mm256_xor_si256(load32(q), minus), bias));
    }
  }
}

template <class D>
inline void spread_grid(HalfTile tile, HalfBytes out) {
  put_entries<D>(tile, out.q);
  put_signs<D>(tile, out.q);
}

template <class D>
inline void grid_scales(HalfTile tile, float *scale) {
  constexpr GridScales kAt = D::kScales;
  const __m256 d = tile.floats(D::kBlockBytes - 2);
  const __m256 base = _mm256_mul_ps(d, _mm256_set1_ps(kAt.base));
  const __m256 step = _mm256_mul_ps(d, _mm256_set1_ps(kAt.step));
#pragma GCC unroll 16
  for (uint32_t i = 0; i < 256 / D::kGroup; i++, scale += kRows) {
    const __m256i nibble = kAt.next != 0 ? _mm256_srli_epi32(tile.word(kAt.word + kAt.next * i), 28)
                                         : some_bits(tile.word(kAt.word + i / 8), i % 8 * 4, 4, 0);
    // Halves times small integers: exact in any order.
    _mm256_storeu_ps(scale, _mm256_fmadd_ps(_mm256_cvtepi32_ps(nibble), step, base));
  }
}

}  // namespace
}  // namespace q35
