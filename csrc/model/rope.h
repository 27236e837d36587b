// Rotary position embedding: frequencies of the file, YaRN scaling, and the cosines of a batch.
#pragma once

#include <cstdint>

#include "base/array.h"
#include "base/status.h"
#include "model/config.h"

namespace q35 {

class Rope {
 public:
  [[nodiscard]] Status init(const Config &config);
  // cos, sin: [n, n_rot / 2] for text positions first .. first + n - 1, which are the same on the
  // three axes (time, height, width), so that the interleaved sections do not matter.
  void fill_text(uint32_t first, uint32_t n, float *cos, float *sin) const;
  // The same for cells first .. first + n - 1 of a picture that starts at position `start` and has
  // `columns` columns: they share their time, and differ in height and width.
  void fill_picture(uint32_t start, uint32_t columns, uint32_t first, uint32_t n, float *cos,
                    float *sin) const;

 private:
  enum Axis : uint8_t { kTime, kHeight, kWidth };

  Array<double> frequency_;  // [n_rot / 2] radians per position
  Array<Axis> axis_;         // [n_rot / 2] which of a token's three positions turns the pair
  double amplitude_ = 1.0;   // YaRN's attention factor, applied to cos and sin
};

}  // namespace q35
