// LookupIndex: where the last tokens of a text stood before, and so what may follow them. Copied
// passages, edited code and extracted fields are drafted from it at no cost.
//
// The places of every pair of tokens are chained, the newest first, as in LZ77: a push is constant
// work, and the last tokens can be taken away again. find() follows a chain for a bounded number of
// places.
#pragma once

#include <cstdint>

#include "base/array.h"
#include "base/status.h"

namespace q35 {

class LookupIndex {
 public:
  struct Match {
    uint32_t length = 0;  // tokens that agree, at most kLongest; 0: none
    uint32_t next = 0;    // place of the token behind them
  };
  static constexpr uint32_t kLongest = 32;

  // Makes the text exactly tokens [n]; what agrees at its beginning is kept.
  [[nodiscard]] Status assign(const int32_t *tokens, size_t n);
  [[nodiscard]] Status push(int32_t token);
  void truncate(size_t n);
  size_t size() const { return tokens_.size(); }

  // The longest earlier match of the text's end, of equal ones the newest.
  Match find() const;
  // Token i behind a match; it may lie in what is being drafted, as in a text that repeats itself.
  // drafts: those before i.
  int32_t token(const Match &match, uint32_t i, const int32_t *drafts) const;

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  static constexpr uint32_t kPlaces = 32;  // followed by find()

  uint32_t bucket(uint32_t place) const;
  [[nodiscard]] Status grow();

  Array<int32_t> tokens_;
  Array<uint32_t> before_;  // [size] the place before this one in the same chain
  Array<uint32_t> newest_;  // [power of two] by the bucket of a pair
};

}  // namespace q35
