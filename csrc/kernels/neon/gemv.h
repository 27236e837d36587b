// Integer products for few tokens on NEON: blocks are decoded in registers and met with up to four
// tokens. With i8mm two rows meet two tokens in one instruction. Other formats go through panels.
#pragma once

#include "kernels/kernels.h"
#include "kernels/neon/decode.h"

namespace q35 {
namespace {

// Pointers of one tile into weights and activations, at the same value of k.
template <uint32_t kR, uint32_t kC>
struct Cursor {
  const uint8_t *w[kR];
  const int8_t *q[kC];
  const float *d[kC];
  const float *s[kC];
};

// What a tile adds up: in each of its vectors four parts of one output.
template <uint32_t kR, uint32_t kC>
struct Sums {
  float32x4_t part[kR][kC];
#if defined(__ARM_FEATURE_MATMUL_INT8)
  // Outputs of rows 0, 0, 1, 1 and tokens 2j, 2j + 1, 2j, 2j + 1.
  float32x4_t quad[(kC + 1) / 2];
  static constexpr bool kQuads = kR == 2 && kC % 2 == 0;
#else
  static constexpr bool kQuads = false;
#endif
};

// factor[p] = weight scale * activation scale of kCount (1 or 4) groups of 32 values in kParts.
template <int kCount, int kParts>
inline void multiply_scales(const float32x4_t *scale, const float *d, float32x4_t *factor) {
  const float32x4_t dv = kCount == 1 ? vdupq_n_f32(*d) : vld1q_f32(d);
  if constexpr (kParts == 1) {
    factor[0] = vmulq_f32(scale[0], dv);
  } else {
    factor[0] = vmulq_f32(scale[0], vzip1q_f32(dv, dv));
    factor[1] = vmulq_f32(scale[1], vzip2q_f32(dv, dv));
  }
}

// acc += the products of 32 values, group kGroupIndex of `factor`.
template <class D, int kGroupIndex>
inline float32x4_t add_group(int8x16x2_t w, int8x16x2_t x, const float32x4_t *factor,
                             float32x4_t acc) {
  if constexpr (D::kGroup == 32) {
    return vfmaq_laneq_f32(acc, dot32<D::kMax>(w, x), factor[0], kGroupIndex);
  } else {
    constexpr int kAt = kGroupIndex / 2, kLane = kGroupIndex % 2 * 2;
    acc = vfmaq_laneq_f32(acc, dot16(w.val[0], x.val[0]), factor[kAt], kLane);
    return vfmaq_laneq_f32(acc, dot16(w.val[1], x.val[1]), factor[kAt], kLane + 1);
  }
}

#if defined(__ARM_FEATURE_MATMUL_INT8)

inline int8x16_t low_halves(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s64(vzip1q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}
inline int8x16_t high_halves(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s64(vzip2q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}

// f[r][c] lane i becomes quad[i] lane 2r + c.
inline void transpose_factors(float32x4_t f00, float32x4_t f01, float32x4_t f10, float32x4_t f11,
                              float32x4_t *quad) {
  const float64x2_t a = vreinterpretq_f64_f32(vzip1q_f32(f00, f01));
  const float64x2_t b = vreinterpretq_f64_f32(vzip1q_f32(f10, f11));
  const float64x2_t c = vreinterpretq_f64_f32(vzip2q_f32(f00, f01));
  const float64x2_t d = vreinterpretq_f64_f32(vzip2q_f32(f10, f11));
  quad[0] = vreinterpretq_f32_f64(vzip1q_f64(a, b));
  quad[1] = vreinterpretq_f32_f64(vzip2q_f64(a, b));
  quad[2] = vreinterpretq_f32_f64(vzip1q_f64(c, d));
  quad[3] = vreinterpretq_f32_f64(vzip2q_f64(c, d));
}

// Rows and tokens of 16 values as the operands of smmla: two rows of 8, twice.
struct Pair16 {
  int8x16_t low, high;
  Pair16(int8x16_t a, int8x16_t b) : low(low_halves(a, b)), high(high_halves(a, b)) {}
};

inline int32x4_t quad_dot(int32x4_t sum, const Pair16 &w, const Pair16 &x) {
  return vmmlaq_s32(vmmlaq_s32(sum, w.low, x.low), w.high, x.high);
}

// The products of 32 values of two rows and kC tokens. factor: [kC / 2][4 * parts] quads.
template <class D, uint32_t kC, int kI>
inline void add_chunk_quads(const Cursor<2, kC> &at, const float32x4_t (*factor)[8],
                            Sums<2, kC> *sums) {
  constexpr int kParts = 32 / D::kGroup, kAt = kI % 4 * kParts;
  const int8x16x2_t w0 = D::template load<kI>(at.w[0]), w1 = D::template load<kI>(at.w[1]);
  const Pair16 first(w0.val[0], w1.val[0]), second(w0.val[1], w1.val[1]);
#pragma GCC unroll 4
  for (uint32_t j = 0; j < kC / 2; j++) {
    const int8x16x2_t x0 = load32(at.q[2 * j] + 32 * kI), x1 = load32(at.q[2 * j + 1] + 32 * kI);
    const Pair16 xa(x0.val[0], x1.val[0]), xb(x0.val[1], x1.val[1]);
    const int32x4_t zero = vdupq_n_s32(0);
    int32x4_t dot = quad_dot(zero, first, xa);
    if constexpr (kParts == 2) {
      sums->quad[j] = vfmaq_f32(sums->quad[j], vcvtq_f32_s32(dot), factor[j][kAt]);
      dot = quad_dot(zero, second, xb);
    } else {
      dot = quad_dot(dot, second, xb);
    }
    sums->quad[j] = vfmaq_f32(sums->quad[j], vcvtq_f32_s32(dot), factor[j][kAt + kParts - 1]);
  }
}

#endif

// The products of chunk kI, 32 values. factor: [kR][kC][parts], for the four groups around kI.
template <class D, uint32_t kR, uint32_t kC, int kI>
inline void add_chunk(const Cursor<kR, kC> &at, const float32x4_t (*factor)[kC][2],
                      Sums<kR, kC> *sums) {
  const int8x16x2_t w0 = D::template load<kI>(at.w[0]);
  const int8x16x2_t w1 = kR == 2 ? D::template load<kI>(at.w[kR - 1]) : w0;
#pragma GCC unroll 4
  for (uint32_t c = 0; c < kC; c++) {
    const int8x16x2_t x = load32(at.q[c] + 32 * kI);
    sums->part[0][c] = add_group<D, kI % 4>(w0, x, factor[0][c], sums->part[0][c]);
    if constexpr (kR == 2) {
      sums->part[1][c] = add_group<D, kI % 4>(w1, x, factor[1][c], sums->part[1][c]);
    }
  }
}

// The products of groups kFirst.. of a unit whose scales cover kN groups: four, or one if kN == 1.
template <class D, uint32_t kR, uint32_t kC, int kFirst, int kN>
inline void add_groups(const Cursor<kR, kC> &at, const Scales<D, kN> (&scales)[kR],
                       Sums<kR, kC> *sums) {
  constexpr int kCount = kN == 1 ? 1 : 4, kParts = 32 / D::kGroup;
  float32x4_t factor[kR][kC][2];
#pragma GCC unroll 4
  for (uint32_t c = 0; c < kC; c++) {
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kR; r++) {
      multiply_scales<kCount, kParts>(scales[r].scale + kFirst / 4 * kParts, at.d[c] + kFirst,
                                      factor[r][c]);
    }
    if constexpr (D::kHasMin) {
      static_assert(D::kUnit == 256 && kParts == 1, "four minimums, two sums each");
      const float *s = at.s[c] + 2 * kFirst;
      const float32x4_t total = vpaddq_f32(vld1q_f32(s), vld1q_f32(s + 4));
#pragma GCC unroll 4
      for (uint32_t r = 0; r < kR; r++) {
        sums->part[r][c] = vfmsq_f32(sums->part[r][c], scales[r].min[kFirst / 4], total);
      }
    }
  }
#if defined(__ARM_FEATURE_MATMUL_INT8)
  if constexpr (Sums<kR, kC>::kQuads) {
    float32x4_t quad[kC / 2][8];
#pragma GCC unroll 4
    for (uint32_t j = 0; j < kC / 2; j++) {
      for (int p = 0; p < kParts; p++) {
        transpose_factors(factor[0][2 * j][p], factor[0][2 * j + 1][p], factor[1][2 * j][p],
                          factor[1][2 * j + 1][p], quad[j] + 4 * p);
      }
    }
    add_chunk_quads<D, kC, kFirst>(at, quad, sums);
    if constexpr (kCount == 4) {
      add_chunk_quads<D, kC, kFirst + 1>(at, quad, sums);
      add_chunk_quads<D, kC, kFirst + 2>(at, quad, sums);
      add_chunk_quads<D, kC, kFirst + 3>(at, quad, sums);
    }
    return;
  }
#endif
  add_chunk<D, kR, kC, kFirst>(at, factor, sums);
  if constexpr (kCount == 4) {
    add_chunk<D, kR, kC, kFirst + 1>(at, factor, sums);
    add_chunk<D, kR, kC, kFirst + 2>(at, factor, sums);
    add_chunk<D, kR, kC, kFirst + 3>(at, factor, sums);
  }
}

// The products of kN groups of 32 values; moves the cursor behind them.
template <class D, uint32_t kR, uint32_t kC, int kN>
inline void add_unit(Cursor<kR, kC> *at, Sums<kR, kC> *sums) {
  Scales<D, kN> scales[kR];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kR; r++) scales[r] = D::template scales<kN>(at->w[r]);
  add_groups<D, kR, kC, 0, kN>(*at, scales, sums);
  if constexpr (kN == 8) add_groups<D, kR, kC, 4, kN>(*at, scales, sums);
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kR; r++) at->w[r] += kN * 32 / D::kUnit * D::kBytes;
#pragma GCC unroll 4
  for (uint32_t c = 0; c < kC; c++) {
    at->q[c] += 32 * kN;
    at->d[c] += kN;
    at->s[c] += 2 * kN;
  }
}

template <uint32_t kR, uint32_t kC>
inline void store_sums(const Sums<kR, kC> &sums, float *y, uint64_t y_stride) {
#pragma GCC unroll 4
  for (uint32_t c = 0; c < kC; c++) {
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kR; r++) {
      float total = vaddvq_f32(sums.part[r][c]);
#if defined(__ARM_FEATURE_MATMUL_INT8)
      if constexpr (Sums<kR, kC>::kQuads) total += sums.quad[c / 2][2 * r + c % 2];
#endif
      y[c * y_stride + r] = total;
    }
  }
}

