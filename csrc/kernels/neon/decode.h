// Decoders of the quantised formats for NEON, one block of the file at a time. A format D has
//   kUnit       values of a block; kBytes: its bytes; kGroup: values per scale
//   kMax        bound of the size of a weight
//   load<c>(p)  weights 32c..32c+31 of the blocks from p on, in their natural order
//   scales<n>(p)  scales (and minimums) of the n groups of 32 values from p on, n = 1, 4 or 8:
//               value = scale * weight - min
// From quant/blocks.h only layouts and constants are used: its functions belong to another tier.
#pragma once

#include "kernels/neon/dot.h"
#include "quant/blocks.h"

namespace q35 {
namespace {

inline uint32_t load_u16(const void *p) {
  uint16_t value;
  __builtin_memcpy(&value, p, 2);
  return value;
}
inline uint32_t load_u32(const void *p) {
  uint32_t value;
  __builtin_memcpy(&value, p, 4);
  return value;
}
inline float half_at(const void *p) {
  const float16x4_t h = vreinterpret_f16_u16(vdup_n_u16(static_cast<uint16_t>(load_u16(p))));
  return vgetq_lane_f32(vcvt_f32_f16(h), 0);
}

// Scales of kN groups of 32: scale[kParts * g + i] of part i of group g, four to a register.
template <class D, int kN>
struct Scales {
  static constexpr int kParts = 32 / D::kGroup;
  float32x4_t scale[(kN * kParts + 3) / 4];
  float32x4_t min[D::kHasMin ? (kN + 3) / 4 : 1];
};

// Low (kHigh false) or high halves of bytes.
template <bool kHigh>
inline uint8x16_t nibbles(uint8x16_t x) {
  return kHigh ? vshrq_n_u8(x, 4) : vandq_u8(x, vdupq_n_u8(15));
}

inline int8x16_t minus(uint8x16_t x, int8_t bias) {
  return vsubq_s8(vreinterpretq_s8_u8(x), vdupq_n_s8(bias));
}

inline int8x16_t codebook(uint8x16_t x) {
  return vqtbl1q_s8(vld1q_s8(kIq4Values), x);
}

template <class Block>
struct Layout {
  static constexpr uint32_t kUnit = Block::kSize, kBytes = sizeof(Block), kGroup = Block::kGroup;
  static constexpr bool kHasMin = Block::kHasMin;
  static const Block *at(const uint8_t *p) { return reinterpret_cast<const Block *>(p); }
};

// Blocks of 32 values that begin with their scale.
template <class D, class Block>
struct Simple : Layout<Block> {
  template <int kN>
  static Scales<D, kN> scales(const uint8_t *p) {
    if constexpr (kN == 1) return {{vdupq_n_f32(half_at(p))}, {}};
    uint64_t h = load_u16(p) | load_u16(p + sizeof(Block)) << 16;
    h |= static_cast<uint64_t>(load_u16(p + 2 * sizeof(Block))) << 32;
    h |= static_cast<uint64_t>(load_u16(p + 3 * sizeof(Block))) << 48;
    return {{vcvt_f32_f16(vreinterpret_f16_u64(vcreate_u64(h)))}, {}};
  }
};

struct Q4_0 : Simple<Q4_0, BlockQ4_0> {
  static constexpr int kMax = 8;
  template <int kC>
  static int8x16x2_t load(const uint8_t *p) {
    const uint8x16_t x = vld1q_u8(at(p)[kC].qs);
    return {{minus(nibbles<false>(x), 8), minus(nibbles<true>(x), 8)}};
  }
};

struct Q8_0 : Simple<Q8_0, BlockQ8_0> {
  static constexpr int kMax = 128;
  template <int kC>
  static int8x16x2_t load(const uint8_t *p) {
    return load32(at(p)[kC].qs);
  }
};

struct IQ4_NL : Simple<IQ4_NL, BlockIQ4_NL> {
  static constexpr int kMax = 127;
  template <int kC>
  static int8x16x2_t load(const uint8_t *p) {
    const uint8x16_t x = vld1q_u8(at(p)[kC].qs);
    return {{codebook(nibbles<false>(x)), codebook(nibbles<true>(x))}};
  }
};

struct IQ4_XS : Layout<BlockIQ4_XS> {
  static constexpr int kMax = 127;
  template <int kC>
  static int8x16x2_t load(const uint8_t *p) {
    const uint8x16_t x = vld1q_u8(at(p)->qs + 16 * kC);
    return {{codebook(nibbles<false>(x)), codebook(nibbles<true>(x))}};
  }
  template <int kN>
  static Scales<IQ4_XS, kN> scales(const uint8_t *p) {
    const uint32x4_t low = vdupq_n_u32(load_u32(at(p)->scales_l));
    const uint32x4_t high = vdupq_n_u32(load_u16(at(p)->scales_h.bytes) << 4);
    const float32x4_t d = vdupq_n_f32(half_at(at(p)->d.bytes));
    Scales<IQ4_XS, kN> out;
    for (int i = 0; i < 2; i++) {  // nibble g of low, bit pair g of high, for g = 4i + lane
      const int32x4_t step = {0, 1, 2, 3};
      const int32x4_t right = vsubq_s32(vdupq_n_s32(-4 * i), step);
      const uint32x4_t a = vandq_u32(vshlq_u32(low, vshlq_n_s32(right, 2)), vdupq_n_u32(15));
      const uint32x4_t b = vandq_u32(vshlq_u32(high, vshlq_n_s32(right, 1)), vdupq_n_u32(48));
      const int32x4_t q = vsubq_s32(vreinterpretq_s32_u32(vorrq_u32(a, b)), vdupq_n_s32(32));
      out.scale[i] = vmulq_f32(vcvtq_f32_s32(q), d);
    }
    return out;
  }
};

// Eight bytes times d.
inline void scale_bytes(uint8x8_t q, float32x4_t d, float32x4_t *out) {
  const uint16x8_t wide = vmovl_u8(q);
  out[0] = vmulq_f32(vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide))), d);
  out[1] = vmulq_f32(vcvtq_f32_u32(vmovl_high_u16(wide)), d);
}

