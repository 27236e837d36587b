// Woven rows: 16 rows of a quantised matrix side by side, so that one load of 64 bytes brings the
// same 4 bytes of 16 rows and kernels need no shuffles. Block after block along the rows, a tile
// holds the words of the 16 blocks next to each other, word after word, and then the half word of
// formats whose blocks are not a multiple of 4 bytes. No byte is added: a group of 16 rows stays
// where it was in the file's layout. Rows behind the last whole group keep that layout.
#pragma once

#include <cstdint>
#include <cstring>

#include "quant/quant.h"

namespace q35 {

constexpr uint32_t kWovenRows = 16;

// How a block is cut into words.
struct WovenBlock {
  uint32_t bytes;
  uint32_t words, first_word;  // count; byte of the first in the block
  bool has_half;
  uint32_t half;  // its byte in the block
};

// odd_half: see TypeTraits; it is first or last in a block.
constexpr WovenBlock woven_block(uint32_t block_bytes, uint32_t odd_half) {
  const bool has_half = block_bytes % 4 != 0;
  const uint32_t first_word = has_half && odd_half == 0 ? 2 : 0;
  return {block_bytes, block_bytes / 4, first_word, has_half, odd_half};
}

// Weaves 16 rows of n_blocks blocks each; may read 64 bytes past their end. Part of a kernel tier.
using WeaveFn = void (*)(const uint8_t *rows, uint64_t row_bytes, uint32_t n_blocks, uint8_t *out);

// One row's block of a tile, as in the file.
inline void unweave_block(const WovenBlock &shape, const uint8_t *tile, uint32_t row,
                          uint8_t *block) {
  for (uint32_t i = 0; i < shape.words; i++) {
    std::memcpy(block + shape.first_word + 4 * i, tile + (i * kWovenRows + row) * 4, 4);
  }
  if (!shape.has_half) return;
  std::memcpy(block + shape.half, tile + shape.words * kWovenRows * 4 + 2 * row, 2);
}

// One row of the whole groups of a woven matrix at `data`, as in the file. out: [row_bytes]
inline void unweave_row(const TypeTraits &type, const uint8_t *data, uint64_t row_bytes,
                        uint64_t row, uint8_t *out) {
  const WovenBlock shape = woven_block(type.block_bytes, type.odd_half);
  const uint32_t in_group = static_cast<uint32_t>(row % kWovenRows);
  const uint8_t *tile = data + (row - in_group) * row_bytes;
  for (uint64_t at = 0; at < row_bytes; at += type.block_bytes) {
    unweave_block(shape, tile + at * kWovenRows, in_group, out + at);
  }
}

}  // namespace q35
