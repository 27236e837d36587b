#include "runtime/session.h"

#include <cstring>

#include "base/cpu.h"
#include "runtime/snapshot.h"

using q35::fail;
using q35::kOk;
using q35::Status;

namespace {

constexpr uint32_t kDefaultBatch = 512;
constexpr uint32_t kMaxBatch = 8192;
// Tokens of a piece while other sessions are at work, so that these do not wait for long. Chunks of
// the delta rule begin at multiples of 32, so that such a cut changes no result.
constexpr uint32_t kPolitePiece = 64;
// Tokens of branches for which there is room beside a whole batch.
constexpr uint32_t kBranchRoom = 64;

q35::KvType choose_kv_type(int32_t wanted, const qwen35_model &model) {
  if (wanted == QWEN35_KV_F32) return q35::KvType::F32;
  if (wanted == QWEN35_KV_F16) return q35::KvType::F16;
  if (wanted == QWEN35_KV_Q8_0) return q35::KvType::Q8_0;
  if (wanted == QWEN35_KV_IQ4_NL) return q35::KvType::IQ4_NL;
  const bool f32 = model.matrix_type == static_cast<int32_t>(q35::DType::F32);
  return f32 ? q35::KvType::F32 : q35::KvType::F16;
}

q35::Branches branches_of(const qwen35_outputs &outputs) {
  return {outputs.n_branches, outputs.branch_lengths, outputs.branch_tokens};
}

}  // namespace

namespace q35 {

Status session_sizes(const qwen35_model &model, const qwen35_session_params &params,
                     SessionSizes *out) {
  SessionSizes sizes = {params.n_ctx == 0 ? model.config.n_ctx_train : params.n_ctx,
                        params.n_batch == 0 ? kDefaultBatch : params.n_batch,
                        choose_kv_type(params.kv_type, model)};
  if (sizes.n_batch > kMaxBatch) {
    return fail(QWEN35_ERROR_ARGUMENT, "n_batch: expected 1 to %u, found %u", kMaxBatch,
                sizes.n_batch);
  }
  if (sizes.n_batch > sizes.n_ctx) sizes.n_batch = sizes.n_ctx;
  if (sizes.n_batch < kGemvMaxCols) sizes.n_batch = kGemvMaxCols;
  sizes.drafts = (params.draft & (QWEN35_DRAFT_MTP | QWEN35_DRAFT_LOOKUP)) != 0;
  sizes.mtp = (params.draft & QWEN35_DRAFT_MTP) != 0;
  if (sizes.mtp && model.config.n_mtp_layer == 0) {
    return fail(QWEN35_ERROR_ARGUMENT,
                "draft: the model's file has no multi-token-prediction layer to draft with");
  }
  *out = sizes;
  return kOk;
}

// Rows of logits that a session keeps.
uint64_t kept_rows(const SessionSizes &sizes) {
  return sizes.drafts ? 1 + kMaxDrafts : 1;
}

// Makes the scratch that sessions of these sizes share.
Status make_scratch(const SessionSizes &sizes, Batcher *batcher, uint64_t *bytes) {
  Q35_TRY(batcher->reserve(sizes.n_batch + kBranchRoom));
  if (sizes.mtp) Q35_TRY(batcher->reserve_mtp());
  *bytes = batcher->scratch_bytes();
  return kOk;
}

// Makes what a session would make. Scratch that a session of the model will use is kept for it.
Status estimate_session(qwen35_model *model, int32_t n_threads, const qwen35_session_params &params,
                        qwen35_session_needs *out) {
  SessionSizes sizes = {};
  Q35_TRY(session_sizes(*model, params, &sizes));
  SequenceState state;
  Q35_TRY(state.init(model->config, sizes.n_ctx, sizes.kv_type, sizes.drafts, sizes.mtp));
  uint64_t scratch = 0;
  if (model->has_weights) {
    Q35_TRY(make_scratch(sizes, &model->batcher, &scratch));
  } else {
    ThreadPool pool;
    Q35_TRY(pool.start(n_threads > 0 ? n_threads : usable_cores()));
    Batcher batcher(model->text, model->kernels, &pool);
    Q35_TRY(make_scratch(sizes, &batcher, &scratch));
  }
  const uint64_t recurrent = sizeof(float) * state.recurrent_count();
  const uint64_t logits =
      sizeof(float) * kept_rows(sizes) * (uint64_t{model->config.n_vocab} + model->config.n_embd);
  const uint64_t states = sizes.mtp ? sizeof(float) * sizes.n_batch * model->config.n_embd : 0;
  *out = {state.token_bytes(), state.token_bytes() * sizes.n_ctx, recurrent,
          scratch + recurrent + logits + states + state.draft_bytes()};
  return kOk;
}

}  // namespace q35

