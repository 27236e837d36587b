// Tensor types of GGUF: block layout, and reference conversion of each format.
// One row of the traits table and one folder file per format family is all a format needs;
// ISA folders may add faster code, never different numbers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace q35 {

// Numbers as stored in GGUF files.
enum class DType : uint32_t {
  F32 = 0,
  F16 = 1,
  Q4_0 = 2,
  Q4_1 = 3,
  Q5_0 = 6,
  Q5_1 = 7,
  Q8_0 = 8,
  Q2_K = 10,
  Q3_K = 11,
  Q4_K = 12,
  Q5_K = 13,
  Q6_K = 14,
  IQ2_XXS = 16,
  IQ2_XS = 17,
  IQ3_XXS = 18,
  IQ1_S = 19,
  IQ4_NL = 20,
  IQ3_S = 21,
  IQ2_S = 22,
  IQ4_XS = 23,
  IQ1_M = 29,
  BF16 = 30,
};

struct TypeTraits {
  DType type;
  const char *name;
  uint32_t block_size;   // values in a block
  uint32_t block_bytes;  // bytes of a block
  uint32_t group;        // values that share one scale after unpacking: 16 or 32; 0: float type
  bool has_min;          // unpacked values have a per-group minimum
  uint32_t odd_half;  // byte of the half word (a scale) of blocks that are not whole words, else 0

  // Decodes n values (a multiple of block_size) to float, bit for bit like the format's definition.
  void (*decode)(const uint8_t *src, float *dst, size_t n);

  // Exact integer form, for integer dot products:
  //   value[i] = scale[i / group] * q[i] - min[i / group]        (min only when has_min)
  // q: [n], scale and min: [n / group]. Null for float types.
  void (*unpack)(const uint8_t *src, int8_t *q, float *scale, float *min, size_t n);

  // Encodes n values; weight: [n] importance or null for the format's own default.
  // Null for formats that are only read.
  void (*encode)(const float *src, const float *weight, uint8_t *dst, size_t n);
};

// The entry of a type, or null when the number is not one this engine reads.
const TypeTraits *type_traits(uint32_t type);
inline const TypeTraits &type_traits(DType type) {
  return *type_traits(static_cast<uint32_t>(type));
}

// Bytes of `n` values, n a multiple of block_size.
inline uint64_t type_bytes(const TypeTraits &traits, uint64_t n) {
  return n / traits.block_size * traits.block_bytes;
}

}  // namespace q35
