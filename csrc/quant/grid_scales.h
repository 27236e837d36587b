// Where the scales of the IQ2 and IQ3 formats lie in a woven block (quant/weave.h): they are
// d * (base + step * nibble).
#pragma once

#include "quant/blocks.h"

namespace q35 {

struct GridScales {
  uint32_t word;  // the first with nibbles
  uint32_t next;  // words from one nibble, on top of its word, to the next; 0: they are packed
  float base, step;
};

constexpr GridScales grid_scales_of(const BlockIQ2_XXS *) {
  return {1, 2, 0.125f, 0.25f};
}
constexpr GridScales grid_scales_of(const BlockIQ2_XS *) {
  return {16, 0, 0.125f, 0.25f};
}
constexpr GridScales grid_scales_of(const BlockIQ2_S *) {
  return {18, 0, 0.125f, 0.25f};
}
constexpr GridScales grid_scales_of(const BlockIQ3_XXS *) {
  return {16, 1, 0.25f, 0.5f};
}
constexpr GridScales grid_scales_of(const BlockIQ3_S *) {
  return {26, 0, 1, 2};
}

}  // namespace q35
