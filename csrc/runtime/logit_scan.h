// LogitScan: the logits of one position in blocks with their maxima. Selecting among 248,320 rows
// reads every row once, for the maxima, and after that only the few blocks that can matter.
#pragma once

#include <cstdint>

#include "base/array.h"
#include "base/memory.h"
#include "base/status.h"

namespace q35 {

struct Candidate {
  float logit;
  int32_t id;
};

// The one order of rows: larger logit first, then smaller id, so that ties never depend on layout.
inline bool ahead(const Candidate &a, const Candidate &b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// A cut is the last row that is kept; rows it is ahead of are dropped.
constexpr Candidate kKeepAll = {-__builtin_inff(), INT32_MAX};

// Weight of a row: exp((logit - max) * scale), in [0, 1]. The exponential is this file's own,
// within 1.1 units in the last place of a float and with weights below exp(-87) equal to 0: the
// same bits on every platform and vector width, so that a seed gives the same text everywhere.
struct Softmax {
  float max;
  float scale;
  float lowest;  // logits below it weigh 0

  Softmax(float max_logit, float inverse_temperature);
  float weight(float logit) const;
};

// best: rows in order. The cut that keeps the fewest whose weights reach `fraction` of their sum.
Candidate nucleus_of(const Array<Candidate> &best, const Softmax &softmax, double fraction);

class LogitScan {
 public:
  [[nodiscard]] Status init(int32_t n_vocab);

  // logits: [n_vocab], only read, and not copied: they must live as long as the scan uses them.
  // NaN counts as -inf, +inf as the largest float.
  void begin(const float *logits);
  float logit(int32_t id) const { return block(static_cast<size_t>(id) / kBlock)[id % kBlock]; }
  // Drops the rows whose bit is 0: bit i % 32 of allowed[i / 32], [(n_vocab + 31) / 32] words.
  void keep(const uint32_t *allowed);
  // Changes a row of the scan; the caller's logits stay as they are. Call refresh() after the last.
  void set(int32_t id, float logit);
  void refresh();

  float max() const;  // -inf when no row is left
  int32_t argmax() const;
  // The n best rows in order, fewer when fewer are above -inf. n >= 1. Valid until the next call.
  const Array<Candidate> &top(size_t n);

  // Sum of the weights of the kept rows.
  double mass(const Softmax &softmax, const Candidate &cut);
  // The kept row at which the running sum in id order exceeds `target`, in [0, the last mass()).
  // Arguments as in that call.
  int32_t pick(const Softmax &softmax, const Candidate &cut, double target) const;
  // The cut that keeps the fewest best rows whose weights sum to at least `target`.
  Candidate nucleus(const Softmax &softmax, double target);

 private:
  static constexpr int32_t kBlock = 256;  // 970 blocks for 248,320 rows: both levels stay small

  enum class Place : uint8_t { Logits, Patch, Nowhere };  // where a block's rows are

  const float *block(size_t b) const {
    if (places_[b] == Place::Nowhere) return nothing_;
    return (places_[b] == Place::Patch ? patch_ : logits_) + b * kBlock;
  }
  // Weights of block b into w: [kBlock], 0 for dropped rows. Returns their sum.
  float weigh(size_t b, const Softmax &softmax, const Candidate &cut, float *w) const;
  void copy_block(size_t b);
  void keep_of_block(size_t b, const uint32_t *allowed, size_t n_words);
  float threshold(size_t n);
  void add_candidate(size_t b, int32_t row);
  void gather(float lowest);
  Candidate wide_nucleus(const Softmax &softmax, double target);

  int32_t n_vocab_ = 0;
  size_t n_blocks_ = 0;
  const float *logits_ = nullptr;
  Region patch_memory_;
  float *patch_ = nullptr;       // [n_blocks * kBlock] changed blocks; pages are taken when used
  Array<Place> places_;          // [n_blocks]
  float nothing_[kBlock];        // a block of dropped rows
  Array<uint32_t> changed_;      // the copied blocks
  Array<float> maxima_;          // [n_blocks]
  Array<float> ranked_;          // [n_blocks] scratch of threshold()
  Array<double> sums_;           // [n_blocks] of the last mass()
  Array<Candidate> candidates_;  // room for n_vocab: sampling never allocates
};

}  // namespace q35
