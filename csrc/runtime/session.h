// The timeline behind qwen35_session: a sequence's state, and evaluation in bounded pieces.
#pragma once

#include <atomic>

#include "base/array.h"
#include "base/status.h"
#include "model/state.h"
#include "runtime/drafter.h"
#include "runtime/engine.h"

namespace q35 {

// How a decode draws, and where to: see qwen35_session_decode().
struct Draws {
  Sampler *sampler;
  const int32_t *stops;  // [n_stops]
  size_t n_stops;
  const qwen35_limits *limits;  // or null
  qwen35_sample *out;           // [max]
  size_t max;
  size_t *n_out;
};

// Continuations of a session's tokens: see qwen35_session_branch().
struct Branches {
  size_t n;
  const uint32_t *lengths;  // [n]
  const int32_t *tokens;
};

}  // namespace q35

struct qwen35_session {
  explicit qwen35_session(qwen35_model *owner) : model(owner) {}

  [[nodiscard]] q35::Status init(const qwen35_session_params &params);
  [[nodiscard]] q35::Status eval(const int32_t *tokens, size_t n, const qwen35_outputs &outputs,
                                 qwen35_progress progress, void *user);
  // Continuations that leave no trace, see qwen35_session_branch().
  [[nodiscard]] q35::Status branch(const q35::Branches &branches, const uint8_t *want,
                                   float *logits);
  // A picture of grid_rows x grid_columns rows that the vision tower gave.
  [[nodiscard]] q35::Status eval_picture(const float *rows, uint32_t grid_rows,
                                         uint32_t grid_columns, float *hidden_sum,
                                         qwen35_progress progress, void *user);
  // See qwen35_session_decode() and qwen35_session_take_back().
  [[nodiscard]] q35::Status decode(const int32_t *tokens, size_t n, const q35::Draws &draws);
  [[nodiscard]] q35::Status take_back(q35::Sampler *sampler, size_t n);
  // Ends what is delayed (see state.h): caches and recurrent states then are all of the sequence.
  void settle();
  void reset();
  // The logits of the last token evaluated, when has_logits.
  const float *kept() {
    complete_logits();
    return kept_logits.data() + uint64_t{kept_row} * model->config.n_vocab;
  }

  // Takes logits [n_vocab] of a snapshot as those.
  void keep_logits(const float *logits);

  qwen35_model *model;
  q35::SequenceState state;
  uint32_t n_batch = 0;
  std::atomic<uint32_t> cancel{0};
  q35::Drafter drafter;
  q35::Array<float> kept_logits;  // [n_vocab], with drafts [1 + kMaxDrafts, n_vocab]
  uint32_t kept_row = 0;
  bool has_logits = false;
  uint32_t n_drawn = 0;  // by the last decode, which take_back() may undo

 private:
  uint64_t n_embd() const { return model->config.n_embd; }
  q35::Status check_tokens(const int32_t *tokens, size_t n) const;
  q35::Status check_room(size_t n) const;
  q35::Status check_drafts(const int32_t *tokens, uint32_t n, uint32_t n_drafts,
                           const q35::Draws &draws);
  q35::Status draw_row(uint32_t row, const int32_t *drawn, uint32_t n, const q35::Draws &draws);
  q35::Status draw_rows(const int32_t *tokens, uint32_t n, uint32_t n_drafts,
                        const q35::Draws &draws);
  void complete_logits();
  void accept_rows(const int32_t *tokens, uint32_t n, uint32_t right);
  float *states() { return state.has_mtp() ? states_.data() : nullptr; }
  void note_states(const int32_t *tokens, uint32_t n);
  void feed_mtp(const q35::Segment &segment);
  uint32_t next_piece(size_t done, size_t n);
  q35::Status check_branches(const q35::Branches &branches, size_t before);
  q35::Status run_branches(q35::Branches branches, const uint8_t *want, float *logits);
  size_t take_branches(const q35::Branches &branches, const uint8_t *want, q35::Job *job);
  q35::Status place_marks(uint32_t n, const qwen35_outputs *outputs);
  q35::Status eval_piece(const int32_t *tokens, uint32_t n, bool last, qwen35_outputs *outputs);
  q35::Status eval_cells(const float *rows, uint32_t n, uint32_t grid_columns, float *hidden_sum,
                         qwen35_progress progress, void *user);

  q35::Array<float> kept_hidden_;  // [as kept_logits, n_embd] what a decode's logits come from
  // Whether only the largest of kept_logits are right, and the row that was completed since.
  bool only_top_ = false;
  uint32_t complete_row_ = UINT32_MAX;
  q35::Array<float> before_;        // recurrent state before a picture
  q35::Array<q35::Segment> parts_;  // of a pass with branches
  uint32_t n_pass_ = 0;             // tokens of a pass, branches with them
  q35::Array<uint32_t> rows_;       // wanted rows of a piece
  // Snapshots due in a piece, counted from its first token, and tokens of the call before it.
  q35::Array<uint32_t> marks_;
  q35::Array<uint8_t *> mark_states_;
  size_t given_ = 0;
  q35::Array<float> states_;  // [n_batch, n_embd] final states of a piece, for the MTP layer
};

namespace q35 {

// What the parameters of a session come to.
struct SessionSizes {
  uint32_t n_ctx, n_batch;
  KvType kv_type;
  bool drafts = false, mtp = false;
};

[[nodiscard]] Status session_sizes(const qwen35_model &model, const qwen35_session_params &params,
                                   SessionSizes *out);
[[nodiscard]] Status estimate_session(qwen35_model *model, int32_t n_threads,
                                      const qwen35_session_params &params,
                                      qwen35_session_needs *out);

}  // namespace q35
