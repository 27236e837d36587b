// Integer products for few tokens on AVX-512 VNNI: the words of 16 rows are decoded in registers
// and met with all tokens there. Decoding is paid once, a token adds one instruction per 4 values
// of 16 rows, and the arithmetic is that of the panels (product.h).
#include "kernels/avx512/product.h"
#include "kernels/avx512/tier_avx512.h"

namespace q35 {
namespace {

constexpr uint32_t kRows = 16;

// What kC tokens bring to 256 values. kTurned: formats whose bytes come turned (grid.h)
template <uint32_t kC, bool kTurned>
struct Tokens {
  const int8_t *q[kC];
  const float *d[kC], *s[kC];
  alignas(64) int8_t turned[kTurned ? kC : 1][kTurned ? 256 : 64];
  alignas(64) int32_t start[kC][16];  // of dots with biased bytes, one per 16 values
  alignas(64) float sum[kC][16];      // d * (sum of the integers), one per 16 values

  // The values in the order of the bytes they meet.
  const int8_t *values(uint32_t c) const { return kTurned ? turned[c] : q[c]; }

  void turn_values() {
    for (uint32_t c = 0; c < kC; c++) {
      for (uint32_t i = 0; i < 256; i += 64) {
        _mm512_store_si512(turned[c] + i, turn(load64(q[c] + i)));
      }
    }
  }

  void advance() {
    for (uint32_t c = 0; c < kC; c++) {
      q[c] += 256;
      d[c] += 8;
      s[c] += 16;
    }
  }
};

// Sums of neighbours, at the even places.
inline __m512i add_pairs(__m512i x) {
  return _mm512_add_epi32(x, _mm512_shuffle_epi32(x, _MM_PERM_CDAB));
}
inline __m512 add_pairs(__m512 x) {
  return _mm512_add_ps(x, _mm512_permute_ps(x, 0xb1));
}

// The tokens' sums of n <= 256 values, of 16 or 32 each.
template <uint32_t kC, bool kTurned, uint32_t kGroup, bool kMin>
inline void load_sums(Tokens<kC, kTurned> *at, uint32_t n, int bias) {
  for (uint32_t c = 0; c < kC; c++) {
    if constexpr (kMin) {
      __m512 s = _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n / 16) - 1), at->s[c]);
      if (kGroup == 32) s = add_pairs(s);
      _mm512_store_ps(at->sum[c], s);
    } else {
      __m512i start = group_starts(at->q[c], n, bias);
      if (kGroup == 32) start = add_pairs(start);
      _mm512_store_si512(at->start[c], start);
    }
  }
}

// total + the products of 32 values, whose dots were made in parts of 32 or 16. scale, min: of the
// parts, kRows apart; s: d * (sum of the integers) of each 16
template <bool kMin, uint32_t kParts>
inline __m512 add_dots(__m512 total, const __m512i (&dot)[kParts], const float *scale,
                       const float *min, __m512 d, const float *s) {
  __m512 scales[2], mins[2];
  load_pair<true, (kParts - 1) * kRows>(scale, scales);
  load_pair<kMin, (kParts - 1) * kRows>(min, mins);
  if constexpr (kParts == 1) {
    return add_32<kMin>(total, dot[0], scales[0], mins[0], d, _mm512_set1_ps(s[0]));
  } else {
    return add_16<kMin>(total, dot, scales, mins, d, s, 1);
  }
}

// Whether 32 values come after another (spread.h): with more tokens, the dots of more groups than
// these would not fit the registers.
template <class D, uint32_t kC>
constexpr bool kByChunkOf =
    kC > 3 || (D::kPacking != Packing::Quads && D::kPacking != Packing::Planes);

// Groups whose dots are under way at the same time.
template <class D, uint32_t kC>
constexpr uint32_t kLiveGroups = D::kPacking == Packing::Pairs ? 2
                                 : kByChunkOf<D, kC>           ? 32 / D::kGroup
                                                               : 8;

// Meets the words of a tile with tokens. first: of the tile's values among the 256 that `at` stands
// at; scale, min: of its groups, kRows apart
template <class D, uint32_t kC>
struct Dots {
  static constexpr uint32_t kLines = D::kBlockBytes / 4;  // of memory in a tile, rounded down
  static constexpr uint32_t kLive = kLiveGroups<D, kC>;
  static constexpr bool kByChunk = kByChunkOf<D, kC>;
  const Tokens<kC, D::kTurned> &at;
  uint32_t first;
  const float *scale, *min;
  __m512i (*dot)[kC];  // [kLive]
  __m512 *acc;         // [kC]
  Ahead *ahead;

