// Searches for the scales of a group of values; shared by the encoders.
// Everything minimises sum(w * (x - value)^2): trial scales round the values to levels, the scale
// that suits those levels best follows by least squares, and rounding to it again can only help.
// Four trials run side by side, one per vector lane, so sums add up in the same order on every CPU.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/half.h"
#include "quant/blocks.h"

namespace q35 {

using Vec4 = float __attribute__((vector_size(16)));

inline Vec4 splat4(float value) {
  return Vec4{value, value, value, value};
}

// first, first + step, ...
inline Vec4 ramp4(float first, float step) {
  return Vec4{first, first + step, first + 2 * step, first + 3 * step};
}

// ---- input ------------------------------------------------------------------------------------

// Values beyond this saturate: no format reaches it (Q6_K: 65504 * 128 * 32 < 2^28), and sums of a
// block's squares stay finite.
constexpr float kLargestValue = 268435456.0f;
// Importance is scaled to a largest of 1 and kept above this, so that values nobody needs still get
// sensible levels and no sum of weights is 0.
constexpr float kLeastWeight = 1e-6f;

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

// w: [n] weights for the search, from importance [n] or null (all equal).
inline void load_weights(const float *importance, uint32_t n, float *w) {
  float largest = 0;
  if (importance != nullptr) {
    load_finite(importance, n, w);
    for (uint32_t i = 0; i < n; i++) largest = w[i] > largest ? w[i] : largest;
  }
  for (uint32_t i = 0; i < n; i++) {
    const float scaled = largest > 0 ? w[i] / largest : 1.0f;
    w[i] = scaled > kLeastWeight ? scaled : kLeastWeight;
  }
}

// Scales saturate at the largest half instead of becoming infinite.
inline uint16_t scale_to_half(float scale) {
  return float_to_half(std::fmin(std::fmax(scale, -65504.0f), 65504.0f));
}

// Lanes of a / b, 0 where b is not positive.
inline Vec4 divide_positive4(Vec4 a, Vec4 b) {
  return b > splat4(0) ? a / b : splat4(0);
}

inline float inverse_or_zero(float value) {
  const float inverse = 1 / value;
  return std::isfinite(inverse) ? inverse : 0.0f;
}

// ---- levels: what a value divided by its scale may become -------------------------------------

// The nearest integer for |v| < 2^22, ties to even: the sum's last mantissa bit is worth 1.
inline Vec4 round4(Vec4 v) {
  const Vec4 magic = splat4(12582912.0f);  // 1.5 * 2^23
  return (v + magic) - magic;
}

// The lanes of a where they are greater (less) than b's, else b's, so that a NaN in a is dropped.
#if defined(__SSE2__)
// What the expressions below mean; gcc 12 would spell out compare and blend.
inline Vec4 max4(Vec4 a, Vec4 b) {
  return __builtin_ia32_maxps(a, b);
}
inline Vec4 min4(Vec4 a, Vec4 b) {
  return __builtin_ia32_minps(a, b);
}
#else
inline Vec4 max4(Vec4 a, Vec4 b) {
  return a > b ? a : b;
}
inline Vec4 min4(Vec4 a, Vec4 b) {
  return a < b ? a : b;
}
#endif

inline Vec4 clamp4(Vec4 v, float low, float high) {
  return min4(max4(v, splat4(low)), splat4(high));
}

// The integers low .. high.
template <int Low, int High>
struct IntegerLevels {
  static constexpr float kLow = Low, kHigh = High;
  static Vec4 nearest(Vec4 v) { return round4(clamp4(v, Low, High)); }
};

// Nearest level of the IQ4 codebook by twice the value, so that the midpoints (multiples of 1/2)
// are cell borders: entry i is the level's number for values in [(i - 256) / 2, (i - 255) / 2).
struct CodebookCells {
  uint8_t number[512];
};

constexpr CodebookCells codebook_cells() {
  CodebookCells cells{};
  int number = 0;
  for (int i = 0; i < 512; i++) {
    while (number < 15 && i - 256 >= kIq4Values[number] + kIq4Values[number + 1]) number++;
    cells.number[i] = static_cast<uint8_t>(number);
  }
  return cells;
}

struct Iq4Levels {
  static constexpr float kLow = -127, kHigh = 113;
  static constexpr CodebookCells kCells = codebook_cells();
  static int number(float v) { return kCells.number[static_cast<int>(v * 2 + 256.0f)]; }
  // out: [n] level numbers of x * inverse.
  static void numbers(const float *x, uint32_t n, float inverse, uint8_t *out) {
    for (uint32_t i = 0; i < n; i++) {
      const float v = std::fmin(std::fmax(x[i] * inverse, -127.0f), 127.0f);
      out[i] = static_cast<uint8_t>(number(v));
    }
  }
  static Vec4 nearest(Vec4 v) {
    v = clamp4(v, -127, 127);
    return Vec4{
        static_cast<float>(kIq4Values[number(v[0])]), static_cast<float>(kIq4Values[number(v[1])]),
        static_cast<float>(kIq4Values[number(v[2])]), static_cast<float>(kIq4Values[number(v[3])])};
  }
};

// number: [n] level numbers (0 for Levels::kLow) of the levels nearest to (x + min) / scale.
template <class Levels>
inline void number_levels(const float *x, uint32_t n, float scale, float min, uint8_t *number) {
  const float inverse = inverse_or_zero(scale);
  for (uint32_t i = 0; i < n; i += 4) {
    const Vec4 x4{x[i], x[i + 1], x[i + 2], x[i + 3]};
    const Vec4 q = Levels::nearest(x4 * splat4(inverse) + splat4(min * inverse));
    for (int k = 0; k < 4; k++) number[i + k] = static_cast<uint8_t>(q[k] - Levels::kLow);
  }
}

// ---- one scale --------------------------------------------------------------------------------

// The trial inverse scales send the largest magnitude to `from`, `from + step`, ... of a level
// range: `count` of them, a multiple of 4. With importance the best scale may cut off large values
// that matter little, so that then `weighted_count` are tried.
struct Trials {
  float from, step;
  int count, weighted_count;
};

// Sums over a group for the levels q that x takes under four trial scales.
struct Moments4 {
  Vec4 xq;  // sum(w x q)
  Vec4 qq;  // sum(w q q)

