// The forward pass of the text model over a batch: consecutive tokens of one sequence, or of
// several.
#pragma once

#include <atomic>
#include <cstdint>

#include "backend/backend.h"
#include "base/array.h"
#include "base/status.h"
#include "model/state.h"
#include "model/text_model.h"

namespace q35 {

// Where copies of the recurrent state are taken on the way through a segment.
struct Marks {
  uint32_t n = 0;
  const uint32_t *at = nullptr;      // [n] tokens of the segment before the copy, ascending
  uint8_t *const *states = nullptr;  // [n] each for recurrent_count() floats, unaligned
};

// Consecutive tokens of one sequence: text, or a part of a picture.
struct Segment {
  SequenceState *state;
  uint32_t n;
  const int32_t *tokens;  // [n] ids; null for pictures
  const float *rows;      // [n, n_embd] what the vision tower gave for the cells of a picture
  uint32_t columns;       // of the picture
  uint32_t first_cell;    // cell of the picture that the segment begins with
  uint32_t n_drafts;      // the last tokens of a text without marks, which may be wrong; see
                          // DeltaNetArgs
  Marks marks = {};
  // At most kGemvMaxCols tokens of text that leave the recurrent state as it is. Several may branch
  // off the same state, each of which overwrites the cache entries of those before it.
  bool branch = false;
  // Tokens of text between the state's position and a branch: the segment before.
  uint32_t behind = 0;
};

class TextForward {
 public:
  // Scratch for batches of up to max_tokens.
  [[nodiscard]] Status reserve(const Config &config, uint32_t max_tokens);
  uint64_t scratch_bytes() const;

  // Evaluates segments of different sequences (or branches, see Segment), of at most max_tokens
  // together, and appends each to its state, whose position the caller advances, and whose log the
  // caller sets: to the drafts that were right. Where a state has a branch its log must be empty.
  // The rotary position of a picture is that of its first cell, in all its segments. Stops between
  // layers when *cancel is nonzero, leaving the recurrent states undefined: ERROR_CANCELLED. cancel
  // may be null.
  [[nodiscard]] Status run(const TextModel &model, Backend *backend, const Segment *segments,
                           uint32_t n_segments, const std::atomic<uint32_t> *cancel);

  // After run(): final-norm rows of the tokens listed in rows [n_rows], which count through all
  // segments. hidden: [n_rows, n_embd].
  void hidden_rows(const TextModel &model, Backend *backend, const uint32_t *rows, uint32_t n_rows,
                   float *hidden);
  // The same for n tokens from `first` on.
  void final_states(const TextModel &model, Backend *backend, uint32_t first, uint32_t n,
                    float *hidden);
  // Logits of rows of hidden states, see Backend::linear_top. logits: [n_rows, n_vocab].
  static void logits(const TextModel &model, Backend *backend, const float *hidden, uint32_t n_rows,
                     const TopRows &top, float *logits);

  // Brings what is logged into the recurrent states.
  static void apply_log(const TextModel &model, Backend *backend, SequenceState *state);

 private:
  // What a run passes on to its layers.
  struct Pass {
    const TextModel &model;
    Backend *backend;
    const Segment *segments;
    uint32_t n_segments;
    uint32_t n;  // tokens of all segments
  };

  void embed(const Pass &pass);
  void delta_layer(const Pass &pass, uint32_t layer);
  void attention_layer(const Pass &pass, uint32_t layer);
  void feed_forward(const Pass &pass, uint32_t layer);

  Array<float> x_;          // [n, n_embd] residual stream, without the last addition
  Array<float> normed_;     // [n, n_embd]
  Array<float> added_;      // [n, n_embd] output of the last block, not yet added to x
  Array<float> wide_;       // projections of a layer, whichever is widest
  Array<float> mixed_;      // [n, mixer width] output of the mixer before its projection
  Array<float> cos_, sin_;  // [n, n_rot / 2]
};

}  // namespace q35
