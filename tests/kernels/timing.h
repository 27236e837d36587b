// Times that survive a shared machine, and the read bandwidth they are compared with.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstring>
#include <ctime>

#include "guarded.h"

namespace q35 {

inline double seconds() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

// Median time of fn(i) for i in [0, runs). Pieces of work well under a scheduler's time slice keep
// the median free of what other processes take.
template <class Fn>
double median_time(uint32_t runs, Fn fn) {
  Guarded<double> time(runs);
  for (uint32_t i = 0; i < runs; i++) {
    const double start = seconds();
    fn(i);
    time[i] = seconds() - start;
  }
  std::sort(time.data(), time.data() + runs);
  return time[runs / 2];
}

// Processor time of the calling thread: what other processes take does not count.
inline double thread_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// The shortest time of fn(i), for work longer than a time slice: every disturbance adds to it.
template <class Fn>
double shortest_time(uint32_t runs, double (*clock)(), Fn fn) {
  double best = 1e30;
  for (uint32_t i = 0; i < runs; i++) {
    const double start = clock();
    fn(i);
    best = std::min(best, clock() - start);
  }
  return best;
}

constexpr size_t kPiece = 4 << 20;

// What one thread can read, in pieces of a large buffer.
inline double read_gbs(const Guarded<uint8_t> &data) {
  volatile uint64_t sink = 0;
  const double time = median_time(static_cast<uint32_t>(data.size() / kPiece), [&](uint32_t piece) {
    uint64_t sum[8] = {};
    for (size_t i = 0; i < kPiece; i += 64) {
      uint64_t line[8];
      std::memcpy(line, data.data() + piece * kPiece + i, 64);
      for (int j = 0; j < 8; j++) sum[j] ^= line[j];
    }
    for (const uint64_t s : sum) sink = sink + s;
  });
  return 1e-9 * kPiece / time;
}

}  // namespace q35
