// Checks of the products of bf16 of one tier: exact on small integers, which bf16 holds, and within
// the rounding of both factors on every format.
#pragma once

#include "matrix_checks.h"

namespace q35 {

// Matrices of integers, whose products and sums floats hold exactly; a factor of two parts has more
// bits than bf16.
inline void check_bf16_integers(Report &report, const Bf16Kernels &bf16, uint32_t m, uint32_t n,
                                uint32_t k, Random &random) {
  const auto fill = [&random](Guarded<float> &x, int32_t most) {
    for (size_t i = 0; i < x.size(); i++) {
      x[i] = static_cast<float>(static_cast<int32_t>(random.below(2 * most + 1)) - most);
    }
  };
  const auto transpose = [](const Guarded<float> &x, uint32_t rows, uint32_t cols,
                            Guarded<float> &out) {
    for (uint32_t r = 0; r < rows; r++) {
      for (uint32_t c = 0; c < cols; c++) out[size_t{c} * rows + r] = x[size_t{r} * cols + c];
    }
  };
  Guarded<float> a(size_t{m} * k), at(size_t{m} * k), b(size_t{n} * k);
  for (uint32_t way = 0; way < 8; way++) {
    const Split split = way < 4 ? Split::None : way < 6 ? Split::Left : Split::Right;
    fill(a, split == Split::Left ? 3000 : 16);
    fill(b, split == Split::Right ? 3000 : 16);
    transpose(a, m, k, at);
    const uint32_t left_parts = split == Split::Left ? 2 : 1;
    Guarded<uint16_t> left(left_parts * bf16_values(m, k));
    Guarded<uint16_t> right((split == Split::Right ? 2 : 1) * bf16_values(n, k));
    if (split == Split::Left) {
      bf16.pack_left_split(a.data(), k, m, k, left.data());
    } else if ((way & 2) == 0) {
      bf16.pack_left(a.data(), k, m, k, left.data());
    } else {
      bf16.pack_left_transposed(at.data(), m, m, k, bf16_values(16, k), left.data());
    }
    const auto *rows = reinterpret_cast<const uint8_t *>(b.data());
    if (split == Split::Right) {
      bf16.pack_right_split(b.data(), k, n, k, right.data());
    } else {
      bf16.pack_right_transposed(*type_traits(static_cast<uint32_t>(DType::F32)),
                                 {rows, false, k * sizeof(float), n}, 0, k, right.data());
    }
    const bool add = (way & 1) != 0;
    Output y(n, m);
    for (uint32_t i = 0; i < m; i++) {
      for (uint32_t j = 0; j < n; j++) y.data()[i * y.stride + j] = 3;
    }
    bf16.gemm({left.data(), left_parts * bf16_values(16, k), right.data(), m, n, k, add, split},
              y.data(), y.stride);
    for (uint32_t i = 0; i < m; i++) {
      for (uint32_t j = 0; j < n; j++) {
        double want = add ? 3 : 0;
        for (uint32_t c = 0; c < k; c++)
          want += double{a[size_t{i} * k + c]} * b[size_t{j} * k + c];
        const float got = y.data()[i * y.stride + j];
        if (!report.expect(got == want, "bf16 integers", "", m, n, k, got, want, way)) return;
      }
    }
    report.expect(y.intact(), "bf16 wrote outside", "", m, n, k, 0, 0, way);
  }
}

// The weights of k scores beside the scalar ones; what is packed behind them is zero.
inline void check_softmax_right(Report &report, const Bf16Kernels &bf16, const Kernels &scalar,
                                uint32_t k, Random &random) {
  constexpr uint32_t kCols = 32;
  Guarded<float> s(size_t{k} * kCols), want(size_t{k} * kCols);
  Guarded<float> m(kCols), l(kCols), shrink(kCols), m2(kCols), l2(kCols), shrink2(kCols);
  for (size_t i = 0; i < s.size(); i++) {
    const bool hidden = i / kCols != 0 && random.below(10) == 0;
    s[i] = want[i] = hidden ? -INFINITY : 60 * random.unit();
  }
  for (uint32_t c = 0; c < kCols; c++) {
    const bool first = random.below(4) == 0;
    m[c] = m2[c] = first ? -INFINITY : 50 * random.unit();
    l[c] = l2[c] = first ? 0.0f : 1.5f;
  }
  const uint64_t values = bf16_values(16, k);
  Guarded<uint16_t> out(2 * values);
  bf16.softmax_right(s.data(), k, m.data(), l.data(), shrink.data(), out.data());
  scalar.softmax_cols(want.data(), k, m2.data(), l2.data(), shrink2.data());
  const auto near = [](float a, float b, float share) {
    return std::fabs(a - b) <= share * std::fabs(b) + 1e-30f;
  };
  for (uint32_t c = 0; c < kCols; c++) {
    const bool same =
        m[c] == m2[c] && near(l[c], l2[c], 2e-5f) && near(shrink[c], shrink2[c], 2e-5f);
    if (!report.expect(same, "softmax_right", "sums", k, c, 0, l[c], l2[c], 0)) return;
    for (uint32_t i = 0; i < values / 16; i++) {
      const float got = bf16_to_float(out[c / 16 * values + i / 2 * 32 + c % 16 * 2 + i % 2]);
      const float weight = i < k ? want[i * kCols + c] : 0.0f;
      if (!report.expect(near(got, weight, 1.0f / 250), "softmax_right", "weights", k, c, i, got,
                         weight, 0)) {
        return;
      }
    }
  }
}

// All tokens times a matrix of any format, in two parts along k where its blocks allow.
inline void run_bf16(const Kernels &kernels, const Matrix &m, const Tokens &x, Output &y) {
  const uint32_t blocks = m.k / (m.type.block_size < 32 ? 32 : m.type.block_size);
  const uint32_t half = blocks / 2 * (m.type.block_size < 32 ? 32 : m.type.block_size);
  Guarded<uint16_t> left(bf16_values(x.n, m.k)), right(bf16_values(m.rows, m.k));
  kernels.bf16.pack_left(x.x.data(), m.k, x.n, m.k, left.data());
  for (const uint32_t first : {0u, half}) {
    const uint32_t depth = first == 0 && half != 0 ? half : m.k - first;
    kernels.bf16.pack_right_transposed(m.type, m.panel_rows(0, m.rows), first, depth, right.data());
    kernels.bf16.gemm({left.data() + uint64_t{first} * 16, bf16_values(16, m.k), right.data(), x.n,
                       m.rows, depth, first != 0},
                      y.data(), y.stride);
    if (half == 0) break;
  }
}

inline void check_bf16_product(Report &report, const Kernels &kernels, Matrix &m, const Tokens &x) {
  constexpr double kHalfUlp = 1.0 / 256;  // of both factors together: 2^-9 each
  Guarded<float> w(m.k);
  Output y(m.rows, x.n);
  run_bf16(kernels, m, x, y);
  for (uint32_t r = 0; r < m.rows; r++) {
    const uint8_t *row = m.w.data() + r * m.row_bytes;
    m.type.decode(row, w.data(), m.k);
    for (uint32_t t = 0; t < x.n; t++) {
      double want = 0, size = 0, largest = 0;
      for (uint32_t i = 0; i < m.k; i++) {
        const double v = x.x[size_t{t} * m.k + i];
        want += w[i] * v;
        size += std::fabs(w[i] * v);
        largest = std::fmax(largest, std::fabs(v));
      }
      // A weight that is a small difference of large numbers has their rounding too.
      const double bound = size * (kHalfUlp + m.k * kUnit) + largest * m.k * 1e-6;
      const float got = y.data()[t * y.stride + r];
      if (!report.expect(std::fabs(got - want) <= bound, "bf16", m.type.name, m.rows, m.k, x.n, got,
                         want, bound)) {
        return;
      }
    }
  }
  report.expect(y.intact(), "bf16 wrote outside", m.type.name, m.rows, m.k, x.n, 0, 0, 0);
  if (kernels.weave[static_cast<uint32_t>(m.type.type)] == nullptr) return;
  m.weave(kernels);
  Output woven(m.rows, x.n);
  run_bf16(kernels, m, x, woven);
  expect_same(report, "bits of bf16 of woven rows", m, x.n, woven, y);
}

inline void check_bf16_kernels(Report &report, const Kernels &kernels, const Kernels &scalar) {
  if (kernels.bf16.gemm == nullptr) return;
  Random random(5);
  for (uint32_t round = 0; round < 60; round++) {
    check_bf16_integers(report, kernels.bf16, 1 + random.below(70), 1 + random.below(70),
                        1 + random.below(140), random);
    check_softmax_right(report, kernels.bf16, scalar, 1 + random.below(300), random);
  }
  for (const uint32_t number : kTypes) {
    const TypeTraits &type = *type_traits(number);
    const uint32_t b = type.block_size < 32 ? 32 : type.block_size;
    for (const uint32_t k : {b, 3 * b, 1024 + b}) {
      for (const uint32_t rows : {1u, 16u, 35u, 48u}) {
        Matrix m(type, rows, k, random);
        Tokens x(1 + random.below(40), k);
        x.fill(random, scalar);
        check_bf16_product(report, kernels, m, x);
      }
    }
  }
}

}  // namespace q35
