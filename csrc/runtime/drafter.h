// Drafter: what a session needs to draft tokens. It proposes; qwen35_session::decode() has the
// trunk check the proposals and tells what was right.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "base/array.h"
#include "base/status.h"
#include "model/state.h"
#include "runtime/draft_head.h"
#include "runtime/draft_policy.h"
#include "runtime/engine.h"
#include "runtime/lookup_index.h"
#include "runtime/sampler.h"

namespace q35 {

class Drafter {
 public:
  // sources: QWEN35_DRAFT_*.
  [[nodiscard]] Status init(qwen35_model *model, uint32_t sources);
  bool enabled() const { return (sources_ & ~uint32_t{QWEN35_DRAFT_ALWAYS}) != 0; }
  bool uses_mtp() const { return (sources_ & QWEN35_DRAFT_MTP) != 0; }
  bool always() const { return (sources_ & QWEN35_DRAFT_ALWAYS) != 0; }
  uint64_t scratch_bytes() const;

  // The text so far, see qwen35_session_draft_context().
  [[nodiscard]] Status set_text(const int32_t *tokens, size_t n);
  [[nodiscard]] Status add_text(const int32_t *tokens, size_t n);
  void take_back(uint32_t n) { lookup_.truncate(lookup_.size() - n); }

  // Proposes at most `room` drafts behind tokens [n], which come behind those of `state`. limits:
  // that they keep to, or null. *n_checked: how many of them are worth a row of the pass. Returns
  // all, until the next call.
  const int32_t *propose(qwen35_model *model, SequenceState *state, const int32_t *tokens,
                         uint32_t n, uint32_t room, const qwen35_limits *limits,
                         uint32_t *n_checked);
  // What came instead: drawn [n] tokens, of which all but the last were proposed.
  void learn(const int32_t *drawn, uint32_t n);
  void note_pass(uint32_t rows, double seconds);
  // The whole call behind a proposal: `certain` tokens evaluated, n drawn.
  void note_round(uint32_t certain, uint32_t n, double seconds);

  // Imposed acceptance, see qwen35_session_impose_acceptance().
  [[nodiscard]] Status impose(const float *chances, size_t n);
  bool imposes() const { return n_imposed_ != 0; }
  bool imposed(uint32_t i) { return i < n_imposed_ && random_.uniform() < imposed_[i]; }

  qwen35_draft_stats stats = {};

 private:
  void follow_match();
  uint32_t propose_lookup(const qwen35_limits *limits, uint32_t n);
  uint32_t propose_mtp(qwen35_model *model, SequenceState *state, int32_t token,
                       const qwen35_limits *limits, const DraftPolicy::Plan &plan);

  uint32_t sources_ = 0;
  DraftHead head_;
  LookupIndex lookup_;
  DraftPolicy policy_;
  LookupIndex::Match match_;
  DraftPolicy::Source source_ = DraftPolicy::Source::None;
  bool probe_ = false;
  uint32_t n_tokens_ = 0;   // proposed
  uint32_t n_checked_ = 0;  // of these, worth a row of the pass
  uint32_t n_steps_ = 0;
  int32_t tokens_[kMaxDrafts];  // the proposal
  float p_[kMaxDrafts];         // by the MTP layer, or imposed
  uint32_t n_followed_ = 0;
  int32_t followed_[kMaxDrafts];  // what the lookup expects, proposed or not, as far as is allowed
  float imposed_[kMaxDrafts] = {};
  uint32_t n_imposed_ = 0;
  Random random_{1};
};

}  // namespace q35
