// Integer products for few tokens on AVX2: 16 rows are decoded and interleaved 256 values at a
// time, in the first-level cache, and met with up to four tokens at once. Decoding is paid once for
// all tokens, a token adds two instructions per 4 values of 8 rows, and the arithmetic is that of
// the panels (product.h). The other formats go through panels.
#include "kernels/avx2/product.h"
#include "kernels/avx2/tier_avx2.h"

namespace q35 {
namespace {

// A step of 16 rows, interleaved.
template <class D>
struct Slab {
  alignas(64) uint8_t q[kStep<D> * kRows];
  alignas(64) float scale[kStep<D> / D::kGroup * kRows], min[kStep<D> / D::kGroup * kRows];
};

// The next 16 rows, asked for into the second level a little at a time: a burst of requests would
// stop the loads behind it.
struct Ahead {
  const uint8_t *p;  // null: nothing to ask for
  template <uint32_t kBytes>
  void ask() {
    if (p == nullptr) return;
    for (uint32_t i = 0; i < kBytes; i += 64) {
      _mm_prefetch(reinterpret_cast<const char *>(p + i), _MM_HINT_T1);
    }
    p += kBytes;
  }
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

// sum[t] += the products of n values of the slab's rows, values `first` on of its step, and kC
// tokens.
template <class D, uint32_t kC>
void add_slab(const Slab<D> &slab, const Token *token, uint32_t first, uint32_t n, Ahead *ahead,
              float (*sum)[kRows]) {
  constexpr uint32_t kGroup = D::kGroup, kParts = 32 / kGroup;
  int32_t start[kC][16];
  const int8_t *x[kC];
  for (uint32_t c = 0; c < kC; c++) {
    x[c] = token[c].q + first;
    if constexpr (D::kBias != 0) group_starts<D>(x[c], n, start[c]);
  }
  for (uint32_t i = 0; i < n / kGroup; i++) {
    ahead->ask<kRows * D::kBytes / (D::kUnit / kGroup)>();
    const uint32_t g = first / kGroup + i;
    GroupOf<kC> group;
    for (uint32_t c = 0; c < kC; c++) {
      group.d[c] = token[c].d + g / kParts;
      group.start[c] = start[c] + i;
      group.s[c] = token[c].s + g * (kGroup / 16);
    }
    add_group<kRunOf<D>, kGroup, D::kHasMin, kGroup == 32, kC, 4>(
        slab.q + g * kGroup * kRows, slab.scale + g * kRows, slab.min + g * kRows, x, group, sum);
    for (uint32_t c = 0; c < kC; c++) x[c] += kGroup;
  }
}

// The tokens in one part, or two of like size: four fit the registers.
template <class D>
inline void add_columns(const Slab<D> &slab, const Token *token, uint32_t n_cols, uint32_t first,
                        uint32_t n, const uint8_t *next, float (*sum)[kRows]) {
  Ahead ahead = {next};
  for (uint32_t width; n_cols != 0; n_cols -= width, token += width, sum += width) {
    width = n_cols <= 4 ? n_cols : (n_cols + 1) / 2;
    if (width == 4) {
      add_slab<D, 4>(slab, token, first, n, &ahead, sum);
    } else if (width == 3) {
      add_slab<D, 3>(slab, token, first, n, &ahead, sum);
    } else if (width == 2) {
      add_slab<D, 2>(slab, token, first, n, &ahead, sum);
    } else {
      add_slab<D, 1>(slab, token, first, n, &ahead, sum);
    }
    ahead.p = nullptr;
  }
}

// Up to 16 rows from `row` on by all tokens; missing rows repeat the last and are not stored.
template <class D>
void gemv_rows(const GemvArgs &g, uint32_t row, uint32_t rows) {
  const uint8_t *w[2][8];
  for (uint32_t r = 0; r < kRows; r++) {
    w[r / 8][r % 8] = g.w + (row + (r < rows ? r : rows - 1)) * g.row_bytes;
  }
  Token token[kGemvMaxCols];
  for (uint32_t c = 0; c < g.n_cols; c++) {
    const uint64_t first = static_cast<uint64_t>(c) * g.k;
    token[c] = {g.act.q + first, g.act.d + first / kActGroup, g.act.s + first / 16};
  }
  alignas(32) float sum[kGemvMaxCols][kRows] = {};
  Slab<D> slab;
  constexpr uint32_t kBytes = kStep<D> / D::kUnit * D::kBytes;
  // Decoding and products take turns. Few tokens: short turns, for memory is read in the latter.
  const uint32_t turn = g.n_cols < 4 ? kPart<D> : kStep<D>;
  // Rows are short streams that the hardware prefetchers give up on.
  const uint8_t *next = w[0][0] + kRows * g.row_bytes;
  for (uint32_t k = 0; k < g.k; k += kStep<D>) {
    const uint32_t n = g.k - k < kStep<D> ? g.k - k : kStep<D>;
    for (uint32_t half = 0; half < 2; half++) {
      interleave_scales<D>(w[half], n, slab.scale + 8 * half, slab.min + 8 * half);
    }
    for (uint32_t first = 0; first < n; first += turn) {
      const uint32_t end = n - first < turn ? n : first + turn;
      for (uint32_t at = first; at < end; at += kPart<D>) {
        const uint32_t count = end - at < kPart<D> ? end - at : kPart<D>;
        for (uint32_t half = 0; half < 2; half++) {
          interleave<D>(w[half], at, count, slab.q + at * kRows + 32 * half);
        }
      }
      add_columns<D>(slab, token, g.n_cols, first, end - first, next, sum);
      next += kRows * D::kBytes * turn / D::kUnit;
    }
    for (uint32_t r = 0; r < kRows; r++) w[r / 8][r % 8] += kBytes;
    for (uint32_t c = 0; c < g.n_cols; c++) {
      token[c].q += kStep<D>;
      token[c].d += kStep<D> / kActGroup;
      token[c].s += kStep<D> / 16;
    }
  }
  for (uint32_t c = 0; c < g.n_cols; c++) {
    float *y = g.y + c * g.y_stride + row;
    if (rows == kRows) {
      _mm256_storeu_ps(y, _mm256_load_ps(sum[c]));
      _mm256_storeu_ps(y + 8, _mm256_load_ps(sum[c] + 8));
    } else {
      for (uint32_t r = 0; r < rows; r++) y[r] = sum[c][r];
    }
  }
}

template <class D>
void gemv(const GemvArgs &g) {
  for (uint32_t row = 0; row < g.rows; row += kRows) {
    gemv_rows<D>(g, row, g.rows - row < kRows ? g.rows - row : kRows);
  }
}

constexpr bool is_float(uint32_t type) {
  return type == static_cast<uint32_t>(DType::F32) || type == static_cast<uint32_t>(DType::F16) ||
         type == static_cast<uint32_t>(DType::BF16);
}

}  // namespace

void q35_init_gemv_avx2(Kernels *kernels) {
  GemvFn *table = kernels->gemv;
  for (uint32_t type = 0; type < 32; type++) {
    // Panels of this tier are faster than the scalar product.
    if (!is_float(type)) table[type] = nullptr;
  }
  table[static_cast<uint32_t>(DType::Q4_0)] = gemv<Q4_0>;
  table[static_cast<uint32_t>(DType::Q5_0)] = gemv<Q5_0>;
  table[static_cast<uint32_t>(DType::Q8_0)] = gemv<Q8_0>;
  table[static_cast<uint32_t>(DType::Q4_K)] = gemv<Q4_K>;
  table[static_cast<uint32_t>(DType::Q5_K)] = gemv<Q5_K>;
  table[static_cast<uint32_t>(DType::Q6_K)] = gemv<Q6_K>;
  table[static_cast<uint32_t>(DType::IQ4_NL)] = gemv<IQ4_NL>;
  table[static_cast<uint32_t>(DType::IQ4_XS)] = gemv<IQ4_XS>;
}

}  // namespace q35
