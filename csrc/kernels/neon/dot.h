// The integer dot products of the three AArch64 tiers, chosen by the flags of the file that
// includes this: smmla with i8mm, sdot with dotprod, widening multiplies without. All are exact,
// for weights in [-128, 127] and activations in [-127, 127]. Everything is static: each tier has
// its own copy.
#pragma once

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

namespace q35 {
namespace {

// Values of k that lie together in panels and tiles: what one lane (or, without dot products, one
// register) multiplies.
#if defined(__ARM_FEATURE_MATMUL_INT8)
constexpr uint32_t kUnitK = 8;
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr uint32_t kUnitK = 4;
#else
constexpr uint32_t kUnitK = 16;
#endif

inline int8x16x2_t load32(const int8_t *p) {
  return {{vld1q_s8(p), vld1q_s8(p + 16)}};
}

// A dot that starts at the bits of kStart = 1.5 * 2^23 is, read as a float, kStart + dot: exactly,
// as long as |dot| < 2^22, and it is at most 32 * 128 * 127 < 2^19. That spares the conversion,
// which on the Cortex-A76 takes as long as two subtractions.
constexpr float kStart = 12582912.0f;

#if defined(__ARM_FEATURE_DOTPROD)

constexpr int32_t kStartBits[4] = {0x4b400000, 0x4b400000, 0x4b400000, 0x4b400000};

// Loads a vector each time that it is used: where the vector pipes are the limit, a load costs
// nothing and a copy between registers does.
inline int32x4_t reload(const int32_t *p) {
  int32x4_t value;
  __asm__ volatile("ldr %q0, %1" : "=w"(value) : "Q"(*reinterpret_cast<const int32x4_t *>(p)));
  return value;
}

inline float32x4_t from_start(int32x4_t dot) {
  return vsubq_f32(vreinterpretq_f32_s32(dot), vdupq_n_f32(kStart));
}

// The dot product of 16 values in four parts, one in each lane.
inline float32x4_t dot16(int8x16_t w, int8x16_t x) {
  return from_start(vdotq_s32(reload(kStartBits), w, x));
}

// Of 32 values; kMax bounds the size of w.
template <int kMax>
inline float32x4_t dot32(int8x16x2_t w, int8x16x2_t x) {
  const int32x4_t first = vdotq_s32(reload(kStartBits), w.val[0], x.val[0]);
  return from_start(vdotq_s32(first, w.val[1], x.val[1]));
}

#else

// Each lane of 16 bits is the sum of two products: at most 2 * 128 * 127 < 2^15.
inline int16x8_t pairs16(int8x16_t w, int8x16_t x) {
  const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
  return vmlal_high_s8(low, w, x);
}

inline int32x4_t int_dot16(int8x16_t w, int8x16_t x) {
  return vpaddlq_s16(pairs16(w, x));
}

template <int kMax>
inline int32x4_t int_dot32(int8x16x2_t w, int8x16x2_t x) {
  int16x8_t sum = pairs16(w.val[0], x.val[0]);
  if constexpr (kMax <= 64) {  // four products fit as well: 4 * 64 * 127 < 2^15
    sum = vmlal_s8(sum, vget_low_s8(w.val[1]), vget_low_s8(x.val[1]));
    return vpaddlq_s16(vmlal_high_s8(sum, w.val[1], x.val[1]));
  }
  return vpadalq_s16(vpaddlq_s16(sum), pairs16(w.val[1], x.val[1]));
}

// The dot product of 16 values in four parts, one in each lane.
inline float32x4_t dot16(int8x16_t w, int8x16_t x) {
  return vcvtq_f32_s32(int_dot16(w, x));
}

// Of 32 values; kMax bounds the size of w.
template <int kMax>
inline float32x4_t dot32(int8x16x2_t w, int8x16x2_t x) {
  return vcvtq_f32_s32(int_dot32<kMax>(w, x));
}

#endif

// Runs the tier's product on registers in independent chains and returns the multiply-adds done.
uint64_t int8_peak_loop(uint64_t iterations) {
  constexpr int kChains = 12;
  int32x4_t sum[kChains];
  for (int i = 0; i < kChains; i++) sum[i] = vdupq_n_s32(i);
  const int8x16_t a = vdupq_n_s8(static_cast<int8_t>(iterations & 63));
  for (uint64_t n = 0; n < iterations; n++) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; i++) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
      sum[i] = vmmlaq_s32(sum[i], a, a);
#elif defined(__ARM_FEATURE_DOTPROD)
      sum[i] = vdotq_s32(sum[i], a, a);
#else
      sum[i] = vpadalq_s16(sum[i], pairs16(a, vreinterpretq_s8_s32(sum[i])));
#endif
      __asm__ volatile("" : "+w"(sum[i]));  // keeps the product in the loop
    }
  }
#if defined(__ARM_FEATURE_MATMUL_INT8)
  return iterations * kChains * 32;
#else
  return iterations * kChains * 16;
#endif
}

}  // namespace
}  // namespace q35
