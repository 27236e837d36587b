// The opened model behind qwen35_model: weights, tokenizer, kernels and threads. Immutable after
// open(); the batcher says who uses the threads.
#pragma once

#include "base/array.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "gguf/gguf.h"
#include "kernels/kernels.h"
#include "model/text_model.h"
#include "runtime/batcher.h"
#include "tokenizer/tokenizer.h"

struct qwen35_model {
  q35::Config &config;  // of text; also set for vocab_only
  q35::TextModel text;
  q35::Tokenizer tokenizer;
  q35::Kernels kernels;
  q35::ThreadPool pool;
  q35::Batcher batcher;
  bool has_weights = false;
  int32_t matrix_type = -1;

  // String metadata, keys and values NUL-terminated one after another.
  q35::Array<char> strings;

  qwen35_model() : config(text.config), batcher(text, kernels, &pool) {}

  [[nodiscard]] q35::Status open(const char *path, const qwen35_model_params &params);
  const char *string(const char *key) const;
  void info(qwen35_model_info *out) const;
};

namespace q35 {

// The best tier of this CPU, limited by the environment variable QWEN35_ISA.
[[nodiscard]] Status choose_isa(Isa *out);

}  // namespace q35
