// Integer products for few tokens on AVX2. Up to four tokens meet the words of 8 rows as these are
// decoded in registers. For more, and for the formats of grid.h, 256 values of 16 rows are decoded
// into the first-level cache at a time, once for all tokens, and met with four at once. The
// arithmetic is that of the panels (product.h); formats without a gemv here go through those.
#pragma once

#include "kernels/avx2/product.h"
#include "kernels/kernels.h"

namespace q35 {
namespace {

// 256 values of 16 rows, decoded.
struct Slab {
  alignas(64) uint8_t q[256 * kRows];
  alignas(64) float scale[16 * kRows], min[16 * kRows];
};

struct Token {
  const int8_t *q;
  const float *d, *s;
};

// Sums of each 16 of n <= 32 * kCount values, kCount 4 or 8, as 16-bit lanes: lane i of the low
// half belongs to values 32i .. 32i + 15, of the high half to the 16 after them.
template <uint32_t kCount>
inline __m256i sums_of_16(const int8_t *q, uint32_t n) {
  __m256i a[kCount];  // sums of pairs
#pragma GCC unroll 8
  for (uint32_t i = 0; i < kCount; i++) {
    a[i] = 32 * i < n ? _mm256_maddubs_epi16(_mm256_set1_epi8(1), load32(q + 32 * i))
                      : _mm256_setzero_si256();
  }
#pragma GCC unroll 3
  for (uint32_t width = kCount; width > 1; width /= 2) {
#pragma GCC unroll 4
    for (uint32_t i = 0; i < width / 2; i++) a[i] = _mm256_hadd_epi16(a[2 * i], a[2 * i + 1]);
  }
  return kCount == 4 ? _mm256_hadd_epi16(a[0], a[0]) : a[0];
}

// start: kBias * (sum of the integers) of each kGroup of n values, n <= 256.
template <class D>
inline void group_starts(const int8_t *q, uint32_t n, int32_t *start) {
  const __m256i sums = n <= 128 ? sums_of_16<4>(q, n) : sums_of_16<8>(q, n);
  const __m256i first = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(sums));
  const __m256i second = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sums, 1));
  const __m256i bias = _mm256_set1_epi32(D::kBias);
  if constexpr (D::kGroup == 32) {
    const __m256i both = _mm256_mullo_epi32(_mm256_add_epi32(first, second), bias);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(start), both);
  } else {
    const __m256i x = _mm256_mullo_epi32(first, bias), y = _mm256_mullo_epi32(second, bias);
    const __m256i low = _mm256_unpacklo_epi32(x, y), high = _mm256_unpackhi_epi32(x, y);
    __m256i *out = reinterpret_cast<__m256i *>(start);
    _mm256_storeu_si256(out, _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(low, high, 0x31));
  }
}

// sum[t] += the products of n values of the slab's rows and kC tokens. lines: to ask for with each
// 32 values
template <class D, uint32_t kC>
void add_slab(const Slab &slab, const Token *token, uint32_t n, Ahead *ahead, uint32_t lines,
              float (*sum)[kRows]) {
  constexpr uint32_t kGroup = D::kGroup, kParts = 32 / kGroup;
  int32_t start[kC][16];
  const int8_t *x[kC];
  for (uint32_t c = 0; c < kC; c++) {
    x[c] = token[c].q;
    if constexpr (D::kBias != 0) group_starts<D>(x[c], n, start[c]);
  }
  for (uint32_t g = 0; g < n / kGroup; g++) {
    if (g % kParts == 0) {
      for (uint32_t i = 0; i < lines; i++) ahead->ask();
    }
    GroupOf<kC> group;
    for (uint32_t c = 0; c < kC; c++) {
      group.d[c] = token[c].d + g / kParts;
      group.start[c] = start[c] + g;
      group.s[c] = token[c].s + g * (kGroup / 16);
    }
    add_group<kRunOf<D>, kGroup, D::kHasMin, kGroup == 32, kC, 4>(
        slab.q + g * kGroup * kRows, slab.scale + g * kRows, slab.min + g * kRows, x, group, sum);
    for (uint32_t c = 0; c < kC; c++) x[c] += kGroup;
  }
}

// The tokens in one part, or two of like size: four fit the registers.
template <class D>
inline void add_columns(const Slab &slab, const Token *token, uint32_t n_cols, uint32_t n,
                        Ahead *ahead, uint32_t lines, float (*sum)[kRows]) {
  for (uint32_t width; n_cols != 0; n_cols -= width, token += width, sum += width, lines = 0) {
    width = n_cols <= 4 ? n_cols : (n_cols + 1) / 2;
    if (width == 4) {
      add_slab<D, 4>(slab, token, n, ahead, lines, sum);
    } else if (width == 3) {
      add_slab<D, 3>(slab, token, n, ahead, lines, sum);
    } else if (width == 2) {
      add_slab<D, 2>(slab, token, n, ahead, lines, sum);
    } else {
      add_slab<D, 1>(slab, token, n, ahead, lines, sum);
    }
  }
}

