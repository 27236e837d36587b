// Reference product for many tokens. Panel: q [rows][k], scale [rows][k / group], min the same.
// Tile: q [tokens][k], d [tokens][k / 32], s [tokens][k / 16].
#include <cstring>

#include "kernels/scalar/tier_scalar.h"

namespace q35 {
namespace {

constexpr uint32_t kPanelRows = 4;
constexpr uint32_t kTileTokens = 4;

size_t panel_bytes(const PanelShape &shape) {
  const size_t groups = shape.k / shape.group;
  return kPanelRows * (shape.k + groups * sizeof(float) * (shape.has_min ? 2 : 1));
}

size_t tile_bytes(uint32_t k) {
  return kTileTokens * (k + (k / kActGroup + k / 16) * sizeof(float));
}

// Rows are unpacked in place: no scratch.
size_t pack_scratch_bytes(uint32_t) {
  return 0;
}

void pack_panel(const TypeTraits &type, const PanelRows &from, uint32_t k, void *panel, void *) {
  const uint32_t groups = k / type.group;
  int8_t *q = static_cast<int8_t *>(panel);
  float *scale = reinterpret_cast<float *>(q + static_cast<size_t>(kPanelRows) * k);
  float *min = scale + static_cast<size_t>(kPanelRows) * groups;
  std::memset(panel, 0, panel_bytes({k, type.group, type.has_min}));
  for (uint32_t r = 0; r < from.rows; r++) {
    type.unpack(from.w + r * from.row_bytes, q + static_cast<size_t>(r) * k,
                scale + static_cast<size_t>(r) * groups,
                type.has_min ? min + static_cast<size_t>(r) * groups : nullptr, k);
  }
}

void pack_tile(const ActQ8 &act, uint32_t n, uint32_t k, void *tile) {
  int8_t *q = static_cast<int8_t *>(tile);
  float *d = reinterpret_cast<float *>(q + static_cast<size_t>(kTileTokens) * k);
  float *s = d + static_cast<size_t>(kTileTokens) * (k / kActGroup);
  std::memset(tile, 0, tile_bytes(k));
  std::memcpy(q, act.q, static_cast<size_t>(n) * k);
  std::memcpy(d, act.d, static_cast<size_t>(n) * (k / kActGroup) * sizeof(float));
  std::memcpy(s, act.s, static_cast<size_t>(n) * (k / 16) * sizeof(float));
}

// One output: q: [k] weights, scale, min: [k / group]; xq: [k], xd: [k / 32], xs: [k / 16].
float dot_row(const PanelShape &shape, const int8_t *q, const float *scale, const float *min,
              const int8_t *xq, const float *xd, const float *xs) {
  float sum = 0;
  for (uint32_t at = 0; at < shape.k; at += shape.group) {
    int32_t dot = 0;
    for (uint32_t i = at; i < at + shape.group; i++) dot += q[i] * xq[i];
    sum += scale[at / shape.group] * xd[at / kActGroup] * static_cast<float>(dot);
    if (shape.has_min) {
      float s = 0;
      for (uint32_t i = at; i < at + shape.group; i += 16) s += xs[i / 16];
      sum -= min[at / shape.group] * s;
    }
  }
  return sum;
}

void gemm_q8(const PanelShape &shape, const void *panel, const void *tile, uint32_t rows,
             uint32_t n, float *out, uint64_t out_stride) {
  const size_t k = shape.k, groups = k / shape.group;
  const int8_t *q = static_cast<const int8_t *>(panel);
  const float *scale = reinterpret_cast<const float *>(q + kPanelRows * k);
  const float *min = scale + kPanelRows * groups;
  const int8_t *xq = static_cast<const int8_t *>(tile);
  const float *xd = reinterpret_cast<const float *>(xq + kTileTokens * k);
  const float *xs = xd + kTileTokens * (k / kActGroup);
  for (uint32_t t = 0; t < n; t++) {
    for (uint32_t r = 0; r < rows; r++) {
      out[t * out_stride + r] = dot_row(shape, q + r * k, scale + r * groups, min + r * groups,
                                        xq + t * k, xd + t * (k / kActGroup), xs + t * (k / 16));
    }
  }
}

uint64_t int8_peak_loop(uint64_t iterations) {
  int32_t sum[16] = {};
  int8_t a[16], b[16];
  for (int i = 0; i < 16; i++) {
    a[i] = static_cast<int8_t>(i + static_cast<int>(iterations & 7));
    b[i] = static_cast<int8_t>(3 * i);
  }
  for (uint64_t n = 0; n < iterations; n++) {
    for (int i = 0; i < 16; i++) sum[i] += a[i] * b[i];
    a[n & 15] = static_cast<int8_t>(a[n & 15] + 1);  // keeps the product from leaving the loop
  }
  volatile int32_t sink = 0;
  for (int i = 0; i < 16; i++) sink = sink + (sum[i] & 1);
  return iterations * 16;
}

}  // namespace

void q35_init_gemm_scalar(Kernels *kernels) {
  kernels->panel_rows = kPanelRows;
  kernels->tile_tokens = kTileTokens;
  kernels->panel_bytes = panel_bytes;
  kernels->tile_bytes = tile_bytes;
  kernels->pack_panel = pack_panel;
  kernels->pack_scratch_bytes = pack_scratch_bytes;
  kernels->pack_tile = pack_tile;
  kernels->gemm_q8 = gemm_q8;
  kernels->int8_peak_loop = int8_peak_loop;
}

}  // namespace q35
