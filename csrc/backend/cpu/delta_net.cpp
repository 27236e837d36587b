// Gated DeltaNet mixer (arXiv 2412.06464), one key head with its value heads per work item.
//
//   y = silu(conv4(q|k|v));  q, k = l2norm(q) / sqrt(d), l2norm(k);  beta = sigmoid(b)
//   g = a * softplus(alpha + dt_bias)                                   log decay, <= 0
//   S = exp(g) S;  delta = beta (v - S^T k);  S = S + k delta^T;  o = S^T q
//   out = norm(o) * silu(z)
//
// Few tokens run that recurrence; many run it in chunks of 32, where with c = cumulative g
//   (I + A) R = diag(beta) (V - diag(e^c) K S),   A_ij = beta_i (k_i . k_j) e^(c_i - c_j), j < i
//   O = diag(e^c) Q S + P R,                      P_ij = (q_i . k_j) e^(c_i - c_j), j <= i
//   S = e^(c_last) S + (diag(e^(c_last - c)) K)^T R
// so that every step is a product with a 32-column block of S, which stays in the L1 cache.
#include <cmath>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/scratch.h"

namespace q35 {

namespace {

constexpr uint32_t kCols = kTileCols;
// From this many tokens on a chunk is cheaper than steps.
constexpr uint32_t kChunkTokens = 8;
// How many tokens ahead raw columns are asked for.
constexpr uint32_t kAheadTokens = 4;

uint32_t channels_of(const DeltaNetArgs &a) {
  return (2 * a.k_heads + a.v_heads) * a.head_dim;
}

// As torch: the identity above 20, where log(1 + e^x) equals x in float.
float softplus(float x) {
  return x > 20.0f ? x : std::log1p(std::exp(x));
}

float sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}

float log_decay(const DeltaNetArgs &a, uint32_t t, uint32_t head) {
  return a.a[head] * softplus(a.alpha[t * uint64_t{a.v_heads} + head] + a.dt_bias[head]);
}

float update_rate(const DeltaNetArgs &a, uint32_t t, uint32_t head) {
  return sigmoid(a.beta[t * uint64_t{a.v_heads} + head]);
}

// Raw column of token t of the batch, or of an earlier one out of the ring.
const float *raw_column(const DeltaNetArgs &a, int64_t t) {
  const uint64_t width = channels_of(a);
  if (t >= 0) return a.qkv + static_cast<uint64_t>(t) * width;
  return a.conv_state + ((a.position + static_cast<uint64_t>(t)) & 3) * width;
}

// Convolved and activated channels [channel, channel + head_dim) of token t.
void convolve(const Kernels &kernels, const DeltaNetArgs &a, uint32_t t, uint32_t channel,
              float *y) {
  const int64_t i = t;
  if (t + kAheadTokens < a.n) {  // columns are short pieces far apart
    const float *ahead = raw_column(a, i + kAheadTokens) + channel;
    for (uint32_t c = 0; c < a.head_dim; c += 16) __builtin_prefetch(ahead + c);
  }
  kernels.conv4_silu(raw_column(a, i - 3) + channel, raw_column(a, i - 2) + channel,
                     raw_column(a, i - 1) + channel, raw_column(a, i) + channel, a.conv + channel,
                     channels_of(a), a.head_dim, y);
}

// Query and key of one key head: convolved, normalised, the query scaled.
void load_qk(const Kernels &kernels, const DeltaNetArgs &a, uint32_t t, uint32_t k_head, float *q,
             float *k) {
  const uint32_t d = a.head_dim;
  const float norm_eps = 1e-6f;  // of the L2 norm; a constant of the architecture
  convolve(kernels, a, t, k_head * d, q);
  convolve(kernels, a, t, (a.k_heads + k_head) * d, k);
  kernels.l2_norm(q, d, norm_eps, 1.0f / std::sqrt(static_cast<float>(d)));
  kernels.l2_norm(k, d, norm_eps, 1.0f);
}

void load_v(const Kernels &kernels, const DeltaNetArgs &a, uint32_t t, uint32_t v_head, float *v) {
  convolve(kernels, a, t, (2 * a.k_heads + v_head) * a.head_dim, v);
}

void store_output(const Kernels &kernels, const DeltaNetArgs &a, uint32_t t, uint32_t v_head,
                  const float *o) {
  const uint64_t at = (static_cast<uint64_t>(t) * a.v_heads + v_head) * a.head_dim;
  kernels.gated_norm(o, a.z + at, a.norm, a.head_dim, a.eps, a.out + at);
}

// Scratch of one chunk of n <= 32 tokens; see delta_scratch_floats.
struct Chunk {
  float *kq;         // [2n, d] keys, then queries
  float *k_t;        // [d, 32] keys transposed
  float *kq_k;       // [2n, 32] products of keys and queries with keys
  float *a;          // [n, 32] strictly lower
  float *p;          // [n, 32] lower
  float *k_decayed;  // [n, d] e^(c_last - c_j) k_j
  float *v;          // [n, d]
  float *o;          // [n, d]
  float *kq_s;       // [2n, 32] keys and queries times a block of the state
  float *r;          // [n, 32]
  float *c;          // [n] cumulative log decay
  float *beta;       // [n]

