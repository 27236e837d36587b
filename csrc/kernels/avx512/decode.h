// Decoders of the quantised formats for AVX-512: 256 values at a time (a K block or eight blocks of
// 32), straight from the file's bytes. The struct of a format D has
//   kBytes     bytes of 256 values; kBlock, kBlockBytes: the file's block; kGroup: values per scale
//   kBias      what is subtracted from the unsigned bytes of load() to get the weight
//   kHasMin    whether scales() yields a minimum per group
//   load(p, c) the 64 unsigned bytes of values 64c..64c+63 in their natural order
//   kScaled    whether load_scaled() exists: as load() a shift cheaper, but of each 64 values the
//              second 32 are 16 times too large
//   scales(p)  one lane per 16 values: value = scale * (byte - kBias) - min
// load() may read up to 64 bytes past its block, as the contract of the weights allows.
// From quant/blocks.h only layouts and constants are used: its functions belong to another tier.
#pragma once

#include <immintrin.h>

#include "quant/blocks.h"

namespace q35 {
namespace {

struct Scales {
  __m512 scale, min;  // 16 lanes: one per 16 values
};

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
inline float half_at(const void *p) {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(static_cast<int>(load_u16(p)))));
}

// [low, low, high, high] quarters.
inline __m512i quarters(int64_t a, int64_t b, int64_t c, int64_t d) {
  return _mm512_setr_epi64(a, a, b, b, c, c, d, d);
}
inline __m512i halves(int64_t low, int64_t high) {
  return quarters(low, low, high, high);
}

// Lanes of [8 floats] doubled: one per 16 values from one per 32.
inline __m512 double_lanes(__m512 x) {
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7),
                               x);
}

// The half at the start of each of 8 blocks of kStride bytes, doubled.
template <int kStride>
inline __m512 block_halves(const uint8_t *p) {
  if constexpr (kStride <= 20) {
    // The words of four blocks' halves lie within 64 bytes.
    constexpr int s = kStride / 2, h = 32;
    const __m512i index = _mm512_castsi256_si512(
        _mm256_setr_epi16(0, 0, s, s, 2 * s, 2 * s, 3 * s, 3 * s, h, h, h + s, h + s, h + 2 * s,
                          h + 2 * s, h + 3 * s, h + 3 * s));
    const __m512i words = _mm512_permutex2var_epi16(load64(p), index, load64(p + 4 * kStride));
    return _mm512_cvtph_ps(_mm512_castsi512_si256(words));
  } else {
    __m128i words = _mm_cvtsi32_si128(static_cast<int>(load_u16(p)));
    words = _mm_insert_epi16(words, static_cast<int>(load_u16(p + kStride)), 1);
    words = _mm_insert_epi16(words, static_cast<int>(load_u16(p + 2 * kStride)), 2);
    words = _mm_insert_epi16(words, static_cast<int>(load_u16(p + 3 * kStride)), 3);
    words = _mm_insert_epi16(words, static_cast<int>(load_u16(p + 4 * kStride)), 4);
    words = _mm_insert_epi16(words, static_cast<int>(load_u16(p + 5 * kStride)), 5);
    words = _mm_insert_epi16(words, static_cast<int>(load_u16(p + 6 * kStride)), 6);
    words = _mm_insert_epi16(words, static_cast<int>(load_u16(p + 7 * kStride)), 7);
    return _mm512_cvtph_ps(
        _mm256_set_m128i(_mm_unpackhi_epi16(words, words), _mm_unpacklo_epi16(words, words)));
  }
}

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

template <class Block>
struct Layout {
  static constexpr uint32_t kBlock = Block::kSize, kBlockBytes = sizeof(Block);
  static constexpr uint32_t kBytes = 256 / kBlock * kBlockBytes;
  static constexpr uint32_t kGroup = Block::kGroup;
  static constexpr bool kHasMin = Block::kHasMin;
  static constexpr bool kScaled = false;
  static const Block *at(const uint8_t *p) { return reinterpret_cast<const Block *>(p); }
};

