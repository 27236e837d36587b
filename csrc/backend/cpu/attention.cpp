// Gated attention. A few query rows: the cache is split over the threads and the parts are merged
// by online softmax. Many rows: blocks of 32 query rows walk the cache in tiles, with queries,
// scores and outputs stored as columns so that the score matrix is never larger than one tile.
#include <cmath>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/scratch.h"

namespace q35 {

// Memory of attend_split, for the query rows of one kv head.
struct FewScratch {
  float *scores;   // [group, kKvTile]
  float *p_scale;  // [group]
  float *q_scale;  // [n, group]
  // For caches of integers.
  int16_t *weights;       // [group, kKvTile]: scores times the scales of the values
  int16_t *queries;       // [n, group, head_dim]
  int8_t *keys, *values;  // [kKvTile, head_dim]: a tile of a 4-bit cache

  FewScratch(float *at, uint32_t n, uint32_t group, uint32_t head_dim) {
    scores = at;
    p_scale = scores + group * kKvTile;
    q_scale = p_scale + group;
    weights = reinterpret_cast<int16_t *>(q_scale + n * group);
    queries = weights + group * kKvTile;
    keys = reinterpret_cast<int8_t *>(queries + n * group * head_dim);
    values = keys + kKvTile * head_dim;
  }
};

// Cache entries that few rows look at together, 4-bit ones unpacked.
struct Tile {
  uint32_t first;
  const void *keys, *values;  // [kKvTile, head_dim]
};

// Query rows of one kv head.
struct Block : Columns {
  uint32_t first, count;  // tokens of the batch
  uint32_t end;           // cache entries that the last of them sees

