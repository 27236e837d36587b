// Integer products for few tokens on AVX-512 VNNI, straight from the file's blocks. Up to three
// or four tokens: blocks are decoded in registers, each row by itself. More: 16 rows are
// interleaved 256 values at a time, which costs more per weight and less per token.
#include "kernels/avx512/interleave.h"
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

template <class D>
inline __m512i load_bytes(const uint8_t *p, int c) {
  if constexpr (D::kScaled) return D::load_scaled(p, c);
  return D::load(p, c);
}

// d: activation scales, one per 16 values; undoes the factor of load_scaled().
template <class D>
inline __m512 unscale(__m512 d) {
  if constexpr (!D::kScaled) return d;
  constexpr float h = 1.0f / 16;
  return _mm512_mul_ps(d, _mm512_setr_ps(1, 1, h, h, 1, 1, h, h, 1, 1, h, h, 1, 1, h, h));
}

// acc[r][c] += the products of 256 values. The unsigned bytes make dots that are too large by
// kBias * sum(x): the dot starts at minus that, so it ends as the exact integer.
template <class D, uint32_t kR, uint32_t kC>
inline void add_256(const Cursor<kR, kC> &at, __m512 (&acc)[kR][kC]) {
  __m512 factor[kR][kC];  // lane i: weight scale * activation scale of values 16i..16i+15
  for (uint32_t r = 0; r < kR; r++) {
    const Scales scales = D::scales(at.w[r]);
    for (uint32_t c = 0; c < kC; c++) {
      const __m512 d = unscale<D>(double_lanes(_mm512_castps256_ps512(_mm256_loadu_ps(at.d[c]))));
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
      const __m512i w = load_bytes<D>(at.w[r], i);
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

// ---- four to eight tokens ---------------------------------------------------------------------

constexpr uint32_t kSlabRows = 16;

// Fewest columns for which slabs measured faster than pairs of columns.
template <class D>
constexpr uint32_t kSlabCols = D::kBlock == 32 ? 4 : 5;

// 256 values of 16 rows, interleaved.
struct Slab {
  alignas(64) uint8_t q[256 * kSlabRows];
  alignas(64) float scale[16 * kSlabRows], min[16 * kSlabRows];
};

// acc[c] += the slab's rows times n values of kC tokens. at: its token pointers.
template <uint32_t kC, uint32_t kGroup, bool kMin>
inline void add_slab(const Slab &slab, const Cursor<1, kC> &at, uint32_t n, __m512 (&acc)[kC]) {
  constexpr uint32_t kParts = 32 / kGroup;
  int32_t start[kC][16];  // of each 16 values; with kGroup 32, of 32 values at the even places
  if constexpr (!kMin) {
    for (uint32_t c = 0; c < kC; c++) {
      __m512i sums = group_starts(at.q[c], n);
      if (kGroup == 32) sums = _mm512_add_epi32(sums, _mm512_shuffle_epi32(sums, _MM_PERM_CDAB));
      _mm512_storeu_si512(start[c], sums);
    }
  }
  for (uint32_t g = 0; g < n / 32; g++) {
    __m512 total[kC];
#pragma GCC unroll 2
    for (uint32_t p = 0; p < kParts; p++) {
      const uint32_t i = g * kParts + p;
      __m512i dot[kC];
      for (uint32_t c = 0; c < kC; c++) {
        dot[c] = kMin ? _mm512_setzero_si512() : _mm512_set1_epi32(start[c][i * (kGroup / 16)]);
      }
#pragma GCC unroll 8
      for (uint32_t k = i * kGroup; k < (i + 1) * kGroup; k += 4) {
        const __m512i w = load64(slab.q + k * kSlabRows);
        for (uint32_t c = 0; c < kC; c++) {
          const __m512i x = _mm512_set1_epi32(static_cast<int>(load_u32(at.q[c] + k)));
          dot[c] = _mm512_dpbusd_epi32(dot[c], w, x);
        }
      }
      const __m512 scale = _mm512_load_ps(slab.scale + i * kSlabRows);
      for (uint32_t c = 0; c < kC; c++) {
        const __m512 y = _mm512_cvtepi32_ps(dot[c]);
        total[c] = p == 0 ? _mm512_mul_ps(y, scale) : _mm512_fmadd_ps(y, scale, total[c]);
        if constexpr (kMin) {
          const float *s = at.s[c] + i * (kGroup / 16);
          const float sum = kGroup == 32 ? s[0] + s[1] : s[0];
          const __m512 min = _mm512_load_ps(slab.min + i * kSlabRows);
          acc[c] = _mm512_fnmadd_ps(min, _mm512_set1_ps(sum), acc[c]);
        }
      }
    }
    for (uint32_t c = 0; c < kC; c++) {
      acc[c] = _mm512_fmadd_ps(total[c], _mm512_set1_ps(at.d[c][g]), acc[c]);
    }
  }
}

// 16 rows from `row` on by all kC tokens.
template <class D, uint32_t kC>
void gemv_slabs(const GemvArgs &g, uint32_t row) {
  const uint8_t *w[kSlabRows];
  for (uint32_t r = 0; r < kSlabRows; r++) w[r] = g.w + (row + r) * g.row_bytes;
  Cursor<1, kC> at;
  __m512 acc[kC];
  for (uint32_t c = 0; c < kC; c++) {
    const uint64_t first = static_cast<uint64_t>(c) * g.k;
    at.q[c] = g.act.q + first;
    at.d[c] = g.act.d + first / kActGroup;
    at.s[c] = g.act.s + first / 16;
    acc[c] = _mm512_setzero_ps();
  }
  Slab slab;
  const uint8_t *ahead = w[0] + kSlabRows * g.row_bytes;
  for (uint32_t k = g.k / 256; k != 0; k--) {
    for (uint32_t i = 0; i < kSlabRows * D::kBytes; i += 64) {
      _mm_prefetch(reinterpret_cast<const char *>(ahead + i), _MM_HINT_T1);
    }
    ahead += kSlabRows * D::kBytes;
    interleave_256<D, kSlabRows>(w, slab.q, slab.scale, slab.min);
    add_slab<kC, D::kGroup, D::kHasMin>(slab, at, 256, acc);
    for (uint32_t r = 0; r < kSlabRows; r++) w[r] += D::kBytes;
    for (uint32_t c = 0; c < kC; c++) {
      at.q[c] += 256;
      at.d[c] += 8;
      at.s[c] += 16;
    }
  }
  if constexpr (D::kBlock < 256) {
    if (g.k % 256 != 0) {
      interleave_rest<D, kSlabRows>(w, g.k % 256, slab.q, slab.scale, slab.min);
      add_slab<kC, D::kGroup, D::kHasMin>(slab, at, g.k % 256, acc);
    }
  }
  for (uint32_t c = 0; c < kC; c++) _mm512_storeu_ps(g.y + c * g.y_stride + row, acc[c]);
}

template <class D>
void slab_columns(const GemvArgs &g, uint32_t row) {
  switch (g.n_cols) {
    case 4:
      return gemv_slabs<D, 4>(g, row);
    case 5:
      return gemv_slabs<D, 5>(g, row);
    case 6:
      return gemv_slabs<D, 6>(g, row);
    case 7:
      return gemv_slabs<D, 7>(g, row);
    default:
      return gemv_slabs<D, 8>(g, row);
  }
}

template <class D>
void gemv(const GemvArgs &g) {
  uint32_t row = 0;
  if (g.n_cols >= kSlabCols<D>) {
    for (; row + kSlabRows <= g.rows; row += kSlabRows) slab_columns<D>(g, row);
  }
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
