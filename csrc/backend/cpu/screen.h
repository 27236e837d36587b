// Which rows of a matrix can have the largest products: what a first look (ScreenFn) said of each
// group of 16 rows, and which groups are read whole.
#pragma once

#include "base/array.h"
#include "kernels/kernels.h"
#include "model/matrix.h"

namespace q35 {

class Screen {
 public:
  // More wanted rows than this are not worth a first look.
  static constexpr uint32_t kMostRows = 64;
  // Of more tokens than this a look takes as long as reading all: it is bound by arithmetic then.
  static constexpr uint32_t kMostCols = 2;

  [[nodiscard]] Status reserve(const Matrix &w);
  uint64_t bytes() const;

  // Whether the next call should look; not for a while after looks that did not pay.
  bool worth_it();
  // A look at the first n_groups by n_cols tokens begins. act: [n_cols, k]
  void begin(uint32_t n_groups, uint32_t n_cols, uint32_t k, const ActQ8 &act);

  // What ScreenArgs take.
  const HighBits &bits() const { return bits_; }
  static float sure();
  const int32_t *start() const { return start_.data(); }
  const float *energy() const { return energy_.data(); }
  float *best() { return best_.data(); }    // [n_cols, n_groups]
  float *bound() { return bound_.data(); }  // [n_cols, n_groups]

  // Lists the n groups that should have the largest products with a column.
  void choose_best(uint32_t column, uint32_t n);
  // Lists those that may have one of at least `lowest`.
  void choose_possible(uint32_t column, float lowest);
  const Array<uint32_t> &list() const { return list_; }

  // The n-th largest product of a column in the first `listed` groups of the list, or a smaller
  // one.
  float nth_largest(const float *y, uint32_t listed, uint32_t n);

  // The i-th listed group was read: a column's expected and real products, and deviations, [16].
  void compare(uint32_t i, const float *expected, const float *deviation, const float *real);
  // Whether a row was so far off that others may have been left out wrongly.
  bool suspect();
  // Says what a call took. whole: everything was read after all
  void count(bool whole);
  // Whether so many groups are listed that all may as well be read.
  bool in_vain();

  qwen35_head_stats stats = {};

 private:
  void fit(const Matrix &w);
  float nth_of_ranked(uint32_t count, uint32_t n);

  HighBits bits_ = {};
  int64_t group_bytes_ = 0, look_bytes_ = 0;  // of a group of rows, and of its high bits
  uint32_t n_groups_ = 0;
  Array<int32_t> start_;
  Array<float> energy_, best_, bound_;
  Array<float> ranked_;
  Array<float> off_;       // of each listed group, standard deviations of its worst row
  Array<uint8_t> chosen_;  // [n_groups]
  Array<uint32_t> list_;
  float credit_ = 0;  // what looks have gained lately, in readings of the whole matrix
  uint32_t pause_ = 0, next_pause_ = 1;
};

}  // namespace q35
