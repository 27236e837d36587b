// Gated attention. A few query rows: the cache is split over the threads and the parts are merged
// by online softmax. Many rows: blocks of 32 query rows walk the cache in tiles, with queries,
// scores and outputs stored as columns so that the score matrix is never larger than one tile.
#include <cmath>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/scratch.h"

namespace q35 {

namespace {

const uint8_t *cache_at(const AttentionArgs &a, const void *cache, uint32_t kv_head,
                        uint32_t position) {
  const uint64_t element = (static_cast<uint64_t>(kv_head) * a.capacity + position) * a.head_dim;
  return static_cast<const uint8_t *>(cache) + element * kv_type_bytes(a.kv_type);
}

void store_cache(const Kernels &k, const AttentionArgs &a, void *cache, uint32_t kv_head,
                 uint32_t position, const float *x) {
  uint8_t *dst = const_cast<uint8_t *>(cache_at(a, cache, kv_head, position));
  if (a.kv_type == KvType::F32) {
    std::memcpy(dst, x, sizeof(float) * a.head_dim);
  } else {
    k.f32_to_f16(x, a.head_dim, reinterpret_cast<uint16_t *>(dst));
  }
}

// `count` cache entries as floats: the cache itself when it holds floats, else decoded to `tile`.
const float *load_tile(const Kernels &k, const AttentionArgs &a, const void *cache,
                       uint32_t kv_head, uint32_t first, uint32_t count, float *tile) {
  const uint8_t *src = cache_at(a, cache, kv_head, first);
  if (a.kv_type == KvType::F32) return reinterpret_cast<const float *>(src);
  k.f16_to_f32(reinterpret_cast<const uint16_t *>(src), count * a.head_dim, tile);
  return tile;
}

float *query_of(const AttentionArgs &a, uint32_t t, uint32_t head) {
  return a.q + (static_cast<uint64_t>(t) * a.n_head + head) * 2 * a.head_dim;
}

uint32_t split_length(uint32_t n_positions) {
  uint32_t length = (n_positions + kMaxSplits - 1) / kMaxSplits;
  length = (length + kKvTile - 1) / kKvTile * kKvTile;
  return length < kMinSplit ? kMinSplit : length;
}

}  // namespace

// Norms and rotates queries and keys, scales queries by head_dim^-0.5, appends to the cache.
void CpuBackend::prepare_heads(const AttentionArgs &a) {
  const float q_scale = 1.0f / std::sqrt(static_cast<float>(a.head_dim));
  over_tokens(a.n, [&](uint32_t first, uint32_t count, int) {
    for (uint32_t t = first; t < first + count; t++) {
      const float *cos = a.cos + static_cast<uint64_t>(t) * (a.n_rot / 2);
      const float *sin = a.sin + static_cast<uint64_t>(t) * (a.n_rot / 2);
      for (uint32_t h = 0; h < a.n_head; h++) {
        float *q = query_of(a, t, h);
        kernels_.rms_norm(q, a.q_norm, a.head_dim, a.eps, q);
        kernels_.rope(q, cos, sin, a.n_rot);
        kernels_.scale(q, q_scale, a.head_dim);
      }
      for (uint32_t h = 0; h < a.n_head_kv; h++) {
        const uint64_t at = (static_cast<uint64_t>(t) * a.n_head_kv + h) * a.head_dim;
        kernels_.rms_norm(a.k + at, a.k_norm, a.head_dim, a.eps, a.k + at);
        kernels_.rope(a.k + at, cos, sin, a.n_rot);
        store_cache(kernels_, a, a.k_cache, h, a.position + t, a.k + at);
        store_cache(kernels_, a, a.v_cache, h, a.position + t, a.v + at);
      }
    }
  });
}

void CpuBackend::attention(const AttentionArgs &a) {
  prepare_heads(a);
  if (a.n <= kGemvMaxCols) {
    attend_few(a);
    return;
  }
  const uint32_t block = group_tokens(a.n_head / a.n_head_kv);
  const uint32_t blocks = (a.n + block - 1) / block;
  // Later blocks see more of the cache: handing them out first keeps the threads even at the end.
  pool_->run(blocks * a.n_head_kv, [&](uint32_t item, int thread) {
    const uint32_t first = (blocks - 1 - item / a.n_head_kv) * block;
    const uint32_t count = a.n - first < block ? a.n - first : block;
    attend_block(a, item % a.n_head_kv, first, count, thread);
  });
}

void CpuBackend::attend_few(const AttentionArgs &a) {
  const uint32_t group = a.n_head / a.n_head_kv, rows = a.n * group, d = a.head_dim;
  const uint32_t n_positions = a.position + a.n, length = split_length(n_positions);
  const uint32_t n_splits = (n_positions + length - 1) / length;
  const uint64_t stride = d + 16;  // of a partial result: accumulators, maximum, sum
  const auto partial = [&](uint32_t split, uint32_t kv_head, uint32_t row) {
    return partial_.data() + ((split * a.n_head_kv + kv_head) * uint64_t{rows} + row) * stride;
  };

  pool_->run(n_splits * a.n_head_kv, [&](uint32_t item, int thread) {
    const uint32_t split = item / a.n_head_kv, kv_head = item % a.n_head_kv;
    const uint32_t end = (split + 1) * length < n_positions ? (split + 1) * length : n_positions;
    float *scores = thread_scratch(thread);  // [group, kKvTile]
    for (uint32_t r = 0; r < rows; r++) {
      float *p = partial(split, kv_head, r);
      std::memset(p, 0, sizeof(float) * stride);
      p[d] = -INFINITY;
    }
    for (uint32_t j = split * length; j < end; j += kKvTile) {
      const uint32_t count = end - j < kKvTile ? end - j : kKvTile;
      const uint8_t *keys = cache_at(a, a.k_cache, kv_head, j);
      const uint8_t *values = cache_at(a, a.v_cache, kv_head, j);
      for (uint32_t t = 0; t < a.n; t++) {
        if (a.position + t < j) continue;
        const uint32_t visible = a.position + t + 1 - j;
        const uint32_t n = visible < count ? visible : count;
        const float *q = query_of(a, t, kv_head * group);
        float *acc = partial(split, kv_head, t * group);
        if (a.kv_type == KvType::F16) {
          kernels_.qk_f16(q, 2 * d, group, reinterpret_cast<const uint16_t *>(keys), d, n, d,
                          scores, kKvTile);
        } else {
          kernels_.qk_f32(q, 2 * d, group, reinterpret_cast<const float *>(keys), d, n, d, scores,
                          kKvTile);
        }
        for (uint32_t r = 0; r < group; r++) {
          float *p = acc + r * stride;
          kernels_.scale(p, kernels_.softmax_step(scores + r * kKvTile, n, p + d, p + d + 1), d);
        }
        if (a.kv_type == KvType::F16) {
          kernels_.pv_f16(scores, kKvTile, group, reinterpret_cast<const uint16_t *>(values), d, n,
                          d, acc, stride);
        } else {
          kernels_.pv_f32(scores, kKvTile, group, reinterpret_cast<const float *>(values), d, n, d,
                          acc, stride);
        }
      }
    }
  });

  // Merge the parts, divide by the sum, and gate.
  const auto finish = [&](uint32_t item) {
    const uint32_t t = item / a.n_head, head = item % a.n_head, kv_head = head / group;
    const uint32_t row = t * group + head % group;
    float *out = a.out + static_cast<uint64_t>(item) * d;
    float peak = -INFINITY, sum = 0.0f;
    for (uint32_t s = 0; s < n_splits; s++) peak = std::fmax(peak, partial(s, kv_head, row)[d]);
    std::memset(out, 0, sizeof(float) * d);
    for (uint32_t s = 0; s < n_splits; s++) {
      float *p = partial(s, kv_head, row);
      if (p[d + 1] == 0.0f) continue;  // nothing of this part was visible to the row
      const float weight = std::exp(p[d] - peak);
      sum += weight * p[d + 1];
      kernels_.scale(p, weight, d);
      kernels_.add(out, p, d);
    }
    kernels_.scale(out, 1.0f / sum, d);
    kernels_.sigmoid_mul(out, query_of(a, t, head) + d, d);
  };
  if (n_splits == 1) {
    for (uint32_t i = 0; i < a.n * a.n_head; i++) finish(i);
  } else {
    pool_->run(a.n * a.n_head, [&](uint32_t item, int) { finish(item); });
  }
}

void CpuBackend::attend_block(const AttentionArgs &a, uint32_t kv_head, uint32_t first,
                              uint32_t count, int thread) {
  const uint32_t group = a.n_head / a.n_head_kv, d = a.head_dim;
  float *queries = thread_scratch(thread);   // [d, 32]
  float *outputs = queries + d * kTileCols;  // [d, 32]
  float *k_tile = outputs + d * kTileCols;   // [kKvTile, d]
  float *v_tile = k_tile + kKvTile * d;      // [kKvTile, d]
  float *scores = v_tile + kKvTile * d;      // [kKvTile, 32]
  float *m = scores + kKvTile * kTileCols, *l = m + kTileCols, *shrink = l + kTileCols;

  std::memset(queries, 0, sizeof(float) * 2 * d * kTileCols);
  for (uint32_t c = 0; c < count * group; c++) {
    const float *q = query_of(a, first + c / group, kv_head * group + c % group);
    for (uint32_t i = 0; i < d; i++) queries[i * kTileCols + c] = q[i];
  }
  for (uint32_t c = 0; c < kTileCols; c++) {
    m[c] = -INFINITY;
    l[c] = 0.0f;
  }
  const uint32_t begin = a.position + first, end = begin + count;  // entries the last row sees
  for (uint32_t j = 0; j < end; j += kKvTile) {
    const uint32_t n = end - j < kKvTile ? end - j : kKvTile;
    const float *keys = load_tile(kernels_, a, a.k_cache, kv_head, j, n, k_tile);
    kernels_.gemm_f32(keys, d, 1, n, queries, kTileCols, d, 0.0f, scores, kTileCols);
    for (uint32_t i = 0; i < n; i++) {
      // Rows of tokens before entry j + i do not see it.
      const uint32_t hidden = j + i > begin ? (j + i - begin) * group : 0;
      for (uint32_t c = 0; c < hidden && c < kTileCols; c++) scores[i * kTileCols + c] = -INFINITY;
    }
    kernels_.softmax_cols(scores, n, m, l, shrink);
    kernels_.scale_cols(outputs, shrink, d);
    const float *values = load_tile(kernels_, a, a.v_cache, kv_head, j, n, v_tile);
    kernels_.gemm_f32(values, 1, d, d, scores, kTileCols, n, 1.0f, outputs, kTileCols);
  }
  for (uint32_t c = 0; c < count * group; c++) {
    const uint32_t t = first + c / group, head = kv_head * group + c % group;
    float *out = a.out + (static_cast<uint64_t>(t) * a.n_head + head) * d;
    const float inverse = 1.0f / l[c];
    for (uint32_t i = 0; i < d; i++) out[i] = outputs[i * kTileCols + c] * inverse;
    kernels_.sigmoid_mul(out, query_of(a, t, head) + d, d);
  }
}

}  // namespace q35
