// Shape of a qwen35 model as its file declares it, checked for consistency before anything is sized
// from it. Next: weights.h binds the tensors that this shape implies.
#pragma once

#include <cstdint>

#include "base/array.h"
#include "base/status.h"
#include "gguf/gguf.h"

namespace q35 {

enum class RopeScaling : uint32_t { None, Yarn };

struct Config {
  uint32_t n_layer;      // trunk layers
  uint32_t n_mtp_layer;  // multi-token-prediction layers after them, 0 or 1
  uint32_t n_embd;
  uint32_t n_ff;
  uint32_t n_head;
  uint32_t n_head_kv;
  uint32_t head_dim;  // of keys and values
  uint32_t n_rot;     // leading dimensions of a head that rotate
  uint32_t rope_sections[4];
  float rope_base;
  RopeScaling rope_scaling;
  float rope_factor;  // 1 without scaling
  uint32_t rope_original_ctx;
  float rms_eps;
  uint32_t lin_k_heads;
  uint32_t lin_v_heads;
  uint32_t lin_head_dim;  // of keys and values: 128
  uint32_t conv_kernel;   // 4
  uint32_t full_attention_interval;
  uint32_t n_vocab;
  uint32_t n_ctx_train;
  int32_t file_type;  // general.file_type or -1
  int32_t eos_token;  // -1 when absent
  int32_t pad_token;
  Array<uint8_t> recurrent;  // [n_layer] 1: Gated DeltaNet, 0: attention

  uint32_t q_dim() const { return n_head * head_dim; }
  uint32_t kv_dim() const { return n_head_kv * head_dim; }
  uint32_t lin_k_dim() const { return lin_k_heads * lin_head_dim; }
  uint32_t lin_v_dim() const { return lin_v_heads * lin_head_dim; }
  uint32_t conv_channels() const { return 2 * lin_k_dim() + lin_v_dim(); }
};

// Stretches the context by YaRN, in place of what the file says.
void stretch_context(Config *config, float factor);

// Reads and checks every architecture key. Errors name key, offset, expected and found.
[[nodiscard]] Status read_config(const gguf::File &file, Config *out);

}  // namespace q35
