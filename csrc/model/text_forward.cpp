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

Status TextForward::run(const TextModel &model, Backend *backend, const Segment *segments,
                        uint32_t n_segments, const std::atomic<uint32_t> *cancel) {
  const Config &c = model.config;
  uint32_t n = 0;
  for (uint32_t s = 0; s < n_segments; s++) n += segments[s].n;
  const Pass pass = {model, backend, segments, n_segments, n};
  embed(pass);
  const float *added = nullptr;
  for (uint32_t i = 0; i < c.n_layer; i++) {
    const LayerWeights &w = model.weights.layers[i];
    backend->add_norm(x_.data(), added, w.attn_norm, n, c.n_embd, c.rms_eps, normed_.data());
    if (c.recurrent[i]) {
      delta_layer(pass, i);
    } else {
      attention_layer(pass, i);
    }
    added = added_.data();
    backend->add_norm(x_.data(), added, w.ffn_norm, n, c.n_embd, c.rms_eps, normed_.data());
    feed_forward(pass, i);
    if (cancel != nullptr && cancel->load(std::memory_order_relaxed) != 0) {
      return fail(QWEN35_ERROR_CANCELLED, "cancelled");
    }
  }
  return kOk;
}

void TextForward::apply_log(const TextModel &model, Backend *backend, SequenceState *state) {
  const Config &c = model.config;
  if (state->n_logged() == 0) return;
  for (uint32_t i = 0; i < c.n_layer; i++) {
    if (!c.recurrent[i]) continue;
    DeltaNetArgs args = {};
    args.n_logged = state->n_logged();
    args.log = state->log(i);
    args.position = state->position();
    args.k_heads = c.lin_k_heads;
    args.v_heads = c.lin_v_heads;
    args.head_dim = c.lin_head_dim;
    args.conv_state = state->conv_state(i);
    args.state = state->delta_state(i);
    backend->delta_net(args);
  }
  state->set_logged(0);
}

void TextForward::embed(const Pass &pass) {
  const Config &c = pass.model.config;
  const Rope &rope = pass.model.rope;
  uint64_t first = 0;  // token of the batch that the segment begins with
  for (uint32_t i = 0; i < pass.n_segments; i++) {
    const Segment &s = pass.segments[i];
    float *x = x_.data() + first * c.n_embd;
    float *cos = cos_.data() + first * (c.n_rot / 2), *sin = sin_.data() + first * (c.n_rot / 2);
    if (s.tokens != nullptr) {
      pass.backend->embed(pass.model.weights.token_embd, s.tokens, s.n, x);
      rope.fill_text(s.state->rotary() + s.behind, s.n, cos, sin);
    } else {
      std::memcpy(x, s.rows, sizeof(float) * s.n * c.n_embd);
      rope.fill_picture(s.state->rotary(), s.columns, s.first_cell, s.n, cos, sin);
    }
    first += s.n;
  }
}

void TextForward::delta_layer(const Pass &pass, uint32_t layer) {
  const Config &c = pass.model.config;
  const DeltaNetWeights &w = pass.model.weights.layers[layer].delta;
  const uint64_t n = pass.n;
  float *qkv = wide_.data();                // [n, conv_channels]
  float *z = qkv + n * c.conv_channels();   // [n, lin_v_dim]
  float *alpha = z + n * c.lin_v_dim();     // [n, lin_v_heads]
  float *beta = alpha + n * c.lin_v_heads;  // [n, lin_v_heads]
  const LinearJob inputs[] = {linear_job(w.qkv, qkv), linear_job(w.z, z),
                              linear_job(w.alpha, alpha), linear_job(w.beta, beta)};
  pass.backend->linear(normed_.data(), pass.n, c.n_embd, inputs, 4);
  uint64_t t = 0;
  for (uint32_t i = 0; i < pass.n_segments; i++) {
    const Segment &s = pass.segments[i];
    uint32_t done = 0, n_logged = s.state->n_logged();
    const auto advance = [&](uint32_t n) {
      pass.backend->delta_net({n,
                               s.branch ? n : s.n_drafts,
                               n_logged,
                               s.branch ? DeltaLog{} : s.state->log(layer),
                               s.state->position() + s.behind + done,
                               c.lin_k_heads,
                               c.lin_v_heads,
                               c.lin_head_dim,
                               c.rms_eps,
                               qkv + t * c.conv_channels(),
                               z + t * c.lin_v_dim(),
                               alpha + t * c.lin_v_heads,
                               beta + t * c.lin_v_heads,
                               pass.model.taps(layer),
                               w.dt_bias,
                               w.a,
                               w.norm,
                               s.state->conv_state(layer),
                               s.state->delta_state(layer),
                               mixed_.data() + t * c.lin_v_dim()});
      n_logged = 0;
      done += n;
      t += n;
    };
    for (uint32_t m = 0; m < s.marks.n; m++) {
      if (s.marks.at[m] > done) advance(s.marks.at[m] - done);
      s.state->copy_recurrent(layer, s.marks.states[m]);
    }
    if (s.n > done) advance(s.n - done);
  }
  const LinearJob output = linear_job(w.out, added_.data());
  pass.backend->linear(mixed_.data(), pass.n, c.lin_v_dim(), &output, 1);
}

