// Transposition of quantised rows on AVX-512: 16 rows side by side, 4 consecutive values each, so
// that one broadcast of 4 activations meets 16 rows. Packed formats are transposed packed: a half,
// a third or a quarter of the shuffles. kStride: rows of the destination, 16 or more. kBias: of the
// bytes that come out, at least the format's own.
#pragma once

#include <type_traits>

#include "kernels/avx512/decode.h"

namespace q35 {
namespace {

using Rows = const uint8_t *[16];

// Memory that will be needed later, asked for into the second level a line at a time on the way
// through rows: a burst of requests would stop the loads behind it.
struct Ahead {
  const uint8_t *p;
  void ask() {
    _mm_prefetch(reinterpret_cast<const char *>(p), _MM_HINT_T1);
    p += 64;
  }
};

// a[i] lane j becomes a[j] lane i, for 16 x 16 words.
inline void transpose(__m512i (&a)[16]) {
  __m512i b[16];
  for (int i = 0; i < 16; i += 4) {
    const __m512i l0 = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    const __m512i h0 = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    const __m512i l1 = _mm512_unpacklo_epi32(a[i + 2], a[i + 3]);
    const __m512i h1 = _mm512_unpackhi_epi32(a[i + 2], a[i + 3]);
    b[i] = _mm512_unpacklo_epi64(l0, l1);
    b[i + 1] = _mm512_unpackhi_epi64(l0, l1);
    b[i + 2] = _mm512_unpacklo_epi64(h0, h1);
    b[i + 3] = _mm512_unpackhi_epi64(h0, h1);
  }
  // b[4m + j] quarter l holds rows 4m..4m+3 of column 4l + j.
  for (int j = 0; j < 4; j++) {
    const __m512i x0 = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88);
    const __m512i x1 = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xdd);
    const __m512i y0 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88);
    const __m512i y1 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xdd);
    a[j] = _mm512_shuffle_i32x4(x0, y0, 0x88);
    a[8 + j] = _mm512_shuffle_i32x4(x0, y0, 0xdd);
    a[4 + j] = _mm512_shuffle_i32x4(x1, y1, 0x88);
    a[12 + j] = _mm512_shuffle_i32x4(x1, y1, 0xdd);
  }
}

// word[i] lane r = word i of the 16 bytes at `offset` of row r.
inline void words_at(const Rows &w, uint32_t offset, __m512i *word) {
  __m512i a[4];
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) {
    a[r] = _mm512_castsi128_si512(load16(w[r] + offset));
    a[r] = _mm512_inserti32x4(a[r], load16(w[4 + r] + offset), 1);
    a[r] = _mm512_inserti32x4(a[r], load16(w[8 + r] + offset), 2);
    a[r] = _mm512_inserti32x4(a[r], load16(w[12 + r] + offset), 3);
  }
  const __m512i l0 = _mm512_unpacklo_epi32(a[0], a[1]), h0 = _mm512_unpackhi_epi32(a[0], a[1]);
  const __m512i l1 = _mm512_unpacklo_epi32(a[2], a[3]), h1 = _mm512_unpackhi_epi32(a[2], a[3]);
  word[0] = _mm512_unpacklo_epi64(l0, l1);
  word[1] = _mm512_unpackhi_epi64(l0, l1);
  word[2] = _mm512_unpacklo_epi64(h0, h1);
  word[3] = _mm512_unpackhi_epi64(h0, h1);
}

// The halves at `offset` of 16 rows, as floats.
inline __m512 halves_at(const Rows &w, uint32_t offset) {
  uint64_t four[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    four[i] = load_u16(w[4 * i] + offset) | load_u16(w[4 * i + 1] + offset) << 16 |
              static_cast<uint64_t>(load_u16(w[4 * i + 2] + offset)) << 32 |
              static_cast<uint64_t>(load_u16(w[4 * i + 3] + offset)) << 48;
  }
  return _mm512_cvtph_ps(
      _mm256_setr_epi64x(static_cast<int64_t>(four[0]), static_cast<int64_t>(four[1]),
                         static_cast<int64_t>(four[2]), static_cast<int64_t>(four[3])));
}

