// The largest products of a matrix of very many rows, the output head, without reading all of it.
// A first look at every row, from the high bits of its weights, gives what its product should be
// and the standard deviation of what the low bits add. Rows that can still matter are then read
// whole, in the groups that they are woven in, so that their products have the bits of linear().
#include "backend/cpu/screen.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/stream_items.h"
#include "quant/blocks.h"
#include "quant/unpack.h"

namespace q35 {

namespace {

// A row is left out when its product would have to be this many standard deviations off. One in
// 5 * 10^7 is, if the low bits are as independent as they are taken for.
constexpr float kSure = 5.5f;
// Whether they are shows in the rows that were read whole, most of which are mere neighbours of one
// that was chosen: with one that is this far off, all of the matrix is read after all.
constexpr float kSuspect = 5.0f;
// A look that leaves more than one of so many groups was in vain.
constexpr uint32_t kVainShare = 4;
// Time of a look, and of a group read by itself, in units of reading all and of its share of that
// (Q6_K, 2 threads: 0.59).
constexpr float kLook = 0.6f, kApart = 1.3f;
// Losses after which the next calls go without, for longer each time, and the most that gains can
// make up for.
constexpr float kLeastCredit = -1.0f, kMostCredit = 2.0f;
constexpr uint32_t kLongestPause = 256;
// Groups of an item of the pool.
constexpr uint32_t kItemGroups = 8;

// What is not a number is never the largest.
float or_least(float x) {
  return x == x ? x : -INFINITY;
}

}  // namespace

Status Screen::reserve(const Matrix &w) {
  fit(w);
  constexpr uint64_t kHigh = sizeof(BlockQ6_K) - offsetof(BlockQ6_K, qh);
  group_bytes_ = static_cast<int64_t>(kWovenRows * w.row_bytes);
  look_bytes_ = static_cast<int64_t>(kWovenRows * (w.row_bytes / sizeof(BlockQ6_K)) * kHigh);
  const uint64_t groups = w.rows / kWovenRows;
  Q35_TRY(start_.resize(uint64_t{kMostCols} * (w.cols / 16)));
  Q35_TRY(energy_.resize(uint64_t{kMostCols} * (w.cols / 16)));
  Q35_TRY(best_.resize(kMostCols * groups));
  Q35_TRY(bound_.resize(kMostCols * groups));
  Q35_TRY(ranked_.resize(std::max<uint64_t>(groups, kMostRows * kMostCols * kWovenRows)));
  Q35_TRY(off_.resize(groups));
  Q35_TRY(chosen_.resize(groups));
  return list_.reserve(groups);
}

// What the high bits of Q6_K say of its weights, by least squares over some rows: large weights are
// rarer than small ones, so the low bits are not quite uniform.
void Screen::fit(const Matrix &w) {
  constexpr uint32_t kSampled = 256;  // rows
  bits_ = {8.0f, 255.0f / 12.0f};     // with uniform low bits
  double n = 0, xx = 0, xy = 0, yy = 0;
  Array<uint8_t> row;
  if (row.resize(w.row_bytes) != kOk) return;
  for (uint32_t i = 0; i < kSampled; i++) {
    copy_row(w, static_cast<uint32_t>(uint64_t{w.rows} * i / kSampled), row.data());
    for (uint64_t at = 0; at < w.row_bytes; at += sizeof(BlockQ6_K)) {
      BlockQ6_K block;
      std::memcpy(&block, row.data() + at, sizeof block);
      int8_t q[256];
      float scale[16], min[16];
      unpack_block(block, q, scale, min);
      for (uint32_t j = 0; j < 256; j++) {
        const double weight =
            static_cast<double>(scale[j / 16]) * static_cast<double>(scale[j / 16]);
        const double x = 2 * ((q[j] + 32) >> 4) - 3, y = q[j];
        n += weight;
        xx += weight * x * x;
        xy += weight * x * y;
        yy += weight * y * y;
      }
    }
  }
  const double step = xy / xx, variance = (yy - step * xy) / n;
  if (!(n > 0 && step > 4 && step < 12 && variance >= 0)) return;  // also what is not a number
  bits_ = {static_cast<float>(step), static_cast<float>(std::max(variance, 1.0))};
}

uint64_t Screen::bytes() const {
  return sizeof(float) * (start_.size() + energy_.size() + 2 * best_.size() + ranked_.size() +
                          2 * off_.size()) +
         chosen_.size();
}

float Screen::sure() {
  return kSure;
}

bool Screen::worth_it() {
  if (pause_ == 0) return true;
  pause_--;
  return false;
}

void Screen::begin(uint32_t n_groups, uint32_t n_cols, uint32_t k, const ActQ8 &act) {
  n_groups_ = n_groups;
  list_.clear();
  std::memset(chosen_.data(), 0, n_groups);
  std::fill(off_.begin(), off_.begin() + n_groups, 0.0f);
  for (uint32_t i = 0; i < n_cols * (k / 16); i++) {
    int32_t sum = 0, squares = 0;
    for (uint32_t j = 0; j < 16; j++) {
      const int32_t q = act.q[i * 16 + j];
      sum += q;
      squares += q * q;
    }
    const float d = act.d[i / 2];
    start_[i] = -3 * sum;
    energy_[i] = d * d * static_cast<float>(squares);
  }
}

// The n-th largest of the first values of ranked_, which are no NaN: -inf when there are fewer.
float Screen::nth_of_ranked(uint32_t count, uint32_t n) {
  if (count < n) return -INFINITY;
  float *first = ranked_.data();
  std::nth_element(first, first + (n - 1), first + count, std::greater<float>());
  return first[n - 1];
}

float Screen::nth_largest(const float *y, uint32_t listed, uint32_t n) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < listed && count + kWovenRows <= ranked_.size(); i++) {
    const float *rows = y + list_[i] * kWovenRows;
    std::transform(rows, rows + kWovenRows, ranked_.data() + count, or_least);
    count += kWovenRows;
  }
  return nth_of_ranked(count, n);
}

