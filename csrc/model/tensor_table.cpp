#include "model/tensor_table.h"

#include <cinttypes>
#include <cstdio>

namespace q35 {

namespace {

// Adds the slots of a model; names and shapes appear here and nowhere else.
class Table {
 public:
  Table(const Config &config, Weights *weights, Array<TensorSlot> *slots)
      : c_(config), w_(weights), slots_(slots) {}

  Status add_model() {
    Q35_TRY(matrix("token_embd.weight", c_.n_vocab, c_.n_embd, &w_->token_embd));
    if (!w_->tied) Q35_TRY(matrix("output.weight", c_.n_vocab, c_.n_embd, &w_->output));
    Q35_TRY(vector("output_norm.weight", c_.n_embd, &w_->output_norm));
    for (uint32_t i = 0; i < c_.n_layer; i++) {
      block_ = i;
      LayerWeights *layer = &w_->layers[i];
      Q35_TRY(add_layer(layer));
      Q35_TRY(c_.recurrent[i] ? add_delta_net(&layer->delta) : add_attention(&layer->attention));
    }
    for (uint32_t i = 0; i < c_.n_mtp_layer; i++) {
      block_ = c_.n_layer + i;
      Q35_TRY(add_mtp(&w_->mtp[i]));
    }
    return kOk;
  }

 private:
  Status add_layer(LayerWeights *w) {
    Q35_TRY(block_vector("attn_norm.weight", c_.n_embd, &w->attn_norm));
    Q35_TRY(block_vector("post_attention_norm.weight", c_.n_embd, &w->ffn_norm));
    Q35_TRY(block_matrix("ffn_gate.weight", c_.n_ff, c_.n_embd, &w->ffn_gate));
    Q35_TRY(block_matrix("ffn_up.weight", c_.n_ff, c_.n_embd, &w->ffn_up));
    return block_matrix("ffn_down.weight", c_.n_embd, c_.n_ff, &w->ffn_down);
  }

  Status add_attention(AttentionWeights *w) {
    Q35_TRY(block_matrix("attn_q.weight", 2 * c_.q_dim(), c_.n_embd, &w->q));
    Q35_TRY(block_matrix("attn_k.weight", c_.kv_dim(), c_.n_embd, &w->k));
    Q35_TRY(block_matrix("attn_v.weight", c_.kv_dim(), c_.n_embd, &w->v));
    Q35_TRY(block_matrix("attn_output.weight", c_.n_embd, c_.q_dim(), &w->o));
    Q35_TRY(block_vector("attn_q_norm.weight", c_.head_dim, &w->q_norm));
    return block_vector("attn_k_norm.weight", c_.head_dim, &w->k_norm);
  }

  Status add_delta_net(DeltaNetWeights *w) {
    Q35_TRY(block_matrix("attn_qkv.weight", c_.conv_channels(), c_.n_embd, &w->qkv));
    Q35_TRY(block_matrix("attn_gate.weight", c_.lin_v_dim(), c_.n_embd, &w->z));
    Q35_TRY(block_matrix("ssm_alpha.weight", c_.lin_v_heads, c_.n_embd, &w->alpha));
    Q35_TRY(block_matrix("ssm_beta.weight", c_.lin_v_heads, c_.n_embd, &w->beta));
    Q35_TRY(block_matrix("ssm_out.weight", c_.n_embd, c_.lin_v_dim(), &w->out));
    Q35_TRY(block_vector("ssm_conv1d.weight", c_.conv_kernel, &w->conv, c_.conv_channels()));
    Q35_TRY(block_vector("ssm_dt.bias", c_.lin_v_heads, &w->dt_bias));
    Q35_TRY(block_vector("ssm_a", c_.lin_v_heads, &w->a));
    slots_->back().never_positive = true;  // -exp(A_log): above 0 the state would grow without end
    return block_vector("ssm_norm.weight", c_.lin_head_dim, &w->norm);
  }

  Status add_mtp(MtpWeights *w) {
    Q35_TRY(add_layer(&w->layer));
    Q35_TRY(add_attention(&w->layer.attention));
    Q35_TRY(block_matrix("nextn.eh_proj.weight", c_.n_embd, 2 * c_.n_embd, &w->eh_proj));
    Q35_TRY(block_vector("nextn.enorm.weight", c_.n_embd, &w->enorm));
    Q35_TRY(block_vector("nextn.hnorm.weight", c_.n_embd, &w->hnorm));
    return block_vector("nextn.shared_head_norm.weight", c_.n_embd, &w->head_norm);
  }

  Status add(const char *prefix, const char *name, uint64_t rows, uint64_t cols, Matrix *matrix,
             const float **vector) {
    TensorSlot slot = {};
    std::snprintf(slot.name, sizeof slot.name, "%s%s", prefix, name);
    slot.rows = rows;
    slot.cols = cols;
    for (uint64_t &n : slot.ne) n = 1;
    slot.ne[0] = cols;
    slot.ne[1] = rows;
    slot.matrix = matrix;
    slot.vector = vector;
    return slots_->push_back(slot);
  }

  Status matrix(const char *name, uint64_t rows, uint64_t cols, Matrix *out) {
    return add("", name, rows, cols, out, nullptr);
  }

  Status vector(const char *name, uint64_t n, const float **out) {
    return add("", name, 1, n, nullptr, out);
  }

  Status block_matrix(const char *name, uint64_t rows, uint64_t cols, Matrix *out) {
    char prefix[24];
    std::snprintf(prefix, sizeof prefix, "blk.%" PRIu32 ".", block_);
    return add(prefix, name, rows, cols, out, nullptr);
  }

  Status block_vector(const char *name, uint64_t n, const float **out, uint64_t rows = 1) {
    char prefix[24];
    std::snprintf(prefix, sizeof prefix, "blk.%" PRIu32 ".", block_);
    return add(prefix, name, rows, n, nullptr, out);
  }

  const Config &c_;
  Weights *w_;
  Array<TensorSlot> *slots_;
  uint32_t block_ = 0;
};

bool starts_with(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

bool ends_with(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

// Tensors that files may carry and the text model does not use: an embedded vision tower, and the
// MTP layer's own copies of the embedding and the head, which these models share with the trunk.
bool ignored(std::string_view name) {
  return starts_with(name, "v.") || starts_with(name, "mm.") ||
         ends_with(name, ".nextn.embed_tokens.weight") ||
         ends_with(name, ".nextn.shared_head_head.weight");
}

}  // namespace

Status match_tensors(const gguf::File &file, const Config &config, Weights *weights,
                     Array<TensorSlot> *out) {
  weights->tied = file.find_tensor("output.weight") == nullptr;
  Q35_TRY(weights->layers.resize(config.n_layer));
  Q35_TRY(weights->mtp.resize(config.n_mtp_layer));
  Q35_TRY(Table(config, weights, out).add_model());
  return match_slots(file, "a qwen35 model", ignored, out);
}

}  // namespace q35
