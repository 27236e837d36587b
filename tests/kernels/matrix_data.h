// Random weights of any format and quantised activations, in guarded buffers.
#pragma once

#include <memory>

#include "base/half.h"
#include "guarded.h"
#include "kernels/kernels.h"
#include "quant/quant.h"

namespace q35 {

constexpr uint32_t kTypes[] = {0,  1,  2,  3,  6,  7,  8,  10, 11, 12, 13,
                               14, 16, 17, 18, 19, 20, 21, 22, 23, 29, 30};

// Offsets of the half-precision factors in a block; -1: none. IQ1_M spreads its over 4 words.
struct HalfFields {
  int d, dmin;
};

inline HalfFields half_fields(DType type) {
  switch (type) {
    case DType::Q4_1:
    case DType::Q5_1:
    case DType::Q4_K:
    case DType::Q5_K:
      return {0, 2};
    case DType::Q2_K:
      return {80, 82};
    case DType::Q3_K:
      return {108, -1};
    case DType::Q6_K:
      return {208, -1};
    case DType::IQ1_M:
    case DType::F32:
    case DType::F16:
    case DType::BF16:
      return {-1, -1};
    default:
      return {0, -1};
  }
}

inline void put_half(uint8_t *at, uint16_t value) {
  std::memcpy(at, &value, 2);
}

// A factor in +-[2^-7, 2^-6), or, for exact arithmetic, +-2^-7.
inline uint16_t random_half(Random &random, bool power_of_two) {
  const uint32_t bits = static_cast<uint32_t>(random.next());
  return static_cast<uint16_t>((bits & 0x8000u) | 0x2000u | (power_of_two ? 0 : bits & 0x3ffu));
}

// Every bit pattern of a block is legal but for its factors, which must be finite.
inline void fill_blocks(const TypeTraits &type, Random &random, bool power_of_two, uint8_t *w,
                        size_t blocks) {
  const HalfFields fields = half_fields(type.type);
  for (size_t b = 0; b < blocks; b++, w += type.block_bytes) {
    if (type.group == 0) {
      const float value = random.unit();
      const uint16_t half = float_to_half(value), brain = float_to_bf16(value);
      std::memcpy(w,
                  type.type == DType::F32   ? static_cast<const void *>(&value)
                  : type.type == DType::F16 ? static_cast<const void *>(&half)
                                            : static_cast<const void *>(&brain),
                  type.block_bytes);
      continue;
    }
    for (uint32_t i = 0; i < type.block_bytes; i++) w[i] = static_cast<uint8_t>(random.next());
    if (fields.d >= 0) put_half(w + fields.d, random_half(random, power_of_two));
    if (fields.dmin >= 0) put_half(w + fields.dmin, random_half(random, power_of_two));
    if (type.type == DType::IQ1_M) {
      const uint16_t half = random_half(random, power_of_two);
      for (int i = 0; i < 4; i++) {  // the upper nibbles of the words at 48
        w[49 + 2 * i] = static_cast<uint8_t>((w[49 + 2 * i] & 15) | (half >> (4 * i) & 15) << 4);
      }
    }
  }
}

struct Matrix {
  const TypeTraits &type;
  uint32_t rows, k;
  uint64_t row_bytes;
  Guarded<uint8_t> w;                       // 64 readable bytes follow the last row
  std::unique_ptr<Guarded<uint8_t>> woven;  // the same, as kernels get it; null: as it is
  Matrix(const TypeTraits &traits, uint32_t n_rows, uint32_t n_k, Random &random,
         bool power_of_two = false)
      : type(traits),
        rows(n_rows),
        k(n_k),
        row_bytes(type_bytes(traits, n_k)),
        w(n_rows * row_bytes, 64) {
    fill_blocks(type, random, power_of_two, w.data(),
                static_cast<size_t>(rows) * k / type.block_size);
  }

