// Encoders without a search: the float types, and Q8_0 with its customary rounding.
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "quant/blocks.h"
#include "quant/encode.h"
#include "quant/search.h"

namespace q35 {

void encode_f32(const float *src, const float *, uint8_t *dst, size_t n) {
  std::memcpy(dst, src, n * 4);
}

void encode_f16(const float *src, const float *, uint8_t *dst, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const uint16_t half = float_to_half(src[i]);
    std::memcpy(dst + 2 * i, &half, 2);
  }
}

void encode_bf16(const float *src, const float *, uint8_t *dst, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const uint16_t half = float_to_bf16(src[i]);
    std::memcpy(dst + 2 * i, &half, 2);
  }
}

// Scale = largest magnitude / 127, nearest level, ties away from zero. A search gains next to
// nothing at 8 bits, and this way files are byte for byte what other tools write.
void encode_q8_0(const float *src, const float *, uint8_t *dst, size_t n) {
  BlockQ8_0 *block = reinterpret_cast<BlockQ8_0 *>(dst);
  for (; n != 0; n -= BlockQ8_0::kSize, src += BlockQ8_0::kSize, block++) {
    float x[BlockQ8_0::kSize];
    load_finite(src, BlockQ8_0::kSize, x);
    const float d = max_magnitude(x, BlockQ8_0::kSize) / 127;
    const float inverse = d != 0 ? 1 / d : 0;
    block->d = scale_to_half(d);
    for (uint32_t i = 0; i < BlockQ8_0::kSize; i++) {
      const float scaled = x[i] * inverse;
      // The guard covers 1 / d overflowing for a subnormal d.
      const float magnitude = std::fmin(std::fabs(scaled), 127.0f);
      const int whole = static_cast<int>(magnitude);
      const int q = whole + (magnitude - static_cast<float>(whole) >= 0.5f);
      block->qs[i] = static_cast<int8_t>(scaled < 0 ? -q : q);
    }
  }
}

}  // namespace q35
