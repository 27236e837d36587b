// Selection and sums over a vocabulary of logits. The loops over a block are plain and branch-free
// vector code that any target compiles to its registers; everything else touches single rows or one
// value per block.
#include "runtime/logit_scan.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

namespace q35 {

namespace {

constexpr float kMinusInf = -INFINITY;

// Four lanes: one SSE or NEON register. The width is fixed so that sums add in one order
// everywhere.
using Lanes = float __attribute__((vector_size(16)));
using LaneBits = uint32_t __attribute__((vector_size(16)));
constexpr int kLanes = 4;
constexpr int kStep = 4 * kLanes;  // loops carry four independent registers

inline Lanes load(const float *x) {
  Lanes v;
  std::memcpy(&v, x, sizeof v);
  return v;
}

inline Lanes broadcast(float x) {
  return Lanes{x, x, x, x};
}

// b where either is NaN.
inline Lanes larger(Lanes a, Lanes b) {
  return a > b ? a : b;
}

inline Lanes smaller(Lanes a, Lanes b) {
  return a < b ? a : b;
}

// exp(d) for d in [kLowest, 0], exp(kLowest) below. With n = round(d / ln 2) and r = d - n ln 2 in
// [-0.347, 0.347]: exp(d) = 2^n (1 + r + r^2 q(r)), q the degree-4 minimax fit of
// (exp(r) - 1 - r) / r^2, which alone is off by 4e-9; rounding makes it 8e-8, measured over the
// range. ln 2 is split so that n * kLn2High is exact for |n| < 2^9. At kLowest 2^n is still normal.
constexpr float kLowest = -87.0f;

inline Lanes exp_of_negative(Lanes d) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;  // 355 / 512
  constexpr float kLn2Low = -2.12194440e-4f;
  const Lanes c = larger(d, broadcast(kLowest));
  const Lanes shifted = c * kLog2E + kRound;
  const Lanes n = shifted - kRound;
  const Lanes r = (c - n * kLn2High) - n * kLn2Low;
  Lanes q = r * 1.38145394e-3f + 8.36874545e-3f;
  q = q * r + 4.16683890e-2f;
  q = q * r + 1.66665211e-1f;
  q = q * r + 4.99999940e-1f;
  const Lanes p = 1.0f + (r + r * r * q);
  // The low bits of `shifted` are n: moved to the place of the exponent they multiply by 2^n.
  return (Lanes)((LaneBits)p + ((LaneBits)shifted << 23));
}

// Weights, 0 below `lowest`, which is at least softmax.lowest.
inline Lanes weights_of(Lanes logits, const Softmax &softmax, float lowest) {
  const Lanes finite = smaller(broadcast(FLT_MAX), logits);
  const Lanes weights = exp_of_negative((finite - softmax.max) * softmax.scale);
  return (Lanes)((LaneBits)weights & (LaneBits)(logits >= lowest));
}

// x: [n], n a multiple of kStep.
float max_of(const float *x, int n) {
  Lanes best[4];
  for (Lanes &lanes : best) lanes = broadcast(kMinusInf);
  for (int i = 0; i < n; i += kStep) {
    for (int j = 0; j < 4; j++) best[j] = larger(load(x + i + j * kLanes), best[j]);
  }
  const Lanes lanes = larger(larger(best[0], best[1]), larger(best[2], best[3]));
  return std::max(std::max(lanes[0], lanes[1]), std::max(lanes[2], lanes[3]));
}

// w[i]: the weight of x[i], 0 below `lowest`. x, w: [n], n a multiple of kStep. Returns the sum.
float weigh_rows(const float *x, int n, const Softmax &softmax, float lowest, float *w) {
  lowest = std::max(lowest, softmax.lowest);
  Lanes sums[4] = {};
  for (int i = 0; i < n; i += kStep) {
    for (int j = 0; j < 4; j++) {
      const Lanes weights = weights_of(load(x + i + j * kLanes), softmax, lowest);
      std::memcpy(w + i + j * kLanes, &weights, sizeof weights);
      sums[j] += weights;
    }
  }
  const Lanes lanes = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

// The cut after the first rows of `best` that weigh `target` together; false when all weigh less.
bool cut_at(const Array<Candidate> &best, const Softmax &softmax, double target, Candidate *cut) {
  double sum = 0.0;
  for (const Candidate &row : best) {
    sum += softmax.weight(row.logit);
    *cut = row;
    if (sum >= target) return true;
  }
  return false;
}

}  // namespace

// NaN and -inf are below any `lowest`.
Softmax::Softmax(float max_logit, float inverse_temperature)
    : max(std::min(max_logit, FLT_MAX)),
      scale(std::min(inverse_temperature, FLT_MAX)),
      lowest(std::max(max + kLowest / scale, -FLT_MAX)) {}

float Softmax::weight(float logit) const {
  return weights_of(broadcast(logit), *this, lowest)[0];
}

Candidate nucleus_of(const Array<Candidate> &best, const Softmax &softmax, double fraction) {
  double sum = 0.0;
  for (const Candidate &row : best) sum += softmax.weight(row.logit);
  Candidate cut = kKeepAll;
  cut_at(best, softmax, fraction * sum, &cut);
  return cut;
}

Status LogitScan::init(int32_t n_vocab) {
  n_vocab_ = n_vocab;
  n_blocks_ = (static_cast<size_t>(n_vocab) + kBlock - 1) / kBlock;
  std::fill(nothing_, nothing_ + kBlock, kMinusInf);
  Q35_TRY(Region::allocate(n_blocks_ * kBlock * sizeof(float), false, &patch_memory_));
  patch_ = reinterpret_cast<float *>(patch_memory_.data());
  Q35_TRY(places_.resize(n_blocks_));
  Q35_TRY(changed_.reserve(n_blocks_));
  Q35_TRY(maxima_.resize(n_blocks_));
  Q35_TRY(ranked_.resize(n_blocks_));
  Q35_TRY(sums_.resize(n_blocks_));
  return candidates_.reserve(static_cast<size_t>(n_vocab));
}

void LogitScan::begin(const float *logits) {
  logits_ = logits;
  changed_.clear();
  std::fill(places_.begin(), places_.end(), Place::Logits);
  const size_t n_whole = static_cast<size_t>(n_vocab_) / kBlock;
  for (size_t b = 0; b < n_whole; b++) maxima_[b] = max_of(logits + b * kBlock, kBlock);
  if (n_whole < n_blocks_) {  // the last, partial block is padded
    copy_block(n_whole);
    refresh();
  }
}

void LogitScan::copy_block(size_t b) {
  const size_t begin = b * kBlock;
  const size_t n = std::min<size_t>(kBlock, static_cast<size_t>(n_vocab_) - begin);
  std::memcpy(patch_ + begin, block(b), n * sizeof(float));
  std::fill(patch_ + begin + n, patch_ + begin + kBlock, kMinusInf);
  places_[b] = Place::Patch;
  changed_.data()[changed_.size()] = static_cast<uint32_t>(b);
  changed_.truncate(changed_.size() + 1);  // init() reserved one place per block
}

void LogitScan::set(int32_t id, float logit) {
  const size_t b = static_cast<size_t>(id) / kBlock;
  if (places_[b] != Place::Patch) copy_block(b);
  patch_[id] = logit;
}

void LogitScan::keep(const uint32_t *allowed) {
  const size_t n_words = (static_cast<size_t>(n_vocab_) + 31) / 32;
  constexpr size_t kWords = kBlock / 32;
  for (size_t b = 0; b < n_blocks_; b++) {
    keep_of_block(b, allowed + b * kWords, std::min(kWords, n_words - b * kWords));
  }
  refresh();
}

// Most blocks are kept whole within a text and dropped whole elsewhere: only the others are copied.
void LogitScan::keep_of_block(size_t b, const uint32_t *allowed, size_t n_words) {
  uint32_t any = 0, all = ~0u;
  for (size_t w = 0; w < n_words; w++) {
    any |= allowed[w];
    all &= allowed[w];
  }
  if (all == ~0u) return;
  if (any == 0 && places_[b] == Place::Logits) {
    places_[b] = Place::Nowhere;
    maxima_[b] = kMinusInf;
    return;
  }
  if (places_[b] != Place::Patch) copy_block(b);
  float *rows = patch_ + b * kBlock;
  for (size_t i = 0; i < n_words * 32; i++) {
    rows[i] = (allowed[i / 32] >> (i % 32) & 1) != 0 ? rows[i] : kMinusInf;
  }
}

void LogitScan::refresh() {
  for (const uint32_t b : changed_) maxima_[b] = max_of(block(b), kBlock);
}

float LogitScan::max() const {
  return *std::max_element(maxima_.begin(), maxima_.end());
}

int32_t LogitScan::argmax() const {
  const float *best = std::max_element(maxima_.begin(), maxima_.end());  // the first of equals
  const size_t b = static_cast<size_t>(best - maxima_.begin());
  const float *x = block(b);
  return static_cast<int32_t>(b * kBlock +
                              static_cast<size_t>(std::find(x, x + kBlock, *best) - x));
}

// A value that at least n rows reach: the n-th largest of the maxima; -inf with too few blocks.
float LogitScan::threshold(size_t n) {
  if (n > n_blocks_) return kMinusInf;
  std::memcpy(ranked_.data(), maxima_.data(), n_blocks_ * sizeof(float));
  std::nth_element(ranked_.begin(), ranked_.begin() + (n - 1), ranked_.end(),
                   [](float a, float b) { return a > b; });
  return ranked_[n - 1];
}

void LogitScan::add_candidate(size_t b, int32_t row) {
  const size_t n = candidates_.size();
  candidates_.data()[n] = {block(b)[row], static_cast<int32_t>(b) * kBlock + row};
  candidates_.truncate(n + 1);  // init() reserved n_vocab places
}

// All rows at or above `lowest` as candidates, in id order; never rows at -inf.
void LogitScan::gather(float lowest) {
  lowest = std::max(lowest, -FLT_MAX);
  candidates_.clear();
  for (size_t b = 0; b < n_blocks_; b++) {
    if (maxima_[b] < lowest) continue;
    const float *x = block(b);
    for (int32_t i = 0; i < kBlock; i++) {
      if (x[i] >= lowest) add_candidate(b, i);
    }
  }
}

const Array<Candidate> &LogitScan::top(size_t n) {
  gather(threshold(n));
  Candidate *first = candidates_.begin();
  if (candidates_.size() > n) {
    std::nth_element(first, first + (n - 1), candidates_.end(), ahead);
    candidates_.truncate(n);
  }
  std::sort(first, candidates_.end(), ahead);
  return candidates_;
}

float LogitScan::weigh(size_t b, const Softmax &softmax, const Candidate &cut, float *w) const {
  const float above = std::nextafter(cut.logit, INFINITY);
  const int64_t first = static_cast<int64_t>(b) * kBlock;
  // Rows up to cut.id are kept from cut.logit on, later ones only above it.
  const float sum = weigh_rows(block(b), kBlock, softmax, cut.id < first ? above : cut.logit, w);
  const int64_t n_through = int64_t{cut.id} + 1 - first;
  if (n_through <= 0 || n_through >= kBlock) return sum;
  float kept[kBlock];
  weigh_rows(block(b), kBlock, softmax, above, kept);
  std::memcpy(w + n_through, kept + n_through, (kBlock - n_through) * sizeof(float));
  float sum_kept = 0.0f;
  for (int i = 0; i < kBlock; i++) sum_kept += w[i];
  return sum_kept;
}

double LogitScan::mass(const Softmax &softmax, const Candidate &cut) {
  float w[kBlock];
  double total = 0.0;
  for (size_t b = 0; b < n_blocks_; b++) {
    sums_[b] = maxima_[b] >= cut.logit ? weigh(b, softmax, cut, w) : 0.0;
    total += sums_[b];
  }
  return total;
}

int32_t LogitScan::pick(const Softmax &softmax, const Candidate &cut, double target) const {
  size_t chosen = 0;  // the last block with any mass, should rounding push the target past the end
  double before = 0.0;
  double sum = 0.0;
  for (size_t b = 0; b < n_blocks_; b++) {
    if (sums_[b] == 0.0) continue;
    chosen = b;
    before = sum;
    sum += sums_[b];
    if (sum > target) break;
  }
  float w[kBlock];
  weigh(chosen, softmax, cut, w);
  int32_t row = 0;
  for (int32_t i = 0; i < kBlock; i++) {
    if (w[i] == 0.0f) continue;
    row = i;
    before += w[i];
    if (before > target) break;
  }
  return static_cast<int32_t>(chosen) * kBlock + row;
}

Candidate LogitScan::nucleus(const Softmax &softmax, double target) {
  Candidate cut = kKeepAll;
  for (size_t n = 32; n <= n_blocks_; n *= 8) {  // most positions are decided by a few rows
    if (cut_at(top(n), softmax, target, &cut)) return cut;
  }
  return wide_nucleus(softmax, target);
}

// A nucleus of many rows: sums the weights in buckets of 1/32 octave (their exponent and five
// mantissa bits) and orders only the rows of the bucket in which the target is reached.
Candidate LogitScan::wide_nucleus(const Softmax &softmax, double target) {
  constexpr size_t kBuckets = (127u << 5) + 1;  // the last holds the weight 1 alone
  const auto bucket_of = [](float weight) {
    uint32_t bits;
    std::memcpy(&bits, &weight, sizeof bits);
    return std::min<size_t>(bits >> (23 - 5), kBuckets - 1);
  };
  double buckets[kBuckets] = {};
  float w[kBlock];
  for (size_t b = 0; b < n_blocks_; b++) {
    weigh(b, softmax, kKeepAll, w);
    for (const float weight : w) buckets[bucket_of(weight)] += weight;
  }
  size_t bucket = kBuckets - 1;
  while (bucket > 0 && target > buckets[bucket]) target -= buckets[bucket--];
  if (bucket == 0) return kKeepAll;
  candidates_.clear();
  for (size_t b = 0; b < n_blocks_; b++) {
    weigh(b, softmax, kKeepAll, w);
    for (int32_t i = 0; i < kBlock; i++) {
      if (bucket_of(w[i]) == bucket) add_candidate(b, i);
    }
  }
  std::sort(candidates_.begin(), candidates_.end(), ahead);
  Candidate cut = kKeepAll;
  cut_at(candidates_, softmax, target, &cut);
  return cut;
}

}  // namespace q35