Status qwen35_session::init(const qwen35_session_params &params) {
  q35::SessionSizes sizes = {};
  Q35_TRY(q35::session_sizes(*model, params, &sizes));
  n_batch = sizes.n_batch;
  Q35_TRY(drafter.init(model, params.draft));
  Q35_TRY(state.init(model->config, sizes.n_ctx, sizes.kv_type, sizes.drafts, sizes.mtp));
  if (sizes.mtp) Q35_TRY(states_.resize(n_batch * n_embd()));
  n_pass_ = n_batch + kBranchRoom;
  Q35_TRY(model->batcher.reserve(n_pass_));
  Q35_TRY(rows_.reserve(n_pass_));
  Q35_TRY(kept_hidden_.resize(kept_rows(sizes) * n_embd()));
  return kept_logits.resize(kept_rows(sizes) * model->config.n_vocab);
}

void qwen35_session::keep_logits(const float *logits) {
  std::memcpy(kept_logits.data(), logits, sizeof(float) * model->config.n_vocab);
  kept_row = 0;
  only_top_ = false;
}

// All logits of the kept row, where a decode needed only the largest.
void qwen35_session::complete_logits() {
  if (!only_top_ || complete_row_ == kept_row) return;
  q35::Batcher::Exclusive threads(&model->batcher);
  q35::TextForward::logits(model->text, threads.backend(),
                           kept_hidden_.data() + kept_row * n_embd(), 1, {},
                           kept_logits.data() + uint64_t{kept_row} * model->config.n_vocab);
  complete_row_ = kept_row;
}

void qwen35_session::reset() {
  state.reset();
  has_logits = false;
  n_drawn = 0;
}

Status qwen35_session::check_room(size_t n) const {
  if (n <= state.capacity() - state.position()) return kOk;
  return fail(QWEN35_ERROR_CONTEXT,
              "%zu tokens after %u exceed the context of %u: open the session with a larger n_ctx",
              n, state.position(), state.capacity());
}

Status qwen35_session::check_tokens(const int32_t *tokens, size_t n) const {
  const uint32_t n_vocab = model->config.n_vocab;
  for (size_t i = 0; i < n; i++) {
    if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= n_vocab) {
      return fail(QWEN35_ERROR_ARGUMENT, "token %zu: expected an id from 0 to %u, found %d", i,
                  n_vocab - 1, tokens[i]);
    }
  }
  return kOk;
}

Status qwen35_session::eval(const int32_t *tokens, size_t n, const qwen35_outputs &wanted,
                            qwen35_progress progress, void *user) {
  Q35_TRY(check_tokens(tokens, n));
  Q35_TRY(check_room(n));
  if (wanted.n_branches != 0) {
    Q35_TRY(check_branches(branches_of(wanted), n));
    settle();
  }
  n_drawn = 0;
  qwen35_outputs outputs = wanted;  // its pointers move on as rows are given
  given_ = 0;
  for (size_t done = 0; done < n;) {
    const uint32_t count = next_piece(done, n);
    Q35_TRY(eval_piece(tokens + done, count, done + count == n, &outputs));
    done += count;
    if (progress != nullptr && progress(user, done, n) != 0) {
      return fail(QWEN35_ERROR_CANCELLED, "cancelled after %zu of %zu tokens", done, n);
    }
  }
  // What had no room in the last pass.
  return run_branches(branches_of(outputs), outputs.want, outputs.logits);
}

// Checks continuations of what will stand behind `before` more tokens, and makes room for them.
Status qwen35_session::check_branches(const q35::Branches &branches, size_t before) {
  size_t total = 0;
  uint32_t longest = 0;
  for (size_t i = 0; i < branches.n; i++) {
    const uint32_t length = branches.lengths[i];
    if (length == 0 || length > q35::kGemvMaxCols) {
      return fail(QWEN35_ERROR_ARGUMENT, "continuation %zu: expected 1 to %u tokens, found %u", i,
                  q35::kGemvMaxCols, length);
    }
    longest = length > longest ? length : longest;
    total += length;
  }
  Q35_TRY(check_tokens(branches.tokens, total));
  Q35_TRY(check_room(before + longest));
  return parts_.reserve(branches.n + 1);
}

Status qwen35_session::branch(const q35::Branches &branches, const uint8_t *want, float *logits) {
  Q35_TRY(check_branches(branches, 0));
  settle();
  return run_branches(branches, want, logits);
}

