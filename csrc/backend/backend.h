// The operations the model may call. The forward pass in model/ is written against this interface
// only; cpu/ implements it over threads and kernels, another device would add a folder beside it.
//
// Shapes: row-major, n = tokens of the batch. No operation can fail: memory is reserved beforehand.
#pragma once

#include <cstdint>

#include "model/matrix.h"

namespace q35 {

// How keys and values are stored. Q8_0: rows of head_dim int8 values with one float scale each,
// Hadamard-rotated first. Measured on rows of 256, the rotation with one scale errs by 0.7 % of a
// row's length whatever its outliers; one scale for 32 values by 0.5 % to 1.2 %, without rotation
// and one scale by 0.7 % to 2.6 %. One scale also stays out of the inner products. IQ4_NL: the same
// with 4 bits, places in a table of int8 values (kernels.h).
enum class KvType : uint32_t {
  F32 = QWEN35_KV_F32,
  F16 = QWEN35_KV_F16,
  Q8_0 = QWEN35_KV_Q8_0,
  IQ4_NL = QWEN35_KV_IQ4_NL
};

// Whether rows are rotated integers with a scale each.
inline bool kv_is_integer(KvType type) {
  return type == KvType::Q8_0 || type == KvType::IQ4_NL;
}

// Bytes of the values of one key, or one value, of one kv head; head_dim is a multiple of 32.
inline uint64_t kv_values_bytes(KvType type, uint32_t head_dim) {
  const uint64_t bits = type == KvType::F32    ? 32
                        : type == KvType::F16  ? 16
                        : type == KvType::Q8_0 ? 8
                                               : 4;
  return head_dim * bits / 8;
}

// The same with its scale.
inline uint64_t kv_row_bytes(KvType type, uint32_t head_dim) {
  return kv_values_bytes(type, head_dim) + (kv_is_integer(type) ? sizeof(float) : 0);
}

// One matrix applied to the shared input of a linear() call.
struct LinearJob {
  const Matrix *w;    // (rows, k)
  float *y;           // [n, rows]
  uint64_t y_stride;  // floats between the rows of y
  // Whether weights of 16 bits may be rounded to bf16; the input is split in two parts then.
  bool rounded = false;
};

// A matrix with outputs that lie row after row.
inline LinearJob linear_job(const Matrix &w, float *y) {
  return {&w, y, w.rows};
}

// The n largest of the rows before `end`; n = 0: all rows.
struct TopRows {
  uint32_t n = 0, end = UINT32_MAX;
};

// Gated attention of one layer over its cache.
struct AttentionArgs {
  uint32_t n;
  uint32_t position;  // of the first token; the cache holds this many entries
  uint32_t n_head, n_head_kv, head_dim, n_rot;
  float eps;
  float *q;  // [n, n_head * 2 * head_dim] query and gate interleaved per head; overwritten. Null:
             // keys and values are only appended to the cache
  float *k;  // [n, n_head_kv * head_dim]; overwritten
  float *v;  // [n, n_head_kv * head_dim]; overwritten
  const float *q_norm, *k_norm;  // [head_dim]
  const float *cos, *sin;        // [n, n_rot / 2]
  KvType kv_type;
  void *k_cache,
      *v_cache;  // [n_head_kv, capacity, head_dim], integers: then scales [n_head_kv, capacity]
  uint32_t capacity;
  float *out;    // [n, n_head * head_dim]
  bool rounded;  // whether factors of many rows may be rounded to bf16
};

// The values of an entry in one of the caches of `a`.
inline uint8_t *kv_row(const AttentionArgs &a, void *cache, uint32_t kv_head, uint32_t position) {
  const uint64_t row = static_cast<uint64_t>(kv_head) * a.capacity + position;
  return static_cast<uint8_t *>(cache) + row * kv_values_bytes(a.kv_type, a.head_dim);
}

// The scale of an entry of a cache of integers; those of the next entries follow.
inline float *kv_scale(const AttentionArgs &a, void *cache, uint32_t kv_head, uint32_t position) {
  const uint64_t rows = static_cast<uint64_t>(a.n_head_kv) * a.capacity;
  float *scales = reinterpret_cast<float *>(static_cast<uint8_t *>(cache) +
                                            rows * kv_values_bytes(a.kv_type, a.head_dim));
  return scales + static_cast<uint64_t>(kv_head) * a.capacity + position;
}

// What drafted tokens would do to the state of a layer. [rows, ...], a row for each of them.
struct DeltaLog {
  float *conv;   // [rows, channels] raw columns
  float *k;      // [rows, k_heads * head_dim] convolved and normalised keys
  float *delta;  // [rows, v_heads * head_dim]
  float *decay;  // [rows, v_heads]
};

// Gated DeltaNet mixer of one layer: convolution, delta rule and gated norm.
//
// The last n_drafts of the n tokens, which may turn out wrong, see a state that the others left but
// do not change it: they are written to the log. The next call, or one with n = 0, is told how many
// of them turned out right and applies those first, to the same bits as if they had been no drafts.
// Without a log they leave no trace.
struct DeltaNetArgs {
  uint32_t n;
  uint32_t n_drafts;  // more than 0 only when n <= kGemvMaxCols
  uint32_t n_logged;  // tokens of the log to apply
  DeltaLog log;       // not used when n_drafts and n_logged are 0; null: no log
  uint32_t position;  // of the first of the n tokens
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

// Pixels of one frame pair to the rows of the patch embedding. Rows come in blocks of merge x merge
// patches, which the merger joins; a row holds a patch of the first frame and, when `second` is
// set, then of the second, each as channel, y, x.
struct PatchArgs {
  const uint8_t *first, *second;  // [height, width, 3]; second may be null
  uint32_t rows, cols;            // in patches, multiples of merge
  uint32_t patch, merge;
  const float *mean, *std;  // [3]
  float *out;               // [rows * cols, frames * 3 * patch * patch]
};

// Attention of one frame pair: every patch sees every other. e = n_head * head_dim.
struct PatchAttentionArgs {
  uint32_t n, n_head, head_dim;
  float *qkv;              // [n, 3 e]; overwritten
  const float *bias;       // [3 e]
  const float *cos, *sin;  // [n, head_dim / 2]
  float *out;              // [n, e]
  bool rounded;            // whether factors may be rounded to bf16
};

// Row and column of patch i of a picture of `cols` columns.
inline void patch_place(uint32_t i, uint32_t cols, uint32_t merge, uint32_t *row, uint32_t *col) {
  const uint32_t block = i / (merge * merge), inside = i % (merge * merge);
  const uint32_t blocks = cols / merge;
  *row = block / blocks * merge + inside / merge;
  *col = block % blocks * merge + inside % merge;
}

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
  // As linear() with one job, but of each token only the products that are among the largest of the
  // rows before top.end need be right: others may be any value below those.
  virtual void linear_top(const float *x, uint32_t n, uint32_t k, const LinearJob &job,
                          const TopRows &top) = 0;
  // gate = silu(gate) * up. [n, dim]
  virtual void silu_mul(float *gate, const float *up, uint32_t n, uint32_t dim) = 0;
  virtual void attention(const AttentionArgs &args) = 0;
  virtual void delta_net(const DeltaNetArgs &args) = 0;

  // ---- vision tower
  virtual void patches(const PatchArgs &args) = 0;
  // x += delta + bias (bias may be null), then y = layer_norm(x). x, delta, y: [n, dim]
  virtual void add_layer_norm(float *x, const float *delta, const float *bias, const float *w,
                              const float *b, uint32_t n, uint32_t dim, float eps, float *y) = 0;
  // x = gelu(x + bias), the exact function or its tanh approximation. x: [n, dim]
  virtual void bias_gelu(float *x, const float *bias, uint32_t n, uint32_t dim, bool exact) = 0;
  // x += bias. x: [n, dim]
  virtual void add_bias(float *x, const float *bias, uint32_t n, uint32_t dim) = 0;
  virtual void patch_attention(const PatchAttentionArgs &args) = 0;
};

}  // namespace q35
