// The table of tensor types, and the loops that turn one-block functions into whole-row ones.
#include "quant/encode.h"
#include "quant/quant.h"
#include "quant/unpack.h"
#include "quant/unpack_iq.h"

namespace q35 {
namespace {

void decode_f32(const uint8_t *src, float *dst, size_t n) {
  std::memcpy(dst, src, n * 4);
}

void decode_f16(const uint8_t *src, float *dst, size_t n) {
  for (size_t i = 0; i < n; i++) {
    uint16_t half;
    std::memcpy(&half, src + 2 * i, 2);
    dst[i] = half_to_float(half);
  }
}

void decode_bf16(const uint8_t *src, float *dst, size_t n) {
  for (size_t i = 0; i < n; i++) {
    uint16_t half;
    std::memcpy(&half, src + 2 * i, 2);
    dst[i] = bf16_to_float(half);
  }
}

// Scale * q is exact (see unpack.h), so one multiplication and one subtraction give the same bits
// as any order of the format's own factors.
template <class Block>
void decode_blocks(const uint8_t *src, float *dst, size_t n) {
  constexpr uint32_t kGroups = Block::kSize / Block::kGroup;
  const Block *blocks = reinterpret_cast<const Block *>(src);
  for (size_t b = 0; b < n / Block::kSize; b++) {
    int8_t q[Block::kSize];
    float scale[kGroups], min[kGroups];
    unpack_block(blocks[b], q, scale, min);
    for (uint32_t g = 0; g < kGroups; g++) {
      for (uint32_t i = g * Block::kGroup; i < (g + 1) * Block::kGroup; i++) {
        const float value = scale[g] * static_cast<float>(q[i]);
        if constexpr (Block::kHasMin) {
          dst[i] = value - min[g];
        } else {
          dst[i] = value;
        }
      }
    }
    dst += Block::kSize;
  }
}

template <class Block>
void unpack_blocks(const uint8_t *src, int8_t *q, float *scale, float *min, size_t n) {
  constexpr uint32_t kGroups = Block::kSize / Block::kGroup;
  const Block *blocks = reinterpret_cast<const Block *>(src);
  for (size_t b = 0; b < n / Block::kSize; b++) {
    unpack_block(blocks[b], q, scale, min);
    q += Block::kSize;
    scale += kGroups;
    if constexpr (Block::kHasMin) min += kGroups;
  }
}

using Encode = decltype(TypeTraits::encode);

template <class Block>
constexpr TypeTraits blocks(DType type, const char *name, Encode encode) {
  return {type,
          name,
          Block::kSize,
          sizeof(Block),
          Block::kGroup,
          Block::kHasMin,
          odd_half<Block>(),
          decode_blocks<Block>,
          unpack_blocks<Block>,
          encode};
}

constexpr TypeTraits kTraits[] = {
    {DType::F32, "F32", 1, 4, 0, false, 0, decode_f32, nullptr, encode_f32},
    {DType::F16, "F16", 1, 2, 0, false, 0, decode_f16, nullptr, encode_f16},
    {DType::BF16, "BF16", 1, 2, 0, false, 0, decode_bf16, nullptr, encode_bf16},
    blocks<BlockQ4_0>(DType::Q4_0, "Q4_0", encode_q4_0),
    blocks<BlockQ4_1>(DType::Q4_1, "Q4_1", encode_q4_1),
    blocks<BlockQ5_0>(DType::Q5_0, "Q5_0", encode_q5_0),
    blocks<BlockQ5_1>(DType::Q5_1, "Q5_1", encode_q5_1),
    blocks<BlockQ8_0>(DType::Q8_0, "Q8_0", encode_q8_0),
    blocks<BlockQ2_K>(DType::Q2_K, "Q2_K", encode_q2_k),
    blocks<BlockQ3_K>(DType::Q3_K, "Q3_K", encode_q3_k),
    blocks<BlockQ4_K>(DType::Q4_K, "Q4_K", encode_q4_k),
    blocks<BlockQ5_K>(DType::Q5_K, "Q5_K", encode_q5_k),
    blocks<BlockQ6_K>(DType::Q6_K, "Q6_K", encode_q6_k),
    blocks<BlockIQ4_NL>(DType::IQ4_NL, "IQ4_NL", encode_iq4_nl),
    blocks<BlockIQ4_XS>(DType::IQ4_XS, "IQ4_XS", encode_iq4_xs),
    blocks<BlockIQ3_XXS>(DType::IQ3_XXS, "IQ3_XXS", nullptr),
    blocks<BlockIQ3_S>(DType::IQ3_S, "IQ3_S", nullptr),
    blocks<BlockIQ2_XXS>(DType::IQ2_XXS, "IQ2_XXS", nullptr),
    blocks<BlockIQ2_XS>(DType::IQ2_XS, "IQ2_XS", nullptr),
    blocks<BlockIQ2_S>(DType::IQ2_S, "IQ2_S", nullptr),
    blocks<BlockIQ1_S>(DType::IQ1_S, "IQ1_S", nullptr),
    blocks<BlockIQ1_M>(DType::IQ1_M, "IQ1_M", nullptr),
};

}  // namespace

const TypeTraits *type_traits(uint32_t type) {
  for (const TypeTraits &traits : kTraits) {
    if (static_cast<uint32_t>(traits.type) == type) return &traits;
  }
  return nullptr;
}

}  // namespace q35
