// The tensors of a model: which must exist, with which shape and type, and where they lie in
// memory.
#pragma once

#include <cstdint>

#include "base/array.h"
#include "base/status.h"
#include "gguf/gguf.h"
#include "model/config.h"
#include "model/matrix.h"

namespace q35 {

class ThreadPool;

struct AttentionWeights {
  Matrix q;             // (n_head * 2 * head_dim, n_embd): query and gate interleaved per head
  Matrix k, v;          // (n_head_kv * head_dim, n_embd)
  Matrix o;             // (n_embd, n_head * head_dim)
  const float *q_norm;  // (head_dim)
  const float *k_norm;  // (head_dim)
};

struct DeltaNetWeights {
  Matrix qkv;            // (2 * lin_k_dim + lin_v_dim, n_embd)
  Matrix z;              // (lin_v_dim, n_embd)
  Matrix alpha, beta;    // (lin_v_heads, n_embd)
  Matrix out;            // (n_embd, lin_v_dim)
  const float *conv;     // (conv_channels, conv_kernel)
  const float *dt_bias;  // (lin_v_heads)
  const float *a;        // (lin_v_heads): -exp(A_log)
  const float *norm;     // (lin_head_dim)
};

struct LayerWeights {
  const float *attn_norm;      // (n_embd) before the mixer
  const float *ffn_norm;       // (n_embd) before the feed-forward
  Matrix ffn_gate, ffn_up;     // (n_ff, n_embd)
  Matrix ffn_down;             // (n_embd, n_ff)
  AttentionWeights attention;  // full-attention layers
  DeltaNetWeights delta;       // recurrent layers
};

struct MtpWeights {
  LayerWeights layer;          // a full-attention layer
  Matrix eh_proj;              // (n_embd, 2 * n_embd): embedding half first
  const float *enorm, *hnorm;  // (n_embd)
  const float *head_norm;      // (n_embd)
};

struct Weights {
  Matrix token_embd;  // (n_vocab, n_embd)
  Matrix output;      // (n_vocab, n_embd); the embedding when tied
  bool tied = false;
  const float *output_norm;  // (n_embd)
  Array<LayerWeights> layers;
  Array<MtpWeights> mtp;  // n_mtp_layer entries
  TensorStore store;
};

// Compares the file's tensors with the computed table and loads them. use_mmap keeps the file
// mapped instead of reading it: then the file must not be cut short while the model is open.
// Nothing is allocated before every name, shape, type and offset was checked. 64 bytes behind every
// matrix may be read: they belong to the process. weave: as in load_slots. pool may be null.
[[nodiscard]] Status load_weights(const gguf::File &file, const Config &config, bool use_mmap,
                                  const WeaveFn *weave, ThreadPool *pool, Weights *out);

}  // namespace q35