inline __m512i and8(__m512i x, char mask) {
  return _mm512_and_si512(x, _mm512_set1_epi8(mask));
}

// (a & mask) | b
inline __m512i and_or(__m512i a, char mask, __m512i b) {
  return _mm512_ternarylogic_epi64(a, _mm512_set1_epi8(mask), b, 0xea);
}

// Where 256 values of 16 rows go: word u of the rows is values 4u .. 4u + 3.
template <class D, uint32_t kStride, int kBias>
struct Words {
  uint8_t *q;
  void put(uint32_t u, __m512i x) const {
    if constexpr (!D::kHasMin && kBias != D::kBias) {
      x = _mm512_add_epi8(x, _mm512_set1_epi8(static_cast<char>(kBias - D::kBias)));
    }
    _mm512_storeu_si512(q + u * kStride * 4, x);
  }
};

template <class D, class Out>
inline void interleave_bytes(const Rows &w, Out out, Ahead *ahead) {
  for (uint32_t c = 0; c < 4; c++) {
    __m512i a[16];
    for (int r = 0; r < 16; r++) {
      a[r] = D::load(w[r], static_cast<int>(c));
      if (c % 2 == 0 || r % 2 == 0) ahead->ask();
    }
    transpose(a);
    for (uint32_t i = 0; i < 16; i++) out.put(16 * c + i, a[i]);
  }
}

template <class D, class Out>
inline void interleave_halves(const Rows &w, Out out, Ahead *ahead) {
  constexpr uint32_t kFirst = offsetof(typename D::Type, qs);
  for (uint32_t half = 0; half < 2; half++) {
    __m512i a[16];
    for (int r = 0; r < 16; r++) {
      const uint8_t *p = w[r] + half * (D::kBytes / 2) + (D::kBlock == 32 ? kFirst : 0);
      if constexpr (D::kBlock == 32) {
        a[r] = _mm512_castsi128_si512(load16(p));
        a[r] = _mm512_inserti32x4(a[r], load16(p + D::kBlockBytes), 1);
        a[r] = _mm512_inserti32x4(a[r], load16(p + 2 * D::kBlockBytes), 2);
        a[r] = _mm512_inserti32x4(a[r], load16(p + 3 * D::kBlockBytes), 3);
      } else {
        a[r] = load64(w[r] + kFirst + 64 * half);
      }
      ahead->ask();
    }
    transpose(a);
    for (uint32_t i = 0; i < 16; i++) {
      const uint32_t u = 32 * half + i / 4 * 8 + i % 4;
      out.put(u, D::finish(and8(a[i], 15)));
      out.put(u + 4, D::finish(and8(_mm512_srli_epi16(a[i], 4), 15)));
    }
  }
}

template <class D, class Out>
inline void interleave_pairs(const Rows &w, Out out, Ahead *ahead) {
  constexpr uint32_t kFirst = offsetof(typename D::Type, qs);
  constexpr bool kFifthBit = std::is_same_v<D, Q5_K>;
  __m512i high[8];
  if constexpr (kFifthBit) {
    words_at(w, offsetof(BlockQ5_K, qh), high);
    words_at(w, offsetof(BlockQ5_K, qh) + 16, high + 4);
  }
#pragma GCC unroll 2
  for (uint32_t half = 0; half < 2; half++) {
    __m512i a[16];
    for (int r = 0; r < 16; r++) {
      a[r] = load64(w[r] + kFirst + 64 * half);
      ahead->ask();
    }
    transpose(a);
#pragma GCC unroll 16
    for (uint32_t i = 0; i < 16; i++) {
      const uint32_t chunk = 4 * half + i / 8 * 2;  // of 32 values; the next one is above it
      __m512i low = and8(a[i], 15), up = and8(_mm512_srli_epi16(a[i], 4), 15);
      if constexpr (kFifthBit) {
        // Bit `chunk` of each byte belongs to low, the one above it to up.
        const __m512i h = high[i % 8];
        const __m512i first =
            chunk <= 4 ? _mm512_slli_epi16(h, 4 - chunk) : _mm512_srli_epi16(h, chunk - 4);
        const __m512i second =
            chunk <= 3 ? _mm512_slli_epi16(h, 3 - chunk) : _mm512_srli_epi16(h, chunk - 3);
        low = and_or(first, 16, low);
        up = and_or(second, 16, up);
      }
      out.put(8 * chunk + i % 8, low);
      out.put(8 * chunk + 8 + i % 8, up);
    }
  }
}

