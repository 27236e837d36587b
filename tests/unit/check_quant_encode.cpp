// Checks encoders on input that the C API refuses: values that are not finite must neither spoil
// their block nor make any step undefined (build with -fsanitize=undefined to see the latter).
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

#include "quant/quant.h"

namespace {

constexpr uint32_t kValues = 1024;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Whether the finite values of `src` survive next to the others, which decode to almost 0.
bool check_values(const q35::TypeTraits &traits, const float *src, const float *weight) {
  static uint8_t blocks[kValues * 2 + 1];
  static float decoded[kValues];
  const uint64_t bytes = q35::type_bytes(traits, kValues);
  blocks[bytes] = 0x5c;
  traits.encode(src, weight, blocks, kValues);
  traits.decode(blocks, decoded, kValues);
  if (blocks[bytes] != 0x5c) {
    std::printf("%s: encode wrote past the end\n", traits.name);
    return false;
  }
  double error = 0, power = 0;
  for (uint32_t i = 0; i < kValues; i++) {
    const float expected = std::isfinite(src[i]) ? src[i] : 0.0f;
    error += std::pow(static_cast<double>(decoded[i]) - static_cast<double>(expected), 2);
    power += std::pow(static_cast<double>(expected), 2);
  }
  if (error < 0.15 * power) return true;  // false for a NaN, too
  std::printf("%s: squared error %g of %g\n", traits.name, error, power);
  return false;
}

bool check(const q35::TypeTraits &traits) {
  static float src[kValues], weight[kValues];
  for (uint32_t i = 0; i < kValues; i++) {
    src[i] = static_cast<float>(std::sin(0.7 * i) + 0.3 * std::cos(2.9 * i));
    weight[i] = static_cast<float>(1 + i % 7);
  }
  src[3] = kNan;
  src[300] = kInfinity;
  src[301] = -kInfinity;
  src[900] = -kNan;
  bool ok = check_values(traits, src, nullptr);
  ok = check_values(traits, src, weight) && ok;
  weight[10] = kNan;
  weight[20] = kInfinity;
  weight[30] = -1;
  return check_values(traits, src, weight) && ok;
}

}  // namespace

int main() {
  int failures = 0, encoders = 0;
  for (uint32_t type = 0; type < 64; type++) {
    const q35::TypeTraits *traits = q35::type_traits(type);
    if (traits == nullptr || traits->encode == nullptr || traits->group == 0) continue;
    encoders++;
    failures += !check(*traits);
  }
  if (encoders != 12) {
    std::printf("%d encoders, expected 12\n", encoders);
    failures++;
  }
  return failures == 0 ? 0 : 1;
}