  Chunk(float *at, uint64_t d) {
    const auto take = [&](uint64_t floats) {
      float *here = at;
      at += floats;
      return here;
    };
    const uint64_t n = kDeltaChunk;
    kq = take(2 * n * d);
    k_t = take(d * kCols);
    kq_k = take(2 * n * kCols);
    a = take(n * kCols);
    p = take(n * kCols);
    k_decayed = take(n * d);
    v = take(n * d);
    o = take(n * d);
    kq_s = take(2 * n * kCols);
    r = take(n * kCols);
    c = take(n);
    beta = take(n);
  }
};

// A and P of one value head, and the keys decayed to the end of the chunk.
void decay_products(const Kernels &kernels, const DeltaNetArgs &args, uint32_t first, uint32_t n,
                    uint32_t v_head, const Chunk &s) {
  const uint32_t d = args.head_dim;
  float sum = 0.0f;
  for (uint32_t i = 0; i < n; i++) {
    sum += log_decay(args, first + i, v_head);
    s.c[i] = sum;
    s.beta[i] = update_rate(args, first + i, v_head);
  }
  for (uint32_t i = 0; i < n; i++) {
    for (uint32_t j = 0; j < n; j++) {
      const float decay = j <= i ? std::exp(s.c[i] - s.c[j]) : 0.0f;
      s.a[i * kCols + j] = j < i ? s.beta[i] * s.kq_k[i * kCols + j] * decay : 0.0f;
      s.p[i * kCols + j] = s.kq_k[(n + i) * kCols + j] * decay;
    }
    std::memcpy(s.k_decayed + i * d, s.kq + i * d, sizeof(float) * d);
    kernels.scale(s.k_decayed + i * d, std::exp(s.c[n - 1] - s.c[i]), d);
  }
}

// One 32-column block of a value head's state: outputs of the chunk, then the state after it.
void chunk_block(const Kernels &kernels, uint32_t d, uint32_t n, uint32_t column, float *state,
                 const Chunk &s) {
  kernels.gemm_f32(s.kq, d, 1, 2 * n, state, kCols, d, 0.0f, s.kq_s, kCols);
  for (uint32_t i = 0; i < n; i++) {
    const float decay = std::exp(s.c[i]);
    const float *v = s.v + i * d + column;
    float *k_s = s.kq_s + i * kCols, *q_s = s.kq_s + (n + i) * kCols, *r = s.r + i * kCols;
    for (uint32_t j = 0; j < kCols; j++) {
      r[j] = s.beta[i] * (v[j] - decay * k_s[j]);
      q_s[j] *= decay;
    }
  }
  kernels.solve_lower(s.a, kCols, n, s.r, kCols);
  float *q_s = s.kq_s + n * kCols;
  kernels.gemm_f32(s.p, kCols, 1, n, s.r, kCols, n, 1.0f, q_s, kCols);
  for (uint32_t i = 0; i < n; i++) {
    std::memcpy(s.o + i * d + column, q_s + i * kCols, sizeof(float) * kCols);
  }
  kernels.gemm_f32(s.k_decayed, 1, d, d, s.r, kCols, n, std::exp(s.c[n - 1]), state, kCols);
}

// Tokens that are written to the log.
uint32_t logged(const DeltaNetArgs &a) {
  return a.log.conv == nullptr ? 0 : a.n_drafts;
}

}  // namespace

void CpuBackend::delta_net(const DeltaNetArgs &a) {
  const uint64_t width = channels_of(a);
  // The last four of `count` columns, of which the first belongs to `position`, into the ring.
  const auto keep_columns = [&](const float *columns, uint32_t position, uint32_t count) {
    for (uint32_t t = count < 4 ? 0 : count - 4; t < count; t++) {
      std::memcpy(a.conv_state + ((position + t) & 3) * width, columns + t * width,
                  sizeof(float) * width);
    }
  };
  keep_columns(a.log.conv, a.position - a.n_logged, a.n_logged);
  pool_->run(a.k_heads, [&](uint32_t k_head, int thread) { delta_head(a, k_head, thread); });
  // The ring takes new columns only now: the items above still read the old ones.
  const uint32_t certain = a.n - a.n_drafts;
  keep_columns(a.qkv, a.position, certain);
  if (logged(a) != 0) {
    std::memcpy(a.log.conv, a.qkv + certain * width, sizeof(float) * a.n_drafts * width);
  }
}

void CpuBackend::delta_head(const DeltaNetArgs &a, uint32_t k_head, int thread) {
  delta_replay(a, k_head);
  float *scratch = thread_scratch(thread);
  if (a.n_drafts != 0) {
    delta_steps(a, k_head, 0, a.n, scratch);
    return;
  }
  uint32_t t = 0;
  while (a.n - t >= kChunkTokens) {
    const uint32_t count = a.n - t < kDeltaChunk ? a.n - t : kDeltaChunk;
    delta_chunk(a, k_head, t, count, scratch);
    t += count;
  }
  if (t < a.n) delta_steps(a, k_head, t, a.n - t, scratch);
}