template <class Out>
inline void interleave_quads(const Rows &w, Out out, Ahead *ahead) {
  __m512i high[16];
  for (int r = 0; r < 16; r++) {
    high[r] = load64(w[r] + offsetof(BlockQ6_K, qh));
    ahead->ask();
  }
  transpose(high);
#pragma GCC unroll 2
  for (uint32_t half = 0; half < 2; half++) {
    __m512i a[16];
    for (int r = 0; r < 16; r++) {
      a[r] = load64(w[r] + offsetof(BlockQ6_K, ql) + 64 * half);
      ahead->ask();
    }
    transpose(a);
#pragma GCC unroll 16
    for (uint32_t i = 0; i < 16; i++) {
      const __m512i h = high[8 * half + i % 8], up = and8(_mm512_srli_epi16(a[i], 4), 15);
      const uint32_t u = 32 * half + i;  // i < 8: chunks 0 and 2, else 1 and 3
      out.put(u, and_or(_mm512_slli_epi16(h, i < 8 ? 4 : 2), 48, and8(a[i], 15)));
      out.put(u + 16, and_or(i < 8 ? h : _mm512_srli_epi16(h, 2), 48, up));
    }
  }
}

template <class D, class Out>
inline void interleave_planes(const Rows &w, Out out, Ahead *ahead) {
  constexpr bool kThirdBit = std::is_same_v<D, Q3_K>;
  __m512i high[8], a[16];
  if constexpr (kThirdBit) {
    words_at(w, offsetof(BlockQ3_K, hmask), high);
    words_at(w, offsetof(BlockQ3_K, hmask) + 16, high + 4);
  }
  for (int r = 0; r < 16; r++) {
    a[r] = load64(w[r] + offsetof(typename D::Type, qs));
    ahead->ask();
  }
  transpose(a);
#pragma GCC unroll 16
  for (uint32_t i = 0; i < 16; i++) {
#pragma GCC unroll 4
    for (uint32_t j = 0; j < 4; j++) {
      __m512i x = and8(_mm512_srli_epi16(a[i], 2 * j), 3);
      if constexpr (kThirdBit) {
        const uint32_t bit = i / 8 * 4 + j;
        const __m512i h = high[i % 8];
        x = and_or(bit <= 2 ? _mm512_slli_epi16(h, 2 - bit) : _mm512_srli_epi16(h, bit - 2), 4, x);
      }
      out.put(32 * (i / 8) + 8 * j + i % 8, x);
    }
  }
}

// ---- scales and minimums: [256 / group][kStride] -----------------------------------------------

// Byte b of every word, as floats.
template <bool kSigned>
inline __m512 byte_floats(__m512i word, uint32_t b) {
  const __m512i up = _mm512_slli_epi32(word, 24 - 8 * b);
  return _mm512_cvtepi32_ps(kSigned ? _mm512_srai_epi32(up, 24) : _mm512_srli_epi32(up, 24));
}

