#include "runtime/session.h"

#include <cstring>

using q35::fail;
using q35::kOk;
using q35::Status;

namespace {

constexpr uint32_t kDefaultBatch = 512;
constexpr uint32_t kMaxBatch = 8192;
// Batches up to this size finish sooner than a cancel is promised to take, so that they need no
// copy of the recurrent state to go back to.
constexpr uint32_t kUninterrupted = q35::kGemvMaxCols;

q35::KvType choose_kv_type(int32_t wanted, const qwen35_model &model) {
  if (wanted == QWEN35_KV_F32) return q35::KvType::F32;
  if (wanted == QWEN35_KV_F16) return q35::KvType::F16;
  if (wanted == QWEN35_KV_Q8_0) return q35::KvType::Q8_0;
  const bool f32 = model.matrix_type == static_cast<int32_t>(q35::DType::F32);
  return f32 ? q35::KvType::F32 : q35::KvType::F16;
}

// Points the pool at the session's cancel flag while a batch runs.
class CancelScope {
 public:
  CancelScope(q35::ThreadPool *pool, const std::atomic<uint32_t> *flag) : pool_(pool) {
    pool_->set_cancel_flag(flag);
  }
  ~CancelScope() { pool_->set_cancel_flag(nullptr); }

 private:
  q35::ThreadPool *pool_;
};

}  // namespace

Status qwen35_session::init(const qwen35_session_params &params) {
  const q35::Config &c = model->config;
  const uint32_t n_ctx = params.n_ctx == 0 ? c.n_ctx_train : params.n_ctx;
  n_batch = params.n_batch == 0 ? kDefaultBatch : params.n_batch;
  if (n_batch > kMaxBatch) {
    return fail(QWEN35_ERROR_ARGUMENT, "n_batch: expected 1 to %u, found %u", kMaxBatch, n_batch);
  }
  if (n_batch > n_ctx) n_batch = n_ctx;
  if (n_batch < q35::kGemvMaxCols) n_batch = q35::kGemvMaxCols;
  Q35_TRY(state.init(c, n_ctx, choose_kv_type(params.kv_type, *model)));
  Q35_TRY(backend.reserve(c, n_batch));
  Q35_TRY(forward.reserve(c, n_batch));
  Q35_TRY(rows_.reserve(n_batch));
  Q35_TRY(hidden_.resize(static_cast<uint64_t>(n_batch) * c.n_embd));
  return kept_logits.resize(c.n_vocab);
}

void qwen35_session::reset() {
  state.reset();
  has_logits = false;
}

Status qwen35_session::check_room(size_t n) const {
  if (n <= state.capacity() - state.position()) return kOk;
  return fail(QWEN35_ERROR_CONTEXT,
              "%zu tokens after %u exceed the context of %u: open the session with a larger n_ctx",
              n, state.position(), state.capacity());
}

Status qwen35_session::eval(const int32_t *tokens, size_t n, const qwen35_outputs &wanted,
                            qwen35_progress progress, void *user) {
  const uint32_t n_vocab = model->config.n_vocab;
  for (size_t i = 0; i < n; i++) {
    if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= n_vocab) {
      return fail(QWEN35_ERROR_ARGUMENT, "token %zu: expected an id from 0 to %u, found %d", i,
                  n_vocab - 1, tokens[i]);
    }
  }
  Q35_TRY(check_room(n));
  qwen35_outputs outputs = wanted;  // its pointers move on as rows are given
  for (size_t done = 0; done < n;) {
    const uint32_t count = n - done < n_batch ? static_cast<uint32_t>(n - done) : n_batch;
    const bool last = done + count == n;
    const uint8_t *want = outputs.want == nullptr ? nullptr : outputs.want + done;
    Q35_TRY(eval_batch(tokens + done, count, want, last, &outputs));
    done += count;
    if (progress != nullptr && progress(user, done, n) != 0) {
      return fail(QWEN35_ERROR_CANCELLED, "cancelled after %zu of %zu tokens", done, n);
    }
  }
  return kOk;
}

// Evaluates a batch, or leaves the state as it was. The pool is the caller's.
Status qwen35_session::run_batch(const q35::TokenBatch &batch) {
  if (cancel.exchange(0) != 0) return fail(QWEN35_ERROR_CANCELLED, "cancelled");
  has_logits = false;
  if (batch.n <= kUninterrupted) {
    return forward.run(model->text, &backend, &state, batch, nullptr);
  }
  Q35_TRY(state.save_recurrent(&saved_));
  CancelScope scope(&model->pool, &cancel);
  Status status = forward.run(model->text, &backend, &state, batch, &cancel);
  // The flag may have been raised inside the last layer, with items skipped after its check.
  if (cancel.exchange(0) != 0) status = fail(QWEN35_ERROR_CANCELLED, "cancelled");
  if (status != kOk) state.restore_recurrent(saved_);
  return status;
}

