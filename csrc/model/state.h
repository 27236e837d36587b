// What one sequence remembers: attention caches that grow with every token, and recurrent states of
// fixed size. Unlike a cache, a recurrent state cannot be cut back; it can only be copied.
// Next: runtime/snapshot.h makes copies that the caller keeps.
//
// Drafted tokens change no recurrent state: what they would do to it is logged, and the next pass
// applies those that turned out right. The MTP layer, whose input at a token is that token and the
// trunk's final state before it, has one more cache, and lags behind: tokens that the trunk has
// seen and it has not are its trail. qwen35_session::settle() ends both kinds of delay.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "base/array.h"
#include "base/memory.h"
#include "base/status.h"
#include "model/config.h"

namespace q35 {

constexpr uint32_t kMaxDrafts = 7;  // with the token before them as many rows as gemv takes at once

class SequenceState {
 public:
  // Reserves caches for `capacity` tokens; memory is committed as they fill. drafts: tokens may be
  // drafted; mtp: the model's MTP layer does so.
  [[nodiscard]] Status init(const Config &config, uint32_t capacity, KvType kv_type, bool drafts,
                            bool mtp);
  void reset();

  // Recurrent part only: what a cancelled batch has to put back.
  [[nodiscard]] Status save_recurrent(Array<float> *out) const;
  void restore_recurrent(const Array<float> &saved) { set_recurrent(saved.data()); }
  // The part of one layer, to its place among [recurrent_count()] floats.
  void copy_recurrent(uint32_t layer, void *floats) const;
  void set_recurrent(const void *floats);                        // [recurrent_count()], unaligned
  const float *recurrent() const { return recurrent_floats(); }  // [recurrent_count()]
  uint64_t recurrent_count() const { return recurrent_floats_; }

  // Entries of all caches, copied out and in. The bytes of one token lie together, [n,
  // token_bytes()], so that a copy can be cut and joined anywhere. Entries up to filled() exist:
  // those behind the position are leftovers, of use to a caller who knows their tokens.
  uint64_t token_bytes() const { return token_bytes_; }
  uint32_t filled() const { return filled_; }
  void export_entries(uint32_t first, uint32_t n, uint8_t *out) const;
  // first <= filled() and first + n <= capacity().
  void import_entries(uint32_t first, uint32_t n, const uint8_t *in);

  uint32_t position() const { return position_; }
  uint32_t capacity() const { return capacity_; }
  KvType kv_type() const { return kv_type_; }
  // Rotary position of the next text token: a picture takes up as many as its longer side.
  uint32_t rotary() const { return rotary_; }
  // n tokens were added, which take up `rotary` rotary positions.
  void advance(uint32_t n, uint32_t rotary) {
    position_ += n;
    rotary_ += rotary;
    if (filled_ < position_) filled_ = position_;
  }
  // Forgets the tokens from `position` on; the recurrent state has to be put back apart.
  void cut(uint32_t position, uint32_t rotary) {
    position_ = position;
    rotary_ = rotary;
  }

  // `layer` n_layer is the MTP layer.
  void *k_cache(uint32_t layer) { return cache_.data() + index_[layer] * 2 * cache_bytes_; }
  void *v_cache(uint32_t layer) { return cache_.data() + (index_[layer] * 2 + 1) * cache_bytes_; }
  float *conv_state(uint32_t layer) { return recurrent_floats() + index_[layer] * layer_floats_; }
  float *delta_state(uint32_t layer) { return conv_state(layer) + conv_floats_; }

  // ---- drafts
  // The log of a layer, which has room for kMaxDrafts tokens.
  DeltaLog log(uint32_t layer);
  // Tokens of the log that belong to the sequence and are not yet in the recurrent states.
  uint32_t n_logged() const { return n_logged_; }
  void set_logged(uint32_t n) { n_logged_ = n; }
  // The last n tokens, all of the log and of the trail, were wrong after all.
  void take_back(uint32_t n) {
    cut(position_ - n, rotary_ - n);
    drop_leftovers();
    n_logged_ -= n;
    if (has_mtp_) n_trail_ -= n;
  }

  // Drafts were written behind the position.
  void drop_leftovers() { filled_ = position_; }
  // What drafts take up besides caches and recurrent states.
  uint64_t draft_bytes() const { return sizeof(float) * (log_.size() + trail_states_.size()); }

  static constexpr uint32_t kTrail = 32;
  bool has_mtp() const { return has_mtp_; }
  // The trunk's final state before the first token of the trail: [n_embd], zero at the start.
  float *hidden() { return recurrent_floats() + recurrent_count() - n_embd_; }
  // Writes another such state to its place in a copy of [recurrent_count()] floats.
  void copy_hidden(const float *state, void *floats) const;
  uint32_t n_trail() const { return n_trail_; }
  const int32_t *trail_tokens() const { return trail_tokens_; }
  // The states behind those tokens: [n_trail, n_embd].
  const float *trail_states() const { return trail_states_.data(); }
  // n <= kTrail - n_trail() tokens of text and the states behind them.
  void add_trail(const int32_t *tokens, const float *states, uint32_t n);
  // The MTP layer has the trail now.
  void clear_trail();

  uint64_t reserved_bytes() const;
  uint64_t committed_bytes() const;

 private:
  float *recurrent_floats() const { return reinterpret_cast<float *>(recurrent_.data()); }
  // visit(entries of a kind: those of one kv head of one cache, bytes of each)
  template <class Visit>
  void each_row(Visit visit) const;

  uint32_t position_ = 0, rotary_ = 0, capacity_ = 0, filled_ = 0;
  uint32_t n_caches_ = 0;  // keys and values of a layer are two
  uint32_t n_head_kv_ = 0, head_dim_ = 0;
  KvType kv_type_ = KvType::F16;
  Array<uint32_t> index_;     // [n_layer, and the MTP layer] among the layers of the same kind
  uint64_t cache_bytes_ = 0;  // of the keys, or of the values, of one layer
  uint64_t token_bytes_ = 0;  // of all caches, per token
  uint64_t conv_floats_ = 0, layer_floats_ = 0, recurrent_floats_ = 0;
  Region cache_;      // [attention layers][keys, values][n_head_kv][capacity][head_dim]
  Region recurrent_;  // [recurrent layers][conv ring [4, channels], delta [v_heads, d/32, d, 32]],
                      // with an MTP layer then hidden() [n_embd]

  uint32_t log_conv_ = 0, log_k_ = 0, log_delta_ = 0, log_decay_ = 0;  // floats of a row
  uint32_t n_logged_ = 0;
  Array<float> log_;  // [recurrent layers][conv, k, delta, decay][kMaxDrafts, ...]
  bool has_mtp_ = false;
  uint32_t n_embd_ = 0, n_trail_ = 0;
  int32_t trail_tokens_[kTrail];
  Array<float> trail_states_;  // [kTrail, n_embd]
};

}  // namespace q35
