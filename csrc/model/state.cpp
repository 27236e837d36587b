#include "model/state.h"

#include <cstring>

#include "base/checked.h"

namespace q35 {

namespace {
constexpr uint64_t kHugePage = 2u << 20;
constexpr uint32_t kCopyBlock = 64;  // tokens copied at once, so that their bytes stay in the cache
}  // namespace

Status SequenceState::init(const Config &c, uint32_t capacity, KvType kv_type) {
  capacity_ = capacity;
  kv_type_ = kv_type;
  cut(0, 0);
  filled_ = 0;
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
  n_caches_ = 2 * n_attention;
  n_head_kv_ = c.n_head_kv;
  head_dim_ = c.head_dim;
  token_bytes_ = entry * n_caches_;
  conv_floats_ = 4ull * c.conv_channels();
  layer_floats_ = conv_floats_ + static_cast<uint64_t>(c.lin_v_dim()) * c.lin_head_dim;
  Q35_TRY(Region::allocate(total, false, &cache_));
  return Region::allocate(layer_floats_ * n_recurrent * sizeof(float), true, &recurrent_);
}

void SequenceState::reset() {
  cut(0, 0);
  filled_ = 0;
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

uint64_t SequenceState::committed_bytes() const {
  return token_bytes_ * filled_ + recurrent_.size();
}

}  // namespace q35
