// The merge rules of BPE, and the merging of one piece of text.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/array.h"
#include "base/status.h"

namespace q35 {

// Rules by pair. A rule is one 64-bit word in an open-addressing table: left id, right id, rank.
class MergeTable {
 public:
  static constexpr int kIdBits = 21;    // of a token id
  static constexpr int kRankBits = 22;  // of a rank; the largest one marks an empty slot
  static constexpr uint32_t kNone = (1u << kRankBits) - 1;

  // Room for `rules` rules, rules < kNone. Ids of all rules must be below 2^kIdBits.
  [[nodiscard]] Status reserve(size_t rules);
  // Adds a rule with the next rank. *added is false when the pair has one already.
  [[nodiscard]] Status add(int32_t left, int32_t right, int32_t merged, bool *added);

  // Rank of the rule, lowest first, or kNone.
  uint32_t rank(int32_t left, int32_t right) const {
    const uint64_t key = make_key(left, right);
    for (size_t slot = first_slot(key);; slot = (slot + 1) & mask_) {
      const uint64_t word = slots_[slot];
      if (word >> kRankBits == key) return static_cast<uint32_t>(word & kNone);
      if (word == kEmpty) return kNone;
    }
  }
  // Id that the rule of this rank produces.
  int32_t merged(uint32_t rank) const { return merged_[rank]; }
  size_t size() const { return merged_.size(); }
  void prefetch(int32_t left, int32_t right) const {
    __builtin_prefetch(&slots_[first_slot(make_key(left, right))]);
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};

  static uint64_t make_key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << kIdBits | static_cast<uint64_t>(right);
  }
  // Fibonacci hashing: the multiplier is 2^64 divided by the golden ratio.
  size_t first_slot(uint64_t key) const {
    return static_cast<size_t>(key * 0x9e3779b97f4a7c15u >> shift_);
  }

  Array<uint64_t> slots_;  // left << 43 | right << 22 | rank, or kEmpty; a power of two of them
  Array<int32_t> merged_;  // by rank
  size_t mask_ = 0;
  int shift_ = 63;
};

// Merges pieces. Holds only working memory: one per call of Tokenizer::encode.
class PieceMerger {
 public:
  // ids: of the single bytes. pair_ranks: rank of two single bytes, by first * 256 + second.
  PieceMerger(const MergeTable &table, const int32_t *ids, const uint32_t *pair_ranks)
      : table_(table), byte_ids_(ids), pair_ranks_(pair_ranks) {}

  // Appends the ids of a piece, 0 < piece.size() < 2^32: of all adjacent pairs the one of the
  // lowest rank is merged, the leftmost of equals, until no pair has a rule.
  [[nodiscard]] Status merge(std::string_view piece, Array<int32_t> *out);

 private:
  // Up to this many bytes, scanning all pairs for each merge beats the heap.
  static constexpr size_t kShort = 64;

  size_t merge_short(std::string_view piece, int32_t *ids) const;
  [[nodiscard]] Status merge_long(std::string_view piece, Array<int32_t> *out);
  [[nodiscard]] Status set_rank(uint32_t at);
  [[nodiscard]] Status merge_at(uint32_t at);

  const MergeTable &table_;
  const int32_t *byte_ids_;     // (256)
  const uint32_t *pair_ranks_;  // (256, 256)

  // A long piece is a doubly linked list of tokens, named by the place of their first byte.
  struct Node {
    int32_t id;
    uint32_t rank;  // of the pair of this token and the next, kNone when there is none
    uint32_t next, previous;
  };
  static constexpr uint32_t kEnd = ~uint32_t{0};
  Array<Node> nodes_;
  Array<uint64_t> heap_;  // rank << 32 | place, smallest first; stale entries are skipped
};

}  // namespace q35
