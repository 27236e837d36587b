// From token text to id while a vocabulary is read: open addressing over the caller's strings.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

#include "base/array.h"
#include "base/status.h"

namespace q35 {

class StringIndex {
 public:
  // strings must outlive the index and stay where it is; at most 2^31 of them.
  [[nodiscard]] Status reserve(const Array<std::string_view> &strings) {
    int bits = 4;
    while (size_t{1} << bits < 2 * strings.size()) bits++;  // at most half full
    Q35_TRY(slots_.resize(size_t{1} << bits));
    strings_ = &strings;
    shift_ = 64 - bits;
    return kOk;
  }

  // Adds strings[id]; returns the id of an equal string added before, else -1.
  int32_t add(int32_t id, uint64_t hash) {
    const size_t slot = find_slot((*strings_)[id], hash);
    if (slots_[slot] != 0) return id_in(slot);
    slots_[slot] = (hash & kTag) | static_cast<uint32_t>(id + 1);
    return -1;
  }

  // Id of `text`, or -1.
  int32_t find(std::string_view text, uint64_t hash) const {
    const size_t slot = find_slot(text, hash);
    return slots_[slot] == 0 ? -1 : id_in(slot);
  }
  int32_t find(std::string_view text) const { return find(text, hash(text)); }

  // A lookup misses the cache at the slot, at the view of the string and at its text. A loop over
  // many lookups calls these some steps ahead of find(), each after the one before has arrived.
  void prefetch_slot(uint64_t hash) const { __builtin_prefetch(&slots_[hash >> shift_]); }
  void prefetch_view(uint64_t hash) const {
    const int32_t id = id_in(hash >> shift_);
    if (id >= 0) __builtin_prefetch(&(*strings_)[id]);
  }
  void prefetch_text(uint64_t hash) const {
    const int32_t id = id_in(hash >> shift_);
    if (id >= 0) __builtin_prefetch((*strings_)[id].data());
  }

  // Multiply-xorshift over 8-byte words.
  static uint64_t hash(std::string_view text) {
    const char *p = text.data();
    size_t n = text.size();
    uint64_t h = n;
    for (; n >= 8; p += 8, n -= 8) h = mix(h ^ load<uint64_t>(p));
    uint64_t tail = 0;
    if (n >= 4) {
      tail = uint64_t{load<uint32_t>(p)} << 32 | load<uint32_t>(p + n - 4);
    } else if (n > 0) {
      tail = load<uint8_t>(p) | load<uint8_t>(p + n / 2) << 8 | load<uint8_t>(p + n - 1) << 16;
    }
    return mix(mix(h ^ tail));
  }

 private:
  static constexpr uint64_t kTag = 0xffffffff00000000u;

  template <class T>
  static T load(const char *p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
  }
  static uint64_t mix(uint64_t h) {
    h *= 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
  }

  int32_t id_in(size_t slot) const { return static_cast<int32_t>(slots_[slot] & ~kTag) - 1; }

  size_t find_slot(std::string_view text, uint64_t hash) const {
    size_t slot = hash >> shift_;
    for (; slots_[slot] != 0; slot = (slot + 1) & (slots_.size() - 1)) {
      if ((slots_[slot] & kTag) == (hash & kTag) && (*strings_)[id_in(slot)] == text) break;
    }
    return slot;
  }

  const Array<std::string_view> *strings_ = nullptr;
  Array<uint64_t> slots_;  // upper half of the hash, id + 1; 0 when empty
  int shift_ = 63;
};

}  // namespace q35
