#include "model/state.h"

#include <cstring>

#include "base/checked.h"

namespace q35 {

namespace {
constexpr uint64_t kHugePage = 2u << 20;
constexpr uint32_t kCopyBlock = 64;  // tokens copied at once, so that their bytes stay in the cache
}  // namespace

Status SequenceState::init(const Config &c, uint32_t capacity, KvType kv_type, bool drafts,
                           bool mtp) {
  capacity_ = capacity;
  kv_type_ = kv_type;
  has_mtp_ = mtp;
  cut(0, 0);
  filled_ = n_logged_ = n_trail_ = 0;
  n_embd_ = mtp ? c.n_embd : 0;
  Q35_TRY(index_.resize(c.n_layer + 1));
  uint32_t n_attention = 0, n_recurrent = 0;
  for (uint32_t i = 0; i < c.n_layer; i++) {
    index_[i] = c.recurrent[i] ? n_recurrent++ : n_attention++;
  }
  if (mtp) index_[c.n_layer] = n_attention++;
  const uint64_t entry = c.n_head_kv * kv_row_bytes(kv_type, c.head_dim);
  // Every cache starts on a page of its own, so that an unused part never shares one with a used.
  uint64_t cache = 0, total = 0;
  if (!checked_mul(entry, capacity, &cache) || !checked_round_up(cache, kHugePage, &cache) ||
      !checked_mul(cache, 2ull * n_attention, &total)) {
    return fail(QWEN35_ERROR_MEMORY, "a cache of %u tokens is too large", capacity);
  }
  cache_bytes_ = cache;
  n_caches_ = 2 * n_attention;
  n_head_kv_ = c.n_head_kv;
  head_dim_ = c.head_dim;
  token_bytes_ = entry * n_caches_;
  conv_floats_ = 4ull * c.conv_channels();
  layer_floats_ = conv_floats_ + static_cast<uint64_t>(c.lin_v_dim()) * c.lin_head_dim;
  recurrent_floats_ = layer_floats_ * n_recurrent + n_embd_;
  if (drafts) {
    log_conv_ = c.conv_channels();
    log_k_ = c.lin_k_dim();
    log_delta_ = c.lin_v_dim();
    log_decay_ = c.lin_v_heads;
    const uint64_t row = log_conv_ + log_k_ + log_delta_ + log_decay_;
    Q35_TRY(log_.resize(row * kMaxDrafts * n_recurrent));
  }
  if (mtp) Q35_TRY(trail_states_.resize(uint64_t{kTrail} * n_embd_));
  Q35_TRY(Region::allocate(total, false, &cache_));
  return Region::allocate(recurrent_floats_ * sizeof(float), true, &recurrent_);
}

void SequenceState::reset() {
  cut(0, 0);
  filled_ = n_logged_ = n_trail_ = 0;
  std::memset(recurrent_.data(), 0, recurrent_.size());
}

Status SequenceState::save_recurrent(Array<float> *out) const {
  out->clear();
  return out->append(recurrent_floats(), recurrent_count());
}

void SequenceState::copy_recurrent(uint32_t layer, void *floats) const {
  const uint64_t at = index_[layer] * layer_floats_ * sizeof(float);
  std::memcpy(static_cast<uint8_t *>(floats) + at, recurrent_.data() + at,
              layer_floats_ * sizeof(float));
}

void SequenceState::set_recurrent(const void *floats) {
  std::memcpy(recurrent_.data(), floats, recurrent_count() * sizeof(float));
}

template <class Visit>
void SequenceState::each_row(Visit visit) const {
  const uint64_t value_bytes = kv_values_bytes(kv_type_, head_dim_);
  const uint64_t scale_bytes = kv_row_bytes(kv_type_, head_dim_) - value_bytes;
  for (uint64_t i = 0; i < n_caches_; i++) {
    uint8_t *values = cache_.data() + i * cache_bytes_;
    uint8_t *scales = values + n_head_kv_ * value_bytes * capacity_;
    for (uint64_t head = 0; head < n_head_kv_; head++) {
      visit(values + head * capacity_ * value_bytes, value_bytes);
      if (scale_bytes != 0) visit(scales + head * capacity_ * scale_bytes, scale_bytes);
    }
  }
}

void SequenceState::export_entries(uint32_t first, uint32_t n, uint8_t *out) const {
  for (uint32_t done = 0; done < n; done += kCopyBlock) {
    const uint64_t begin = uint64_t{first} + done;
    const uint32_t count = n - done < kCopyBlock ? n - done : kCopyBlock;
    uint8_t *to = out + done * token_bytes_;
    each_row([&](const uint8_t *rows, uint64_t bytes) {
      for (uint64_t t = 0; t < count; t++) {
        std::memcpy(to + t * token_bytes_, rows + (begin + t) * bytes, bytes);
      }
      to += bytes;
    });
  }
}

void SequenceState::import_entries(uint32_t first, uint32_t n, const uint8_t *in) {
  for (uint32_t done = 0; done < n; done += kCopyBlock) {
    const uint64_t begin = uint64_t{first} + done;
    const uint32_t count = n - done < kCopyBlock ? n - done : kCopyBlock;
    const uint8_t *from = in + done * token_bytes_;
    each_row([&](uint8_t *rows, uint64_t bytes) {
      for (uint64_t t = 0; t < count; t++) {
        std::memcpy(rows + (begin + t) * bytes, from + t * token_bytes_, bytes);
      }
      from += bytes;
    });
  }
  if (filled_ < first + n) filled_ = first + n;
}

DeltaLog SequenceState::log(uint32_t layer) {
  if (log_.empty()) return {};
  const uint64_t row = log_conv_ + log_k_ + log_delta_ + log_decay_;
  float *conv = log_.data() + index_[layer] * row * kMaxDrafts;
  float *k = conv + log_conv_ * kMaxDrafts;
  float *delta = k + log_k_ * kMaxDrafts;
  return {conv, k, delta, delta + log_delta_ * kMaxDrafts};
}

void SequenceState::add_trail(const int32_t *tokens, const float *states, uint32_t n) {
  std::memcpy(trail_tokens_ + n_trail_, tokens, sizeof(int32_t) * n);
  std::memcpy(trail_states_.data() + uint64_t{n_trail_} * n_embd_, states,
              sizeof(float) * n * n_embd_);
  n_trail_ += n;
}

void SequenceState::copy_hidden(const float *state, void *floats) const {
  const uint64_t at = (recurrent_floats_ - n_embd_) * sizeof(float);
  std::memcpy(static_cast<uint8_t *>(floats) + at, state, n_embd_ * sizeof(float));
}

void SequenceState::clear_trail() {
  if (n_trail_ == 0) return;
  const float *last = trail_states_.data() + uint64_t{n_trail_ - 1} * n_embd_;
  std::memcpy(hidden(), last, sizeof(float) * n_embd_);
  n_trail_ = 0;
}

uint64_t SequenceState::reserved_bytes() const {
  return cache_.size() + recurrent_.size() + draft_bytes();
}

uint64_t SequenceState::committed_bytes() const {
  return reserved_bytes() - cache_.size() + token_bytes_ * filled_;
}

}  // namespace q35
