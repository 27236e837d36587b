// Reference matrix-vector products: every format through its own unpack or decode function. What
// these compute defines the ISA tiers: the integer dot of each group exactly, the float sums within
// rounding.
#include "kernels/scalar/tier_scalar.h"

namespace q35 {
namespace {

constexpr uint32_t kChunk = 256;  // the largest block of any format

// sum + scale * d * (q . x) - min * s over the groups of one chunk of one row, in the order of
// gemm_q8.
// q: [n], scale, min: [n / group] (min null without minimum), xq, xd, xs: activations from the
// chunk's first value on.
float dot_chunk(const int8_t *q, const float *scale, const float *min, uint32_t n, uint32_t group,
                const int8_t *xq, const float *xd, const float *xs, float sum) {
  for (uint32_t at = 0; at < n; at += group) {
    int32_t dot = 0;
    for (uint32_t i = at; i < at + group; i++) dot += q[i] * xq[i];
    sum += scale[at / group] * xd[at / kActGroup] * static_cast<float>(dot);
    if (min != nullptr) {
      float s = 0;
      for (uint32_t i = at; i < at + group; i += 16) s += xs[i / 16];
      sum -= min[at / group] * s;
    }
  }
  return sum;
}

void gemv_int(const GemvArgs &g, const TypeTraits &type) {
  int8_t q[kChunk];
  float scale[kChunk / 16], min[kChunk / 16];
  for (uint32_t row = 0; row < g.rows; row++) {
    const uint8_t *w = g.w + row * g.row_bytes;
    float sum[kGemvMaxCols] = {};
    for (uint32_t at = 0; at < g.k; at += type.block_size, w += type.block_bytes) {
      type.unpack(w, q, scale, min, type.block_size);
      for (uint32_t c = 0; c < g.n_cols; c++) {
        const uint64_t x = static_cast<uint64_t>(c) * g.k + at;
        sum[c] = dot_chunk(q, scale, type.has_min ? min : nullptr, type.block_size, type.group,
                           g.act.q + x, g.act.d + x / kActGroup, g.act.s + x / 16, sum[c]);
      }
    }
    for (uint32_t c = 0; c < g.n_cols; c++) g.y[c * g.y_stride + row] = sum[c];
  }
}

void gemv_float(const GemvArgs &g, const TypeTraits &type) {
  float w[kChunk];
  for (uint32_t row = 0; row < g.rows; row++) {
    float sum[kGemvMaxCols] = {};
    for (uint32_t at = 0; at < g.k; at += kChunk) {
      const uint32_t n = g.k - at < kChunk ? g.k - at : kChunk;
      type.decode(g.w + row * g.row_bytes + type_bytes(type, at), w, n);
      for (uint32_t c = 0; c < g.n_cols; c++) {
        const float *x = g.x + static_cast<uint64_t>(c) * g.k + at;
        for (uint32_t i = 0; i < n; i++) sum[c] += w[i] * x[i];
      }
    }
    for (uint32_t c = 0; c < g.n_cols; c++) g.y[c * g.y_stride + row] = sum[c];
  }
}

// One instance per type number, for the table has no place for the traits.
template <uint32_t kType>
void gemv(const GemvArgs &g) {
  const TypeTraits &type = *type_traits(kType);
  if (type.group == 0) {
    gemv_float(g, type);
  } else {
    gemv_int(g, type);
  }
}

template <uint32_t kType>
void fill(Kernels *kernels) {
  kernels->gemv[kType] = type_traits(kType) != nullptr ? gemv<kType> : nullptr;
  if constexpr (kType != 0) fill<kType - 1>(kernels);
}

}  // namespace

void q35_init_gemv_scalar(Kernels *kernels) {
  fill<31>(kernels);
}

}  // namespace q35
