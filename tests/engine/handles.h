// Handles of the C API that close themselves, and calls that end the program when they fail.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "include/qwen35.h"

struct Closer {
  void operator()(qwen35_model *model) const { qwen35_model_close(model); }
  void operator()(qwen35_session *session) const { qwen35_session_close(session); }
  void operator()(qwen35_vision *vision) const { qwen35_vision_close(vision); }
  void operator()(qwen35_sampler *sampler) const { qwen35_sampler_close(sampler); }
  void operator()(qwen35_stream *stream) const { qwen35_stream_close(stream); }
  void operator()(qwen35_gguf *file) const { qwen35_gguf_close(file); }
};

using Model = std::unique_ptr<qwen35_model, Closer>;
using Session = std::unique_ptr<qwen35_session, Closer>;
using Vision = std::unique_ptr<qwen35_vision, Closer>;
using Sampler = std::unique_ptr<qwen35_sampler, Closer>;
using Stream = std::unique_ptr<qwen35_stream, Closer>;
using GgufFile = std::unique_ptr<qwen35_gguf, Closer>;

inline void expect(bool ok, const char *what) {
  if (ok) return;
  std::fprintf(stderr, "failed: %s (last error: %s)\n", what, qwen35_last_error());
  std::exit(1);
}

inline void expect_ok(qwen35_status status, const char *what) {
  expect(status == QWEN35_OK, what);
}

inline Model open_model(const char *path, int32_t n_threads) {
  qwen35_model_params params;
  qwen35_model_defaults(&params);
  params.n_threads = n_threads;
  qwen35_model *model = nullptr;
  expect_ok(qwen35_model_open(path, &params, &model), "model_open");
  return Model(model);
}

inline Session open_session(qwen35_model *model, uint32_t n_ctx, uint32_t n_batch,
                            int32_t kv_type = QWEN35_KV_AUTO) {
  qwen35_session_params params;
  qwen35_session_defaults(&params);
  params.n_ctx = n_ctx;
  params.n_batch = n_batch;
  params.kv_type = kv_type;
  qwen35_session *session = nullptr;
  expect_ok(qwen35_session_create(model, &params, &session), "session_create");
  return Session(session);
}

// Token ids without a meaning, the same every time.
inline std::vector<int32_t> make_tokens(size_t n, uint32_t seed) {
  std::vector<int32_t> tokens(n);
  uint32_t x = seed;
  for (int32_t &token : tokens) {
    x = x * 1664525u + 1013904223u;
    token = static_cast<int32_t>((x >> 16) % 256);
  }
  return tokens;
}
