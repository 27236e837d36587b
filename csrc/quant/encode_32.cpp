// Encoders of the formats with blocks of 32 values and one scale: Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL.
#include "quant/blocks.h"
#include "quant/encode.h"
#include "quant/search.h"

namespace q35 {
namespace {

constexpr uint32_t kValues = 32;

// Level numbers [32] into nibbles, and their fifth bits.
void pack_nibbles(const uint8_t *number, uint8_t *qs) {
  for (int i = 0; i < 16; i++) {
    qs[i] = static_cast<uint8_t>((number[i] & 15) | (number[i + 16] & 15) << 4);
  }
}

uint32_t fifth_bits(const uint8_t *number) {
  uint32_t bits = 0;
  for (int i = 0; i < 32; i++) bits |= static_cast<uint32_t>(number[i] >> 4) << i;
  return bits;
}

// Finds the scale of 32 values; the levels are rounded to the scale as stored.
template <class Levels>
U16 encode_scaled(const float *src, const float *weight, const Trials &trials, uint8_t *number) {
  float x[kValues], w[kValues];
  load_finite(src, kValues, x);
  load_weights(weight, kValues, w);
  U16 stored;
  stored = scale_to_half(fit_scale<Levels>(x, w, kValues, trials, weight != nullptr).scale);
  number_levels<Levels>(x, kValues, half_to_float(stored), 0, number);
  return stored;
}

struct StoredPair {
  U16 d, m;
};

// The same for scale and minimum.
template <class Levels>
StoredPair encode_affine(const float *src, const float *weight, const Trials &trials,
                         uint8_t *number) {
  float x[kValues], w[kValues];
  load_finite(src, kValues, x);
  load_weights(weight, kValues, w);
  const AffineFit fit = fit_affine<Levels>(x, w, kValues, trials, weight != nullptr, false);
  StoredPair stored;
  stored.d = scale_to_half(fit.scale);
  stored.m = scale_to_half(-fit.min);
  number_levels<Levels>(x, kValues, half_to_float(stored.d), -half_to_float(stored.m), number);
  return stored;
}

// Calls encode(src, weight, block) for every block of n values.
template <class Block, class Encode>
void for_blocks(const float *src, const float *weight, uint8_t *dst, size_t n, Encode encode) {
  Block *block = reinterpret_cast<Block *>(dst);
  for (size_t i = 0; i < n; i += Block::kSize, block++) {
    encode(src + i, weight != nullptr ? weight + i : nullptr, block);
  }
}

}  // namespace

void encode_q4_0(const float *src, const float *weight, uint8_t *dst, size_t n) {
  constexpr Trials kTrials{6.0f, 0.375f, 12, 36};
  for_blocks<BlockQ4_0>(src, weight, dst, n, [&](const float *x, const float *w, BlockQ4_0 *block) {
    uint8_t number[kValues];
    block->d = encode_scaled<IntegerLevels<-8, 7>>(x, w, kTrials, number);
    pack_nibbles(number, block->qs);
  });
}

void encode_q5_0(const float *src, const float *weight, uint8_t *dst, size_t n) {
  constexpr Trials kTrials{13.0f, 0.5f, 12, 48};
  for_blocks<BlockQ5_0>(src, weight, dst, n, [&](const float *x, const float *w, BlockQ5_0 *block) {
    uint8_t number[kValues];
    block->d = encode_scaled<IntegerLevels<-16, 15>>(x, w, kTrials, number);
    block->qh = fifth_bits(number);
    pack_nibbles(number, block->qs);
  });
}

void encode_q4_1(const float *src, const float *weight, uint8_t *dst, size_t n) {
  constexpr Trials kTrials{12.0f, 0.375f, 16, 48};
  for_blocks<BlockQ4_1>(src, weight, dst, n, [&](const float *x, const float *w, BlockQ4_1 *block) {
    uint8_t number[kValues];
    const StoredPair pair = encode_affine<IntegerLevels<0, 15>>(x, w, kTrials, number);
    block->d = pair.d;
    block->m = pair.m;
    pack_nibbles(number, block->qs);
  });
}

void encode_q5_1(const float *src, const float *weight, uint8_t *dst, size_t n) {
  constexpr Trials kTrials{26.0f, 0.5f, 20, 56};
  for_blocks<BlockQ5_1>(src, weight, dst, n, [&](const float *x, const float *w, BlockQ5_1 *block) {
    uint8_t number[kValues];
    const StoredPair pair = encode_affine<IntegerLevels<0, 31>>(x, w, kTrials, number);
    block->d = pair.d;
    block->m = pair.m;
    block->qh = fifth_bits(number);
    pack_nibbles(number, block->qs);
  });
}

void encode_iq4_nl(const float *src, const float *weight, uint8_t *dst, size_t n) {
  constexpr Trials kTrials{88.0f, 4.0f, 16, 40};
  for_blocks<BlockIQ4_NL>(
      src, weight, dst, n, [&](const float *x, const float *w, BlockIQ4_NL *block) {
        float values[kValues], weights[kValues];
        load_finite(x, kValues, values);
        load_weights(w, kValues, weights);
        block->d = scale_to_half(
            fit_scale<Iq4Levels>(values, weights, kValues, kTrials, w != nullptr).scale);
        uint8_t number[kValues];
        Iq4Levels::numbers(values, kValues, inverse_or_zero(half_to_float(block->d)), number);
        pack_nibbles(number, block->qs);
      });
}

}  // namespace q35
