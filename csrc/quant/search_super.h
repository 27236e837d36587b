// Searches for super-blocks of 256 values: integer group scales under one half-precision factor.
// First every group on its own (search.h), then the integers nearest to those scales and their
// neighbours, judged by the error they really leave, then the factor again by least squares.
#pragma once

#include "quant/search.h"

namespace q35 {

constexpr uint32_t kSuper = 256;

// Sanitised input of a super-block.
struct SuperInput {
  float x[kSuper];
  float w[kSuper];

  // src: [256], importance: [256] or null.
  SuperInput(const float *src, const float *importance) {
    load_finite(src, kSuper, x);
    load_weights(importance, kSuper, w);
  }
};

inline float clamp_round(float value, float low, float high) {
  return std::fmin(std::fmax(std::nearbyint(value), low), high);
}

// ---- scales only: Q3_K, Q6_K, IQ4_XS ----------------------------------------------------------

// A format's groups: value = d * multiplier[g] * level, multiplier in [kLow, kHigh].
template <int Groups, int Low, int High>
struct SuperScales {
  static constexpr int kGroups = Groups;
  static constexpr uint32_t kSize = kSuper / Groups;
  static constexpr float kLow = Low, kHigh = High;
  uint16_t d;  // a half
  float multiplier[Groups];
};

// Picks the multiplier of one group under factor d from `center` and its `reach` neighbours on
// either side; returns its moments.
template <class Levels, class Scales>
Moments pick_multiplier(const float *x, const float *w, float d, float center, int reach,
                        float *multiplier) {
  float best_gain = 0;
  Moments best{0, 0};
  *multiplier = 0;
  for (int k = -reach; k <= reach; k++) {
    const float trial = clamp_round(center, Scales::kLow, Scales::kHigh) + static_cast<float>(k);
    if (trial < Scales::kLow || trial > Scales::kHigh) continue;
    const float scale = d * trial;
    const Moments m = moments<Levels>(x, w, Scales::kSize, inverse_or_zero(scale));
    const float gain = m.gain_at(scale);
    if (gain > best_gain) {
      best_gain = gain;
      best = m;
      *multiplier = trial;
    }
  }
  return best;
}

// Fills `out` for factor `d`, which it rounds to a half first; centers: [kGroups] wanted scales.
// Returns the gain, and in *refit the factor that suits the picked multipliers and levels best.
template <class Levels, class Scales>
float pick_multipliers(const SuperInput &in, const float *centers, float d, int reach, Scales *out,
                       float *refit) {
  out->d = scale_to_half(d);
  const float stored = half_to_float(out->d);
  const float inverse = inverse_or_zero(stored);
  float gain = 0;
  Moments total{0, 0};
  for (int g = 0; g < Scales::kGroups; g++) {
    const uint32_t at = static_cast<uint32_t>(g) * Scales::kSize;
    const Moments m = pick_multiplier<Levels, Scales>(
        in.x + at, in.w + at, stored, centers[g] * inverse, reach, &out->multiplier[g]);
    gain += m.gain_at(stored * out->multiplier[g]);
    total.xq += out->multiplier[g] * m.xq;
    total.qq += out->multiplier[g] * out->multiplier[g] * m.qq;
  }
  *refit = total.best_scale();
  return gain;
}

// The trial factors send the largest group scale to kLow, kLow + step, ...: `count` of them, each
// followed by a least-squares refit.
template <class Levels, class Scales>
Scales fit_super_scales(const SuperInput &in, const Trials &trials, float step, int count,
                        int reach) {
  float centers[Scales::kGroups];
  float peak = 0;
  for (int g = 0; g < Scales::kGroups; g++) {
    const uint32_t at = static_cast<uint32_t>(g) * Scales::kSize;
    centers[g] = fit_scale<Levels>(in.x + at, in.w + at, Scales::kSize, trials).scale;
    if (std::fabs(centers[g]) > std::fabs(peak)) peak = centers[g];
  }
  Scales best{};
  float best_gain = 0;
  for (int t = 0; t < count; t++) {
    float d = peak / (Scales::kLow + step * static_cast<float>(t));
    for (int pass = 0; pass < 2; pass++) {
      Scales trial;
      const float gain = pick_multipliers<Levels>(in, centers, d, reach, &trial, &d);
      if (gain > best_gain) {
        best_gain = gain;
        best = trial;
      }
    }
  }
  return best;
}

// ---- scales and minimums: Q2_K, Q4_K, Q5_K ----------------------------------------------------

// value = d * scale[g] * level - dmin * min[g]; scale and min in [0, kTop].
template <int Groups, int Top>
struct SuperAffine {
  static constexpr int kGroups = Groups;
  static constexpr uint32_t kSize = kSuper / Groups;
  static constexpr float kTop = Top;
  uint16_t d, dmin;  // halves
  float scale[Groups];
  float min[Groups];
};

// Factors d and dmin with the sums from which least squares refits them.
struct AffineRefit {
  float ss, sm, mm;  // of (scale q)^2, (scale q) min, min^2, weighted
  float sx, mx;      // of (scale q) x, min x

