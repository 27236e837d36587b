// The forward pass of the vision tower over one picture or frame pair.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "base/array.h"
#include "base/status.h"
#include "model/vision_model.h"

namespace q35 {

// Pixels of a still, or of two frames that follow each other in a video.
struct Picture {
  const uint8_t *first, *second;  // [height, width, 3] RGB; second is null for stills
  uint32_t height, width;         // multiples of patch * merge
};

// Call begin(), layer() for every layer in turn, finish(). Steps are short, so that others may use
// the threads between them.
class VisionForward {
 public:
  // Floats of scratch for n patches.
  static uint64_t scratch_floats(const VisionConfig &config, uint32_t n_patches);

  // Embeds the patches. Reserves the scratch first; nothing after that can fail.
  [[nodiscard]] Status begin(const VisionModel &model, Backend *backend, const Picture &picture);
  void layer(const VisionModel &model, Backend *backend, uint32_t index);
  // rows: [n / merge^2, n_out], in raster order
  void finish(const VisionModel &model, Backend *backend, float *rows);

 private:
  [[nodiscard]] Status reserve(const VisionConfig &config);
  void place_positions(const VisionModel &model);
  void fill_angles(const VisionConfig &config);

  uint32_t n_ = 0, rows_ = 0, cols_ = 0;  // patches, and their rows and columns
  const float *pending_bias_ = nullptr;   // of the layer whose output is in added_
  Array<float> x_;                        // [n, e] residual stream, without the last addition
  Array<float> normed_;                   // [n, e]
  Array<float> added_;      // [n, e] output of the last block, not yet added to x, without its bias
  Array<float> wide_;       // [n, 3 e] queries, keys and values; parts of wider products
  Array<float> cos_, sin_;  // [n, head_dim / 2]
};

}  // namespace q35