void Screen::choose_best(uint32_t column, uint32_t n) {
  const float *best = best_.data() + uint64_t{column} * n_groups_;
  std::transform(best, best + n_groups_, ranked_.data(), or_least);
  const float lowest = nth_of_ranked(n_groups_, n);
  for (uint32_t g = 0; g < n_groups_; g++) {
    if (chosen_[g] != 0 || !(best[g] >= lowest)) continue;
    chosen_[g] = 1;
    (void)list_.push_back(g);  // there is room for all
  }
}

// What is not a number may be anything.
void Screen::choose_possible(uint32_t column, float lowest) {
  const float *bound = bound_.data() + uint64_t{column} * n_groups_;
  for (uint32_t g = 0; g < n_groups_; g++) {
    if (chosen_[g] != 0 || bound[g] < lowest) continue;
    chosen_[g] = 1;
    (void)list_.push_back(g);
  }
}

void Screen::compare(uint32_t i, const float *expected, const float *deviation, const float *real) {
  for (uint32_t r = 0; r < kWovenRows; r++) {
    // A row without any has none to compare with.
    if (deviation[r] <= 0.0f) continue;
    off_[i] = std::max(off_[i], std::fabs(real[r] - expected[r]) / deviation[r]);
  }
}

bool Screen::suspect() {
  const bool is = std::any_of(off_.begin(), off_.begin() + list_.size(),
                              [](float off) { return off > kSuspect; });
  stats.repairs += is ? 1 : 0;
  return is;
}

bool Screen::in_vain() {
  const bool vain = list_.size() > n_groups_ / kVainShare;
  stats.vain += vain ? 1 : 0;
  return vain;
}

void Screen::count(bool whole) {
  const int64_t groups = n_groups_, read = static_cast<int64_t>(list_.size());
  stats.looks++;
  stats.groups += n_groups_;
  stats.read += list_.size();
  // Groups are read whole behind the look, so what that took is spared for the others only.
  stats.bytes_saved -= groups * look_bytes_;
  if (!whole) stats.bytes_saved += (groups - read) * group_bytes_ + read * look_bytes_;
  const float share = static_cast<float>(read) / static_cast<float>(groups);
  credit_ = std::min(credit_ + (whole ? -kLook : 1.0f - kLook - kApart * share), kMostCredit);
  if (credit_ >= kMostCredit) next_pause_ = 1;
  if (credit_ > kLeastCredit) return;
  credit_ = 0.0f;
  pause_ = next_pause_;
  next_pause_ = std::min(2 * next_pause_, kLongestPause);
}

bool CpuBackend::can_screen(const Matrix &w) const {
  return w.woven && w.cols % 256 == 0 && kernels_.screen[static_cast<uint32_t>(w.type)] != nullptr;
}

Status CpuBackend::reserve_screen(const Matrix &w) {
  return can_screen(w) ? screen_.reserve(w) : kOk;
}

