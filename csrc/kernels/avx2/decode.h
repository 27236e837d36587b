// Decoders of the quantised formats for AVX2, one block of the file at a time. A format D has
//   kUnit       values of a block; kBytes: its bytes; kGroup: values per scale
//   kBias       what is subtracted from the bytes of load() to get the weight
//   kSigned     bytes of load() are signed and may need all 8 bits; else unsigned, at most kMax
//   kPacking    how interleave.h transposes eight rows of it
//   load(p)     32 bytes of a block in their natural order (Packing::Bytes)
//   finish(x)   the bytes of load() from nibbles (Packing::Halves)
// Scales and minimums, value = scale * (byte - kBias) - min, are read for eight rows at once, see
// interleave.h.
// From quant/blocks.h only layouts and constants are used: its functions belong to another tier.
#pragma once

#include <immintrin.h>

#include "quant/blocks.h"

namespace q35 {
namespace {

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
// The halves at `offset` of eight rows, as floats.
inline __m256 halves_at(const uint8_t *const (&w)[8], uint32_t offset) {
  uint64_t low = 0, high = 0;
  for (uint32_t r = 0; r < 4; r++) {
    low |= static_cast<uint64_t>(load_u16(w[r] + offset)) << 16 * r;
    high |= static_cast<uint64_t>(load_u16(w[4 + r] + offset)) << 16 * r;
  }
  return _mm256_cvtph_ps(_mm_set_epi64x(static_cast<int64_t>(high), static_cast<int64_t>(low)));
}

enum class Packing {
  Bytes,   // none: load() gives the bytes
  Halves,  // 16 bytes hold 32 values: low halves, then high halves
  Pairs,   // 32 bytes hold the low four bits of two chunks of 32 values (Q4_K, Q5_K)
  Quads,   // 64 bytes hold those of four chunks, 32 bytes their upper two bits (Q6_K)
};

template <class Block, Packing kHow, int kBiasOf, int kMaxOf, bool kSignedOf = false>
struct Layout {
  using Type = Block;
  static constexpr uint32_t kUnit = Block::kSize, kBytes = sizeof(Block), kGroup = Block::kGroup;
  static constexpr bool kHasMin = Block::kHasMin, kSigned = kSignedOf;
  static constexpr Packing kPacking = kHow;
  static constexpr int kBias = kBiasOf, kMax = kMaxOf;
  static const Block *at(const uint8_t *p) { return reinterpret_cast<const Block *>(p); }
  static __m256i finish(__m256i x) { return x; }
};

inline __m256i codebook(__m256i x) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load16(kIq4Values)), x);
}

struct Q4_0 : Layout<BlockQ4_0, Packing::Halves, 8, 15> {};

struct Q5_0 : Layout<BlockQ5_0, Packing::Bytes, 16, 31> {
  static __m256i load(const uint8_t *p) {
    const __m128i x = load16(at(p)->qs);
    const __m256i low =
        _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(x, 4), x), _mm256_set1_epi8(15));
    // Byte i of the result sees byte i / 8 of the bits and keeps bit i % 8.
    const __m256i byte =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201u));
    const __m256i bits = _mm256_and_si256(
        _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(load_u32(at(p)->qh.bytes))), byte),
        bit);
    const __m256i high = _mm256_and_si256(_mm256_cmpeq_epi8(bits, bit), _mm256_set1_epi8(16));
    return _mm256_or_si256(low, high);
  }
};

struct Q8_0 : Layout<BlockQ8_0, Packing::Bytes, 0, 128, true> {
  static __m256i load(const uint8_t *p) { return load32(at(p)->qs); }
};

struct IQ4_NL : Layout<BlockIQ4_NL, Packing::Halves, 0, 128, true> {
  static __m256i finish(__m256i x) { return codebook(x); }
};

struct IQ4_XS : Layout<BlockIQ4_XS, Packing::Halves, 0, 128, true> {
  static __m256i finish(__m256i x) { return codebook(x); }
};

struct Q4_K : Layout<BlockQ4_K, Packing::Pairs, 0, 15> {
  static constexpr bool kFifthBit = false;
};

struct Q5_K : Layout<BlockQ5_K, Packing::Pairs, 0, 31> {
  static constexpr bool kFifthBit = true;
};

struct Q6_K : Layout<BlockQ6_K, Packing::Quads, 32, 63> {};

}  // namespace
}  // namespace q35
