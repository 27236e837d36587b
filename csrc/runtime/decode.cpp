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

Status qwen35_session::decode(const int32_t *tokens, size_t n, const q35::Draws &draws) {
  if (n == 0 || n > q35::kMaxDrafts) {
    if (n != 0) Q35_TRY(eval(tokens, n, {}, nullptr, nullptr));
    n_drawn = 0;
    if (!has_logits) {
      return fail(QWEN35_ERROR_ARGUMENT, "no logits to sample from: evaluate tokens first");
    }
    if (drafter.enabled()) Q35_TRY(drafter.add_text(tokens, n));
    complete_logits();
    const Status status = draw_row(kept_row, nullptr, 0, draws);
    if (draws.limits != nullptr) draws.sampler->allow_all();
    Q35_TRY(status);
    *draws.n_out = n_drawn = 1;
    drafter.stats.drawn++;
    return kOk;
  }
  Q35_TRY(check_tokens(tokens, n));
  Q35_TRY(check_room(n));
  n_drawn = 0;
  const uint32_t certain = static_cast<uint32_t>(n);
  int32_t row[1 + q35::kMaxDrafts];
  std::copy(tokens, tokens + n, row);
  if (!drafter.enabled()) {
    Q35_TRY(check_drafts(row, certain, 0, draws));
    return draw_rows(row, certain, 0, draws);
  }
  const double begin = now();
  Q35_TRY(drafter.add_text(tokens, n));
  // Sessions that share a pass gain more from each other's tokens, which are certain.
  const bool crowded = model->batcher.crowded(&state);
  const size_t left = crowded && !drafter.always() ? 0 : state.capacity() - state.position() - n;
  const size_t room = std::min({left, draws.max - 1, q35::kMaxDrafts + 1 - n});
  uint32_t n_drafts = 0;
  const int32_t *drafts = drafter.propose(model, &state, tokens, certain,
                                          static_cast<uint32_t>(room), draws.limits, &n_drafts);
  std::copy(drafts, drafts + n_drafts, row + n);
  const double start = now();
  Q35_TRY(check_drafts(row, certain, n_drafts, draws));
  if (!crowded) drafter.note_pass(certain + n_drafts, now() - start);
  Q35_TRY(draw_rows(row, certain, n_drafts, draws));
  if (!crowded) drafter.note_round(certain, n_drawn, now() - begin);
  return kOk;
}

// One pass over n tokens and the drafts behind them. Leaves the logits of the last token and of
// every draft in kept_logits, as far as the draws look at them.
Status qwen35_session::check_drafts(const int32_t *tokens, uint32_t n, uint32_t n_drafts,
                                    const q35::Draws &draws) {
  uint32_t rows[1 + q35::kMaxDrafts];
  for (uint32_t i = 0; i <= n_drafts; i++) rows[i] = n - 1 + i;
  q35::Job job;
  job.segment = {&state, n + n_drafts, tokens, nullptr, 0, 0, n_drafts};
  job.drawn = true;  // with drafts or without, to the same bits
  job.cancel = &cancel;
  job.rows = rows;
  job.n_rows = 1 + n_drafts;
  job.logits = kept_logits.data();
  if (draws.limits == nullptr) job.top = draws.sampler->looks_at(1 + n_drafts);
  job.hidden = kept_hidden_.data();
  job.states = states();
  has_logits = false;
  only_top_ = job.top.n != 0;
  complete_row_ = UINT32_MAX;
  return model->batcher.run(&job);
}

// Draws the token behind drawn [n], those of this call, from a row of kept_logits.
Status qwen35_session::draw_row(uint32_t row, const int32_t *drawn, uint32_t n,
                                const q35::Draws &draws) {
  const uint64_t n_vocab = model->config.n_vocab;
  if (draws.limits != nullptr) {
    const uint32_t *words = draws.limits->allow(draws.limits->user, drawn, n);
    if (words == nullptr) {
      return fail(QWEN35_ERROR_ARGUMENT, "cannot sample: the limits of the call allow no token");
    }
    Q35_TRY(draws.sampler->allow(words, (n_vocab + 31) / 32));
  }
  return draws.sampler->sample(kept_logits.data() + row * n_vocab, &draws.out[n]);
}

// tokens: what the pass has evaluated, [n + n_drafts].
Status qwen35_session::draw_rows(const int32_t *tokens, uint32_t n, uint32_t n_drafts,
                                 const q35::Draws &draws) {
  const int32_t *drafts = tokens + n;
  const int32_t *end = draws.stops + draws.n_stops;
  uint32_t count = 0;
  int32_t drawn[1 + q35::kMaxDrafts];
  Status status = kOk;
  for (;;) {
    status = draw_row(count, drawn, count, draws);
    if (status != kOk) break;
    qwen35_sample *sample = &draws.out[count];
    if (drafter.imposes() && count < n_drafts && drafter.imposed(count)) {
      sample->token = drafts[count];
    }
    drawn[count++] = sample->token;
    const bool stop = std::find(draws.stops, end, sample->token) != end;
    if (stop || count > n_drafts || sample->token != drafts[count - 1]) break;
  }
  if (draws.limits != nullptr) draws.sampler->allow_all();
  // Where a row cannot be drawn from, the tokens before it have been; the next call says why.
  const uint32_t right = count == 0 ? 0 : count - 1;
  if (drafter.enabled()) drafter.learn(drawn, count);
  accept_rows(tokens, n, right);
  kept_row = right;
  has_logits = true;
  n_drawn = count;
  drafter.stats.accepted += right;
  drafter.stats.drawn += count;
  if (drafter.enabled()) Q35_TRY(drafter.add_text(drafts, right));
  if (count == 0) return status;
  *draws.n_out = count;
  return kOk;
}

// The n tokens of a pass and the first drafts, which were right, belong to the sequence.
void qwen35_session::accept_rows(const int32_t *tokens, uint32_t n, uint32_t right) {
  note_states(tokens, n + right);
  state.advance(n + right, n + right);
  if (drafter.enabled()) state.drop_leftovers();
  state.set_logged(right);
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