  Vec4 best_scale() const { return divide_positive4(xq, qq); }
  // What a scale takes off sum(w x x).
  Vec4 gain_at(Vec4 scale) const { return scale * (splat4(2) * xq - scale * qq); }
};

// Gains that differ by less are rounding noise. Sticking to the first makes groups of nearly equal
// values agree on a scale.
constexpr float kClearlyMore = 1 + 1e-6f;

// The best scale so far.
struct ScaleFit {
  float scale, gain;

  // Takes the best of four when it is better; returns whether it was.
  bool keep(Vec4 scales, Vec4 gains) {
    bool kept = false;
    for (int k = 0; k < 4; k++) {
      if (!(gains[k] > gain * kClearlyMore)) continue;
      scale = scales[k];
      gain = gains[k];
      kept = true;
    }
    return kept;
  }
};

// x, w: [n]; m: the sums for each of the K sets of four inverse scales.
template <class Levels, int K>
void sum_moments(const float *x, const float *w, uint32_t n, const Vec4 (&inverse)[K],
                 Moments4 (&m)[K]) {
  for (int k = 0; k < K; k++) m[k] = Moments4{};
  for (uint32_t i = 0; i < n; i++) {
    const Vec4 xi = splat4(x[i]), wi = splat4(w[i]), wx = wi * xi;
    for (int k = 0; k < K; k++) {
      const Vec4 q = Levels::nearest(xi * inverse[k]);
      m[k].xq += wx * q;
      m[k].qq += wi * (q * q);
    }
  }
}

// x, w: [n]; weighted: w is not all 1.
template <class Levels>
ScaleFit fit_scale(const float *x, const float *w, uint32_t n, const Trials &trials,
                   bool weighted) {
  ScaleFit best{0, 0};
  const auto consider = [&](const Vec4(&inverse)[2]) {
    Moments4 m[2];
    sum_moments<Levels>(x, w, n, inverse, m);
    const Vec4 first = m[0].best_scale(), second = m[1].best_scale();
    const bool kept = best.keep(first, m[0].gain_at(first));
    return best.keep(second, m[1].gain_at(second)) || kept;
  };
  const float unit = inverse_or_zero(max_magnitude(x, n));
  const int count = weighted ? trials.weighted_count : trials.count;
  for (int t = 0; t < count; t += 4) {
    const float first = trials.from + trials.step * static_cast<float>(t);
    const Vec4 inverse = ramp4(first, trials.step) * splat4(unit);
    // Levels reach further on one side; which one suits the largest value is open.
    consider({inverse, -inverse});
  }
  for (int i = 0; i < 3; i++) {
    // Rounding to the best scale itself, and to scales a little beside it.
    const Vec4 inverse = splat4(inverse_or_zero(best.scale));
    if (!consider({inverse * ramp4(0.991f, 0.003f), inverse * ramp4(1.003f, 0.003f)})) break;
  }
  return best;
}

// ---- scale and minimum ------------------------------------------------------------------------

// value = scale * q - min
struct AffineFit {
  float scale, min;
  float gain;  // what it takes off sum(w x x)