  void put(uint32_t u, __m512i w) const {
    constexpr uint32_t kPuts = D::kBlock / 4;
    const uint32_t group = 4 * u / D::kGroup;
    for (uint32_t c = 0; c < kC; c++) {
      __m512i *to = &dot[group % kLive][c];
      if (4 * u % D::kGroup == 0) {
        const int32_t *start = at.start[c] + (first + 4 * u) / 16;
        *to = D::kHasMin ? _mm512_setzero_si512() : _mm512_set1_epi32(*start);
      }
      const uint32_t x = load_u32(at.values(c) + first + 4 * u);
      *to = _mm512_dpbusd_epi32(*to, w, _mm512_set1_epi32(static_cast<int>(x)));
    }
    for (uint32_t i = u * kLines / kPuts; i < (u + 1) * kLines / kPuts; i++) ahead->ask();
  }
  void put_turned(uint32_t u, const __m512i (&w)[4]) const {
    for (uint32_t i = 0; i < 4; i++) put(u + i, w[i]);
  }
  void done(uint32_t u) const {
    constexpr uint32_t kParts = 32 / D::kGroup;
    for (uint32_t i = 0; i < kLive; i += kParts) {
      const uint32_t group = 4 * u / D::kGroup - kLive + i;
      const uint32_t value = first + group * D::kGroup;
      for (uint32_t c = 0; c < kC; c++) {
        __m512i parts[kParts];
        for (uint32_t part = 0; part < kParts; part++) parts[part] = dot[i + part][c];
        acc[c] = add_dots<D::kHasMin>(acc[c], parts, scale + group * kRows, min + group * kRows,
                                      _mm512_set1_ps(at.d[c][value / 32]), at.sum[c] + value / 16);
      }
    }
  }
};

// acc += a tile's rows times the tokens' values from `first` on, of the 256 that `at` stands at.
template <class D, uint32_t kC>
inline void add_tile(const uint8_t *tile, const Tokens<kC, D::kTurned> &at, uint32_t first,
                     Ahead *ahead, __m512 (&acc)[kC]) {
  constexpr uint32_t kGroups = D::kBlock / D::kGroup;
  alignas(64) float scale[kGroups * kRows], min[kGroups * kRows];
  block_scales<D, kRows>(tile, scale, min);
  __m512i dot[kLiveGroups<D, kC>][kC];
  block_bytes<D>(tile, Dots<D, kC>{at, first, scale, min, dot, acc, ahead});
}

// How far ahead of the tiles at work memory is asked for. Tiles that one token meets in the order
// of their words are followed by the hardware's prefetchers as well; the other formats are several
// streams, and more tokens leave long pauses between words.
template <class D>
constexpr bool kOneStream =
    D::kPacking == Packing::Bytes || D::kPacking == Packing::Halves ||
    D::kPacking == Packing::Fifths || (D::kPacking == Packing::Pairs && !D::kExtraBit);

template <class D, uint32_t kC>
constexpr uint32_t kAheadBytes = kC == 1 && kOneStream<D> ? 2048 : 8192;

// Up to 16 rows from `row` on by all kC tokens; missing rows repeat the last and are not stored.
template <class D, uint32_t kC>
void gemv_rows(const GemvArgs &g, uint32_t row, uint32_t rows) {
  const uint8_t *w[kRows];
  for (uint32_t r = 0; r < kRows; r++) {
    w[r] = g.w + (row + (r < rows ? r : rows - 1)) * g.row_bytes;
  }
  const bool woven = g.woven && rows >= kRows;
  const uint8_t *tiles = w[0];
  Tokens<kC, D::kTurned> at;
  __m512 acc[kC];
  for (uint32_t c = 0; c < kC; c++) {
    const uint64_t first = static_cast<uint64_t>(c) * g.k;
    at.q[c] = g.act.q + first;
    at.d[c] = g.act.d + first / kActGroup;
    at.s[c] = g.act.s + first / 16;
    acc[c] = _mm512_setzero_ps();
  }
  alignas(64) uint8_t own_tiles[kRows * D::kBytes];
  // Woven tiles are one stream. Rows are 16 short ones that the hardware prefetchers give up on, so
  // the next 16 are asked for: most lines while rows are woven, the rest between the products.
  const uint8_t *next = w[0] + (woven ? kAheadBytes<D, kC> : kRows * g.row_bytes);
  const uint8_t *const end = g.w + g.rows * g.row_bytes;
  for (uint32_t k = 0; k < g.k; k += 256) {
    const uint32_t n = g.k - k < 256 ? g.k - k : 256, n_blocks = n / D::kBlock;
    const uint32_t bytes = n_blocks * kRows * D::kBlockBytes;
    // What is behind the end belongs to another thread; what is at hand costs nothing.
    Ahead ahead = {next < end ? next : w[0]};
    const uint8_t *const asked = ahead.p + bytes;
    if (!woven) {
      for (uint32_t i = 0; i < n_blocks; i++) {
        weave_block<D>(w, &ahead, own_tiles + i * kRows * D::kBlockBytes);
        for (const uint8_t *&p : w) p += D::kBlockBytes;
      }
    }
    const uint8_t *here = woven ? tiles : own_tiles;
    load_sums<kC, D::kTurned, D::kGroup, D::kHasMin>(&at, n, D::kBias);
    if constexpr (D::kTurned) at.turn_values();
    for (uint32_t i = 0; i < n_blocks; i++) {
      add_tile<D, kC>(here + i * kRows * D::kBlockBytes, at, i * D::kBlock, &ahead, acc);
    }
    while (ahead.p < asked) ahead.ask();
    at.advance();
    tiles += bytes;
    next += bytes;
  }
  const __mmask16 stored = static_cast<__mmask16>(rows >= kRows ? 0xffffu : (1u << rows) - 1);
  for (uint32_t c = 0; c < kC; c++) {
    _mm512_mask_storeu_ps(g.y + c * g.y_stride + row, stored, acc[c]);
  }
}

