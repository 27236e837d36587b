// DraftPolicy: whether to draft, from where and how far, so that tokens per second are the most.
// It learns while decoding what everything costs on this machine and how often drafts are right in
// this text, and compares
//
//   plain    1 token                              in  pass(1)
//   lookup   1 + a_1 + a_1 a_2 + ... tokens       in  pass(1 + n)
//   MTP      the same with its own acceptances    in  pass(1 + n) + n * step
//
// A pass takes pass(1) and the same time for every further row. A source whose rounds turn out to
// be slower than plain ones, for whatever reason, is left alone for a while.
#pragma once

#include <cstdint>

#include "model/state.h"

namespace q35 {

// How often something happened lately.
struct Frequency {
  float hits = 0, total = 0;
  float ignorance = 1;  // fades with observations

  void note(bool hit);
  // With some imagined observations of `prior`, which fade too.
  double estimate(double prior) const {
    const double weight = 4.0 * ignorance;
    return (hits + weight * prior) / (total + weight);
  }
};

// The time that something takes when nothing interrupts it: near the shortest of late.
struct Duration {
  double seconds = 0;
  uint32_t count = 0;

  void note(double measured);
};

class DraftPolicy {
 public:
  enum class Source { None, Mtp, Lookup };
  struct Plan {
    Source source;
    uint32_t n;   // drafts expected
    double rate;  // tokens per second expected
    bool probe;   // no drafts pay, but one of the MTP layer is due to see whether they would
  };

  struct Lookup {
    uint32_t match;  // tokens that agree
    uint32_t n;      // tokens that follow; 0: nothing was found
  };

  // A pass of the trunk over `rows` tokens, and a step of the MTP layer with its head.
  void note_pass(uint32_t rows, double seconds);
  void note_step(double seconds) { step_.note(seconds); }
  double pass_seconds(uint32_t rows) const { return pass_.seconds + (rows - 1) * row_seconds(); }
  double step_seconds() const;
  // What a round with drafts gave: tokens for the rows of its pass and its steps.
  void note_round(Source source, uint32_t tokens, uint32_t rows, uint32_t steps);

  // depth: drafts before this one, which were right. p: what the layer gave the draft.
  void note_mtp(uint32_t depth, float p, bool right);
  // length: tokens that agree before the draft.
  void note_lookup(uint32_t length, bool right);
  double mtp_chance(uint32_t depth, float p) const;
  double mtp_chance(uint32_t depth) const;
  double lookup_chance(uint32_t length) const;

  // room: drafts that context and caller allow.
  Plan plan(uint32_t room, bool mtp, const Lookup &lookup);
  // As many as possible, whatever it costs.
  static Plan all(uint32_t room, bool mtp, const Lookup &lookup);
  // Whether draft `depth` is worth a step, and whether it is worth a row of the pass. chance: that
  // it and all before it are right.
  bool worth_step(double chance, double rate) const {
    return chance >= rate * (step_seconds() + row_seconds());
  }
  bool worth_row(double chance, double rate) const { return chance >= rate * row_seconds(); }

 private:
  static constexpr uint32_t kLevels = 5;   // of p
  static constexpr uint32_t kLengths = 6;  // of matches: 2, 3, 4-5, 6-9, 10-17, longer

  struct Record {  // of the rounds of a source lately
    double tokens = 0, seconds = 0;
    uint32_t rounds = 0;
    uint64_t rests_until = 0;  // round
  };

  static uint32_t length_class(uint32_t length);
  double row_seconds() const;
  Record &record(Source source) { return source == Source::Mtp ? mtp_ : lookup_; }

  Duration pass_, row_, step_;  // of one row; of a further row; of the MTP layer
  uint64_t round_ = 0, last_plain_ = 0, last_mtp_ = 0;
  Record mtp_, lookup_;
  Frequency depth_[kMaxDrafts], level_[kMaxDrafts][kLevels], length_[kLengths];
};

}  // namespace q35
