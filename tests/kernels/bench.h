// Speed of the matrix kernels, as GB/s and GOPS and as shares of what the machine did in the same
// minute: the int8 peak of the tier on registers and the read bandwidth of one thread.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "matrix_data.h"
#include "timing.h"

namespace q35 {

inline double peak_gops(const Kernels &kernels) {
  uint64_t macs = 0;
  const double time = median_time(31, [&](uint32_t) { macs = kernels.int8_peak_loop(1 << 15); });
  return 2e-9 * static_cast<double>(macs) / time;
}

struct AlignedBytes {
  uint8_t *data;
  explicit AlignedBytes(size_t bytes)
      : data(static_cast<uint8_t *>(std::aligned_alloc(64, (bytes + 64) / 64 * 64))) {}
  ~AlignedBytes() { std::free(data); }
  AlignedBytes(const AlignedBytes &) = delete;
  AlignedBytes &operator=(const AlignedBytes &) = delete;
};

struct Bench {
  const Kernels &kernels;
  double peak, bandwidth;

  // Weights met by n columns: 256 KB again and again, or 128 MB in pieces, from memory.
  void gemv(const TypeTraits &type, uint32_t k, bool stream, uint32_t n) const {
    const uint64_t row_bytes = type_bytes(type, k);
    const size_t piece = stream ? kPiece : 256 << 10;
    const uint32_t pieces = stream ? 32 : 1;
    const uint32_t rows = static_cast<uint32_t>(piece / row_bytes / kWovenRows) * kWovenRows;
    Random random(1);
    Matrix m(type, rows * pieces, k, random);
    m.weave(kernels);
    Tokens x(n, k);
    x.fill(random, kernels);
    Guarded<float> y(size_t{n} * rows);
    GemvArgs args = gemv_args(m, x, 0, n, y.data(), rows);
    args.rows = rows;  // a piece
    const double time = median_time(stream ? pieces : 101, [&](uint32_t i) {
      args.w = m.at(i % pieces * rows);
      kernels.gemv[static_cast<uint32_t>(type.type)](args);
    });
    const double gbs = 1e-9 * static_cast<double>(rows * row_bytes) / time;
    std::printf("%s gemv %-7s k %4u %s n %u: %6.1f GB/s (%3.0f %% of read)  %6.1f GOPS\n",
                kernels.isa, type.name, k, stream ? "memory" : "cache ", n, gbs,
                100 * gbs / bandwidth, 2e-9 * k * rows * n / time);
  }

  // A panel at a time by all tiles; tiles are packed once for `rows` rows.
  void gemm(const TypeTraits &type, uint32_t k, uint32_t rows, uint32_t n) const {
    Random random(1);
    const uint32_t panels = 32;
    Matrix m(type, panels * kernels.panel_rows, k, random);
    m.weave(kernels);
    Tokens x(n, k);
    x.fill(random, kernels);
    const PanelShape shape = {k, type.group, type.has_min};
    const uint32_t tiles = (n + kernels.tile_tokens - 1) / kernels.tile_tokens;
    const size_t tile_bytes = (kernels.tile_bytes(k) + 63) / 64 * 64;
    const AlignedBytes panel(kernels.panel_bytes(shape)), tile(tile_bytes * tiles);
    const AlignedBytes scratch(kernels.pack_scratch_bytes(k));
    const AlignedBytes out(size_t{n} * kernels.panel_rows * sizeof(float));
    const auto tokens_of = [&](uint32_t i) {
      return std::min(kernels.tile_tokens, n - i * kernels.tile_tokens);
    };
    const double tile_time = tiles * median_time(3 * tiles, [&](uint32_t j) {
                               const uint32_t i = j % tiles;
                               kernels.pack_tile(x.act(i * kernels.tile_tokens), tokens_of(i), k,
                                                 tile.data + i * tile_bytes);
                             });
    const double pack_time = median_time(panels, [&](uint32_t i) {
      kernels.pack_panel(type, m.panel_rows(i * kernels.panel_rows, kernels.panel_rows), k,
                         panel.data, scratch.data);
    });
    const double dot_time =
        tiles * median_time(3 * tiles, [&](uint32_t j) {
          const uint32_t i = j % tiles;
          kernels.gemm_q8(shape, panel.data, tile.data + i * tile_bytes, kernels.panel_rows,
                          tokens_of(i),
                          reinterpret_cast<float *>(out.data) +
                              size_t{i} * kernels.tile_tokens * kernels.panel_rows,
                          kernels.panel_rows);
        });
    const double count = static_cast<double>(rows) / kernels.panel_rows;
    const double time = tile_time + count * (pack_time + dot_time);
    const double gops = 2e-9 * k * rows * n / time;
    std::printf(
        "%s gemm %-7s k %4u n %3u: %6.1f GOPS (%2.0f %% of peak)  "
        "panels %4.1f %%, tiles %4.1f %%\n",
        kernels.isa, type.name, k, n, gops, 100 * gops / peak, 100 * count * pack_time / time,
        100 * tile_time / time);
  }
};

constexpr Isa kStrongestFirst[] = {Isa::Amx,      Isa::Avx512,      Isa::AvxVnni, Isa::Avx2,
                                   Isa::NeonI8mm, Isa::NeonDotprod, Isa::Neon,    Isa::Scalar};

// filter: a substring of "<isa> gemv|gemm <type>"
inline int run_bench(const char *filter) {
  Guarded<uint8_t> big(256u << 20);
  std::memset(big.data(), 1, big.size());
  for (const Isa isa : kStrongestFirst) {
    if (!isa_available(isa)) continue;
    const Kernels kernels = kernels_for(isa);
    const Bench bench = {kernels, peak_gops(kernels), read_gbs(big)};
    std::printf("%s: int8 peak %.0f GOPS, read %.1f GB/s, one thread\n", kernels.isa, bench.peak,
                bench.bandwidth);
    for (const uint32_t number : kTypes) {
      const TypeTraits &type = *type_traits(number);
      char name[64];
      std::snprintf(name, sizeof name, "%s gemv %s", kernels.isa, type.name);
      if (std::strstr(name, filter) != nullptr && kernels.gemv[number] != nullptr) {
        for (const uint32_t n : {1u, 2u, 3u, 4u, 8u}) {
          bench.gemv(type, 2048, false, n);
          bench.gemv(type, 1024, true, n);
        }
      }
      std::snprintf(name, sizeof name, "%s gemm %s", kernels.isa, type.name);
      if (std::strstr(name, filter) != nullptr && type.group != 0) {
        for (const uint32_t k : {1024u, 2048u, 3584u, 6144u}) bench.gemm(type, k, 2048, 512);
        bench.gemm(type, 2048, 2048, 32);
      }
    }
  }
  return 0;
}

}  // namespace q35
