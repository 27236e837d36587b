// Slots: the tensors that a configuration implies, each matched with the file's tensor and loaded
// to where it is used. The lists are in tensor_table.cpp (text) and vision_model.cpp.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/array.h"
#include "base/status.h"
#include "gguf/gguf.h"
#include "model/matrix.h"

namespace q35 {

class ThreadPool;

// Exactly one of `matrix` and `vector` is set: where the loaded tensor is to be bound.
struct TensorSlot {
  char name[64];
  uint64_t ne[4];        // as in the file, fastest dimension first
  uint64_t rows;         // 1 for vectors
  uint64_t cols;         // contiguous values
  Matrix *matrix;        // any tensor type whose blocks divide cols
  const float **vector;  // F32, F16 or BF16 in the file, F32 in memory
  bool never_positive;   // of a vector: every value must be <= 0
  const gguf::TensorInfo *info;
};

// Finds every slot's tensor and refuses wrong shapes and types, then tensors that no slot has
// claimed and that `ignored` does not know. what: e.g. "a qwen35 model", for messages.
[[nodiscard]] Status match_slots(const gguf::File &file, const char *what,
                                 bool (*ignored)(std::string_view), Array<TensorSlot> *slots);

// Loads matched slots. Nothing is allocated before; 64 bytes behind every matrix may be read: they
// belong to the process. use_mmap keeps the file mapped: it must not be cut short while in use.
// weave: by DType number, how matrices that are not mapped are woven; null entries are not. pool
// may be null.
[[nodiscard]] Status load_slots(const gguf::File &file, const Array<TensorSlot> &slots,
                                bool use_mmap, const WeaveFn *weave, ThreadPool *pool,
                                TensorStore *out);

}  // namespace q35
