// The quantised formats as AVX-512 sees them, 256 values at a time (a K block or eight blocks of
// 32), straight from the file's bytes. A format D has
//   kBytes      bytes of 256 values; kBlock, kBlockBytes: the file's block; kGroup: values per
//   scale kBias       what is subtracted from the unsigned bytes to get the weight kHasMin whether
//   there is a minimum per group: value = scale * (byte - kBias) - min kPacking    how interleave.h
//   transposes 16 rows of it load(p, c)  the 64 unsigned bytes of values 64c..64c+63 in their
//   natural order (Packing::Bytes) finish(x)   the unsigned bytes from nibbles (Packing::Halves)
// Loads may read up to 64 bytes past a block, as the contract of the weights allows.
// From quant/blocks.h only layouts and constants are used: its functions belong to another tier.
#pragma once

#include <immintrin.h>

#include "quant/blocks.h"

namespace q35 {
namespace {

inline __m512i load64(const void *p) {
  return _mm512_loadu_si512(p);
}
inline __m256i load32(const void *p) {
  return _mm256_loadu_si256(static_cast<const __m256i *>(p));
}
inline __m128i load16(const void *p) {
  return _mm_loadu_si128(static_cast<const __m128i *>(p));
}
inline uint32_t load_u16(const void *p) {
  uint16_t value;
  __builtin_memcpy(&value, p, 2);
  return value;
}
inline uint32_t load_u32(const void *p) {
  uint32_t value;
  __builtin_memcpy(&value, p, 4);
  return value;
}

// [low, low, high, high] quarters.
inline __m512i quarters(int64_t a, int64_t b, int64_t c, int64_t d) {
  return _mm512_setr_epi64(a, a, b, b, c, c, d, d);
}

enum class Packing {
  Bytes,   // none: load() gives the bytes
  Halves,  // 16 bytes hold 32 values: low halves, then high halves
  Pairs,   // 32 bytes hold the low four bits of two chunks of 32 values (Q4_K, Q5_K)
  Quads,   // 64 bytes hold those of four chunks, 32 bytes their upper two bits (Q6_K)
  Planes,  // 32 bytes hold the low two bits of four chunks (Q2_K, Q3_K)
};

template <class Block, Packing kHow, int kBiasOf>
struct Layout {
  using Type = Block;
  static constexpr uint32_t kBlock = Block::kSize, kBlockBytes = sizeof(Block);
  static constexpr uint32_t kBytes = 256 / kBlock * kBlockBytes;
  static constexpr uint32_t kGroup = Block::kGroup;
  static constexpr bool kHasMin = Block::kHasMin;
  static constexpr Packing kPacking = kHow;
  static constexpr int kBias = kBiasOf;
  static __m512i finish(__m512i x) { return x; }
};

// Nibbles of two blocks of 32 whose 16 bytes start kFirst into each: low halves, then high halves.
// One permutation of one wide load measured faster than two loads of 16 bytes.
template <int kStride, int kFirst>
inline __m512i block_nibbles(const uint8_t *p) {
  constexpr char f = kFirst, g = kFirst + kStride;
  alignas(64) static constexpr char kIndex[64] = {
      f,      f + 1,  f + 2,  f + 3,  f + 4,  f + 5,  f + 6,  f + 7,  f + 8,  f + 9,  f + 10,
      f + 11, f + 12, f + 13, f + 14, f + 15, f,      f + 1,  f + 2,  f + 3,  f + 4,  f + 5,
      f + 6,  f + 7,  f + 8,  f + 9,  f + 10, f + 11, f + 12, f + 13, f + 14, f + 15, g,
      g + 1,  g + 2,  g + 3,  g + 4,  g + 5,  g + 6,  g + 7,  g + 8,  g + 9,  g + 10, g + 11,
      g + 12, g + 13, g + 14, g + 15, g,      g + 1,  g + 2,  g + 3,  g + 4,  g + 5,  g + 6,
      g + 7,  g + 8,  g + 9,  g + 10, g + 11, g + 12, g + 13, g + 14, g + 15};
  const __m512i bytes = _mm512_permutexvar_epi8(load64(kIndex), load64(p));
  return _mm512_and_si512(_mm512_srlv_epi64(bytes, quarters(0, 4, 0, 4)), _mm512_set1_epi8(15));
}

// Sets bit 4 of the bytes whose bit in the two words of fifth bits is set.
inline __m512i add_fifth_bits(__m512i nibbles, const uint8_t *first, const uint8_t *second) {
  const __mmask64 bits = load_u32(first) | static_cast<uint64_t>(load_u32(second)) << 32;
  return _mm512_mask_add_epi8(nibbles, bits, nibbles, _mm512_set1_epi8(16));
}

// Codebook values plus 128, as unsigned bytes, for the nibbles of x.
inline __m512i codebook(__m512i x) {
  const __m128i table = _mm_xor_si128(load16(kIq4Values), _mm_set1_epi8(-128));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), x);
}

struct Q4_0 : Layout<BlockQ4_0, Packing::Halves, 8> {};

struct Q4_1 : Layout<BlockQ4_1, Packing::Halves, 0> {};

struct Q5_0 : Layout<BlockQ5_0, Packing::Bytes, 16> {
  static __m512i load(const uint8_t *p, int c) {
    const uint8_t *b = p + 44 * c;
    return add_fifth_bits(block_nibbles<22, 6>(b), b + 2, b + 24);
  }
};

struct Q5_1 : Layout<BlockQ5_1, Packing::Bytes, 0> {
  static __m512i load(const uint8_t *p, int c) {
    const uint8_t *b = p + 48 * c;
    return add_fifth_bits(block_nibbles<24, 8>(b), b + 4, b + 28);
  }
};

struct Q8_0 : Layout<BlockQ8_0, Packing::Bytes, 128> {
  static __m512i load(const uint8_t *p, int c) {
    const uint8_t *b = p + 68 * c;
    const __m512i q = _mm512_inserti64x4(_mm512_castsi256_si512(load32(b + 2)), load32(b + 36), 1);
    return _mm512_xor_si512(q, _mm512_set1_epi8(-128));
  }
};

struct IQ4_NL : Layout<BlockIQ4_NL, Packing::Halves, 128> {
  static __m512i finish(__m512i x) { return codebook(x); }
};

struct IQ4_XS : Layout<BlockIQ4_XS, Packing::Halves, 128> {
  static __m512i finish(__m512i x) { return codebook(x); }
};

struct Q2_K : Layout<BlockQ2_K, Packing::Planes, 0> {};

struct Q3_K : Layout<BlockQ3_K, Packing::Planes, 4> {};

struct Q4_K : Layout<BlockQ4_K, Packing::Pairs, 0> {};

struct Q5_K : Layout<BlockQ5_K, Packing::Pairs, 0> {};

struct Q6_K : Layout<BlockQ6_K, Packing::Quads, 32> {};

}  // namespace
}  // namespace q35
