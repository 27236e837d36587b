// Sampler: from the logits of one position to the next token, and what penalties must remember.
// Order: allowed tokens, logit bias, penalties, temperature, top_k, top_p, min_p, draw: that of the
// reference implementations of the Qwen models. (llama.cpp applies the temperature last: top_p and
// min_p then cut a different distribution unless the temperature is 1.)
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "base/array.h"
#include "base/memory.h"
#include "base/status.h"
#include "runtime/logit_scan.h"

namespace q35 {

// xoshiro256** 1.0 (Blackman and Vigna, 2018), its state filled by SplitMix64.
class Random {
 public:
  explicit Random(uint64_t seed);
  uint64_t next();
  // Uniform in [0, 1): the upper 53 bits.
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

 private:
  uint64_t state_[4];
};

class Sampler {
 public:
  // banned: [n_banned] ids in [0, n_vocab) that are never drawn nor reported (unused rows).
  // The arrays are copied. Errors name the field, its value and its range.
  [[nodiscard]] Status init(int32_t n_vocab, const int32_t *banned, size_t n_banned,
                            const qwen35_sampling_params &params);

  int32_t n_vocab() const { return n_vocab_; }

  // tokens: [n]. All or none are counted. from_prompt: for repetition_penalty only.
  [[nodiscard]] Status accept(const int32_t *tokens, size_t n, bool from_prompt);

  // Only tokens whose bit is set can be drawn from now on. words: [n_words], copied, with
  // n_words (n_vocab + 31) / 32; NULL lifts the limit.
  [[nodiscard]] Status allow(const uint32_t *words, size_t n_words);
  void allow_all() { allowed_.clear(); }

  // logits: [n_vocab]. NaN counts as -inf, +inf as the largest float. Accepts the token drawn;
  // after a failure the sampler is as before. Never allocates.
  //
  // Log-probabilities are those of the log-softmax of `logits` as given, over every row of the
  // vocabulary: no allowed tokens, bias, penalty, temperature or cut. With n_logprobs -1 they are
  // not computed and out->logprob is NaN: that saves a pass over the vocabulary.
  [[nodiscard]] Status sample(const float *logits, qwen35_sample *out);

  // Which logits the next `draws` calls of sample() look at: the largest of the rows that may be
  // drawn. They must be right; others may be anything below them.
  TopRows looks_at(uint32_t draws) const;

  // Undoes the last n draws, nothing accepted since, at most kUndo of them.
  [[nodiscard]] Status take_back(uint32_t n);
  static constexpr uint32_t kUndo = 8;

 private:
  struct Draw {
    Random random;  // before it
    int32_t token;
    bool first;  // the token was not seen before
  };

  struct Bias {
    int32_t token;
    float value;
  };

  Status copy_lists(const int32_t *banned, size_t n_banned, const qwen35_sampling_params &params);
  void report_top(const Softmax &raw, double log_mass, qwen35_sample *out);
  void adjust();
  float penalised(float logit, uint32_t count) const;
  Candidate cut(const Softmax &softmax);
  int32_t draw();
  bool remember(int32_t token, bool from_prompt);

  qwen35_sampling_params params_ = {};  // its arrays are not used after init()
  int32_t n_vocab_ = 0;
  bool has_penalties_ = false;
  float log_min_p_ = 0.0f;
  Random random_{0};
  Draw draws_[kUndo] = {{Random(0), 0, false}, {Random(0), 0, false}, {Random(0), 0, false},
                        {Random(0), 0, false}, {Random(0), 0, false}, {Random(0), 0, false},
                        {Random(0), 0, false}, {Random(0), 0, false}};  // the newest last
  uint32_t n_draws_ = 0;
  LogitScan scan_;
  Array<int32_t> banned_;
  Array<Bias> bias_;
  Array<uint32_t> allowed_;  // a bit for each token, empty: all
  Region count_memory_;
  uint32_t *counts_ = nullptr;  // [n_vocab] kSeen and how often generated; pages taken when used
  Array<int32_t> seen_;         // the ids with kSeen set, in order of appearance
};

}  // namespace q35

// The handle of the C API.
struct qwen35_sampler {
  q35::Sampler sampler;
};
