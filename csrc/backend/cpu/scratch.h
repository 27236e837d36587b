// Sizes of the CPU backend's scratch memory, in one place: each operation lays its part out from
// the start of the thread's scratch, so the scratch is as large as the largest of them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"
#include "model/config.h"

namespace q35 {

// ---- linear: an unpacked panel and the unpacker's own scratch, or a float panel
// Float panels: k values of one, and how many share a stretch of tokens, which then comes from the
// first-level cache for all but one of them. Together 128 KiB, a part of the second-level cache.
constexpr uint32_t kFloatPanelDepth = 256, kFloatPanels = 4, kFloatTokens = 24;

// The next 64-byte line.
template <class T>
inline T *align64(T *p) {
  return reinterpret_cast<T *>((reinterpret_cast<uintptr_t>(p) + 63) & ~uintptr_t{63});
}

// ---- attention
constexpr uint32_t kKvTile = 64;     // cache entries handled at once
constexpr uint32_t kBlockTile = 96;  // the same for blocks of query rows: whole register tiles
// Entries decoded to floats at once are used from the L1 cache: kKeyRows keys or kValueDims
// dimensions of a tile's values, 24 KiB.
constexpr uint32_t kKeyRows = 24, kValueDims = 64;
// Blocks of query rows that share what is decoded: reading and decoding then cost little beside
// the products.
constexpr uint32_t kMaxBlocks = 4;
constexpr uint32_t kMaxSplits = 64;  // parts that a few tokens' attention is divided into
constexpr uint32_t kMinSplit = 512;  // cache entries in the smallest part

// ---- delta rule
constexpr uint32_t kDeltaChunk = 32;  // tokens of a chunk; equals the tile width

// Largest input width of any matrix.
inline uint32_t max_linear_input(const Config &c) {
  uint32_t k = c.n_embd;
  const uint32_t widths[] = {c.n_ff, c.q_dim(), c.lin_v_dim(), 2 * c.n_embd};
  for (const uint32_t w : widths) k = w > k ? w : k;
  return k;
}

// Products of bf16: tokens whose input is packed at once; rows, values of them and tokens that meet
// in one call: 768 KiB of weights stay in a second-level cache of 2 MiB. For each such item all the
// tokens come from a farther one, so few rows would be slow.
constexpr uint32_t kTiledTokens = 2048, kTiledRows = 384, kTiledDepth = 1024, kTiledBlock = 64;
constexpr uint32_t kTiledStep = 32;  // rows and tokens that share tiles

inline uint64_t linear_scratch_floats(const Kernels &kernels, uint32_t k) {
  const size_t panel = kernels.panel_bytes({k, 16, true}) + kernels.pack_scratch_bytes(k) + 128;
  // a decoded row, the transposed panels, and a product narrower than a panel
  const uint64_t floats =
      kFloatPanelDepth * (1ull + kFloatPanels * kTileCols) + kFloatTokens * kTileCols;
  const uint64_t most = panel / 4 > floats ? panel / 4 + 64 : floats;
  const uint64_t tiles = kernels.bf16.gemm == nullptr
                             ? 0
                             : bf16_values(kTiledRows, k < kTiledDepth ? k : kTiledDepth) / 2 + 16;
  return most > tiles ? most : tiles;
}

inline uint32_t group_tokens(uint32_t group) {
  return kTileCols / group > 0 ? kTileCols / group : 1;
}

// Up to 32 query rows of one head, as columns.
struct Columns {
  float *queries, *outputs;  // [head_dim, 32]
  float *scores;             // [kBlockTile, 32]
  float *m, *l, *shrink;     // [32]

  // Lays them out from `at` on, see block_floats.
  void place(float *at, uint32_t head_dim) {
    queries = at;
    outputs = queries + head_dim * kTileCols;
    scores = outputs + head_dim * kTileCols;
    m = scores + kBlockTile * kTileCols;
    l = m + kTileCols;
    shrink = l + kTileCols;
  }
};

// Of one set of columns.
inline uint64_t block_floats(uint32_t head_dim) {
  return 2ull * head_dim * kTileCols + kBlockTile * kTileCols + 3 * kTileCols;
}

// The same with products of bf16: entries of a tile of keys and values, and blocks that share one.
constexpr uint32_t kTiledEntries = 256, kMaxTiledBlocks = 16;

// Packed keys [kTiledEntries, head_dim], or values [head_dim, kTiledEntries].
inline uint64_t tiled_entry_values(uint32_t head_dim) {
  const uint64_t keys = bf16_values(kTiledEntries, head_dim);
  const uint64_t values = bf16_values(head_dim, kTiledEntries);
  return keys > values ? keys : values;
}

// split: queries of two parts.
inline uint64_t tiled_block_floats(uint32_t head_dim, bool split) {
  const uint64_t queries = (split ? 2 : 1) * bf16_values(kTileCols, head_dim) / 2;
  return queries + (head_dim + 2ull) * kTileCols;
}

inline uint64_t tiled_attention_floats(uint32_t n_blocks, uint32_t head_dim, bool split) {
  return n_blocks * tiled_block_floats(head_dim, split) +
         kTiledEntries * (kTileCols + kTileCols / 2) + kTileCols + 16;
}

struct TiledBlock {
  uint16_t *queries;  // packed [head_dim, 32]
  float *outputs;     // [head_dim, 32]
  float *m, *l;       // [32]

