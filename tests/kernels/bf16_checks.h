// Checks of the products of bf16 of one tier: exact on small integers, which bf16 holds, and within
// the rounding of both factors on every format.
#pragma once

#include "matrix_checks.h"

namespace q35 {

// Matrices of integers, whose products and sums floats hold exactly.
inline void check_bf16_integers(Report &report, const Bf16Kernels &bf16, uint32_t m, uint32_t n,
                                uint32_t k, Random &random) {
  const auto fill = [&random](Guarded<float> &x) {
    for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(random.below(33)) - 16;
  };
  const auto transpose = [](const Guarded<float> &x, uint32_t rows, uint32_t cols,
                            Guarded<float> &out) {
    for (uint32_t r = 0; r < rows; r++) {
      for (uint32_t c = 0; c < cols; c++) out[size_t{c} * rows + r] = x[size_t{r} * cols + c];
    }
  };
  Guarded<float> a(size_t{m} * k), at(size_t{m} * k), b(size_t{n} * k), bt(size_t{n} * k);
  fill(a);
  fill(b);
  transpose(a, m, k, at);
  transpose(b, n, k, bt);
  Guarded<uint16_t> left(bf16_values(m, k)), right(bf16_values(n, k));
  for (uint32_t way = 0; way < 8; way++) {
    if ((way & 1) == 0) bf16.pack_left(a.data(), k, m, k, left.data());
    if ((way & 1) != 0)
      bf16.pack_left_transposed(at.data(), m, m, k, bf16_values(16, k), left.data());
    const auto *rows = reinterpret_cast<const uint8_t *>(b.data());
    if ((way & 2) == 0) {
      bf16.pack_right_transposed(*type_traits(static_cast<uint32_t>(DType::F32)),
                                 {rows, false, k * sizeof(float), n}, 0, k, right.data());
    } else {
      bf16.pack_right(bt.data(), n, k, n, right.data());
    }
    const bool add = (way & 4) != 0;
    Output y(n, m);
    for (uint32_t i = 0; i < m; i++) {
      for (uint32_t j = 0; j < n; j++) y.data()[i * y.stride + j] = 3;
    }
    bf16.gemm({left.data(), bf16_values(16, k), right.data(), m, n, k, add}, y.data(), y.stride);
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
