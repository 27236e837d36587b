// Shape of the vision tower as its file declares it: a separate projector file (mmproj), or the
// keys of the same names in the model's own file. Next: vision_model.h.
#pragma once

#include <cstdint>

#include "base/status.h"

namespace q35 {

namespace gguf {
class File;
}

constexpr uint32_t kMaxVisionHeadDim = 256;

struct VisionConfig {
  uint32_t n_layer;
  uint32_t n_embd;
  uint32_t n_ff;
  uint32_t n_head;
  uint32_t n_out;  // width of the merged rows: the text model's n_embd
  uint32_t patch;  // side in pixels: 16
  uint32_t merge;  // patches of a merged row's side: 2
  uint32_t grid;   // side of the table of learned positions
  float eps;
  float mean[3], std[3];  // of the channels red, green, blue, which are 0 to 1

  uint32_t head_dim() const { return n_embd / n_head; }
  uint32_t frame_values() const { return 3 * patch * patch; }     // of a patch in one frame
  uint32_t merged_dim() const { return merge * merge * n_embd; }  // input of the merger
};

// Whether the file has the keys of a vision tower.
[[nodiscard]] bool has_vision(const gguf::File &file);

// Reads and checks every key. Errors name key, offset, expected and found.
[[nodiscard]] Status read_vision_config(const gguf::File &file, VisionConfig *out);

}  // namespace q35
