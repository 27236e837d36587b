// The CPU backend: kernels of one tier on a thread pool. An instance owns scratch memory, so one
// caller uses it at a time; pool and kernel table are shared. rows.cpp: embedding, norms;
// linear.cpp: matrix products; attention.cpp; delta_net.cpp; vision.cpp: the vision tower's own.
#pragma once

#include "backend/backend.h"
#include "backend/cpu/screen.h"
#include "base/array.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace q35 {

struct Config;
struct VisionConfig;
struct FewScratch;
struct Tile;
struct FewSteps;
struct Block;
struct TiledBlock;
struct TiledScratch;

class CpuBackend final : public Backend {
 public:
  CpuBackend(const Kernels &kernels, ThreadPool *pool) : kernels_(kernels), pool_(pool) {}

  // Sizes the scratch for batches of up to max_tokens of this model.
  [[nodiscard]] Status reserve(const Config &config, uint32_t max_tokens);
  // The same for pictures of up to max_patches. quantized: some of the matrices are.
  [[nodiscard]] Status reserve_vision(const VisionConfig &config, uint32_t max_patches,
                                      bool quantized);
  // Bytes that reserve_vision() takes.
  uint64_t vision_bytes(const VisionConfig &config, uint32_t max_patches, bool quantized) const;
  // Room for linear_top() of this matrix.
  [[nodiscard]] Status reserve_screen(const Matrix &w);
  uint64_t scratch_bytes() const;
  const Screen &screen() const { return screen_; }

  // Whether products of up to kGemvMaxCols tokens have to be those of each token alone, bit by bit,
  // even where the tier is slower then.
  void keep_apart(bool apart) { apart_ = apart; }
  // Whether few tokens go the way of many, where the tier rounds those in another way: pieces of a
  // prompt then give the same bits whatever their lengths are.
  void read_prompt(bool on) { prompt_ = on && kernels_.bf16.gemm != nullptr; }

  void embed(const Matrix &w, const int32_t *tokens, uint32_t n, float *x) override;
  void add_norm(float *x, const float *delta, const float *w, uint32_t n, uint32_t dim, float eps,
                float *y) override;
  void linear(const float *x, uint32_t n, uint32_t k, const LinearJob *jobs,
              uint32_t n_jobs) override;
  void linear_top(const float *x, uint32_t n, uint32_t k, const LinearJob &job,
                  const TopRows &top) override;
  void silu_mul(float *gate, const float *up, uint32_t n, uint32_t dim) override;
  void attention(const AttentionArgs &args) override;
  void delta_net(const DeltaNetArgs &args) override;
  void patches(const PatchArgs &args) override;
  void add_layer_norm(float *x, const float *delta, const float *bias, const float *w,
                      const float *b, uint32_t n, uint32_t dim, float eps, float *y) override;
  void bias_gelu(float *x, const float *bias, uint32_t n, uint32_t dim, bool exact) override;
  void add_bias(float *x, const float *bias, uint32_t n, uint32_t dim) override;
  void patch_attention(const PatchAttentionArgs &args) override;

 private:
  // Fewer tokens than this are done by the calling thread: waking the pool would cost more.
  static constexpr uint32_t kParallelTokens = 16;
  static constexpr uint32_t kTokensPerItem = 8;

  // Calls fn(first, count, thread) over ranges of the n tokens, on the pool when there are many.
  template <class Fn>
  void over_tokens(uint32_t n, const Fn &fn) {
    if (n < kParallelTokens) {
      fn(0, n, 0);
      return;
    }
    pool_->run((n + kTokensPerItem - 1) / kTokensPerItem, [&](uint32_t item, int thread) {
      const uint32_t first = item * kTokensPerItem;
      fn(first, n - first < kTokensPerItem ? n - first : kTokensPerItem, thread);
    });
  }

