#include "model/vision_model.h"

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "model/tensor_slots.h"

namespace q35 {

namespace {

constexpr uint64_t kGuardFloats = 16;  // behind a matrix that kernels may read and ignore

// Adds the slots of a tower; names and shapes appear here and nowhere else.
class Table {
 public:
  explicit Table(Array<TensorSlot> *slots) : slots_(slots) {}

  Status vector(const char *name, uint64_t n, const float **out) {
    return add(name, {n, 1, 1, 1}, 1, n, nullptr, out);
  }

  // A table or kernel that is used as floats.
  Status floats(const char *name, const uint64_t (&ne)[4], uint64_t rows, const float **out) {
    return add(name, ne, rows, ne[0] * ne[1] * ne[2] * ne[3] / rows, nullptr, out);
  }

  Status linear(const char *prefix, const char *name, uint64_t rows, uint64_t cols,
                BiasedMatrix *out) {
    char full[64];
    std::snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    Q35_TRY(add(full, {cols, rows, 1, 1}, rows, cols, &out->w, nullptr));
    std::snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    return vector(full, rows, &out->bias);
  }

  Status norm(const char *prefix, const char *name, uint64_t n, LayerNorm *out) {
    char full[64];
    std::snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    Q35_TRY(vector(full, n, &out->weight));
    std::snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    return vector(full, n, &out->bias);
  }

 private:
  Status add(const char *name, const uint64_t (&ne)[4], uint64_t rows, uint64_t cols,
             Matrix *matrix, const float **vector) {
    TensorSlot slot = {};
    std::snprintf(slot.name, sizeof slot.name, "%s", name);
    std::memcpy(slot.ne, ne, sizeof slot.ne);
    slot.rows = rows;
    slot.cols = cols;
    slot.matrix = matrix;
    slot.vector = vector;
    return slots_->push_back(slot);
  }

  Array<TensorSlot> *slots_;
};

// In the model's own file the text model's tensors stand beside the tower's.
bool of_text(std::string_view name) {
  return name.substr(0, 2) != "v." && name.substr(0, 3) != "mm.";
}

Matrix float_matrix(const float *data, uint32_t rows, uint32_t cols) {
  return {reinterpret_cast<const uint8_t *>(data), DType::F32, rows, cols,
          uint64_t{cols} * sizeof(float)};
}

}  // namespace

Status VisionModel::match(const gguf::File &file, Array<TensorSlot> *slots) {
  const VisionConfig &c = config;
  const uint64_t e = c.n_embd, merged = c.merged_dim();
  const uint64_t kernel[4] = {c.patch, c.patch, 3, e};
  const uint64_t places[4] = {e, uint64_t{c.grid} * c.grid, 1, 1};
  Table table(slots);
  Q35_TRY(table.floats("v.patch_embd.weight", kernel, e, &patch_first));
  Q35_TRY(table.floats("v.patch_embd.weight.1", kernel, e, &patch_second));
  Q35_TRY(table.vector("v.patch_embd.bias", e, &patch_bias));
  Q35_TRY(table.floats("v.position_embd.weight", places, places[1], &positions));
  Q35_TRY(layers.resize(c.n_layer));
  for (uint32_t i = 0; i < c.n_layer; i++) {
    VisionLayer *w = &layers[i];
    char prefix[24];
    std::snprintf(prefix, sizeof prefix, "v.blk.%" PRIu32 ".", i);
    Q35_TRY(table.norm(prefix, "ln1", e, &w->norm1));
    Q35_TRY(table.linear(prefix, "attn_qkv", 3 * e, e, &w->qkv));
    Q35_TRY(table.linear(prefix, "attn_out", e, e, &w->out));
    Q35_TRY(table.norm(prefix, "ln2", e, &w->norm2));
    Q35_TRY(table.linear(prefix, "ffn_up", c.n_ff, e, &w->up));
    Q35_TRY(table.linear(prefix, "ffn_down", e, c.n_ff, &w->down));
  }
  Q35_TRY(table.norm("", "v.post_ln", e, &merge_norm));
  Q35_TRY(table.linear("", "mm.0", merged, merged, &merge_in));
  Q35_TRY(table.linear("", "mm.2", c.n_out, merged, &merge_out));
  return match_slots(file, "a vision tower", of_text, slots);
}

Status VisionModel::derive_kernels() {
  const uint64_t e = config.n_embd, frame = config.frame_values();
  Q35_TRY(patch_kernels.resize(3 * e * frame + kGuardFloats));
  float *pair = patch_kernels.data(), *still = pair + 2 * e * frame;
  for (uint64_t r = 0; r < e; r++) {
    const float *first = patch_first + r * frame, *second = patch_second + r * frame;
    std::memcpy(pair + 2 * r * frame, first, sizeof(float) * frame);
    std::memcpy(pair + (2 * r + 1) * frame, second, sizeof(float) * frame);
    for (uint64_t i = 0; i < frame; i++) still[r * frame + i] = first[i] + second[i];
  }
  const uint32_t rows = config.n_embd, cols = config.frame_values();
  patch_pair = float_matrix(pair, rows, 2 * cols);
  patch_still = float_matrix(still, rows, cols);
  return kOk;
}

Status VisionModel::load(const gguf::File &file, uint32_t text_embd, const WeaveFn *weave,
                         ThreadPool *pool) {
  Q35_TRY(read_vision_config(file, &config));
  if (config.n_out != text_embd) {
    return fail(QWEN35_ERROR_MODEL,
                "the vision tower gives rows of %" PRIu32 " values, the text model takes %" PRIu32
                ": they belong to models of different sizes",
                config.n_out, text_embd);
  }
  Array<TensorSlot> slots;
  Q35_TRY(match(file, &slots));
  Q35_TRY(load_slots(file, slots, false, weave, pool, &store));
  return derive_kernels();
}

}  // namespace q35
