#include "runtime/engine.h"

#include <cstdlib>
#include <cstring>

#include "base/cpu.h"

namespace q35 {

namespace {

// Weakest first; x86 and AArch64 never meet in one build.
constexpr Isa kTiers[] = {Isa::Scalar, Isa::Avx2, Isa::AvxVnni,     Isa::Avx512,
                          Isa::Amx,    Isa::Neon, Isa::NeonDotprod, Isa::NeonI8mm};

Status build_tokenizer(const gguf::File &file, Tokenizer *out) {
  Array<std::string_view> tokens, merges;
  Array<int32_t> types;
  Q35_TRY(file.get_strings("tokenizer.ggml.tokens", true, &tokens));
  Q35_TRY(file.get_i32s("tokenizer.ggml.token_type", true, &types));
  Q35_TRY(file.get_strings("tokenizer.ggml.merges", true, &merges));
  return out->build(tokens, types, merges);
}

Status append_string(Array<char> *out, std::string_view s) {
  Q35_TRY(out->append(s.data(), s.size()));
  return out->push_back('\0');
}

// Keeps every string of the metadata; embedded NULs would cut a value short and are refused.
Status copy_strings(const gguf::File &file, Array<char> *out) {
  for (const gguf::Value &value : file.values()) {
    if (value.type != gguf::ValueType::String) continue;
    std::string_view text;
    Q35_TRY(file.get_string(value.key, true, &text));
    if (value.key.find('\0') != text.npos || text.find('\0') != text.npos) continue;
    Q35_TRY(append_string(out, value.key));
    Q35_TRY(append_string(out, text));
  }
  return kOk;
}

// The type that holds most of the bytes of the layers' matrices: what people call the file's
// quantisation. Embedding and head often have more bits, and are large in small models.
int32_t dominant_type(const gguf::File &file) {
  uint64_t bytes[64] = {};
  int32_t best = -1;
  for (const gguf::TensorInfo &t : file.tensors()) {
    const uint32_t type = static_cast<uint32_t>(t.type);
    if (t.n_dims < 2 || type >= 64 || t.name.substr(0, 4) != "blk.") continue;
    bytes[type] += t.bytes;
    if (best < 0 || bytes[type] > bytes[best]) best = static_cast<int32_t>(type);
  }
  return best;
}

}  // namespace

Status choose_isa(Isa *out) {
  const char *limit = std::getenv("QWEN35_ISA");
  Isa best = Isa::Scalar;
  if (limit != nullptr && *limit != '\0') {
    for (const Isa isa : kTiers) {
      if (std::strcmp(limit, isa_name(isa)) != 0) continue;
      if (!isa_available(isa)) {
        return fail(QWEN35_ERROR_CPU, "QWEN35_ISA=%s: this CPU or this build cannot run that tier",
                    limit);
      }
      *out = isa;
      return kOk;
    }
    return fail(
        QWEN35_ERROR_CPU,
        "QWEN35_ISA=%s: expected scalar, avx2, avx_vnni, avx512, amx, neon, neon_dotprod or "
        "neon_i8mm",
        limit);
  }
  for (const Isa isa : kTiers) {
    if (isa_available(isa)) best = isa;
  }
  *out = best;
  return kOk;
}

}  // namespace q35

using q35::Status;

Status qwen35_model::open(const char *path, const qwen35_model_params &params) {
  q35::Isa isa;
  Q35_TRY(q35::choose_isa(&isa));
  kernels = q35::kernels_for(isa);
  q35::gguf::File file;
  Q35_TRY(file.open(path));
  Q35_TRY(q35::read_config(file, &text.config));
  if (params.rope_factor != 0.0f) q35::stretch_context(&text.config, params.rope_factor);
  Q35_TRY(q35::build_tokenizer(file, &tokenizer));
  Q35_TRY(q35::copy_strings(file, &strings));
  if (params.vocab_only != 0) return q35::kOk;
  const int threads = params.n_threads > 0 ? params.n_threads : q35::usable_cores();
  Q35_TRY(pool.start(threads));
  Q35_TRY(q35::load_weights(file, text.config, params.use_mmap != 0, kernels.weave, &pool,
                            &text.weights));
  Q35_TRY(text.prepare());
  matrix_type = q35::dominant_type(file);
  has_weights = true;
  return q35::kOk;
}

const char *qwen35_model::string(const char *key) const {
  const char *at = strings.begin();
  while (at != strings.end()) {
    const char *value = at + std::strlen(at) + 1;
    if (std::strcmp(at, key) == 0) return value;
    at = value + std::strlen(value) + 1;
  }
  return nullptr;
}

namespace {

struct MatrixTotals {
  uint64_t bytes = 0, macs = 0;
  void add(const q35::Matrix &w) {
    bytes += w.row_bytes * w.rows;
    macs += static_cast<uint64_t>(w.rows) * w.cols;
  }
};

// What one decoded token reads.
MatrixTotals step_totals(const q35::TextModel &text) {
  MatrixTotals totals;
  for (uint32_t i = 0; i < text.config.n_layer; i++) {
    const q35::LayerWeights &w = text.weights.layers[i];
    if (text.config.recurrent[i]) {
      for (const auto *m :
           {&w.delta.qkv, &w.delta.z, &w.delta.alpha, &w.delta.beta, &w.delta.out}) {
        totals.add(*m);
      }
    } else {
      for (const auto *m : {&w.attention.q, &w.attention.k, &w.attention.v, &w.attention.o}) {
        totals.add(*m);
      }
    }
    for (const auto *m : {&w.ffn_gate, &w.ffn_up, &w.ffn_down}) totals.add(*m);
  }
  totals.add(text.weights.output);
  totals.bytes += text.weights.token_embd.row_bytes;
  return totals;
}

}  // namespace

void qwen35_model::info(qwen35_model_info *out) const {
  const q35::Config &c = config;
  *out = {};
  out->n_layer = c.n_layer;
  out->n_mtp_layer = c.n_mtp_layer;
  out->n_embd = c.n_embd;
  out->n_ff = c.n_ff;
  out->n_head = c.n_head;
  out->n_head_kv = c.n_head_kv;
  out->head_dim = c.head_dim;
  out->n_rot = c.n_rot;
  out->n_lin_k_head = c.lin_k_heads;
  out->n_lin_v_head = c.lin_v_heads;
  out->lin_head_dim = c.lin_head_dim;
  out->conv_kernel = c.conv_kernel;
  out->full_attention_interval = c.full_attention_interval;
  out->n_vocab = c.n_vocab;
  out->n_ctx_train = c.n_ctx_train;
  out->eos_token = c.eos_token;
  out->pad_token = c.pad_token;
  out->file_type = c.file_type;
  out->matrix_type = matrix_type;
  if (!has_weights) return;
  const MatrixTotals step = step_totals(text);
  out->tied_embeddings = text.weights.tied ? 1 : 0;
  out->n_params = text.weights.store.n_params;
  out->weight_bytes = text.weights.store.bytes;
  out->step_bytes = step.bytes;
  out->step_macs = step.macs;
}
