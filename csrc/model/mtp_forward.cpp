#include "model/mtp_forward.h"

#include <cstring>

namespace q35 {

namespace {

uint64_t floats(uint64_t n) {
  return n * sizeof(float);
}

}  // namespace

Status MtpForward::reserve(const Config &c) {
  static_assert(SequenceState::kTrail < kRows, "the trail and a token");
  const uint64_t n = kRows, query = 2ull * c.q_dim(), inner = 2ull * c.n_ff;
  for (Array<float> *rows : {&embedded_, &states_, &x_, &normed_}) {
    Q35_TRY(rows->resize(n * c.n_embd));
  }
  Q35_TRY(joined_.resize(n * 2 * c.n_embd));
  Q35_TRY(k_.resize(n * c.kv_dim()));
  Q35_TRY(v_.resize(n * c.kv_dim()));
  Q35_TRY(wide_.resize(query > inner ? query : inner));
  Q35_TRY(mixed_.resize(c.q_dim()));
  Q35_TRY(added_.resize(c.n_embd));
  Q35_TRY(out_.resize(c.n_embd));
  Q35_TRY(cos_.resize(n * (c.n_rot / 2)));
  return sin_.resize(n * (c.n_rot / 2));
}

uint64_t MtpForward::scratch_bytes() const {
  uint64_t total = 0;
  for (const Array<float> *a : {&embedded_, &states_, &joined_, &x_, &normed_, &k_, &v_, &wide_,
                                &mixed_, &added_, &out_, &cos_, &sin_}) {
    total += floats(a->size());
  }
  return total;
}

// The trail's tokens, and the states before them, as the first rows.
void MtpForward::take_trail(SequenceState *state) {
  const uint64_t n = state->n_trail(), h = out_.size();
  std::memcpy(tokens_, state->trail_tokens(), sizeof(int32_t) * n);
  std::memcpy(states_.data(), state->hidden(), floats(h));
  std::memcpy(states_.data() + h, state->trail_states(), floats(n * h));
  state->clear_trail();
}

// embedded_ and states_ to x_, k_ and v_.
void MtpForward::project(const TextModel &model, Backend *backend, uint32_t n) {
  const Config &c = model.config;
  const MtpWeights &w = model.weights.mtp[0];
  const uint64_t h = c.n_embd;
  float *first = x_.data(), *second = normed_.data();  // free until the projection
  backend->add_norm(embedded_.data(), nullptr, w.enorm, n, c.n_embd, c.rms_eps, first);
  backend->add_norm(states_.data(), nullptr, w.hnorm, n, c.n_embd, c.rms_eps, second);
  for (uint64_t i = 0; i < n; i++) {
    std::memcpy(joined_.data() + 2 * i * h, first + i * h, floats(h));
    std::memcpy(joined_.data() + (2 * i + 1) * h, second + i * h, floats(h));
  }
  const LinearJob in = linear_job(w.eh_proj, x_.data());
  backend->linear(joined_.data(), n, 2 * c.n_embd, &in, 1);
  backend->add_norm(x_.data(), nullptr, w.layer.attn_norm, n, c.n_embd, c.rms_eps, normed_.data());
  const LinearJob kv[] = {linear_job(w.layer.attention.k, k_.data()),
                          linear_job(w.layer.attention.v, v_.data())};
  backend->linear(normed_.data(), n, c.n_embd, kv, 2);
}

// Rows [row, row + n) of k_ and v_, for the cache entries from `position` on; without queries.
AttentionArgs MtpForward::attention(const TextModel &model, SequenceState *state, uint32_t position,
                                    uint32_t row, uint32_t n) {
  const Config &c = model.config;
  const AttentionWeights &w = model.weights.mtp[0].layer.attention;
  const uint64_t angles = uint64_t{row} * (c.n_rot / 2), entry = uint64_t{row} * c.kv_dim();
  return {n,
          position,
          c.n_head,
          c.n_head_kv,
          c.head_dim,
          c.n_rot,
          c.rms_eps,
          nullptr,
          k_.data() + entry,
          v_.data() + entry,
          w.q_norm,
          w.k_norm,
          cos_.data() + angles,
          sin_.data() + angles,
          state->kv_type(),
          state->k_cache(c.n_layer),
          state->v_cache(c.n_layer),
          state->capacity(),
          mixed_.data(),
          false};
}

void MtpForward::catch_up(const TextModel &model, Backend *backend, SequenceState *state) {
  const uint32_t n = state->n_trail();
  if (n == 0) return;
  take_trail(state);
  backend->embed(model.weights.token_embd, tokens_, n, embedded_.data());
  model.rope.fill_text(state->rotary() - n, n, cos_.data(), sin_.data());
  project(model, backend, n);
  backend->attention(attention(model, state, state->position() - n, 0, n));
}

void MtpForward::add(const TextModel &model, Backend *backend, const Segment &batch,
                     const float *states) {
  SequenceState *state = batch.state;
  const uint64_t h = model.config.n_embd;
  for (uint32_t done = 0; done < batch.n;) {
    const uint32_t n = batch.n - done < kRows ? batch.n - done : kRows;
    if (batch.tokens != nullptr) {
      backend->embed(model.weights.token_embd, batch.tokens + done, n, embedded_.data());
      model.rope.fill_text(state->rotary() + done, n, cos_.data(), sin_.data());
    } else {
      std::memcpy(embedded_.data(), batch.rows + done * h, floats(n * h));
      model.rope.fill_picture(state->rotary(), batch.columns, batch.first_cell + done, n,
                              cos_.data(), sin_.data());
    }
    std::memcpy(states_.data(), state->hidden(), floats(h));
    std::memcpy(states_.data() + h, states + done * h, floats((n - 1) * h));
    std::memcpy(state->hidden(), states + (done + n - 1) * h, floats(h));
    project(model, backend, n);
    backend->attention(attention(model, state, state->position() + done, 0, n));
    done += n;
  }
}

const float *MtpForward::draft(const TextModel &model, Backend *backend, SequenceState *state,
                               int32_t token, uint32_t depth) {
  const Config &c = model.config;
  const AttentionWeights &w = model.weights.mtp[0].layer.attention;
  uint32_t trail = 0;
  if (depth == 0) {
    trail = state->n_trail();
    take_trail(state);
  } else {
    std::memcpy(states_.data(), out_.data(), floats(c.n_embd));
  }
  const uint32_t position = state->position() + depth, rotary = state->rotary() + depth;
  tokens_[trail] = token;
  backend->embed(model.weights.token_embd, tokens_, trail + 1, embedded_.data());
  model.rope.fill_text(rotary - trail, trail + 1, cos_.data(), sin_.data());
  project(model, backend, trail + 1);
  if (trail != 0) backend->attention(attention(model, state, position - trail, 0, trail));
  AttentionArgs args = attention(model, state, position, trail, 1);
  args.q = wide_.data();
  const uint64_t last = uint64_t{trail} * c.n_embd;
  const LinearJob query = linear_job(w.q, wide_.data());
  backend->linear(normed_.data() + last, 1, c.n_embd, &query, 1);
  backend->attention(args);
  finish(model, backend, x_.data() + last);
  return out_.data();
}

// From the mixed heads of one row to the layer's output. x: [n_embd] what goes into the layer.
void MtpForward::finish(const TextModel &model, Backend *backend, float *x) {
  const Config &c = model.config;
  const MtpWeights &w = model.weights.mtp[0];
  float *normed = normed_.data(), *gate = wide_.data(), *up = gate + c.n_ff;
  const LinearJob mixed = linear_job(w.layer.attention.o, added_.data());
  backend->linear(mixed_.data(), 1, c.q_dim(), &mixed, 1);
  backend->add_norm(x, added_.data(), w.layer.ffn_norm, 1, c.n_embd, c.rms_eps, normed);
  const LinearJob inner[] = {linear_job(w.layer.ffn_gate, gate), linear_job(w.layer.ffn_up, up)};
  backend->linear(normed, 1, c.n_embd, inner, 2);
  backend->silu_mul(gate, up, 1, c.n_ff);
  const LinearJob down = linear_job(w.layer.ffn_down, added_.data());
  backend->linear(gate, 1, c.n_ff, &down, 1);
  backend->add_norm(x, added_.data(), w.head_norm, 1, c.n_embd, c.rms_eps, out_.data());
}

}  // namespace q35
