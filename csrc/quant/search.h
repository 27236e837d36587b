// Searches for the scales of a group of values; shared by the encoders.
#pragma once

#include <cmath>
#include <cstdint>

#include "base/half.h"

namespace q35 {

// Values beyond this saturate: no format reaches it (Q6_K: 65504 * 128 * 32 < 2^28), and sums of a
// block's squares stay finite.
constexpr float kLargestValue = 268435456.0f;

// x: [n] src with everything that is not finite as 0 and magnitudes limited to kLargestValue.
inline void load_finite(const float *src, uint32_t n, float *x) {
  for (uint32_t i = 0; i < n; i++) {
    const float magnitude = std::fabs(src[i]);
    const float limited = magnitude < kLargestValue ? src[i] : std::copysign(kLargestValue, src[i]);
    x[i] = magnitude <= 3.4028234663852886e38f ? limited : 0.0f;  // the largest finite float
  }
}

inline float max_magnitude(const float *x, uint32_t n) {
  float largest = 0;
  for (uint32_t i = 0; i < n; i++) largest = std::fabs(x[i]) > largest ? std::fabs(x[i]) : largest;
  return largest;
}

// Scales saturate at the largest half instead of becoming infinite.
inline uint16_t scale_to_half(float scale) {
  return float_to_half(std::fmin(std::fmax(scale, -65504.0f), 65504.0f));
}

}  // namespace q35
