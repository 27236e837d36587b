// The multi-token-prediction layer: from a token and the trunk's final state before it to a state
// that predicts the token after it. Drafts are chained: its own output takes the place of the
// trunk's state, as in training.
//
//   x = eh_proj [norm(embedding of token p), norm(state at p - 1)]
//   an attention layer as in the trunk, with a cache of its own that holds every token
//   draft for p + 1: output head of norm(x)
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "base/array.h"
#include "base/status.h"
#include "model/state.h"
#include "model/text_forward.h"
#include "model/text_model.h"

namespace q35 {

class MtpForward {
 public:
  [[nodiscard]] Status reserve(const Config &config);
  uint64_t scratch_bytes() const;

  // Gives the layer the trail of `state`.
  void catch_up(const TextModel &model, Backend *backend, SequenceState *state);
  // Gives it a batch that the trunk has evaluated at the position of its state, which the caller
  // advances after that; the trail is empty. states: [n, n_embd] final states of the batch.
  void add(const TextModel &model, Backend *backend, const Segment &batch, const float *states);
  // A step of a chain of drafts: `token` stands `depth` places behind the tokens of `state`, and
  // position + depth is within its capacity. Returns the state that predicts the token after it:
  // [n_embd], until the next call. With depth > 0 the call before made the step before. The first
  // step takes the trail along.
  const float *draft(const TextModel &model, Backend *backend, SequenceState *state, int32_t token,
                     uint32_t depth);

 private:
  static constexpr uint32_t kRows = 64;  // done at once; the trail and a token fit

  void take_trail(SequenceState *state);
  void project(const TextModel &model, Backend *backend, uint32_t n);
  AttentionArgs attention(const TextModel &model, SequenceState *state, uint32_t position,
                          uint32_t row, uint32_t n);
  void finish(const TextModel &model, Backend *backend, float *x);

  Array<float> embedded_, states_;  // [kRows, n_embd] the two halves of the input
  Array<float> joined_;             // [kRows, 2 n_embd]
  Array<float> x_, normed_;         // [kRows, n_embd]
  Array<float> k_, v_;              // [kRows, kv_dim]
  Array<float> wide_;               // one row: query and gate, or the two of the feed-forward
  Array<float> mixed_;              // [q_dim]
  Array<float> added_, out_;        // [n_embd]
  Array<float> cos_, sin_;          // [kRows, n_rot / 2]
  int32_t tokens_[kRows];
};

}  // namespace q35
