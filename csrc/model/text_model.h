// The text model: weights plus what is derived from them once, immutable and shared by sessions.
// The forward pass is in text_forward.h.
#pragma once

#include "base/array.h"
#include "base/status.h"
#include "model/config.h"
#include "model/rope.h"
#include "model/weights.h"

namespace q35 {

struct TextModel {
  Config config;
  Weights weights;
  Rope rope;
  Array<float> conv_taps;      // [recurrent layers][4, channels]: the taps of all channels together
  Array<uint32_t> conv_index;  // [n_layer] which of them

  const float *taps(uint32_t layer) const {
    return conv_taps.data() + conv_index[layer] * 4ull * config.conv_channels();
  }

  // Derives rope and conv_taps from config and weights.
  [[nodiscard]] Status prepare();
};

}  // namespace q35