struct Q4_0 : Layout<BlockQ4_0> {
  static constexpr int kBias = 8;
  static __m512i load(const uint8_t *p, int c) { return block_nibbles<18, 2>(p + 36 * c); }
  static Scales scales(const uint8_t *p) { return {block_halves<18>(p), _mm512_setzero_ps()}; }
};

struct Q4_1 : Layout<BlockQ4_1> {
  static constexpr int kBias = 0;
  static __m512i load(const uint8_t *p, int c) { return block_nibbles<20, 4>(p + 40 * c); }
  static Scales scales(const uint8_t *p) {
    return {block_halves<20>(p), _mm512_sub_ps(_mm512_setzero_ps(), block_halves<20>(p + 2))};
  }
};

// Sets bit 4 of the bytes whose bit in the two words of fifth bits is set.
inline __m512i add_fifth_bits(__m512i nibbles, const uint8_t *first, const uint8_t *second) {
  const __mmask64 bits = load_u32(first) | static_cast<uint64_t>(load_u32(second)) << 32;
  return _mm512_mask_add_epi8(nibbles, bits, nibbles, _mm512_set1_epi8(16));
}

struct Q5_0 : Layout<BlockQ5_0> {
  static constexpr int kBias = 16;
  static __m512i load(const uint8_t *p, int c) {
    const uint8_t *b = p + 44 * c;
    return add_fifth_bits(block_nibbles<22, 6>(b), b + 2, b + 24);
  }
  static Scales scales(const uint8_t *p) { return {block_halves<22>(p), _mm512_setzero_ps()}; }
};

struct Q5_1 : Layout<BlockQ5_1> {
  static constexpr int kBias = 0;
  static __m512i load(const uint8_t *p, int c) {
    const uint8_t *b = p + 48 * c;
    return add_fifth_bits(block_nibbles<24, 8>(b), b + 4, b + 28);
  }
  static Scales scales(const uint8_t *p) {
    return {block_halves<24>(p), _mm512_sub_ps(_mm512_setzero_ps(), block_halves<24>(p + 2))};
  }
};

struct Q8_0 : Layout<BlockQ8_0> {
  static constexpr int kBias = 128;
  static __m512i load(const uint8_t *p, int c) {
    const uint8_t *b = p + 68 * c;
    const __m512i q = _mm512_inserti64x4(_mm512_castsi256_si512(load32(b + 2)), load32(b + 36), 1);
    return _mm512_xor_si512(q, _mm512_set1_epi8(-128));
  }
  static Scales scales(const uint8_t *p) { return {block_halves<34>(p), _mm512_setzero_ps()}; }
};

// Codebook values plus 128, as unsigned bytes, for the nibbles of x.
inline __m512i codebook(__m512i x) {
  const __m128i table = _mm_xor_si128(load16(kIq4Values), _mm_set1_epi8(-128));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), x);
}

struct IQ4_NL : Layout<BlockIQ4_NL> {
  static constexpr int kBias = 128;
  static __m512i load(const uint8_t *p, int c) {
    return codebook(block_nibbles<18, 2>(p + 36 * c));
  }
  static Scales scales(const uint8_t *p) { return {block_halves<18>(p), _mm512_setzero_ps()}; }
};

struct IQ4_XS : Layout<BlockIQ4_XS> {
  static constexpr int kBias = 128;
  static __m512i load(const uint8_t *p, int c) {
    const __m512i bytes =
        _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3),
                                 _mm512_castsi256_si512(load32(at(p)->qs + 32 * c)));
    return codebook(
        _mm512_and_si512(_mm512_srlv_epi64(bytes, quarters(0, 4, 0, 4)), _mm512_set1_epi8(15)));
  }
  static Scales scales(const uint8_t *p) {
    const __m512i low_shift =
        _mm512_setr_epi32(0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28);
    const __m512i low = _mm512_set1_epi32(static_cast<int>(load_u32(at(p)->scales_l)));
    const __m512i high = _mm512_set1_epi32(static_cast<int>(load_u16(at(p)->scales_h.bytes)) << 4);
    const __m512i a = _mm512_and_si512(_mm512_srlv_epi32(low, low_shift), _mm512_set1_epi32(15));
    const __m512i b = _mm512_and_si512(_mm512_srlv_epi32(high, _mm512_srli_epi32(low_shift, 1)),
                                       _mm512_set1_epi32(48));
    const __m512i q = _mm512_sub_epi32(_mm512_or_si512(a, b), _mm512_set1_epi32(32));
    return {_mm512_mul_ps(_mm512_cvtepi32_ps(q), _mm512_set1_ps(half_at(at(p)->d.bytes))),
            _mm512_setzero_ps()};
  }
};

