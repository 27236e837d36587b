// Forward pass. One layer, with h = n_embd:
//
//   x [n, h] ── norm ─┬─ q|k|v|z|alpha|beta ─ conv ─ delta rule ─ norm * silu(z) ─ out ─┬─ + x
//                     └─ (q|gate), k, v ─ norm, rope ─ attention ─ * sigmoid(gate) ─ o ─┘
//   x ── norm ── gate, up ── silu(gate) * up ── down ── + x
//
// Every fourth layer is attention (second line), the others are Gated DeltaNet (first line). The
// sums
// "+ x" are done together with the norm that follows them.
#include "model/text_forward.h"

#include <cstring>

namespace q35 {

namespace {

// Widths of the projections that lie side by side in wide_, in floats per token.
uint64_t delta_width(const Config &c) {
  return c.conv_channels() + c.lin_v_dim() + 2ull * c.lin_v_heads;
}
uint64_t attention_width(const Config &c) {
  return 2ull * c.q_dim() + 2ull * c.kv_dim();
}
uint64_t widest(const Config &c) {
  uint64_t width = 2ull * c.n_ff;
  if (delta_width(c) > width) width = delta_width(c);
  if (attention_width(c) > width) width = attention_width(c);
  return width;
}
uint64_t mixer_width(const Config &c) {
  return c.q_dim() > c.lin_v_dim() ? c.q_dim() : c.lin_v_dim();
}

LinearJob job(const Matrix &w, float *y) {
  return {&w, y, w.rows};
}

}  // namespace

Status TextForward::reserve(const Config &c, uint32_t max_tokens) {
  const uint64_t n = max_tokens;
  Q35_TRY(x_.resize(n * c.n_embd));
  Q35_TRY(normed_.resize(n * c.n_embd));
  Q35_TRY(added_.resize(n * c.n_embd));
  Q35_TRY(wide_.resize(n * widest(c)));
  Q35_TRY(mixed_.resize(n * mixer_width(c)));
  Q35_TRY(cos_.resize(n * (c.n_rot / 2)));
  return sin_.resize(n * (c.n_rot / 2));
}

uint64_t TextForward::scratch_bytes() const {
  return sizeof(float) * (x_.size() + normed_.size() + added_.size() + wide_.size() +
                          mixed_.size() + cos_.size() + sin_.size());
}

Status TextForward::run(const TextModel &model, Backend *backend, SequenceState *state,
                        const TokenBatch &batch, const std::atomic<uint32_t> *cancel) {
  const Config &c = model.config;
  const uint32_t n = batch.n;
  if (batch.tokens != nullptr) {
    backend->embed(model.weights.token_embd, batch.tokens, n, x_.data());
    model.rope.fill_text(state->rotary(), n, cos_.data(), sin_.data());
  } else {
    std::memcpy(x_.data(), batch.rows, sizeof(float) * n * c.n_embd);
    model.rope.fill_picture(state->rotary(), batch.columns, batch.first_cell, n, cos_.data(),
                            sin_.data());
  }
  const float *added = nullptr;
  for (uint32_t i = 0; i < c.n_layer; i++) {
    const LayerWeights &w = model.weights.layers[i];
    backend->add_norm(x_.data(), added, w.attn_norm, n, c.n_embd, c.rms_eps, normed_.data());
    if (c.recurrent[i]) {
      delta_layer(model, i, backend, state, n);
    } else {
      attention_layer(model, i, backend, state, n);
    }
    added = added_.data();
    backend->add_norm(x_.data(), added, w.ffn_norm, n, c.n_embd, c.rms_eps, normed_.data());
    feed_forward(model, i, backend, n);
    if (cancel != nullptr && cancel->load(std::memory_order_relaxed) != 0) {
      return fail(QWEN35_ERROR_CANCELLED, "cancelled");
    }
  }
  return kOk;
}

void TextForward::delta_layer(const TextModel &model, uint32_t layer, Backend *backend,
                              SequenceState *state, uint32_t n) {
  const Config &c = model.config;
  const DeltaNetWeights &w = model.weights.layers[layer].delta;
  float *qkv = wide_.data();                                       // [n, conv_channels]
  float *z = qkv + static_cast<uint64_t>(n) * c.conv_channels();   // [n, lin_v_dim]
  float *alpha = z + static_cast<uint64_t>(n) * c.lin_v_dim();     // [n, lin_v_heads]
  float *beta = alpha + static_cast<uint64_t>(n) * c.lin_v_heads;  // [n, lin_v_heads]
  const LinearJob inputs[] = {job(w.qkv, qkv), job(w.z, z), job(w.alpha, alpha), job(w.beta, beta)};
  backend->linear(normed_.data(), n, c.n_embd, inputs, 4);
  backend->delta_net({n, state->position(), c.lin_k_heads, c.lin_v_heads, c.lin_head_dim, c.rms_eps,
                      qkv, z, alpha, beta, model.taps(layer), w.dt_bias, w.a, w.norm,
                      state->conv_state(layer), state->delta_state(layer), mixed_.data()});
  const LinearJob output = job(w.out, added_.data());
  backend->linear(mixed_.data(), n, c.lin_v_dim(), &output, 1);
}

void TextForward::attention_layer(const TextModel &model, uint32_t layer, Backend *backend,
                                  SequenceState *state, uint32_t n) {
  const Config &c = model.config;
  const AttentionWeights &w = model.weights.layers[layer].attention;
  float *q = wide_.data();                                  // [n, n_head, 2, head_dim]
  float *k = q + static_cast<uint64_t>(n) * 2 * c.q_dim();  // [n, n_head_kv, head_dim]
  float *v = k + static_cast<uint64_t>(n) * c.kv_dim();     // [n, n_head_kv, head_dim]
  const LinearJob inputs[] = {job(w.q, q), job(w.k, k), job(w.v, v)};
  backend->linear(normed_.data(), n, c.n_embd, inputs, 3);
  backend->attention({n, state->position(), c.n_head, c.n_head_kv, c.head_dim, c.n_rot, c.rms_eps,
                      q, k, v, w.q_norm, w.k_norm, cos_.data(), sin_.data(), state->kv_type(),
                      state->k_cache(layer), state->v_cache(layer), state->capacity(),
                      mixed_.data()});
  const LinearJob output = job(w.o, added_.data());
  backend->linear(mixed_.data(), n, c.q_dim(), &output, 1);
}

void TextForward::feed_forward(const TextModel &model, uint32_t layer, Backend *backend,
                               uint32_t n) {
  const Config &c = model.config;
  const LayerWeights &w = model.weights.layers[layer];
  float *gate = wide_.data();                            // [n, n_ff]
  float *up = gate + static_cast<uint64_t>(n) * c.n_ff;  // [n, n_ff]
  const LinearJob inputs[] = {job(w.ffn_gate, gate), job(w.ffn_up, up)};
  backend->linear(normed_.data(), n, c.n_embd, inputs, 2);
  backend->silu_mul(gate, up, n, c.n_ff);
  const LinearJob output = job(w.ffn_down, added_.data());
  backend->linear(gate, n, c.n_ff, &output, 1);
}

void TextForward::hidden_rows(const TextModel &model, Backend *backend, const uint32_t *rows,
                              uint32_t n_rows, float *hidden) {
  const Config &c = model.config;
  // normed_ and wide_ are free after run(): gather the rows there, then add and norm them at once.
  float *x = normed_.data(), *added = wide_.data();
  for (uint64_t r = 0; r < n_rows; r++) {
    std::memcpy(x + r * c.n_embd, x_.data() + static_cast<uint64_t>(rows[r]) * c.n_embd,
                sizeof(float) * c.n_embd);
    std::memcpy(added + r * c.n_embd, added_.data() + static_cast<uint64_t>(rows[r]) * c.n_embd,
                sizeof(float) * c.n_embd);
  }
  backend->add_norm(x, added, model.weights.output_norm, n_rows, c.n_embd, c.rms_eps, hidden);
}

void TextForward::logits(const TextModel &model, Backend *backend, const float *hidden,
                         uint32_t n_rows, float *logits) {
  const LinearJob head = job(model.weights.output, logits);
  backend->linear(hidden, n_rows, model.config.n_embd, &head, 1);
}

}  // namespace q35
