// Integer products for many tokens on AVX-512 VNNI.
//
// Panel of 32 rows: q u8 [k / 4][32][4], scale f32 [k / group][32], min the same. Weights enter the
// dot as unsigned bytes: formats with a minimum as they are, the others plus 128.
// Tile of 12 tokens: x i8 [k / 4][12][4], then per token: d, the sum s of 32 and of 16 values, and
// -128 * (sum of the integers) of 32 and of 16, which starts the dots of the biased weights.
#include "kernels/avx512/product.h"
#include "kernels/avx512/tier_avx512.h"

namespace q35 {
namespace {

constexpr uint32_t kRows = 32;    // two vectors of 16 rows
constexpr int kBias = 128;        // of the bytes of formats without a minimum
constexpr uint32_t kTokens = 12;  // 2 x 12 accumulators of the 32 registers

struct Panel {
  uint8_t *q;
  float *scale, *min;
  Panel(const PanelShape &shape, void *base)
      : q(static_cast<uint8_t *>(base)),
        scale(reinterpret_cast<float *>(q + static_cast<size_t>(kRows) * shape.k)),
        min(scale + static_cast<size_t>(kRows) * (shape.k / shape.group)) {}
};

struct Tile {
  int8_t *x;
  float *d, *s32, *s16;
  int32_t *start32, *start16;
  Tile(uint32_t k, void *base) {
    const size_t n32 = static_cast<size_t>(kTokens) * (k / 32), n16 = 2 * n32;
    x = static_cast<int8_t *>(base);
    d = reinterpret_cast<float *>(x + static_cast<size_t>(kTokens) * k);
    s32 = d + n32;
    s16 = s32 + n32;
    start32 = reinterpret_cast<int32_t *>(s16 + n16);
    start16 = start32 + n32;
  }
};

size_t panel_bytes(const PanelShape &shape) {
  const size_t groups = shape.k / shape.group;
  return kRows * (shape.k + groups * sizeof(float) * (shape.has_min ? 2 : 1));
}

size_t tile_bytes(uint32_t k) {
  return static_cast<size_t>(kTokens) * (k + (k / 32 * 3 + k / 16 * 2) * sizeof(float));
}

// ---- panels ------------------------------------------------------------------------------------

// Formats of spread.h.
template <class D>
void pack_decoded(const PanelRows &from, uint32_t k, Panel panel) {
  for (uint32_t half = 0; half < kRows; half += 16) {
    const uint8_t *at[16];
    for (uint32_t r = 0; r < 16; r++) {
      // Missing rows repeat the last: their outputs are never stored.
      const uint32_t row = half + r < from.rows ? half + r : from.rows - 1;
      at[r] = from.w + row * from.row_bytes;
    }
    uint8_t *q = panel.q + half * 4;
    float *scale = panel.scale + half, *min = panel.min + half;
    if (from.woven && half + 16 <= from.rows) {
      spread<D, kRows, kBias>(at[0], k, q, scale, min);
      continue;
    }
    alignas(64) uint8_t tile[16 * D::kBlockBytes];
    Ahead ahead = {at[0] + 16 * from.row_bytes};
    for (uint32_t i = 0; i < k / D::kBlock; i++) {
      weave_block<D>(at, &ahead, tile);
      for (const uint8_t *&p : at) p += D::kBlockBytes;
      spread_block<D, kRows, kBias>(tile, q, scale, min);
      q += D::kBlock * kRows;
      scale += D::kBlock / D::kGroup * kRows;
      min += D::kBlock / D::kGroup * kRows;
    }
  }
}

// Any format, one row at a time through its unpack function.
// scratch: q i8 [k], scale f32 [k / 16], min f32 [k / 16]
void pack_unpacked(const TypeTraits &type, const PanelRows &from, uint32_t k, Panel panel,
                   void *scratch) {
  uint32_t *q = static_cast<uint32_t *>(scratch);
  float *scale = reinterpret_cast<float *>(q + k / 4);
  float *min = scale + k / 16;
  const uint32_t flip = type.has_min ? 0 : 0x80808080u;
  uint32_t *out = reinterpret_cast<uint32_t *>(panel.q);
  for (uint32_t r = 0; r < kRows; r++) {
    const uint32_t row = r < from.rows ? r : from.rows - 1;
    type.unpack(from.w + row * from.row_bytes, reinterpret_cast<int8_t *>(q), scale, min, k);
    for (uint32_t i = 0; i < k / 4; i++) out[i * kRows + r] = q[i] ^ flip;
    for (uint32_t i = 0; i < k / type.group; i++) panel.scale[i * kRows + r] = scale[i];
    if (!type.has_min) continue;
    for (uint32_t i = 0; i < k / type.group; i++) panel.min[i * kRows + r] = min[i];
  }
}

size_t pack_scratch_bytes(uint32_t k) {
  return k + k / 16 * 2 * sizeof(float);
}

void pack_panel(const TypeTraits &type, const PanelRows &from, uint32_t k, void *base,
                void *scratch) {
  const Panel panel({k, type.group, type.has_min}, base);
  const bool known =
      with_format(type.type, [&](auto format) { pack_decoded<decltype(format)>(from, k, panel); });
  if (!known) pack_unpacked(type, from, k, panel, scratch);
}

// ---- tiles -------------------------------------------------------------------------------------

constexpr __mmask16 kTokenLanes = (1u << kTokens) - 1;

// Words of 12 tokens side by side: rows[t] word i goes to out[i * kTokens + t] for i < words <= 16.
inline void store_words(__m512i (&rows)[16], uint32_t words, void *out) {
  transpose(rows);
  int32_t *at = static_cast<int32_t *>(out);
#pragma GCC unroll 16
  for (uint32_t i = 0; i < 16; i++) {
    if (i == words) return;
    _mm512_mask_storeu_epi32(at + i * kTokens, kTokenLanes, rows[i]);
  }
}

// src: [n] rows of `words` words; out: [words][12]. Missing tokens become zero.
inline void interleave_tokens(const void *src, uint32_t n, uint32_t words, void *out) {
  const int32_t *from = static_cast<const int32_t *>(src);
  int32_t *to = static_cast<int32_t *>(out);
  for (uint32_t i = 0; i < words; i += 16) {
    const uint32_t left = words - i < 16 ? words - i : 16;
    const __mmask16 some = static_cast<__mmask16>((1u << left) - 1);
    __m512i a[16];
#pragma GCC unroll 16
    for (uint32_t t = 0; t < 16; t++) {
      a[t] = t < n ? _mm512_maskz_loadu_epi32(some, from + static_cast<uint64_t>(t) * words + i)
                   : _mm512_setzero_si512();
    }
    store_words(a, left, to + static_cast<size_t>(i) * kTokens);
  }
}

void pack_tile(const ActQ8 &act, uint32_t n, uint32_t k, void *base) {
  const Tile tile(k, base);
  interleave_tokens(act.q, n, k / 4, tile.x);
  interleave_tokens(act.d, n, k / 32, tile.d);
  interleave_tokens(act.s, n, k / 16, tile.s16);
  for (uint32_t i = 0; i < k; i += 256) {
    const uint32_t left = k - i < 256 ? k - i : 256;
    __m512i a[16];
#pragma GCC unroll 16
    for (uint32_t t = 0; t < 16; t++) {
      a[t] = t < n ? group_starts(act.q + static_cast<uint64_t>(t) * k + i, left, kBias)
                   : _mm512_setzero_si512();
    }
    store_words(a, left / 16, tile.start16 + i / 16 * kTokens);
  }
  for (uint32_t i = 0; i < k / 32 * kTokens; i += kTokens) {
    const float *s = tile.s16 + 2 * i;
    const int32_t *start = tile.start16 + 2 * i;
    const __m512 s0 = _mm512_maskz_loadu_ps(kTokenLanes, s);
    const __m512 s1 = _mm512_maskz_loadu_ps(kTokenLanes, s + kTokens);
    const __m512i start0 = _mm512_maskz_loadu_epi32(kTokenLanes, start);
    const __m512i start1 = _mm512_maskz_loadu_epi32(kTokenLanes, start + kTokens);
    _mm512_mask_storeu_ps(tile.s32 + i, kTokenLanes, _mm512_add_ps(s0, s1));
    _mm512_mask_storeu_epi32(tile.start32 + i, kTokenLanes, _mm512_add_epi32(start0, start1));
  }
}

// ---- product -----------------------------------------------------------------------------------

// Four activations of a token, for every row.
inline __m512i token_word(const int8_t *x, uint32_t i, uint32_t t) {
  return _mm512_set1_epi32(static_cast<int>(load_u32(x + (i * kTokens + t) * 4)));
}

// The sums are in memory, and the compiler is kept from holding them in registers as well.
inline float *in_memory(float *p) {
  __asm__("" : "+r"(p));
  return p;
}

// dot = start + the integer products of 32 values. start: [kT] or null for zero.
template <uint32_t kT>
inline void dot_steps(const uint8_t *q, const int8_t *x, const int32_t *start,
                      __m512i (&dot)[2][kT]) {
  for (uint32_t t = 0; t < kT; t++) {
    dot[0][t] = dot[1][t] = start != nullptr ? _mm512_set1_epi32(start[t]) : _mm512_setzero_si512();
  }
#pragma GCC unroll 8
  for (uint32_t i = 0; i < 8; i++) {
    const __m512i w0 = load64(q + i * kRows * 4), w1 = load64(q + i * kRows * 4 + 64);
    for (uint32_t t = 0; t < kT; t++) {
      const __m512i xt = token_word(x, i, t);
      dot[0][t] = _mm512_dpbusd_epi32(dot[0][t], w0, xt);
      dot[1][t] = _mm512_dpbusd_epi32(dot[1][t], w1, xt);
    }
  }
}

// kT of the tile's tokens, one scale per 32 values. The sums live in memory: registers are full of
// integer dots.
template <uint32_t kT, bool kMin>
void product_32(uint32_t k, const Panel &panel, const Tile &tile, float (*sum)[kRows]) {
  for (uint32_t g = 0; g < k / 32; g++) {
    const float *d = tile.d + g * kTokens, *s = tile.s32 + g * kTokens;
    __m512i dot[2][kT];
    dot_steps<kT>(panel.q + static_cast<size_t>(g) * 32 * kRows,
                  tile.x + static_cast<size_t>(g) * 32 * kTokens,
                  kMin ? nullptr : tile.start32 + g * kTokens, dot);
    __m512 scale[2], min[2];
    load_pair<true, 16>(panel.scale + g * kRows, scale);
    load_pair<kMin, 16>(panel.min + g * kRows, min);
    float *out = in_memory(sum[0]);
#pragma GCC unroll 12
    for (uint32_t t = 0; t < kT; t++, out += kRows) {
      const __m512 dt = _mm512_set1_ps(d[t]);
      const __m512 st = kMin ? _mm512_set1_ps(s[t]) : _mm512_setzero_ps();
#pragma GCC unroll 2
      for (uint32_t v = 0; v < 2; v++) {
        const __m512 total = _mm512_load_ps(out + 16 * v);
        _mm512_store_ps(out + 16 * v, add_32<kMin>(total, dot[v][t], scale[v], min[v], dt, st));
      }
    }
  }
}

// One scale per 16 values: the dots of both halves of 32 values for 16 rows at a time, so that the
// halves meet in registers and share the multiplication by the activation scale.
template <uint32_t kT, bool kMin>
void product_16(uint32_t k, const Panel &panel, const Tile &tile, float (*sum)[kRows]) {
  for (uint32_t g = 0; g < k / 32; g++) {
    const float *d = tile.d + g * kTokens, *s = tile.s16 + 2 * g * kTokens;
    const int32_t *start = tile.start16 + 2 * g * kTokens;
    const int8_t *x = tile.x + static_cast<size_t>(g) * 32 * kTokens;
    for (uint32_t v = 0; v < 2; v++) {
      // Otherwise the compiler keeps the first round's 96 broadcasts for the second, on the stack.
      __asm__("" : "+r"(x));
      const uint8_t *q = panel.q + static_cast<size_t>(g) * 32 * kRows + 64 * v;
      __m512i dot[2][kT];
      for (uint32_t t = 0; t < kT; t++) {
        dot[0][t] = kMin ? _mm512_setzero_si512() : _mm512_set1_epi32(start[t]);
        dot[1][t] = kMin ? _mm512_setzero_si512() : _mm512_set1_epi32(start[kTokens + t]);
      }
#pragma GCC unroll 4
      for (uint32_t i = 0; i < 4; i++) {
        const __m512i w0 = load64(q + i * kRows * 4), w1 = load64(q + (i + 4) * kRows * 4);
        for (uint32_t t = 0; t < kT; t++) {
          dot[0][t] = _mm512_dpbusd_epi32(dot[0][t], w0, token_word(x, i, t));
          dot[1][t] = _mm512_dpbusd_epi32(dot[1][t], w1, token_word(x, i + 4, t));
        }
      }
      __m512 scale[2], min[2];
      load_pair<true, kRows>(panel.scale + 2 * g * kRows + 16 * v, scale);
      load_pair<kMin, kRows>(panel.min + 2 * g * kRows + 16 * v, min);
      float *out = in_memory(sum[0] + 16 * v);
#pragma GCC unroll 12
      for (uint32_t t = 0; t < kT; t++, out += kRows) {
        const __m512 total = add_16<kMin>(_mm512_load_ps(out), {dot[0][t], dot[1][t]}, scale, min,
                                          _mm512_set1_ps(d[t]), s + t, kTokens);
        _mm512_store_ps(out, total);
      }
    }
  }
}

// sum: [kT][32], set to the products of the panel with kT tokens.
template <uint32_t kT, uint32_t kGroup, bool kMin>
void product(uint32_t k, const Panel &panel, const Tile &tile, float (*sum)[kRows]) {
  for (uint32_t t = 0; t < kT; t++) {
    _mm512_store_ps(sum[t], _mm512_setzero_ps());
    _mm512_store_ps(sum[t] + 16, _mm512_setzero_ps());
  }
  if constexpr (kGroup == 32) {
    product_32<kT, kMin>(k, panel, tile, sum);
  } else {
    product_16<kT, kMin>(k, panel, tile, sum);
  }
}

template <uint32_t kGroup, bool kMin>
void gemm_shape(uint32_t k, const Panel &panel, const Tile &tile, uint32_t rows, uint32_t n,
                float *out, uint64_t out_stride) {
  alignas(64) float sum[kTokens][kRows];
  if (n <= 4) {
    product<4, kGroup, kMin>(k, panel, tile, sum);
  } else if (n <= 8) {
    product<8, kGroup, kMin>(k, panel, tile, sum);
  } else {
    product<12, kGroup, kMin>(k, panel, tile, sum);
  }
  const __mmask16 low = static_cast<__mmask16>(rows >= 16 ? 0xffffu : (1u << rows) - 1);
  const __mmask16 high = static_cast<__mmask16>(rows <= 16 ? 0u : (1u << (rows - 16)) - 1);
  for (uint32_t t = 0; t < n; t++) {
    _mm512_mask_storeu_ps(out + t * out_stride, low, _mm512_load_ps(sum[t]));
    _mm512_mask_storeu_ps(out + t * out_stride + 16, high, _mm512_load_ps(sum[t] + 16));
  }
}

void gemm_q8(const PanelShape &shape, const void *panel_base, const void *tile_base, uint32_t rows,
             uint32_t n, float *out, uint64_t out_stride) {
  const Panel panel(shape, const_cast<void *>(panel_base));
  const Tile tile(shape.k, const_cast<void *>(tile_base));
  if (shape.group == 32) {
    if (shape.has_min) return gemm_shape<32, true>(shape.k, panel, tile, rows, n, out, out_stride);
    return gemm_shape<32, false>(shape.k, panel, tile, rows, n, out, out_stride);
  }
  if (shape.has_min) return gemm_shape<16, true>(shape.k, panel, tile, rows, n, out, out_stride);
  return gemm_shape<16, false>(shape.k, panel, tile, rows, n, out, out_stride);
}

uint64_t int8_peak_loop(uint64_t iterations) {
  constexpr int kChains = 16;  // enough independent sums to hide the latency of the instruction
  __m512i sum[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; i++) sum[i] = _mm512_set1_epi32(i);
  const __m512i a = _mm512_set1_epi32(static_cast<int>(iterations)), b = _mm512_set1_epi8(3);
  for (uint64_t n = 0; n < iterations; n++) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; i++) {
      sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
      __asm__ volatile("" : "+v"(sum[i]));  // keeps the product in the loop
    }
  }
  return iterations * kChains * 64;
}

}  // namespace

void q35_init_gemm_avx512(Kernels *kernels) {
  kernels->panel_rows = kRows;
  kernels->tile_tokens = kTokens;
  kernels->panel_bytes = panel_bytes;
  kernels->tile_bytes = tile_bytes;
  kernels->pack_panel = pack_panel;
  kernels->pack_scratch_bytes = pack_scratch_bytes;
  kernels->pack_tile = pack_tile;
  kernels->gemm_q8 = gemm_q8;
  kernels->int8_peak_loop = int8_peak_loop;
}

}  // namespace q35
