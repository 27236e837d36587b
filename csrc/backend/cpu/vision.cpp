// The vision tower's own operations. Attention: blocks of 32 query rows walk all patches in tiles,
// with queries, scores and outputs stored as columns, as text attention does for many rows; there
// is no cache, no mask and no grouping of heads, and heads may have any width.
#include <cmath>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/scratch.h"
#include "model/vision_config.h"

namespace q35 {

namespace {

// Blocks of query rows that share a gathered tile: 8 of them and the tile fit the second-level
// cache.
constexpr uint32_t kPatchBlocks = 8;

// Copies `count` rows of `dim` values side by side: rows a multiple of 4 KiB apart would share a
// few sets of the first-level cache.
void gather(const float *x, uint64_t stride, uint32_t count, uint32_t dim, float *out) {
  for (uint64_t i = 0; i < count; i++) {
    std::memcpy(out + i * dim, x + i * stride, sizeof(float) * dim);
  }
}

uint64_t patch_attention_floats(uint32_t head_dim) {
  return kPatchBlocks * block_floats(head_dim) + 2ull * kBlockTile * head_dim;
}

// Most bytes of keys and values that are packed at once.
constexpr uint64_t kTiledKeysBytes = 8 << 20;

// Keys and values of one head: tiles of both in turn.
uint64_t head_values(uint32_t n, uint32_t head_dim) {
  return (n + kTiledEntries - 1) / kTiledEntries * 2 * tiled_entry_values(head_dim);
}

// How many heads are packed at once.
uint32_t tiled_heads(uint32_t n, uint32_t n_head, uint32_t head_dim) {
  const uint64_t heads = kTiledKeysBytes / (2 * head_values(n, head_dim));
  return heads < 1 ? 1 : heads > n_head ? n_head : static_cast<uint32_t>(heads);
}

// Packed keys and values, with room to align them.
uint64_t tiled_keys_values(const VisionConfig &c, uint32_t n) {
  return tiled_heads(n, c.n_head, c.head_dim()) * head_values(n, c.head_dim()) + 32;
}

}  // namespace

uint64_t CpuBackend::vision_scratch_floats(const VisionConfig &c) const {
  uint32_t k = c.merged_dim() > c.n_ff ? c.merged_dim() : c.n_ff;
  if (k < 2 * c.frame_values()) k = 2 * c.frame_values();
  const uint64_t linear = linear_scratch_floats(kernels_, k);
  uint64_t attention = patch_attention_floats(c.head_dim());
  if (kernels_.bf16.gemm != nullptr) {
    const uint64_t tiled = tiled_attention_floats(kPatchBlocks, c.head_dim(), true);
    attention = tiled > attention ? tiled : attention;
  }
  return ((linear > attention ? linear : attention) + 31) / 16 * 16;
}

Status CpuBackend::reserve_vision(const VisionConfig &c, uint32_t max_patches, bool quantized) {
  if (kernels_.bf16.gemm != nullptr) {
    const uint64_t values = tiled_keys_values(c, max_patches);
    if (values > packed_.size()) Q35_TRY(packed_.resize(values));
  }
  if (quantized || kernels_.bf16.gemm != nullptr) {
    Q35_TRY(reserve_activations(max_patches, c.n_embd, true));
    Q35_TRY(reserve_activations(max_patches, c.n_ff, true));
    Q35_TRY(reserve_activations(max_patches / (c.merge * c.merge), c.merged_dim(), true));
  }
  scratch_floats_ = vision_scratch_floats(c);
  return scratch_.resize(scratch_floats_ * pool_->size());
}

uint64_t CpuBackend::vision_bytes(const VisionConfig &c, uint32_t max_patches,
                                  bool quantized) const {
  const uint64_t scratch = sizeof(float) * vision_scratch_floats(c) * pool_->size();
  const bool tiled = kernels_.bf16.gemm != nullptr;
  if (!quantized && !tiled) return scratch;
  const uint32_t width = c.n_ff > c.n_embd ? c.n_ff : c.n_embd;
  const uint32_t blocks = max_patches / (c.merge * c.merge);
  const auto most = [](uint64_t a, uint64_t b) { return a > b ? a : b; };
  const uint64_t integers =
      most(activation_bytes(max_patches, width), activation_bytes(blocks, c.merged_dim()));
  if (!tiled) return scratch + integers;
  const uint64_t packed =
      most(packed_values(max_patches, width, true), packed_values(blocks, c.merged_dim(), true));
  return scratch + integers + 2 * most(packed, tiled_keys_values(c, max_patches));
}

void CpuBackend::patches(const PatchArgs &a) {
  float values[3][256];  // of every pixel value of a channel
  for (uint32_t ch = 0; ch < 3; ch++) {
    for (uint32_t v = 0; v < 256; v++) {
      values[ch][v] = (static_cast<float>(v) / 255.0f - a.mean[ch]) / a.std[ch];
    }
  }
  const uint64_t area = a.patch * a.patch, line = 3ull * a.cols * a.patch;
  const uint32_t frames = a.second == nullptr ? 1 : 2;
  over_tokens(a.rows * a.cols, [&](uint32_t first, uint32_t count, int) {
    for (uint32_t i = first; i < first + count; i++) {
      uint32_t row = 0, col = 0;
      patch_place(i, a.cols, a.merge, &row, &col);
      const uint64_t corner = row * a.patch * line + 3ull * col * a.patch;
      for (uint32_t f = 0; f < frames; f++) {
        const uint8_t *pixels = (f == 0 ? a.first : a.second) + corner;
        float *out = a.out + (static_cast<uint64_t>(i) * frames + f) * 3 * area;
        for (uint64_t y = 0; y < a.patch; y++) {
          for (uint64_t x = 0; x < a.patch; x++) {
            for (uint32_t ch = 0; ch < 3; ch++) {
              out[ch * area + y * a.patch + x] = values[ch][pixels[y * line + 3 * x + ch]];
            }
          }
        }
      }
    }
  });
}

void CpuBackend::add_layer_norm(float *x, const float *delta, const float *bias, const float *w,
                                const float *b, uint32_t n, uint32_t dim, float eps, float *y) {
  over_tokens(n, [&](uint32_t first, uint32_t count, int) {
    for (uint64_t t = first; t < first + count; t++) {
      kernels_.add(x + t * dim, delta + t * dim, dim);
      if (bias != nullptr) kernels_.add(x + t * dim, bias, dim);
      kernels_.layer_norm(x + t * dim, w, b, dim, eps, y + t * dim);
    }
  });
}

void CpuBackend::bias_gelu(float *x, const float *bias, uint32_t n, uint32_t dim, bool exact) {
  const auto gelu = exact ? kernels_.gelu_erf : kernels_.gelu_tanh;
  over_tokens(n, [&](uint32_t first, uint32_t count, int) {
    for (uint64_t t = first; t < first + count; t++) gelu(x + t * dim, bias, dim);
  });
}

void CpuBackend::add_bias(float *x, const float *bias, uint32_t n, uint32_t dim) {
  over_tokens(n, [&](uint32_t first, uint32_t count, int) {
    for (uint64_t t = first; t < first + count; t++) kernels_.add(x + t * dim, bias, dim);
  });
}

void CpuBackend::patch_attention(const PatchAttentionArgs &a) {
  const uint32_t e = a.n_head * a.head_dim;
  const float q_scale = 1.0f / std::sqrt(static_cast<float>(a.head_dim));
  over_tokens(a.n, [&](uint32_t first, uint32_t count, int) {
    for (uint64_t t = first; t < first + count; t++) {
      float *q = a.qkv + t * 3 * e;
      kernels_.add(q, a.bias, 3 * e);
      for (uint32_t h = 0; h < 2 * a.n_head; h++) {  // queries, then keys
        kernels_.rope(q + h * a.head_dim, a.cos + t * (a.head_dim / 2),
                      a.sin + t * (a.head_dim / 2), a.head_dim);
      }
      kernels_.scale(q, q_scale, e);
    }
  });
  const uint32_t width = kPatchBlocks * kTileCols, items = (a.n + width - 1) / width;
  const bool tiled = a.rounded && kernels_.bf16.gemm != nullptr;
  const uint32_t step = tiled ? tiled_heads(a.n, a.n_head, a.head_dim) : a.n_head;
  for (uint32_t head = 0; head < a.n_head; head += step) {
    const uint32_t heads = a.n_head - head < step ? a.n_head - head : step;
    if (tiled) pack_heads(a, head, heads);
    pool_->run(items * heads, [&](uint32_t item, int thread) {
      const uint32_t first = item / heads * width;
      const uint32_t count = a.n - first < width ? a.n - first : width;
      if (tiled) {
        attend_patches_tiled(a, head, item % heads, first, count, thread);
      } else {
        attend_patches(a, head + item % heads, first, count, thread);
      }
    });
  }
}

// Keys and values of some heads as bf16, for attend_patches_tiled.
void CpuBackend::pack_heads(const PatchAttentionArgs &a, uint32_t head, uint32_t heads) {
  const uint32_t d = a.head_dim, e = a.n_head * d;
  const uint64_t stride = 3ull * e;
  const uint32_t tiles = (a.n + kTiledEntries - 1) / kTiledEntries;
  uint16_t *packed = align64(packed_.data());
  pool_->run(tiles * heads, [&](uint32_t item, int) {
    const uint32_t h = item / tiles, j = item % tiles * kTiledEntries;
    const uint32_t n = a.n - j < kTiledEntries ? a.n - j : kTiledEntries;
    const float *keys = a.qkv + j * stride + e + (head + h) * d;
    uint16_t *out = packed + h * head_values(a.n, d) + item % tiles * 2 * tiled_entry_values(d);
    kernels_.bf16.pack_left(keys, stride, n, d, out);
    kernels_.bf16.pack_left_transposed(keys + e, stride, d, n, bf16_values(16, n),
                                       out + tiled_entry_values(d));
  });
}

// Up to kPatchBlocks blocks of query rows of one head over all patches; they share every tile of
// keys and values.
void CpuBackend::attend_patches(const PatchAttentionArgs &a, uint32_t head, uint32_t first,
                                uint32_t count, int thread) {
  const uint32_t d = a.head_dim, e = a.n_head * d;
  const uint64_t stride = 3ull * e;
  const uint32_t n_blocks = (count + kTileCols - 1) / kTileCols;
  float *scratch = thread_scratch(thread);
  float *keys = scratch + kPatchBlocks * block_floats(d), *values = keys + kBlockTile * d;
  for (uint32_t i = 0; i < n_blocks; i++) {
    Columns b;
    b.place(scratch + i * block_floats(d), d);
    std::memset(b.queries, 0, sizeof(float) * 2 * d * kTileCols);  // and outputs
    for (uint32_t c = 0; c < kTileCols; c++) {
      b.m[c] = -INFINITY;
      b.l[c] = 0.0f;
      const uint32_t row = i * kTileCols + c;
      if (row >= count) continue;
      const float *q = a.qkv + (first + row) * stride + head * d;
      for (uint32_t k = 0; k < d; k++) b.queries[k * kTileCols + c] = q[k];
    }
  }
  for (uint32_t j = 0; j < a.n; j += kBlockTile) {
    const uint32_t n = a.n - j < kBlockTile ? a.n - j : kBlockTile;
    gather(a.qkv + j * stride + e + head * d, stride, n, d, keys);
    gather(a.qkv + j * stride + 2 * e + head * d, stride, n, d, values);
    for (uint32_t i = 0; i < n_blocks; i++) {
      Columns b;
      b.place(scratch + i * block_floats(d), d);
      kernels_.gemm_f32(keys, d, 1, n, b.queries, kTileCols, d, 0.0f, b.scores, kTileCols);
      kernels_.softmax_cols(b.scores, n, b.m, b.l, b.shrink);
      kernels_.scale_cols(b.outputs, b.shrink, d);
      kernels_.gemm_f32(values, 1, d, d, b.scores, kTileCols, n, 1.0f, b.outputs, kTileCols);
    }
  }
  for (uint32_t row = 0; row < count; row++) {
    Columns b;
    b.place(scratch + row / kTileCols * block_floats(d), d);
    const uint32_t c = row % kTileCols;
    float *out = a.out + static_cast<uint64_t>(first + row) * e + head * d;
    for (uint32_t k = 0; k < d; k++) out[k] = b.outputs[k * kTileCols + c] / b.l[c];
  }
}

// The same with products of bf16. packed: of the heads from `first_head` on, which one this is.
void CpuBackend::attend_patches_tiled(const PatchAttentionArgs &a, uint32_t first_head,
                                      uint32_t packed, uint32_t first, uint32_t count, int thread) {
  const Bf16Kernels &bf16 = kernels_.bf16;
  const uint32_t d = a.head_dim, e = a.n_head * d, head = first_head + packed;
  const uint64_t stride = 3ull * e;
  const float *queries = a.qkv + head * d;
  const uint16_t *tile = align64(packed_.data()) + packed * head_values(a.n, d);
  const uint32_t n_blocks = (count + kTileCols - 1) / kTileCols;
  const TiledScratch s(thread_scratch(thread), kPatchBlocks, d, true);
  for (uint32_t i = 0; i < n_blocks; i++) {
    const TiledBlock b = s.block(i);
    const uint32_t row = i * kTileCols, left = count - row;
    // Of all factors here the rounding of queries counts most.
    bf16.pack_right_split(queries + (first + row) * stride, stride,
                          left < kTileCols ? left : kTileCols, d, b.queries);
    b.clear(d);
  }
  for (uint32_t j = 0; j < a.n; j += kTiledEntries) {
    const uint32_t n = a.n - j < kTiledEntries ? a.n - j : kTiledEntries;
    const uint16_t *keys = tile, *values = tile + tiled_entry_values(d);
    tile += 2 * tiled_entry_values(d);
    for (uint32_t i = 0; i < n_blocks; i++) {
      const TiledBlock b = s.block(i);
      bf16.gemm({keys, bf16_values(16, d), b.queries, n, kTileCols, d, false, Split::Right},
                s.scores, kTileCols);
      weigh_tiled(s, b, d, n, values, bf16_values(16, n));
    }
  }
  for (uint32_t row = 0; row < count; row++) {
    const TiledBlock b = s.block(row / kTileCols);
    const uint32_t c = row % kTileCols;
    float *out = a.out + static_cast<uint64_t>(first + row) * e + head * d;
    for (uint32_t k = 0; k < d; k++) out[k] = b.outputs[k * kTileCols + c] / b.l[c];
  }
}

}  // namespace q35
