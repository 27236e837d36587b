// Integer products for few tokens on AVX-512 VNNI: the file's blocks are decoded in registers and
// met with one or two tokens at a time.
#include "kernels/avx512/decode.h"
#include "kernels/avx512/tier_avx512.h"

namespace q35 {
namespace {

// The rows of a tile are short streams that the hardware prefetchers give up on: on Zen 4 one
// thread reads 4-8 GB/s without help and 17-23 with lines asked for this far behind the end of the
// tile, into the second level (the first level has too few miss buffers: 10 GB/s for wide formats).
constexpr uint32_t kPrefetchBytes = 8192;

// Pointers of one tile into weights and activations, at the same 256 values.
template <uint32_t kR, uint32_t kC>
struct Cursor {
  const uint8_t *w[kR];
  const int8_t *q[kC];
  const float *d[kC];
  const float *s[kC];
};

// acc[r][c] += the products of 256 values. The unsigned bytes make dots that are too large by
// kBias * sum(x): the dot starts at minus that, so it ends as the exact integer.
template <class D, uint32_t kR, uint32_t kC>
inline void add_256(const Cursor<kR, kC> &at, __m512 (&acc)[kR][kC]) {
  __m512 factor[kR][kC];  // lane i: weight scale * activation scale of values 16i..16i+15
  for (uint32_t r = 0; r < kR; r++) {
    const Scales scales = D::scales(at.w[r]);
    for (uint32_t c = 0; c < kC; c++) {
      const __m512 d = double_lanes(_mm512_castps256_ps512(_mm256_loadu_ps(at.d[c])));
      factor[r][c] = _mm512_mul_ps(scales.scale, d);
      if constexpr (D::kHasMin) {
        acc[r][c] = _mm512_fnmadd_ps(scales.min, _mm512_loadu_ps(at.s[c]), acc[r][c]);
      }
    }
  }
  const __m512i lane = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m512i index = _mm512_add_epi32(lane, _mm512_set1_epi32(4 * i));
    __m512i x[kC], start[kC];
    for (uint32_t c = 0; c < kC; c++) {
      x[c] = load64(at.q[c] + 64 * i);
      start[c] = _mm512_setzero_si512();
      if constexpr (D::kBias != 0) {
        const __m512i bias = _mm512_set1_epi8(static_cast<char>(D::kBias));
        start[c] = _mm512_sub_epi32(start[c], _mm512_dpbusd_epi32(start[c], bias, x[c]));
      }
    }
    for (uint32_t r = 0; r < kR; r++) {
      const __m512i w = D::load(at.w[r], i);
      for (uint32_t c = 0; c < kC; c++) {
        const __m512 dot = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start[c], w, x[c]));
        acc[r][c] = _mm512_fmadd_ps(dot, _mm512_permutexvar_ps(index, factor[r][c]), acc[r][c]);
      }
    }
  }
}

// The last k % 256 values of formats with blocks of 32: the same step on zero-padded copies.
template <class D, uint32_t kR, uint32_t kC>
inline void add_rest(const Cursor<kR, kC> &at, uint32_t n, __m512 (&acc)[kR][kC]) {
  uint8_t w[kR][D::kBytes + 64] = {};
  int8_t q[kC][256] = {};
  float d[kC][8] = {}, s[kC][16] = {};
  Cursor<kR, kC> copy;
  for (uint32_t r = 0; r < kR; r++) {
    __builtin_memcpy(w[r], at.w[r], n / D::kBlock * D::kBlockBytes);
    copy.w[r] = w[r];
  }
  for (uint32_t c = 0; c < kC; c++) {
    __builtin_memcpy(q[c], at.q[c], n);
    __builtin_memcpy(d[c], at.d[c], n / kActGroup * sizeof(float));
    __builtin_memcpy(s[c], at.s[c], n / 16 * sizeof(float));
    copy.q[c] = q[c];
    copy.d[c] = d[c];
    copy.s[c] = s[c];
  }
  add_256<D, kR, kC>(copy, acc);
}

