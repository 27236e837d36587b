// The vision tower: weights plus what is derived from them once, immutable and shared. The forward
// pass is in vision_forward.h.
#pragma once

#include <cstdint>

#include "base/array.h"
#include "base/status.h"
#include "gguf/gguf.h"
#include "model/matrix.h"
#include "model/vision_config.h"

namespace q35 {

class ThreadPool;
struct TensorSlot;

// A linear layer; e = n_embd below.
struct BiasedMatrix {
  Matrix w;
  const float *bias;
};

struct LayerNorm {
  const float *weight, *bias;  // (e)
};

struct VisionLayer {
  LayerNorm norm1, norm2;
  BiasedMatrix qkv;   // (3 e, e): queries, keys, values
  BiasedMatrix out;   // (e, e)
  BiasedMatrix up;    // (n_ff, e)
  BiasedMatrix down;  // (e, n_ff)
};

struct VisionModel {
  VisionConfig config;
  Array<VisionLayer> layers;
  const float *patch_first;   // (e, 3 * 16 * 16): kernel of the first frame
  const float *patch_second;  // the same of the second
  const float *patch_bias;    // (e)
  const float *positions;     // (grid * grid, e), row by row
  LayerNorm merge_norm;
  BiasedMatrix merge_in;   // (4 e, 4 e)
  BiasedMatrix merge_out;  // (n_out, 4 e)
  TensorStore store;

  // Both frames side by side for pairs, their sum for stills, whose two frames are the same.
  Matrix patch_pair, patch_still;
  Array<float> patch_kernels;  // storage of the two

  // Reads the tower of a file. text_embd: n_embd of the text model it must fit.
  // weave: as in load_slots
  [[nodiscard]] Status load(const gguf::File &file, uint32_t text_embd, const WeaveFn *weave,
                            ThreadPool *pool);

 private:
  [[nodiscard]] Status match(const gguf::File &file, Array<TensorSlot> *slots);
  [[nodiscard]] Status derive_kernels();
};

}  // namespace q35
