#include "runtime/vision.h"

#include "gguf/gguf.h"

using q35::fail;
using q35::kOk;
using q35::Status;

namespace {

constexpr uint64_t kMaxPatches = 65536;  // 16,384 tokens, the most the reference gives a picture

// The type of most bytes of the layers' matrices, and whether any of them holds integers.
void sum_types(const q35::VisionModel &tower, int32_t *dominant, bool *quantized) {
  uint64_t bytes[64] = {};
  const auto add = [&](const q35::Matrix &w) {
    bytes[static_cast<uint32_t>(w.type)] += w.row_bytes * w.rows;
    *quantized = *quantized || q35::type_traits(w.type).group != 0;
  };
  for (const q35::VisionLayer &layer : tower.layers) {
    for (const auto *m : {&layer.qkv, &layer.out, &layer.up, &layer.down}) add(m->w);
  }
  add(tower.merge_in.w);
  add(tower.merge_out.w);
  *dominant = 0;
  for (int32_t i = 1; i < 64; i++) {
    if (bytes[i] > bytes[*dominant]) *dominant = i;
  }
}

// Holds the threads while a step runs, which the cancel flag stops.
class Step {
 public:
  Step(qwen35_model *model, const std::atomic<uint32_t> *flag)
      : threads_(&model->batcher), pool_(&model->pool) {
    pool_->set_cancel_flag(flag);
  }
  ~Step() { pool_->set_cancel_flag(nullptr); }

 private:
  q35::Batcher::Exclusive threads_;
  q35::ThreadPool *pool_;
};

}  // namespace

Status qwen35_vision::open(const char *path) {
  q35::gguf::File file;
  Q35_TRY(file.open(path));
  if (!q35::has_vision(file)) {
    return fail(QWEN35_ERROR_UNSUPPORTED,
                "the file has no vision tower: name the projector file (mmproj) that belongs to "
                "the model");
  }
  const q35::Batcher::Exclusive threads(&model->batcher);
  Q35_TRY(tower.load(file, model->config.n_embd, model->kernels.weave, &model->pool));
  sum_types(tower, &matrix_type, &quantized);
  return kOk;
}

Status qwen35_vision::check_size(uint32_t height, uint32_t width) const {
  const uint32_t cell = tower.config.patch * tower.config.merge;
  const uint64_t patches =
      static_cast<uint64_t>(height / tower.config.patch) * (width / tower.config.patch);
  if (height == 0 || width == 0 || height % cell != 0 || width % cell != 0) {
    return fail(QWEN35_ERROR_ARGUMENT,
                "picture of %u x %u pixels: expected sides that are multiples of %u", width, height,
                cell);
  }
  if (patches <= kMaxPatches) return kOk;
  return fail(QWEN35_ERROR_ARGUMENT, "picture of %u x %u pixels: expected at most %llu patches",
              width, height, static_cast<unsigned long long>(kMaxPatches));
}

Status qwen35_vision::encode(const q35::Picture &picture, float *rows, qwen35_progress progress,
                             void *user) {
  Q35_TRY(check_size(picture.height, picture.width));
  const uint32_t patches =
      picture.height / tower.config.patch * (picture.width / tower.config.patch);
  const uint32_t n_layer = tower.config.n_layer;
  // Scratch lives as long as the call: a large picture must not cost memory for ever.
  q35::CpuBackend backend(model->kernels, &model->pool);
  q35::VisionForward forward;
  Q35_TRY(backend.reserve_vision(tower.config, patches, quantized));
  for (uint32_t done = 0; done < n_layer + 2; done++) {
    {
      Step step(model, &cancel);
      if (done == 0) {
        Q35_TRY(forward.begin(tower, &backend, picture));
      } else if (done <= n_layer) {
        forward.layer(tower, &backend, done - 1);
      } else {
        forward.finish(tower, &backend, rows);
      }
    }
    if (cancel.exchange(0) != 0) return fail(QWEN35_ERROR_CANCELLED, "cancelled");
    if (progress != nullptr && progress(user, done + 1, n_layer + 2) != 0) {
      return fail(QWEN35_ERROR_CANCELLED, "cancelled after %u of %u steps", done + 1, n_layer + 2);
    }
  }
  return kOk;
}

uint64_t qwen35_vision::scratch_bytes(uint32_t height, uint32_t width) const {
  const uint64_t patches =
      static_cast<uint64_t>(height / tower.config.patch) * (width / tower.config.patch);
  if (patches > kMaxPatches) return 0;
  const uint32_t n = static_cast<uint32_t>(patches);
  const q35::CpuBackend backend(model->kernels, &model->pool);
  return sizeof(float) * q35::VisionForward::scratch_floats(tower.config, n) +
         backend.vision_bytes(tower.config, n, quantized);
}

void qwen35_vision::info(qwen35_vision_info *out) const {
  const q35::VisionConfig &c = tower.config;
  *out = {};
  out->n_layer = c.n_layer;
  out->n_embd = c.n_embd;
  out->n_ff = c.n_ff;
  out->n_head = c.n_head;
  out->n_out = c.n_out;
  out->patch_size = c.patch;
  out->merge_size = c.merge;
  out->matrix_type = matrix_type;
  out->n_params = tower.store.n_params;
  out->weight_bytes = tower.store.bytes;
}
