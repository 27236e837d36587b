// Panels of weights and tiles of activations of the AArch64 tiers, and how they are filled.
//
// Panel of 8 rows: q i8 [k / kUnitK][8][kUnitK], factor f32 [k / group][kFactorLine], min f32
// [k / group][8]. A line of factors is 8 scales and, with kBiased, -kStart times each.
// Tile of 4 tokens: x i8 [k / kUnitK][4][kUnitK], d f32 [k / 32][4], s f32 [k / 16][4].
#pragma once

#include "kernels/kernels.h"
#include "kernels/neon/decode.h"

namespace q35 {
namespace {

constexpr uint32_t kRows = 8;    // with 4 tokens: 8 vectors of sums and 8 of dots, of 32 registers
constexpr uint32_t kTokens = 4;  // the lanes of one register hold a factor of each

// With sdot alone the dots of a panel begin at kStart and the panel holds -kStart * scale, so that
// scale * (kStart + dot) - kStart * scale, one fused operation, is scale * dot: kStart * scale is
// exact because a scale is a half times an integer of at most 8 bits.
#if defined(__ARM_FEATURE_DOTPROD) && !defined(__ARM_FEATURE_MATMUL_INT8)
constexpr bool kBiased = true;
#else
constexpr bool kBiased = false;
#endif
constexpr uint32_t kFactorLine = kBiased ? 2 * kRows : kRows;

struct Panel {
  int8_t *q;
  float *factor, *min;
  Panel(const PanelShape &shape, void *base)
      : q(static_cast<int8_t *>(base)),
        factor(reinterpret_cast<float *>(q + static_cast<size_t>(kRows) * shape.k)),
        min(factor + static_cast<size_t>(kFactorLine) * (shape.k / shape.group)) {}
};

struct Tile {
  int8_t *x;
  float *d, *s;
  Tile(uint32_t k, void *base)
      : x(static_cast<int8_t *>(base)),
        d(reinterpret_cast<float *>(x + static_cast<size_t>(kTokens) * k)),
        s(d + static_cast<size_t>(kTokens) * (k / 32)) {}
};

size_t panel_bytes(const PanelShape &shape) {
  const size_t groups = shape.k / shape.group;
  return kRows * shape.k + groups * sizeof(float) * (kFactorLine + (shape.has_min ? kRows : 0));
}

size_t tile_bytes(uint32_t k) {
  return kTokens * (k + (k / kActGroup + k / 16) * sizeof(float));
}

// Four rows unpacked to int8 with scales and minimums.
size_t pack_scratch_bytes(uint32_t k) {
  return 4 * (k + k / 16 * 2 * sizeof(float));
}

// a[i] lane j becomes a[j] lane i.
inline void transpose(float32x4_t (&a)[4]) {
  const float64x2_t t0 = vreinterpretq_f64_f32(vtrn1q_f32(a[0], a[1]));
  const float64x2_t t1 = vreinterpretq_f64_f32(vtrn2q_f32(a[0], a[1]));
  const float64x2_t t2 = vreinterpretq_f64_f32(vtrn1q_f32(a[2], a[3]));
  const float64x2_t t3 = vreinterpretq_f64_f32(vtrn2q_f32(a[2], a[3]));
  a[0] = vreinterpretq_f32_f64(vtrn1q_f64(t0, t2));
  a[1] = vreinterpretq_f32_f64(vtrn1q_f64(t1, t3));
  a[2] = vreinterpretq_f32_f64(vtrn2q_f64(t0, t2));
  a[3] = vreinterpretq_f32_f64(vtrn2q_f64(t1, t3));
}

// Stores 16 values of 4 rows (or tokens) of a panel (or tile) of kLine rows. out: the first of the
// rows in the unit of the first value.
template <uint32_t kLine>
inline void put16(const int8x16_t (&a)[4], int8_t *out) {
  if constexpr (kUnitK == 16) {
    for (uint32_t r = 0; r < 4; r++) vst1q_s8(out + r * 16, a[r]);
  } else if constexpr (kUnitK == 8) {
    for (uint32_t r = 0; r < 4; r++) {
      vst1_s8(out + r * 8, vget_low_s8(a[r]));
      vst1_s8(out + (kLine + r) * 8, vget_high_s8(a[r]));
    }
  } else {
    float32x4_t word[4];
    for (uint32_t r = 0; r < 4; r++) word[r] = vreinterpretq_f32_s8(a[r]);
    transpose(word);
    for (uint32_t i = 0; i < 4; i++) {
      vst1q_s8(out + i * kLine * 4, vreinterpretq_s8_f32(word[i]));
    }
  }
}

// Stores lane i of four rows' vectors to line i of `out`, for the first n lanes.
inline void put_lines(const float32x4_t (&rows)[4], int n, uint32_t line, float *out) {
  float32x4_t a[4] = {rows[0], rows[1], rows[2], rows[3]};
  transpose(a);
  for (int i = 0; i < n; i++) vst1q_f32(out + static_cast<uint32_t>(i) * line, a[i]);
}

// ---- panels ------------------------------------------------------------------------------------

template <class D, int kI, int kN>
inline void put_chunks(const uint8_t *const (&w)[4], int8_t *q) {
  int8x16_t first[4], second[4];
  for (uint32_t r = 0; r < 4; r++) {
    const int8x16x2_t x = D::template load<kI>(w[r]);
    first[r] = x.val[0];
    second[r] = x.val[1];
  }
  put16<kRows>(first, q + 32 * kI * kRows);
  put16<kRows>(second, q + (32 * kI + 16) * kRows);
  if constexpr (kI + 1 < kN) put_chunks<D, kI + 1, kN>(w, q);
}

// kN groups of 32 values of 4 rows. q, factor, min: of the first row.
template <class D, int kN>
inline void put_unit(const uint8_t *const (&w)[4], int8_t *q, float *factor, float *min) {
  put_chunks<D, 0, kN>(w, q);
  Scales<D, kN> s[4];
  for (uint32_t r = 0; r < 4; r++) s[r] = D::template scales<kN>(w[r]);
  constexpr int kScales = kN * 32 / D::kGroup;
  for (int i = 0; i < kScales; i += 4) {
    const int n = kScales - i < 4 ? kScales - i : 4;
    float *at = factor + static_cast<uint32_t>(i) * kFactorLine;
    float32x4_t rows[4];
    for (uint32_t r = 0; r < 4; r++) rows[r] = s[r].scale[i / 4];
    put_lines(rows, n, kFactorLine, at);
    if constexpr (kBiased) {
      for (uint32_t r = 0; r < 4; r++) rows[r] = vmulq_n_f32(rows[r], -kStart);
      put_lines(rows, n, kFactorLine, at + kRows);
    }
    if constexpr (D::kHasMin) {
      for (uint32_t r = 0; r < 4; r++) rows[r] = s[r].min[i / 4];
      put_lines(rows, n, kRows, min + static_cast<uint32_t>(i) * kRows);
    }
  }
}

// Rows past the last repeat it: their outputs are never stored.
inline const uint8_t *row_at(const PanelRows &from, uint32_t row) {
  return from.w + (row < from.rows ? row : from.rows - 1) * from.row_bytes;
}

template <class D>
void pack_decoded(const PanelRows &from, uint32_t k, const Panel &panel) {
  for (uint32_t first = 0; first < kRows; first += 4) {
    const uint8_t *at[4];
    for (uint32_t r = 0; r < 4; r++) at[r] = row_at(from, first + r);
    int8_t *q = panel.q + first * kUnitK;
    float *factor = panel.factor + first, *min = panel.min + first;
    constexpr uint32_t kN = D::kUnit == 256 ? 8 : 4;
    uint32_t groups = k / 32;
    const auto advance = [&](uint32_t n) {
      for (uint32_t r = 0; r < 4; r++) at[r] += n * 32 / D::kUnit * D::kBytes;
      q += n * 32 * kRows;
      factor += n * 32 / D::kGroup * kFactorLine;
      min += n * 32 / D::kGroup * kRows;
      groups -= n;
    };
    while (groups >= kN) {
      put_unit<D, static_cast<int>(kN)>(at, q, factor, min);
      advance(kN);
    }
    if constexpr (D::kUnit == 32) {
      while (groups != 0) {
        put_unit<D, 1>(at, q, factor, min);
        advance(1);
      }
    }
  }
}

// Any format, four rows at a time through its unpack function.
// scratch: q i8 [4][k], scale f32 [4][k / 16], min f32 [4][k / 16]
void pack_unpacked(const TypeTraits &type, const PanelRows &from, uint32_t k, const Panel &panel,
                   void *scratch) {
  int8_t *q = static_cast<int8_t *>(scratch);
  float *scale = reinterpret_cast<float *>(q + 4 * static_cast<size_t>(k));
  float *min = scale + k / 4;
  const uint32_t groups = k / type.group;
  for (uint32_t first = 0; first < kRows; first += 4) {
    for (uint32_t r = 0; r < 4; r++) {
      type.unpack(row_at(from, first + r), q + static_cast<size_t>(r) * k, scale + r * (k / 16),
                  min + r * (k / 16), k);
      for (uint32_t i = 0; i < groups; i++) {
        float *factor = panel.factor + i * kFactorLine + first + r;
        factor[0] = scale[r * (k / 16) + i];
        if constexpr (kBiased) factor[kRows] = -kStart * factor[0];
        if (type.has_min) panel.min[i * kRows + first + r] = min[r * (k / 16) + i];
      }
    }
    for (uint32_t i = 0; i < k; i += 16) {
      int8x16_t a[4];
      for (uint32_t r = 0; r < 4; r++) a[r] = vld1q_s8(q + static_cast<size_t>(r) * k + i);
      put16<kRows>(a, panel.q + static_cast<size_t>(i) * kRows + first * kUnitK);
    }
  }
}

void pack_panel(const TypeTraits &type, const PanelRows &from, uint32_t k, void *base,
                void *scratch) {
  const Panel panel({k, type.group, type.has_min}, base);
  switch (type.type) {
    case DType::Q4_0:
      return pack_decoded<Q4_0>(from, k, panel);
    case DType::Q8_0:
      return pack_decoded<Q8_0>(from, k, panel);
    case DType::Q4_K:
      return pack_decoded<Q4_K>(from, k, panel);
    case DType::Q5_K:
      return pack_decoded<Q5_K>(from, k, panel);
    case DType::Q6_K:
      return pack_decoded<Q6_K>(from, k, panel);
    case DType::IQ4_NL:
      return pack_decoded<IQ4_NL>(from, k, panel);
    case DType::IQ4_XS:
      return pack_decoded<IQ4_XS>(from, k, panel);
    default:
      return pack_unpacked(type, from, k, panel, scratch);
  }
}

// ---- tiles -------------------------------------------------------------------------------------

// Tokens past the last repeat it.
void pack_tile(const ActQ8 &act, uint32_t n, uint32_t k, void *base) {
  const Tile tile(k, base);
  const int8_t *q[kTokens];
  for (uint32_t t = 0; t < kTokens; t++) {
    const size_t token = t < n ? t : n - 1;
    q[t] = act.q + token * k;
    const float *d = act.d + token * (k / 32), *s = act.s + token * (k / 16);
    for (uint32_t i = 0; i < k / 32; i++) tile.d[i * kTokens + t] = d[i];
    for (uint32_t i = 0; i < k / 16; i++) tile.s[i * kTokens + t] = s[i];
  }
  for (uint32_t i = 0; i < k; i += 16) {
    int8x16_t a[4];
    for (uint32_t t = 0; t < kTokens; t++) a[t] = vld1q_s8(q[t] + i);
    put16<kTokens>(a, tile.x + static_cast<size_t>(i) * kTokens);
  }
}

}  // namespace
}  // namespace q35
