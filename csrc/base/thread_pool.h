// A fork-join pool. The calling thread works too; items are handed out one at a time, so a thread
// that the system has taken away costs only the items it holds, never an equal share of the work.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/status.h"

namespace q35 {

class ThreadPool {
 public:
  ThreadPool() = default;
  ~ThreadPool();
  ThreadPool(const ThreadPool &) = delete;
  ThreadPool &operator=(const ThreadPool &) = delete;

  // n_threads counts the caller: n_threads - 1 threads are started. No more of them work at a time
  // than there are CPUs: another one would take its CPU from a thread in the middle of an item, for
  // which all others wait.
  [[nodiscard]] Status start(int n_threads);
  int size() const { return n_threads_; }

  // Runs fn(item, thread) for every item in [0, n), thread in [0, size()); returns when all are
  // done. One caller at a time. fn is any callable; it is not copied and must not throw.
  template <class Fn>
  void run(uint32_t n, const Fn &fn) {
    run_items(
        n,
        [](const void *context, uint32_t item, int thread) {
          (*static_cast<const Fn *>(context))(item, thread);
        },
        &fn);
  }

  // While *flag is nonzero the remaining items of every run are skipped. May be null.
  void set_cancel_flag(const std::atomic<uint32_t> *flag) { cancel_ = flag; }

 private:
  using ItemFn = void (*)(const void *context, uint32_t item, int thread);
  void run_items(uint32_t n, ItemFn fn, const void *context);
  void take_and_run(uint32_t epoch, int thread);
  bool wait_for_job(uint32_t seen);
  void worker(int thread);

  struct State;
  State *state_ = nullptr;
  int n_threads_ = 1;
  const std::atomic<uint32_t> *cancel_ = nullptr;
};

}  // namespace q35
