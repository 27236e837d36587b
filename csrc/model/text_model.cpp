#include "model/text_model.h"

namespace q35 {

Status TextModel::prepare() {
  Q35_TRY(rope.init(config));
  const uint64_t channels = config.conv_channels();
  uint32_t n_recurrent = 0;
  Q35_TRY(conv_index.resize(config.n_layer));
  for (uint32_t i = 0; i < config.n_layer; i++) {
    conv_index[i] = n_recurrent;
    if (config.recurrent[i]) n_recurrent++;
  }
  Q35_TRY(conv_taps.resize(n_recurrent * 4 * channels));
  for (uint32_t i = 0; i < config.n_layer; i++) {
    if (!config.recurrent[i]) continue;
    const float *conv = weights.layers[i].delta.conv;  // (channels, 4)
    float *taps = conv_taps.data() + conv_index[i] * 4 * channels;
    for (uint64_t c = 0; c < channels; c++) {
      for (uint64_t tap = 0; tap < 4; tap++) taps[tap * channels + c] = conv[c * 4 + tap];
    }
  }
  return kOk;
}

}  // namespace q35
