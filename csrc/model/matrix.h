// A loaded matrix, and the memory that the tensors of a file live in.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>

#include "base/memory.h"
#include "quant/quant.h"
#include "quant/weave.h"

namespace q35 {

// A weight matrix: `rows` outputs, each a run of blocks over `cols`, contiguous as in the file
// unless woven (quant/weave.h).
struct Matrix {
  const uint8_t *data = nullptr;
  DType type = DType::F32;
  uint32_t rows = 0;
  uint32_t cols = 0;
  uint64_t row_bytes = 0;
  bool woven = false;  // the whole groups of rows are
};

// Row `row` as in the file. out: [row_bytes]
inline void copy_row(const Matrix &w, uint32_t row, uint8_t *out) {
  if (w.woven && row < w.rows / kWovenRows * kWovenRows) {
    unweave_row(type_traits(w.type), w.data, w.row_bytes, row, out);
  } else {
    std::memcpy(out, w.data + row * w.row_bytes, w.row_bytes);
  }
}

// Storage behind the pointers of a set of weights.
struct TensorStore {
  uint64_t n_params = 0;
  uint64_t bytes = 0;              // of the tensors in their file
  Region memory;                   // what was read, and vectors as F32
  std::unique_ptr<Region[]> maps;  // one per shard; null without use_mmap
};

}  // namespace q35