// Evaluates continuations in passes of their own.
Status qwen35_session::run_branches(q35::Branches branches, const uint8_t *want, float *logits) {
  if (branches.n != 0) state.drop_leftovers();
  while (branches.n != 0) {
    q35::Job job;
    job.segment.state = &state;
    job.cancel = &cancel;
    job.logits = logits;
    rows_.clear();
    const size_t taken = take_branches(branches, want, &job);
    Q35_TRY(model->batcher.run(&job));
    logits += uint64_t{job.n_rows} * model->config.n_vocab;
    if (want != nullptr) want += job.n_tokens;
    branches = {branches.n - taken, branches.lengths + taken, branches.tokens + job.n_tokens};
  }
  return kOk;
}

// Puts as many of the continuations behind a job's segment as its pass has room for, with the rows
// wanted of them. Returns how many; parts_ has room for all.
size_t qwen35_session::take_branches(const q35::Branches &branches, const uint8_t *want,
                                     q35::Job *job) {
  const uint32_t before = job->segment.n;
  parts_.clear();
  if (before != 0) (void)parts_.push_back(job->segment);
  uint32_t filled = 0;
  size_t n = 0;
  for (; n < branches.n && before + filled + branches.lengths[n] <= n_pass_; n++) {
    q35::Segment part = {&state, branches.lengths[n], branches.tokens + filled, nullptr, 0, 0, 0};
    part.branch = true;
    part.behind = before;
    (void)parts_.push_back(part);
    filled += part.n;
  }
  for (uint32_t i = 0; i < filled; i++) {  // the memory for rows_ is that of a pass
    if (want == nullptr || want[i] != 0) {
      (void)rows_.push_back(before + i);
      job->n_branch_rows++;
    }
  }
  job->parts = parts_.data();
  job->n_parts = static_cast<uint32_t>(parts_.size());
  job->n_tokens = before + filled;
  job->rows = rows_.data();
  job->n_rows = static_cast<uint32_t>(rows_.size());
  return n;
}

// Tokens of the piece that follows `done` of n: up to the end of the batch, or less when others
// wait. What is left of the batch then is never so little that it would be computed otherwise.
uint32_t qwen35_session::next_piece(size_t done, size_t n) {
  const size_t batch = n_batch - done % n_batch;
  const uint32_t count = static_cast<uint32_t>(n - done < batch ? n - done : batch);
  const bool cut = count > kPolitePiece + q35::kGemvMaxCols && model->batcher.crowded(&state);
  return cut ? kPolitePiece : count;
}

Status qwen35_session::eval_picture(const float *rows, uint32_t grid_rows, uint32_t grid_columns,
                                    float *hidden_sum, qwen35_progress progress, void *user) {
  const uint64_t n = static_cast<uint64_t>(grid_rows) * grid_columns;
  Q35_TRY(check_room(n));
  const uint32_t position = state.position(), rotary = state.rotary();
  settle();
  Q35_TRY(state.save_recurrent(&before_));
  const Status status =
      eval_cells(rows, static_cast<uint32_t>(n), grid_columns, hidden_sum, progress, user);
  if (status != kOk) {  // half a picture is no place to go on from
    state.cut(position, rotary);
    state.restore_recurrent(before_);
    return status;
  }
  state.advance(0, grid_rows > grid_columns ? grid_rows : grid_columns);
  return kOk;
}

// All pieces share the rotary position of the first cell; the picture's advance follows at its end.
Status qwen35_session::eval_cells(const float *rows, uint32_t n, uint32_t grid_columns,
                                  float *hidden_sum, qwen35_progress progress, void *user) {
  has_logits = false;
  for (uint32_t done = 0; done < n;) {
    const uint32_t count = next_piece(done, n);
    q35::Job job;
    job.segment = {&state,       count, nullptr, rows + static_cast<uint64_t>(done) * n_embd(),
                   grid_columns, done,  0};
    job.cancel = &cancel;
    job.states = states();
    rows_.clear();
    for (uint32_t i = 0; hidden_sum != nullptr && i < count; i++) Q35_TRY(rows_.push_back(i));
    job.rows = rows_.data();
    job.n_rows = static_cast<uint32_t>(rows_.size());
    job.hidden_sum = hidden_sum;
    Q35_TRY(model->batcher.run(&job));
    feed_mtp(job.segment);
    state.advance(count, 0);
    done += count;
    if (progress != nullptr && progress(user, done, n) != 0) {
      return fail(QWEN35_ERROR_CANCELLED, "cancelled after %u of %u tokens", done, n);
    }
  }
  return kOk;
}