template <class D, uint32_t kR, uint32_t kC>
inline void gemv_tile(const GemvArgs &g, uint32_t row, uint32_t col) {
  Cursor<kR, kC> at;
  __m512 acc[kR][kC];
  for (uint32_t r = 0; r < kR; r++) {
    at.w[r] = g.w + (row + r) * g.row_bytes;
    for (uint32_t c = 0; c < kC; c++) acc[r][c] = _mm512_setzero_ps();
  }
  for (uint32_t c = 0; c < kC; c++) {
    const uint64_t first = static_cast<uint64_t>(col + c) * g.k;
    at.q[c] = g.act.q + first;
    at.d[c] = g.act.d + first / kActGroup;
    at.s[c] = g.act.s + first / 16;
  }
  const uint8_t *ahead = at.w[0] + kR * g.row_bytes + kPrefetchBytes;
  for (uint32_t k = g.k / 256; k != 0; k--) {
    for (uint32_t i = 0; i < kR * D::kBytes; i += 64) {
      _mm_prefetch(reinterpret_cast<const char *>(ahead + i), _MM_HINT_T1);
    }
    ahead += kR * D::kBytes;
    add_256<D, kR, kC>(at, acc);
    for (uint32_t r = 0; r < kR; r++) at.w[r] += D::kBytes;
    for (uint32_t c = 0; c < kC; c++) {
      at.q[c] += 256;
      at.d[c] += 8;
      at.s[c] += 16;
    }
  }
  if constexpr (D::kBlock < 256) {
    if (g.k % 256 != 0) add_rest<D, kR, kC>(at, g.k % 256, acc);
  }
  for (uint32_t c = 0; c < kC; c++) {
    float *y = g.y + (col + c) * g.y_stride + row;
    for (uint32_t r = 0; r < kR; r++) y[r] = _mm512_reduce_add_ps(acc[r][c]);
  }
}

template <class D, uint32_t kR>
inline void gemv_rows(const GemvArgs &g, uint32_t row) {
  uint32_t col = 0;
  for (; col + 2 <= g.n_cols; col += 2) gemv_tile<D, kR, 2>(g, row, col);
  if (col < g.n_cols) gemv_tile<D, kR, 1>(g, row, col);
}

template <class D>
void gemv(const GemvArgs &g) {
  uint32_t row = 0;
  for (; row + 4 <= g.rows; row += 4) gemv_rows<D, 4>(g, row);
  for (; row < g.rows; row++) gemv_rows<D, 1>(g, row);
}

}  // namespace

void q35_init_gemv_avx512(Kernels *kernels) {
  GemvFn *table = kernels->gemv;
  table[static_cast<uint32_t>(DType::Q4_0)] = gemv<Q4_0>;
  table[static_cast<uint32_t>(DType::Q4_1)] = gemv<Q4_1>;
  table[static_cast<uint32_t>(DType::Q5_0)] = gemv<Q5_0>;
  table[static_cast<uint32_t>(DType::Q5_1)] = gemv<Q5_1>;
  table[static_cast<uint32_t>(DType::Q8_0)] = gemv<Q8_0>;
  table[static_cast<uint32_t>(DType::Q2_K)] = gemv<Q2_K>;
  table[static_cast<uint32_t>(DType::Q3_K)] = gemv<Q3_K>;
  table[static_cast<uint32_t>(DType::Q4_K)] = gemv<Q4_K>;
  table[static_cast<uint32_t>(DType::Q5_K)] = gemv<Q5_K>;
  table[static_cast<uint32_t>(DType::Q6_K)] = gemv<Q6_K>;
  table[static_cast<uint32_t>(DType::IQ4_NL)] = gemv<IQ4_NL>;
  table[static_cast<uint32_t>(DType::IQ4_XS)] = gemv<IQ4_XS>;
}

}  // namespace q35
