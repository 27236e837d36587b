// Integer products for many tokens on AVX2, with or without VNNI.
//
// Panel of 16 rows: header of 64 bytes, q [k / 4][16][4] bytes, scale f32 [k / group][16], min the
// same. The header says how the bytes enter the 16-bit products. Tile of 4 tokens: x i8
// [k / 4][4][4], then per token: d, sums s of 32 and of 16 values, sums of the integers of both.
#pragma once

#include "kernels/avx2/product.h"
#include "kernels/kernels.h"

namespace q35 {
namespace {

constexpr uint32_t kTokens = 4;  // 2 x 4 sums of the 16 registers

struct Header {
  uint32_t run;  // see kRunOf
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

template <class D>
void pack_decoded(const PanelRows &from, uint32_t k, Panel panel) {
  panel.header->run = kRunOf<D>;
  panel.header->bias = D::kBias;
  if (from.woven && from.rows >= kRows) {
    spread<D>(from.w, k, panel.q, panel.scale, panel.min);
    return;
  }
  const uint8_t *at[kRows];
  for (uint32_t r = 0; r < kRows; r++) {
    // Missing rows repeat the last: their outputs are never stored.
    at[r] = from.w + (r < from.rows ? r : from.rows - 1) * from.row_bytes;
  }
  alignas(64) uint8_t tile[kRows * D::kBlockBytes];
  Ahead ahead = {at[0] + kRows * from.row_bytes};
  constexpr uint32_t kGroups = D::kBlock / D::kGroup;
  for (uint32_t i = 0; i < k / D::kBlock; i++) {
    weave_block<D>(at, &ahead, tile);
    for (const uint8_t *&p : at) p += D::kBlockBytes;
    spread<D>(tile, D::kBlock, panel.q + i * D::kBlock * kRows, panel.scale + i * kGroups * kRows,
              panel.min + i * kGroups * kRows);
  }
}

// Any format, one row at a time through its unpack function.
// scratch: q i8 [k], scale f32 [k / 16], min f32 [k / 16]
void pack_unpacked(const TypeTraits &type, const PanelRows &from, uint32_t k, Panel panel,
                   void *scratch) {
  uint32_t *q = static_cast<uint32_t *>(scratch);
  float *scale = reinterpret_cast<float *>(q + k / 4);
  float *min = scale + k / 16;
  // Bytes of formats with a minimum are unsigned and have at most 5 bits.
  const bool flip = kVnni && !type.has_min;
  panel.header->run = kVnni ? 8 : type.has_min ? 4 : 0;
  panel.header->bias = flip ? 128 : 0;
  uint32_t *out = reinterpret_cast<uint32_t *>(panel.q);
  for (uint32_t r = 0; r < kRows; r++) {
    const uint32_t row = r < from.rows ? r : from.rows - 1;
    type.unpack(from.w + row * from.row_bytes, reinterpret_cast<int8_t *>(q), scale, min, k);
    for (uint32_t i = 0; i < k / 4; i++) {
      out[i * kRows + r] = flip ? q[i] ^ 0x80808080u : q[i];
    }
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

// sum: [tokens][rows]
template <uint32_t kRun, uint32_t kGroup, bool kMin>
void product(uint32_t k, const Panel &panel, const Tile &tile, float (*sum)[kRows]) {
  constexpr uint32_t kParts = 32 / kGroup, kStep = 4 * kTokens;
  const int32_t bias = panel.header->bias;
  for (uint32_t g = 0; g < k / kGroup; g++) {
    const int32_t *total = (kGroup == 32 ? tile.sum32 : tile.sum16) + g * kTokens;
    const float *s = (kGroup == 32 ? tile.s32 : tile.s16) + g * kTokens;
    const float *d = tile.d + g / kParts * kTokens;
    const int8_t *x[kTokens];
    int32_t start[kTokens];
    GroupOf<kTokens> group;
    for (uint32_t t = 0; t < kTokens; t++) {
      x[t] = tile.x + static_cast<size_t>(g) * kGroup * kTokens + 4 * t;
      start[t] = kBiased<kRun, kMin> ? bias * total[t] : 0;
      group.d[t] = d + t;
      group.start[t] = start + t;
      group.s[t] = s + t;
    }
    add_group<kRun, kGroup, kMin, false, kTokens, kStep>(
        panel.q + static_cast<size_t>(g) * kGroup * kRows, panel.scale + g * kRows,
        panel.min + g * kRows, x, group, sum);
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
  if (kVnni || panel.header->run == 8) {
    product_of<8>(shape, panel, tile, sum);
  } else if (panel.header->run == 4) {
    product_of<4>(shape, panel, tile, sum);
  } else if (panel.header->run == 2) {
    product_of<2>(shape, panel, tile, sum);
  } else if (panel.header->run == 1) {
    product_of<1>(shape, panel, tile, sum);
  } else {
    product_of<0>(shape, panel, tile, sum);
  }
  for (uint32_t t = 0; t < n; t++) {
    for (uint32_t r = 0; r < rows; r++) out[t * out_stride + r] = sum[t][r];
  }
}

#ifdef __AVXVNNI__
inline __m256i peak_step(__m256i sum, __m256i a) {
  return _mm256_dpbusd_avx_epi32(sum, a, _mm256_set1_epi8(3));
}
#else
inline __m256i peak_step(__m256i sum, __m256i a) {
  const __m256i pairs = _mm256_maddubs_epi16(a, sum);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif

uint64_t int8_peak_loop(uint64_t iterations) {
  constexpr int kChains = kVnni ? 12 : 8;  // hide the latency of the instruction
  __m256i sum[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; i++) sum[i] = _mm256_set1_epi32(i);
  const __m256i a = _mm256_set1_epi32(static_cast<int>(iterations));
  for (uint64_t n = 0; n < iterations; n++) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; i++) {
      sum[i] = peak_step(sum[i], a);
      __asm__ volatile("" : "+x"(sum[i]));  // keeps the product in the loop
    }
  }
  return iterations * kChains * 32;
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
