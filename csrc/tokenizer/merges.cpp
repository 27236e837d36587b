// Merging by rank: a scan for short pieces, a heap for long ones (n log n on any input).
#include "tokenizer/merges.h"

#include <algorithm>
#include <functional>

namespace q35 {

Status MergeTable::reserve(size_t rules) {
  int bits = 4;
  while (size_t{1} << bits < 2 * rules) bits++;  // at most half full
  Q35_TRY(slots_.resize(size_t{1} << bits));
  std::fill(slots_.begin(), slots_.end(), kEmpty);
  merged_.clear();
  Q35_TRY(merged_.reserve(rules));
  mask_ = slots_.size() - 1;
  shift_ = 64 - bits;
  return kOk;
}

Status MergeTable::add(int32_t left, int32_t right, int32_t merged, bool *added) {
  const uint64_t key = make_key(left, right);
  size_t slot = first_slot(key);
  while (slots_[slot] != kEmpty && slots_[slot] >> kRankBits != key) slot = (slot + 1) & mask_;
  *added = slots_[slot] == kEmpty;
  if (!*added) return kOk;
  slots_[slot] = key << kRankBits | merged_.size();
  return merged_.push_back(merged);
}

Status PieceMerger::merge(std::string_view piece, Array<int32_t> *out) {
  if (piece.size() > kShort) return merge_long(piece, out);
  int32_t ids[kShort];
  return out->append(ids, merge_short(piece, ids));
}

size_t PieceMerger::merge_short(std::string_view piece, int32_t *ids) const {
  const unsigned char *bytes = reinterpret_cast<const unsigned char *>(piece.data());
  uint32_t ranks[kShort];  // of the pair that starts at each place
  size_t n = piece.size();
  ids[0] = byte_ids_[bytes[0]];
  for (size_t i = 1; i < n; i++) {
    ids[i] = byte_ids_[bytes[i]];
    ranks[i - 1] = pair_ranks_[bytes[i - 1] * 256u + bytes[i]];
  }
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; i++) {
      if (ranks[i] < ranks[best]) best = i;
    }
    if (ranks[best] == MergeTable::kNone) break;
    ids[best] = table_.merged(ranks[best]);
    n--;
    for (size_t i = best + 1; i < n; i++) ids[i] = ids[i + 1];
    for (size_t i = best + 1; i + 1 < n; i++) ranks[i] = ranks[i + 1];
    if (best + 1 < n) ranks[best] = table_.rank(ids[best], ids[best + 1]);
    if (best > 0) ranks[best - 1] = table_.rank(ids[best - 1], ids[best]);
  }
  return n;
}

// Looks up the pair that starts at `at` and queues it.
Status PieceMerger::set_rank(uint32_t at) {
  Node &node = nodes_[at];
  node.rank = node.next == kEnd ? MergeTable::kNone : table_.rank(node.id, nodes_[node.next].id);
  if (node.rank == MergeTable::kNone) return kOk;
  Q35_TRY(heap_.push_back(uint64_t{node.rank} << 32 | at));
  std::push_heap(heap_.begin(), heap_.end(), std::greater<uint64_t>());
  return kOk;
}

Status PieceMerger::merge_at(uint32_t at) {
  Node &node = nodes_[at];
  Node &absorbed = nodes_[node.next];
  node.id = table_.merged(node.rank);
  node.next = absorbed.next;
  absorbed.rank = MergeTable::kNone;
  if (node.next != kEnd) nodes_[node.next].previous = at;
  Q35_TRY(set_rank(at));
  return node.previous == kEnd ? kOk : set_rank(node.previous);
}

Status PieceMerger::merge_long(std::string_view piece, Array<int32_t> *out) {
  const unsigned char *bytes = reinterpret_cast<const unsigned char *>(piece.data());
  const uint32_t n = static_cast<uint32_t>(piece.size());
  heap_.clear();
  nodes_.clear();
  Q35_TRY(nodes_.reserve(n));
  Q35_TRY(heap_.reserve(n));
  for (uint32_t i = 0; i < n; i++) {
    const bool last = i + 1 == n;
    const uint32_t rank = last ? MergeTable::kNone : pair_ranks_[bytes[i] * 256u + bytes[i + 1]];
    Q35_TRY(nodes_.push_back({byte_ids_[bytes[i]], rank, last ? kEnd : i + 1, i - 1}));
    if (rank != MergeTable::kNone) Q35_TRY(heap_.push_back(uint64_t{rank} << 32 | i));
  }
  std::make_heap(heap_.begin(), heap_.end(), std::greater<uint64_t>());
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<uint64_t>());
    const uint64_t entry = heap_.back();
    heap_.pop_back();
    const uint32_t at = static_cast<uint32_t>(entry);
    if (nodes_[at].rank == entry >> 32) Q35_TRY(merge_at(at));
  }
  for (uint32_t at = 0; at != kEnd; at = nodes_[at].next) Q35_TRY(out->push_back(nodes_[at].id));
  return kOk;
}

}  // namespace q35