Status qwen35_session::eval_picture(const float *rows, uint32_t grid_rows, uint32_t grid_columns,
                                    qwen35_progress progress, void *user) {
  const uint64_t n = static_cast<uint64_t>(grid_rows) * grid_columns;
  Q35_TRY(check_room(n));
  const uint32_t position = state.position(), rotary = state.rotary();
  Q35_TRY(state.save_recurrent(&before_));
  const Status status = eval_cells(rows, static_cast<uint32_t>(n), grid_columns, progress, user);
  if (status != kOk) {  // half a picture is no place to go on from
    state.cut(position, rotary);
    state.restore_recurrent(before_);
    return status;
  }
  state.advance(0, grid_rows > grid_columns ? grid_rows : grid_columns);
  return kOk;
}

// All batches share the rotary position of the first cell; the picture's advance follows at its
// end.
Status qwen35_session::eval_cells(const float *rows, uint32_t n, uint32_t grid_columns,
                                  qwen35_progress progress, void *user) {
  for (uint32_t done = 0; done < n;) {
    const uint32_t count = n - done < n_batch ? n - done : n_batch;
    {
      std::lock_guard<std::mutex> lock(model->pool_mutex);
      const float *cells = rows + static_cast<uint64_t>(done) * model->config.n_embd;
      Q35_TRY(run_batch({count, nullptr, cells, grid_columns, done}));
      state.advance(count, 0);
    }
    done += count;
    if (progress != nullptr && progress(user, done, n) != 0) {
      return fail(QWEN35_ERROR_CANCELLED, "cancelled after %u of %u tokens", done, n);
    }
  }
  return kOk;
}

Status qwen35_session::eval_batch(const int32_t *tokens, uint32_t n, const uint8_t *want, bool last,
                                  qwen35_outputs *outputs) {
  // Held for a batch only: sessions take turns, and progress functions may evaluate others.
  std::lock_guard<std::mutex> lock(model->pool_mutex);
  Q35_TRY(run_batch({n, tokens, nullptr, 0, 0}));
  state.advance(n, n);
  rows_.clear();
  for (uint32_t i = 0; i < n; i++) {
    const bool wanted = want == nullptr ? last && i + 1 == n : want[i] != 0;
    if (wanted) Q35_TRY(rows_.push_back(i));
  }
  return give_rows(rows_.data(), static_cast<uint32_t>(rows_.size()),
                   last && !rows_.empty() && rows_.back() + 1 == n, outputs);
}

// Computes what is asked for of the listed rows of the batch and moves the output pointers on.
// keep_last: the last of them is the last token of the call.
Status qwen35_session::give_rows(const uint32_t *rows, uint32_t n_rows, bool keep_last,
                                 qwen35_outputs *outputs) {
  if (n_rows == 0) return kOk;
  const uint64_t n_embd = model->config.n_embd, n_vocab = model->config.n_vocab;
  forward.hidden_rows(model->text, &backend, rows, n_rows, hidden_.data());
  if (outputs->hidden != nullptr) {
    std::memcpy(outputs->hidden, hidden_.data(), sizeof(float) * n_rows * n_embd);
    outputs->hidden += n_rows * n_embd;
  }
  if (outputs->hidden_sum != nullptr) {
    for (uint64_t r = 0; r < n_rows; r++) {
      model->kernels.add(outputs->hidden_sum, hidden_.data() + r * n_embd,
                         static_cast<uint32_t>(n_embd));
    }
  }
  if (outputs->logits != nullptr) {
    q35::TextForward::logits(model->text, &backend, hidden_.data(), n_rows, outputs->logits);
    outputs->logits += n_rows * n_vocab;
    if (keep_last) {
      std::memcpy(kept_logits.data(), outputs->logits - n_vocab, sizeof(float) * n_vocab);
    }
  } else if (keep_last && outputs->hidden == nullptr && outputs->hidden_sum == nullptr) {
    q35::TextForward::logits(model->text, &backend, hidden_.data() + (n_rows - 1) * n_embd, 1,
                             kept_logits.data());
  } else {
    return kOk;
  }
  has_logits = keep_last;
  return kOk;
}
