// Block layouts of the GGUF formats, as bytes: any address is aligned enough to view a block there.
// Constants of each format sit in its struct, so that templates over blocks need no other table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/half.h"

namespace q35 {

// Little-endian fields without alignment.
struct U16 {
  uint8_t bytes[2];
  operator uint16_t() const {
    uint16_t value;
    std::memcpy(&value, bytes, 2);
    return value;
  }
  void operator=(uint16_t value) { std::memcpy(bytes, &value, 2); }
};

struct U32 {
  uint8_t bytes[4];
  operator uint32_t() const {
    uint32_t value;
    std::memcpy(&value, bytes, 4);
    return value;
  }
  void operator=(uint32_t value) { std::memcpy(bytes, &value, 4); }
};

// ---- 32 values: one scale (and minimum) in half precision ------------------------------------
// Nibble formats keep value i in the low half of qs[i] and value i + 16 in the high half.

// value = d * (nibble - 8)
struct BlockQ4_0 {
  static constexpr uint32_t kSize = 32, kGroup = 32;
  static constexpr bool kHasMin = false;
  U16 d;
  uint8_t qs[16];
};
static_assert(sizeof(BlockQ4_0) == 18, "Q4_0");

// value = d * nibble + m
struct BlockQ4_1 {
  static constexpr uint32_t kSize = 32, kGroup = 32;
  static constexpr bool kHasMin = true;
  U16 d, m;
  uint8_t qs[16];
};
static_assert(sizeof(BlockQ4_1) == 20, "Q4_1");

// value = d * (nibble + 16 * bit i of qh - 16)
struct BlockQ5_0 {
  static constexpr uint32_t kSize = 32, kGroup = 32;
  static constexpr bool kHasMin = false;
  U16 d;
  U32 qh;
  uint8_t qs[16];
};
static_assert(sizeof(BlockQ5_0) == 22, "Q5_0");

// value = d * (nibble + 16 * bit i of qh) + m
struct BlockQ5_1 {
  static constexpr uint32_t kSize = 32, kGroup = 32;
  static constexpr bool kHasMin = true;
  U16 d, m;
  U32 qh;
  uint8_t qs[16];
};
static_assert(sizeof(BlockQ5_1) == 24, "Q5_1");

// value = d * qs; -128 is legal though encoders do not write it
struct BlockQ8_0 {
  static constexpr uint32_t kSize = 32, kGroup = 32;
  static constexpr bool kHasMin = false;
  U16 d;
  int8_t qs[32];
};
static_assert(sizeof(BlockQ8_0) == 34, "Q8_0");

// value = d * kIq4Values[nibble]
struct BlockIQ4_NL {
  static constexpr uint32_t kSize = 32, kGroup = 32;
  static constexpr bool kHasMin = false;
  U16 d;
  uint8_t qs[16];
};
static_assert(sizeof(BlockIQ4_NL) == 18, "IQ4_NL");

// ---- K formats: 256 values, integer group scales under one or two half-precision factors ------

// 16 groups of 16: value = d * (scales & 15) * q - dmin * (scales >> 4)
// q of value 128h + 32j + l is the bit pair j of qs[32h + l].
struct BlockQ2_K {
  static constexpr uint32_t kSize = 256, kGroup = 16;
  static constexpr bool kHasMin = true;
  uint8_t scales[16];
  uint8_t qs[64];
  U16 d, dmin;
};
static_assert(sizeof(BlockQ2_K) == 84, "Q2_K");

// 16 groups of 16: value = d * (scale - 32) * (q - 4), q = bit pair as in Q2_K + 4 * high bit
// The high bit of value 32k + l is bit k of hmask[l]; 6-bit scales: see pack_scales_q3.
struct BlockQ3_K {
  static constexpr uint32_t kSize = 256, kGroup = 16;
  static constexpr bool kHasMin = false;
  uint8_t hmask[32];
  uint8_t qs[64];
  uint8_t scales[12];
  U16 d;
};
static_assert(sizeof(BlockQ3_K) == 110, "Q3_K");

// 8 groups of 32: value = d * scale * q - dmin * min; 6-bit scales and mins: see unpack_scales_k4.
// q of value 64c + l is the low nibble of qs[32c + l], of 64c + 32 + l its high nibble.
struct BlockQ4_K {
  static constexpr uint32_t kSize = 256, kGroup = 32;
  static constexpr bool kHasMin = true;
  U16 d, dmin;
  uint8_t scales[12];
  uint8_t qs[128];
};
static_assert(sizeof(BlockQ4_K) == 144, "Q4_K");

// Q4_K with a fifth bit: of value 32k + l it is bit k of qh[l].
struct BlockQ5_K {
  static constexpr uint32_t kSize = 256, kGroup = 32;
  static constexpr bool kHasMin = true;
  U16 d, dmin;
  uint8_t scales[12];
  uint8_t qh[32];
  uint8_t qs[128];
};
static_assert(sizeof(BlockQ5_K) == 176, "Q5_K");

// 16 groups of 16: value = d * scales * (q - 32)
// Low nibbles of values 128h + 32j + l: j = 0 and 2 are the halves of ql[64h + l], j = 1 and 3
// those of ql[64h + 32 + l]; the upper two bits are the bit pair j of qh[32h + l].
struct BlockQ6_K {
  static constexpr uint32_t kSize = 256, kGroup = 16;
  static constexpr bool kHasMin = false;
  uint8_t ql[128];
  uint8_t qh[64];
  int8_t scales[16];
  U16 d;
};
static_assert(sizeof(BlockQ6_K) == 210, "Q6_K");

// ---- IQ formats: 256 values, 4 or 8 at a time from a grid, signs apart -------------------------

// 8 groups of 32 with the codebook of IQ4_NL: value = d * (scale - 32) * kIq4Values[nibble]
// Scale g: nibble g of scales_l, upper two bits the bit pair g of scales_h.
struct BlockIQ4_XS {
  static constexpr uint32_t kSize = 256, kGroup = 32;
  static constexpr bool kHasMin = false;
  U16 d;
  U16 scales_h;
  uint8_t scales_l[4];
  uint8_t qs[128];
};
static_assert(sizeof(BlockIQ4_XS) == 136, "IQ4_XS");

// 8 groups of 32: 8 grid bytes (4 values each) in qs and a word of signs, 4 x 7 bits, each for 8
// values with even parity, and a 4-bit scale above: value = d * (scale + 0.5) / 2 * +-grid
struct BlockIQ3_XXS {
  static constexpr uint32_t kSize = 256, kGroup = 32;
  static constexpr bool kHasMin = false;
  U16 d;
  uint8_t qs[64];
  U32 signs[8];
};
static_assert(sizeof(BlockIQ3_XXS) == 98, "IQ3_XXS");

// 8 groups of 32: 9-bit grid indices (qs and a bit of qh), a sign bit per value,
// value = d * (2 * scale + 1) * +-grid
struct BlockIQ3_S {
  static constexpr uint32_t kSize = 256, kGroup = 32;
  static constexpr bool kHasMin = false;
  U16 d;
  uint8_t qs[64];
  uint8_t qh[8];
  uint8_t signs[32];
  uint8_t scales[4];
};
static_assert(sizeof(BlockIQ3_S) == 110, "IQ3_S");

// 8 groups of 32: 4 grid bytes (8 values each) and a word of signs and scale as in IQ3_XXS,
// value = d * (scale + 0.5) / 4 * +-grid
struct BlockIQ2_XXS {
  static constexpr uint32_t kSize = 256, kGroup = 32;
  static constexpr bool kHasMin = false;
  U16 d;
  struct {
    uint8_t grid[4];
    U32 signs;
  } qs[8];
};
static_assert(sizeof(BlockIQ2_XXS) == 66, "IQ2_XXS");

// 16 groups of 16: per 8 values a 9-bit grid index and 7 sign bits of even parity,
// value = d * (scale + 0.5) / 4 * +-grid
struct BlockIQ2_XS {
  static constexpr uint32_t kSize = 256, kGroup = 16;
  static constexpr bool kHasMin = false;
  U16 d;
  U16 qs[32];
  uint8_t scales[8];
};
static_assert(sizeof(BlockIQ2_XS) == 74, "IQ2_XS");

// 16 groups of 16: per 8 values a 10-bit grid index (qs and a bit pair of qh) and 8 sign bits,
// value = d * (scale + 0.5) / 4 * +-grid
struct BlockIQ2_S {
  static constexpr uint32_t kSize = 256, kGroup = 16;
  static constexpr bool kHasMin = false;
  U16 d;
  uint8_t qs[32];
  uint8_t signs[32];
  uint8_t qh[8];
  uint8_t scales[8];
};
static_assert(sizeof(BlockIQ2_S) == 82, "IQ2_S");

// 8 groups of 32: per 8 values an 11-bit index of a ternary grid (qs and 3 bits of qh); above them
// in qh a 3-bit scale and the sign of the shift, value = d * (2 * scale + 1) * (grid +- 1/8)
struct BlockIQ1_S {
  static constexpr uint32_t kSize = 256, kGroup = 32;
  static constexpr bool kHasMin = false;
  U16 d;
  uint8_t qs[32];
  U16 qh[8];
};
static_assert(sizeof(BlockIQ1_S) == 50, "IQ1_S");

// 16 groups of 16: as IQ1_S with a shift per 8 values: nibble i of qh holds 3 index bits and the
// sign of the shift. A word of `scales` holds 4 scales of 3 bits and, on top, a nibble of d.
struct BlockIQ1_M {
  static constexpr uint32_t kSize = 256, kGroup = 16;
  static constexpr bool kHasMin = false;
  uint8_t qs[32];
  uint8_t qh[16];
  U16 scales[4];
};
static_assert(sizeof(BlockIQ1_M) == 56, "IQ1_M");

// See TypeTraits.
template <class Block>
constexpr uint32_t odd_half() {
  if constexpr (sizeof(Block) % 4 != 0) {
    return offsetof(Block, d);
  } else {
    return 0;
  }
}

// ---- packed sub-scales ------------------------------------------------------------------------

// The levels of IQ4_NL and IQ4_XS.
constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                   1,    13,   25,  38,  53,  69,  89,  113};