template <class D, uint32_t kC>
void gemv_columns(const GemvArgs &g) {
  for (uint32_t row = 0; row < g.rows; row += kRows) gemv_rows<D, kC>(g, row, g.rows - row);
}

template <class D>
void gemv(const GemvArgs &g) {
  static_assert(kGemvMaxCols == 8, "a case for each count");
  switch (g.n_cols) {
    case 1:
      return gemv_columns<D, 1>(g);
    case 2:
      return gemv_columns<D, 2>(g);
    case 3:
      return gemv_columns<D, 3>(g);
    case 4:
      return gemv_columns<D, 4>(g);
    case 5:
      return gemv_columns<D, 5>(g);
    case 6:
      return gemv_columns<D, 6>(g);
    case 7:
      return gemv_columns<D, 7>(g);
    default:
      return gemv_columns<D, 8>(g);
  }
}

// ---- a first look -------------------------------------------------------------------------------

// How many tiles ahead memory is asked for.
constexpr uint32_t kScreenAhead = 3;

// 2h of chunk j of 32 values, for four of them in each of 16 rows.
template <uint32_t kJ>
inline __m512i twice_high(__m512i bits) {
  return and8(kJ == 0 ? _mm512_slli_epi16(bits, 1) : _mm512_srli_epi16(bits, 2 * kJ - 1), 6);
}

