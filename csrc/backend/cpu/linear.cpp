// Matrix products. Few tokens: every matrix is streamed once, straight from the file's blocks. Many
// tokens: 32 rows at a time are unpacked to a common integer form and multiplied with all tokens.
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/stream_items.h"

namespace q35 {

namespace {

// Matrices of one call.
constexpr uint32_t kMaxJobs = 8;

bool is_float(const Matrix &w) {
  return type_traits(w.type).group == 0;
}

// The rows of several matrices as items of equal size.
struct EqualItems {
  uint32_t first[kMaxJobs + 1];  // first item of each job
  uint32_t rows[kMaxJobs];       // rows of an item

  // rows_of(w): rows of an item of this matrix
  template <class RowsOf>
  EqualItems(const LinearJob *jobs, uint32_t n_jobs, const RowsOf &rows_of) {
    first[0] = 0;
    for (uint32_t j = 0; j < n_jobs; j++) {
      const Matrix &w = *jobs[j].w;
      rows[j] = rows_of(w);
      first[j + 1] = first[j] + (w.rows + rows[j] - 1) / rows[j];
    }
  }

  uint32_t job_of(uint32_t item) const {
    uint32_t job = 0;
    while (item >= first[job + 1]) job++;
    return job;
  }
};

// Rows of an item of float panels: as many as share tokens, unless some threads would get none.
uint32_t float_item_rows(const Matrix &w, int threads) {
  const uint32_t fair = w.rows / (4 * static_cast<uint32_t>(threads)) / kTileCols;
  return kTileCols * (fair < 1 ? 1 : fair > kFloatPanels ? kFloatPanels : fair);
}

// Rows of an item of bf16 products.
uint32_t tiled_item_rows(const Matrix &w, int threads) {
  const uint32_t fair = w.rows / (4 * static_cast<uint32_t>(threads)) / kTiledStep * kTiledStep;
  return fair < kTiledStep ? kTiledStep : fair > kTiledRows ? kTiledRows : fair;
}

}  // namespace

void CpuBackend::linear(const float *x, uint32_t n, uint32_t k, const LinearJob *jobs,
                        uint32_t n_jobs) {
  if (n <= kGemvMaxCols && !prompt_) {
    linear_few(x, n, k, jobs, n_jobs);
  } else {
    linear_many(x, n, k, jobs, n_jobs);
  }
}

void CpuBackend::linear_few(const float *x, uint32_t n, uint32_t k, const LinearJob *jobs,
                            uint32_t n_jobs) {
  bool integer = false, panels = false;
  uint32_t quantum[kMaxJobs];
  for (uint32_t j = 0; j < n_jobs; j++) {
    const Matrix &w = *jobs[j].w;
    const bool direct = kernels_.gemv[static_cast<uint32_t>(w.type)] != nullptr;
    integer = integer || !is_float(w);
    panels = panels || !direct;
    quantum[j] = direct ? kRowQuantum : kernels_.panel_rows;
  }
  if (integer) quantize(x, n, k, panels);
  const StreamItems list(jobs, n_jobs, quantum, pool_->size());
  pool_->run(list.count, [&](uint32_t index, int thread) {
    const StreamItems::Item &item = list.items[index];
    const LinearJob &job = jobs[item.job];
    const Matrix &w = *job.w;
    if (kernels_.gemv[static_cast<uint32_t>(w.type)] == nullptr) {
      const uint32_t end = item.row + item.rows;
      for (uint32_t row = item.row; row < end; row += kernels_.panel_rows) {
        panel_product(job, n, k, row / kernels_.panel_rows, thread);
      }
      return;
    }
    gemv_rows(job, x, n, k, item.row, item.rows);
  });
}

// A few tokens times some rows, the first of which is a multiple of 16.
void CpuBackend::gemv_rows(const LinearJob &job, const float *x, uint32_t n, uint32_t k,
                           uint32_t row, uint32_t rows) {
  const Matrix &w = *job.w;
  const GemvFn gemv = kernels_.gemv[static_cast<uint32_t>(w.type)];
  const uint32_t most = apart_ ? kernels_.same_cols : n;
  for (uint64_t t = 0; t < n; t += most) {  // the rows come from the cache after the first turn
    const uint32_t count = n - t < most ? static_cast<uint32_t>(n - t) : most;
    const ActQ8 act = {act_q_.data() + t * k, act_d_.data() + t * (k / kActGroup),
                       act_s_.data() + t * (k / 16)};
    gemv({w.data + row * w.row_bytes, w.woven, w.row_bytes, rows, k, count, act, x + t * k,
          job.y + t * job.y_stride + row, job.y_stride});
  }
}

void CpuBackend::linear_many(const float *x, uint32_t n, uint32_t k, const LinearJob *jobs,
                             uint32_t n_jobs) {
  LinearJob tiled[kMaxJobs], split[kMaxJobs], rest[kMaxJobs];
  uint32_t n_tiled = 0, n_split = 0, n_rest = 0;
  for (uint32_t j = 0; j < n_jobs; j++) {
    const bool tiles = kernels_.bf16.gemm != nullptr;
    if (tiles && !is_float(*jobs[j].w)) {
      tiled[n_tiled++] = jobs[j];
    } else if (tiles && jobs[j].rounded) {
      split[n_split++] = jobs[j];
    } else {
      rest[n_rest++] = jobs[j];
    }
  }
  if (n_tiled != 0) linear_tiled(x, n, k, tiled, n_tiled, false);
  if (n_split != 0) linear_tiled(x, n, k, split, n_split, true);
  if (n_rest != 0) linear_panels(x, n, k, rest, n_rest);
}

// Products of bf16. split: of the input by two parts, see Bf16Product.
void CpuBackend::linear_tiled(const float *x, uint32_t n, uint32_t k, const LinearJob *jobs,
                              uint32_t n_jobs, bool split) {
  const auto pack = split ? kernels_.bf16.pack_left_split : kernels_.bf16.pack_left;
  const EqualItems items(jobs, n_jobs,
                         [&](const Matrix &w) { return tiled_item_rows(w, pool_->size()); });
  uint16_t *packed = align64(packed_.data());
  for (uint32_t t = 0; t < n; t += kTiledTokens) {
    const uint32_t count = n - t < kTiledTokens ? n - t : kTiledTokens;
    pool_->run((count + kTiledStep - 1) / kTiledStep, [&](uint32_t item, int) {
      const uint32_t first = item * kTiledStep;
      const uint32_t some = count - first < kTiledStep ? count - first : kTiledStep;
      pack(x + uint64_t{t + first} * k, k, some, k,
           packed + (split ? 2 : 1) * bf16_values(first, k));
    });
    pool_->run(items.first[n_jobs], [&](uint32_t item, int thread) {
      const uint32_t j = items.job_of(item);
      const uint32_t row = (item - items.first[j]) * items.rows[j], left = jobs[j].w->rows - row;
      tiled_product(jobs[j], t, count, k, split, row, left < items.rows[j] ? left : items.rows[j],
                    thread);
    });
  }
}

// The packed tokens, the first of which is token `first` of the job, times some rows.
void CpuBackend::tiled_product(const LinearJob &job, uint32_t first, uint32_t n, uint32_t k,
                               bool split, uint32_t row, uint32_t rows, int thread) {
  const uint64_t parts = split ? 2 : 1;
  const Matrix &w = *job.w;
  const TypeTraits &type = type_traits(w.type);
  uint16_t *right = align64(reinterpret_cast<uint16_t *>(thread_scratch(thread)));
  const uint16_t *left = align64(packed_.data());
  for (uint32_t i = 0; i < k; i += kTiledDepth) {
    const uint32_t depth = k - i < kTiledDepth ? k - i : kTiledDepth;
    kernels_.bf16.pack_right_transposed(
        type, {w.data + row * w.row_bytes, w.woven, w.row_bytes, rows}, i, depth, right);
    for (uint32_t t = 0; t < n; t += kTiledBlock) {
      const uint32_t count = n - t < kTiledBlock ? n - t : kTiledBlock;
      // Whole tiles of all k of 16 tokens lie side by side.
      const uint16_t *tokens = left + parts * (bf16_values(t, k) + uint64_t{i} * 16);
      kernels_.bf16.gemm({tokens, parts * bf16_values(16, k), right, count, rows, depth, i != 0,
                          split ? Split::Left : Split::None},
                         job.y + uint64_t{first + t} * job.y_stride + row, job.y_stride);
    }
  }
}

// Integers and floats.
void CpuBackend::linear_panels(const float *x, uint32_t n, uint32_t k, const LinearJob *jobs,
                               uint32_t n_jobs) {
  bool integer = false;
  const EqualItems items(jobs, n_jobs, [&](const Matrix &w) {
    return is_float(w) ? float_item_rows(w, pool_->size()) : kernels_.panel_rows;
  });
  for (uint32_t j = 0; j < n_jobs; j++) integer = integer || !is_float(*jobs[j].w);
  if (integer) quantize(x, n, k, true);
  pool_->run(items.first[n_jobs], [&](uint32_t item, int thread) {
    const uint32_t j = items.job_of(item);
    const uint32_t panel = item - items.first[j];
    if (is_float(*jobs[j].w)) {
      float_product(jobs[j], x, n, k, panel, items.rows[j], thread);
    } else {
      panel_product(jobs[j], n, k, panel, thread);
    }
  });
}

// All tokens times one integer panel.
void CpuBackend::panel_product(const LinearJob &job, uint32_t n, uint32_t k, uint32_t panel,
                               int thread) {
  const Matrix &w = *job.w;
  const TypeTraits &traits = type_traits(w.type);
  const PanelShape shape = {k, traits.group, traits.has_min};
  const uint32_t row = panel * kernels_.panel_rows;
  const uint32_t rows = w.rows - row < kernels_.panel_rows ? w.rows - row : kernels_.panel_rows;
  uint8_t *unpacked = align64(reinterpret_cast<uint8_t *>(thread_scratch(thread)));
  uint8_t *scratch = unpacked + ((kernels_.panel_bytes(shape) + 63) & ~size_t{63});
  kernels_.pack_panel(traits, {w.data + row * w.row_bytes, w.woven, w.row_bytes, rows}, k, unpacked,
                      scratch);
  const size_t tile_bytes = kernels_.tile_bytes(k);
  for (uint32_t t = 0, tile = 0; t < n; t += kernels_.tile_tokens, tile++) {
    const uint32_t count = n - t < kernels_.tile_tokens ? n - t : kernels_.tile_tokens;
    kernels_.gemm_q8(shape, unpacked, tiles_.data() + tile * tile_bytes, rows, count,
                     job.y + t * job.y_stride + row, job.y_stride);
  }
}

// One panel of 32 rows, columns k0 to k0 + depth, transposed: columns[i][r], missing rows as they
// are.
void CpuBackend::transpose_panel(const Matrix &w, uint32_t row, uint32_t rows, uint32_t k0,
                                 uint32_t depth, float *line, float *columns) {
  const TypeTraits &traits = type_traits(w.type);
  for (uint32_t r = 0; r < rows; r++) {
    const uint8_t *from = w.data + (row + r) * w.row_bytes + uint64_t{k0} * traits.block_bytes;
    if (w.type == DType::F16) {
      kernels_.f16_to_f32(reinterpret_cast<const uint16_t *>(from), depth, line);
    } else {
      traits.decode(from, line, depth);
    }
    for (uint32_t i = 0; i < depth; i++) columns[i * kTileCols + r] = line[i];
  }
}

// All tokens times up to kFloatPanels panels of a float matrix, in slices of k that stay in the
// cache.
void CpuBackend::float_product(const LinearJob &job, const float *x, uint32_t n, uint32_t k,
                               uint32_t item, uint32_t item_rows, int thread) {
  constexpr uint32_t kPanelFloats = kTileCols * kFloatPanelDepth;
  const Matrix &w = *job.w;
  const uint32_t row = item * item_rows;
  const uint32_t rows = w.rows - row < item_rows ? w.rows - row : item_rows;
  float *line = thread_scratch(thread);                   // [depth]
  float *columns = line + kFloatPanelDepth;               // [panels][depth, 32]
  float *narrow = columns + kFloatPanels * kPanelFloats;  // [tokens, 32]
  if (rows % kTileCols != 0) {
    std::memset(columns + rows / kTileCols * kPanelFloats, 0, sizeof(float) * kPanelFloats);
  }
  for (uint32_t k0 = 0; k0 < k; k0 += kFloatPanelDepth) {
    const uint32_t depth = k - k0 < kFloatPanelDepth ? k - k0 : kFloatPanelDepth;
    for (uint32_t r = 0; r < rows; r += kTileCols) {
      const uint32_t count = rows - r < kTileCols ? rows - r : kTileCols;
      transpose_panel(w, row + r, count, k0, depth, line, columns + r * kFloatPanelDepth);
    }
    const float alpha = k0 == 0 ? 0.0f : 1.0f;
    for (uint32_t t = 0; t < n; t += kFloatTokens) {
      const uint32_t tokens = n - t < kFloatTokens ? n - t : kFloatTokens;
      const float *part = x + static_cast<uint64_t>(t) * k + k0;
      float *y = job.y + t * job.y_stride + row;
      uint32_t r = 0;
      for (; r + kTileCols <= rows; r += kTileCols) {
        kernels_.gemm_f32(part, k, 1, tokens, columns + r * kFloatPanelDepth, kTileCols, depth,
                          alpha, y + r, job.y_stride);
      }
      if (r == rows) continue;
      kernels_.gemm_f32(part, k, 1, tokens, columns + r * kFloatPanelDepth, kTileCols, depth, 0.0f,
                        narrow, kTileCols);
      for (uint32_t i = 0; i < tokens; i++) {
        for (uint32_t c = 0; c < rows - r; c++) {
          float *at = y + i * job.y_stride + r + c;
          *at = narrow[i * kTileCols + c] + (k0 == 0 ? 0.0f : *at);
        }
      }
    }
  }
}

}  // namespace q35