  // A factor of the row's last block is a NaN from now on. For types with a half-precision factor,
  // before weave().
  void make_nan(uint32_t row) {
    put_half(w.data() + (row + 1) * row_bytes - type.block_bytes + half_fields(type.type).d,
             0x7e00);
  }

  // From now on kernels get it woven, if the tier weaves this type.
  void weave(const Kernels &kernels) {
    const WeaveFn fn = kernels.weave[static_cast<uint32_t>(type.type)];
    if (fn == nullptr) return;
    woven.reset(new Guarded<uint8_t>(rows * row_bytes, 64));
    uint32_t r = 0;
    for (; r + kWovenRows <= rows; r += kWovenRows) {
      fn(w.data() + r * row_bytes, row_bytes, k / type.block_size, woven->data() + r * row_bytes);
    }
    std::memcpy(woven->data() + r * row_bytes, w.data() + r * row_bytes, (rows - r) * row_bytes);
  }
  // Rows from `row` on, as kernels get them.
  const uint8_t *at(uint64_t row) const {
    return (woven != nullptr ? woven->data() : w.data()) + row * row_bytes;
  }
  PanelRows panel_rows(uint64_t row, uint32_t count) const {
    return {at(row), woven != nullptr, row_bytes, count};
  }
};

struct Tokens {
  uint32_t n, k;
  Guarded<float> x;
  Guarded<int8_t> q;
  Guarded<float> d, s;
  Tokens(uint32_t count, uint32_t n_k)
      : n(count),
        k(n_k),
        x(static_cast<size_t>(n) * k),
        q(static_cast<size_t>(n) * k),
        d(static_cast<size_t>(n) * k / 32 + 1),
        s(static_cast<size_t>(n) * k / 16 + 1) {}

  // Values of very different size per token; extremes included.
  void fill(Random &random, const Kernels &kernels) {
    for (size_t i = 0; i < x.size(); i++) x[i] = random.unit() * static_cast<float>(1 + i / k);
    quantize(kernels);
  }
  void quantize(const Kernels &kernels) {
    for (uint32_t t = 0; t < n && k % 32 == 0; t++) {
      const size_t at = static_cast<size_t>(t) * k;
      kernels.quantize_q8(x.data() + at, k, q.data() + at, d.data() + at / 32, s.data() + at / 16);
    }
  }
  // Only the 32 values from `first` on differ from 0: +-127 and random, scale 1.
  void fill_one_group(Random &random, uint32_t first) {
    std::memset(q.data(), 0, q.size());
    std::memset(d.data(), 0, d.size() * sizeof(float));
    std::memset(s.data(), 0, s.size() * sizeof(float));
    for (uint32_t t = 0; t < n; t++) {
      const size_t at = static_cast<size_t>(t) * k + first;
      const uint32_t kind = random.below(4);
      d[at / 32] = 1.0f;
      for (uint32_t i = 0; i < 32; i++) {
        const int any = static_cast<int>(random.below(255)) - 127;
        const int value = kind == 0 ? 127 : kind == 1 ? -127 : any;
        q[at + i] = static_cast<int8_t>(value);
        s[(at + i) / 16] += static_cast<float>(value);
      }
    }
  }
  ActQ8 act(uint32_t first = 0) const {
    const size_t at = static_cast<size_t>(first) * k;
    return {q.data() + at, d.data() + at / 32, s.data() + at / 16};
  }
};

// Products of all rows and the n tokens from `first` on, as gemv takes them. y: [n, rows] at
// y_stride
inline GemvArgs gemv_args(const Matrix &m, const Tokens &x, uint32_t first, uint32_t n, float *y,
                          uint64_t y_stride) {
  GemvArgs args = {};
  args.w = m.at(0);
  args.woven = m.woven != nullptr;
  args.row_bytes = m.row_bytes;
  args.rows = m.rows;
  args.k = m.k;
  args.n_cols = n;
  args.act = x.act(first);
  args.x = x.x.data() + size_t{first} * m.k;
  args.y = y;
  args.y_stride = y_stride;
  return args;
}

}  // namespace q35