// Nibbles of 32 bytes: low halves (32 values), then high halves.
inline __m512i nibbles_by_32(const uint8_t *p) {
  const __m512i bytes = _mm512_broadcast_i64x4(load32(p));
  return _mm512_and_si512(_mm512_srlv_epi64(bytes, halves(0, 4)), _mm512_set1_epi8(15));
}

// The 6-bit scales and mins of Q4_K and Q5_K (layout: unpack_scales_k4) times d and dmin.
inline Scales scales_k4(const uint8_t *d_dmin, const uint8_t *packed) {
  uint32_t a = load_u32(packed), b = load_u32(packed + 4), c = load_u32(packed + 8);
  // Left to itself the compiler does this in vector registers with twice the shuffles.
  __asm__("" : "+r"(a), "+r"(b), "+r"(c));
  const uint64_t scale_high = (c & 0x0f0f0f0fu) | (a >> 2 & 0x30303030u);
  const uint64_t min_high = (c >> 4 & 0x0f0f0f0fu) | (b >> 2 & 0x30303030u);
  const __m128i bytes = _mm_set_epi64x(static_cast<int64_t>((b & 0x3f3f3f3fu) | min_high << 32),
                                       static_cast<int64_t>((a & 0x3f3f3f3fu) | scale_high << 32));
  const __m512 factors =
      _mm512_castps128_ps512(_mm_cvtph_ps(_mm_cvtsi32_si128(static_cast<int>(load_u32(d_dmin)))));
  const __m512 q = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
  const __m512 product = _mm512_mul_ps(
      q, _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1),
                               factors));
  const __m512i index =
      _mm512_setr_epi32(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15);
  return {double_lanes(product), _mm512_permutexvar_ps(index, product)};
}

struct Q4_K : Layout<BlockQ4_K> {
  static constexpr int kBias = 0;
  static constexpr bool kScaled = true;
  static __m512i load(const uint8_t *p, int c) { return nibbles_by_32(at(p)->qs + 32 * c); }
  static __m512i load_scaled(const uint8_t *p, int c) {
    const int64_t low = 0x0f0f0f0f0f0f0f0f;
    return _mm512_and_si512(_mm512_broadcast_i64x4(load32(at(p)->qs + 32 * c)), halves(low, ~low));
  }
  static Scales scales(const uint8_t *p) { return scales_k4(at(p)->d.bytes, at(p)->scales); }
};

struct Q5_K : Layout<BlockQ5_K> {
  static constexpr int kBias = 0;
  static __m512i load(const uint8_t *p, int c) {
    const __m512i high = _mm512_broadcast_i64x4(load32(at(p)->qh));
    const __m256i first = _mm256_set1_epi8(static_cast<char>(1 << (2 * c)));
    const __m512i bit =
        _mm512_inserti64x4(_mm512_castsi256_si512(first), _mm256_add_epi8(first, first), 1);
    const __m512i q = nibbles_by_32(at(p)->qs + 32 * c);
    return _mm512_mask_add_epi8(q, _mm512_test_epi8_mask(high, bit), q, _mm512_set1_epi8(16));
  }
  static Scales scales(const uint8_t *p) { return scales_k4(at(p)->d.bytes, at(p)->scales); }
};