// ---- up to four tokens: decoded in registers ----------------------------------------------------

// Whether the words of a format can; those of a grid come by way of memory.
template <class D>
constexpr bool kFused = D::kPacking != Packing::Grid;

// first: of the tile's values among the 256 that the tokens stand at; start: of their groups, see
// group_starts(); scale, min: of the groups, kRows apart, for these rows
template <class D, uint32_t kC>
struct Dots {
  static constexpr bool kByChunk = true;
  static constexpr uint32_t kRun = kRunOf<D>, kGroupWords = D::kGroup / 4, kParts = 32 / D::kGroup;
  static constexpr uint32_t kLive = D::kPacking == Packing::Pairs ? 2 : kParts;  // groups
  // Words whose products are summed in 16 bits.
  static constexpr uint32_t kTogether = kRun == 0 ? 1 : kRun < kGroupWords ? kRun : kGroupWords;
  static constexpr uint32_t kLines = D::kBlockBytes / 4;  // of memory in a tile, rounded down
  const Token *token;
  const int32_t (*start)[16];
  uint32_t first;
  const float *scale, *min;
  __m256i (*pairs)[kC], (*dot)[kC];  // [kLive]
  __m256 *sum;                       // [kC]
  Ahead *ahead;

  void put(uint32_t u, __m256i w) const {
    const uint32_t slot = u / kGroupWords % kLive;
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kC; c++) {
      const int8_t *at = token[c].q + first + 4 * u;
      const __m256i x = _mm256_set1_epi32(static_cast<int>(load_u32(at)));
      __m256i *to = &dot[slot][c];
#ifdef __AVXVNNI__
      const __m256i from = u % kGroupWords == 0 ? _mm256_setzero_si256() : *to;
      *to = _mm256_dpbusd_avx_epi32(from, w, x);
#else
      const __m256i p = kRun == 0 ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                                  : _mm256_maddubs_epi16(w, x);
      __m256i *some = &pairs[slot][c];
      *some = u % kTogether == 0 ? p : _mm256_add_epi16(*some, p);
      if (u % kTogether + 1 != kTogether) continue;
      const __m256i words = _mm256_madd_epi16(*some, _mm256_set1_epi16(1));
      const bool whole = kTogether == kGroupWords || u % kGroupWords + 1 == kTogether;
      *to = whole ? words : _mm256_add_epi32(*to, words);
#endif
    }
    constexpr uint32_t kPuts = D::kBlock / 2;  // of both halves of the rows
    for (uint32_t i = u * kLines / kPuts; i < (u + 1) * kLines / kPuts; i++) ahead->ask();
  }

  void done(uint32_t u) const {
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kLive; i++) {
      const uint32_t group = u / kGroupWords - kLive + i;
      const uint32_t value = first + group * D::kGroup;
      const __m256 scales = _mm256_loadu_ps(scale + group * kRows);
#pragma GCC unroll 4
      for (uint32_t c = 0; c < kC; c++) {
        __m256i x = dot[i][c];
        if constexpr (kBiased<kRun, D::kHasMin>) {
          x = _mm256_sub_epi32(x, _mm256_set1_epi32(start[c][value / D::kGroup]));
        }
        const __m256 d = _mm256_set1_ps(token[c].d[value / 32]);
        sum[c] = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(x), scales), d, sum[c]);
        if constexpr (D::kHasMin) {
          const float *s = token[c].s + value / 16;
          const __m256 total = _mm256_set1_ps(kParts == 1 ? s[0] + s[1] : s[0]);
          sum[c] = _mm256_fnmadd_ps(_mm256_loadu_ps(min + group * kRows), total, sum[c]);
        }
      }
    }
  }
};

// sum[c] += the products of n <= 256 values of 16 rows and kC tokens.
template <class D, uint32_t kC>
void add_tiles(const uint8_t *tiles, const Token *token, uint32_t n, Ahead *ahead,
               float (*sum)[kRows]) {
  constexpr uint32_t kGroups = D::kBlock / D::kGroup;
  alignas(32) float scale[kGroups * kRows], min[kGroups * kRows];
  int32_t start[kC][16];
  for (uint32_t c = 0; c < kC; c++) {
    if constexpr (D::kBias != 0) group_starts<D>(token[c].q, n, start[c]);
  }
  for (uint32_t at = 0; at < n; at += D::kBlock, tiles += kRows * D::kBlockBytes) {
    for (uint32_t half = 0; half < 2; half++) {
      using Bytes = Dots<D, kC>;
      const HalfTile tile = {tiles, half};
      block_scales<D>(tile, scale, min);
      __m256i pairs[Bytes::kLive][kC], dot[Bytes::kLive][kC];
      __m256 total[kC];
      for (uint32_t c = 0; c < kC; c++) total[c] = _mm256_load_ps(sum[c] + 8 * half);
      block_bytes<D>(tile, Bytes{token, start, at, scale, min, pairs, dot, total, ahead});
      for (uint32_t c = 0; c < kC; c++) _mm256_store_ps(sum[c] + 8 * half, total[c]);
    }
  }
}

