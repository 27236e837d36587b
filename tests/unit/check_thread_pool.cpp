// Check of the thread pool: whatever the number of threads, every item of every job runs once, by
// threads of which no two share a number and no more work at a time than there are CPUs.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include <unistd.h>

#include "base/cpu.h"
#include "base/thread_pool.h"

namespace {

constexpr uint32_t kMostItems = 64;
constexpr int kJobs = 4000, kMostJobs = 100 * kJobs;  // the latter where no worker gets a CPU
constexpr useconds_t kUntilTheySleep = 5000;          // workers spin for a tenth of this

void expect(bool ok, const char *what, int threads, int job) {
  if (ok) return;
  std::fprintf(stderr, "failed with %d threads in job %d: %s\n", threads, job, what);
  std::exit(1);
}

// Something to do that takes longer the larger the item.
void work(uint32_t item) {
  for (volatile uint32_t i = 0; i < 20 * item; i = i + 1) {
  }
}

void raise_to(std::atomic<int> *most, int value) {
  int before = most->load();
  while (before < value && !most->compare_exchange_weak(before, value)) {
  }
}

void check_items(int threads) {
  q35::ThreadPool pool;
  expect(pool.start(threads) == q35::kOk, "start", threads, -1);
  expect(pool.size() == threads, "size", threads, -1);
  std::atomic<int> most_at_once{0};
  const std::unique_ptr<std::atomic<bool>[]> busy(new std::atomic<bool>[threads]());
  const int together = std::min({2, threads, q35::usable_cpus()});
  for (int job = 0; job < kJobs || (most_at_once < together && job < kMostJobs); job++) {
    if (job % 400 == 0) usleep(kUntilTheySleep);
    const uint32_t n = static_cast<uint32_t>(job * 7) % (kMostItems + 1);
    std::atomic<int> runs[kMostItems] = {}, at_once{0};
    pool.run(n, [&](uint32_t item, int thread) {
      expect(item < n && thread >= 0 && thread < threads, "numbers in range", threads, job);
      expect(!busy[thread].exchange(true), "a number for each thread", threads, job);
      raise_to(&most_at_once, ++at_once);
      work(item);
      at_once--;
      busy[thread].store(false);
      runs[item]++;
    });
    for (uint32_t i = 0; i < n; i++) expect(runs[i] == 1, "each item once", threads, job);
  }
  expect(most_at_once <= q35::usable_cpus(), "no more at a time than CPUs", threads, kJobs);
  expect(most_at_once >= together, "several at a time", threads, kMostJobs);
}

void check_cancel(int threads) {
  q35::ThreadPool pool;
  expect(pool.start(threads) == q35::kOk, "start", threads, -1);
  std::atomic<uint32_t> cancel{0}, runs{0};
  pool.set_cancel_flag(&cancel);
  pool.run(1000, [&](uint32_t item, int) {
    runs++;
    work(item);
    if (item >= 10) cancel.store(1);
  });
  const uint32_t most = 11 + static_cast<uint32_t>(threads);
  expect(runs >= 11 && runs <= most, "a cancelled job ends soon", threads, 0);
  cancel.store(0);
  runs.store(0);
  pool.run(1000, [&](uint32_t, int) { runs++; });
  expect(runs == 1000, "and the next one is whole", threads, 1);
}

// Pools that end while their workers start, spin or sleep.
void check_ends() {
  for (int i = 0; i < 300; i++) {
    q35::ThreadPool pool;
    expect(pool.start(1 + i % 5) == q35::kOk, "start", 1 + i % 5, i);
    if (i % 3 == 0) continue;
    pool.run(8, [](uint32_t item, int) { work(item); });
    if (i % 30 == 1) usleep(kUntilTheySleep);
  }
}

}  // namespace

int main() {
  for (int threads : {1, 2, 3, 5, 8}) {
    check_items(threads);
    check_cancel(threads);
  }
  check_ends();
  std::printf("ok: %d CPUs\n", q35::usable_cpus());
  return 0;
}
