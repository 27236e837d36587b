// Decoding with drafts: a pass evaluates the last token together with what may follow, and the
// sampler draws from the logits of one row after another as long as it draws what was drafted.
// So every token comes from the same logits and the same random numbers as without drafts.
#include <algorithm>
#include <chrono>
#include <cstring>

#include "runtime/session.h"

using q35::fail;
using q35::kOk;
using q35::Status;

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Status qwen35_session::decode(const int32_t *tokens, size_t n, q35::Sampler *sampler,
                              const int32_t *stops, size_t n_stops, qwen35_sample *out, size_t max,
                              size_t *n_out) {
  if (n != 1 || !drafter.enabled()) {
    if (n != 0) Q35_TRY(eval(tokens, n, {}, nullptr, nullptr, n == 1));
    n_drawn = 0;
    if (!has_logits) {
      return fail(QWEN35_ERROR_ARGUMENT, "no logits to sample from: evaluate tokens first");
    }
    if (drafter.enabled()) Q35_TRY(drafter.add_text(tokens, n));
    Q35_TRY(sampler->sample(kept(), out));
    *n_out = n_drawn = 1;
    drafter.stats.drawn++;
    return kOk;
  }
  Q35_TRY(check_tokens(tokens, n));
  Q35_TRY(check_room(n));
  n_drawn = 0;
  Q35_TRY(drafter.add_text(tokens, 1));
  // Sessions that share a pass gain more from each other's tokens, which are certain.
  const bool crowded = model->batcher.crowded(&state);
  const size_t left = crowded && !drafter.always() ? 0 : state.capacity() - state.position() - 1;
  const uint32_t room = static_cast<uint32_t>(std::min({left, max - 1, size_t{q35::kMaxDrafts}}));
  uint32_t n_drafts = 0;
  int32_t row[1 + q35::kMaxDrafts] = {tokens[0]};
  const int32_t *drafts = drafter.propose(model, &state, tokens[0], room, &n_drafts);
  std::copy(drafts, drafts + n_drafts, row + 1);
  const double start = now();
  Q35_TRY(check_drafts(row, n_drafts));
  if (!crowded) drafter.note_pass(1 + n_drafts, now() - start);
  return draw_rows(row, n_drafts, sampler, stops, n_stops, out, n_out);
}

// One pass over a token and its drafts. Leaves the logits of every row in kept_logits.
Status qwen35_session::check_drafts(const int32_t *tokens, uint32_t n_drafts) {
  const uint32_t rows[1 + q35::kMaxDrafts] = {0, 1, 2, 3, 4, 5, 6, 7};
  q35::Job job;
  job.segment = {&state, 1 + n_drafts, tokens, nullptr, 0, 0, n_drafts};
  job.drawn = true;
  job.cancel = &cancel;
  job.rows = rows;
  job.n_rows = 1 + n_drafts;
  job.logits = kept_logits.data();
  job.states = states();
  has_logits = false;
  return model->batcher.run(&job);
}

// tokens: what the pass has evaluated, [1 + n_drafts].
Status qwen35_session::draw_rows(const int32_t *tokens, uint32_t n_drafts, q35::Sampler *sampler,
                                 const int32_t *stops, size_t n_stops, qwen35_sample *out,
                                 size_t *n_out) {
  uint32_t n = 0;
  int32_t drawn[1 + q35::kMaxDrafts];
  Status status = kOk;
  for (;;) {
    status = sampler->sample(kept_logits.data() + uint64_t{n} * model->config.n_vocab, &out[n]);
    if (status != kOk) break;
    if (drafter.imposes() && n < n_drafts && drafter.imposed(n)) out[n].token = tokens[n + 1];
    drawn[n] = out[n].token;
    const bool stop = std::find(stops, stops + n_stops, drawn[n]) != stops + n_stops;
    n++;
    if (stop || n > n_drafts || drawn[n - 1] != tokens[n]) break;
  }
  // Where a row cannot be drawn from, the tokens before it have been; the next call says why.
  const uint32_t right = n == 0 ? 0 : n - 1;
  drafter.learn(drawn, n);
  accept_rows(tokens, 1 + right);
  kept_row = right;
  has_logits = true;
  n_drawn = n;
  drafter.stats.accepted += right;
  drafter.stats.drawn += n;
  Q35_TRY(drafter.add_text(tokens + 1, right));
  if (n == 0) return status;
  *n_out = n;
  return kOk;
}

// The first n rows of the pass belong to the sequence.
void qwen35_session::accept_rows(const int32_t *tokens, uint32_t n) {
  note_states(tokens, n);
  state.advance(n, n);
  state.drop_leftovers();
  state.set_logged(n - 1);
}

Status qwen35_session::take_back(q35::Sampler *sampler, size_t n) {
  if (n > n_drawn) {
    return fail(QWEN35_ERROR_ARGUMENT,
                "%zu tokens cannot be taken back: the last decode drew %u that still stand", n,
                n_drawn);
  }
  Q35_TRY(sampler->take_back(static_cast<uint32_t>(n)));
  const uint32_t before = n_drawn == 0 ? 0 : n_drawn - 1;
  n_drawn -= static_cast<uint32_t>(n);
  const uint32_t after = n_drawn == 0 ? 0 : n_drawn - 1;
  if (before == after) return kOk;
  state.take_back(before - after);
  drafter.take_back(before - after);
  kept_row = after;
  return kOk;
}