  uint64_t vision_scratch_floats(const VisionConfig &config) const;
  uint64_t packed_values(uint32_t tokens, uint32_t k, bool split) const;
  // Bytes of the quantised input of linear(): `tokens` rows of k values.
  uint64_t activation_bytes(uint32_t tokens, uint32_t k) const;
  [[nodiscard]] Status reserve_activations(uint32_t tokens, uint32_t k, bool split);
  void quantize(const float *x, uint32_t n, uint32_t k, bool tiles);
  void linear_few(const float *x, uint32_t n, uint32_t k, const LinearJob *jobs, uint32_t n_jobs);
  void gemv_rows(const LinearJob &job, const float *x, uint32_t n, uint32_t k, uint32_t row,
                 uint32_t rows);
  bool can_screen(const Matrix &w) const;
  void look(const LinearJob &job, uint32_t n, uint32_t k, uint32_t groups);
  ScreenArgs screen_args(const Matrix &w, uint32_t row, uint32_t rows, uint32_t n, uint32_t k);
  void read_groups(const LinearJob &job, const float *x, uint32_t n, uint32_t k, uint32_t first);
  void linear_many(const float *x, uint32_t n, uint32_t k, const LinearJob *jobs, uint32_t n_jobs);
  void linear_tiled(const float *x, uint32_t n, uint32_t k, const LinearJob *jobs, uint32_t n_jobs,
                    bool split);
  void linear_panels(const float *x, uint32_t n, uint32_t k, const LinearJob *jobs,
                     uint32_t n_jobs);
  void tiled_product(const LinearJob &job, uint32_t first, uint32_t n, uint32_t k, bool split,
                     uint32_t row, uint32_t rows, int thread);
  void panel_product(const LinearJob &job, uint32_t n, uint32_t k, uint32_t panel, int thread);
  void transpose_panel(const Matrix &w, uint32_t row, uint32_t rows, uint32_t k0, uint32_t depth,
                       float *line, float *columns);
  void float_product(const LinearJob &job, const float *x, uint32_t n, uint32_t k, uint32_t item,
                     uint32_t item_rows, int thread);

  void prepare_heads(const AttentionArgs &args);
  void attend_few(const AttentionArgs &args);
  void attend_split(const AttentionArgs &args, uint32_t split, uint32_t kv_head, int thread);
  void attend_tile(const AttentionArgs &args, uint32_t kv_head, uint32_t token, const Tile &tile,
                   uint32_t count, const FewScratch &scratch, float *partial);
  void merge_splits(const AttentionArgs &args, uint32_t token, uint32_t head);
  void attend_blocks(const AttentionArgs &args, uint32_t kv_head, uint32_t first, uint32_t count,
                     int thread);
  void block_scores(const AttentionArgs &args, uint32_t kv_head, uint32_t first,
                    const Block *blocks, uint32_t n_blocks, float *decoded);
  void block_softmax(const AttentionArgs &args, uint32_t first, const Block &block);
  void block_outputs(const AttentionArgs &args, uint32_t kv_head, uint32_t first,
                     const Block *blocks, uint32_t n_blocks, float *decoded);

  void give_row(const AttentionArgs &args, uint32_t t, uint32_t head, const float *outputs,
                float sum);
  void attend_blocks_tiled(const AttentionArgs &args, uint32_t kv_head, uint32_t first,
                           uint32_t count, int thread);
  void pack_entries(const AttentionArgs &args, uint32_t kv_head, uint32_t first, uint32_t count,
                    float *decoded, uint16_t *keys, uint16_t *values);
  void weigh_tiled(const TiledScratch &scratch, const TiledBlock &block, uint32_t head_dim,
                   uint32_t n, const uint16_t *values, uint64_t values_step);

  void attend_patches(const PatchAttentionArgs &args, uint32_t head, uint32_t first, uint32_t count,
                      int thread);
  void pack_heads(const PatchAttentionArgs &args, uint32_t head, uint32_t heads);
  void attend_patches_tiled(const PatchAttentionArgs &args, uint32_t first_head, uint32_t packed,
                            uint32_t first, uint32_t count, int thread);

  void delta_head(const DeltaNetArgs &args, uint32_t k_head, int thread);
  void delta_replay(const DeltaNetArgs &args, uint32_t k_head);
  void delta_steps(const DeltaNetArgs &args, uint32_t k_head, uint32_t first, uint32_t count,
                   float *scratch);
  void step_block(const DeltaNetArgs &args, uint32_t head, uint32_t count, uint32_t column,
                  const FewSteps &scratch);
  void delta_chunk(const DeltaNetArgs &args, uint32_t k_head, uint32_t first, uint32_t count,
                   float *scratch);

  float *thread_scratch(int thread) { return scratch_.data() + thread * scratch_floats_; }

  const Kernels &kernels_;
  ThreadPool *pool_;
  bool apart_ = false, prompt_ = false;
  // Quantised input of the current linear() call.
  Array<int8_t> act_q_;
  Array<float> act_d_, act_s_;
  Array<uint8_t> tiles_;
  Array<uint16_t> packed_;  // the same as bf16
  // Per-thread scratch, shared by all operations.
  Array<float> scratch_;
  uint64_t scratch_floats_ = 0;
  // Partial results of attend_few.
  Array<float> partial_;
  Screen screen_;
};

}  // namespace q35
