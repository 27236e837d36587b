#include "runtime/lookup_index.h"

#include <algorithm>

namespace q35 {

Status LookupIndex::assign(const int32_t *tokens, size_t n) {
  const size_t shared = std::min(n, tokens_.size());
  const int32_t *end = std::mismatch(tokens, tokens + shared, tokens_.begin()).first;
  truncate(static_cast<size_t>(end - tokens));
  while (tokens_.size() < n) Q35_TRY(push(tokens[tokens_.size()]));
  return kOk;
}

// Of the pair that ends at `place` >= 1.
uint32_t LookupIndex::bucket(uint32_t place) const {
  const uint64_t pair = static_cast<uint64_t>(static_cast<uint32_t>(tokens_[place - 1])) << 32 |
                        static_cast<uint32_t>(tokens_[place]);
  return static_cast<uint32_t>((pair * 0x9e3779b97f4a7c15u) >> 32) & (newest_.size() - 1);
}

// Doubles the table and chains every place again.
Status LookupIndex::grow() {
  const size_t size = newest_.empty() ? 1024 : 2 * newest_.size();
  Q35_TRY(newest_.resize(size));
  std::fill(newest_.begin(), newest_.end(), kNone);
  for (uint32_t place = 1; place < before_.size(); place++) {
    uint32_t &head = newest_[bucket(place)];
    before_[place] = head;
    head = place;
  }
  return kOk;
}

Status LookupIndex::push(int32_t token) {
  if (tokens_.size() >= newest_.size()) Q35_TRY(grow());
  Q35_TRY(before_.push_back(kNone));
  const Status status = tokens_.push_back(token);
  if (status != kOk) {
    before_.pop_back();
    return status;
  }
  const uint32_t place = static_cast<uint32_t>(tokens_.size() - 1);
  if (place == 0) return kOk;
  uint32_t &head = newest_[bucket(place)];
  before_[place] = head;
  head = place;
  return kOk;
}

void LookupIndex::truncate(size_t n) {
  while (tokens_.size() > n) {
    const uint32_t place = static_cast<uint32_t>(tokens_.size() - 1);
    if (place != 0) newest_[bucket(place)] = before_[place];
    tokens_.pop_back();
    before_.pop_back();
  }
}

LookupIndex::Match LookupIndex::find() const {
  Match best;
  if (tokens_.size() < 3) return best;
  const uint32_t last = static_cast<uint32_t>(tokens_.size() - 1);
  uint32_t place = before_[last];
  for (uint32_t i = 0; i < kPlaces && place != kNone; i++, place = before_[place]) {
    uint32_t length = 0;
    while (length < kLongest && length <= place &&
           tokens_[place - length] == tokens_[last - length]) {
      length++;
    }
    if (length > best.length && length >= 2) best = {length, place + 1};
    if (length == kLongest) break;
  }
  return best;
}

int32_t LookupIndex::token(const Match &match, uint32_t i, const int32_t *drafts) const {
  const size_t place = size_t{match.next} + i;
  return place < tokens_.size() ? tokens_[place] : drafts[place - tokens_.size()];
}

}  // namespace q35