// Products of the high bits of chunk kJ of 32 values, group g of the tile.
template <uint32_t kJ, uint32_t kC>
inline void add_high(const __m512i (&bits)[8], const __m512 (&scale)[2],
                     const int8_t *const (&q)[kC], const float *const (&d)[kC],
                     const int32_t *const (&start)[kC], uint32_t g, __m512 (&acc)[kC]) {
  __m512i dot[2][kC];
  for (uint32_t p = 0; p < 2; p++) {
    for (uint32_t c = 0; c < kC; c++) dot[p][c] = _mm512_set1_epi32(start[c][2 * g + p]);
  }
#pragma GCC unroll 8
  for (uint32_t i = 0; i < 8; i++) {
    const __m512i w = twice_high<kJ>(bits[i]);
    for (uint32_t c = 0; c < kC; c++) {
      const __m512i x = _mm512_set1_epi32(static_cast<int>(load_u32(q[c] + 32 * g + 4 * i)));
      dot[i / 4][c] = _mm512_dpbusd_epi32(dot[i / 4][c], w, x);
    }
  }
  const __m512 none[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (uint32_t c = 0; c < kC; c++) {
    acc[c] = add_16<false>(acc[c], {dot[0][c], dot[1][c]}, scale, none, _mm512_set1_ps(d[c][g]),
                           nullptr, 0);
  }
}

// 16 rows of Q6_K by kC tokens, from the high bits. Less than half of each tile is read.
template <uint32_t kC>
void screen_rows(const ScreenArgs &s, uint32_t row) {
  constexpr uint32_t kTileBytes = kRows * sizeof(BlockQ6_K);
  constexpr uint32_t kHigh = offsetof(BlockQ6_K, qh) / 4, kScales = offsetof(BlockQ6_K, scales) / 4;
  constexpr uint32_t kLines = (kTileBytes - 64 * kHigh + 63) / 64;
  const int8_t *q[kC];
  const float *d[kC];
  const int32_t *start[kC];
  const float *energy[kC];
  __m512 acc[kC], variance[kC];
  for (uint32_t c = 0; c < kC; c++) {
    const uint64_t first = static_cast<uint64_t>(c) * s.k;
    q[c] = s.act.q + first;
    d[c] = s.act.d + first / kActGroup;
    start[c] = s.start + first / 16;
    energy[c] = s.energy + first / 16;
    acc[c] = variance[c] = _mm512_setzero_ps();
  }
  const uint8_t *tile = s.w + row * s.row_bytes;
  for (uint32_t k = 0; k < s.k; k += 256, tile += kTileBytes) {
    Ahead ahead = {tile + kScreenAhead * kTileBytes + 64 * kHigh};
    const __m512 super = floats_at(tile + 16 * offsetof(BlockQ6_K, d));
    for (uint32_t half = 0; half < 2; half++) {
      __m512i bits[8];
      for (uint32_t i = 0; i < 8; i++) {
        bits[i] = word_at(tile, kHigh + 8 * half + i);
        ahead.ask();
      }
      __m512 scale[4][2];
#pragma GCC unroll 8
      for (uint32_t i = 0; i < 8; i++) {
        const __m512i word = word_at(tile, kScales + 2 * half + i / 4);
        scale[i / 2][i % 2] = _mm512_mul_ps(byte_floats<true>(word, i % 4), super);
        const __m512 square = _mm512_mul_ps(scale[i / 2][i % 2], scale[i / 2][i % 2]);
        for (uint32_t c = 0; c < kC; c++) {
          const __m512 e = _mm512_set1_ps(energy[c][8 * half + i]);
          variance[c] = _mm512_fmadd_ps(square, e, variance[c]);
        }
      }
      add_high<0, kC>(bits, scale[0], q, d, start, 4 * half, acc);
      add_high<1, kC>(bits, scale[1], q, d, start, 4 * half + 1, acc);
      add_high<2, kC>(bits, scale[2], q, d, start, 4 * half + 2, acc);
      add_high<3, kC>(bits, scale[3], q, d, start, 4 * half + 3, acc);
    }
    for (uint32_t i = 16; i < kLines; i++) ahead.ask();
    for (uint32_t c = 0; c < kC; c++) {
      q[c] += 256;
      d[c] += 256 / kActGroup;
      start[c] += 16;
      energy[c] += 16;
    }
  }
  for (uint32_t c = 0; c < kC; c++) {
    const __m512 square = _mm512_mul_ps(variance[c], _mm512_set1_ps(s.bits.variance));
    const __m512 deviation = _mm512_sqrt_ps(square);
    const __m512 y = _mm512_mul_ps(acc[c], _mm512_set1_ps(s.bits.step));
    const __m512 bound = _mm512_fmadd_ps(deviation, _mm512_set1_ps(s.sure), y);
    const uint64_t group = c * s.group_stride + row / kRows;
    _mm512_storeu_ps(s.y + c * s.y_stride + row, y);
    if (s.deviation != nullptr) _mm512_storeu_ps(s.deviation + c * s.y_stride + row, deviation);
    // Of two operands with a NaN the maximum is the second, so none may be left in a reduction.
    constexpr float kInf = __builtin_inff();
    const __mmask16 unknown = _mm512_cmp_ps_mask(bound, bound, _CMP_UNORD_Q);
    s.best[group] = _mm512_reduce_max_ps(_mm512_max_ps(y, _mm512_set1_ps(-kInf)));
    s.bound[group] = _mm512_reduce_max_ps(_mm512_mask_mov_ps(bound, unknown, _mm512_set1_ps(kInf)));
  }
}

template <uint32_t kC>
void screen_columns(const ScreenArgs &s) {
  for (uint32_t row = 0; row < s.rows; row += kRows) screen_rows<kC>(s, row);
}

void screen_q6_k(const ScreenArgs &s) {
  using Fn = void (*)(const ScreenArgs &);
  static constexpr Fn kFns[kGemvMaxCols] = {screen_columns<1>, screen_columns<2>, screen_columns<3>,
                                            screen_columns<4>, screen_columns<5>, screen_columns<6>,
                                            screen_columns<7>, screen_columns<8>};
  kFns[s.n_cols - 1](s);
}

}  // namespace

void q35_init_gemv_avx512(Kernels *kernels) {
  for (uint32_t type = 0; type < 32; type++) {
    with_format(static_cast<DType>(type), [&](auto format) {
      kernels->gemv[type] = gemv<decltype(format)>;
      kernels->weave[type] = weave<decltype(format)>;
    });
  }
  kernels->screen[static_cast<uint32_t>(DType::Q6_K)] = screen_q6_k;
}

}  // namespace q35