template <class D, uint32_t kR, uint32_t kC>
inline void gemv_tile(const GemvArgs &g, uint32_t row, uint32_t col) {
  Cursor<kR, kC> at;
  Sums<kR, kC> sums = {};
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kR; r++) at.w[r] = g.w + (row + r) * g.row_bytes;
#pragma GCC unroll 4
  for (uint32_t c = 0; c < kC; c++) {
    const uint64_t first = static_cast<uint64_t>(col + c) * g.k;
    at.q[c] = g.act.q + first;
    at.d[c] = g.act.d + first / kActGroup;
    at.s[c] = g.act.s + first / 16;
  }
  constexpr int kN = D::kUnit == 256 ? 8 : 4;
  uint32_t groups = g.k / 32;
  for (; groups >= kN; groups -= kN) add_unit<D, kR, kC, kN>(&at, &sums);
  if constexpr (D::kUnit == 32) {
    for (; groups != 0; groups--) add_unit<D, kR, kC, 1>(&at, &sums);
  }
  store_sums(sums, g.y + col * g.y_stride + row, g.y_stride);
}

template <class D, uint32_t kR>
inline void gemv_rows(const GemvArgs &g, uint32_t row) {
  uint32_t col = 0;
  for (; col + 4 <= g.n_cols; col += 4) gemv_tile<D, kR, 4>(g, row, col);
  if (g.n_cols - col >= 2) {
    gemv_tile<D, kR, 2>(g, row, col);
    col += 2;
  }
  if (col < g.n_cols) gemv_tile<D, kR, 1>(g, row, col);
}

