#include "model/config.h"

#include <cinttypes>
#include <cstdio>

#include "model/keys.h"

namespace q35 {

namespace {

using gguf::File;
using gguf::shown;

// Bounds far above any model of the family; they keep all later size arithmetic inside 64 bits.
constexpr uint32_t kMaxLayers = 512;
constexpr uint32_t kMaxEmbd = 1u << 16;
constexpr uint32_t kMaxFf = 1u << 20;
constexpr uint32_t kMaxHeads = 256;
constexpr uint32_t kMaxHeadDim = 512;
constexpr uint32_t kMaxLinHeadDim = 256;
constexpr uint32_t kLaneStep = 32;  // widths that vector code walks are multiples of this
constexpr uint32_t kMaxGroup = 32;  // query heads of one kv head: they share a tile of columns
constexpr uint32_t kMaxVocab = 1u << 22;
constexpr uint32_t kMaxContext = 1u << 26;
constexpr uint32_t kConvKernel = 4;

Status check_architecture(const File &file) {
  std::string_view found;
  Q35_TRY(file.get_string("general.architecture", true, &found));
  if (found == "qwen35") return kOk;
  if (found == "clip") {
    return fail(
        QWEN35_ERROR_UNSUPPORTED,
        "key 'general.architecture': this is a vision projector file (mmproj); open the text "
        "model instead");
  }
  return fail(QWEN35_ERROR_UNSUPPORTED,
              "key 'general.architecture' at offset %" PRIu64
              ": expected 'qwen35' (Qwen 3.5 dense), found '%s'",
              offset_of(file, "general.architecture"), shown(found).text);
}

// block_count includes the multi-token-prediction layers. Tools that strip their tensors tend to
// leave the key behind, so the layers count only when the file has at least one of their tensors.
Status read_layer_counts(const File &file, Config *c) {
  uint32_t blocks = 0;
  uint32_t mtp = 0;
  Q35_TRY(read_number(file, "qwen35.block_count", 1, kMaxLayers, 1, &blocks));
  Q35_TRY(file.get_u32("qwen35.nextn_predict_layers", false, &mtp));
  if (mtp > 1 || mtp >= blocks) {
    return refuse_number(file, "qwen35.nextn_predict_layers", QWEN35_ERROR_UNSUPPORTED,
                         "0, or 1 with at least one layer before it", mtp);
  }
  c->n_layer = blocks - mtp;
  c->n_mtp_layer = 0;
  char prefix[32];
  const int length = std::snprintf(prefix, sizeof prefix, "blk.%" PRIu32 ".", c->n_layer);
  for (const gguf::TensorInfo &tensor : file.tensors()) {
    if (tensor.name.substr(0, length) == prefix) c->n_mtp_layer = mtp;
  }
  return kOk;
}

// Which layers are recurrent: as listed, or all but every full_attention_interval-th.
Status read_layer_kinds(const File &file, Config *c) {
  const char *key = "qwen35.attention.recurrent_layers";
  c->full_attention_interval = 4;
  if (file.find("qwen35.full_attention_interval") != nullptr) {
    Q35_TRY(read_number(file, "qwen35.full_attention_interval", 1, kMaxLayers, 1,
                        &c->full_attention_interval));
  }
  Array<uint8_t> listed;
  Q35_TRY(file.get_bools(key, false, &listed));
  uint32_t blocks = 0;
  Q35_TRY(file.get_u32("qwen35.block_count", true, &blocks));
  if (file.find(key) != nullptr && listed.size() != blocks && listed.size() != c->n_layer) {
    return fail(QWEN35_ERROR_MODEL,
                "key '%s' at offset %" PRIu64 ": expected %" PRIu32 " elements, found %zu", key,
                offset_of(file, key), blocks, listed.size());
  }
  for (size_t i = c->n_layer; i < listed.size(); i++) {
    if (listed[i] != 0) {
      return fail(QWEN35_ERROR_UNSUPPORTED,
                  "key '%s' at offset %" PRIu64
                  ": element %zu: expected attention in the "
                  "multi-token-prediction layer",
                  key, offset_of(file, key), i);
    }
  }
  Q35_TRY(c->recurrent.resize(c->n_layer));
  for (uint32_t i = 0; i < c->n_layer; i++) {
    c->recurrent[i] = listed.empty() ? (i + 1) % c->full_attention_interval != 0 : listed[i];
  }
  return kOk;
}

Status read_attention(const File &file, Config *c) {
  const char *kv_key = "qwen35.attention.head_count_kv";
  const char *value_key = "qwen35.attention.value_length";
  Q35_TRY(read_number(file, "qwen35.attention.head_count", 1, kMaxHeads, 1, &c->n_head));
  Q35_TRY(read_number(file, kv_key, 1, kMaxHeads, 1, &c->n_head_kv));
  if (c->n_head % c->n_head_kv != 0) {
    return refuse_number(file, kv_key, QWEN35_ERROR_MODEL, "a divisor of the head count",
                         c->n_head_kv);
  }
  if (c->n_head / c->n_head_kv > kMaxGroup) {
    return refuse_number(file, kv_key, QWEN35_ERROR_UNSUPPORTED, "at most 32 query heads for each",
                         c->n_head_kv);
  }
  Q35_TRY(read_number(file, "qwen35.attention.key_length", kLaneStep, kMaxHeadDim, kLaneStep,
                      &c->head_dim));
  uint32_t value_length = 0;
  Q35_TRY(read_number(file, value_key, kLaneStep, kMaxHeadDim, kLaneStep, &value_length));
  if (value_length != c->head_dim) {
    return refuse_number(file, value_key, QWEN35_ERROR_UNSUPPORTED, "the key length", value_length);
  }
  return read_float(file, "qwen35.attention.layer_norm_rms_epsilon", true, 1e-12f, 1e-1f,
                    &c->rms_eps);
}

Status read_recurrent(const File &file, Config *c) {
  const char *rank_key = "qwen35.ssm.time_step_rank";
  const char *inner_key = "qwen35.ssm.inner_size";
  const char *conv_key = "qwen35.ssm.conv_kernel";
  Q35_TRY(read_number(file, "qwen35.ssm.state_size", kLaneStep, kMaxLinHeadDim, kLaneStep,
                      &c->lin_head_dim));
  Q35_TRY(read_number(file, "qwen35.ssm.group_count", 1, kMaxHeads, 1, &c->lin_k_heads));
  Q35_TRY(read_number(file, rank_key, 1, kMaxHeads, 1, &c->lin_v_heads));
  if (c->lin_v_heads % c->lin_k_heads != 0) {
    return refuse_number(file, rank_key, QWEN35_ERROR_MODEL, "a multiple of ssm.group_count",
                         c->lin_v_heads);
  }
  uint32_t inner = 0;
  Q35_TRY(file.get_u32(inner_key, true, &inner));
  if (inner != c->lin_v_dim()) {
    return refuse_number(file, inner_key, QWEN35_ERROR_UNSUPPORTED,
                         "ssm.time_step_rank * ssm.state_size", inner);
  }
  Q35_TRY(file.get_u32(conv_key, true, &c->conv_kernel));
  if (c->conv_kernel == kConvKernel) return kOk;
  return refuse_number(file, conv_key, QWEN35_ERROR_UNSUPPORTED, "4", c->conv_kernel);
}

Status read_yarn(const File &file, Config *c) {
  c->rope_scaling = RopeScaling::Yarn;
  Q35_TRY(read_float(file, "qwen35.rope.scaling.factor", true, 1.0f, 1024.0f, &c->rope_factor));
  Q35_TRY(read_number(file, "qwen35.rope.scaling.original_context_length", 64, kMaxContext, 1,
                      &c->rope_original_ctx));
  Q35_TRY(require_float(file, "qwen35.rope.scaling.attn_factor", 1.0f));
  Q35_TRY(require_float(file, "qwen35.rope.scaling.yarn_attn_factor", 1.0f));
  Q35_TRY(require_float(file, "qwen35.rope.scaling.yarn_ext_factor", 1.0f));
  Q35_TRY(require_float(file, "qwen35.rope.scaling.yarn_beta_fast", 32.0f));
  Q35_TRY(require_float(file, "qwen35.rope.scaling.yarn_beta_slow", 1.0f));
  return require_float(file, "qwen35.rope.scaling.yarn_log_multiplier", 0.0f);
}

Status read_rope_scaling(const File &file, Config *c) {
  const char *key = "qwen35.rope.scaling.type";
  c->rope_scaling = RopeScaling::None;
  c->rope_factor = 1.0f;
  c->rope_original_ctx = c->n_ctx_train;
  std::string_view type = "none";
  Q35_TRY(file.get_string(key, false, &type));
  if (type == "none") return kOk;
  if (type == "yarn") return read_yarn(file, c);
  return fail(QWEN35_ERROR_UNSUPPORTED,
              "key '%s' at offset %" PRIu64 ": expected 'none' or 'yarn', found '%s'", key,
              offset_of(file, key), shown(type).text);
}

// The sections count the frequencies that turn with time, height and width; the fourth is unused.
Status read_rope(const File &file, Config *c) {
  const char *key = "qwen35.rope.dimension_sections";
  Q35_TRY(read_number(file, "qwen35.rope.dimension_count", 2, c->head_dim, 2, &c->n_rot));
  Q35_TRY(read_float(file, "qwen35.rope.freq_base", true, 1.0f, 1e12f, &c->rope_base));
  Array<int32_t> sections;
  Q35_TRY(file.get_i32s(key, true, &sections));
  if (sections.size() != 3 && sections.size() != 4) {
    return fail(QWEN35_ERROR_MODEL,
                "key '%s' at offset %" PRIu64 ": expected 4 elements, found %zu", key,
                offset_of(file, key), sections.size());
  }
  uint64_t sum = 0;
  for (size_t i = 0; i < 4; i++) {
    const int32_t section = i < sections.size() ? sections[i] : 0;
    if (section < 0 || section > static_cast<int32_t>(kMaxHeadDim)) {
      return fail(QWEN35_ERROR_MODEL,
                  "key '%s' at offset %" PRIu64 ": element %zu: expected 0 to %" PRIu32
                  ", found %" PRId32,
                  key, offset_of(file, key), i, kMaxHeadDim, section);
    }
    c->rope_sections[i] = static_cast<uint32_t>(section);
    sum += c->rope_sections[i];
  }
  if (sum != c->n_rot / 2 || c->rope_sections[3] != 0) {
    return fail(QWEN35_ERROR_MODEL,
                "key '%s' at offset %" PRIu64 ": expected three sections that add up to %" PRIu32
                ", found a sum of %" PRIu64,
                key, offset_of(file, key), c->n_rot / 2, sum);
  }
  return read_rope_scaling(file, c);
}

// A token id, or -1 when the key is absent.
Status read_token_id(const File &file, std::string_view key, uint32_t n_vocab, int32_t *out) {
  *out = -1;
  if (file.find(key) == nullptr) return kOk;
  uint32_t id = 0;
  Q35_TRY(read_number(file, key, 0, n_vocab - 1, 1, &id));
  *out = static_cast<int32_t>(id);
  return kOk;
}

Status read_vocabulary(const File &file, Config *c) {
  const char *key = "tokenizer.ggml.tokens";
  Q35_TRY(require_string(file, "tokenizer.ggml.model", "gpt2"));
  Q35_TRY(require_string(file, "tokenizer.ggml.pre", "qwen35"));
  const gguf::Value *tokens = file.find(key);
  const gguf::TensorInfo *embedding = file.find_tensor("token_embd.weight");
  uint64_t n = 0;
  if (tokens != nullptr) {
    n = tokens->type == gguf::ValueType::Array ? tokens->count : 0;
  } else if (embedding != nullptr) {
    n = embedding->ne[1];
  }
  if (n < 1 || n > kMaxVocab) {
    return fail(QWEN35_ERROR_MODEL,
                "key '%s' at offset %" PRIu64 ": expected 1 to %" PRIu32 " tokens, found %" PRIu64,
                key, offset_of(file, key), kMaxVocab, n);
  }
  if (embedding != nullptr && embedding->ne[1] != n) {
    return fail(QWEN35_ERROR_MODEL,
                "key '%s' at offset %" PRIu64 ": expected %" PRIu64
                " tokens, the rows of token_embd.weight, found %" PRIu64,
                key, offset_of(file, key), embedding->ne[1], n);
  }
  c->n_vocab = static_cast<uint32_t>(n);
  Q35_TRY(read_token_id(file, "tokenizer.ggml.eos_token_id", c->n_vocab, &c->eos_token));
  return read_token_id(file, "tokenizer.ggml.padding_token_id", c->n_vocab, &c->pad_token);
}

}  // namespace

void stretch_context(Config *c, float factor) {
  c->rope_scaling = RopeScaling::Yarn;
  c->rope_factor = factor;
  const double tokens = static_cast<double>(c->rope_original_ctx) * static_cast<double>(factor);
  c->n_ctx_train = tokens < kMaxContext ? static_cast<uint32_t>(tokens) : kMaxContext;
}

Status read_config(const File &file, Config *out) {
  Config c = {};
  Q35_TRY(check_architecture(file));
  Q35_TRY(read_layer_counts(file, &c));
  Q35_TRY(read_layer_kinds(file, &c));
  Q35_TRY(read_number(file, "qwen35.context_length", 1, kMaxContext, 1, &c.n_ctx_train));
  Q35_TRY(read_number(file, "qwen35.embedding_length", kLaneStep, kMaxEmbd, kLaneStep, &c.n_embd));
  Q35_TRY(read_number(file, "qwen35.feed_forward_length", kLaneStep, kMaxFf, kLaneStep, &c.n_ff));
  Q35_TRY(read_attention(file, &c));
  Q35_TRY(read_recurrent(file, &c));
  Q35_TRY(read_rope(file, &c));
  Q35_TRY(read_vocabulary(file, &c));
  uint32_t file_type = UINT32_MAX;
  Q35_TRY(file.get_u32("general.file_type", false, &file_type));
  c.file_type = file_type > INT32_MAX ? -1 : static_cast<int32_t>(file_type);
  *out = std::move(c);
  return kOk;
}

}  // namespace q35
