#include "runtime/batcher.h"

#include <cstring>

namespace q35 {

namespace {

// Sessions that decode are waited for after a shared pass, this share of its length and no longer
// than kMaxWindow: what a caller does between two tokens usually fits in.
constexpr int kWindowShare = 8;
constexpr auto kMaxWindow = std::chrono::milliseconds(5);
// A session that has not decoded for this long is not at work any more.
constexpr auto kIdle = std::chrono::milliseconds(500);

// Rows of the output head for which two steps cost less than unpacking it for many: 9 rows took
// 37 ms more than 8 on AMX (0.8B, Q6_K), a step of 8 takes 20.
constexpr uint32_t kStepRows = 2 * kGemvMaxCols;

// A job without tokens asks for the threads themselves.
bool is_exclusive(const Job &job) {
  return job.segment.n == 0 && job.parts == nullptr;
}

// Rows whose logits are wanted, the last ones of a job without branches.
uint32_t logit_rows(const Job &job) {
  if (job.logits != nullptr) return job.n_rows;
  return job.last_logits != nullptr ? 1 : 0;
}

// What satisfies both.
TopRows widest(const TopRows &a, const TopRows &b) {
  if (a.n == 0 || b.n == 0) return {};
  return {a.n > b.n ? a.n : b.n, a.end > b.end ? a.end : b.end};
}

}  // namespace

void Batcher::Queue::push(Job *job) {
  (first == nullptr ? first : last->next) = job;
  last = job;
}

Job *Batcher::Queue::pop() {
  Job *job = first;
  first = job->next;
  return job;
}

Status Batcher::reserve(uint32_t max_tokens) {
  const Exclusive threads(this);
  if (max_tokens <= max_tokens_) return kOk;
  const Config &c = model_.config;
  Q35_TRY(backend_.reserve(c, max_tokens));
  Q35_TRY(backend_.reserve_screen(model_.weights.output));
  Q35_TRY(forward_.reserve(c, max_tokens));
  Q35_TRY(rows_.reserve(max_tokens));
  Q35_TRY(hidden_.resize(static_cast<uint64_t>(max_tokens) * c.n_embd));
  Q35_TRY(logits_.resize(static_cast<uint64_t>(kGemvMaxCols) * c.n_vocab));
  max_tokens_ = max_tokens;
  note_scratch();
  return kOk;
}

Status Batcher::reserve_mtp() {
  const Exclusive threads(this);
  if (has_mtp_) return kOk;
  Q35_TRY(mtp_.reserve(model_.config));
  has_mtp_ = true;
  note_scratch();
  return kOk;
}

void Batcher::note_scratch() {
  scratch_bytes_.store(backend_.scratch_bytes() + forward_.scratch_bytes() + mtp_.scratch_bytes() +
                           sizeof(float) * (hidden_.size() + logits_.size()),
                       std::memory_order_relaxed);
}

Status Batcher::run(Job *job) {
  serve(job);
  // The pass may have run on another thread, and this one may have run those of others: the
  // message belongs here.
  if (job->status == QWEN35_ERROR_CANCELLED) return fail(job->status, "cancelled");
  if (job->status != kOk) return fail(job->status, "out of memory for a copy of the state");
  clear_error();
  return kOk;
}

bool Batcher::crowded(const SequenceState *state) {
  const Lock lock(mutex_);
  if (few_.first != nullptr || many_.first != nullptr) return true;
  if (Clock::now() - last_few_ > kIdle) return false;
  for (uint32_t i = 0; i < n_recent_; i++) {
    if (recent_[i] != state) return true;
  }
  return false;
}

void Batcher::head_stats(qwen35_head_stats *out) {
  const Exclusive threads(this);
  *out = backend_.screen().stats;
}

Batcher::Exclusive::Exclusive(Batcher *batcher) : batcher_(batcher) {
  Job job;
  batcher->serve(&job);
}

Batcher::Exclusive::~Exclusive() {
  const Lock lock(batcher_->mutex_);
  batcher_->busy_ = false;
  batcher_->changed_.notify_all();
}

// A single token is nearly always a step, whoever asks for it, and as a step it takes a third.
bool Batcher::reads_as_many(uint32_t n) const {
  return n > (kernels_.bf16.gemm == nullptr ? kGemvMaxCols : 1);
}

// Returns when the job is done, or the threads are its owner's. While nobody else does, this thread
// runs the passes that are due.
void Batcher::serve(Job *job) {
  Lock lock(mutex_);
  const uint32_t n = job->segment.n;
  const bool step = job->drawn ? n <= kGemvMaxCols : !reads_as_many(n);
  const bool few = n != 0 && step && job->parts == nullptr;
  (few ? few_ : many_).push(job);
  changed_.notify_all();
  while (!job->done) {
    if (busy_) {
      changed_.wait(lock);
    } else {
      lead(&lock);
    }
  }
}

// Runs the next pass. The lock is given up meanwhile.
void Batcher::lead(Lock *lock) {
  busy_ = true;
  Job *jobs[kGemvMaxCols];
  uint32_t n = 1;
  const bool many = many_.first != nullptr && (many_next_ || few_.first == nullptr);
  many_next_ = !many;
  if (many) {
    jobs[0] = many_.pop();
    if (is_exclusive(*jobs[0])) {  // busy until its owner gives the threads back
      jobs[0]->done = true;
      changed_.notify_all();
      return;
    }
    lock->unlock();
    jobs[0]->status = run_many(*jobs[0]);
    lock->lock();
  } else {
    gather(lock);
    n = take_few(jobs);
    lock->unlock();
    const Clock::time_point start = Clock::now();
    run_few(jobs, n);
    lock->lock();
    last_few_ = Clock::now();
    few_duration_ = last_few_ - start;
  }
  for (uint32_t i = 0; i < n; i++) jobs[i]->done = true;
  busy_ = false;
  changed_.notify_all();
}

// Waits a moment for the sessions that shared the last pass.
void Batcher::gather(Lock *lock) {
  Clock::duration window = few_duration_ / kWindowShare;
  if (window > kMaxWindow) window = kMaxWindow;
  const Clock::time_point until = last_few_ + window;
  while (!all_here() && changed_.wait_until(*lock, until) != std::cv_status::timeout) {
  }
}

// Whether the next shared pass is full, or waiting promises nobody else.
bool Batcher::all_here() const {
  uint32_t tokens = 0, seen = 0;
  for (const Job *job = few_.first; job != nullptr; job = job->next) {
    tokens += job->segment.n;
    for (uint32_t i = 0; i < n_recent_; i++) seen += recent_[i] == job->segment.state ? 1 : 0;
  }
  return tokens >= kGemvMaxCols || seen == n_recent_;
}

// Takes what fits into one pass, in the order of arrival. jobs: [kGemvMaxCols]
uint32_t Batcher::take_few(Job **jobs) {
  uint32_t n = 0;
  for (uint32_t tokens = 0; few_.first != nullptr; n++) {
    tokens += few_.first->segment.n;
    if (tokens > kGemvMaxCols) break;
    jobs[n] = few_.pop();
    recent_[n] = jobs[n]->segment.state;
  }
  n_recent_ = n;
  return n;
}

void Batcher::run_few(Job *const *jobs, uint32_t n) {
  Segment segments[kGemvMaxCols];
  const Job *running[kGemvMaxCols];
  uint32_t count = 0;
  for (uint32_t i = 0; i < n; i++) {
    if (jobs[i]->cancel->exchange(0) != 0) {
      jobs[i]->status = QWEN35_ERROR_CANCELLED;
      continue;
    }
    segments[count] = jobs[i]->segment;
    running[count++] = jobs[i];
  }
  if (count == 0) return;
  // What shares a pass must not change a bit of what counts.
  backend_.keep_apart(count > 1 || running[0]->drawn);
  (void)forward_.run(model_, &backend_, segments, count, nullptr);  // fails only when cancelled
  for (uint32_t i = 0; i < count; i++) segments[i].state->set_logged(0);
  give_results(running, count);
  backend_.keep_apart(false);
}

Status Batcher::run_many(const Job &job) {
  if (job.cancel->exchange(0) != 0) return QWEN35_ERROR_CANCELLED;
  const bool changes = job.segment.n != 0;  // branches leave the state as it is
  if (changes) Q35_TRY(job.segment.state->save_recurrent(&saved_));
  const Segment *parts = job.parts == nullptr ? &job.segment : job.parts;
  const uint32_t n_parts = job.parts == nullptr ? 1 : job.n_parts;
  pool_->set_cancel_flag(job.cancel);
  // A few tokens of branches alone are a step, whose columns cost little.
  backend_.read_prompt(!job.drawn && (changes || job.n_tokens > kGemvMaxCols));
  Status status = forward_.run(model_, &backend_, parts, n_parts, job.cancel);
  backend_.read_prompt(false);
  pool_->set_cancel_flag(nullptr);
  // The flag may have been raised inside the last layer, with items skipped after its check.
  if (job.cancel->exchange(0) != 0) status = QWEN35_ERROR_CANCELLED;
  if (status != kOk) {
    if (changes) job.segment.state->restore_recurrent(saved_);
    return status;
  }
  job.segment.state->set_logged(0);
  const Job *jobs[] = {&job};
  give_results(jobs, 1);
  return kOk;
}

// Computes what the jobs of a pass ask for.
void Batcher::give_results(const Job *const *jobs, uint32_t n) {
  const uint64_t n_embd = model_.config.n_embd;
  rows_.clear();  // its memory was reserved for all tokens of a pass
  uint32_t first = 0;
  for (uint32_t i = 0; i < n; i++) {
    for (uint32_t r = 0; r < jobs[i]->n_rows; r++) (void)rows_.push_back(first + jobs[i]->rows[r]);
    first += jobs[i]->segment.n;
  }
  give_states(jobs, n);
  if (rows_.empty()) return;
  forward_.hidden_rows(model_, &backend_, rows_.data(), static_cast<uint32_t>(rows_.size()),
                       hidden_.data());
  const float *hidden = hidden_.data();
  for (uint32_t i = 0; i < n; i++) {
    const Job &job = *jobs[i];
    if (job.hidden != nullptr) {
      std::memcpy(job.hidden, hidden, sizeof(float) * job.n_rows * n_embd);
    }
    for (uint32_t r = 0; job.hidden_sum != nullptr && r < job.n_rows; r++) {
      kernels_.add(job.hidden_sum, hidden + r * n_embd, static_cast<uint32_t>(n_embd));
    }
    hidden += job.n_rows * n_embd;
  }
  if (n == 1) {
    give_logits(*jobs[0]);
  } else {
    share_logits(jobs, n);
  }
}

// The final states of all tokens of the jobs that want them.
void Batcher::give_states(const Job *const *jobs, uint32_t n) {
  uint32_t first = 0;
  for (uint32_t i = 0; i < n; i++) {
    const Job &job = *jobs[i];
    if (job.states != nullptr) {
      forward_.final_states(model_, &backend_, first, job.segment.n, job.states);
    }
    first += job.segment.n;
  }
}

// Logits of a job that had the pass for itself, straight to where they belong.
void Batcher::give_logits(const Job &job) {
  const uint64_t n_embd = model_.config.n_embd, n_vocab = model_.config.n_vocab;
  const uint32_t own = job.n_rows - job.n_branch_rows;  // with the bits that they have alone
  const uint64_t last = uint64_t{own} - 1;
  if (job.logits != nullptr) {
    const auto give = [&](uint64_t first, uint32_t n) {
      TextForward::logits(model_, &backend_, hidden_.data() + first * n_embd, n, job.top,
                          job.logits + first * n_vocab);
    };
    if (job.n_branch_rows == 0) {
      give(0, own);
    } else if (own <= 1 && job.n_rows <= kStepRows) {
      backend_.keep_apart(own != 0);
      for (uint32_t first = 0; first < job.n_rows; first += kGemvMaxCols) {
        const uint32_t left = job.n_rows - first;
        give(first, left < kGemvMaxCols ? left : kGemvMaxCols);
      }
      backend_.keep_apart(false);
    } else {
      if (own != 0) give(0, own);
      give(own, job.n_branch_rows);
    }
    if (job.last_logits != nullptr) {
      std::memcpy(job.last_logits, job.logits + last * n_vocab, sizeof(float) * n_vocab);
    }
  } else if (job.last_logits != nullptr) {
    TextForward::logits(model_, &backend_, hidden_.data() + last * n_embd, 1, job.top,
                        job.last_logits);
  }
}

// Logits of several jobs: the output head is read once for all.
void Batcher::share_logits(const Job *const *jobs, uint32_t n) {
  const uint64_t n_embd = model_.config.n_embd, n_vocab = model_.config.n_vocab;
  float *wanted = hidden_.data();  // rows move up, over those without logits
  const float *hidden = hidden_.data();
  uint32_t count = 0;
  TopRows top = {};
  for (uint32_t i = 0; i < n; i++) {
    const uint32_t n_rows = jobs[i]->n_rows, rows = logit_rows(*jobs[i]);
    if (rows != 0) top = count == 0 ? jobs[i]->top : widest(top, jobs[i]->top);
    std::memmove(wanted + count * n_embd, hidden + (n_rows - rows) * n_embd,
                 sizeof(float) * rows * n_embd);
    count += rows;
    hidden += n_rows * n_embd;
  }
  if (count == 0) return;
  TextForward::logits(model_, &backend_, wanted, count, top, logits_.data());
  const float *logits = logits_.data();
  for (uint32_t i = 0; i < n; i++) {
    const Job &job = *jobs[i];
    const uint32_t rows = logit_rows(job);
    logits += rows * n_vocab;
    if (job.logits != nullptr) {
      std::memcpy(job.logits, logits - rows * n_vocab, sizeof(float) * rows * n_vocab);
    }
    if (job.last_logits != nullptr) {
      std::memcpy(job.last_logits, logits - n_vocab, sizeof(float) * n_vocab);
    }
  }
}

}  // namespace q35