// Finds the snapshots that are due within the next n tokens.
Status qwen35_session::place_marks(uint32_t n, const qwen35_outputs *outputs) {
  marks_.clear();
  mark_states_.clear();
  for (uint32_t i = 0; i < outputs->n_snapshots; i++) {
    const size_t at = outputs->snapshot_at[i] - given_;
    if (at > n) break;
    Q35_TRY(marks_.push_back(static_cast<uint32_t>(at)));
    Q35_TRY(mark_states_.push_back(q35::state_of(outputs->snapshots[i])));
  }
  return kOk;
}

// The MTP layer's share of a segment that the trunk has evaluated.
void qwen35_session::feed_mtp(const q35::Segment &segment) {
  if (!state.has_mtp()) return;
  if (segment.tokens != nullptr && segment.n <= q35::kGemvMaxCols) {
    note_states(segment.tokens, segment.n);
    return;
  }
  q35::Batcher::Exclusive threads(&model->batcher);
  threads.mtp()->catch_up(model->text, threads.backend(), &state);
  threads.mtp()->add(model->text, threads.backend(), segment, states_.data());
}

// A few tokens, whose states are in states_, wait until the layer is used.
void qwen35_session::note_states(const int32_t *tokens, uint32_t n) {
  if (!state.has_mtp()) return;
  if (state.n_trail() + n > q35::SequenceState::kTrail) {
    q35::Batcher::Exclusive threads(&model->batcher);
    threads.mtp()->catch_up(model->text, threads.backend(), &state);
  }
  state.add_trail(tokens, states_.data(), n);
}

void qwen35_session::settle() {
  n_drawn = 0;
  if (state.n_logged() == 0 && state.n_trail() == 0) return;
  q35::Batcher::Exclusive threads(&model->batcher);
  q35::TextForward::apply_log(model->text, threads.backend(), &state);
  if (state.has_mtp()) threads.mtp()->catch_up(model->text, threads.backend(), &state);
}

// Evaluates a piece of a call, gives what is asked for of it and moves the output pointers on.
Status qwen35_session::eval_piece(const int32_t *tokens, uint32_t n, bool last,
                                  qwen35_outputs *outputs) {
  rows_.clear();
  for (uint32_t i = 0; i < n; i++) {
    const bool wanted = outputs->want == nullptr ? last && i + 1 == n : outputs->want[i] != 0;
    if (wanted) Q35_TRY(rows_.push_back(i));
  }
  Q35_TRY(place_marks(n, outputs));
  q35::Job job;
  job.segment = {&state, n, tokens, nullptr, 0, 0, 0};
  job.segment.marks = {static_cast<uint32_t>(marks_.size()), marks_.data(), mark_states_.data()};
  job.states = states();
  job.cancel = &cancel;
  job.rows = rows_.data();
  job.n_rows = static_cast<uint32_t>(rows_.size());
  job.hidden = outputs->hidden;
  job.hidden_sum = outputs->hidden_sum;
  job.logits = outputs->logits;
  const bool keep = last && job.n_rows != 0 && rows_.back() + 1 == n;
  const bool only_hidden =
      job.logits == nullptr && (job.hidden != nullptr || job.hidden_sum != nullptr);
  if (keep && !only_hidden) job.last_logits = kept_logits.data();
  if (outputs->want != nullptr) outputs->want += n;
  has_logits = false;
  size_t taken = 0;
  if (last && outputs->n_branches != 0) {
    state.drop_leftovers();
    if (model->batcher.reads_as_many(n)) {
      taken = take_branches(branches_of(*outputs), outputs->want, &job);
    }
  }
  Q35_TRY(model->batcher.run(&job));
  for (uint32_t i = 0; i < job.segment.marks.n; i++) {
    q35::write_header(*this, marks_[i], outputs->snapshots[i]);
    if (state.has_mtp())
      state.copy_hidden(states_.data() + (marks_[i] - 1) * n_embd(), mark_states_[i]);
  }
  outputs->n_snapshots -= job.segment.marks.n;
  outputs->snapshot_at += job.segment.marks.n;
  outputs->snapshots += job.segment.marks.n;
  given_ += n;
  feed_mtp(job.segment);
  state.advance(n, n);
  if (job.segment.marks.n != 0) settle();  // what is exported later must be there
  has_logits = job.last_logits != nullptr;
  kept_row = 0;
  only_top_ = false;
  if (taken != 0) {
    const uint32_t n_tokens = job.n_tokens - n;
    if (outputs->want != nullptr) outputs->want += n_tokens;
    outputs->n_branches -= taken;
    outputs->branch_lengths += taken;
    outputs->branch_tokens += n_tokens;
  }
  if (outputs->hidden != nullptr) outputs->hidden += job.n_rows * n_embd();
  if (outputs->logits != nullptr) {
    outputs->logits += static_cast<uint64_t>(job.n_rows) * model->config.n_vocab;
  }
  return kOk;
}
