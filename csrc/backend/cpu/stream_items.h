// How the matrices of a few tokens' product are handed to the threads.
#pragma once

#include <cstdint>

#include "backend/backend.h"

namespace q35 {

// Rows of one item start at multiples of this, so that the grouping of rows inside a kernel, and
// with it every rounding, does not depend on the number of threads.
constexpr uint32_t kRowQuantum = kWovenRows;
// Least bytes of weights in an item: some microseconds of streaming, long against taking an item.
constexpr uint64_t kItemBytes = 128 << 10;

// The rows of several matrices as items for the pool, large ones first: memory is read ahead within
// an item but not across its end, and yet the threads should end together. Every item is half a
// thread's share of what is left.
struct StreamItems {
  struct Item {
    uint32_t job, row, rows;
  };
  static constexpr uint32_t kMax = 512;
  Item items[kMax];
  uint32_t count = 0;

  // quantum[j]: items of job j start at multiples of it
  StreamItems(const LinearJob *jobs, uint32_t n_jobs, const uint32_t *quantum, int threads) {
    uint64_t left = 0;
    for (uint32_t j = 0; j < n_jobs; j++) left += jobs[j].w->rows * jobs[j].w->row_bytes;
    for (uint32_t j = 0; j < n_jobs; j++) {
      const Matrix &w = *jobs[j].w;
      for (uint32_t row = 0; row < w.rows;) {
        const uint64_t share = left / (2 * static_cast<uint64_t>(threads));
        uint64_t rows = (share > kItemBytes ? share : kItemBytes) / w.row_bytes;
        rows = rows < quantum[j] ? quantum[j] : rows / quantum[j] * quantum[j];
        // With very many threads the table may end before the rows do.
        if (rows > w.rows - row || count + (n_jobs - j) >= kMax) rows = w.rows - row;
        items[count++] = {j, row, static_cast<uint32_t>(rows)};
        row += static_cast<uint32_t>(rows);
        left -= rows * w.row_bytes;
      }
    }
  }
};

}  // namespace q35
