// Integer form of one block of the Q formats and of the IQ4 codebook formats:
//   value[i] = scale[i / group] * q[i] - min[i / group]
// exactly: scale is a half times a small integer, so scale * q needs no rounding.
#pragma once

#include <cstdint>

#include "quant/blocks.h"

namespace q35 {

// q: [32] nibbles of qs [16], low halves first, minus `offset`.
inline void unpack_nibbles(const uint8_t *qs, int offset, int8_t *q) {
  for (int i = 0; i < 16; i++) {
    q[i] = static_cast<int8_t>((qs[i] & 15) - offset);
    q[i + 16] = static_cast<int8_t>((qs[i] >> 4) - offset);
  }
}

// As unpack_nibbles, with bit i of `high` as the fifth bit of value i.
inline void unpack_nibbles_5(const uint8_t *qs, uint32_t high, int offset, int8_t *q) {
  for (int i = 0; i < 16; i++) {
    q[i] = static_cast<int8_t>(((qs[i] & 15) | (high >> i & 1) << 4) - offset);
    q[i + 16] = static_cast<int8_t>(((qs[i] >> 4) | (high >> (i + 16) & 1) << 4) - offset);
  }
}

// q: [32] codebook levels of the nibbles of qs [16].
inline void unpack_codebook(const uint8_t *qs, int8_t *q) {
  for (int i = 0; i < 16; i++) {
    q[i] = kIq4Values[qs[i] & 15];
    q[i + 16] = kIq4Values[qs[i] >> 4];
  }
}

// Every overload: q: [kSize], scale: [kSize / kGroup], min: the same, written only with kHasMin.

inline void unpack_block(const BlockQ4_0 &block, int8_t *q, float *scale, float *) {
  scale[0] = half_to_float(block.d);
  unpack_nibbles(block.qs, 8, q);
}

inline void unpack_block(const BlockQ4_1 &block, int8_t *q, float *scale, float *min) {
  scale[0] = half_to_float(block.d);
  min[0] = -half_to_float(block.m);
  unpack_nibbles(block.qs, 0, q);
}

inline void unpack_block(const BlockQ5_0 &block, int8_t *q, float *scale, float *) {
  scale[0] = half_to_float(block.d);
  unpack_nibbles_5(block.qs, block.qh, 16, q);
}

inline void unpack_block(const BlockQ5_1 &block, int8_t *q, float *scale, float *min) {
  scale[0] = half_to_float(block.d);
  min[0] = -half_to_float(block.m);
  unpack_nibbles_5(block.qs, block.qh, 0, q);
}

inline void unpack_block(const BlockQ8_0 &block, int8_t *q, float *scale, float *) {
  scale[0] = half_to_float(block.d);
  std::memcpy(q, block.qs, 32);
}

inline void unpack_block(const BlockIQ4_NL &block, int8_t *q, float *scale, float *) {
  scale[0] = half_to_float(block.d);
  unpack_codebook(block.qs, q);
}

inline void unpack_block(const BlockQ2_K &block, int8_t *q, float *scale, float *min) {
  const float d = half_to_float(block.d), dmin = half_to_float(block.dmin);
  for (int g = 0; g < 16; g++) {
    scale[g] = d * static_cast<float>(block.scales[g] & 15);
    min[g] = dmin * static_cast<float>(block.scales[g] >> 4);
  }
  for (int k = 0; k < 8; k++) {
    const uint8_t *qs = block.qs + k / 4 * 32;
    const int shift = k % 4 * 2;
    for (int l = 0; l < 32; l++) q[32 * k + l] = static_cast<int8_t>(qs[l] >> shift & 3);
  }
}

inline void unpack_block(const BlockQ3_K &block, int8_t *q, float *scale, float *) {
  const float d = half_to_float(block.d);
  int8_t scales[16];
  unpack_scales_q3(block.scales, scales);
  for (int g = 0; g < 16; g++) scale[g] = d * static_cast<float>(scales[g]);
  for (int k = 0; k < 8; k++) {
    const uint8_t *qs = block.qs + k / 4 * 32;
    const int shift = k % 4 * 2;
    for (int l = 0; l < 32; l++) {
      const int high = block.hmask[l] >> k & 1;
      q[32 * k + l] = static_cast<int8_t>((qs[l] >> shift & 3) + 4 * high - 4);
    }
  }
}

// Scales and mins of Q4_K and Q5_K, [8] each.
template <class Block>
inline void unpack_scales(const Block &block, float *scale, float *min) {
  const float d = half_to_float(block.d), dmin = half_to_float(block.dmin);
  uint8_t scales[8], mins[8];
  unpack_scales_k4(block.scales, scales, mins);
  for (int g = 0; g < 8; g++) {
    scale[g] = d * static_cast<float>(scales[g]);
    min[g] = dmin * static_cast<float>(mins[g]);
  }
}

inline void unpack_block(const BlockQ4_K &block, int8_t *q, float *scale, float *min) {
  unpack_scales(block, scale, min);
  for (int c = 0; c < 4; c++) {
    const uint8_t *qs = block.qs + 32 * c;
    for (int l = 0; l < 32; l++) q[64 * c + l] = static_cast<int8_t>(qs[l] & 15);
    for (int l = 0; l < 32; l++) q[64 * c + 32 + l] = static_cast<int8_t>(qs[l] >> 4);
  }
}

inline void unpack_block(const BlockQ5_K &block, int8_t *q, float *scale, float *min) {
  unpack_scales(block, scale, min);
  for (int k = 0; k < 8; k++) {
    const uint8_t *qs = block.qs + k / 2 * 32;
    const int shift = k % 2 * 4;
    for (int l = 0; l < 32; l++) {
      q[32 * k + l] = static_cast<int8_t>((qs[l] >> shift & 15) | (block.qh[l] >> k & 1) << 4);
    }
  }
}

inline void unpack_block(const BlockQ6_K &block, int8_t *q, float *scale, float *) {
  const float d = half_to_float(block.d);
  for (int g = 0; g < 16; g++) scale[g] = d * static_cast<float>(block.scales[g]);
  for (int k = 0; k < 8; k++) {
    const uint8_t *ql = block.ql + k / 4 * 64 + k % 2 * 32;
    const uint8_t *qh = block.qh + k / 4 * 32;
    const int low = k % 4 / 2 * 4, high = k % 4 * 2;
    for (int l = 0; l < 32; l++) {
      q[32 * k + l] = static_cast<int8_t>(((ql[l] >> low & 15) | (qh[l] >> high & 3) << 4) - 32);
    }
  }
}

inline void unpack_block(const BlockIQ4_XS &block, int8_t *q, float *scale, float *) {
  const float d = half_to_float(block.d);
  const int high = block.scales_h;
  for (int g = 0; g < 8; g++) {
    const int low = block.scales_l[g / 2] >> (g % 2 * 4) & 15;
    scale[g] = d * static_cast<float>((low | (high >> (2 * g) & 3) << 4) - 32);
    unpack_codebook(block.qs + 16 * g, q + 32 * g);
  }
}

}  // namespace q35