// Q4_K, Q5_K: 6-bit scales and mins. Bytes 0-3 and 4-7 hold the first four of each in their low six
// bits; bytes 8-11 the low nibbles of the last four (scale low, min high), whose upper two bits sit
// on top of bytes 0-3 and 4-7.
inline void unpack_scales_k4(const uint8_t packed[12], uint8_t scale[8], uint8_t min[8]) {
  for (int i = 0; i < 4; i++) {
    scale[i] = packed[i] & 63;
    min[i] = packed[i + 4] & 63;
    scale[i + 4] = static_cast<uint8_t>((packed[i + 8] & 15) | (packed[i] >> 6) << 4);
    min[i + 4] = static_cast<uint8_t>((packed[i + 8] >> 4) | (packed[i + 4] >> 6) << 4);
  }
}

inline void pack_scales_k4(const uint8_t scale[8], const uint8_t min[8], uint8_t packed[12]) {
  for (int i = 0; i < 4; i++) {
    packed[i] = static_cast<uint8_t>(scale[i] | (scale[i + 4] >> 4) << 6);
    packed[i + 4] = static_cast<uint8_t>(min[i] | (min[i + 4] >> 4) << 6);
    packed[i + 8] = static_cast<uint8_t>((scale[i + 4] & 15) | (min[i + 4] & 15) << 4);
  }
}

// Q3_K: 16 scales of 6 bits, stored with an offset of 32. Byte i < 8 holds the low nibbles of
// scales i and i + 8; byte 8 + i the upper bit pairs of scales i, i + 4, i + 8 and i + 12.
inline void unpack_scales_q3(const uint8_t packed[12], int8_t scale[16]) {
  for (int i = 0; i < 16; i++) {
    const int low = packed[i % 8] >> (i / 8 * 4) & 15;
    const int high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
    scale[i] = static_cast<int8_t>((low | high << 4) - 32);
  }
}

inline void pack_scales_q3(const int8_t scale[16], uint8_t packed[12]) {
  std::memset(packed, 0, 12);
  for (int i = 0; i < 16; i++) {
    const int stored = scale[i] + 32;
    packed[i % 8] = static_cast<uint8_t>(packed[i % 8] | (stored & 15) << (i / 8 * 4));
    packed[8 + i % 4] = static_cast<uint8_t>(packed[8 + i % 4] | (stored >> 4) << (i / 4 * 2));
  }
}

}  // namespace q35
