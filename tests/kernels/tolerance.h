// How far the float results of two correct kernels may lie apart.
//
// A sum of n products in floats, in any order and with or without fused multiply-adds, differs from
// the exact one by at most g(n) * sum |a||b|, g(n) = n u / (1 - n u), u = 2^-24 (Higham, Accuracy
// and Stability of Numerical Algorithms, section 3.1).
#pragma once

#include <cmath>
#include <cstdint>

namespace q35 {

constexpr double kUnit = 1.0 / (1 << 24);

// magnitude: the sum of the absolute values of the terms; roundings: the most on any term's path.
inline double sum_bound(double magnitude, uint32_t roundings) {
  const double nu = roundings * kUnit;
  return nu / (1 - nu) * magnitude;
}

// Integer products: a term is scale * d * dot - min * s. dot is exact; each term takes at most 8
// roundings (scale 2, d, their product, the dot's, s and its pair sum, the difference) and one per
// addition: at most two per group, plus 8 levels of a sum across lanes.
inline double dot_bound(double magnitude, uint32_t groups) {
  return sum_bound(magnitude, 2 * groups + 16);
}

}  // namespace q35