  bool keep(Vec4 scales, Vec4 mins, Vec4 gains) {
    bool kept = false;
    for (int k = 0; k < 4; k++) {
      if (!(gains[k] > gain)) continue;
      *this = {scales[k], mins[k], gains[k]};
      kept = true;
    }
    return kept;
  }
};

// Sums over a group for the levels q that x takes under four trial scales and minimums.
struct AffineMoments4 {
  Vec4 w, x;       // sum(w), sum(w x): the same in every lane
  Vec4 q, qq, xq;  // sum(w q), sum(w q q), sum(w x q)

  Vec4 gain_at(Vec4 scale, Vec4 min) const {
    const Vec4 two = splat4(2);
    return scale * (two * (xq + min * q) - scale * qq) - min * (two * x + min * w);
  }
  // The minimum that suits a scale best.
  Vec4 best_min(Vec4 scale) const { return (scale * q - x) / w; }

  // The best pair; with `positive_min` the best one whose minimum is not negative.
  void best(bool positive_min, Vec4 *scale, Vec4 *min) const {
    const Vec4 zero = splat4(0);
    const Vec4 determinant = w * qq - q * q;
    // All values on one level leave only rounding noise in the determinant.
    *scale = determinant > splat4(1e-6f) * w * qq ? (w * xq - x * q) / determinant : zero;
    *min = best_min(*scale);
    if (positive_min) {
      *scale = *min < zero ? divide_positive4(xq, qq) : *scale;
      *min = *min < zero ? zero : *min;
    }
  }
};

// x, w: [n]; m: the sums for q = nearest(x * inverse + shift) for each of the K sets of four.
template <class Levels, int K>
void sum_affine_moments(const float *x, const float *w, uint32_t n, const Vec4 (&inverse)[K],
                        const Vec4 (&shift)[K], AffineMoments4 (&m)[K]) {
  Vec4 sum_w{}, sum_x{};
  for (int k = 0; k < K; k++) m[k] = AffineMoments4{};
  for (uint32_t i = 0; i < n; i++) {
    const Vec4 xi = splat4(x[i]), wi = splat4(w[i]), wx = wi * xi;
    sum_w += wi;
    sum_x += wx;
    for (int k = 0; k < K; k++) {
      const Vec4 q = Levels::nearest(xi * inverse[k] + shift[k]);
      const Vec4 wq = wi * q;
      m[k].q += wq;
      m[k].qq += wq * q;
      m[k].xq += wx * q;
    }
  }
  for (int k = 0; k < K; k++) {
    m[k].w = sum_w;
    m[k].x = sum_x;
  }
}

// The trial scales send the range of x to `from`, `from + step`, ... levels, each once from the low
// end and once around the middle.
template <class Levels>
AffineFit fit_affine(const float *x, const float *w, uint32_t n, const Trials &trials,
                     bool weighted, bool positive_min) {
  AffineFit best{0, 0, 0};
  const auto consider = [&](const Vec4(&inverse)[2], const Vec4(&shift)[2]) {
    AffineMoments4 m[2];
    sum_affine_moments<Levels>(x, w, n, inverse, shift, m);
    bool kept = false;
    for (const AffineMoments4 &sums : m) {
      Vec4 scale, min;
      sums.best(positive_min, &scale, &min);
      if (best.keep(scale, min, sums.gain_at(scale, min))) kept = true;
    }
    return kept;
  };
  float low = x[0], high = x[0];
  for (uint32_t i = 1; i < n; i++) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  if (positive_min && low > 0) low = 0;
  const float unit = inverse_or_zero(high - low);
  const int count = weighted ? trials.weighted_count : trials.count;
  for (int t = 0; t < count; t += 4) {
    const float first = trials.from + trials.step * static_cast<float>(t);
    const Vec4 inverse = ramp4(first, trials.step) * splat4(unit);
    const Vec4 middle = splat4(0.5f) * (splat4(Levels::kHigh) - splat4(low + high) * inverse);
    consider({inverse, inverse}, {splat4(-low) * inverse, middle});
  }
  for (int i = 0; i < 3; i++) {
    // Rounding to the best pair itself, and with scale and minimum a little beside it.
    const Vec4 inverse = splat4(inverse_or_zero(best.scale));
    const Vec4 shift = splat4(best.min) * inverse;
    if (!consider({inverse, inverse * splat4(1.006f)},
                  {shift + ramp4(-0.15f, 0.15f), shift + ramp4(-0.3f, 0.15f)})) {
      break;
    }
  }
  return best;
}

}  // namespace q35