template <class D>
void gemv(const GemvArgs &g) {
  uint32_t row = 0;
  for (; row + 2 <= g.rows; row += 2) gemv_rows<D, 2>(g, row);
  if (row < g.rows) gemv_rows<D, 1>(g, row);
}

constexpr bool is_float(uint32_t type) {
  return type == static_cast<uint32_t>(DType::F32) || type == static_cast<uint32_t>(DType::F16) ||
         type == static_cast<uint32_t>(DType::BF16);
}

void fill_gemv(Kernels *kernels) {
  GemvFn *table = kernels->gemv;
  for (uint32_t type = 0; type < 32; type++) {
    if (!is_float(type)) table[type] = nullptr;  // panels are faster than the scalar product
  }
  table[static_cast<uint32_t>(DType::Q4_0)] = gemv<Q4_0>;
  table[static_cast<uint32_t>(DType::Q8_0)] = gemv<Q8_0>;
  table[static_cast<uint32_t>(DType::Q4_K)] = gemv<Q4_K>;
  table[static_cast<uint32_t>(DType::Q5_K)] = gemv<Q5_K>;
  table[static_cast<uint32_t>(DType::Q6_K)] = gemv<Q6_K>;
  table[static_cast<uint32_t>(DType::IQ4_NL)] = gemv<IQ4_NL>;
  table[static_cast<uint32_t>(DType::IQ4_XS)] = gemv<IQ4_XS>;
}

}  // namespace
}  // namespace q35
