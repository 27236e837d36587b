// The operations the model may call. The forward pass in model/ is written against this interface
// only; cpu/ implements it over threads and kernels, another device would add a folder beside it.
//
// Shapes: row-major, n = tokens of the batch. No operation can fail: memory is reserved beforehand.
#pragma once

#include <cstdint>

#include "model/weights.h"

namespace q35 {

enum class KvType : uint32_t { F32 = QWEN35_KV_F32, F16 = QWEN35_KV_F16 };

inline uint32_t kv_type_bytes(KvType type) {
  return type == KvType::F32 ? 4 : 2;
}

// One matrix applied to the shared input of a linear() call.
struct LinearJob {
  const Matrix *w;    // (rows, k)
  float *y;           // [n, rows]
  uint64_t y_stride;  // floats between the rows of y
};

// Gated attention of one layer over its cache.
struct AttentionArgs {
  uint32_t n;
  uint32_t position;  // of the first token; the cache holds this many entries
  uint32_t n_head, n_head_kv, head_dim, n_rot;
  float eps;
  float *q;        // [n, n_head * 2 * head_dim] query and gate interleaved per head; overwritten
  float *k;        // [n, n_head_kv * head_dim]; overwritten
  const float *v;  // [n, n_head_kv * head_dim]
  const float *q_norm, *k_norm;  // [head_dim]
  const float *cos, *sin;        // [n, n_rot / 2]
  KvType kv_type;
  void *k_cache, *v_cache;  // [n_head_kv, capacity, head_dim]
  uint32_t capacity;
  float *out;  // [n, n_head * head_dim]
};

// Gated DeltaNet mixer of one layer: convolution, delta rule and gated norm.
struct DeltaNetArgs {
  uint32_t n;
  uint32_t position;
  uint32_t k_heads, v_heads, head_dim;
  float eps;
  const float *qkv;    // [n, channels]: q heads, k heads, v heads; channels = (2 k + v heads) * dim
  const float *z;      // [n, v_heads * head_dim]
  const float *alpha;  // [n, v_heads] decay logits
  const float *beta;   // [n, v_heads] update-rate logits
  const float *conv;   // [4, channels], oldest tap first
  const float *dt_bias, *a;  // [v_heads]
  const float *norm;         // [head_dim]
  float *conv_state;         // [4, channels] ring of raw columns: token p lives in row p & 3
  float *state;              // [v_heads, head_dim / 32, head_dim, 32]
  float *out;                // [n, v_heads * head_dim]
};

class Backend {
 public:
  virtual ~Backend() = default;

  // x[t] = row tokens[t] of w, decoded. x: [n, w.cols]
  virtual void embed(const Matrix &w, const int32_t *tokens, uint32_t n, float *x) = 0;
  // x += delta (when not null), then y = rms_norm(x) * w. x, delta, y: [n, dim]
  virtual void add_norm(float *x, const float *delta, const float *w, uint32_t n, uint32_t dim,
                        float eps, float *y) = 0;
  // Every job's y = x * w^T. x: [n, k]
  virtual void linear(const float *x, uint32_t n, uint32_t k, const LinearJob *jobs,
                      uint32_t n_jobs) = 0;
  // gate = silu(gate) * up. [n, dim]
  virtual void silu_mul(float *gate, const float *up, uint32_t n, uint32_t dim) = 0;
  virtual void attention(const AttentionArgs &args) = 0;
  virtual void delta_net(const DeltaNetArgs &args) = 0;
};

}  // namespace q35
