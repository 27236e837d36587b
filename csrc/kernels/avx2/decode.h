// The quantised formats as AVX2 sees them. A format D has
//   kBlock, kBlockBytes  the file's block; kBytes: bytes of 256 values; kGroup: values per scale
//   kHasMin     whether there is a minimum per group: value = scale * (byte - kBias) - min
//   kBias       what is subtracted from the bytes to get the weight
//   kSigned     bytes are signed and may need all 8 bits; else unsigned, at most kMax
//   kPacking    how spread.h gets the bytes out of the words of a block
//   finish(x)   the bytes from the stored bytes or nibbles
// Loads may read up to 64 bytes past a block, as the contract of the weights allows.
// From quant/blocks.h only layouts and constants are used: its functions belong to another tier.
#pragma once

#include <immintrin.h>

#include "quant/blocks.h"

namespace q35 {
namespace {

// Whether this folder is compiled for the tier with a dot product of bytes, which wants one factor
// unsigned.
#ifdef __AVXVNNI__
constexpr bool kVnni = true;
#else
constexpr bool kVnni = false;
#endif

inline __m256i load32(const void *p) {
  return _mm256_loadu_si256(static_cast<const __m256i *>(p));
}
inline __m128i load16(const void *p) {
  return _mm_loadu_si128(static_cast<const __m128i *>(p));
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

template <class Block, Packing kHow, int kBiasOf, int kMaxOf, bool kSignedOf = false>
struct Layout {
  using Type = Block;
  static constexpr uint32_t kBlock = Block::kSize, kBlockBytes = sizeof(Block);
  static constexpr uint32_t kBytes = 256 / kBlock * kBlockBytes;
  static constexpr uint32_t kGroup = Block::kGroup;
  static constexpr bool kHasMin = Block::kHasMin, kSigned = kSignedOf;
  static constexpr Packing kPacking = kHow;
  static constexpr int kBias = kBiasOf, kMax = kMaxOf;
  static constexpr uint32_t kOddHalf = odd_half<Block>();
  static constexpr bool kExtraBit = false;  // stored apart, one of each value
  static __m256i finish(__m256i x) { return x; }
};

// Bytes that need all 8 bits.
template <class Block, Packing kHow>
using Wide = Layout<Block, kHow, kVnni ? 128 : 0, 255, !kVnni>;

inline __m256i signed_or_biased(__m256i x) {
  return kVnni ? _mm256_xor_si256(x, _mm256_set1_epi8(-128)) : x;
}

inline __m256i codebook(__m256i x) {
  const __m256i table = signed_or_biased(_mm256_broadcastsi128_si256(load16(kIq4Values)));
  return _mm256_shuffle_epi8(table, x);
}

struct Q4_0 : Layout<BlockQ4_0, Packing::Halves, 8, 15> {};

struct Q4_1 : Layout<BlockQ4_1, Packing::Halves, 0, 15> {};

struct Q5_0 : Layout<BlockQ5_0, Packing::Fifths, 16, 31> {};

struct Q5_1 : Layout<BlockQ5_1, Packing::Fifths, 0, 31> {};

struct Q8_0 : Wide<BlockQ8_0, Packing::Bytes> {
  static __m256i finish(__m256i x) { return signed_or_biased(x); }
};

struct IQ4_NL : Wide<BlockIQ4_NL, Packing::Halves> {
  static __m256i finish(__m256i x) { return codebook(x); }
};

struct IQ4_XS : Wide<BlockIQ4_XS, Packing::Halves> {
  static __m256i finish(__m256i x) { return codebook(x); }
};

struct Q2_K : Layout<BlockQ2_K, Packing::Planes, 0, 3> {};

struct Q3_K : Layout<BlockQ3_K, Packing::Planes, 4, 7> {
  static constexpr bool kExtraBit = true;
};

struct Q4_K : Layout<BlockQ4_K, Packing::Pairs, 0, 15> {};

struct Q5_K : Layout<BlockQ5_K, Packing::Pairs, 0, 31> {
  static constexpr bool kExtraBit = true;
};

struct Q6_K : Layout<BlockQ6_K, Packing::Quads, 32, 63> {};

}  // namespace
}  // namespace q35
