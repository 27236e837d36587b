// Shares one model's threads and scratch memory among its sessions. One pass over the weights runs
// at a time. Evaluations of a few tokens that several threads ask for at the same time share a
// pass: reading the weights is most of its cost, so two sessions decode nearly as fast as one. A
// pass of many tokens is bound by arithmetic and gains nothing from company; those take turns with
// the shared passes.
//
// There is no thread of its own: of the callers that wait, one runs the next pass for all.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "backend/cpu/cpu_backend.h"
#include "base/array.h"
#include "base/status.h"
#include "model/mtp_forward.h"
#include "model/text_forward.h"

namespace q35 {

// One segment to evaluate, and which results of it are wanted.
struct Job {
  Segment segment = {};
  std::atomic<uint32_t> *cancel = nullptr;  // nonzero stops it; taken back when it did
  const uint32_t *rows = nullptr;           // tokens that give a row, ascending
  uint32_t n_rows = 0;
  float *hidden = nullptr;       // [n_rows, n_embd] after the final norm, or null
  float *hidden_sum = nullptr;   // [n_embd]: the sum of the hidden rows is added, or null
  float *logits = nullptr;       // [n_rows, n_vocab] or null
  float *last_logits = nullptr;  // [n_vocab] of the segment's last row, or null
  TopRows top;                   // the logits that have to be right
  float *states = nullptr;       // [n, n_embd] after the final norm, of all tokens, or null
  // The tokens are the sampler's, and drafts: a step, each token to the bits that it has alone.
  bool drawn = false;
  // Branches off the state behind the segment: they share its pass, or have one when it has no
  // tokens. parts: the segment, unless it has none, and the branches, [n_parts] of n_tokens
  // together; null: there are no branches. Rows count through all parts.
  const Segment *parts = nullptr;
  uint32_t n_parts = 0, n_tokens = 0;
  uint32_t n_branch_rows = 0;  // the last ones of n_rows

  // The batcher's own.
  Job *next = nullptr;
  Status status = kOk;
  bool done = false;
};

class Batcher {
 public:
  Batcher(const TextModel &model, const Kernels &kernels, ThreadPool *pool)
      : model_(model), pool_(pool), kernels_(kernels), backend_(kernels, pool) {}

  // Makes room for segments of up to max_tokens; never shrinks.
  [[nodiscard]] Status reserve(uint32_t max_tokens);
  uint64_t scratch_bytes() const { return scratch_bytes_.load(std::memory_order_relaxed); }

  // Makes room for drafts of the MTP layer.
  [[nodiscard]] Status reserve_mtp();

  // Evaluates a job's segment, whose state the caller advances afterwards. When it fails the state
  // is as before. Segments of up to kGemvMaxCols tokens are not interrupted once they run. Branches
  // are not shared with other sessions, and n_logged of their state must be 0.
  [[nodiscard]] Status run(Job *job);
  // See qwen35_model_head_statistics().
  void head_stats(qwen35_head_stats *out);
  // Whether n given tokens are read as many at once, and not as a step: then company in their pass
  // changes no bit of them.
  bool reads_as_many(uint32_t n) const;

  // Whether other sessions than this one use the model at the moment: long work should then come
  // in short pieces.
  bool crowded(const SequenceState *state);

  // Holds the threads of the model while it lives, for work other than a job.
  class Exclusive {
   public:
    explicit Exclusive(Batcher *batcher);
    ~Exclusive();
    Backend *backend() { return &batcher_->backend_; }
    MtpForward *mtp() { return &batcher_->mtp_; }
    Exclusive(const Exclusive &) = delete;
    Exclusive &operator=(const Exclusive &) = delete;

   private:
    Batcher *batcher_;
  };

 private:
  struct Queue {
    Job *first = nullptr, *last = nullptr;
    void push(Job *job);
    Job *pop();
  };
  using Clock = std::chrono::steady_clock;
  using Lock = std::unique_lock<std::mutex>;

  void serve(Job *job);
  void lead(Lock *lock);
  void gather(Lock *lock);
  [[nodiscard]] bool all_here() const;
  uint32_t take_few(Job **jobs);
  void run_few(Job *const *jobs, uint32_t n);
  [[nodiscard]] Status run_many(const Job &job);
  void note_scratch();
  void give_states(const Job *const *jobs, uint32_t n);
  void give_results(const Job *const *jobs, uint32_t n);
  void give_logits(const Job &job);
  void share_logits(const Job *const *jobs, uint32_t n);

  const TextModel &model_;
  ThreadPool *pool_;
  const Kernels &kernels_;

  // Used by whoever runs a pass.
  CpuBackend backend_;
  TextForward forward_;
  MtpForward mtp_;
  Array<float> saved_;    // recurrent state before a pass that may be cancelled
  Array<uint32_t> rows_;  // wanted rows of a pass
  Array<float> hidden_;   // [max_tokens, n_embd] their hidden states
  Array<float> logits_;   // [kGemvMaxCols, n_vocab] of sessions that share a pass
  uint32_t max_tokens_ = 0;
  std::atomic<uint64_t> scratch_bytes_{0};
  bool has_mtp_ = false;

  // Under the mutex.
  std::mutex mutex_;
  std::condition_variable changed_;  // a job came, or a pass ended
  Queue few_, many_;
  bool busy_ = false;       // somebody runs a pass or holds the threads
  bool many_next_ = false;  // the passes of many tokens are due
  // The sessions of the last shared pass: they are likely to be back soon.
  const SequenceState *recent_[kGemvMaxCols] = {};
  uint32_t n_recent_ = 0;
  Clock::time_point last_few_{};    // when it ended
  Clock::duration few_duration_{};  // how long it took
};

}  // namespace q35
