// The quantised formats as AVX-512 sees them. A format D has
//   kBlock, kBlockBytes  the file's block; kBytes: bytes of 256 values; kGroup: values per scale
//   kBias       what is subtracted from the unsigned bytes to get the weight
//   kHasMin     whether there is a minimum per group: value = scale * (byte - kBias) - min
//   kPacking    how spread.h gets the bytes out of the words of a block
//   finish(x)   the unsigned bytes from the stored bytes or nibbles
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

enum class Packing {
  Bytes,   // none
  Halves,  // 16 bytes hold 32 values: low halves, then high halves
  Fifths,  // the same behind a word of fifth bits
  Pairs,   // 32 bytes hold the low four bits of two chunks of 32 values (Q4_K, Q5_K)
  Quads,   // 64 bytes hold those of four chunks, 32 bytes their upper two bits (Q6_K)
  Planes,  // 32 bytes hold the low two bits of four chunks (Q2_K, Q3_K)
  Grid,    // places in a table of 4 or 8 values, signs apart (grid.h)
};

template <class Block, Packing kHow, int kBiasOf>
struct Layout {
  using Type = Block;
  static constexpr uint32_t kBlock = Block::kSize, kBlockBytes = sizeof(Block);
  static constexpr uint32_t kBytes = 256 / kBlock * kBlockBytes;
  static constexpr uint32_t kOddHalf = odd_half<Block>();
  static constexpr uint32_t kGroup = Block::kGroup;
  static constexpr bool kHasMin = Block::kHasMin;
  static constexpr Packing kPacking = kHow;
  static constexpr int kBias = kBiasOf;
  static constexpr bool kExtraBit = false;  // stored apart, one of each value
  // Bytes come turned, see turn(): cheaper to turn the activations than the weights.
  static constexpr bool kTurned = kHow == Packing::Grid;
  static __m512i finish(__m512i x) { return x; }
};

// Codebook values plus 128, as unsigned bytes, for the nibbles of x.
inline __m512i codebook(__m512i x) {
  const __m128i table = _mm_xor_si128(load16(kIq4Values), _mm_set1_epi8(-128));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), x);
}

struct Q4_0 : Layout<BlockQ4_0, Packing::Halves, 8> {};

struct Q4_1 : Layout<BlockQ4_1, Packing::Halves, 0> {};

struct Q5_0 : Layout<BlockQ5_0, Packing::Fifths, 16> {};

struct Q5_1 : Layout<BlockQ5_1, Packing::Fifths, 0> {};

struct Q8_0 : Layout<BlockQ8_0, Packing::Bytes, 128> {
  static __m512i finish(__m512i x) { return _mm512_xor_si512(x, _mm512_set1_epi8(-128)); }
};

struct IQ4_NL : Layout<BlockIQ4_NL, Packing::Halves, 128> {
  static __m512i finish(__m512i x) { return codebook(x); }
};

struct IQ4_XS : Layout<BlockIQ4_XS, Packing::Halves, 128> {
  static __m512i finish(__m512i x) { return codebook(x); }
};

struct Q2_K : Layout<BlockQ2_K, Packing::Planes, 0> {};

struct Q3_K : Layout<BlockQ3_K, Packing::Planes, 4> {
  static constexpr bool kExtraBit = true;
};

struct Q4_K : Layout<BlockQ4_K, Packing::Pairs, 0> {};

struct Q5_K : Layout<BlockQ5_K, Packing::Pairs, 0> {
  static constexpr bool kExtraBit = true;
};

struct Q6_K : Layout<BlockQ6_K, Packing::Quads, 32> {};

}  // namespace
}  // namespace q35