template <class D>
inline void add_few(const uint8_t *tiles, const Token *token, uint32_t n_cols, uint32_t n,
                    Ahead *ahead, float (*sum)[kRows]) {
  if constexpr (kFused<D>) {
    if (n_cols == 1) return add_tiles<D, 1>(tiles, token, n, ahead, sum);
    if (n_cols == 2) return add_tiles<D, 2>(tiles, token, n, ahead, sum);
    if (n_cols == 3) return add_tiles<D, 3>(tiles, token, n, ahead, sum);
    add_tiles<D, 4>(tiles, token, n, ahead, sum);
  }
}

// ---- any number ---------------------------------------------------------------------------------

// How far ahead of the tiles at work memory is asked for. What few tokens meet in the order of its
// words the hardware's prefetchers follow well, and asking far ahead disturbs them.
template <class D>
constexpr bool kOneStream =
    D::kPacking == Packing::Bytes || D::kPacking == Packing::Halves ||
    D::kPacking == Packing::Fifths || (D::kPacking == Packing::Pairs && !D::kExtraBit);

template <class D>
inline uint32_t ahead_bytes(uint32_t n_cols) {
  return kOneStream<D> && n_cols <= 4 ? 1024 : 8192;
}

// Up to 16 rows from `row` on by all tokens; missing rows repeat the last and are not stored.
template <class D>
void gemv_rows(const GemvArgs &g, uint32_t row, uint32_t rows) {
  const uint8_t *w[kRows];
  for (uint32_t r = 0; r < kRows; r++) {
    w[r] = g.w + (row + (r < rows ? r : rows - 1)) * g.row_bytes;
  }
  const bool woven = g.woven && rows >= kRows;
  const uint8_t *tiles = w[0];
  Token token[kGemvMaxCols];
  for (uint32_t c = 0; c < g.n_cols; c++) {
    const uint64_t first = static_cast<uint64_t>(c) * g.k;
    token[c] = {g.act.q + first, g.act.d + first / kActGroup, g.act.s + first / 16};
  }
  alignas(32) float sum[kGemvMaxCols][kRows] = {};
  alignas(64) uint8_t own_tiles[kRows * D::kBytes];
  Slab slab;
  // Woven tiles are one stream. Rows are 16 short ones that the hardware prefetchers give up on, so
  // the next 16 are asked for: most lines while rows are woven, the rest between the products.
  const uint8_t *next = w[0] + (woven ? ahead_bytes<D>(g.n_cols) : kRows * g.row_bytes);
  for (uint32_t k = 0; k < g.k; k += 256) {
    const uint32_t n = g.k - k < 256 ? g.k - k : 256, n_blocks = n / D::kBlock;
    Ahead ahead = {next};
    if (!woven) {
      for (uint32_t i = 0; i < n_blocks; i++) {
        weave_block<D>(w, &ahead, own_tiles + i * kRows * D::kBlockBytes);
        for (const uint8_t *&p : w) p += D::kBlockBytes;
      }
    }
    const uint8_t *here = woven ? tiles : own_tiles;
    tiles += n_blocks * kRows * D::kBlockBytes;
    next += n_blocks * kRows * D::kBlockBytes;
    if (kFused<D> && g.n_cols <= 4) {
      add_few<D>(here, token, g.n_cols, n, &ahead, sum);
    } else {
      spread<D>(here, n, slab.q, slab.scale, slab.min);
      const uint32_t lines =
          next > ahead.p ? (static_cast<uint32_t>(next - ahead.p) / 64 + 7) / 8 : 0;
      add_columns<D>(slab, token, g.n_cols, n, &ahead, lines, sum);
    }
    for (uint32_t c = 0; c < g.n_cols; c++) {
      token[c].q += 256;
      token[c].d += 256 / kActGroup;
      token[c].s += 16;
    }
  }
  for (uint32_t c = 0; c < g.n_cols; c++) {
    float *y = g.y + c * g.y_stride + row;
    if (rows >= kRows) {
      _mm256_storeu_ps(y, _mm256_load_ps(sum[c]));
      _mm256_storeu_ps(y + 8, _mm256_load_ps(sum[c] + 8));
    } else {
      for (uint32_t r = 0; r < rows; r++) y[r] = sum[c][r];
    }
  }
}

