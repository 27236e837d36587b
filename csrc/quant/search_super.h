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
  bool weighted;

  // src: [256], importance: [256] or null.
  SuperInput(const float *src, const float *importance) : weighted(importance != nullptr) {
    load_finite(src, kSuper, x);
    load_weights(importance, kSuper, w);
  }
};

// Four neighbouring integers around `center`, two on either side, inside [low, high].
inline Vec4 neighbours4(float center, float low, float high) {
  const float limited = std::fmin(std::fmax(center, low), high);
  return clamp4(ramp4(std::floor(limited) - 1, 1), low, high);
}

inline Vec4 inverse_or_zero4(Vec4 v) {
  return Vec4{inverse_or_zero(v[0]), inverse_or_zero(v[1]), inverse_or_zero(v[2]),
              inverse_or_zero(v[3])};
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

// What one group adds to a super-block's sums, and its multiplier.
struct ScalePick {
  float multiplier, gain;
  float xq, qq;
};

// Picks the multiplier of one group under factor d from the neighbours of `center`.
template <class Levels, class Scales>
ScalePick pick_multiplier(const float *x, const float *w, float d, float center) {
  const Vec4 multiplier = neighbours4(center, Scales::kLow, Scales::kHigh);
  const Vec4 scale = splat4(d) * multiplier;
  Moments4 m[1];
  sum_moments<Levels>(x, w, Scales::kSize, {inverse_or_zero4(scale)}, m);
  const Vec4 gain = m[0].gain_at(scale);
  ScalePick best{0, 0, 0, 0};
  for (int k = 0; k < 4; k++) {
    if (gain[k] > best.gain) best = {multiplier[k], gain[k], m[0].xq[k], m[0].qq[k]};
  }
  return best;
}

// Fills `out` for factor *d, rounded to a half; centers: [kGroups] wanted scales. Returns the gain;
// *d becomes the factor that suits the picked multipliers and levels best.
template <class Levels, class Scales>
float pick_multipliers(const SuperInput &in, const float *centers, float *d, Scales *out) {
  out->d = scale_to_half(*d);
  const float stored = half_to_float(out->d);
  const float inverse = inverse_or_zero(stored);
  float gain = 0, xq = 0, qq = 0;
  for (int g = 0; g < Scales::kGroups; g++) {
    const uint32_t at = static_cast<uint32_t>(g) * Scales::kSize;
    const ScalePick pick =
        pick_multiplier<Levels, Scales>(in.x + at, in.w + at, stored, centers[g] * inverse);
    out->multiplier[g] = pick.multiplier;
    gain += pick.gain;
    xq += pick.multiplier * pick.xq;
    qq += pick.multiplier * pick.multiplier * pick.qq;
  }
  *d = qq > 0 ? xq / qq : 0;
  return gain;
}

// The trial factors send the largest group scale to kLow, kLow + 1, ...: `count` of them, each
// refitted once.
template <class Levels, class Scales>
Scales fit_super_scales(const SuperInput &in, const Trials &trials, int count) {
  float centers[Scales::kGroups];
  float peak = 0;
  for (int g = 0; g < Scales::kGroups; g++) {
    const uint32_t at = static_cast<uint32_t>(g) * Scales::kSize;
    centers[g] = fit_scale<Levels>(in.x + at, in.w + at, Scales::kSize, trials, in.weighted).scale;
    if (std::fabs(centers[g]) > std::fabs(peak)) peak = centers[g];
  }
  Scales best{};
  float best_gain = 0;
  for (int t = 0; t < count; t++) {
    float d = peak / (Scales::kLow + static_cast<float>(t));
    for (int pass = 0; pass < 2; pass++) {
      Scales trial;
      const float gain = pick_multipliers<Levels>(in, centers, &d, &trial);
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

// One group's integers and sums.
struct PairPick {
  float scale, min, gain;
  float w, x, q, qq, xq;
};

// Sums from which least squares refits d and dmin.
struct AffineRefit {
  float ss, sm, mm;  // of (scale q)^2, (scale q) min, min^2, weighted
  float sx, mx;      // of (scale q) x, min x

  void add(const PairPick &pick) {
    ss += pick.scale * pick.scale * pick.qq;
    sm += pick.scale * pick.min * pick.q;
    mm += pick.min * pick.min * pick.w;
    sx += pick.scale * pick.xq;
    mx += pick.min * pick.x;
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

// Picks integers for one group under factors d and dmin around the wanted `fit`.
template <class Levels, class Affine>
PairPick pick_pair(const float *x, const float *w, float d, float dmin, const AffineFit &fit) {
  const Vec4 inverse_dmin = splat4(inverse_or_zero(dmin));
  const Vec4 integer = neighbours4(fit.scale * inverse_or_zero(d), 0, Affine::kTop);
  const Vec4 scale = splat4(d) * integer, inverse = inverse_or_zero4(scale);
  // A coarser scale covers the same range from a lower minimum: the middle stays where it is.
  Vec4 wanted = splat4(0.5f * Levels::kHigh) * (scale - splat4(fit.scale)) + splat4(fit.min);
  PairPick best{};
  best.gain = -1e38f;
  for (int round = 0; round < 2; round++) {
    // Both integers next to the wanted minimum, which the levels of the first then improve.
    const Vec4 lower = clamp4(round4(clamp4(wanted * inverse_dmin, 0, Affine::kTop) - splat4(0.5f)),
                              0, Affine::kTop);
    const Vec4 mins[2] = {lower, clamp4(lower + splat4(1), 0, Affine::kTop)};
    const Vec4 shifts[2] = {splat4(dmin) * mins[0], splat4(dmin) * mins[1]};
    AffineMoments4 m[2];
    sum_affine_moments<Levels>(x, w, Affine::kSize, {inverse, inverse},
                               {shifts[0] * inverse, shifts[1] * inverse}, m);
    for (int s = 0; s < 2; s++) {
      const Vec4 gain = m[s].gain_at(scale, shifts[s]);
      for (int k = 0; k < 4; k++) {
        if (!(gain[k] > best.gain)) continue;
        best = {integer[k], mins[s][k], gain[k],    m[s].w[k],
                m[s].x[k],  m[s].q[k],  m[s].qq[k], m[s].xq[k]};
      }
    }
    wanted = m[0].best_min(scale);
  }
  return best;
}

// As pick_multipliers; *d and *dmin become the refitted factors. fits: [kGroups]
template <class Levels, class Affine>
float pick_pairs(const SuperInput &in, const AffineFit *fits, float *d, float *dmin, Affine *out) {
  out->d = scale_to_half(*d);
  out->dmin = scale_to_half(*dmin);
  const float stored_d = half_to_float(out->d), stored_dmin = half_to_float(out->dmin);
  AffineRefit refit{};
  float gain = 0;
  for (int g = 0; g < Affine::kGroups; g++) {
    const uint32_t at = static_cast<uint32_t>(g) * Affine::kSize;
    const PairPick pick =
        pick_pair<Levels, Affine>(in.x + at, in.w + at, stored_d, stored_dmin, fits[g]);
    out->scale[g] = pick.scale;
    out->min[g] = pick.min;
    gain += pick.gain;
    refit.add(pick);
  }
  refit.solve(d, dmin);
  return gain;
}

// The trial factors send the largest scale and minimum to kTop, kTop - 1, ...: `count` of them.
template <class Levels, class Affine>
Affine fit_super_affine(const SuperInput &in, const Trials &trials, int count) {
  AffineFit fits[Affine::kGroups];
  float top_scale = 0, top_min = 0;
  for (int g = 0; g < Affine::kGroups; g++) {
    const uint32_t at = static_cast<uint32_t>(g) * Affine::kSize;
    fits[g] = fit_affine<Levels>(in.x + at, in.w + at, Affine::kSize, trials, in.weighted, true);
    top_scale = std::fmax(top_scale, fits[g].scale);
    top_min = std::fmax(top_min, fits[g].min);
  }
  Affine best{};
  float best_gain = 0;
  for (int t = 0; t < count; t++) {
    const float top = Affine::kTop - static_cast<float>(t);
    float d = top_scale / top, dmin = top_min / top;
    for (int pass = 0; pass < 2; pass++) {
      Affine trial;
      const float gain = pick_pairs<Levels>(in, fits, &d, &dmin, &trial);
      if (gain > best_gain) {
        best_gain = gain;
        best = trial;
      }
    }
  }
  return best;
}

}  // namespace q35
