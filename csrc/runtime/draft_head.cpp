#include "runtime/draft_head.h"

#include <algorithm>
#include <cmath>

#include "kernels/kernels.h"

namespace q35 {

Status DraftHead::init(const Matrix &output, uint32_t n_first) {
  constexpr uint64_t kGuard = 64;  // bytes behind a matrix that kernels may read
  first_ = used_ = output;
  all_ = output;
  first_.rows = std::min(n_first, output.rows) / 16 * 16;
  used_.rows = 0;
  used_.woven = false;
  uint64_t logits = first_.rows;
  if (first_.rows < output.rows) {
    Q35_TRY(copies_.resize(kUsed * output.row_bytes + kGuard));
    Q35_TRY(ids_.reserve(kUsed));
    Q35_TRY(known_.resize(output.rows));
    used_.data = copies_.data();
    logits += kUsed;
  }
  return logits_.resize((logits + 15) / 16 * 16);
}

void DraftHead::use(int32_t token) {
  if (token < 0) return;
  const uint32_t id = static_cast<uint32_t>(token);
  if (id < first_.rows || id >= known_.size() || known_[id]) return;
  known_[id] = 1;
  if (ids_.size() < kUsed) {
    next_ = static_cast<uint32_t>(ids_.size());
    ids_.truncate(ids_.size() + 1);  // init() reserved it
  } else {
    next_ = (next_ + 1) % kUsed;
    known_[ids_[next_]] = 0;
  }
  ids_[next_] = token;
  copy_row(all_, id, copies_.data() + next_ * used_.row_bytes);
  used_.rows = static_cast<uint32_t>(ids_.size());
}

int32_t DraftHead::best(const Kernels &kernels, Backend *backend, const float *state, float *p) {
  const uint32_t n = first_.rows + used_.rows, whole = (n + 15) / 16 * 16;
  const LinearJob jobs[] = {{&first_, logits_.data(), first_.rows},
                            {&used_, logits_.data() + first_.rows, used_.rows}};
  backend->linear(state, 1, first_.cols, jobs, used_.rows != 0 ? 2 : 1);
  std::fill(logits_.data() + n, logits_.data() + whole, -INFINITY);
  const float *at = std::max_element(logits_.data(), logits_.data() + n);
  const uint32_t row = static_cast<uint32_t>(at - logits_.data());
  float max = -INFINITY, sum = 0;
  kernels.softmax_step(logits_.data(), whole, &max, &sum);
  *p = 1.0f / sum;
  return row < first_.rows ? static_cast<int32_t>(row) : ids_[row - first_.rows];
}

uint64_t DraftHead::bytes() const {
  return copies_.size() + known_.size() + 4 * (ids_.size() + logits_.size());
}

}  // namespace q35