template <class D>
void gemv(const GemvArgs &g) {
  for (uint32_t row = 0; row < g.rows; row += kRows) gemv_rows<D>(g, row, g.rows - row);
}

// How many tiles ahead of the one that is looked at memory is asked for.
constexpr uint32_t kScreenAhead = 3;

// The high bits of Q6_K as a format: bytes of 2h, less 3.
struct HighOfQ6K : Q6_K {
  static constexpr int kBias = 3, kMax = 6;
};

// 16 rows of Q6_K by all tokens, from the high bits. Less than half of each tile is read.
void screen_rows(const ScreenArgs &s, uint32_t row) {
  constexpr uint32_t kTileBytes = kRows * sizeof(BlockQ6_K);
  constexpr uint32_t kHigh = kRows * offsetof(BlockQ6_K, qh);
  constexpr uint32_t kLines = (kTileBytes - kHigh + 63) / 64;
  Token token[kGemvMaxCols];
  for (uint32_t c = 0; c < s.n_cols; c++) {
    const uint64_t first = static_cast<uint64_t>(c) * s.k;
    token[c] = {s.act.q + first, s.act.d + first / kActGroup, s.act.s + first / 16};
  }
  alignas(32) float sum[kGemvMaxCols][kRows] = {}, variance[kGemvMaxCols][kRows] = {};
  const uint8_t *tile = s.w + row * s.row_bytes;
  Slab slab;
  for (uint32_t k = 0; k < s.k; k += 256, tile += kTileBytes) {
    Ahead ahead = {tile + kScreenAhead * kTileBytes + kHigh};
    for (uint32_t half = 0; half < 2; half++) {
      const HalfTile part = {tile, half};
      q6_scales(part, slab.scale + 8 * half);
      spread_high(part, {slab.q + 32 * half});
      for (uint32_t g = 0; g < 16; g++) {
        const __m256 scale = _mm256_load_ps(slab.scale + g * kRows + 8 * half);
        const __m256 square = _mm256_mul_ps(scale, scale);
        for (uint32_t c = 0; c < s.n_cols; c++) {
          const __m256 energy = _mm256_set1_ps(s.energy[(uint64_t{c} * s.k + k) / 16 + g]);
          float *to = variance[c] + 8 * half;
          _mm256_store_ps(to, _mm256_fmadd_ps(square, energy, _mm256_load_ps(to)));
        }
      }
    }
    add_columns<HighOfQ6K>(slab, token, s.n_cols, 256, &ahead, (kLines + 7) / 8, sum);
    for (uint32_t c = 0; c < s.n_cols; c++) {
      token[c].q += 256;
      token[c].d += 256 / kActGroup;
    }
  }
  for (uint32_t c = 0; c < s.n_cols; c++) {
    constexpr float kInf = __builtin_inff();
    float best = -kInf, bound = -kInf;
    for (uint32_t r = 0; r < kRows; r++) {
      const uint64_t at = c * s.y_stride + row + r;
      const float y = s.bits.step * sum[c][r];
      const float deviation = __builtin_sqrtf(s.bits.variance * variance[c][r]);
      const float most = y + s.sure * deviation;
      s.y[at] = y;
      if (s.deviation != nullptr) s.deviation[at] = deviation;
      best = y > best ? y : best;
      bound = most <= bound ? bound : most == most ? most : kInf;
    }
    s.best[c * s.group_stride + row / kRows] = best;
    s.bound[c * s.group_stride + row / kRows] = bound;
  }
}

void screen_q6_k(const ScreenArgs &s) {
  for (uint32_t row = 0; row < s.rows; row += kRows) screen_rows(s, row);
}

constexpr bool is_float(uint32_t type) {
  return type == static_cast<uint32_t>(DType::F32) || type == static_cast<uint32_t>(DType::F16) ||
         type == static_cast<uint32_t>(DType::BF16);
}

void fill_gemv(Kernels *kernels) {
  for (uint32_t type = 0; type < 32; type++) {
    // Panels of this tier are faster than the scalar product.
    if (!is_float(type)) kernels->gemv[type] = nullptr;
  }
  for (uint32_t type = 0; type < 32; type++) {
    with_format(static_cast<DType>(type), [&](auto format) {
      kernels->gemv[type] = gemv<decltype(format)>;
      kernels->weave[type] = weave<decltype(format)>;
    });
  }
  kernels->screen[static_cast<uint32_t>(DType::Q6_K)] = screen_q6_k;
}

}  // namespace
}  // namespace q35
