// Integer products for few tokens on AVX2: blocks are decoded in registers and met with one or two
// tokens at a time. The other formats go through panels.
#include "kernels/avx2/decode.h"
#include "kernels/avx2/tier_avx2.h"

namespace q35 {
namespace {

// As in the AVX-512 tier: the distance at which lines are asked for into the second level.
constexpr uint32_t kPrefetchBytes = 8192;

template <uint32_t kR, uint32_t kC>
struct Cursor {
  const uint8_t *w[kR];
  const int8_t *q[kC];
  const float *d[kC];
  const float *s[kC];
};

// Sums of products of 4 neighbours, exact: pairs fit 16 bits since 2 * 128 * 127 < 2^15 and the
// signed form multiplies |w| by x with the sign of w.
template <bool kSigned>
inline __m256i dot(__m256i w, __m256i x) {
  const __m256i pairs = kSigned ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                                : _mm256_maddubs_epi16(w, x);
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

// acc -= min * s for the groups of one block; min: [kUnit / kGroup], s: [kUnit / 16].
template <class D>
inline __m256 subtract_min(const float *min, const float *s, __m256 acc) {
  static_assert(D::kUnit == 256 && D::kGroup == 32, "eight minimums, two sums each");
  const __m256 pairs = _mm256_hadd_ps(_mm256_loadu_ps(s), _mm256_loadu_ps(s + 8));
  const __m256 sums =
      _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(pairs), _MM_SHUFFLE(3, 1, 2, 0)));
  return _mm256_fnmadd_ps(_mm256_loadu_ps(min), sums, acc);
}

// acc[r][c] += the products of one block.
template <class D, uint32_t kR, uint32_t kC>
inline void add_block(const Cursor<kR, kC> &at, __m256 (&acc)[kR][kC]) {
  constexpr uint32_t kParts = 32 / D::kGroup;  // scales of 32 values
  float scale[kR][D::kUnit / D::kGroup], min[kR][D::kUnit / D::kGroup];
  for (uint32_t r = 0; r < kR; r++) {
    D::scales(at.w[r], scale[r], min[r]);
    if constexpr (D::kHasMin) {
      for (uint32_t c = 0; c < kC; c++) acc[r][c] = subtract_min<D>(min[r], at.s[c], acc[r][c]);
    }
  }
#pragma GCC unroll 8
  for (uint32_t i = 0; i < D::kUnit / 32; i++) {
    __m256i x[kC], bias[kC];
    for (uint32_t c = 0; c < kC; c++) {
      x[c] = load32(at.q[c] + 32 * i);
      bias[c] =
          D::kBias != 0 ? dot<false>(_mm256_set1_epi8(D::kBias), x[c]) : _mm256_setzero_si256();
    }
    for (uint32_t r = 0; r < kR; r++) {
      const __m256i w = D::load(at.w[r], static_cast<int>(i));
      for (uint32_t c = 0; c < kC; c++) {
        const __m256i sum = _mm256_sub_epi32(dot<D::kSigned>(w, x[c]), bias[c]);
        __m256 factor = _mm256_set1_ps(scale[r][kParts * i] * at.d[c][i]);
        if constexpr (kParts == 2) {
          const __m256 second = _mm256_set1_ps(scale[r][kParts * i + 1] * at.d[c][i]);
          factor = _mm256_blend_ps(factor, second, 0xf0);
        }
        acc[r][c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), factor, acc[r][c]);
      }
    }
  }
}

inline float sum_lanes(__m256 a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

template <class D, uint32_t kR, uint32_t kC>
inline void gemv_tile(const GemvArgs &g, uint32_t row, uint32_t col) {
  Cursor<kR, kC> at;
  __m256 acc[kR][kC];
  for (uint32_t r = 0; r < kR; r++) {
    at.w[r] = g.w + (row + r) * g.row_bytes;
    for (uint32_t c = 0; c < kC; c++) acc[r][c] = _mm256_setzero_ps();
  }
  for (uint32_t c = 0; c < kC; c++) {
    const uint64_t first = static_cast<uint64_t>(col + c) * g.k;
    at.q[c] = g.act.q + first;
    at.d[c] = g.act.d + first / kActGroup;
    at.s[c] = g.act.s + first / 16;
  }
  const uint8_t *ahead = at.w[0] + kR * g.row_bytes + kPrefetchBytes;
  for (uint32_t k = g.k / D::kUnit; k != 0; k--) {
    for (uint32_t i = 0; i < kR * D::kBytes; i += 64) {
      _mm_prefetch(reinterpret_cast<const char *>(ahead + i), _MM_HINT_T1);
    }
    ahead += kR * D::kBytes;
    add_block<D, kR, kC>(at, acc);
    for (uint32_t r = 0; r < kR; r++) at.w[r] += D::kBytes;
    for (uint32_t c = 0; c < kC; c++) {
      at.q[c] += D::kUnit;
      at.d[c] += D::kUnit / kActGroup;
      at.s[c] += D::kUnit / 16;
    }
  }
  for (uint32_t c = 0; c < kC; c++) {
    float *y = g.y + (col + c) * g.y_stride + row;
    for (uint32_t r = 0; r < kR; r++) y[r] = sum_lanes(acc[r][c]);
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
  for (; row + 2 <= g.rows; row += 2) gemv_rows<D, 2>(g, row);
  for (; row < g.rows; row++) gemv_rows<D, 1>(g, row);
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
  table[static_cast<uint32_t>(DType::Q8_0)] = gemv<Q8_0>;
  table[static_cast<uint32_t>(DType::Q4_K)] = gemv<Q4_K>;
  table[static_cast<uint32_t>(DType::Q5_K)] = gemv<Q5_K>;
  table[static_cast<uint32_t>(DType::Q6_K)] = gemv<Q6_K>;
  table[static_cast<uint32_t>(DType::IQ4_NL)] = gemv<IQ4_NL>;
  table[static_cast<uint32_t>(DType::IQ4_XS)] = gemv<IQ4_XS>;
}

}  // namespace q35