void TextForward::attention_layer(const Pass &pass, uint32_t layer) {
  const Config &c = pass.model.config;
  const AttentionWeights &w = pass.model.weights.layers[layer].attention;
  const uint64_t n = pass.n;
  float *q = wide_.data();           // [n, n_head, 2, head_dim]
  float *k = q + n * 2 * c.q_dim();  // [n, n_head_kv, head_dim]
  float *v = k + n * c.kv_dim();     // [n, n_head_kv, head_dim]
  const LinearJob inputs[] = {linear_job(w.q, q), linear_job(w.k, k), linear_job(w.v, v)};
  pass.backend->linear(normed_.data(), pass.n, c.n_embd, inputs, 3);
  uint64_t t = 0;
  for (uint32_t i = 0; i < pass.n_segments; i++) {
    const Segment &s = pass.segments[i];
    pass.backend->attention({s.n,
                             s.state->position() + s.behind,
                             c.n_head,
                             c.n_head_kv,
                             c.head_dim,
                             c.n_rot,
                             c.rms_eps,
                             q + t * 2 * c.q_dim(),
                             k + t * c.kv_dim(),
                             v + t * c.kv_dim(),
                             w.q_norm,
                             w.k_norm,
                             cos_.data() + t * (c.n_rot / 2),
                             sin_.data() + t * (c.n_rot / 2),
                             s.state->kv_type(),
                             s.state->k_cache(layer),
                             s.state->v_cache(layer),
                             s.state->capacity(),
                             mixed_.data() + t * c.q_dim(),
                             type_traits(w.q.type).group != 0});
    t += s.n;
  }
  const LinearJob output = linear_job(w.o, added_.data());
  pass.backend->linear(mixed_.data(), pass.n, c.q_dim(), &output, 1);
}

void TextForward::feed_forward(const Pass &pass, uint32_t layer) {
  const Config &c = pass.model.config;
  const LayerWeights &w = pass.model.weights.layers[layer];
  float *gate = wide_.data();                                 // [n, n_ff]
  float *up = gate + static_cast<uint64_t>(pass.n) * c.n_ff;  // [n, n_ff]
  const LinearJob inputs[] = {linear_job(w.ffn_gate, gate), linear_job(w.ffn_up, up)};
  pass.backend->linear(normed_.data(), pass.n, c.n_embd, inputs, 2);
  pass.backend->silu_mul(gate, up, pass.n, c.n_ff);
  const LinearJob output = linear_job(w.ffn_down, added_.data());
  pass.backend->linear(gate, pass.n, c.n_ff, &output, 1);
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

void TextForward::final_states(const TextModel &model, Backend *backend, uint32_t first, uint32_t n,
                               float *hidden) {
  const Config &c = model.config;
  const uint64_t at = uint64_t{first} * c.n_embd, floats = uint64_t{n} * c.n_embd;
  std::memcpy(normed_.data(), x_.data() + at, sizeof(float) * floats);  // free after run()
  backend->add_norm(normed_.data(), added_.data() + at, model.weights.output_norm, n, c.n_embd,
                    c.rms_eps, hidden);
}

void TextForward::logits(const TextModel &model, Backend *backend, const float *hidden,
                         uint32_t n_rows, const TopRows &top, float *logits) {
  const LinearJob head = linear_job(model.weights.output, logits);
  backend->linear_top(hidden, n_rows, model.config.n_embd, head, top);
}

}  // namespace q35