// Blocks of 32 values with a half-precision scale and, perhaps, a minimum to add.
template <class D, uint32_t kStride>
inline void block_scales(const Rows &w, float *scale, float *min) {
#pragma GCC unroll 8
  for (uint32_t i = 0; i < 8; i++) {
    const uint32_t at = i * D::kBlockBytes;
    _mm512_storeu_ps(scale + i * kStride, halves_at(w, at + offsetof(typename D::Type, d)));
    if constexpr (D::kHasMin) {
      const __m512 m = halves_at(w, at + offsetof(typename D::Type, m));
      _mm512_storeu_ps(min + i * kStride, _mm512_sub_ps(_mm512_setzero_ps(), m));
    }
  }
}

// The 6-bit scales and minimums of Q4_K and Q5_K (layout: unpack_scales_k4) times d and dmin.
template <uint32_t kStride>
inline void pair_scales(const Rows &w, float *scale, float *min) {
  __m512i word[4];  // d and dmin; packed bytes 0-3, 4-7, 8-11
  words_at(w, 0, word);
  const __m512 d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(word[0]));
  const __m512 dmin = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(word[0], 16)));
  const __m512i s[2] = {and8(word[1], 63),
                        and_or(_mm512_srli_epi16(word[1], 2), 48, and8(word[3], 15))};
  const __m512i m[2] = {and8(word[2], 63), and_or(_mm512_srli_epi16(word[2], 2), 48,
                                                  and8(_mm512_srli_epi16(word[3], 4), 15))};
#pragma GCC unroll 8
  for (uint32_t i = 0; i < 8; i++) {
    const __m512 si = byte_floats<false>(s[i / 4], i % 4), mi = byte_floats<false>(m[i / 4], i % 4);
    _mm512_storeu_ps(scale + i * kStride, _mm512_mul_ps(si, d));
    _mm512_storeu_ps(min + i * kStride, _mm512_mul_ps(mi, dmin));
  }
}

// Sixteen scales, the bytes of four words, times d.
template <uint32_t kStride, bool kSigned>
inline void sixteen_scales(const __m512i (&word)[4], __m512 d, float *scale) {
#pragma GCC unroll 16
  for (uint32_t i = 0; i < 16; i++) {
    const __m512 s = byte_floats<kSigned>(word[i / 4], i % 4);
    _mm512_storeu_ps(scale + i * kStride, _mm512_mul_ps(s, d));
  }
}

template <uint32_t kStride>
inline void q2_scales(const Rows &w, float *scale, float *min) {
  __m512i word[4], low[4], high[4];
  words_at(w, offsetof(BlockQ2_K, scales), word);
  for (int i = 0; i < 4; i++) {
    low[i] = and8(word[i], 15);
    high[i] = and8(_mm512_srli_epi16(word[i], 4), 15);
  }
  sixteen_scales<kStride, false>(low, halves_at(w, offsetof(BlockQ2_K, d)), scale);
  sixteen_scales<kStride, false>(high, halves_at(w, offsetof(BlockQ2_K, dmin)), min);
}

// Layout: unpack_scales_q3.
template <uint32_t kStride>
inline void q3_scales(const Rows &w, float *scale) {
  __m512i word[4], s[4];
  words_at(w, offsetof(BlockQ3_K, scales), word);
#pragma GCC unroll 4
  for (uint32_t i = 0; i < 4; i++) {
    const __m512i low = and8(_mm512_srli_epi16(word[i % 2], i / 2 * 4), 15);
    const __m512i high =
        i < 2 ? _mm512_slli_epi16(word[2], 4 - 2 * i) : _mm512_srli_epi16(word[2], 2 * i - 4);
    s[i] = _mm512_sub_epi8(and_or(high, 48, low), _mm512_set1_epi8(32));
  }
  sixteen_scales<kStride, true>(s, halves_at(w, offsetof(BlockQ3_K, d)), scale);
}

template <uint32_t kStride>
inline void q6_scales(const Rows &w, float *scale) {
  __m512i word[4];
  words_at(w, offsetof(BlockQ6_K, scales), word);
  sixteen_scales<kStride, true>(word, halves_at(w, offsetof(BlockQ6_K, d)), scale);
}