// The 6-bit scales and mins of Q4_K and Q5_K (layout: unpack_scales_k4) times d and dmin.
inline void scales_k4(const uint8_t *d, const uint8_t *dmin, const uint8_t *packed,
                      float32x4_t *scale, float32x4_t *min) {
  const uint32_t a = load_u32(packed), b = load_u32(packed + 4), c = load_u32(packed + 8);
  const uint64_t scale_high = (c & 0x0f0f0f0fu) | (a >> 2 & 0x30303030u);
  const uint64_t min_high = (c >> 4 & 0x0f0f0f0fu) | (b >> 2 & 0x30303030u);
  const uint8x8_t s = vcreate_u8((a & 0x3f3f3f3fu) | scale_high << 32);
  const uint8x8_t m = vcreate_u8((b & 0x3f3f3f3fu) | min_high << 32);
  scale_bytes(s, vdupq_n_f32(half_at(d)), scale);
  scale_bytes(m, vdupq_n_f32(half_at(dmin)), min);
}

struct Q4_K : Layout<BlockQ4_K> {
  static constexpr int kMax = 15;
  template <int kC>
  static int8x16x2_t load(const uint8_t *p) {
    const uint8x16_t a = vld1q_u8(at(p)->qs + 32 * (kC / 2));
    const uint8x16_t b = vld1q_u8(at(p)->qs + 32 * (kC / 2) + 16);
    return {{vreinterpretq_s8_u8(nibbles<kC % 2 != 0>(a)),
             vreinterpretq_s8_u8(nibbles<kC % 2 != 0>(b))}};
  }
  template <int kN>
  static Scales<Q4_K, kN> scales(const uint8_t *p) {
    Scales<Q4_K, kN> out;
    scales_k4(at(p)->d.bytes, at(p)->dmin.bytes, at(p)->scales, out.scale, out.min);
    return out;
  }
};

struct Q5_K : Layout<BlockQ5_K> {
  static constexpr int kMax = 31;
  // 16 nibbles at qs and the bits kC of qh as their fifth.
  template <int kC>
  static int8x16_t five_bits(const uint8_t *qs, const uint8_t *qh) {
    const uint8x16_t bit = vshlq_u8(vld1q_u8(qh), vdupq_n_s8(4 - kC));
    const uint8x16_t low = nibbles<kC % 2 != 0>(vld1q_u8(qs));
    return vreinterpretq_s8_u8(vorrq_u8(low, vandq_u8(bit, vdupq_n_u8(16))));
  }
  template <int kC>
  static int8x16x2_t load(const uint8_t *p) {
    const uint8_t *qs = at(p)->qs + 32 * (kC / 2), *qh = at(p)->qh;
    return {{five_bits<kC>(qs, qh), five_bits<kC>(qs + 16, qh + 16)}};
  }
  template <int kN>
  static Scales<Q5_K, kN> scales(const uint8_t *p) {
    Scales<Q5_K, kN> out;
    scales_k4(at(p)->d.bytes, at(p)->dmin.bytes, at(p)->scales, out.scale, out.min);
    return out;
  }
};

struct Q6_K : Layout<BlockQ6_K> {
  static constexpr int kMax = 32;
  // 16 nibbles at ql and the bit pairs kC % 4 of qh above them.
  template <int kC>
  static int8x16_t six_bits(const uint8_t *ql, const uint8_t *qh) {
    const uint8x16_t pair = vshlq_u8(vld1q_u8(qh), vdupq_n_s8(4 - kC % 4 * 2));
    const uint8x16_t low = nibbles<kC % 4 / 2 != 0>(vld1q_u8(ql));
    return minus(vorrq_u8(low, vandq_u8(pair, vdupq_n_u8(48))), 32);
  }
  template <int kC>
  static int8x16x2_t load(const uint8_t *p) {
    const uint8_t *ql = at(p)->ql + 64 * (kC / 4) + 32 * (kC % 2), *qh = at(p)->qh + 32 * (kC / 4);
    return {{six_bits<kC>(ql, qh), six_bits<kC>(ql + 16, qh + 16)}};
  }
  template <int kN>
  static Scales<Q6_K, kN> scales(const uint8_t *p) {
    const float32x4_t d = vdupq_n_f32(half_at(at(p)->d.bytes));
    const int8x16_t q = vld1q_s8(at(p)->scales);
    const int16x8_t half[2] = {vmovl_s8(vget_low_s8(q)), vmovl_high_s8(q)};
    Scales<Q6_K, kN> out;
    for (int i = 0; i < 2; i++) {
      out.scale[2 * i] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(half[i]))), d);
      out.scale[2 * i + 1] = vmulq_f32(vcvtq_f32_s32(vmovl_high_s16(half[i])), d);
    }
    return out;
  }
};

}  // namespace
}  // namespace q35
