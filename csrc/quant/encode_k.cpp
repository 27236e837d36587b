// Encoders of the formats with super-blocks of 256 values: Q2_K to Q6_K and IQ4_XS.
#include <cstring>

#include "quant/blocks.h"
#include "quant/encode.h"
#include "quant/search_super.h"

namespace q35 {
namespace {

template <class Levels, class Scales>
void number_super(const float *x, const Scales &scales, uint8_t *number) {
  const float d = half_to_float(scales.d);
  for (int g = 0; g < Scales::kGroups; g++) {
    const uint32_t at = static_cast<uint32_t>(g) * Scales::kSize;
    number_levels<Levels>(x + at, Scales::kSize, d * scales.multiplier[g], 0, number + at);
  }
}

template <class Levels, class Affine>
void number_affine(const float *x, const Affine &affine, uint8_t *number) {
  const float d = half_to_float(affine.d), dmin = half_to_float(affine.dmin);
  for (int g = 0; g < Affine::kGroups; g++) {
    const uint32_t at = static_cast<uint32_t>(g) * Affine::kSize;
    number_levels<Levels>(x + at, Affine::kSize, d * affine.scale[g], dmin * affine.min[g],
                          number + at);
  }
}

// qs: [64] the lower bit pairs of number [256], as Q2_K and Q3_K keep them.
void pack_pairs(const uint8_t *number, uint8_t *qs) {
  for (int i = 0; i < 64; i++) {
    const uint8_t *first = number + i / 32 * 128 + i % 32;
    qs[i] = static_cast<uint8_t>((first[0] & 3) | (first[32] & 3) << 2 | (first[64] & 3) << 4 |
                                 (first[96] & 3) << 6);
  }
}

// qs: [128] the lower nibbles of number [256], as Q4_K and Q5_K keep them.
void pack_nibbles(const uint8_t *number, uint8_t *qs) {
  for (int i = 0; i < 128; i++) {
    const uint8_t *first = number + i / 32 * 64 + i % 32;
    qs[i] = static_cast<uint8_t>((first[0] & 15) | (first[32] & 15) << 4);
  }
}

// high: [32] bit `bit` of number [256], bit k of byte l from value 32k + l.
void pack_bits(const uint8_t *number, int bit, uint8_t *high) {
  std::memset(high, 0, 32);
  for (int i = 0; i < 256; i++) {
    high[i % 32] = static_cast<uint8_t>(high[i % 32] | (number[i] >> bit & 1) << (i / 32));
  }
}

using AffineK4 = SuperAffine<8, 63>;

template <class Block>
void store_affine_k4(const AffineK4 &affine, Block *block) {
  uint8_t scale[8], min[8];
  for (int g = 0; g < 8; g++) {
    scale[g] = static_cast<uint8_t>(affine.scale[g]);
    min[g] = static_cast<uint8_t>(affine.min[g]);
  }
  block->d = affine.d;
  block->dmin = affine.dmin;
  pack_scales_k4(scale, min, block->scales);
}

void encode_block(const SuperInput &in, BlockQ2_K *block) {
  using Levels = IntegerLevels<0, 3>;
  using Affine = SuperAffine<16, 15>;
  const Affine affine = fit_super_affine<Levels, Affine>(in, {2.0f, 0.2f, 12, 28}, 4);
  uint8_t number[kSuper];
  number_affine<Levels>(in.x, affine, number);
  for (int g = 0; g < 16; g++) {
    block->scales[g] = static_cast<uint8_t>(static_cast<int>(affine.scale[g]) |
                                            static_cast<int>(affine.min[g]) << 4);
  }
  block->d = affine.d;
  block->dmin = affine.dmin;
  pack_pairs(number, block->qs);
}

void encode_block(const SuperInput &in, BlockQ3_K *block) {
  using Levels = IntegerLevels<-4, 3>;
  using Scales = SuperScales<16, -32, 31>;
  const Scales scales = fit_super_scales<Levels, Scales>(in, {2.5f, 0.25f, 12, 28}, 3);
  uint8_t number[kSuper];
  number_super<Levels>(in.x, scales, number);
  int8_t multiplier[16];
  for (int g = 0; g < 16; g++) multiplier[g] = static_cast<int8_t>(scales.multiplier[g]);
  block->d = scales.d;
  pack_scales_q3(multiplier, block->scales);
  pack_pairs(number, block->qs);
  pack_bits(number, 2, block->hmask);
}

void encode_block(const SuperInput &in, BlockQ4_K *block) {
  using Levels = IntegerLevels<0, 15>;
  const AffineK4 affine = fit_super_affine<Levels, AffineK4>(in, {12.0f, 0.375f, 16, 48}, 2);
  uint8_t number[kSuper];
  number_affine<Levels>(in.x, affine, number);
  store_affine_k4(affine, block);
  pack_nibbles(number, block->qs);
}

void encode_block(const SuperInput &in, BlockQ5_K *block) {
  using Levels = IntegerLevels<0, 31>;
  const AffineK4 affine = fit_super_affine<Levels, AffineK4>(in, {26.0f, 0.5f, 20, 56}, 2);
  uint8_t number[kSuper];
  number_affine<Levels>(in.x, affine, number);
  store_affine_k4(affine, block);
  pack_nibbles(number, block->qs);
  pack_bits(number, 4, block->qh);
}

void encode_block(const SuperInput &in, BlockQ6_K *block) {
  using Levels = IntegerLevels<-32, 31>;
  using Scales = SuperScales<16, -128, 127>;
  const Scales scales = fit_super_scales<Levels, Scales>(in, {24.0f, 0.75f, 16, 56}, 1);
  uint8_t number[kSuper];
  number_super<Levels>(in.x, scales, number);
  block->d = scales.d;
  for (int g = 0; g < 16; g++) block->scales[g] = static_cast<int8_t>(scales.multiplier[g]);
  for (int i = 0; i < 64; i++) {
    const uint8_t *first = number + i / 32 * 128 + i % 32;
    uint8_t *low = block->ql + i / 32 * 64 + i % 32;
    low[0] = static_cast<uint8_t>((first[0] & 15) | (first[64] & 15) << 4);
    low[32] = static_cast<uint8_t>((first[32] & 15) | (first[96] & 15) << 4);
    block->qh[i] = static_cast<uint8_t>(first[0] >> 4 | first[32] >> 4 << 2 | first[64] >> 4 << 4 |
                                        first[96] >> 4 << 6);
  }
}

void encode_block(const SuperInput &in, BlockIQ4_XS *block) {
  using Scales = SuperScales<8, -32, 31>;
  const Scales scales = fit_super_scales<Iq4Levels, Scales>(in, {88.0f, 4.0f, 16, 40}, 1);
  block->d = scales.d;
  const float d = half_to_float(scales.d);
  int high = 0;
  std::memset(block->scales_l, 0, sizeof(block->scales_l));
  for (int g = 0; g < 8; g++) {
    const int stored = static_cast<int>(scales.multiplier[g]) + 32;
    uint8_t &low = block->scales_l[g / 2];
    low = static_cast<uint8_t>(low | (stored & 15) << (g % 2 * 4));
    high |= stored >> 4 << (2 * g);
    uint8_t number[32];
    Iq4Levels::numbers(in.x + 32 * g, 32, inverse_or_zero(d * scales.multiplier[g]), number);
    for (int i = 0; i < 16; i++) {
      block->qs[16 * g + i] = static_cast<uint8_t>(number[i] | number[i + 16] << 4);
    }
  }
  block->scales_h = static_cast<uint16_t>(high);
}

template <class Block>
void encode_blocks(const float *src, const float *weight, uint8_t *dst, size_t n) {
  Block *block = reinterpret_cast<Block *>(dst);
  for (size_t i = 0; i < n; i += kSuper, block++) {
    encode_block(SuperInput(src + i, weight != nullptr ? weight + i : nullptr), block);
  }
}

}  // namespace

void encode_q2_k(const float *src, const float *weight, uint8_t *dst, size_t n) {
  encode_blocks<BlockQ2_K>(src, weight, dst, n);
}

void encode_q3_k(const float *src, const float *weight, uint8_t *dst, size_t n) {
  encode_blocks<BlockQ3_K>(src, weight, dst, n);
}

void encode_q4_k(const float *src, const float *weight, uint8_t *dst, size_t n) {
  encode_blocks<BlockQ4_K>(src, weight, dst, n);
}

void encode_q5_k(const float *src, const float *weight, uint8_t *dst, size_t n) {
  encode_blocks<BlockQ5_K>(src, weight, dst, n);
}

void encode_q6_k(const float *src, const float *weight, uint8_t *dst, size_t n) {
  encode_blocks<BlockQ6_K>(src, weight, dst, n);
}

void encode_iq4_xs(const float *src, const float *weight, uint8_t *dst, size_t n) {
  encode_blocks<BlockIQ4_XS>(src, weight, dst, n);
}

}  // namespace q35
