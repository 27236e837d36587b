// What one sequence remembers: attention caches that grow with every token, and recurrent states of
// fixed size. Unlike a cache, a recurrent state cannot be cut back; it can only be copied.
// Next: runtime/snapshot.h makes copies that the caller keeps.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "base/array.h"
#include "base/memory.h"
#include "base/status.h"
#include "model/config.h"

namespace q35 {

class SequenceState {
 public:
  // Reserves caches for `capacity` tokens; memory is committed as they fill.
  [[nodiscard]] Status init(const Config &config, uint32_t capacity, KvType kv_type);
  void reset();

  // Recurrent part only: what a cancelled batch has to put back.
  [[nodiscard]] Status save_recurrent(Array<float> *out) const;
  void restore_recurrent(const Array<float> &saved) { set_recurrent(saved.data()); }
  // The part of one layer, to its place among [recurrent_count()] floats.
  void copy_recurrent(uint32_t layer, void *floats) const;
  void set_recurrent(const void *floats);                        // [recurrent_count()], unaligned
  const float *recurrent() const { return recurrent_floats(); }  // [recurrent_count()]
  uint64_t recurrent_count() const { return recurrent_.size() / sizeof(float); }

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

  void *k_cache(uint32_t layer) { return cache_.data() + index_[layer] * 2 * cache_bytes_; }
  void *v_cache(uint32_t layer) { return cache_.data() + (index_[layer] * 2 + 1) * cache_bytes_; }
  float *conv_state(uint32_t layer) { return recurrent_floats() + index_[layer] * layer_floats_; }
  float *delta_state(uint32_t layer) { return conv_state(layer) + conv_floats_; }

  uint64_t reserved_bytes() const { return cache_.size() + recurrent_.size(); }
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
  Array<uint32_t> index_;     // [n_layer] among the layers of the same kind
  uint64_t cache_bytes_ = 0;  // of the keys, or of the values, of one layer
  uint64_t token_bytes_ = 0;  // of all caches, per token
  uint64_t conv_floats_ = 0, layer_floats_ = 0;
  Region cache_;      // [attention layers][keys, values][n_head_kv][capacity][head_dim]
  Region recurrent_;  // [recurrent layers][conv ring [4, channels], delta [v_heads, d/32, d, 32]]
};

}  // namespace q35
