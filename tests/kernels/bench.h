// Speed of the matrix kernels, as GB/s and GOPS and as shares of what the machine did in the same
// minute: the int8 peak of the tier on registers and the read bandwidth of one thread.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "matrix_data.h"

namespace q35 {

// Processor time of this thread: on a shared machine waiting for the processor does not count.
inline double seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The best of several runs of fn.
template <class Fn>
double best_time(Fn fn, int runs = 20) {
  double best = 1e30;
  for (int i = 0; i < runs; i++) {
    const double start = seconds();
    fn();
    best = std::min(best, seconds() - start);
  }
  return best;
}

inline double peak_gops(const Kernels &kernels) {
  uint64_t macs = 0;
  const double time = best_time([&] { macs = kernels.int8_peak_loop(1 << 17); });
  return 2e-9 * static_cast<double>(macs) / time;
}

// Sum of a large buffer, 64 bytes a step: what one thread can read.
inline double read_gbs(const uint8_t *data, size_t bytes) {
  volatile uint64_t sink = 0;
  const double time = best_time([&] {
    uint64_t sum[8] = {};
    for (size_t i = 0; i < bytes; i += 64) {
      uint64_t line[8];
      std::memcpy(line, data + i, 64);
      for (int j = 0; j < 8; j++) sum[j] ^= line[j];
    }
    for (const uint64_t s : sum) sink = sink + s;
  });
  return 1e-9 * static_cast<double>(bytes) / time;
}

struct Bench {
  const Kernels &kernels;
  double peak, bandwidth;

  // Weights of `bytes` in all, streamed by n columns.
  void gemv(const TypeTraits &type, uint32_t k, size_t bytes, uint32_t n) const {
    const uint64_t row_bytes = type_bytes(type, k);
    const uint32_t rows = static_cast<uint32_t>(bytes / row_bytes);
    Random random(1);
    const Matrix m(type, rows, k, random);
    Tokens x(n, k);
    x.fill(random, kernels);
    Guarded<float> y(size_t{n} * rows);
    GemvArgs args = {};
    args.w = m.w.data();
    args.row_bytes = row_bytes;
    args.rows = rows;
    args.k = k;
    args.n_cols = n;
    args.act = x.act();
    args.x = x.x.data();
    args.y = y.data();
    args.y_stride = rows;
    const GemvFn fn = kernels.gemv[static_cast<uint32_t>(type.type)];
    const int loops = static_cast<int>(std::max<size_t>(1, (1 << 20) / bytes));
    const double time = best_time([&] {
                          for (int i = 0; i < loops; i++) fn(args);
                        }) /
                        loops;
    const double gbs = 1e-9 * static_cast<double>(m.w.size()) / time;
    std::printf("%s gemv %-7s k %4u %5.1f MB n %u: %6.1f GB/s (%3.0f %% of read)  %6.1f GOPS\n",
                kernels.isa, type.name, k, 1e-6 * static_cast<double>(m.w.size()), n, gbs,
                100 * gbs / bandwidth, 2e-9 * k * rows * n / time);
  }

  // All of a matrix product: panels packed once, tiles packed once, every panel by every tile.
  void gemm(const TypeTraits &type, uint32_t k, uint32_t rows, uint32_t n) const {
    Random random(1);
    const Matrix m(type, rows, k, random);
    Tokens x(n, k);
    x.fill(random, kernels);
    const PanelShape shape = {k, type.group, type.has_min};
    const uint32_t tiles = (n + kernels.tile_tokens - 1) / kernels.tile_tokens;
    Guarded<float> y(size_t{n} * rows);
    uint8_t *panel =
        static_cast<uint8_t *>(std::aligned_alloc(64, (kernels.panel_bytes(shape) + 63) / 64 * 64));
    const size_t tile_bytes = (kernels.tile_bytes(k) + 63) / 64 * 64;
    uint8_t *tile = static_cast<uint8_t *>(std::aligned_alloc(64, tile_bytes * tiles));
    Guarded<uint8_t> scratch(kernels.pack_scratch_bytes(k));
    double pack = 0, pack_tiles = 0;
    const double time = best_time(
        [&] {
          double start = seconds();
          for (uint32_t i = 0; i < tiles; i++) {
            const uint32_t t = i * kernels.tile_tokens;
            kernels.pack_tile(x.act(t), std::min(kernels.tile_tokens, n - t), k,
                              tile + i * tile_bytes);
          }
          pack_tiles = seconds() - start;
          pack = 0;
          for (uint32_t r = 0; r < rows; r += kernels.panel_rows) {
            const uint32_t some = std::min(kernels.panel_rows, rows - r);
            start = seconds();
            kernels.pack_panel(type, m.w.data() + r * m.row_bytes, m.row_bytes, some, k, panel,
                               scratch.data());
            pack += seconds() - start;
            for (uint32_t i = 0; i < tiles; i++) {
              const uint32_t t = i * kernels.tile_tokens;
              kernels.gemm_q8(shape, panel, tile + i * tile_bytes, some,
                              std::min(kernels.tile_tokens, n - t), y.data() + size_t{t} * rows + r,
                              rows);
            }
          }
        },
        3);
    const double gops = 2e-9 * k * rows * n / time;
    std::printf(
        "%s gemm %-7s k %4u n %4u: %6.1f GOPS (%2.0f %% of peak)  panels %4.1f %%, tiles %4.1f "
        "%%\n",
        kernels.isa, type.name, k, n, gops, 100 * gops / peak, 100 * pack / time,
        100 * pack_tiles / time);
    std::free(panel);
    std::free(tile);
  }
};

// filter: a substring of "<isa> gemv|gemm <type>"
inline int run_bench(const char *filter) {
  Guarded<uint8_t> big(256u << 20);
  std::memset(big.data(), 1, big.size());
  for (const Isa isa : {Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Scalar}) {
    if (!isa_available(isa)) continue;
    const Kernels kernels = kernels_for(isa);
    const Bench bench = {kernels, peak_gops(kernels), read_gbs(big.data(), big.size())};
    std::printf("%s: int8 peak %.0f GOPS, read %.1f GB/s, one thread\n", kernels.isa, bench.peak,
                bench.bandwidth);
    for (const uint32_t number : kTypes) {
      const TypeTraits &type = *type_traits(number);
      char name[64];
      std::snprintf(name, sizeof name, "%s gemv %s", kernels.isa, type.name);
      if (std::strstr(name, filter) != nullptr && kernels.gemv[number] != nullptr) {
        for (const uint32_t n : {1u, 2u, 4u, 8u}) {
          bench.gemv(type, 2048, 256 << 10, n);
          bench.gemv(type, 1024, 96 << 20, n);
        }
      }
      std::snprintf(name, sizeof name, "%s gemm %s", kernels.isa, type.name);
      if (std::strstr(name, filter) != nullptr && type.group != 0) {
        for (const uint32_t k : {1024u, 2048u, 3584u, 6144u}) bench.gemm(type, k, 256, 512);
        bench.gemm(type, 2048, 256, 32);
      }
    }
  }
  return 0;
}

}  // namespace q35
