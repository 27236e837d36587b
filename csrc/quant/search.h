// Searches for the scales of a group of values; shared by the encoders.
// Everything minimises sum(w * (x - value)^2): trial scales round the values to levels, the scale
// that suits those levels best follows by least squares, and rounding to it again can only help.
// Groups are 16 or 32 values; vectors of 4 lanes keep the sums' order the same on every CPU.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/half.h"
#include "quant/blocks.h"

namespace q35 {

using Vec4 = float __attribute__((vector_size(16)));

inline Vec4 load4(const float *p) {
  Vec4 v;
  std::memcpy(&v, p, 16);
  return v;
}

inline Vec4 splat4(float value) {
  return Vec4{value, value, value, value};
}
inline float sum4(Vec4 v) {
  return (v[0] + v[2]) + (v[1] + v[3]);
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

// NaN becomes low.
inline Vec4 clamp4(Vec4 v, float low, float high) {
  v = v > splat4(low) ? v : splat4(low);
  return v < splat4(high) ? v : splat4(high);
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

// ---- one scale --------------------------------------------------------------------------------

// Sums over a group for the levels q that x takes under some scale.
struct Moments {
  float xq;  // sum(w x q)
  float qq;  // sum(w q q)

  float best_scale() const { return qq > 0 ? xq / qq : 0; }
  // What the best scale takes off sum(w x x).
  float gain() const { return qq > 0 ? xq * xq / qq : 0; }
  // The same for a given scale.
  float gain_at(float scale) const { return scale * (2 * xq - scale * qq); }
};

// x, w: [n]
template <class Levels>
Moments moments(const float *x, const float *w, uint32_t n, float inverse) {
  const Vec4 factor = splat4(inverse);
  Vec4 xq{}, qq{};
  for (uint32_t i = 0; i < n; i += 4) {
    const Vec4 v = load4(x + i);
    const Vec4 q = Levels::nearest(v * factor);
    const Vec4 wq = load4(w + i) * q;
    xq += wq * v;
    qq += wq * q;
  }
  return {sum4(xq), sum4(qq)};
}

// The trial inverse scales send the largest magnitude to `from`, `from + step`, ... of a level
// range.
struct Trials {
  float from, step;
  int count;
};

struct ScaleFit {
  float scale;
  float gain;
};

template <class Levels>
ScaleFit fit_scale(const float *x, const float *w, uint32_t n, const Trials &trials) {
  const float peak = max_magnitude(x, n);
  const float unit = inverse_or_zero(peak);
  ScaleFit best{0, 0};
  const auto consider = [&](float inverse) {
    const Moments m = moments<Levels>(x, w, n, inverse);
    const float gain = m.gain();
    if (!(gain > best.gain)) return false;
    best = {m.best_scale(), gain};
    return true;
  };
  for (int t = 0; t < trials.count; t++) {
    const float reach = (trials.from + trials.step * static_cast<float>(t)) * unit;
    consider(reach);
    consider(-reach);
  }
  for (int i = 0; i < 4 && consider(inverse_or_zero(best.scale)); i++) {
  }
  return best;
}

// ---- scale and minimum ------------------------------------------------------------------------

// value = scale * q - min
struct AffineFit {
  float scale, min;
  float gain;  // what it takes off sum(w x x)
};

// Sums over a group for the levels q that x takes under some scale and minimum.
struct AffineMoments {
  float w, x;       // sum(w), sum(w x)
  float q, qq, xq;  // sum(w q), sum(w q q), sum(w x q)

  float gain_at(float scale, float min) const {
    return 2 * (scale * xq - min * x) - scale * scale * qq + min * (2 * scale * q - min * w);
  }
  // The minimum that suits a scale best.
  float best_min(float scale) const { return (scale * q - x) / w; }

  // The best pair; with `positive_min` the best one whose minimum is not negative.
  AffineFit best(bool positive_min) const {
    const float determinant = w * qq - q * q;
    float scale = determinant > 0 ? (w * xq - x * q) / determinant : 0;
    float min = best_min(scale);
    if (positive_min && min < 0) {
      min = 0;
      scale = qq > 0 ? xq / qq : 0;
    }
    return {scale, min, gain_at(scale, min)};
  }
};

// x, w: [n]; q = nearest(x * inverse + shift)
template <class Levels>
AffineMoments affine_moments(const float *x, const float *w, uint32_t n, float inverse,
                             float shift) {
  const Vec4 factor = splat4(inverse), offset = splat4(shift);
  Vec4 sw{}, sx{}, sq{}, qq{}, xq{};
  for (uint32_t i = 0; i < n; i += 4) {
    const Vec4 v = load4(x + i), wi = load4(w + i);
    const Vec4 q = Levels::nearest(v * factor + offset);
    const Vec4 wq = wi * q;
    sw += wi;
    sx += wi * v;
    sq += wq;
    qq += wq * q;
    xq += wq * v;
  }
  return {sum4(sw), sum4(sx), sum4(sq), sum4(qq), sum4(xq)};
}

// The trial scales send the range of x to `from`, `from + step`, ... levels, each once from the low
// end and once around the middle.
template <class Levels>
AffineFit fit_affine(const float *x, const float *w, uint32_t n, const Trials &trials,
                     bool positive_min) {
  float low = x[0], high = x[0];
  for (uint32_t i = 1; i < n; i++) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  if (positive_min && low > 0) low = 0;
  const float unit = inverse_or_zero(high - low);
  AffineFit best{0, 0, 0};
  const auto consider = [&](float inverse, float shift) {
    const AffineFit fit = affine_moments<Levels>(x, w, n, inverse, shift).best(positive_min);
    if (!(fit.gain > best.gain)) return false;
    best = fit;
    return true;
  };
  for (int t = 0; t < trials.count; t++) {
    const float inverse = (trials.from + trials.step * static_cast<float>(t)) * unit;
    consider(inverse, -low * inverse);
    consider(inverse, 0.5f * (Levels::kHigh - (low + high) * inverse));
  }
  for (int i = 0; i < 4; i++) {
    const float inverse = inverse_or_zero(best.scale);
    if (!consider(inverse, best.min * inverse)) break;
  }
  return best;
}

}  // namespace q35
