#include "model/state.h"

#include <cstring>

#include "base/checked.h"

namespace q35 {

namespace {
constexpr uint64_t kHugePage = 2u << 20;
}

Status SequenceState::init(const Config &c, uint32_t capacity, KvType kv_type) {
  capacity_ = capacity;
  kv_type_ = kv_type;
  cut(0, 0);
  Q35_TRY(index_.resize(c.n_layer));
  uint32_t n_attention = 0, n_recurrent = 0;
  for (uint32_t i = 0; i < c.n_layer; i++) {
    index_[i] = c.recurrent[i] ? n_recurrent++ : n_attention++;
  }
  const uint64_t entry = c.n_head_kv * kv_row_bytes(kv_type, c.head_dim);
  // Every cache starts on a page of its own, so that an unused part never shares one with a used.
  uint64_t cache = 0, total = 0;
  if (!checked_mul(entry, capacity, &cache) || !checked_round_up(cache, kHugePage, &cache) ||
      !checked_mul(cache, 2ull * n_attention, &total)) {
    return fail(QWEN35_ERROR_MEMORY, "a cache of %u tokens is too large", capacity);
  }
  cache_bytes_ = cache;
  token_bytes_ = entry * 2 * n_attention;
  conv_floats_ = 4ull * c.conv_channels();
  layer_floats_ = conv_floats_ + static_cast<uint64_t>(c.lin_v_dim()) * c.lin_head_dim;
  Q35_TRY(Region::allocate(total, false, &cache_));
  return Region::allocate(layer_floats_ * n_recurrent * sizeof(float), true, &recurrent_);
}

void SequenceState::reset() {
  cut(0, 0);
  std::memset(recurrent_.data(), 0, recurrent_.size());
}

Status SequenceState::save_recurrent(Array<float> *out) const {
  out->clear();
  return out->append(recurrent_floats(), recurrent_count());
}

void SequenceState::restore_recurrent(const Array<float> &saved) {
  std::memcpy(recurrent_floats(), saved.data(), saved.size() * sizeof(float));
}

uint64_t SequenceState::committed_bytes() const {
  return token_bytes_ * position_ + recurrent_.size();
}

}  // namespace q35
