#include "base/thread_pool.h"

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>

#include <pthread.h>
#include <sched.h>

#include "base/cpu.h"

namespace q35 {

namespace {

// A worker spins this many pauses after its last job before it sleeps: long enough to bridge the
// serial gaps inside one decode step (tens of microseconds), short enough not to burn an idle core.
constexpr int kSpinPauses = 6000;

inline void cpu_pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr uint32_t kClosed = UINT32_MAX;  // an item number no job has: nothing to take

// A ticket packs the job's epoch and the next item, so that taking an item and checking that the
// job is still the current one is a single compare-and-swap.
constexpr uint64_t make_ticket(uint32_t epoch, uint32_t item) {
  return static_cast<uint64_t>(epoch) << 32 | item;
}

}  // namespace

struct ThreadPool::State {
  alignas(64) std::atomic<uint64_t> ticket{0};
  // The job. It is rewritten only while the ticket is closed, and every store is a release: a
  // worker that sees any field of a newer job also sees that the ticket moved on, and takes no
  // item.
  alignas(64) std::atomic<ItemFn> fn{nullptr};
  std::atomic<const void *> context{nullptr};
  std::atomic<uint32_t> count{0};
  alignas(64) std::atomic<uint32_t> done{0};
  alignas(64) std::atomic<int> sleepers{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable wake;
  int awake = 0;  // of the workers, at most most_awake; under the mutex
  int most_awake = 0;
  pthread_t *threads = nullptr;
  int n_started = 0;

  // Whether a sleeping worker could work, were it woken.
  bool lacks_workers() const {
    return sleepers.load(std::memory_order_seq_cst) > n_started - most_awake;
  }
};

Status ThreadPool::start(int n_threads) {
  n_threads_ = n_threads < 1 ? 1 : n_threads;
  state_ = new (std::nothrow) State;
  if (state_ == nullptr) return fail(QWEN35_ERROR_MEMORY, "out of memory for the thread pool");
  if (n_threads_ == 1) return kOk;
  state_->most_awake = std::min(n_threads_, usable_cpus()) - 1;
  state_->threads = static_cast<pthread_t *>(std::calloc(n_threads_, sizeof(pthread_t)));
  if (state_->threads == nullptr) {
    return fail(QWEN35_ERROR_MEMORY, "out of memory for the thread pool");
  }
  struct Start {
    ThreadPool *pool;
    int thread;
  };
  for (int i = 1; i < n_threads_; i++) {
    Start *start = new (std::nothrow) Start{this, i};
    const int error = start == nullptr ? ENOMEM
                                       : pthread_create(
                                             &state_->threads[i - 1], nullptr,
                                             [](void *arg) -> void * {
                                               const Start s = *static_cast<Start *>(arg);
                                               delete static_cast<Start *>(arg);
                                               s.pool->worker(s.thread);
                                               return nullptr;
                                             },
                                             start);
    if (error != 0) {
      delete start;
      return fail(QWEN35_ERROR_MEMORY, "cannot start thread %d of %d (error %d)", i + 1, n_threads_,
                  error);
    }
    state_->n_started++;
  }
  return kOk;
}

ThreadPool::~ThreadPool() {
  if (state_ == nullptr) return;
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->stop.store(true);
  }
  state_->wake.notify_all();
  for (int i = 0; i < state_->n_started; i++) pthread_join(state_->threads[i], nullptr);
  std::free(state_->threads);
  delete state_;
}

// Runs items of job `epoch` until none is left to take.
void ThreadPool::take_and_run(uint32_t epoch, int thread) {
  State &s = *state_;
  const ItemFn fn = s.fn.load(std::memory_order_acquire);
  const void *context = s.context.load(std::memory_order_acquire);
  const uint32_t count = s.count.load(std::memory_order_acquire);
  uint64_t ticket = s.ticket.load(std::memory_order_acquire);
  for (;;) {
    const uint32_t item = static_cast<uint32_t>(ticket);
    if (ticket >> 32 != epoch || item >= count) return;
    if (!s.ticket.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
    if (cancel_ == nullptr || cancel_->load(std::memory_order_relaxed) == 0) {
      fn(context, item, thread);
    }
    s.done.fetch_add(1, std::memory_order_release);
    ticket = s.ticket.load(std::memory_order_acquire);
  }
}

void ThreadPool::run_items(uint32_t n, ItemFn fn, const void *context) {
  if (n == 0) return;
  if (n_threads_ == 1 || n == 1) {
    for (uint32_t i = 0; i < n; i++) {
      if (cancel_ == nullptr || cancel_->load(std::memory_order_relaxed) == 0) fn(context, i, 0);
    }
    return;
  }
  State &s = *state_;
  const uint32_t epoch = static_cast<uint32_t>(s.ticket.load(std::memory_order_relaxed) >> 32) + 1;
  s.ticket.store(make_ticket(epoch, kClosed), std::memory_order_relaxed);
  s.done.store(0, std::memory_order_release);
  s.fn.store(fn, std::memory_order_release);
  s.context.store(context, std::memory_order_release);
  s.count.store(n, std::memory_order_release);
  s.ticket.store(make_ticket(epoch + 1, 0), std::memory_order_seq_cst);
  if (s.lacks_workers()) {
    std::lock_guard<std::mutex> lock(s.mutex);
    s.wake.notify_all();
  }
  take_and_run(epoch + 1, 0);
  // Only threads that hold an item are waited for; one that never woke up is not.
  for (int spins = 0; s.done.load(std::memory_order_acquire) != n; spins++) {
    cpu_pause();
    if (spins > kSpinPauses) sched_yield();
  }
}

// Sleeps until there is a job other than `seen` and a place among those awake; false: the end.
bool ThreadPool::wait_for_job(uint32_t seen) {
  State &s = *state_;
  std::unique_lock<std::mutex> lock(s.mutex);
  s.sleepers.fetch_add(1, std::memory_order_seq_cst);
  s.wake.wait(lock, [&] {
    return s.stop.load() ||
           (s.awake < s.most_awake &&
            static_cast<uint32_t>(s.ticket.load(std::memory_order_seq_cst) >> 32) != seen);
  });
  s.sleepers.fetch_sub(1, std::memory_order_seq_cst);
  s.awake++;
  return !s.stop.load();
}

void ThreadPool::worker(int thread) {
  State &s = *state_;
  uint32_t seen = 0;
  while (wait_for_job(seen)) {
    for (int spins = 0; spins < kSpinPauses; spins++) {
      const uint32_t epoch = static_cast<uint32_t>(s.ticket.load(std::memory_order_acquire) >> 32);
      if (epoch == seen) {
        cpu_pause();
        continue;
      }
      take_and_run(epoch, thread);
      seen = epoch;
      spins = 0;
    }
    std::lock_guard<std::mutex> lock(s.mutex);
    s.awake--;
  }
}

}  // namespace q35
