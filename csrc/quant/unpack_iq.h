// Integer form of one block of the grid formats (IQ1, IQ2, IQ3); contract as in unpack.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "quant/blocks.h"
#include "quant/iq_grids.h"

namespace q35 {

// q: [8] the grid row with the values of the bits set in `signs` negated. No byte of a row is 0, so
// the + 1 of the two's complement never carries into the next byte.
inline void put_signed_row(uint64_t row, uint8_t signs, int8_t *q) {
  const uint64_t mask = iq::kSignMasks.row[signs];
  const uint64_t value = (row ^ mask) + (mask & 0x0101010101010101u);
  std::memcpy(q, &value, 8);
}

inline uint64_t join_rows(uint32_t first, uint32_t second) {
  return first | static_cast<uint64_t>(second) << 32;
}

// q: [8] an IQ1 row in eighths, shifted down by one when `negative`, else up. Bytes are -8, 0 or 8:
// flipping their sign bit around the addition keeps it from carrying.
inline void put_shifted_row(uint64_t row, bool negative, int8_t *q) {
  constexpr uint64_t kOnes = 0x0101010101010101u, kSigns = 0x8080808080808080u;
  const uint64_t biased = row ^ kSigns;
  const uint64_t value = (negative ? biased - kOnes : biased + kOnes) ^ kSigns;
  std::memcpy(q, &value, 8);
}

inline void unpack_block(const BlockIQ3_XXS &block, int8_t *q, float *scale, float *) {
  const float d = half_to_float(block.d);
  for (int g = 0; g < 8; g++) {
    const uint32_t word = block.signs[g];
    scale[g] = d * (0.5f + static_cast<float>(word >> 28)) * 0.5f;
    for (int i = 0; i < 4; i++) {
      const uint8_t *index = block.qs + 8 * g + 2 * i;
      put_signed_row(join_rows(iq::kIq3Xxs.row[index[0]], iq::kIq3Xxs.row[index[1]]),
                     iq::kEvenSigns.row[word >> (7 * i) & 127], q + 32 * g + 8 * i);
    }
  }
}

inline void unpack_block(const BlockIQ3_S &block, int8_t *q, float *scale, float *) {
  const float d = half_to_float(block.d);
  for (int g = 0; g < 8; g++) {
    scale[g] = d * static_cast<float>(1 + 2 * (block.scales[g / 2] >> (g % 2 * 4) & 15));
    for (int i = 0; i < 4; i++) {
      const uint8_t *index = block.qs + 8 * g + 2 * i;
      const int high = block.qh[g] >> (2 * i);
      put_signed_row(join_rows(iq::kIq3S.row[index[0] | (high & 1) << 8],
                               iq::kIq3S.row[index[1] | (high >> 1 & 1) << 8]),
                     block.signs[4 * g + i], q + 32 * g + 8 * i);
    }
  }
}

inline void unpack_block(const BlockIQ2_XXS &block, int8_t *q, float *scale, float *) {
  const float d = half_to_float(block.d);
  for (int g = 0; g < 8; g++) {
    const uint32_t word = block.qs[g].signs;
    scale[g] = d * (0.5f + static_cast<float>(word >> 28)) * 0.25f;
    for (int i = 0; i < 4; i++) {
      put_signed_row(iq::kIq2Xxs.row[block.qs[g].grid[i]],
                     iq::kEvenSigns.row[word >> (7 * i) & 127], q + 32 * g + 8 * i);
    }
  }
}

// scale: [16] of the IQ2 formats with a nibble per group of 16.
inline void unpack_scales_iq2(float d, const uint8_t scales[8], float *scale) {
  for (int g = 0; g < 16; g++) {
    const int nibble = scales[g / 2] >> (g % 2 * 4) & 15;
    scale[g] = d * (0.5f + static_cast<float>(nibble)) * 0.25f;
  }
}

inline void unpack_block(const BlockIQ2_XS &block, int8_t *q, float *scale, float *) {
  unpack_scales_iq2(half_to_float(block.d), block.scales, scale);
  for (int i = 0; i < 32; i++) {
    const int word = block.qs[i];
    put_signed_row(iq::kIq2Xs.row[word & 511], iq::kEvenSigns.row[word >> 9], q + 8 * i);
  }
}

inline void unpack_block(const BlockIQ2_S &block, int8_t *q, float *scale, float *) {
  unpack_scales_iq2(half_to_float(block.d), block.scales, scale);
  for (int i = 0; i < 32; i++) {
    const int high = block.qh[i / 4] >> (i % 4 * 2) & 3;
    put_signed_row(iq::kIq2S.row[block.qs[i] | high << 8], block.signs[i], q + 8 * i);
  }
}

inline void unpack_block(const BlockIQ1_S &block, int8_t *q, float *scale, float *) {
  const float d = half_to_float(block.d) * 0.125f;  // q is in eighths
  for (int g = 0; g < 8; g++) {
    const int word = block.qh[g];
    scale[g] = d * static_cast<float>(2 * (word >> 12 & 7) + 1);
    for (int i = 0; i < 4; i++) {
      const int index = block.qs[4 * g + i] | (word >> (3 * i) & 7) << 8;
      put_shifted_row(iq::kIq1.row[index], (word & 0x8000) != 0, q + 32 * g + 8 * i);
    }
  }
}

inline void unpack_block(const BlockIQ1_M &block, int8_t *q, float *scale, float *) {
  int half = 0;
  for (int i = 0; i < 4; i++) half |= block.scales[i] >> 12 << (4 * i);
  const float d = half_to_float(static_cast<uint16_t>(half)) * 0.125f;  // q is in eighths
  for (int g = 0; g < 16; g++) {
    scale[g] = d * static_cast<float>(2 * (block.scales[g / 4] >> (g % 4 * 3) & 7) + 1);
  }
  for (int i = 0; i < 32; i++) {
    const int nibble = block.qh[i / 2] >> (i % 2 * 4) & 15;
    const int index = block.qs[i] | (nibble & 7) << 8;
    put_shifted_row(iq::kIq1.row[index], (nibble & 8) != 0, q + 8 * i);
  }
}

}  // namespace q35