void CpuBackend::linear_top(const float *x, uint32_t n, uint32_t k, const LinearJob &job,
                            const TopRows &top) {
  const Matrix &w = *job.w;
  const uint32_t groups = (top.end < w.rows ? top.end : w.rows) / kWovenRows;
  const bool few = n <= Screen::kMostCols && !prompt_;
  const bool wanted = top.n != 0 && top.n <= Screen::kMostRows && top.n <= groups;
  if (!few || !wanted || !can_screen(w) || !screen_.worth_it()) return linear(x, n, k, &job, 1);
  quantize(x, n, k, false);
  screen_.begin(groups, n, k, {act_q_.data(), act_d_.data(), act_s_.data()});
  look(job, n, k, groups);
  for (uint32_t c = 0; c < n; c++) screen_.choose_best(c, top.n);
  const uint32_t first = static_cast<uint32_t>(screen_.list().size());
  read_groups(job, x, n, k, 0);
  for (uint32_t c = 0; c < n; c++) {
    screen_.choose_possible(c, screen_.nth_largest(job.y + c * job.y_stride, first, top.n));
  }
  bool whole = screen_.in_vain();
  if (!whole) {
    read_groups(job, x, n, k, first);
    whole = screen_.suspect();
  }
  screen_.count(whole);
  if (whole) return linear(x, n, k, &job, 1);
  // The last rows: not woven, or of no interest to whoever asks, but few.
  if (groups * kWovenRows < w.rows) {
    gemv_rows(job, x, n, k, groups * kWovenRows, w.rows - groups * kWovenRows);
  }
}

// Expected products of the first groups.
void CpuBackend::look(const LinearJob &job, uint32_t n, uint32_t k, uint32_t groups) {
  Matrix w = *job.w;
  w.rows = groups * kWovenRows;
  const LinearJob looked = linear_job(w, job.y);
  const StreamItems items(&looked, 1, &kRowQuantum, pool_->size());
  pool_->run(items.count, [&](uint32_t index, int) {
    const StreamItems::Item &item = items.items[index];
    const uint32_t group = item.row / kWovenRows;
    ScreenArgs args = screen_args(w, item.row, item.rows, n, k);
    args.y = job.y + item.row;
    args.y_stride = job.y_stride;
    args.best = screen_.best() + group;
    args.bound = screen_.bound() + group;
    args.group_stride = groups;
    kernels_.screen[static_cast<uint32_t>(w.type)](args);
  });
}

// All but where results go.
ScreenArgs CpuBackend::screen_args(const Matrix &w, uint32_t row, uint32_t rows, uint32_t n,
                                   uint32_t k) {
  ScreenArgs args = {};
  args.w = w.data + row * w.row_bytes;
  args.row_bytes = w.row_bytes;
  args.rows = rows;
  args.k = k;
  args.n_cols = n;
  args.bits = screen_.bits();
  args.act = {act_q_.data(), act_d_.data(), act_s_.data()};
  args.start = screen_.start();
  args.energy = screen_.energy();
  args.sure = Screen::sure();
  return args;
}

// Products of the groups listed from `first` on.
void CpuBackend::read_groups(const LinearJob &job, const float *x, uint32_t n, uint32_t k,
                             uint32_t first) {
  const uint32_t count = static_cast<uint32_t>(screen_.list().size()) - first;
  pool_->run((count + kItemGroups - 1) / kItemGroups, [&](uint32_t item, int) {
    const uint32_t begin = first + item * kItemGroups;
    const uint32_t end = std::min(first + count, begin + kItemGroups);
    for (uint32_t i = begin; i < end; i++) {
      const uint32_t row = screen_.list()[i] * kWovenRows;
      float expected[Screen::kMostCols][kWovenRows], deviation[Screen::kMostCols][kWovenRows];
      float best[Screen::kMostCols], bound[Screen::kMostCols];
      ScreenArgs args = screen_args(*job.w, row, kWovenRows, n, k);
      args.y = expected[0];
      args.y_stride = kWovenRows;
      args.deviation = deviation[0];
      args.best = best;
      args.bound = bound;
      args.group_stride = 1;
      kernels_.screen[static_cast<uint32_t>(job.w->type)](args);
      gemv_rows(job, x, n, k, row, kWovenRows);
      for (uint32_t c = 0; c < n; c++) {
        screen_.compare(i, expected[c], deviation[c], job.y + c * job.y_stride + row);
      }
    }
  });
}

}  // namespace q35