// Applies logged tokens to the states of one key head, which the steps then find in the L2 cache.
void CpuBackend::delta_replay(const DeltaNetArgs &a, uint32_t k_head) {
  if (a.n_logged == 0) return;
  const uint32_t d = a.head_dim;
  for (uint32_t head = k_head; head < a.v_heads; head += a.k_heads) {
    float *state = a.state + static_cast<uint64_t>(head) * d * d;
    for (uint32_t column = 0; column < d; column += kCols) {
      for (uint64_t t = 0; t < a.n_logged; t++) {
        kernels_.delta_apply(state + column * d, d, a.log.k + (t * a.k_heads + k_head) * d,
                             a.log.delta + (t * a.v_heads + head) * d + column,
                             a.log.decay[t * a.v_heads + head]);
      }
    }
  }
}

// Scratch of a few tokens; smaller than that of a chunk.
struct FewSteps {
  float *q, *k, *v, *o;  // [kGemvMaxCols, d]
  float *block;          // [d, 32] a block of the state that drafts may change
  float decay[kGemvMaxCols], beta[kGemvMaxCols];

  FewSteps(float *at, uint64_t d) {
    const uint64_t rows = kGemvMaxCols * d;
    q = at;
    k = q + rows;
    v = k + rows;
    o = v + rows;
    block = o + rows;
  }
};

void CpuBackend::delta_steps(const DeltaNetArgs &a, uint32_t k_head, uint32_t first, uint32_t count,
                             float *scratch) {
  const uint32_t d = a.head_dim, certain = count - a.n_drafts;
  FewSteps s(scratch, d);
  for (uint32_t i = 0; i < count; i++) {
    load_qk(kernels_, a, first + i, k_head, s.q + i * d, s.k + i * d);
  }
  for (uint32_t head = k_head; head < a.v_heads; head += a.k_heads) {
    for (uint32_t i = 0; i < count; i++) {
      load_v(kernels_, a, first + i, head, s.v + i * d);
      s.decay[i] = std::exp(log_decay(a, first + i, head));
      s.beta[i] = update_rate(a, first + i, head);
    }
    for (uint32_t column = 0; column < d; column += kCols) {
      step_block(a, head, count, column, s);
    }
    for (uint32_t i = 0; i < count; i++) {
      store_output(kernels_, a, first + i, head, s.o + i * d);
    }
    for (uint64_t t = 0; t < logged(a); t++) {  // the steps left the deltas in v
      const uint64_t at = t * a.v_heads + head;
      std::memcpy(a.log.delta + at * d, s.v + (certain + t) * d, sizeof(float) * d);
      a.log.decay[at] = s.decay[certain + t];
    }
  }
  for (uint64_t t = 0; t < logged(a); t++) {
    std::memcpy(a.log.k + (t * a.k_heads + k_head) * d, s.k + (certain + t) * d, sizeof(float) * d);
  }
}

// One 32-column block of a value head's state: drafts work on a copy that stays in the L1 cache.
void CpuBackend::step_block(const DeltaNetArgs &a, uint32_t head, uint32_t count, uint32_t column,
                            const FewSteps &s) {
  const uint32_t d = a.head_dim, certain = count - a.n_drafts;
  float *state = a.state + static_cast<uint64_t>(head) * d * d + column * d;
  for (uint32_t i = 0; i < count; i++) {
    if (i == certain) {
      std::memcpy(s.block, state, sizeof(float) * d * kCols);
      state = s.block;
    }
    kernels_.delta_step(state, d, s.q + i * d, s.k + i * d, s.v + i * d + column, s.decay[i],
                        s.beta[i], s.o + i * d + column);
  }
}

void CpuBackend::delta_chunk(const DeltaNetArgs &a, uint32_t k_head, uint32_t first, uint32_t count,
                             float *scratch) {
  const uint32_t d = a.head_dim, n = count;
  const Chunk s(scratch, d);
  for (uint32_t i = 0; i < n; i++) {
    load_qk(kernels_, a, first + i, k_head, s.kq + (n + i) * d, s.kq + i * d);
  }
  for (uint32_t j = 0; j < d; j++) {
    for (uint32_t i = 0; i < kCols; i++) s.k_t[j * kCols + i] = i < n ? s.kq[i * d + j] : 0.0f;
  }
  kernels_.gemm_f32(s.kq, d, 1, 2 * n, s.k_t, kCols, d, 0.0f, s.kq_k, kCols);
  // GGUF stores value heads tiled: head j * k_heads + g reads key head g.
  for (uint32_t head = k_head; head < a.v_heads; head += a.k_heads) {
    decay_products(kernels_, a, first, n, head, s);
    for (uint32_t i = 0; i < n; i++) load_v(kernels_, a, first + i, head, s.v + i * d);
    float *state = a.state + static_cast<uint64_t>(head) * d * d;
    for (uint32_t column = 0; column < d; column += kCols) {
      chunk_block(kernels_, d, n, column, state + column * d, s);
    }
    for (uint32_t i = 0; i < n; i++) store_output(kernels_, a, first + i, head, s.o + i * d);
  }
}

}  // namespace q35
