// A product of a matrix and some tokens, as a step or a prompt has it, for bench/arm_cost.py:
//
//     one_product TYPE ROWS COLS TOKENS REPEATS
//
// One thread, the CPU's strongest tier.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "bench.h"
#include "kernels/kernels.h"

namespace {

using q35::AlignedBytes;
using q35::Kernels;
using q35::Matrix;
using q35::Tokens;

void by_gemv(const Kernels &kernels, const Matrix &m, const Tokens &x, float *y) {
  kernels.gemv[static_cast<uint32_t>(m.type.type)](gemv_args(m, x, 0, x.n, y, m.rows));
}

void by_panels(const Kernels &kernels, const Matrix &m, const Tokens &x, float *y) {
  const q35::PanelShape shape = {m.k, m.type.group, m.type.has_min};
  const size_t tile_bytes = (kernels.tile_bytes(m.k) + 63) / 64 * 64;
  const uint32_t width = kernels.tile_tokens, n_tiles = (x.n + width - 1) / width;
  const AlignedBytes panel(kernels.panel_bytes(shape)), tiles(n_tiles * tile_bytes);
  const AlignedBytes scratch(kernels.pack_scratch_bytes(m.k));
  const auto tokens_of = [&](uint32_t tile) { return std::min(width, x.n - tile * width); };
  for (uint32_t i = 0; i < n_tiles; i++) {
    kernels.pack_tile(x.act(i * width), tokens_of(i), m.k, tiles.data + i * tile_bytes);
  }
  for (uint32_t row = 0; row < m.rows; row += kernels.panel_rows) {
    const uint32_t rows = std::min(kernels.panel_rows, m.rows - row);
    kernels.pack_panel(m.type, m.panel_rows(row, rows), m.k, panel.data, scratch.data);
    for (uint32_t i = 0; i < n_tiles; i++) {
      kernels.gemm_q8(shape, panel.data, tiles.data + i * tile_bytes, rows, tokens_of(i),
                      y + uint64_t{i} * width * m.rows + row, m.rows);
    }
  }
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 6) return 2;
  const Kernels kernels = q35::kernels_for(*std::find_if(
      std::begin(q35::kStrongestFirst), std::end(q35::kStrongestFirst), q35::isa_available));
  for (const uint32_t number : q35::kTypes) {
    const q35::TypeTraits &type = *q35::type_traits(number);
    if (std::strcmp(type.name, argv[1]) != 0 || type.group == 0) continue;
    const auto argument = [&](int i) { return static_cast<uint32_t>(std::atoi(argv[i])); };
    q35::Random random(1);
    Matrix m(type, argument(2), argument(3), random);
    m.weave(kernels);
    Tokens x(argument(4), m.k);
    x.fill(random, kernels);
    const AlignedBytes y(size_t{x.n} * m.rows * sizeof(float));
    float *out = reinterpret_cast<float *>(y.data);
    const bool few = x.n <= q35::kGemvMaxCols && kernels.gemv[number] != nullptr;
    for (uint32_t i = 0; i < argument(5); i++) {
      x.quantize(kernels);
      few ? by_gemv(kernels, m, x, out) : by_panels(kernels, m, x, out);
    }
    std::printf("%s: %g\n", kernels.isa, static_cast<double>(out[0]));
    return 0;
  }
  std::fprintf(stderr, "no quantised type %s\n", argv[1]);
  return 2;
}