  void add(const AffineMoments &m, float scale, float min) {
    ss += scale * scale * m.qq;
    sm += scale * min * m.q;
    mm += min * min * m.w;
    sx += scale * m.xq;
    mx += min * m.x;
  }

  // Minimises sum(w (x - d scale q + dmin min)^2).
  void solve(float *d, float *dmin) const {
    const float determinant = ss * mm - sm * sm;
    if (determinant > 1e-6f * ss * mm) {
      *d = (mm * sx - sm * mx) / determinant;
      *dmin = (sm * sx - ss * mx) / determinant;
    } else if (ss > 0) {
      *d = sx / ss;
    }
  }
};

struct GroupPick {
  float scale, min, gain;
  AffineMoments moments;
};

// Picks integers for one group under factors d and dmin around the wanted `fit`.
template <class Levels, class Affine>
GroupPick pick_pair(const float *x, const float *w, float d, float dmin, const AffineFit &fit,
                    int reach) {
  const float inverse_d = inverse_or_zero(d), inverse_dmin = inverse_or_zero(dmin);
  const float center = clamp_round(fit.scale * inverse_d, 0, Affine::kTop);
  GroupPick best{};
  best.gain = -1e38f;
  const auto consider = [&](float scale, float min) {
    const float step = d * scale, shift = dmin * min, inverse = inverse_or_zero(step);
    const AffineMoments m = affine_moments<Levels>(x, w, Affine::kSize, inverse, shift * inverse);
    const float gain = m.gain_at(step, shift);
    if (gain > best.gain) best = {scale, min, gain, m};
    return clamp_round(m.best_min(step) * inverse_dmin, 0, Affine::kTop);
  };
  for (int k = -reach; k <= reach; k++) {
    const float scale = center + static_cast<float>(k);
    if (scale < 0 || scale > Affine::kTop) continue;
    // A coarser scale covers the same range from a lower minimum: the middle stays where it is.
    const float middle = 0.5f * Levels::kHigh * (d * scale - fit.scale) + fit.min;
    float min = clamp_round(middle * inverse_dmin, 0, Affine::kTop);
    for (int i = 0; i < 3; i++) {
      const float next = consider(scale, min);
      if (next == min) break;
      min = next;
    }
  }
  return best;
}

// As pick_multipliers; *d and *dmin become the refitted factors.
template <class Levels, class Affine>
float pick_pairs(const SuperInput &in, const AffineFit *fits, int reach, float *d, float *dmin,
                 Affine *out) {
  out->d = scale_to_half(*d);
  out->dmin = scale_to_half(*dmin);
  const float stored_d = half_to_float(out->d), stored_dmin = half_to_float(out->dmin);
  AffineRefit refit{};
  float gain = 0;
  for (int g = 0; g < Affine::kGroups; g++) {
    const uint32_t at = static_cast<uint32_t>(g) * Affine::kSize;
    const GroupPick pick =
        pick_pair<Levels, Affine>(in.x + at, in.w + at, stored_d, stored_dmin, fits[g], reach);
    out->scale[g] = pick.scale;
    out->min[g] = pick.min;
    gain += pick.gain;
    refit.add(pick.moments, pick.scale, pick.min);
  }
  refit.solve(d, dmin);
  return gain;
}

// The trial factors send the largest scale and minimum to kTop, kTop - step, ...
template <class Levels, class Affine>
Affine fit_super_affine(const SuperInput &in, const Trials &trials, float step, int count,
                        int reach) {
  AffineFit fits[Affine::kGroups];
  float top_scale = 0, top_min = 0;
  for (int g = 0; g < Affine::kGroups; g++) {
    const uint32_t at = static_cast<uint32_t>(g) * Affine::kSize;
    fits[g] = fit_affine<Levels>(in.x + at, in.w + at, Affine::kSize, trials, true);
    top_scale = std::fmax(top_scale, fits[g].scale);
    top_min = std::fmax(top_min, fits[g].min);
  }
  Affine best{};
  float best_gain = 0;
  for (int t = 0; t < count; t++) {
    const float top = Affine::kTop - step * static_cast<float>(t);
    float d = top_scale / top, dmin = top_min / top;
    for (int pass = 0; pass < 2; pass++) {
      Affine trial;
      const float gain = pick_pairs<Levels>(in, fits, reach, &d, &dmin, &trial);
      if (gain > best_gain) {
        best_gain = gain;
        best = trial;
      }
    }
  }
  return best;
}

}  // namespace q35
