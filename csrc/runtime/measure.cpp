#include "runtime/measure.h"

#include <atomic>
#include <chrono>
#include <cstring>

#include "base/cpu.h"
#include "base/memory.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "runtime/engine.h"

namespace q35 {

namespace {

constexpr uint64_t kBytes = 256ull << 20;  // far more than any cache
constexpr uint32_t kPieces = 256;          // handed out as the matrices of a decode step are
constexpr int kRepeats = 6;                // the best is reported: others lost time to neighbours

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Sums of eight lanes: enough independent additions to stay ahead of the memory.
uint64_t read_all(const uint64_t *words, uint64_t n) {
  uint64_t sum[8] = {};
  for (uint64_t i = 0; i < n; i += 8) {
    for (int j = 0; j < 8; j++) sum[j] += words[i + j];
  }
  uint64_t total = 0;
  for (const uint64_t s : sum) total += s;
  return total;
}

double best_read_rate(ThreadPool *pool, const Region &memory) {
  double best = 0;
  std::atomic<uint64_t> sink{0};
  for (int r = 0; r < kRepeats; r++) {
    const auto start = std::chrono::steady_clock::now();
    pool->run(kPieces, [&](uint32_t piece, int) {
      const uint64_t bytes = kBytes / kPieces;
      const uint8_t *at = memory.data() + piece * bytes;
      sink.fetch_add(read_all(reinterpret_cast<const uint64_t *>(at), bytes / 8),
                     std::memory_order_relaxed);
    });
    const double rate = kBytes / seconds_since(start);
    if (rate > best) best = rate;
  }
  return best;
}

double best_int8_rate(ThreadPool *pool, const Kernels &kernels) {
  double best = 0;
  for (int r = 0; r < kRepeats; r++) {
    std::atomic<uint64_t> macs{0};
    const auto start = std::chrono::steady_clock::now();
    pool->run(static_cast<uint32_t>(pool->size()) * 8, [&](uint32_t, int) {
      macs.fetch_add(kernels.int8_peak_loop(20000), std::memory_order_relaxed);
    });
    const double rate = 2.0 * static_cast<double>(macs.load()) / seconds_since(start);
    if (rate > best) best = rate;
  }
  return best;
}

}  // namespace

Status measure_machine(int n_threads, qwen35_machine *out) {
  Isa isa;
  Q35_TRY(choose_isa(&isa));
  const Kernels kernels = kernels_for(isa);
  ThreadPool pool;
  Q35_TRY(pool.start(n_threads > 0 ? n_threads : usable_cores()));
  Region memory;
  Q35_TRY(Region::allocate(kBytes, true, &memory));
  std::memset(memory.data(), 1, kBytes);
  out->n_threads = pool.size();
  out->read_bytes_per_second = best_read_rate(&pool, memory);
  out->int8_ops_per_second = best_int8_rate(&pool, kernels);
  return kOk;
}

}  // namespace q35
