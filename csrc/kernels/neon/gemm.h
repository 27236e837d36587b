// Integer products for many tokens on NEON: a panel of 8 rows times a tile of 4 tokens, in eight
// vectors of four outputs each.
#pragma once

#include "kernels/neon/panel.h"

namespace q35 {
namespace {

// A product is kA x kB vectors: kA * kB == 8.
#if defined(__ARM_FEATURE_MATMUL_INT8)

// Vector [a][b]: rows 2a, 2a, 2a + 1, 2a + 1 and tokens 2b, 2b + 1, 2b, 2b + 1.
constexpr uint32_t kA = 4, kB = 2;

inline void spread_rows(const float *p, float32x4_t (&out)[kA]) {
  for (uint32_t i = 0; i < 2; i++) {
    const float32x4_t a = vld1q_f32(p + 4 * i);
    out[2 * i] = vzip1q_f32(a, a);
    out[2 * i + 1] = vzip2q_f32(a, a);
  }
}

// sum[b] += y[b] * tokens 2b, 2b + 1
inline void add_tokens(const float32x4_t (&y)[kB], float32x4_t tokens, float32x4_t (&sum)[kB]) {
  const float64x2_t pairs = vreinterpretq_f64_f32(tokens);
  sum[0] = vfmaq_f32(sum[0], y[0], vreinterpretq_f32_f64(vdupq_laneq_f64(pairs, 0)));
  sum[1] = vfmaq_f32(sum[1], y[1], vreinterpretq_f32_f64(vdupq_laneq_f64(pairs, 1)));
}

// sum[b] -= rows * tokens 2b, 2b + 1
inline void subtract_tokens(float32x4_t rows, float32x4_t tokens, float32x4_t (&sum)[kB]) {
  const float64x2_t pairs = vreinterpretq_f64_f32(tokens);
  sum[0] = vfmsq_f32(sum[0], rows, vreinterpretq_f32_f64(vdupq_laneq_f64(pairs, 0)));
  sum[1] = vfmsq_f32(sum[1], rows, vreinterpretq_f32_f64(vdupq_laneq_f64(pairs, 1)));
}

// q: [kGroup / 8][8][8], x: [kGroup / 8][4][8]
template <uint32_t kGroup>
inline void dots(const int8_t *q, const int8_t *x, int32x4_t (&dot)[kA][kB]) {
#pragma GCC unroll 4
  for (uint32_t i = 0; i < kGroup / kUnitK; i++) {
    const int8x16_t x0 = vld1q_s8(x + i * 32), x1 = vld1q_s8(x + i * 32 + 16);
#pragma GCC unroll 4
    for (uint32_t a = 0; a < kA; a++) {
      const int8x16_t w = vld1q_s8(q + i * 64 + 16 * a);
      const int32x4_t zero = vdupq_n_s32(0);
      dot[a][0] = vmmlaq_s32(i == 0 ? zero : dot[a][0], w, x0);
      dot[a][1] = vmmlaq_s32(i == 0 ? zero : dot[a][1], w, x1);
    }
  }
}

// out: [4 tokens] at stride of 8 rows
inline void store_outputs(const float32x4_t (&sum)[kA][kB], float *out, uint64_t stride) {
#pragma GCC unroll 2
  for (uint32_t b = 0; b < kB; b++) {
#pragma GCC unroll 2
    for (uint32_t h = 0; h < 2; h++) {
      float *at = out + 2 * b * stride + 4 * h;
      vst1q_f32(at, vuzp1q_f32(sum[2 * h][b], sum[2 * h + 1][b]));
      vst1q_f32(at + stride, vuzp2q_f32(sum[2 * h][b], sum[2 * h + 1][b]));
    }
  }
}

#else

// Vector [a][b]: rows 4a..4a + 3 and token b.
constexpr uint32_t kA = 2, kB = 4;

inline void spread_rows(const float *p, float32x4_t (&out)[kA]) {
  out[0] = vld1q_f32(p);
  out[1] = vld1q_f32(p + 4);
}

// sum[b] += y[b] * token b
inline void add_tokens(const float32x4_t (&y)[kB], float32x4_t tokens, float32x4_t (&sum)[kB]) {
  sum[0] = vfmaq_laneq_f32(sum[0], y[0], tokens, 0);
  sum[1] = vfmaq_laneq_f32(sum[1], y[1], tokens, 1);
  sum[2] = vfmaq_laneq_f32(sum[2], y[2], tokens, 2);
  sum[3] = vfmaq_laneq_f32(sum[3], y[3], tokens, 3);
}

// sum[b] -= rows * token b
inline void subtract_tokens(float32x4_t rows, float32x4_t tokens, float32x4_t (&sum)[kB]) {
  sum[0] = vfmsq_laneq_f32(sum[0], rows, tokens, 0);
  sum[1] = vfmsq_laneq_f32(sum[1], rows, tokens, 1);
  sum[2] = vfmsq_laneq_f32(sum[2], rows, tokens, 2);
  sum[3] = vfmsq_laneq_f32(sum[3], rows, tokens, 3);
}

#if defined(__ARM_FEATURE_DOTPROD)

template <int kT>
inline void dot_token(int8x16_t w0, int8x16_t w1, int8x16_t x, int32x4_t (&dot)[kA][kB]) {
  dot[0][kT] = vdotq_laneq_s32(dot[0][kT], w0, x, kT);
  dot[1][kT] = vdotq_laneq_s32(dot[1][kT], w1, x, kT);
}

// q: [kGroup / 4][8][4], x: [kGroup / 4][4][4]
template <uint32_t kGroup>
inline void dots(const int8_t *q, const int8_t *x, int32x4_t (&dot)[kA][kB]) {
  for (uint32_t b = 0; b < kB; b++) {
    dot[0][b] = reload(kStartBits);
    dot[1][b] = reload(kStartBits);
  }
#pragma GCC unroll 8
  for (uint32_t i = 0; i < kGroup / kUnitK; i++) {
    const int8x16_t w0 = vld1q_s8(q + i * 32), w1 = vld1q_s8(q + i * 32 + 16);
    const int8x16_t xs = vld1q_s8(x + i * 16);
    dot_token<0>(w0, w1, xs, dot);
    dot_token<1>(w0, w1, xs, dot);
    dot_token<2>(w0, w1, xs, dot);
    dot_token<3>(w0, w1, xs, dot);
  }
}

#else

template <uint32_t kGroup>
inline int32x4_t dot_row(const int8_t *w, const int8_t *x) {
  if constexpr (kGroup == 16) return int_dot16(vld1q_s8(w), vld1q_s8(x));
  return int_dot32<128>({{vld1q_s8(w), vld1q_s8(w + kRows * 16)}},
                        {{vld1q_s8(x), vld1q_s8(x + kTokens * 16)}});
}

// q: [kGroup / 16][8][16], x: [kGroup / 16][4][16]
template <uint32_t kGroup>
inline void dots(const int8_t *q, const int8_t *x, int32x4_t (&dot)[kA][kB]) {
#pragma GCC unroll 2
  for (uint32_t a = 0; a < kA; a++) {
    const int8_t *w = q + 64 * a;
#pragma GCC unroll 4
    for (uint32_t b = 0; b < kB; b++) {
      const int8_t *xb = x + 16 * b;
      const int32x4_t low = vpaddq_s32(dot_row<kGroup>(w, xb), dot_row<kGroup>(w + 16, xb));
      const int32x4_t high = vpaddq_s32(dot_row<kGroup>(w + 32, xb), dot_row<kGroup>(w + 48, xb));
      dot[a][b] = vpaddq_s32(low, high);
    }
  }
}

#endif

inline void store_outputs(const float32x4_t (&sum)[kA][kB], float *out, uint64_t stride) {
#pragma GCC unroll 4
  for (uint32_t b = 0; b < kB; b++) {
    vst1q_f32(out + b * stride, sum[0][b]);
    vst1q_f32(out + b * stride + 4, sum[1][b]);
  }
}

#endif

// sum -= min * (sum of the activations) of the groups of 32 values. min: [kParts][8], s: [2][4].
template <uint32_t kParts>
inline void subtract_min(const float *min, const float *s, float32x4_t (&sum)[kA][kB]) {
  const float32x4_t first = vld1q_f32(s), second = vld1q_f32(s + kTokens);
#pragma GCC unroll 2
  for (uint32_t part = 0; part < kParts; part++) {
    const float32x4_t total = kParts == 1 ? vaddq_f32(first, second) : part == 0 ? first : second;
    float32x4_t rows[kA];
    spread_rows(min + part * kRows, rows);
    subtract_tokens(rows[0], total, sum[0]);
    subtract_tokens(rows[1], total, sum[1]);
    if constexpr (kA == 4) {
      subtract_tokens(rows[2], total, sum[2]);
      subtract_tokens(rows[3], total, sum[3]);
    }
  }
}

// y = dots * scales of one group. dot: as dots() leaves it; factor: the group's line of the panel.
inline void scale_dots(const int32x4_t (&dot)[kA][kB], const float *factor,
                       float32x4_t (&y)[kA][kB]) {
  float32x4_t rows[kA];
  spread_rows(factor, rows);
  for (uint32_t a = 0; a < kA; a++) {
    for (uint32_t b = 0; b < kB; b++) {
#if defined(__ARM_FEATURE_DOTPROD) && !defined(__ARM_FEATURE_MATMUL_INT8)
      const float32x4_t start =
          vreinterpretq_f32_s32(reload(reinterpret_cast<const int32_t *>(factor + kRows + 4 * a)));
      y[a][b] = vfmaq_f32(start, vreinterpretq_f32_s32(dot[a][b]), rows[a]);
#else
      y[a][b] = vmulq_f32(vcvtq_f32_s32(dot[a][b]), rows[a]);
#endif
    }
  }
}

template <uint32_t kGroup, bool kMin>
void product(uint32_t k, const Panel &panel, const Tile &tile, float *out, uint64_t out_stride) {
  float32x4_t sum[kA][kB] = {};
  constexpr uint32_t kParts = 32 / kGroup;
  const int8_t *q = panel.q, *x = tile.x;
  const float *factor = panel.factor, *min = panel.min, *d = tile.d, *s = tile.s;
  for (uint32_t g = k / 32; g != 0; g--) {
    const float32x4_t scales = vld1q_f32(d);
#pragma GCC unroll 2
    for (uint32_t part = 0; part < kParts; part++) {
      int32x4_t dot[kA][kB];
      float32x4_t y[kA][kB];
      dots<kGroup>(q, x, dot);
      scale_dots(dot, factor, y);
      add_tokens(y[0], scales, sum[0]);
      add_tokens(y[1], scales, sum[1]);
      if constexpr (kA == 4) {
        add_tokens(y[2], scales, sum[2]);
        add_tokens(y[3], scales, sum[3]);
      }
      q += kGroup * kRows;
      x += kGroup * kTokens;
      factor += kFactorLine;
    }
    if constexpr (kMin) subtract_min<kParts>(min, s, sum);
    min += kParts * kRows;
    d += kTokens;
    s += 2 * kTokens;
  }
  store_outputs(sum, out, out_stride);
}

void gemm_q8(const PanelShape &shape, const void *panel_base, const void *tile_base, uint32_t rows,
             uint32_t n, float *out, uint64_t out_stride) {
  const Panel panel(shape, const_cast<void *>(panel_base));
  const Tile tile(shape.k, const_cast<void *>(tile_base));
  const bool whole = rows == kRows && n == kTokens;
  float all[kTokens * kRows];
  float *to = whole ? out : all;
  const uint64_t stride = whole ? out_stride : kRows;
  if (shape.group == 32) {
    shape.has_min ? product<32, true>(shape.k, panel, tile, to, stride)
                  : product<32, false>(shape.k, panel, tile, to, stride);
  } else {
    shape.has_min ? product<16, true>(shape.k, panel, tile, to, stride)
                  : product<16, false>(shape.k, panel, tile, to, stride);
  }
  if (whole) return;
  for (uint32_t t = 0; t < n; t++) {
    for (uint32_t r = 0; r < rows; r++) out[t * out_stride + r] = all[t * kRows + r];
  }
}

void fill_gemm_q8(Kernels *kernels) {
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

}  // namespace
}  // namespace q35
