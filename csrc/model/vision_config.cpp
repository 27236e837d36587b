#include "model/vision_config.h"

#include <cinttypes>

#include "base/array.h"
#include "gguf/gguf.h"
#include "model/keys.h"

namespace q35 {

namespace {

using gguf::File;

// Bounds far above any tower of the family.
constexpr uint32_t kMaxLayers = 256;
constexpr uint32_t kMaxEmbd = 1u << 14;
constexpr uint32_t kMaxFf = 1u << 16;
constexpr uint32_t kMaxHeads = 256;
constexpr uint32_t kMaxGrid = 1024;
constexpr uint32_t kLaneStep = 16;  // widths that vector code walks are multiples of this
constexpr uint32_t kPatch = 16, kMerge = 2;

// A number that the engine computes with one value only.
Status require_number(const File &file, std::string_view key, uint32_t expected,
                      const char *described) {
  uint32_t value = 0;
  Q35_TRY(file.get_u32(key, true, &value));
  if (value == expected) return kOk;
  return refuse_number(file, key, QWEN35_ERROR_UNSUPPORTED, described, value);
}

// Three channel values; they must stand in the file as an array of floats.
Status read_channels(const File &file, std::string_view key, float low, float high, float *out) {
  Array<float> values;
  Q35_TRY(file.get_f32s(key, true, &values));
  if (values.size() != 3) {
    return fail(QWEN35_ERROR_MODEL,
                "key '%s' at offset %" PRIu64 ": expected 3 elements, found %zu",
                gguf::shown(key).text, offset_of(file, key), values.size());
  }
  for (size_t i = 0; i < 3; i++) {
    if (!(values[i] >= low && values[i] <= high)) {
      return fail(QWEN35_ERROR_MODEL,
                  "key '%s' at offset %" PRIu64 ": element %zu: expected %g to %g, found %g",
                  gguf::shown(key).text, offset_of(file, key), i, static_cast<double>(low),
                  static_cast<double>(high), static_cast<double>(values[i]));
    }
    out[i] = values[i];
  }
  return kOk;
}

// Towers of the generation before add rows of inner layers to the text layers; this one does not.
Status refuse_deepstack(const File &file) {
  const char *key = "clip.vision.is_deepstack_layers";
  Array<uint8_t> listed;
  Q35_TRY(file.get_bools(key, false, &listed));
  for (size_t i = 0; i < listed.size(); i++) {
    if (listed[i] == 0) continue;
    return fail(QWEN35_ERROR_UNSUPPORTED,
                "key '%s' at offset %" PRIu64 ": element %zu: expected false (a Qwen 3.5 tower)",
                key, offset_of(file, key), i);
  }
  return kOk;
}

}  // namespace

bool has_vision(const File &file) {
  return file.find("clip.vision.block_count") != nullptr;
}

Status read_vision_config(const File &file, VisionConfig *out) {
  VisionConfig c = {};
  Q35_TRY(require_string(file, "clip.projector_type", "qwen3vl_merger"));
  Q35_TRY(read_number(file, "clip.vision.block_count", 1, kMaxLayers, 1, &c.n_layer));
  Q35_TRY(
      read_number(file, "clip.vision.embedding_length", kLaneStep, kMaxEmbd, kLaneStep, &c.n_embd));
  Q35_TRY(
      read_number(file, "clip.vision.feed_forward_length", kLaneStep, kMaxFf, kLaneStep, &c.n_ff));
  const char *head_key = "clip.vision.attention.head_count";
  Q35_TRY(read_number(file, head_key, 1, kMaxHeads, 1, &c.n_head));
  if (c.n_embd % c.n_head != 0 || c.head_dim() % 4 != 0 || c.head_dim() > kMaxVisionHeadDim) {
    return refuse_number(file, head_key, QWEN35_ERROR_UNSUPPORTED,
                         "heads of at most 256 dimensions, a multiple of 4", c.n_head);
  }
  Q35_TRY(read_number(file, "clip.vision.projection_dim", kLaneStep, kMaxEmbd * 4, kLaneStep,
                      &c.n_out));
  Q35_TRY(require_number(file, "clip.vision.patch_size", kPatch, "16"));
  Q35_TRY(require_number(file, "clip.vision.spatial_merge_size", kMerge, "2"));
  c.patch = kPatch;
  c.merge = kMerge;
  uint32_t side = 0;
  Q35_TRY(read_number(file, "clip.vision.image_size", kPatch, kMaxGrid * kPatch, kPatch, &side));
  c.grid = side / kPatch;
  Q35_TRY(
      read_float(file, "clip.vision.attention.layer_norm_epsilon", true, 1e-12f, 1e-1f, &c.eps));
  Q35_TRY(read_channels(file, "clip.vision.image_mean", -10.0f, 10.0f, c.mean));
  Q35_TRY(read_channels(file, "clip.vision.image_std", 1e-3f, 10.0f, c.std));
  Q35_TRY(refuse_deepstack(file));
  *out = c;
  return kOk;
}

}  // namespace q35
