// The computed list of a model's tensors: one slot per tensor that the configuration implies.
#pragma once

#include <cstdint>

#include "base/array.h"
#include "base/status.h"
#include "gguf/gguf.h"
#include "model/config.h"
#include "model/weights.h"

namespace q35 {

// Exactly one of `matrix` and `vector` is set: where the loaded tensor is to be bound.
struct TensorSlot {
  char name[64];
  uint64_t rows;         // 1 for vectors
  uint64_t cols;         // contiguous values
  Matrix *matrix;        // any tensor type whose blocks divide cols
  const float **vector;  // F32, F16 or BF16 in the file, F32 in memory
  bool never_positive;   // of a vector: every value must be <= 0
  const gguf::TensorInfo *info;
};

// Lays out weights->layers and weights->mtp and fills `out` with a slot per tensor, each matched
// with the file's tensor. Refuses missing tensors, wrong shapes and types, and names it does not
// know. The slots point into *weights, which must stay in place until they are bound.
[[nodiscard]] Status match_tensors(const gguf::File &file, const Config &config, Weights *weights,
                                   Array<TensorSlot> *out);

}  // namespace q35