  // As before the first entry.
  void clear(uint32_t head_dim) const {
    std::memset(outputs, 0, sizeof(float) * head_dim * kTileCols);
    for (uint32_t c = 0; c < kTileCols; c++) {
      m[c] = -INFINITY;
      l[c] = 0.0f;
    }
  }
};

struct TiledScratch {
  float *blocks;
  uint32_t head_dim;
  uint64_t block_size;  // floats
  float *scores;        // [kTiledEntries, 32]
  uint16_t *weights;    // packed [kTiledEntries, 32]
  float *shrink;        // [32]

  TiledScratch(float *at, uint32_t n_blocks, uint32_t d, bool split)
      : blocks(align64(at)), head_dim(d), block_size(tiled_block_floats(d, split)) {
    scores = blocks + n_blocks * block_size;
    weights = reinterpret_cast<uint16_t *>(scores + kTiledEntries * kTileCols);
    shrink = scores + kTiledEntries * (kTileCols + kTileCols / 2);
  }

  TiledBlock block(uint32_t i) const {
    float *outputs = blocks + i * block_size;
    float *m = outputs + head_dim * kTileCols;
    return {reinterpret_cast<uint16_t *>(m + 2 * kTileCols), outputs, m, m + kTileCols};
  }
};

// Decoded cache entries: [kKeyRows, head_dim] or [kBlockTile, kValueDims].
inline uint64_t decoded_floats(uint32_t head_dim) {
  const uint64_t keys = uint64_t{kKeyRows} * head_dim, values = kBlockTile * kValueDims;
  return keys > values ? keys : values;
}

// Few rows: see FewScratch in attention.cpp.
inline uint64_t attention_scratch_floats(const Config &c) {
  const uint64_t group = c.n_head / c.n_head_kv, rows = group * kGemvMaxCols;
  const uint64_t many = kMaxBlocks * block_floats(c.head_dim) + decoded_floats(c.head_dim);
  const uint64_t few = group * (kKvTile + kKvTile / 2 + 1) + rows * (c.head_dim / 2 + 1) +
                       uint64_t{kKvTile} * c.head_dim / 2 + 64;
  return many > few ? many : few;
}

// Per split, kv head and query row: maximum, sum, and head_dim accumulators.
inline uint64_t attention_partial_floats(const Config &c) {
  return static_cast<uint64_t>(kMaxSplits) * c.n_head * kGemvMaxCols * (c.head_dim + 16);
}

// See delta_chunk for the parts.
inline uint64_t delta_scratch_floats(const Config &c) {
  const uint64_t d = c.lin_head_dim, n = kDeltaChunk;
  return 2 * n * d    // k and q rows
         + d * n      // k transposed
         + 2 * n * n  // products of k and q with k
         + 2 * n * n  // a and p
         + n * d      // decayed k
         + 2 * n * d  // v rows, outputs
         + 2 * n * n  // k and q times a state block
         + n * n      // right-hand side
         + 8 * n;     // cumulative decays, betas
}

inline uint64_t thread_scratch_floats(const Config &c, const Kernels &kernels, uint32_t k) {
  uint64_t floats = linear_scratch_floats(kernels, k);
  const uint64_t tiled = kernels.bf16.gemm == nullptr
                             ? 0
                             : tiled_attention_floats(kMaxTiledBlocks, c.head_dim, false) +
                                   tiled_entry_values(c.head_dim) +
                                   uint64_t{kTiledStep} * c.head_dim + 16;
  const uint64_t others[] = {attention_scratch_floats(c), delta_scratch_floats(c), tiled};
  for (const uint64_t o : others) floats = o > floats ? o : floats;
  return (floats + 31) / 16 * 16;
}

}  // namespace q35
