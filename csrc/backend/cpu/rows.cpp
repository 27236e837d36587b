// Row-wise operations of the CPU backend, and its memory.
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/scratch.h"

namespace q35 {

namespace {

// Tokens whose input linear() quantises at once: with products of bf16 only a few.
uint32_t integer_tokens(const Kernels &kernels, uint32_t tokens) {
  return kernels.bf16.gemm != nullptr && tokens > kGemvMaxCols ? kGemvMaxCols : tokens;
}

}  // namespace

// Values of the packed input of linear(), with room to align it.
uint64_t CpuBackend::packed_values(uint32_t tokens, uint32_t k, bool split) const {
  if (kernels_.bf16.gemm == nullptr) return 0;
  return (split ? 2 : 1) * bf16_values(tokens < kTiledTokens ? tokens : kTiledTokens, k) + 32;
}

uint64_t CpuBackend::activation_bytes(uint32_t tokens, uint32_t k) const {
  const uint32_t n = integer_tokens(kernels_, tokens);
  const uint64_t values = static_cast<uint64_t>(n) * k;
  const uint64_t tiles = (n + kernels_.tile_tokens - 1) / kernels_.tile_tokens;
  return values + sizeof(float) * (values / kActGroup + values / 16) +
         tiles * kernels_.tile_bytes(k);
}

// Room for the quantised or packed input of linear(): `tokens` rows of k values. Called for several
// shapes, each array keeps the largest.
Status CpuBackend::reserve_activations(uint32_t tokens, uint32_t k, bool split) {
  const uint32_t n = integer_tokens(kernels_, tokens);
  const uint64_t tiles = (n + kernels_.tile_tokens - 1) / kernels_.tile_tokens;
  const auto grow = [](auto *array, uint64_t size) {
    return size > array->size() ? array->resize(size) : kOk;
  };
  Q35_TRY(grow(&act_q_, static_cast<uint64_t>(n) * k));
  Q35_TRY(grow(&act_d_, static_cast<uint64_t>(n) * (k / kActGroup)));
  Q35_TRY(grow(&act_s_, static_cast<uint64_t>(n) * (k / 16)));
  Q35_TRY(grow(&tiles_, tiles * kernels_.tile_bytes(k)));
  return grow(&packed_, packed_values(tokens, k, split));
}

Status CpuBackend::reserve(const Config &config, uint32_t max_tokens) {
  const uint32_t k = max_linear_input(config);
  Q35_TRY(reserve_activations(max_tokens, k, false));
  scratch_floats_ = thread_scratch_floats(config, kernels_, k);
  Q35_TRY(scratch_.resize(scratch_floats_ * pool_->size()));
  return partial_.resize(attention_partial_floats(config));
}

uint64_t CpuBackend::scratch_bytes() const {
  return act_q_.size() + tiles_.size() + 2 * packed_.size() + screen_.bytes() +
         4 * (act_d_.size() + act_s_.size() + scratch_.size() + partial_.size());
}

void CpuBackend::embed(const Matrix &w, const int32_t *tokens, uint32_t n, float *x) {
  const TypeTraits &traits = type_traits(w.type);
  over_tokens(n, [&](uint32_t first, uint32_t count, int thread) {
    uint8_t *row = reinterpret_cast<uint8_t *>(thread_scratch(thread));
    for (uint32_t t = first; t < first + count; t++) {
      copy_row(w, static_cast<uint32_t>(tokens[t]), row);
      traits.decode(row, x + static_cast<uint64_t>(t) * w.cols, w.cols);
    }
  });
}

void CpuBackend::add_norm(float *x, const float *delta, const float *w, uint32_t n, uint32_t dim,
                          float eps, float *y) {
  over_tokens(n, [&](uint32_t first, uint32_t count, int) {
    for (uint64_t t = first; t < first + count; t++) {
      if (delta != nullptr) kernels_.add(x + t * dim, delta + t * dim, dim);
      kernels_.rms_norm(x + t * dim, w, dim, eps, y + t * dim);
    }
  });
}

void CpuBackend::silu_mul(float *gate, const float *up, uint32_t n, uint32_t dim) {
  over_tokens(n, [&](uint32_t first, uint32_t count, int) {
    const uint64_t at = static_cast<uint64_t>(first) * dim;
    for (uint32_t t = 0; t < count; t++) {
      const uint64_t row = at + static_cast<uint64_t>(t) * dim;
      kernels_.silu_mul(gate + row, up + row, dim, gate + row);
    }
  });
}

void CpuBackend::quantize(const float *x, uint32_t n, uint32_t k, bool tiles) {
  const auto quantize_rows = [&](uint32_t first, uint32_t count) {
    for (uint64_t t = first; t < first + count; t++) {
      kernels_.quantize_q8(x + t * k, k, act_q_.data() + t * k, act_d_.data() + t * (k / kActGroup),
                           act_s_.data() + t * (k / 16));
    }
  };
  if (!tiles) {
    quantize_rows(0, n);
    return;
  }
  const uint32_t width = kernels_.tile_tokens;
  const size_t bytes = kernels_.tile_bytes(k);
  pool_->run((n + width - 1) / width, [&](uint32_t item, int) {
    const uint64_t first = static_cast<uint64_t>(item) * width;
    const uint32_t count = n - first < width ? static_cast<uint32_t>(n - first) : width;
    quantize_rows(static_cast<uint32_t>(first), count);
    const ActQ8 act = {act_q_.data() + first * k, act_d_.data() + first * (k / kActGroup),
                       act_s_.data() + first * (k / 16)};
    kernels_.pack_tile(act, count, k, tiles_.data() + item * bytes);
  });
}

}  // namespace q35
