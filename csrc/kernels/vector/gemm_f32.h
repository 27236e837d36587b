// Float matrix products written once against vec.h: the 32-column tile that serves F32/F16/BF16
// weights, prefill attention and the chunked delta rule, and the float GEMV.
#pragma once

#include "kernels/kernels.h"
#include "kernels/vector/vec.h"

namespace q35 {
namespace {

// A register tile is kTileM rows by kTileV vectors: 12 x 2 of AVX-512's 32 registers, 6 x 2 of
// AVX2's 16, 6 x 4 of NEON's 32, leaving room for the row of b and a broadcast.
#if defined(__AVX512F__)
constexpr uint32_t kTileM = 12, kTileV = 2;
#elif defined(__AVX2__)
constexpr uint32_t kTileM = 6, kTileV = 2;
#else
constexpr uint32_t kTileM = 6, kTileV = 4;
#endif
static_assert(kTileCols % (kTileV * kVec) == 0, "a tile covers whole vectors of the 32 columns");

template <uint32_t kM>
inline void gemm_tile(const float *a, uint64_t a_row, uint64_t a_k, const float *b,
                      uint64_t b_stride, uint32_t k_count, float alpha, float *c,
                      uint64_t c_stride) {
  vf acc[kM][kTileV];
  for (uint32_t i = 0; i < kM; i++) {
    for (uint32_t v = 0; v < kTileV; v++) acc[i][v] = vset(0.0f);
  }
  for (uint32_t k = 0; k < k_count; k++) {
    vf row[kTileV];
    for (uint32_t v = 0; v < kTileV; v++) row[v] = vload(b + k * b_stride + v * kVec);
    for (uint32_t i = 0; i < kM; i++) {
      const vf x = vset(a[i * a_row + k * a_k]);
      for (uint32_t v = 0; v < kTileV; v++) acc[i][v] = vfma(x, row[v], acc[i][v]);
    }
  }
  for (uint32_t i = 0; i < kM; i++) {
    for (uint32_t v = 0; v < kTileV; v++) {
      float *at = c + i * c_stride + v * kVec;
      vstore(at, alpha == 0.0f ? acc[i][v] : vfma(vset(alpha), vload(at), acc[i][v]));
    }
  }
}

// The last m % kTileM rows, by a switch over the compile-time tile heights.
template <uint32_t kM>
inline void gemm_rest(const float *a, uint64_t a_row, uint64_t a_k, uint32_t m, const float *b,
                      uint64_t b_stride, uint32_t k_count, float alpha, float *c,
                      uint64_t c_stride) {
  if constexpr (kM != 0) {
    if (m == kM) {
      gemm_tile<kM>(a, a_row, a_k, b, b_stride, k_count, alpha, c, c_stride);
    } else {
      gemm_rest<kM - 1>(a, a_row, a_k, m, b, b_stride, k_count, alpha, c, c_stride);
    }
  }
}

void v_gemm_f32(const float *a, uint64_t a_row, uint64_t a_k, uint32_t m, const float *b,
                uint64_t b_stride, uint32_t k_count, float alpha, float *c, uint64_t c_stride) {
  for (uint32_t j = 0; j < kTileCols; j += kTileV * kVec) {
    uint32_t i = 0;
    for (; i + kTileM <= m; i += kTileM) {
      gemm_tile<kTileM>(a + i * a_row, a_row, a_k, b + j, b_stride, k_count, alpha,
                        c + i * c_stride + j, c_stride);
    }
    gemm_rest<kTileM - 1>(a + i * a_row, a_row, a_k, m - i, b + j, b_stride, k_count, alpha,
                          c + i * c_stride + j, c_stride);
  }
}

void v_solve_lower(const float *a, uint64_t a_stride, uint32_t n, float *x, uint64_t x_stride) {
  constexpr uint32_t vecs = kTileCols / kVec;
  for (uint32_t i = 1; i < n; i++) {
    // Two chains per vector hide the latency of the multiply-add.
    vf even[vecs], odd[vecs];
    for (uint32_t v = 0; v < vecs; v++) {
      even[v] = vload(x + i * x_stride + v * kVec);
      odd[v] = vset(0.0f);
    }
    uint32_t j = 0;
    for (; j + 2 <= i; j += 2) {
      const vf a0 = vset(a[i * a_stride + j]), a1 = vset(a[i * a_stride + j + 1]);
      for (uint32_t v = 0; v < vecs; v++) {
        even[v] = vfnma(a0, vload(x + j * x_stride + v * kVec), even[v]);
        odd[v] = vfnma(a1, vload(x + (j + 1) * x_stride + v * kVec), odd[v]);
      }
    }
    for (; j < i; j++) {
      const vf a0 = vset(a[i * a_stride + j]);
      for (uint32_t v = 0; v < vecs; v++) {
        even[v] = vfnma(a0, vload(x + j * x_stride + v * kVec), even[v]);
      }
    }
    for (uint32_t v = 0; v < vecs; v++) vstore(x + i * x_stride + v * kVec, vadd(even[v], odd[v]));
  }
}

// ---- few tokens on float weights ---------------------------------------------------------------

struct LoadF32 {
  using Type = float;
  static vf vec(const float *p) { return vload(p); }
};
struct LoadF16 {
  using Type = uint16_t;
  static vf vec(const uint16_t *p) { return vload_f16(p); }
};
struct LoadBf16 {
  using Type = uint16_t;
  static vf vec(const uint16_t *p) { return vload_bf16(p); }
};

constexpr uint32_t kPrefetchBytes = 8192;  // far enough on Zen 4; farther gained nothing

// kR weight rows by kC tokens share every load.
template <class Load, uint32_t kR, uint32_t kC>
inline void gemv_float_tile(const GemvArgs &g, uint32_t row, uint32_t col) {
  const typename Load::Type *w[kR];
  for (uint32_t r = 0; r < kR; r++) {
    w[r] = reinterpret_cast<const typename Load::Type *>(g.w + (row + r) * g.row_bytes);
  }
  const float *x = g.x + static_cast<uint64_t>(col) * g.k;
  vf acc[kR][kC];
  for (uint32_t r = 0; r < kR; r++) {
    for (uint32_t c = 0; c < kC; c++) acc[r][c] = vset(0.0f);
  }
  // Rows are short streams that the hardware prefetchers give up on: ask for the lines a little
  // behind the end of this tile, as many in each step as the step reads.
  constexpr uint32_t step_bytes = kR * kVec * sizeof(typename Load::Type);
  const uint8_t *ahead = g.w + (row + kR) * g.row_bytes + kPrefetchBytes;
  for (uint32_t k = 0; k < g.k; k += kVec) {
    for (uint32_t i = 0; i < step_bytes; i += 64) __builtin_prefetch(ahead + i, 0, 2);
    ahead += step_bytes;
    vf xv[kC];
    for (uint32_t c = 0; c < kC; c++) xv[c] = vload(x + static_cast<uint64_t>(c) * g.k + k);
    for (uint32_t r = 0; r < kR; r++) {
      const vf wv = Load::vec(w[r] + k);
      for (uint32_t c = 0; c < kC; c++) acc[r][c] = vfma(wv, xv[c], acc[r][c]);
    }
  }
  for (uint32_t r = 0; r < kR; r++) {
    for (uint32_t c = 0; c < kC; c++) g.y[(col + c) * g.y_stride + row + r] = vsum(acc[r][c]);
  }
}

// Most tokens of a tile of 4 rows: sums, tokens and a row must fit the registers.
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr uint32_t kTileTokens = 3;
#else
constexpr uint32_t kTileTokens = 4;
#endif

// All tokens, in parts of like size, while the rows are in the first-level cache.
template <class Load, uint32_t kR>
inline void gemv_float_rows(const GemvArgs &g, uint32_t row) {
  uint32_t parts = (g.n_cols + kTileTokens - 1) / kTileTokens;
  for (uint32_t col = 0, width; col < g.n_cols; col += width, parts--) {
    width = (g.n_cols - col + parts - 1) / parts;
    if (width == 1) gemv_float_tile<Load, kR, 1>(g, row, col);
    if (width == 2) gemv_float_tile<Load, kR, 2>(g, row, col);
    if (width == 3) gemv_float_tile<Load, kR, 3>(g, row, col);
    if constexpr (kTileTokens == 4) {
      if (width == 4) gemv_float_tile<Load, kR, 4>(g, row, col);
    }
  }
}

template <class Load>
void v_gemv_float(const GemvArgs &g) {
  uint32_t row = 0;
  for (; row + 4 <= g.rows; row += 4) gemv_float_rows<Load, 4>(g, row);
  for (; row < g.rows; row++) gemv_float_rows<Load, 1>(g, row);
}

void fill_gemm_f32(Kernels *t) {
  t->gemm_f32 = v_gemm_f32;
  t->solve_lower = v_solve_lower;
  t->gemv[static_cast<uint32_t>(DType::F32)] = v_gemv_float<LoadF32>;
  t->gemv[static_cast<uint32_t>(DType::F16)] = v_gemv_float<LoadF16>;
  t->gemv[static_cast<uint32_t>(DType::BF16)] = v_gemv_float<LoadBf16>;
}

}  // namespace
}  // namespace q35