  // Entries of the tile at `tile` that the last token sees.
  uint32_t visible(uint32_t tile) const {
    if (tile >= end) return 0;
    return end - tile < kBlockTile ? end - tile : kBlockTile;
  }
};

namespace {

void store_cache(const Kernels &k, const AttentionArgs &a, void *cache, uint32_t kv_head,
                 uint32_t position, float *x) {
  uint8_t *row = kv_row(a, cache, kv_head, position);
  switch (a.kv_type) {
    case KvType::F32:
      std::memcpy(row, x, sizeof(float) * a.head_dim);
      break;
    case KvType::F16:
      k.f32_to_f16(x, a.head_dim, reinterpret_cast<uint16_t *>(row));
      break;
    case KvType::Q8_0:
      *kv_scale(a, cache, kv_head, position) =
          k.quantize_i8(x, a.head_dim, reinterpret_cast<int8_t *>(row));
      break;
    case KvType::IQ4_NL:
      *kv_scale(a, cache, kv_head, position) = k.quantize_i4(x, a.head_dim, row);
      break;
  }
}

// Dimensions [dim, dim + dims) of `count` cache entries as floats: the cache itself when it holds
// floats, else decoded to `buffer`, dim and dims then being multiples of 32. *stride: floats
// between entries.
const float *load_part(const Kernels &k, const AttentionArgs &a, void *cache, uint32_t kv_head,
                       uint32_t first, uint32_t count, uint32_t dim, uint32_t dims, float *buffer,
                       uint64_t *stride) {
  *stride = a.kv_type == KvType::F32 ? a.head_dim : dims;
  for (uint32_t i = 0; i < count; i++) {
    const uint8_t *row = kv_row(a, cache, kv_head, first + i);
    switch (a.kv_type) {
      case KvType::F32:
        return reinterpret_cast<const float *>(row) + dim;
      case KvType::F16:
        k.f16_to_f32(reinterpret_cast<const uint16_t *>(row) + dim, dims, buffer + i * dims);
        break;
      case KvType::Q8_0:
        k.i8_to_f32(reinterpret_cast<const int8_t *>(row) + dim,
                    *kv_scale(a, cache, kv_head, first + i), dims, buffer + i * dims);
        break;
      case KvType::IQ4_NL:
        for (uint32_t at = 0; at < dims; at += 32) {
          int8_t values[32];
          k.unpack_i4(row + (dim + at) / 2, 32, values);
          k.i8_to_f32(values, *kv_scale(a, cache, kv_head, first + i), 32, buffer + i * dims + at);
        }
        break;
    }
  }
  return buffer;
}

float *query_of(const AttentionArgs &a, uint32_t t, uint32_t head) {
  return a.q + (static_cast<uint64_t>(t) * a.n_head + head) * 2 * a.head_dim;
}

uint32_t split_length(uint32_t n_positions) {
  uint32_t length = (n_positions + kMaxSplits - 1) / kMaxSplits;
  length = (length + kKvTile - 1) / kKvTile * kKvTile;
  return length < kMinSplit ? kMinSplit : length;
}

// Hides what rows must not see in scores [n, 32] of the entries from `first` on: entries up to
// `begin` are seen by all rows, each later one by `group` rows less.
void hide_later(float *scores, uint32_t first, uint32_t n, uint32_t begin, uint32_t group) {
  for (uint32_t i = 0; i < n; i++) {
    const uint32_t hidden = first + i > begin ? (first + i - begin) * group : 0;
    for (uint32_t c = 0; c < hidden && c < kTileCols; c++) scores[i * kTileCols + c] = -INFINITY;
  }
}

// Of a partial result of attend_split: head_dim accumulators, maximum, sum.
uint64_t partial_stride(const AttentionArgs &a) {
  return a.head_dim + 16;
}

// First floats of the partial results of a split's rows [n, group].
uint64_t partial_at(const AttentionArgs &a, uint32_t split, uint32_t kv_head) {
  const uint64_t rows = static_cast<uint64_t>(a.n) * (a.n_head / a.n_head_kv);
  return (static_cast<uint64_t>(split) * a.n_head_kv + kv_head) * rows * partial_stride(a);
}

}  // namespace

// Norms and rotates queries and keys, scales queries by head_dim^-0.5, appends to the cache.
void CpuBackend::prepare_heads(const AttentionArgs &a) {
  const float q_scale = 1.0f / std::sqrt(static_cast<float>(a.head_dim));
  over_tokens(a.n, [&](uint32_t first, uint32_t count, int) {
    for (uint32_t t = first; t < first + count; t++) {
      const float *cos = a.cos + static_cast<uint64_t>(t) * (a.n_rot / 2);
      const float *sin = a.sin + static_cast<uint64_t>(t) * (a.n_rot / 2);
      for (uint32_t h = 0; h < a.n_head && a.q != nullptr; h++) {
        float *q = query_of(a, t, h);
        kernels_.rms_norm(q, a.q_norm, a.head_dim, a.eps, q);
        kernels_.rope(q, cos, sin, a.n_rot);
        kernels_.scale(q, q_scale, a.head_dim);
        if (kv_is_integer(a.kv_type)) kernels_.hadamard(q, a.head_dim);
      }
      for (uint32_t h = 0; h < a.n_head_kv; h++) {
        const uint64_t at = (static_cast<uint64_t>(t) * a.n_head_kv + h) * a.head_dim;
        kernels_.rms_norm(a.k + at, a.k_norm, a.head_dim, a.eps, a.k + at);
        kernels_.rope(a.k + at, cos, sin, a.n_rot);
        if (kv_is_integer(a.kv_type)) {
          kernels_.hadamard(a.k + at, a.head_dim);
          kernels_.hadamard(a.v + at, a.head_dim);
        }
        store_cache(kernels_, a, a.k_cache, h, a.position + t, a.k + at);
        store_cache(kernels_, a, a.v_cache, h, a.position + t, a.v + at);
      }
    }
  });
}

void CpuBackend::attention(const AttentionArgs &a) {
  prepare_heads(a);
  if (a.q == nullptr) return;
  if (a.n <= kGemvMaxCols && !prompt_) {
    attend_few(a);
    return;
  }
  // A kv head's query rows in items of several blocks, fewer where threads would idle. How
  // blocks are grouped does not change their results.
  const uint32_t tokens = group_tokens(a.n_head / a.n_head_kv);
  const uint32_t blocks = (a.n + tokens - 1) / tokens;
  uint32_t width = blocks * a.n_head_kv / (4 * static_cast<uint32_t>(pool_->size()));
  const bool tiled = a.rounded && kernels_.bf16.gemm != nullptr;
  const uint32_t most = tiled ? kMaxTiledBlocks : kMaxBlocks;
  width = width < 1 ? 1 : width > most ? most : width;
  const uint32_t items = (blocks + width - 1) / width;
  // Later blocks see more of the cache: handing them out first keeps the threads even at the end.
  pool_->run(items * a.n_head_kv, [&](uint32_t item, int thread) {
    const uint32_t first = (items - 1 - item / a.n_head_kv) * width * tokens;
    const uint32_t count = a.n - first < width * tokens ? a.n - first : width * tokens;
    if (tiled) {
      attend_blocks_tiled(a, item % a.n_head_kv, first, count, thread);
    } else {
      attend_blocks(a, item % a.n_head_kv, first, count, thread);
    }
  });
}

void CpuBackend::attend_few(const AttentionArgs &a) {
  const uint32_t n_positions = a.position + a.n, length = split_length(n_positions);
  const uint32_t n_splits = (n_positions + length - 1) / length;
  pool_->run(n_splits * a.n_head_kv, [&](uint32_t item, int thread) {
    attend_split(a, item / a.n_head_kv, item % a.n_head_kv, thread);
  });
  if (n_splits == 1) {
    for (uint32_t i = 0; i < a.n * a.n_head; i++) merge_splits(a, i / a.n_head, i % a.n_head);
  } else {
    pool_->run(a.n * a.n_head,
               [&](uint32_t item, int) { merge_splits(a, item / a.n_head, item % a.n_head); });
  }
}

// All rows of a kv head over one part of the cache, tile by tile, so that each tile is read from
// memory once.
void CpuBackend::attend_split(const AttentionArgs &a, uint32_t split, uint32_t kv_head,
                              int thread) {
  const uint32_t group = a.n_head / a.n_head_kv, rows = a.n * group, d = a.head_dim;
  const uint32_t n_positions = a.position + a.n, length = split_length(n_positions);
  const uint32_t begin = split * length;
  const uint32_t end = begin + length < n_positions ? begin + length : n_positions;
  float *partial = partial_.data() + partial_at(a, split, kv_head);
  const FewScratch scratch(thread_scratch(thread), a.n, group, d);
  for (uint32_t r = 0; r < rows; r++) {
    float *p = partial + r * partial_stride(a);
    std::memset(p, 0, sizeof(float) * partial_stride(a));
    p[d] = -INFINITY;
    if (kv_is_integer(a.kv_type)) {
      const float *q = query_of(a, r / group, kv_head * group + r % group);
      scratch.q_scale[r] = kernels_.quantize_i16(q, nullptr, d, scratch.queries + r * d);
    }
  }
  for (uint32_t j = begin; j < end; j += kKvTile) {
    const uint32_t count = end - j < kKvTile ? end - j : kKvTile;
    Tile tile = {j, kv_row(a, a.k_cache, kv_head, j), kv_row(a, a.v_cache, kv_head, j)};
    if (a.kv_type == KvType::IQ4_NL) {
      kernels_.unpack_i4(static_cast<const uint8_t *>(tile.keys), count * d, scratch.keys);
      kernels_.unpack_i4(static_cast<const uint8_t *>(tile.values), count * d, scratch.values);
      tile.keys = scratch.keys;
      tile.values = scratch.values;
    }
    for (uint32_t t = 0; t < a.n; t++) {
      if (a.position + t < j) continue;
      const uint32_t visible = a.position + t + 1 - j;
      attend_tile(a, kv_head, t, tile, visible < count ? visible : count, scratch, partial);
    }
  }
}

// The rows of one token over the first n entries of a tile.
void CpuBackend::attend_tile(const AttentionArgs &a, uint32_t kv_head, uint32_t t, const Tile &tile,
                             uint32_t n, const FewScratch &scratch, float *partial) {
  const uint32_t group = a.n_head / a.n_head_kv, d = a.head_dim;
  const uint64_t stride = partial_stride(a);
  const void *keys = tile.keys, *values = tile.values;
  // The first token fetches for all: the values of this tile, then the keys of the next. Unpacked
  // ones are there already.
  const bool fetch = t == 0 && a.kv_type != KvType::IQ4_NL;
  const void *next_values = fetch ? values : nullptr;
  const void *next_keys = fetch ? kv_row(a, a.k_cache, kv_head, tile.first + kKvTile) : nullptr;
  const float *q = query_of(a, t, kv_head * group);
  float *scores = scratch.scores, *out = partial + t * group * stride;
  switch (a.kv_type) {
    case KvType::F32:
      kernels_.qk_f32(q, 2 * d, group, static_cast<const float *>(keys), d, n, d, scores, kKvTile,
                      next_values);
      break;
    case KvType::F16:
      kernels_.qk_f16(q, 2 * d, group, static_cast<const uint16_t *>(keys), d, n, d, scores,
                      kKvTile, next_values);
      break;
    case KvType::Q8_0:
    case KvType::IQ4_NL:
      kernels_.qk_q8(scratch.queries + t * group * d, scratch.q_scale + t * group, group,
                     static_cast<const int8_t *>(keys), kv_scale(a, a.k_cache, kv_head, tile.first),
                     n, d, scores, kKvTile, next_values);
      break;
  }
  for (uint32_t r = 0; r < group; r++) {
    float *o = out + r * stride, *row = scores + r * kKvTile;
    const float shrink = kernels_.softmax_step(row, n, o + d, o + d + 1);
    if (shrink != 1.0f) kernels_.scale(o, shrink, d);
    if (kv_is_integer(a.kv_type)) {
      scratch.p_scale[r] = kernels_.quantize_i16(row, kv_scale(a, a.v_cache, kv_head, tile.first),
                                                 n, scratch.weights + r * kKvTile);
    }
  }
  switch (a.kv_type) {
    case KvType::F32:
      kernels_.pv_f32(scores, kKvTile, group, static_cast<const float *>(values), d, n, d, out,
                      stride, next_keys);
      break;
    case KvType::F16:
      kernels_.pv_f16(scores, kKvTile, group, static_cast<const uint16_t *>(values), d, n, d, out,
                      stride, next_keys);
      break;
    case KvType::Q8_0:
    case KvType::IQ4_NL:
      kernels_.pv_q8(scratch.weights, kKvTile, scratch.p_scale, group,
                     static_cast<const int8_t *>(values), n, d, out, stride, next_keys);
      break;
  }
}

// Adds the parts of one head, divides by the sum, and gates.
void CpuBackend::merge_splits(const AttentionArgs &a, uint32_t t, uint32_t head) {
  const uint32_t group = a.n_head / a.n_head_kv, d = a.head_dim,
                 length = split_length(a.position + a.n);
  const uint32_t n_splits = (a.position + a.n + length - 1) / length;
  const auto partial = [&](uint32_t split) {
    return partial_.data() + partial_at(a, split, head / group) +
           (t * group + head % group) * partial_stride(a);
  };
  float *out = a.out + (static_cast<uint64_t>(t) * a.n_head + head) * d;
  float peak = -INFINITY, sum = 0.0f;
  for (uint32_t s = 0; s < n_splits; s++) peak = std::fmax(peak, partial(s)[d]);
  std::memset(out, 0, sizeof(float) * d);
  for (uint32_t s = 0; s < n_splits; s++) {
    float *p = partial(s);
    if (p[d + 1] == 0.0f) continue;  // nothing of this part was visible to the row
    const float weight = std::exp(p[d] - peak);
    sum += weight * p[d + 1];
    kernels_.scale(p, weight, d);
    kernels_.add(out, p, d);
  }
  kernels_.scale(out, 1.0f / sum, d);
  if (kv_is_integer(a.kv_type)) kernels_.hadamard(out, d);  // the values were rotated
  kernels_.sigmoid_mul(out, query_of(a, t, head) + d, d);
}

// `count` tokens' rows of a kv head, over everything that they see.
void CpuBackend::attend_blocks(const AttentionArgs &a, uint32_t kv_head, uint32_t first,
                               uint32_t count, int thread) {
  const uint32_t group = a.n_head / a.n_head_kv, d = a.head_dim, tokens = group_tokens(group);
  const uint32_t n_blocks = (count + tokens - 1) / tokens;
  Block blocks[kMaxBlocks];
  float *scratch = thread_scratch(thread), *decoded = scratch + kMaxBlocks * block_floats(d);
  for (uint32_t i = 0; i < n_blocks; i++) {
    Block &b = blocks[i];
    b.first = first + i * tokens;
    b.count = first + count - b.first < tokens ? first + count - b.first : tokens;
    b.end = a.position + b.first + b.count;
    b.place(scratch + i * block_floats(d), d);
    std::memset(b.queries, 0, sizeof(float) * 2 * d * kTileCols);  // and outputs
    for (uint32_t c = 0; c < b.count * group; c++) {
      const float *q = query_of(a, b.first + c / group, kv_head * group + c % group);
      for (uint32_t k = 0; k < d; k++) b.queries[k * kTileCols + c] = q[k];
    }
    for (uint32_t c = 0; c < kTileCols; c++) {
      b.m[c] = -INFINITY;
      b.l[c] = 0.0f;
    }
  }
  for (uint32_t j = 0; j < a.position + first + count; j += kBlockTile) {
    block_scores(a, kv_head, j, blocks, n_blocks, decoded);
    for (uint32_t i = 0; i < n_blocks; i++) block_softmax(a, j, blocks[i]);
    block_outputs(a, kv_head, j, blocks, n_blocks, decoded);
  }
  for (uint32_t c = 0; c < count * group; c++) {
    const Block &b = blocks[c / (tokens * group)];
    const uint32_t t = first + c / group, head = kv_head * group + c % group;
    const uint32_t column = c % (tokens * group);
    give_row(a, t, head, b.outputs + column, b.l[column]);
  }
}

// One row's result, which is a column of `outputs`, divided by the sum of its weights, and gated.
void CpuBackend::give_row(const AttentionArgs &a, uint32_t t, uint32_t head, const float *outputs,
                          float sum) {
  const uint32_t d = a.head_dim;
  float *out = a.out + (static_cast<uint64_t>(t) * a.n_head + head) * d;
  const float inverse = 1.0f / sum;
  for (uint32_t i = 0; i < d; i++) out[i] = outputs[i * kTileCols] * inverse;
  if (kv_is_integer(a.kv_type)) kernels_.hadamard(out, d);
  kernels_.sigmoid_mul(out, query_of(a, t, head) + d, d);
}

// Scores of the tile at cache entry `first`. The last block sees the most of it.
void CpuBackend::block_scores(const AttentionArgs &a, uint32_t kv_head, uint32_t first,
                              const Block *blocks, uint32_t n_blocks, float *decoded) {
  const uint32_t n = blocks[n_blocks - 1].visible(first);
  uint64_t stride = 0;
  for (uint32_t i = 0; i < n; i += kKeyRows) {
    const uint32_t rows = n - i < kKeyRows ? n - i : kKeyRows;
    const float *keys = load_part(kernels_, a, a.k_cache, kv_head, first + i, rows, 0, a.head_dim,
                                  decoded, &stride);
    for (uint32_t b = 0; b < n_blocks; b++) {
      if (blocks[b].visible(first) <= i) continue;
      kernels_.gemm_f32(keys, stride, 1, rows, blocks[b].queries, kTileCols, a.head_dim, 0.0f,
                        blocks[b].scores + i * kTileCols, kTileCols);
    }
  }
}

void CpuBackend::block_softmax(const AttentionArgs &a, uint32_t first, const Block &b) {
  const uint32_t n = b.visible(first), group = a.n_head / a.n_head_kv;
  if (n == 0) return;
  hide_later(b.scores, first, n, a.position + b.first, group);
  kernels_.softmax_cols(b.scores, n, b.m, b.l, b.shrink);
  kernels_.scale_cols(b.outputs, b.shrink, a.head_dim);
}

void CpuBackend::block_outputs(const AttentionArgs &a, uint32_t kv_head, uint32_t first,
                               const Block *blocks, uint32_t n_blocks, float *decoded) {
  const uint32_t n = blocks[n_blocks - 1].visible(first);
  uint64_t stride = 0;
  for (uint32_t i = 0; i < a.head_dim; i += kValueDims) {
    const uint32_t dims = a.head_dim - i < kValueDims ? a.head_dim - i : kValueDims;
    const float *values =
        load_part(kernels_, a, a.v_cache, kv_head, first, n, i, dims, decoded, &stride);
    for (uint32_t b = 0; b < n_blocks; b++) {
      const uint32_t visible = blocks[b].visible(first);
      if (visible == 0) continue;
      kernels_.gemm_f32(values, 1, stride, dims, blocks[b].scores, kTileCols, visible, 1.0f,
                        blocks[b].outputs + i * kTileCols, kTileCols);
    }
  }
}

// Cache entries as bf16: keys packed [count, head_dim], values [head_dim, kTiledEntries], of which
// the first `count` columns. decoded: [kTiledStep, head_dim]
void CpuBackend::pack_entries(const AttentionArgs &a, uint32_t kv_head, uint32_t first,
                              uint32_t count, float *decoded, uint16_t *keys, uint16_t *values) {
  const uint32_t d = a.head_dim;
  uint64_t stride = 0;
  for (uint32_t i = 0; i < count; i += kTiledStep) {
    const uint32_t n = count - i < kTiledStep ? count - i : kTiledStep;
    const float *part =
        load_part(kernels_, a, a.k_cache, kv_head, first + i, n, 0, d, decoded, &stride);
    kernels_.bf16.pack_left(part, stride, n, d, keys + bf16_values(i, d));
    part = load_part(kernels_, a, a.v_cache, kv_head, first + i, n, 0, d, decoded, &stride);
    kernels_.bf16.pack_left_transposed(part, stride, d, n, bf16_values(16, kTiledEntries),
                                       values + uint64_t{i} * 16);
  }
}

// The scores of n entries become weights, and the entries' values are added to a block's outputs.
void CpuBackend::weigh_tiled(const TiledScratch &s, const TiledBlock &b, uint32_t head_dim,
                             uint32_t n, const uint16_t *values, uint64_t values_step) {
  kernels_.bf16.softmax_right(s.scores, n, b.m, b.l, s.shrink, s.weights);
  kernels_.scale_cols(b.outputs, s.shrink, head_dim);
  kernels_.bf16.gemm({values, values_step, s.weights, head_dim, kTileCols, n, true}, b.outputs,
                     kTileCols);
}

// attend_blocks with products of bf16.
void CpuBackend::attend_blocks_tiled(const AttentionArgs &a, uint32_t kv_head, uint32_t first,
                                     uint32_t count, int thread) {
  const uint32_t group = a.n_head / a.n_head_kv, d = a.head_dim, tokens = group_tokens(group);
  const uint32_t n_blocks = (count + tokens - 1) / tokens;
  const TiledScratch s(thread_scratch(thread), kMaxTiledBlocks, d, false);
  float *decoded = align64(s.shrink + kTileCols);
  uint16_t *keys = reinterpret_cast<uint16_t *>(decoded + kTiledStep * d);
  uint16_t *values = keys + tiled_entry_values(d);
  for (uint32_t i = 0; i < n_blocks; i++) {
    const uint32_t t = first + i * tokens;
    const uint32_t rows = (first + count - t < tokens ? first + count - t : tokens) * group;
    for (uint32_t c = 0; c < rows; c++) {  // side by side, as packing wants them
      const float *q = query_of(a, t + c / group, kv_head * group + c % group);
      std::memcpy(decoded + c * d, q, sizeof(float) * d);
    }
    kernels_.bf16.pack_right_transposed(
        type_traits(DType::F32),
        {reinterpret_cast<const uint8_t *>(decoded), false, sizeof(float) * d, rows}, 0, d,
        s.block(i).queries);
    s.block(i).clear(d);
  }
  const uint32_t end = a.position + first + count;
  for (uint32_t j = 0; j < end; j += kTiledEntries) {
    const uint32_t n = end - j < kTiledEntries ? end - j : kTiledEntries;
    pack_entries(a, kv_head, j, n, decoded, keys, values);
    for (uint32_t i = 0; i < n_blocks; i++) {
      const TiledBlock b = s.block(i);
      Block mask;
      mask.first = first + i * tokens;
      mask.count = first + count - mask.first < tokens ? first + count - mask.first : tokens;
      mask.end = a.position + mask.first + mask.count;
      if (mask.end <= j) continue;
      const uint32_t visible = mask.end - j < n ? mask.end - j : n;
      kernels_.bf16.gemm({keys, bf16_values(16, d), b.queries, visible, kTileCols, d, false},
                         s.scores, kTileCols);
      hide_later(s.scores, j, visible, a.position + mask.first, group);
      weigh_tiled(s, b, d, visible, values, bf16_values(16, kTiledEntries));
    }
  }
  for (uint32_t c = 0; c < count * group; c++) {
    const TiledBlock b = s.block(c / (tokens * group));
    const uint32_t column = c % (tokens * group);
    give_row(a, first + c / group, kv_head * group + c % group, b.outputs + column, b.l[column]);
  }
}

}  // namespace q35
