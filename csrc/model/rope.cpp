#include "model/rope.h"

#include <cmath>

namespace q35 {

namespace {
constexpr double kPi = 3.14159265358979323846;

// The dimension pair whose wavelength makes `turns` turns over the original context (YaRN,
// arXiv 2309.00071, section 3.2).
double pair_with_turns(const Config &c, double turns) {
  return c.n_rot * std::log(c.rope_original_ctx / (turns * 2 * kPi)) /
         (2 * std::log(static_cast<double>(c.rope_base)));
}
}  // namespace

Status Rope::init(const Config &c) {
  const uint32_t pairs = c.n_rot / 2;
  Q35_TRY(frequency_.resize(pairs));
  Q35_TRY(axis_.resize(pairs));
  for (uint32_t j = 0; j < pairs; j++) {
    frequency_[j] = std::pow(static_cast<double>(c.rope_base), -2.0 * j / c.n_rot);
    // Time, height and width take turns until the sections of height and width are used up.
    const bool height = j % 3 == 1 && j < 3 * c.rope_sections[1];
    const bool width = j % 3 == 2 && j < 3 * c.rope_sections[2];
    axis_[j] = height ? kHeight : width ? kWidth : kTime;
  }
  if (c.rope_scaling == RopeScaling::None) return kOk;
  // Fast pairs (32 turns and more) keep their frequency, slow ones (one turn or less) are divided
  // by the factor, with a linear ramp between; 32 and 1 are the defaults of the method.
  const double low = std::fmax(std::floor(pair_with_turns(c, 32.0)), 0.0);
  double high = std::fmin(std::ceil(pair_with_turns(c, 1.0)), pairs - 1.0);
  if (high <= low) high = low + 0.001;
  for (uint32_t j = 0; j < pairs; j++) {
    const double ramp = std::fmin(std::fmax((j - low) / (high - low), 0.0), 1.0);
    frequency_[j] *= (1.0 - ramp) + ramp / c.rope_factor;
  }
  amplitude_ = 0.1 * std::log(static_cast<double>(c.rope_factor)) + 1.0;
  return kOk;
}

void Rope::fill_text(uint32_t first, uint32_t n, float *cos, float *sin) const {
  const size_t pairs = frequency_.size();
  for (uint64_t t = 0; t < n; t++) {
    for (size_t j = 0; j < pairs; j++) {
      const double angle = static_cast<double>(first + t) * frequency_[j];
      cos[t * pairs + j] = static_cast<float>(amplitude_ * std::cos(angle));
      sin[t * pairs + j] = static_cast<float>(amplitude_ * std::sin(angle));
    }
  }
}

void Rope::fill_picture(uint32_t start, uint32_t columns, uint32_t first, uint32_t n, float *cos,
                        float *sin) const {
  const size_t pairs = frequency_.size();
  for (uint64_t t = 0; t < n; t++) {
    const uint32_t cell = first + static_cast<uint32_t>(t);
    const uint32_t offset[3] = {0, cell / columns, cell % columns};
    for (size_t j = 0; j < pairs; j++) {
      const double angle = (static_cast<double>(start) + offset[axis_[j]]) * frequency_[j];
      cos[t * pairs + j] = static_cast<float>(amplitude_ * std::cos(angle));
      sin[t * pairs + j] = static_cast<float>(amplitude_ * std::sin(angle));
    }
  }
}

}  // namespace q35
