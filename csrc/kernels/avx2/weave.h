// Weaving on AVX2 (quant/weave.h): 8 x 8 words are transposed at a time.
#pragma once

#include "kernels/avx2/decode.h"
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

// a[i] lane j becomes a[j] lane i, for 8 x 8 words.
inline void transpose(__m256i (&a)[8]) {
  __m256i b[8];
  for (int i = 0; i < 8; i += 4) {
    const __m256i l0 = _mm256_unpacklo_epi32(a[i], a[i + 1]);
    const __m256i h0 = _mm256_unpackhi_epi32(a[i], a[i + 1]);
    const __m256i l1 = _mm256_unpacklo_epi32(a[i + 2], a[i + 3]);
    const __m256i h1 = _mm256_unpackhi_epi32(a[i + 2], a[i + 3]);
    b[i] = _mm256_unpacklo_epi64(l0, l1);
    b[i + 1] = _mm256_unpackhi_epi64(l0, l1);
    b[i + 2] = _mm256_unpacklo_epi64(h0, h1);
    b[i + 3] = _mm256_unpackhi_epi64(h0, h1);
  }
  for (int j = 0; j < 4; j++) {
    a[j] = _mm256_permute2x128_si256(b[j], b[4 + j], 0x20);
    a[4 + j] = _mm256_permute2x128_si256(b[j], b[4 + j], 0x31);
  }
}

inline void store32(uint8_t *p, __m256i x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), x);
}

// out: kCount <= 4 words of 8 rows, from the 16 bytes at `offset` of each.
template <uint32_t kCount>
inline void weave_4(const uint8_t *const *w, uint32_t offset, uint8_t *out) {
  __m256i a[4];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < 4; r++) {
    a[r] = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(w[r] + offset)),
                                   load16(w[4 + r] + offset), 1);
  }
  const __m256i l0 = _mm256_unpacklo_epi32(a[0], a[1]), h0 = _mm256_unpackhi_epi32(a[0], a[1]);
  const __m256i l1 = _mm256_unpacklo_epi32(a[2], a[3]), h1 = _mm256_unpackhi_epi32(a[2], a[3]);
  const __m256i word[4] = {_mm256_unpacklo_epi64(l0, l1), _mm256_unpackhi_epi64(l0, l1),
                           _mm256_unpacklo_epi64(h0, h1), _mm256_unpackhi_epi64(h0, h1)};
  for (uint32_t i = 0; i < kCount; i++) store32(out + 64 * i, word[i]);
}

// One block of each row to a tile. Asks for about as many lines as it reads, one at a time.
template <class D>
inline void weave_block(const Rows &rows, Ahead *ahead, uint8_t *out) {
  constexpr WovenBlock kShape = woven_block(D::kBlockBytes, D::kOddHalf);
  constexpr uint32_t kRest = kShape.words % 8;
  for (uint32_t half = 0; half < 2; half++) {
    const uint8_t *const *w = rows + 8 * half;
    uint8_t *to = out + 32 * half;
    uint32_t at = kShape.first_word;
    for (uint32_t i = 0; i + 8 <= kShape.words; i += 8, at += 32, to += 512) {
      __m256i a[8];
      for (int r = 0; r < 8; r++) a[r] = load32(w[r] + at);
      for (int line = 0; line < 4; line++) ahead->ask();
      transpose(a);
      for (uint32_t j = 0; j < 8; j++) store32(to + 64 * j, a[j]);
    }
    if constexpr (kRest >= 4) {
      weave_4<4>(w, at, to);
      for (int line = 0; line < 2; line++) ahead->ask();
      at += 16;
      to += 256;
    }
    if constexpr (kRest % 4 != 0) weave_4<kRest % 4>(w, at, to);
  }
  if constexpr (kShape.has_half) {
    for (uint32_t r = 0; r < 16; r++) {
      __builtin_memcpy(out + 64 * kShape.words + 2 * r, rows[r] + kShape.half, 2);
    }
  }
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

// ---- tiles, eight rows at a time ----------------------------------------------------------------

constexpr uint32_t kRows = 16;  // of a slab or panel: two vectors of 8 rows

// Half the rows of a tile.
struct HalfTile {
  const uint8_t *p;
  uint32_t half;

  __m256i word(uint32_t i) const { return load32(p + 64 * i + 32 * half); }
  // The halves behind the words, which end at byte `end` of a block, as floats.
  __m256 floats(uint32_t end) const { return _mm256_cvtph_ps(load16(p + 16 * end + 16 * half)); }
};

// Where the bytes of a block go: word u of the rows is values 4u .. 4u + 3. kByChunk: whether 32
// values come after another where their bits lie in the same words, which are then read again.
struct HalfBytes {
  static constexpr bool kByChunk = false;
  uint8_t *q;
  void put(uint32_t u, __m256i x) const { store32(q + u * kRows * 4, x); }
  void done(uint32_t) const {}
};

}  // namespace
}  // namespace q35
