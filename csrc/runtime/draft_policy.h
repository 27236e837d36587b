// DraftPolicy: whether to draft, from where and how far, so that tokens per second are the most.
// It learns while decoding what everything costs on this machine and how often drafts are right in
// this text, and compares
//
//   plain    1 token                              in  plain
//   lookup   1 + a_1 + a_1 a_2 + ... tokens       in  (plain + rows(n)) * factor
//   MTP      the same with its own acceptances    in  (plain + rows(n) + n * step) * factor
//
// where a round is a whole call, with lookups, limits and draws, and the factor of a source is what
// its rounds took beyond their parts. Rows do not all cost the same: a third one has all of the
// output head read, a fourth comes nearly free. Estimates may be wrong, so each source also has an
// account, in tokens: a round with drafts adds what it gained against plain ones, or takes what it
// lost. A text begins with little credit, and without any there are no drafts but a rare one, so
// that a text in which they do not pay takes the time of plain decoding and little more.
#pragma once

#include <cstdint>

#include "model/state.h"

namespace q35 {

// How often something happened lately.
struct Frequency {
  float hits = 0, total = 0;
  float ignorance = 1;  // fades with observations, but never quite

  void note(bool hit);
  // A round has passed: without new observations the prior counts more and more, or what once was
  // bad luck would never be tried again.
  void fade();
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

  // whole: what it is a part of, whose stalls are in it and whose changes it follows.
  void note(double measured, double whole = 0);
};

constexpr double kMeanWeight = 0.05;  // of a measurement in a mean

// A mean of late that single outliers do not move far.
struct Mean {
  double value = 0;
  uint32_t count = 0;

  void note(double measured, double weight = kMeanWeight);
};

class DraftPolicy {
 public:
  enum class Source { None, Mtp, Lookup };
  struct Plan {
    Source source;
    uint32_t n;   // drafts: of the lookup, or the most of the MTP layer
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
  double step_seconds() const;

  struct Round {
    Source source;     // of the drafts; None: a plain round
    bool probe;        // see Plan
    uint32_t certain;  // rows of the pass that were no drafts
    uint32_t drafts;   // and those that were
    uint32_t steps;    // of the MTP layer
    uint32_t tokens;   // drawn
  };
  // What a call gave, from its beginning to its end.
  void note_round(const Round &round, double seconds);

  // depth: drafts before this one, which were right. p: what the layer gave the draft.
  void note_mtp(uint32_t depth, float p, bool right);
  // length: tokens that agree before the draft.
  void note_lookup(uint32_t length, bool right);
  // Whether the first draft of a lookup would have been right in a round without it.
  void note_missed(bool right);
  double mtp_chance(uint32_t depth, float p) const;
  double mtp_chance(uint32_t depth) const;
  double lookup_chance(uint32_t length) const;

  // Another text begins: what was right in the one before it may be wrong in this one.
  void begin_text();
  // room: drafts that context and caller allow.
  Plan plan(uint32_t room, bool mtp, const Lookup &lookup);
  // As many as possible, whatever it costs.
  static Plan all(uint32_t room, bool mtp, const Lookup &lookup);
  // Whether more than n drafts of the MTP layer, up to `most`, are worth their steps and rows.
  // chance: that those n are right.
  bool worth_steps(uint32_t n, uint32_t most, double chance, double rate) const;
  // How many of n drafts are worth rows of the pass. chances[i]: that draft i and all before it are
  // right.
  uint32_t worth_rows(const double *chances, uint32_t n, double rate) const;

 private:
  static constexpr uint32_t kLevels = 5;       // of p
  static constexpr uint32_t kLengths = 6;      // of matches: 2, 3, 4-5, 6-9, 10-17, longer
  static constexpr double kStartCredit = 0.5;  // a text begins with no more, if there is no trust

  struct Account {  // of a source
    double credit = kStartCredit;
    double gain = 0;  // of a round with drafts lately
    Mean beyond;      // its rounds relative to the sum of their parts

    double factor() const { return beyond.count == 0 ? 1.0 : beyond.value; }
    void add(double tokens);
    // Whether n drafts may be lost that cost `price` together, in plain rounds.
    bool allows(uint32_t n, double price) const;
  };

  static uint32_t length_class(uint32_t length);
  double rows_seconds(uint32_t n) const;  // what n further rows cost
  double price() const;                   // of a try, in tokens
  double plain_seconds() const { return plain_.count == 0 ? pass_.seconds : plain_.value; }
  double parts(uint32_t drafts, uint32_t steps) const {
    return plain_seconds() + rows_seconds(drafts) + steps * step_seconds();
  }

  Duration pass_, step_;       // of one row; of the MTP layer
  Duration more_[kMaxDrafts];  // [n] of n + 1 further rows
  Mean plain_;                 // a whole round without drafts
  uint64_t round_ = 0, last_plain_ = 0, last_mtp_ = 0;
  bool pays_for_drafts_ = false;  // the next pass, for right drafts of the one before: see DeltaLog
  Account mtp_, lookup_;
  Frequency depth_[kMaxDrafts], level_[kMaxDrafts][kLevels], length_[kLengths];
};

}  // namespace q35
