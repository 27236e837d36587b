// A loaded matrix, and the memory that the tensors of a file live in.
#pragma once

#include <cstdint>
#include <memory>

#include "base/memory.h"
#include "quant/quant.h"

namespace q35 {

// A weight matrix as stored in the file: `rows` outputs, each a contiguous run of blocks over
// `cols`.
struct Matrix {
  const uint8_t *data = nullptr;
  DType type = DType::F32;
  uint32_t rows = 0;
  uint32_t cols = 0;
  uint64_t row_bytes = 0;
};

// Storage behind the pointers of a set of weights.
struct TensorStore {
  uint64_t n_params = 0;
  uint64_t bytes = 0;              // of the tensors in their file
  Region memory;                   // what was read, and vectors as F32
  std::unique_ptr<Region[]> maps;  // one per shard; null without use_mmap
};

}  // namespace q35