struct Q6_K : Layout<BlockQ6_K> {
  static constexpr int kBias = 32;
  static __m512i load(const uint8_t *p, int c) {
    const __m512i low = _mm512_srli_epi16(load64(at(p)->ql + 64 * (c / 2)), c % 2 * 4);
    // Bit pairs 2 * (c % 2) and the next of each byte of qh, moved to bits 4 and 5.
    const __m512i high = _mm512_broadcast_i64x4(load32(at(p)->qh + 32 * (c / 2)));
    const __m512i turn = c % 2 == 0 ? halves(4, 2) : halves(0, 62);
    const __m512i moved = _mm512_rolv_epi64(high, turn);
    // (moved & 48) | (low & 15), with 15 and 48 disjoint: pick by the mask 48, then clear.
    return _mm512_ternarylogic_epi64(_mm512_and_si512(low, _mm512_set1_epi8(15)), moved,
                                     _mm512_set1_epi8(48), 0xf8);
  }
  static Scales scales(const uint8_t *p) {
    const __m512 q = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(at(p)->scales)));
    return {_mm512_mul_ps(q, _mm512_set1_ps(half_at(at(p)->d.bytes))), _mm512_setzero_ps()};
  }
};

// Bit pairs 2 * (c % 2) (32 values) and the next (32 values) of 32 bytes.
inline __m512i pairs_by_32(const uint8_t *p, int c) {
  const __m512i bytes = _mm512_broadcast_i64x4(load32(p));
  const __m512i shift = c % 2 == 0 ? halves(0, 2) : halves(4, 6);
  return _mm512_and_si512(_mm512_srlv_epi64(bytes, shift), _mm512_set1_epi8(3));
}

struct Q2_K : Layout<BlockQ2_K> {
  static constexpr int kBias = 0;
  static __m512i load(const uint8_t *p, int c) { return pairs_by_32(at(p)->qs + c / 2 * 32, c); }
  static Scales scales(const uint8_t *p) {
    const __m512i q = _mm512_cvtepu8_epi32(load16(at(p)->scales));
    const __m512 scale = _mm512_cvtepi32_ps(_mm512_and_si512(q, _mm512_set1_epi32(15)));
    const __m512 min = _mm512_cvtepi32_ps(_mm512_srli_epi32(q, 4));
    return {_mm512_mul_ps(scale, _mm512_set1_ps(half_at(at(p)->d.bytes))),
            _mm512_mul_ps(min, _mm512_set1_ps(half_at(at(p)->dmin.bytes)))};
  }
};

struct Q3_K : Layout<BlockQ3_K> {
  static constexpr int kBias = 4;
  static __m512i load(const uint8_t *p, int c) {
    const __m512i high = _mm512_broadcast_i64x4(load32(at(p)->hmask));
    const __m256i first = _mm256_set1_epi8(static_cast<char>(1 << (2 * c)));
    const __m512i bit =
        _mm512_inserti64x4(_mm512_castsi256_si512(first), _mm256_add_epi8(first, first), 1);
    const __m512i q = pairs_by_32(at(p)->qs + c / 2 * 32, c);
    return _mm512_mask_add_epi8(q, _mm512_test_epi8_mask(high, bit), q, _mm512_set1_epi8(4));
  }
  static Scales scales(const uint8_t *p) {
    // Layout: unpack_scales_q3. Lane i: nibble i / 8 of byte i % 8, bit pair i / 4 of byte 8 + i
    // % 4.
    const __m128i bytes = load16(at(p)->scales);
    const __m128i low_index = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7);
    const __m128i high_index =
        _mm_setr_epi8(8, 9, 10, 11, 8, 9, 10, 11, 8, 9, 10, 11, 8, 9, 10, 11);
    const __m512i low = _mm512_cvtepu8_epi32(_mm_shuffle_epi8(bytes, low_index));
    const __m512i high = _mm512_cvtepu8_epi32(_mm_shuffle_epi8(bytes, high_index));
    const __m512i low_shift = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 4, 4, 4, 4, 4, 4, 4, 4);
    const __m512i high_shift = _mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6);
    const __m512i a = _mm512_and_si512(_mm512_srlv_epi32(low, low_shift), _mm512_set1_epi32(15));
    const __m512i b = _mm512_and_si512(_mm512_srlv_epi32(high, high_shift), _mm512_set1_epi32(3));
    const __m512i q =
        _mm512_sub_epi32(_mm512_or_si512(a, _mm512_slli_epi32(b, 4)), _mm512_set1_epi32(32));
    return {_mm512_mul_ps(_mm512_cvtepi32_ps(q), _mm512_set1_ps(half_at(at(p)->d.bytes))),
            _mm512_setzero_ps()};
  }
};

}  // namespace
}  // namespace q35
