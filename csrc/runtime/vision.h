// The opened vision tower behind qwen35_vision.
#pragma once

#include <atomic>

#include "backend/cpu/cpu_backend.h"
#include "base/status.h"
#include "model/vision_forward.h"
#include "runtime/engine.h"

struct qwen35_vision {
  explicit qwen35_vision(qwen35_model *owner) : model(owner) {}

  [[nodiscard]] q35::Status open(const char *path);
  [[nodiscard]] q35::Status encode(const q35::Picture &picture, float *rows,
                                   qwen35_progress progress, void *user);
  [[nodiscard]] q35::Status check_size(uint32_t height, uint32_t width) const;
  void info(qwen35_vision_info *out) const;
  uint64_t scratch_bytes(uint32_t height, uint32_t width) const;

  qwen35_model *model;
  q35::VisionModel tower;
  bool quantized = false;  // some of the matrices hold integers
  int32_t matrix_type = -1;
  std::atomic<uint32_t> cancel{0};
};
