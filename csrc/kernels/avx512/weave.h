// Weaving on AVX-512 (quant/weave.h): 16 x 16 words are transposed at a time.
#pragma once

#include "kernels/avx512/decode.h"
#include "quant/weave.h"

namespace q35 {
namespace {

using Rows = const uint8_t *[16];

// Memory that will be needed later, asked for into the second level a line at a time on the way
// through other work: a burst of requests would stop the loads behind it.
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

// out: kCount <= 4 words, from the 16 bytes at `offset` of each row.
template <uint32_t kCount>
inline void weave_4(const Rows &w, uint32_t offset, uint8_t *out) {
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
  const __m512i word[4] = {_mm512_unpacklo_epi64(l0, l1), _mm512_unpackhi_epi64(l0, l1),
                           _mm512_unpacklo_epi64(h0, h1), _mm512_unpackhi_epi64(h0, h1)};
  for (uint32_t i = 0; i < kCount; i++) _mm512_storeu_si512(out + 64 * i, word[i]);
}

inline void weave_halves(const Rows &w, uint32_t offset, uint8_t *out) {
  uint64_t four[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    four[i] = load_u16(w[4 * i] + offset) | load_u16(w[4 * i + 1] + offset) << 16 |
              static_cast<uint64_t>(load_u16(w[4 * i + 2] + offset)) << 32 |
              static_cast<uint64_t>(load_u16(w[4 * i + 3] + offset)) << 48;
  }
  __builtin_memcpy(out, four, sizeof four);
}

// One block of each row to a tile. Asks for as many lines as it reads, one at a time.
template <class D>
inline void weave_block(const Rows &w, Ahead *ahead, uint8_t *out) {
  constexpr WovenBlock kShape = woven_block(D::kBlockBytes, D::kOddHalf);
  constexpr uint32_t kRest = kShape.words % 16;
  uint32_t at = kShape.first_word;
#pragma GCC unroll 3
  for (uint32_t i = 0; i + 16 <= kShape.words; i += 16, at += 64) {
    __m512i a[16];
    for (int r = 0; r < 16; r++) {
      a[r] = load64(w[r] + at);
      ahead->ask();
    }
    transpose(a);
    for (uint32_t j = 0; j < 16; j++) _mm512_storeu_si512(out + 64 * (i + j), a[j]);
  }
  uint8_t *rest = out + 64 * (kShape.words - kRest);
#pragma GCC unroll 3
  for (uint32_t i = 0; i < kRest / 4; i++, at += 16, rest += 256) {
    weave_4<4>(w, at, rest);
    for (int line = 0; line < 4; line++) ahead->ask();
  }
  if constexpr (kRest % 4 != 0) weave_4<kRest % 4>(w, at, rest);
  if constexpr (kShape.has_half) weave_halves(w, kShape.half, out + 64 * kShape.words);
}

template <class D>
void weave(const uint8_t *rows, uint64_t row_bytes, uint32_t n_blocks, uint8_t *out) {
  const uint8_t *w[16];
  for (uint32_t r = 0; r < 16; r++) w[r] = rows + r * row_bytes;
  for (uint32_t b = 0; b < n_blocks; b++) {
    Ahead nothing = {w[0]};  // there already
    weave_block<D>(w, &nothing, out);
    out += 16 * D::kBlockBytes;
    for (const uint8_t *&p : w) p += D::kBlockBytes;
  }
}

}  // namespace
}  // namespace q35
