// The computed list of a model's tensors: one slot per tensor that the configuration implies.
#pragma once

#include <cstdint>

#include "base/array.h"
#include "base/status.h"
#include "gguf/gguf.h"
#include "model/config.h"
#include "model/tensor_slots.h"
#include "model/weights.h"

namespace q35 {

// Lays out weights->layers and weights->mtp and fills `out` with a slot per tensor, each matched
// with the file's tensor. Refuses missing tensors, wrong shapes and types, and names it does not
// know. The slots point into *weights, which must stay in place until they are bound.
[[nodiscard]] Status match_tensors(const gguf::File &file, const Config &config, Weights *weights,
                                   Array<TensorSlot> *out);

}  // namespace q35
