// DraftHead: the output matrix reduced to the ids that are likely to be drafted: the first of the
// file's order, which is that of the tokenizer's merges, and those that the text has used. A draft
// outside of it is never made, which costs speed and nothing else.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "base/array.h"
#include "base/status.h"
#include "model/matrix.h"

namespace q35 {

struct Kernels;

class DraftHead {
 public:
  // n_first: ids of the file's order that it begins with.
  [[nodiscard]] Status init(const Matrix &output, uint32_t n_first);
  // The text uses `token`. The oldest of these make room for new ones.
  void use(int32_t token);
  // The most likely id for a final state [n_embd] and its probability among those of the head.
  int32_t best(const Kernels &kernels, Backend *backend, const float *state, float *p);

  uint64_t bytes() const;

 private:
  static constexpr uint32_t kUsed = 2048;  // rows for ids of the text

  Matrix all_, first_, used_;
  Array<uint8_t> copies_;  // [kUsed, row_bytes], and what kernels may read behind them
  Array<int32_t> ids_;     // [used] of the copies
  Array<uint8_t> known_;   // [rows of the matrix] 1: among the copies
  uint32_t next_ = 0;      // copy to replace
  Array<float> logits_;    // of both parts
};

}  // namespace q35