// Nibbles of scales_l and bit pairs of scales_h make scales of 6 bits, stored with an offset of 32.
template <uint32_t kStride>
inline void iq4_xs_scales(const Rows &w, float *scale) {
  __m512i word[4];  // d and scales_h; scales_l; values
  words_at(w, 0, word);
  const __m512 d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(word[0]));
#pragma GCC unroll 8
  for (uint32_t i = 0; i < 8; i++) {
    const __m512i low = _mm512_and_si512(_mm512_srli_epi32(word[1], 4 * i), _mm512_set1_epi32(15));
    const __m512i high =
        _mm512_and_si512(_mm512_srli_epi32(word[0], 16 + 2 * i), _mm512_set1_epi32(3));
    const __m512i s =
        _mm512_sub_epi32(_mm512_or_si512(low, _mm512_slli_epi32(high, 4)), _mm512_set1_epi32(32));
    _mm512_storeu_ps(scale + i * kStride, _mm512_mul_ps(_mm512_cvtepi32_ps(s), d));
  }
}

// 256 values of 16 rows. q: [64][kStride][4]; scale, min: [256 / group][kStride].
template <class D, uint32_t kStride, int kBias>
inline void interleave_256(const Rows &w, Ahead *ahead, uint8_t *q, float *scale, float *min) {
  const Words<D, kStride, kBias> out = {q};
  if constexpr (D::kPacking == Packing::Bytes) {
    interleave_bytes<D>(w, out, ahead);
  } else if constexpr (D::kPacking == Packing::Halves) {
    interleave_halves<D>(w, out, ahead);
  } else if constexpr (D::kPacking == Packing::Pairs) {
    interleave_pairs<D>(w, out, ahead);
  } else if constexpr (D::kPacking == Packing::Quads) {
    interleave_quads(w, out, ahead);
  } else {
    interleave_planes<D>(w, out, ahead);
  }
  if constexpr (D::kBlock == 32) {
    block_scales<D, kStride>(w, scale, min);
  } else if constexpr (D::kPacking == Packing::Pairs) {
    pair_scales<kStride>(w, scale, min);
  } else if constexpr (D::kPacking == Packing::Quads) {
    q6_scales<kStride>(w, scale);
  } else if constexpr (D::kPacking == Packing::Halves) {
    iq4_xs_scales<kStride>(w, scale);
  } else if constexpr (D::kHasMin) {
    q2_scales<kStride>(w, scale, min);
  } else {
    q3_scales<kStride>(w, scale);
  }
}

// The last n = k % 256 values: on zero-padded copies, through buffers of full size.
template <class D, uint32_t kStride, int kBias>
void interleave_rest(const Rows &w, uint32_t n, uint8_t *q, float *scale, float *min) {
  constexpr uint32_t kGroups = 256 / D::kGroup;
  uint8_t copy[16][D::kBytes + 64] = {};
  uint8_t q_full[64 * kStride * 4];
  float scale_full[kGroups * kStride], min_full[kGroups * kStride];
  const uint8_t *rows[16];
  for (int r = 0; r < 16; r++) {
    __builtin_memcpy(copy[r], w[r], n / D::kBlock * D::kBlockBytes);
    rows[r] = copy[r];
  }
  Ahead nothing = {w[0]};  // there already
  interleave_256<D, kStride, kBias>(rows, &nothing, q_full, scale_full, min_full);
  for (uint32_t i = 0; i < n / 4; i++) {
    _mm512_storeu_si512(q + i * kStride * 4, load64(q_full + i * kStride * 4));
  }
  for (uint32_t i = 0; i < n / D::kGroup; i++) {
    _mm512_storeu_si512(scale + i * kStride, load64(scale_full + i * kStride));
    if constexpr (D::kHasMin)
      _mm512_storeu_si512(min + i * kStride, load64(min_full + i * kStride));
  }
}

}  // namespace
}  // namespace q35
