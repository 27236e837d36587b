// Integer products for many tokens on AVX2.
//
// Panel of 16 rows: header of 64 bytes, q [k / 4][16][4] bytes, scale f32 [k / group][16], min the
// same. The header says how the bytes enter the 16-bit products. Tile of 4 tokens: x i8
// [k / 4][4][4], then per token: d, sums s of 32 and of 16 values, sums of the integers of both.
#include "kernels/avx2/decode.h"
#include "kernels/avx2/tier_avx2.h"

namespace q35 {
namespace {

constexpr uint32_t kRows = 16;   // two vectors of 8 rows
constexpr uint32_t kTokens = 4;  // 2 x 4 sums of the 16 registers

// run: how many unsigned bytes times +-127 a 16-bit lane can sum, in pairs: 8 (bytes up to 15),
// 2 (up to 63), or 0 for signed bytes of full range.
struct Header {
  uint32_t run;
  int32_t bias;
  uint8_t unused[56];
};
static_assert(sizeof(Header) == 64, "keeps the weights on a cache line");

struct Panel {
  Header *header;
  uint8_t *q;
  float *scale, *min;
  Panel(const PanelShape &shape, void *base)
      : header(static_cast<Header *>(base)),
        q(static_cast<uint8_t *>(base) + sizeof(Header)),
        scale(reinterpret_cast<float *>(q + static_cast<size_t>(kRows) * shape.k)),
        min(scale + static_cast<size_t>(kRows) * (shape.k / shape.group)) {}
};

struct Tile {
  int8_t *x;
  float *d, *s32, *s16;
  int32_t *sum32, *sum16;
  Tile(uint32_t k, void *base) {
    const size_t n32 = static_cast<size_t>(kTokens) * (k / 32), n16 = 2 * n32;
    x = static_cast<int8_t *>(base);
    d = reinterpret_cast<float *>(x + static_cast<size_t>(kTokens) * k);
    s32 = d + n32;
    s16 = s32 + n32;
    sum32 = reinterpret_cast<int32_t *>(s16 + n16);
    sum16 = sum32 + n32;
  }
};

size_t panel_bytes(const PanelShape &shape) {
  const size_t groups = shape.k / shape.group;
  return sizeof(Header) + kRows * (shape.k + groups * sizeof(float) * (shape.has_min ? 2 : 1));
}

size_t tile_bytes(uint32_t k) {
  return static_cast<size_t>(kTokens) * (k + (k / 32 * 3 + k / 16 * 2) * sizeof(float));
}

// ---- panels ------------------------------------------------------------------------------------

// a[i] lane j becomes a[j] lane i, for 8 x 8 words.
inline void transpose(__m256i (&a)[8]) {
  __m256i b[8];
  for (int i = 0; i < 8; i += 4) {
    const __m256i l0 = _mm256_unpacklo_epi32(a[i], a[i + 1]);
    const __m256i h0 = _mm256_unpackhi_epi32(a[i], a[i + 1]);
    const __m256i l1 = _mm256_unpacklo_epi32(a[i + 2], a[i + 3]);
    const __m256i h1 = _mm256_unpackhi_epi32(a[i + 2], a[i + 3]);
    b[i] = _mm256_unpacklo_epi64(l0, l1);
    b[i + 1] = _mm256_unpackhi_epi64(l0, l1);
    b[i + 2] = _mm256_unpacklo_epi64(h0, h1);
    b[i + 3] = _mm256_unpackhi_epi64(h0, h1);
  }
  for (int j = 0; j < 4; j++) {
    a[j] = _mm256_permute2x128_si256(b[j], b[4 + j], 0x20);
    a[4 + j] = _mm256_permute2x128_si256(b[j], b[4 + j], 0x31);
  }
}

// One block of 8 rows. w: [8] rows; q: [kUnit / 4][16][4]; scale, min: [kUnit / group][16].
template <class D>
inline void interleave_block(const uint8_t *const (&w)[8], uint8_t *q, float *scale, float *min) {
#pragma GCC unroll 8
  for (int c = 0; c < static_cast<int>(D::kUnit / 32); c++) {
    __m256i a[8];
    for (int r = 0; r < 8; r++) a[r] = D::load(w[r], c);
    transpose(a);
    for (int i = 0; i < 8; i++) {
      _mm256_storeu_si256(reinterpret_cast<__m256i *>(q + (8 * c + i) * kRows * 4), a[i]);
    }
  }
  constexpr uint32_t kGroups = D::kUnit / D::kGroup;
  for (uint32_t r = 0; r < 8; r++) {
    float s[kGroups], m[kGroups];
    D::scales(w[r], s, m);
    for (uint32_t i = 0; i < kGroups; i++) scale[i * kRows + r] = s[i];
    if constexpr (D::kHasMin) {
      for (uint32_t i = 0; i < kGroups; i++) min[i * kRows + r] = m[i];
    }
  }
}

template <class D>
void pack_decoded(const uint8_t *w, uint64_t row_bytes, uint32_t rows, uint32_t k, Panel panel) {
  panel.header->run = D::kSigned ? 0 : D::kMax <= 15 ? 8 : 2;
  panel.header->bias = D::kBias;
  constexpr uint32_t kGroups = D::kUnit / D::kGroup;
  for (uint32_t half = 0; half < kRows; half += 8) {
    const uint8_t *at[8];
    for (uint32_t r = 0; r < 8; r++) {
      // Missing rows repeat the last: their outputs are never stored.
      at[r] = w + (half + r < rows ? half + r : rows - 1) * row_bytes;
    }
    uint8_t *q = panel.q + half * 4;
    float *scale = panel.scale + half, *min = panel.min + half;
    for (uint32_t i = 0; i < k / D::kUnit; i++) {
      interleave_block<D>(at, q, scale, min);
      for (uint32_t r = 0; r < 8; r++) at[r] += D::kBytes;
      q += D::kUnit * kRows;
      scale += kGroups * kRows;
      min += kGroups * kRows;
    }
  }
}

// Any format, one row at a time through its unpack function.
// scratch: q i8 [k], scale f32 [k / 16], min f32 [k / 16]
void pack_unpacked(const TypeTraits &type, const uint8_t *w, uint64_t row_bytes, uint32_t rows,
                   uint32_t k, Panel panel, void *scratch) {
  uint32_t *q = static_cast<uint32_t *>(scratch);
  float *scale = reinterpret_cast<float *>(q + k / 4);
  float *min = scale + k / 16;
  // Bytes of formats with a minimum are unsigned and have at most 5 bits.
  panel.header->run = type.has_min ? 2 : 0;
  panel.header->bias = 0;
  uint32_t *out = reinterpret_cast<uint32_t *>(panel.q);
  for (uint32_t r = 0; r < kRows; r++) {
    const uint32_t row = r < rows ? r : rows - 1;
    type.unpack(w + row * row_bytes, reinterpret_cast<int8_t *>(q), scale, min, k);
    for (uint32_t i = 0; i < k / 4; i++) out[i * kRows + r] = q[i];
    for (uint32_t i = 0; i < k / type.group; i++) panel.scale[i * kRows + r] = scale[i];
    if (!type.has_min) continue;
    for (uint32_t i = 0; i < k / type.group; i++) panel.min[i * kRows + r] = min[i];
  }
}

size_t pack_scratch_bytes(uint32_t k) {
  return k + k / 16 * 2 * sizeof(float);
}

void pack_panel(const TypeTraits &type, const uint8_t *w, uint64_t row_bytes, uint32_t rows,
                uint32_t k, void *base, void *scratch) {
  const Panel panel({k, type.group, type.has_min}, base);
  switch (type.type) {
    case DType::Q4_0:
      return pack_decoded<Q4_0>(w, row_bytes, rows, k, panel);
    case DType::Q8_0:
      return pack_decoded<Q8_0>(w, row_bytes, rows, k, panel);
    case DType::Q4_K:
      return pack_decoded<Q4_K>(w, row_bytes, rows, k, panel);
    case DType::Q5_K:
      return pack_decoded<Q5_K>(w, row_bytes, rows, k, panel);
    case DType::Q6_K:
      return pack_decoded<Q6_K>(w, row_bytes, rows, k, panel);
    case DType::IQ4_NL:
      return pack_decoded<IQ4_NL>(w, row_bytes, rows, k, panel);
    case DType::IQ4_XS:
      return pack_decoded<IQ4_XS>(w, row_bytes, rows, k, panel);
    default:
      return pack_unpacked(type, w, row_bytes, rows, k, panel, scratch);
  }
}

// ---- tiles -------------------------------------------------------------------------------------

inline int32_t sum_of_16(const int8_t *q) {
  const __m256i pairs = _mm256_madd_epi16(_mm256_cvtepi8_epi16(load16(q)), _mm256_set1_epi16(1));
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

void pack_tile(const ActQ8 &act, uint32_t n, uint32_t k, void *base) {
  const Tile tile(k, base);
  if (n < kTokens) __builtin_memset(base, 0, tile_bytes(k));
  for (uint32_t t = 0; t < n; t++) {
    const int8_t *q = act.q + static_cast<uint64_t>(t) * k;
    const float *d = act.d + static_cast<uint64_t>(t) * (k / 32);
    const float *s = act.s + static_cast<uint64_t>(t) * (k / 16);
    for (uint32_t i = 0; i < k / 4; i++) {
      __builtin_memcpy(tile.x + (i * kTokens + t) * 4, q + 4 * i, 4);
    }
    for (uint32_t g = 0; g < k / 32; g++) {
      const int32_t sum0 = sum_of_16(q + 32 * g), sum1 = sum_of_16(q + 32 * g + 16);
      const uint32_t at = g * kTokens + t, first = 2 * g * kTokens + t, second = first + kTokens;
      tile.d[at] = d[g];
      tile.s16[first] = s[2 * g];
      tile.s16[second] = s[2 * g + 1];
      tile.s32[at] = s[2 * g] + s[2 * g + 1];
      tile.sum16[first] = sum0;
      tile.sum16[second] = sum1;
      tile.sum32[at] = sum0 + sum1;
    }
  }
}

// ---- product -----------------------------------------------------------------------------------

inline __m256i token_word(const int8_t *x, uint32_t i, uint32_t t) {
  return _mm256_set1_epi32(static_cast<int>(load_u32(x + (i * kTokens + t) * 4)));
}

// 16-bit sums of the products of pairs, over kRun steps of 4 values; kRun 0: one signed step.
template <uint32_t kRun>
inline void pair_sums(const uint8_t *q, const int8_t *x, __m256i (&pairs)[2][kTokens]) {
#pragma GCC unroll 8
  for (uint32_t i = 0; i < (kRun == 0 ? 1 : kRun); i++) {
    const __m256i w0 = load32(q + i * kRows * 4), w1 = load32(q + i * kRows * 4 + 32);
#pragma GCC unroll 4
    for (uint32_t t = 0; t < kTokens; t++) {
      const __m256i xt = token_word(x, i, t);
      __m256i p0, p1;
      if constexpr (kRun == 0) {
        p0 = _mm256_maddubs_epi16(_mm256_abs_epi8(w0), _mm256_sign_epi8(xt, w0));
        p1 = _mm256_maddubs_epi16(_mm256_abs_epi8(w1), _mm256_sign_epi8(xt, w1));
      } else {
        p0 = _mm256_maddubs_epi16(w0, xt);
        p1 = _mm256_maddubs_epi16(w1, xt);
      }
      pairs[0][t] = i == 0 ? p0 : _mm256_add_epi16(pairs[0][t], p0);
      pairs[1][t] = i == 0 ? p1 : _mm256_add_epi16(pairs[1][t], p1);
    }
  }
}

// dot: the integer products of kGroup values, unbiased.
template <uint32_t kRun, uint32_t kGroup>
inline void dots(const uint8_t *q, const int8_t *x, __m256i (&dot)[2][kTokens]) {
  constexpr uint32_t kSteps = kGroup / 4;
  constexpr uint32_t kStride = kRun == 0 ? 1 : kRun < kSteps ? kRun : kSteps;
  constexpr uint32_t kFit = kRun == 0 ? 0 : kStride;
#pragma GCC unroll 8
  for (uint32_t i = 0; i < kSteps; i += kStride) {
    __m256i pairs[2][kTokens];
    pair_sums<kFit>(q + i * kRows * 4, x + i * kTokens * 4, pairs);
    for (uint32_t v = 0; v < 2; v++) {
      for (uint32_t t = 0; t < kTokens; t++) {
        const __m256i words = _mm256_madd_epi16(pairs[v][t], _mm256_set1_epi16(1));
        dot[v][t] = i == 0 ? words : _mm256_add_epi32(dot[v][t], words);
      }
    }
  }
}

// sum: [tokens][rows]; it lives in memory because the registers are full of integer dots.
template <uint32_t kRun, uint32_t kGroup, bool kMin>
void product(uint32_t k, const Panel &panel, const Tile &tile, float (*sum)[kRows]) {
  constexpr uint32_t kParts = 32 / kGroup;
  const int32_t bias = panel.header->bias;
  for (uint32_t g = 0; g < k / kGroup; g++) {
    __m256i dot[2][kTokens];
    dots<kRun, kGroup>(panel.q + static_cast<size_t>(g) * kGroup * kRows,
                       tile.x + static_cast<size_t>(g) * kGroup * kTokens, dot);
    const int32_t *total = (kGroup == 32 ? tile.sum32 : tile.sum16) + g * kTokens;
    const float *s = (kGroup == 32 ? tile.s32 : tile.s16) + g * kTokens;
    const float *d = tile.d + g / kParts * kTokens;
    for (uint32_t t = 0; t < kTokens; t++) {
      const __m256i start = _mm256_set1_epi32(bias * total[t]);
      const __m256 dt = _mm256_set1_ps(d[t]);
      for (uint32_t v = 0; v < 2; v++) {
        const __m256 scale = _mm256_loadu_ps(panel.scale + g * kRows + 8 * v);
        const __m256 y = _mm256_cvtepi32_ps(_mm256_sub_epi32(dot[v][t], start));
        __m256 at = _mm256_load_ps(sum[t] + 8 * v);
        at = _mm256_fmadd_ps(_mm256_mul_ps(y, scale), dt, at);
        if constexpr (kMin) {
          const __m256 min = _mm256_loadu_ps(panel.min + g * kRows + 8 * v);
          at = _mm256_fnmadd_ps(min, _mm256_set1_ps(s[t]), at);
        }
        _mm256_store_ps(sum[t] + 8 * v, at);
      }
    }
  }
}

template <uint32_t kRun>
void product_of(const PanelShape &shape, const Panel &panel, const Tile &tile,
                float (*sum)[kRows]) {
  if (shape.group == 32) {
    if (shape.has_min) return product<kRun, 32, true>(shape.k, panel, tile, sum);
    return product<kRun, 32, false>(shape.k, panel, tile, sum);
  }
  if (shape.has_min) return product<kRun, 16, true>(shape.k, panel, tile, sum);
  return product<kRun, 16, false>(shape.k, panel, tile, sum);
}

void gemm_q8(const PanelShape &shape, const void *panel_base, const void *tile_base, uint32_t rows,
             uint32_t n, float *out, uint64_t out_stride) {
  const Panel panel(shape, const_cast<void *>(panel_base));
  const Tile tile(shape.k, const_cast<void *>(tile_base));
  alignas(32) float sum[kTokens][kRows] = {};
  if (panel.header->run == 8) {
    product_of<8>(shape, panel, tile, sum);
  } else if (panel.header->run == 2) {
    product_of<2>(shape, panel, tile, sum);
  } else {
    product_of<0>(shape, panel, tile, sum);
  }
  for (uint32_t t = 0; t < n; t++) {
    for (uint32_t r = 0; r < rows; r++) out[t * out_stride + r] = sum[t][r];
  }
}

uint64_t int8_peak_loop(uint64_t iterations) {
  constexpr int kChains = 8;
  __m256i sum[kChains];
#pragma GCC unroll 8
  for (int i = 0; i < kChains; i++) sum[i] = _mm256_set1_epi32(i);
  const __m256i a = _mm256_set1_epi32(static_cast<int>(iterations)), ones = _mm256_set1_epi16(1);
  for (uint64_t n = 0; n < iterations; n++) {
#pragma GCC unroll 8
    for (int i = 0; i < kChains; i++) {
      __m256i pairs = _mm256_maddubs_epi16(a, sum[i]);
      sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs, ones));
      __asm__ volatile("" : "+x"(sum[i]));  // keeps the product in the loop
    }
  }
  return iterations * kChains * 32;
}

}  // namespace

void q35_init_gemm_avx2(Kernels *kernels) {
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
