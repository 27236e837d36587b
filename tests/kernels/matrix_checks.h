// Checks of the matrix kernels of one tier against exact sums and against the scalar tier.
#pragma once

#include <algorithm>

#include "matrix_data.h"
#include "report.h"
#include "tolerance.h"

namespace q35 {

constexpr float kCanary = 1234.5f;

// Exact products (in double) of the decoded weights with the dequantised or float activations, and
// the sums of magnitudes that bound the error of any float evaluation.
struct Exact {
  Guarded<double> y, magnitude;  // [n, rows]
  Exact(const Matrix &m, const Tokens &x)
      : y(size_t{x.n} * m.rows), magnitude(size_t{x.n} * m.rows) {
    Guarded<float> w(m.k);
    Guarded<int8_t> q(m.k);
    Guarded<float> scale(m.k), min(m.k);
    const bool integer = m.type.group != 0;
    for (uint32_t r = 0; r < m.rows; r++) {
      const uint8_t *row = m.w.data() + r * m.row_bytes;
      m.type.decode(row, w.data(), m.k);
      if (integer) m.type.unpack(row, q.data(), scale.data(), min.data(), m.k);
      for (uint32_t t = 0; t < x.n; t++) {
        double sum = 0, size = 0;
        for (uint32_t i = 0; i < m.k; i++) {
          const size_t at = size_t{t} * m.k + i;
          const double v = integer ? double{x.d[at / 32]} * x.q[at] : double{x.x[at]};
          const uint32_t g = integer ? i / m.type.group : 0;
          sum += double{w[i]} * v;
          size += std::fabs(integer ? double{scale[g]} * q[i] : double{w[i]}) * std::fabs(v);
          if (integer && m.type.has_min) size += std::fabs(double{min[g]} * v);
        }
        y[size_t{t} * m.rows + r] = sum;
        magnitude[size_t{t} * m.rows + r] = size;
      }
    }
  }
};

// Output [n, rows] with a stride and canaries in the gaps and at both ends.
struct Output {
  uint32_t rows, n;
  uint64_t stride;
  Guarded<float> all;
  Output(uint32_t n_rows, uint32_t count)
      : rows(n_rows), n(count), stride(n_rows + 3), all(16 + count * stride) {
    for (size_t i = 0; i < all.size(); i++) all[i] = kCanary;
  }
  float *data() { return all.data() + 16; }
  bool intact() const {
    for (size_t i = 0; i < all.size(); i++) {
      const bool inside = i >= 16 && (i - 16) % stride < rows;
      if (!inside && all[i] != kCanary) return false;
    }
    return true;
  }
};

// Tokens [first, first + n) of x, in one call.
inline void run_gemv_part(const Kernels &kernels, const Matrix &m, const Tokens &x, uint32_t first,
                          uint32_t n, Output &y) {
  const GemvArgs args = gemv_args(m, x, first, n, y.data() + first * y.stride, y.stride);
  kernels.gemv[static_cast<uint32_t>(m.type.type)](args);
}

inline void run_gemv(const Kernels &kernels, const Matrix &m, const Tokens &x, Output &y) {
  run_gemv_part(kernels, m, x, 0, x.n, y);
}

// The same by panels.
inline void run_gemm_part(const Kernels &kernels, const Matrix &m, const Tokens &x, uint32_t first,
                          uint32_t count, Output &y) {
  const PanelShape shape = {m.k, m.type.group, m.type.has_min};
  Guarded<uint8_t> panel(kernels.panel_bytes(shape)), tile(kernels.tile_bytes(m.k));
  Guarded<uint8_t> scratch(kernels.pack_scratch_bytes(m.k));
  for (uint32_t r = 0; r < m.rows; r += kernels.panel_rows) {
    const uint32_t rows = m.rows - r < kernels.panel_rows ? m.rows - r : kernels.panel_rows;
    kernels.pack_panel(m.type, m.panel_rows(r, rows), m.k, panel.data(), scratch.data());
    for (uint32_t t = first; t < first + count; t += kernels.tile_tokens) {
      const uint32_t left = first + count - t;
      const uint32_t n = left < kernels.tile_tokens ? left : kernels.tile_tokens;
      kernels.pack_tile(x.act(t), n, m.k, tile.data());
      kernels.gemm_q8(shape, panel.data(), tile.data(), rows, n, y.data() + t * y.stride + r,
                      y.stride);
    }
  }
}

inline void run_gemm(const Kernels &kernels, const Matrix &m, const Tokens &x, Output &y) {
  run_gemm_part(kernels, m, x, 0, x.n, y);
}

using RunFn = void (*)(const Kernels &, const Matrix &, const Tokens &, Output &);

inline void check_product(Report &report, const Kernels &kernels, const char *what, RunFn run,
                          const Matrix &m, const Tokens &x) {
  Output y(m.rows, x.n);
  run(kernels, m, x, y);
  const Exact exact(m, x);
  const uint32_t terms = m.type.group == 0 ? m.k : m.k / m.type.group;
  for (uint32_t t = 0; t < x.n; t++) {
    for (uint32_t r = 0; r < m.rows; r++) {
      const size_t at = size_t{t} * m.rows + r;
      const double got = y.data()[t * y.stride + r], bound = dot_bound(exact.magnitude[at], terms);
      if (!report.expect(std::fabs(got - exact.y[at]) <= bound, what, m.type.name, m.rows, m.k, x.n,
                         got, exact.y[at], bound)) {
        return;
      }
    }
  }
  report.expect(y.intact(), "wrote outside its output:", m.type.name, m.rows, m.k, x.n, 0, 0, 0);
}

// With one group of activations and power-of-two factors no float operation rounds: what is left
// is the integer dot, which must have the same bits as the scalar tier's.
inline void check_exact_dots(Report &report, const Kernels &kernels, const Kernels &scalar,
                             const char *what, RunFn run, const TypeTraits &type, Random &random) {
  const uint32_t k = type.block_size < 256 ? 288 : 512, rows = 19, n = 5;
  const Matrix m(type, rows, k, random, true);
  Tokens x(n, k);
  for (uint32_t first = 0; first < k; first += 32) {
    x.fill_one_group(random, first);
    Output y(rows, n), want(rows, n);
    run(kernels, m, x, y);
    run_gemv(scalar, m, x, want);
    for (size_t i = 0; i < y.all.size(); i++) {
      if (!report.expect(y.all[i] == want.all[i], what, type.name, rows, k, n, y.all[i],
                         want.all[i], 0)) {
        return;
      }
    }
  }
}

inline void expect_same(Report &report, const char *what, const Matrix &m, uint32_t n,
                        const Output &got, const Output &want) {
  for (size_t i = 0; i < want.all.size(); i++) {
    if (!report.expect(got.all[i] == want.all[i], what, m.type.name, m.rows, m.k, n, got.all[i],
                       want.all[i], 0)) {
      return;
    }
  }
}

// Tokens alone, in parts of any size, and all by panels: the same bits where the tier promises it.
inline void check_same_bits(Report &report, const Kernels &kernels, const TypeTraits &type,
                            Random &random) {
  constexpr uint32_t kMost = 2 * kGemvMaxCols + 1;
  const bool integer = type.group != 0;
  const bool few = kernels.gemv[static_cast<uint32_t>(type.type)] != nullptr;
  const uint32_t b = type.block_size < 32 ? 32 : type.block_size;
  for (const uint32_t k : {b, 256 + b, 1024 + 3 * b}) {
    Matrix m(type, 35, k, random);
    Tokens x(kMost, k);
    x.fill(random, kernels);
    Output alone(m.rows, kMost);
    for (uint32_t t = 0; t < kMost; t++) {
      (few ? run_gemv_part : run_gemm_part)(kernels, m, x, t, 1, alone);
    }
    for (uint32_t n = 2; few && n <= kernels.same_cols; n++) {
      Output parts(m.rows, kMost);
      for (uint32_t t = 0; t < kMost; t += n) {
        run_gemv_part(kernels, m, x, t, kMost - t < n ? kMost - t : n, parts);
      }
      expect_same(report, "bits of gemv", m, n, parts, alone);
    }
    if (!integer || !kernels.same_many) continue;
    Output many(m.rows, kMost);
    run_gemm(kernels, m, x, many);
    expect_same(report, "bits of gemm", m, kMost, many, alone);
  }
}

// Woven rows: back as they were, and products of the same bits.
inline void check_woven(Report &report, const Kernels &kernels, const TypeTraits &type,
                        Random &random) {
  if (kernels.weave[static_cast<uint32_t>(type.type)] == nullptr) return;
  constexpr uint32_t kMost = kGemvMaxCols;
  const uint32_t b = type.block_size < 32 ? 32 : type.block_size;
  for (const uint32_t k : {b, 256 + b, 1024 + 3 * b}) {
    for (const uint32_t rows : {16u, 35u, 48u}) {
      Matrix m(type, rows, k, random);
      Tokens x(kMost, k);
      x.fill(random, kernels);
      Output few(rows, kMost), many(rows, kMost);
      run_gemv(kernels, m, x, few);
      run_gemm(kernels, m, x, many);
      m.weave(kernels);
      Output few_woven(rows, kMost), many_woven(rows, kMost);
      run_gemv(kernels, m, x, few_woven);
      run_gemm(kernels, m, x, many_woven);
      expect_same(report, "bits of gemv of woven rows", m, kMost, few_woven, few);
      expect_same(report, "bits of gemm of woven rows", m, kMost, many_woven, many);
      Guarded<uint8_t> row(m.row_bytes);
      for (uint32_t r = 0; r < rows / kWovenRows * kWovenRows; r++) {
        unweave_row(type, m.at(0), m.row_bytes, r, row.data());
        const bool same = std::memcmp(row.data(), m.w.data() + r * m.row_bytes, m.row_bytes) == 0;
        if (!report.expect(same, "unwoven row differs:", type.name, rows, k, r, 0, 0, 0)) return;
      }
    }
  }
}

// A first look against sums in double: products of the high bits, deviations, and what is said of
// groups.
inline void check_screen(Report &report, const Kernels &kernels, const TypeTraits &type, uint32_t k,
                         bool damaged, Random &random) {
  const ScreenFn screen = kernels.screen[static_cast<uint32_t>(type.type)];
  if (screen == nullptr) return;
  const HighBits bits = {7.5f, 20.5f};
  const float sure = 5.5f;
  const uint32_t rows = 48, groups = rows / kWovenRows;
  Matrix m(type, rows, k, random);
  if (damaged) {
    for (uint32_t r = 0; r < rows; r++) {
      if (random.below(4) == 0) m.make_nan(r);
    }
  }
  m.weave(kernels);
  Guarded<int8_t> q(k);
  Guarded<float> scale(k), min(k);
  for (uint32_t n = 1; n <= kGemvMaxCols; n++) {
    Tokens x(n, k);
    x.fill(random, kernels);
    Guarded<int32_t> start(size_t{n} * k / 16);
    Guarded<float> energy(start.size()), best(n * groups), bound(n * groups);
    for (size_t i = 0; i < start.size(); i++) {
      int32_t sum = 0, squares = 0;
      for (uint32_t j = 0; j < 16; j++) {
        sum += x.q[16 * i + j];
        squares += x.q[16 * i + j] * x.q[16 * i + j];
      }
      start[i] = -3 * sum;
      energy[i] = x.d[i / 2] * x.d[i / 2] * static_cast<float>(squares);
    }
    Output y(rows, n), deviation(rows, n);
    screen({m.at(0), m.row_bytes, rows, k, n, bits, x.act(0), start.data(), energy.data(), y.data(),
            y.stride, deviation.data(), sure, best.data(), bound.data(), groups});
    report.expect(y.intact() && deviation.intact(), "screen wrote outside its output:", type.name,
                  rows, k, n, 0, 0, 0);
    for (uint32_t t = 0; t < n; t++) {
      for (uint32_t g = 0; g < groups; g++) {
        double want_best = -INFINITY, want_bound = -INFINITY, most = 0;
        bool unknown = false;
        for (uint32_t r = g * kWovenRows; r < (g + 1) * kWovenRows; r++) {
          type.unpack(m.w.data() + r * m.row_bytes, q.data(), scale.data(), min.data(), k);
          double sum = 0, size = 0, variance = 0;
          for (uint32_t i = 0; i < k; i++) {
            const size_t at = size_t{t} * k + i;
            const double s = double{scale[i / 16]}, v = double{x.d[at / 32]} * x.q[at];
            const double high = double{bits.step} * (2 * ((q[i] + 32) >> 4) - 3);
            sum += s * v * high;
            size += std::fabs(s * v) * 2 * double{bits.step} * 3;
            if (i % 16 == 0) variance += s * s * double{energy[at / 16]} * double{bits.variance};
          }
          const double got = y.data()[t * y.stride + r];
          if (std::isnan(sum)) {
            unknown = true;
            report.expect(std::isnan(got), "screen of a row that is no number", type.name, rows, k,
                          n, got, sum, 0);
            continue;
          }
          const double allowed = dot_bound(size, k / 8);
          most = std::max(most, allowed);
          if (!report.expect(std::fabs(got - sum) <= allowed, "screen", type.name, rows, k, n, got,
                             sum, allowed)) {
            return;
          }
          const double off = std::sqrt(variance), said = deviation.data()[t * y.stride + r];
          report.expect(std::fabs(said - off) <= 1e-4 * off, "screen's deviation", type.name, rows,
                        k, n, said, off, 1e-4 * off);
          want_best = std::max(want_best, sum);
          want_bound = std::max(want_bound, sum + double{sure} * off);
        }
        const size_t at = size_t{t} * groups + g;
        const double near = most + 1e-4 * (want_bound - want_best);
        report.expect(std::fabs(best[at] - want_best) <= most, "screen's best", type.name, rows, k,
                      n, best[at], want_best, most);
        const bool right =
            unknown ? bound[at] == INFINITY : std::fabs(bound[at] - want_bound) <= near;
        report.expect(right, unknown ? "screen's bound of any product" : "screen's bound",
                      type.name, rows, k, n, bound[at], want_bound, near);
      }
    }
  }
}

inline void check_matrix_kernels(Report &report, const Kernels &kernels, const Kernels &scalar) {
  Random random(1);
  for (const uint32_t number : kTypes) {
    const TypeTraits &type = *type_traits(number);
    const bool integer = type.group != 0;
    const uint32_t b = type.block_size < 32 ? 32 : type.block_size;
    const uint32_t depths[] = {b, 3 * b, 256, 256 + b, 1024, 2048 + 3 * b};
    const uint32_t heights[] = {1, 3, 4, 5, 16, 31, 33};
    for (const uint32_t k : depths) {
      for (const uint32_t rows : heights) {
        const Matrix m(type, rows, k, random);
        const uint32_t n = 1 + random.below(13);
        Tokens x(n, k);
        x.fill(random, scalar);
        if (integer) check_product(report, kernels, "gemm", run_gemm, m, x);
        if (kernels.gemv[number] == nullptr) continue;
        for (uint32_t cols = 1; cols <= kGemvMaxCols; cols++) {
          if (k > 512 && cols != n % 8 + 1) continue;  // every count at small depths, one at large
          Tokens few(cols, k);
          few.fill(random, scalar);
          check_product(report, kernels, "gemv", run_gemv, m, few);
        }
      }
    }
    check_same_bits(report, kernels, type, random);
    check_woven(report, kernels, type, random);
    for (const uint32_t k : {256u, 1024u, 2560u}) {
      check_screen(report, kernels, type, k, false, random);
      check_screen(report, kernels, type, k, true, random);
    }
    if (!integer) continue;
    check_exact_dots(report, kernels, scalar, "gemm dots", run_gemm, type, random);
    if (kernels.gemv[number] == nullptr) continue;
    check_exact_dots(report, kernels, scalar, "gemv dots", run_gemv, type, random);
  }
}

}  // namespace q35
