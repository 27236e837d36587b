// Decoders of the quantised formats for AVX2, one block of the file at a time. A format D has
//   kUnit       values of a block; kBytes: its bytes; kGroup: values per scale
//   kBias       what is subtracted from the bytes of load() to get the weight
//   kSigned     bytes of load() are signed and may need all 8 bits; else unsigned, at most kMax
//   load(p, c)  32 bytes of values 32c..32c+31 in their natural order
//   scales(...) scale (and min) [kUnit / kGroup]: value = scale * (byte - kBias) - min
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
inline float half_at(const void *p) {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(static_cast<int>(load_u16(p)))));
}

template <class Block>
struct Layout {
  static constexpr uint32_t kUnit = Block::kSize, kBytes = sizeof(Block), kGroup = Block::kGroup;
  static constexpr bool kHasMin = Block::kHasMin;
  static const Block *at(const uint8_t *p) { return reinterpret_cast<const Block *>(p); }
};

// Low halves of 16 bytes, then high halves.
inline __m256i nibbles_of_16(const uint8_t *p) {
  const __m128i x = load16(p);
  return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(x, 4), x), _mm256_set1_epi8(15));
}

// Low (c even) or high halves of the 32 bytes at p + 32 * (c / 2).
inline __m256i nibbles_of_32(const uint8_t *p, int c) {
  const __m256i x = load32(p + 32 * (c / 2));
  return _mm256_and_si256(_mm256_srli_epi16(x, c % 2 * 4), _mm256_set1_epi8(15));
}

inline __m256i codebook(__m256i x) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load16(kIq4Values)), x);
}

struct Q4_0 : Layout<BlockQ4_0> {
  static constexpr int kBias = 8, kMax = 15;
  static constexpr bool kSigned = false;
  static __m256i load(const uint8_t *p, int) { return nibbles_of_16(at(p)->qs); }
  static void scales(const uint8_t *p, float *scale, float *) { scale[0] = half_at(p); }
};

struct Q8_0 : Layout<BlockQ8_0> {
  static constexpr int kBias = 0, kMax = 128;
  static constexpr bool kSigned = true;
  static __m256i load(const uint8_t *p, int) { return load32(at(p)->qs); }
  static void scales(const uint8_t *p, float *scale, float *) { scale[0] = half_at(p); }
};

struct IQ4_NL : Layout<BlockIQ4_NL> {
  static constexpr int kBias = 0, kMax = 128;
  static constexpr bool kSigned = true;
  static __m256i load(const uint8_t *p, int) { return codebook(nibbles_of_16(at(p)->qs)); }
  static void scales(const uint8_t *p, float *scale, float *) { scale[0] = half_at(p); }
};

struct IQ4_XS : Layout<BlockIQ4_XS> {
  static constexpr int kBias = 0, kMax = 128;
  static constexpr bool kSigned = true;
  static __m256i load(const uint8_t *p, int c) {
    return codebook(nibbles_of_16(at(p)->qs + 16 * c));
  }
  static void scales(const uint8_t *p, float *scale, float *) {
    const __m256i low_shift = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    const __m256i low = _mm256_set1_epi32(static_cast<int>(load_u32(at(p)->scales_l)));
    const __m256i high = _mm256_set1_epi32(static_cast<int>(load_u16(at(p)->scales_h.bytes)) << 4);
    const __m256i a = _mm256_and_si256(_mm256_srlv_epi32(low, low_shift), _mm256_set1_epi32(15));
    const __m256i b = _mm256_and_si256(_mm256_srlv_epi32(high, _mm256_srli_epi32(low_shift, 1)),
                                       _mm256_set1_epi32(48));
    const __m256i q = _mm256_sub_epi32(_mm256_or_si256(a, b), _mm256_set1_epi32(32));
    const __m256 d = _mm256_set1_ps(half_at(at(p)->d.bytes));
    _mm256_storeu_ps(scale, _mm256_mul_ps(_mm256_cvtepi32_ps(q), d));
  }
};

// The 6-bit scales and mins of Q4_K and Q5_K (layout: unpack_scales_k4) times d and dmin.
inline void scales_k4(const uint8_t *d, const uint8_t *dmin, const uint8_t *packed, float *scale,
                      float *min) {
  const uint32_t a = load_u32(packed), b = load_u32(packed + 4), c = load_u32(packed + 8);
  const uint64_t scale_high = (c & 0x0f0f0f0fu) | (a >> 2 & 0x30303030u);
  const uint64_t min_high = (c >> 4 & 0x0f0f0f0fu) | (b >> 2 & 0x30303030u);
  const __m128i s = _mm_cvtsi64_si128(static_cast<int64_t>((a & 0x3f3f3f3fu) | scale_high << 32));
  const __m128i m = _mm_cvtsi64_si128(static_cast<int64_t>((b & 0x3f3f3f3fu) | min_high << 32));
  _mm256_storeu_ps(scale, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(s)),
                                        _mm256_set1_ps(half_at(d))));
  _mm256_storeu_ps(min, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(m)),
                                      _mm256_set1_ps(half_at(dmin))));
}

struct Q4_K : Layout<BlockQ4_K> {
  static constexpr int kBias = 0, kMax = 15;
  static constexpr bool kSigned = false;
  static __m256i load(const uint8_t *p, int c) { return nibbles_of_32(at(p)->qs, c); }
  static void scales(const uint8_t *p, float *scale, float *min) {
    scales_k4(at(p)->d.bytes, at(p)->dmin.bytes, at(p)->scales, scale, min);
  }
};

struct Q5_K : Layout<BlockQ5_K> {
  static constexpr int kBias = 0, kMax = 31;
  static constexpr bool kSigned = false;
  static __m256i load(const uint8_t *p, int c) {
    const __m256i high = _mm256_srli_epi16(load32(at(p)->qh), c);
    const __m256i bit = _mm256_and_si256(high, _mm256_set1_epi8(1));
    return _mm256_or_si256(nibbles_of_32(at(p)->qs, c), _mm256_slli_epi16(bit, 4));
  }
  static void scales(const uint8_t *p, float *scale, float *min) {
    scales_k4(at(p)->d.bytes, at(p)->dmin.bytes, at(p)->scales, scale, min);
  }
};

struct Q6_K : Layout<BlockQ6_K> {
  static constexpr int kBias = 32, kMax = 63;
  static constexpr bool kSigned = false;
  static __m256i load(const uint8_t *p, int c) {
    const __m256i x = load32(at(p)->ql + 64 * (c / 4) + 32 * (c % 2));
    const __m256i low = _mm256_and_si256(_mm256_srli_epi16(x, c % 4 / 2 * 4), _mm256_set1_epi8(15));
    const __m256i high = _mm256_srli_epi16(load32(at(p)->qh + 32 * (c / 4)), c % 4 * 2);
    const __m256i pair = _mm256_and_si256(high, _mm256_set1_epi8(3));
    return _mm256_or_si256(low, _mm256_slli_epi16(pair, 4));
  }
  static void scales(const uint8_t *p, float *scale, float *) {
    const __m256 d = _mm256_set1_ps(half_at(at(p)->d.bytes));
    const __m128i q = load16(at(p)->scales);
    const __m256i first = _mm256_cvtepi8_epi32(q),
                  second = _mm256_cvtepi8_epi32(_mm_srli_si128(q, 8));
    _mm256_storeu_ps(scale, _mm256_mul_ps(_mm256_cvtepi32_ps(first), d));
    _mm256_storeu_ps(scale + 8, _mm256_mul_ps(_mm256_cvtepi32_ps(second), d));
  }
};

}  // namespace
}  // namespace q35
