// Vision tower, e = n_embd, n patches in blocks of 2 x 2 (the order of the merger):
//
//   pixels ── patch embedding + learned positions ── x [n, e]
//   x ── layer norm ── q|k|v ── rotate q, k by row and column ── attention ── out ── + x
//   x ── layer norm ── up ── gelu (tanh) ── down ── + x                       (n_layer times)
//   x ── layer norm ── [n / 4, 4 e] ── merge_in ── gelu (exact) ── merge_out ── rows [n / 4, n_out]
//
// The exact gelu of the merger is what the reference computes; llama.cpp has the approximation
// there.
#include "model/vision_forward.h"

#include <cmath>
#include <cstring>

namespace q35 {

namespace {

constexpr double kRopeBase = 10000.0;

uint64_t wide_floats(const VisionConfig &c, uint64_t n) {
  const uint64_t narrowest = c.n_ff > 2 * c.frame_values() ? c.n_ff : 2 * c.frame_values();
  const uint64_t floats = n * 3 * c.n_embd;
  return floats > narrowest ? floats : narrowest;  // at least one row of everything
}

// Where a picture of `count` patches along one axis reads the table of `grid` positions: linear
// between two of them, with the corners aligned.
struct Tap {
  uint32_t low, high;
  float weight;  // of high
};

Tap tap_of(uint32_t i, uint32_t count, uint32_t grid) {
  const float at = count > 1 ? static_cast<float>(i) * static_cast<float>(grid - 1) /
                                   static_cast<float>(count - 1)
                             : 0.0f;
  const uint32_t low = static_cast<uint32_t>(at);
  return {low, low + 1 < grid ? low + 1 : grid - 1, at - static_cast<float>(low)};
}

// Floats stay floats; of 16 bits and fewer so much is lost anyway.
bool rounds(const Matrix &w) {
  return w.type != DType::F32;
}

LinearJob tower_job(const Matrix &w, float *y) {
  LinearJob job = linear_job(w, y);
  job.rounded = rounds(w);
  return job;
}

}  // namespace

uint64_t VisionForward::scratch_floats(const VisionConfig &c, uint32_t n_patches) {
  const uint64_t n = n_patches;
  return n * (3ull * c.n_embd + c.head_dim()) + wide_floats(c, n);
}

Status VisionForward::reserve(const VisionConfig &c) {
  const uint64_t n = n_, e = c.n_embd;
  Q35_TRY(x_.resize(n * e));
  Q35_TRY(normed_.resize(n * e));
  Q35_TRY(added_.resize(n * e));
  Q35_TRY(wide_.resize(wide_floats(c, n)));
  Q35_TRY(cos_.resize(n * (c.head_dim() / 2)));
  return sin_.resize(n * (c.head_dim() / 2));
}

Status VisionForward::begin(const VisionModel &model, Backend *backend, const Picture &picture) {
  const VisionConfig &c = model.config;
  rows_ = picture.height / c.patch;
  cols_ = picture.width / c.patch;
  n_ = rows_ * cols_;
  Q35_TRY(reserve(c));
  place_positions(model);
  fill_angles(c);
  const Matrix &kernel = picture.second == nullptr ? model.patch_still : model.patch_pair;
  // As many rows of blocks at once as fit the scratch.
  const uint64_t line = static_cast<uint64_t>(cols_) * c.merge * kernel.cols;
  uint32_t step = static_cast<uint32_t>(wide_.size() / line) * c.merge;
  Array<float> line_of_patches;  // of pictures so narrow that the scratch does not hold one
  float *patches = wide_.data();
  if (step == 0) {
    Q35_TRY(line_of_patches.resize(line));
    patches = line_of_patches.data();
    step = c.merge;
  }
  const uint64_t frame_line = 3ull * picture.width * c.patch;
  for (uint32_t row = 0; row < rows_; row += step) {
    const uint32_t count = rows_ - row < step ? rows_ - row : step;
    const uint8_t *second = picture.second == nullptr ? nullptr : picture.second + row * frame_line;
    backend->patches({picture.first + row * frame_line, second, count, cols_, c.patch, c.merge,
                      c.mean, c.std, patches});
    const uint64_t first = static_cast<uint64_t>(row) * cols_;
    const LinearJob embed = tower_job(kernel, added_.data() + first * c.n_embd);
    backend->linear(patches, count * cols_, kernel.cols, &embed, 1);
  }
  pending_bias_ = model.patch_bias;
  return kOk;
}

void VisionForward::place_positions(const VisionModel &model) {
  const VisionConfig &c = model.config;
  const uint64_t e = c.n_embd;
  for (uint32_t i = 0; i < n_; i++) {
    uint32_t row = 0, col = 0;
    patch_place(i, cols_, c.merge, &row, &col);
    const Tap y = tap_of(row, rows_, c.grid), x = tap_of(col, cols_, c.grid);
    const float *corner[4] = {model.positions + (y.low * c.grid + x.low) * e,
                              model.positions + (y.low * c.grid + x.high) * e,
                              model.positions + (y.high * c.grid + x.low) * e,
                              model.positions + (y.high * c.grid + x.high) * e};
    const float weight[4] = {(1 - y.weight) * (1 - x.weight), (1 - y.weight) * x.weight,
                             y.weight * (1 - x.weight), y.weight * x.weight};
    float *out = x_.data() + i * e;
    for (uint64_t j = 0; j < e; j++) {
      out[j] = weight[0] * corner[0][j] + weight[1] * corner[1][j] + weight[2] * corner[2][j] +
               weight[3] * corner[3][j];
    }
  }
}

// Half of a head's pairs turn with the patch's row, half with its column.
void VisionForward::fill_angles(const VisionConfig &c) {
  const uint32_t half = c.head_dim() / 2, quarter = half / 2;
  double frequency[kMaxVisionHeadDim / 4];
  for (uint32_t j = 0; j < quarter; j++) frequency[j] = std::pow(kRopeBase, -2.0 * j / half);
  for (uint32_t i = 0; i < n_; i++) {
    uint32_t row = 0, col = 0;
    patch_place(i, cols_, c.merge, &row, &col);
    for (uint32_t j = 0; j < half; j++) {
      const double angle = (j < quarter ? row : col) * frequency[j % quarter];
      cos_[i * uint64_t{half} + j] = static_cast<float>(std::cos(angle));
      sin_[i * uint64_t{half} + j] = static_cast<float>(std::sin(angle));
    }
  }
}

void VisionForward::layer(const VisionModel &model, Backend *backend, uint32_t index) {
  const VisionConfig &c = model.config;
  const VisionLayer &w = model.layers[index];
  const uint32_t e = c.n_embd;
  backend->add_layer_norm(x_.data(), added_.data(), pending_bias_, w.norm1.weight, w.norm1.bias, n_,
                          e, c.eps, normed_.data());
  const LinearJob qkv = tower_job(w.qkv.w, wide_.data());
  backend->linear(normed_.data(), n_, e, &qkv, 1);
  backend->patch_attention({n_, c.n_head, c.head_dim(), wide_.data(), w.qkv.bias, cos_.data(),
                            sin_.data(), normed_.data(), rounds(w.qkv.w)});
  const LinearJob out = tower_job(w.out.w, added_.data());
  backend->linear(normed_.data(), n_, e, &out, 1);
  backend->add_layer_norm(x_.data(), added_.data(), w.out.bias, w.norm2.weight, w.norm2.bias, n_, e,
                          c.eps, normed_.data());
  const uint32_t step = static_cast<uint32_t>(wide_.size() / c.n_ff);
  for (uint32_t first = 0; first < n_; first += step) {
    const uint32_t count = n_ - first < step ? n_ - first : step;
    const uint64_t at = static_cast<uint64_t>(first) * e;
    const LinearJob up = tower_job(w.up.w, wide_.data());
    backend->linear(normed_.data() + at, count, e, &up, 1);
    backend->bias_gelu(wide_.data(), w.up.bias, count, c.n_ff, false);
    const LinearJob down = tower_job(w.down.w, added_.data() + at);
    backend->linear(wide_.data(), count, c.n_ff, &down, 1);
  }
  pending_bias_ = w.down.bias;
}

void VisionForward::finish(const VisionModel &model, Backend *backend, float *rows) {
  const VisionConfig &c = model.config;
  const uint32_t merged = n_ / (c.merge * c.merge);
  backend->add_layer_norm(x_.data(), added_.data(), pending_bias_, model.merge_norm.weight,
                          model.merge_norm.bias, n_, c.n_embd, c.eps, normed_.data());
  const LinearJob in = tower_job(model.merge_in.w, wide_.data());
  backend->linear(normed_.data(), merged, c.merged_dim(), &in, 1);
  backend->bias_gelu(wide_.data(), model.merge_in.bias, merged, c.merged_dim(), true);
  const LinearJob out = tower_job(model.merge_out.w, rows);
  backend->linear(wide_.data(), merged, c.merged_dim(), &out, 1);
  backend->add_bias(rows, model.merge_out.bias, merged, c.n_out);
}

}  // namespace q35
