// Checks the integer form of every block format against its decoder, on random bytes:
// scale * q - min must be the decoded value, and q, scale and min must stay in their ranges.
#include <cmath>
#include <cstdio>
#include <cstring>

#include "quant/quant.h"

namespace {

constexpr uint32_t kValues = 256 * 61;

uint64_t g_state = 0x9e3779b97f4a7c15u;

uint8_t random_byte() {
  g_state = g_state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<uint8_t>(g_state >> 56);
}

bool same(float a, float b) {
  return a == b || (std::isnan(a) && std::isnan(b));
}

// The smallest and largest integer that a format can hold.
struct Range {
  q35::DType type;
  int low, high;
};

constexpr Range kRanges[] = {
    {q35::DType::Q4_0, -8, 7},       {q35::DType::Q4_1, 0, 15},
    {q35::DType::Q5_0, -16, 15},     {q35::DType::Q5_1, 0, 31},
    {q35::DType::Q8_0, -128, 127},   {q35::DType::Q2_K, 0, 3},
    {q35::DType::Q3_K, -4, 3},       {q35::DType::Q4_K, 0, 15},
    {q35::DType::Q5_K, 0, 31},       {q35::DType::Q6_K, -32, 31},
    {q35::DType::IQ4_NL, -127, 113}, {q35::DType::IQ4_XS, -127, 113},
    {q35::DType::IQ3_XXS, -62, 62},  {q35::DType::IQ3_S, -15, 15},
    {q35::DType::IQ2_XXS, -43, 43},  {q35::DType::IQ2_XS, -43, 43},
    {q35::DType::IQ2_S, -43, 43},    {q35::DType::IQ1_S, -9, 9},
    {q35::DType::IQ1_M, -9, 9},
};

int check(const Range &range, bool zero_scales) {
  static uint8_t blocks[kValues * 2];
  static float decoded[kValues], scale[kValues / 16 + 1], min[kValues / 16 + 1];
  static int8_t q[kValues + 1];
  const q35::TypeTraits &traits = q35::type_traits(range.type);
  const uint64_t bytes = q35::type_bytes(traits, kValues);
  // An odd address: blocks must not need alignment.
  uint8_t *src = blocks + 1;
  for (uint64_t i = 0; i < bytes; i++) src[i] = zero_scales ? 0 : random_byte();
  const uint32_t groups = kValues / traits.group;
  scale[groups] = min[groups] = 12345;
  q[kValues] = 99;
  traits.decode(src, decoded, kValues);
  traits.unpack(src, q, scale, traits.has_min ? min : nullptr, kValues);

  int low = 127, high = -128;
  for (uint32_t i = 0; i < kValues; i++) {
    const uint32_t g = i / traits.group;
    const float value = scale[g] * static_cast<float>(q[i]) - (traits.has_min ? min[g] : 0.0f);
    if (!same(value, decoded[i])) {
      std::printf("%s: value %u: decoded %g, scale %g * q %d - min = %g\n", traits.name, i,
                  static_cast<double>(decoded[i]), static_cast<double>(scale[g]), q[i],
                  static_cast<double>(value));
      return 1;
    }
    low = q[i] < low ? q[i] : low;
    high = q[i] > high ? q[i] : high;
  }
  if (!zero_scales && (low != range.low || high != range.high)) {
    std::printf("%s: q in [%d, %d], expected [%d, %d]\n", traits.name, low, high, range.low,
                range.high);
    return 1;
  }
  if (q[kValues] != 99 || scale[groups] != 12345 || min[groups] != 12345) {
    std::printf("%s: unpack wrote past the end\n", traits.name);
    return 1;
  }
  return 0;
}

}  // namespace

int main() {
  int failures = 0;
  uint32_t block_types = 0;
  for (uint32_t type = 0; type < 64; type++) {
    const q35::TypeTraits *traits = q35::type_traits(type);
    block_types += traits != nullptr && traits->group != 0;
  }
  if (block_types != sizeof(kRanges) / sizeof(kRanges[0])) {
    std::printf("%u block formats in the table, %zu checked here\n", block_types,
                sizeof(kRanges) / sizeof(kRanges[0]));
    failures++;
  }
  for (const Range &range : kRanges) {
    failures += check(range, false);
    failures += check(range, true);
  }
  return failures == 0 ? 0 : 1;
}
