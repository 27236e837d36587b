// C API: the vision tower.
#include <new>

#include "api/api.h"
#include "runtime/vision.h"

using q35::clear_error;
using q35::fail;
using q35::kOk;
using q35::refuse_null;
using q35::Status;

qwen35_status qwen35_vision_open(qwen35_model *model, const char *path, qwen35_vision **out) {
  clear_error();
  if (model == nullptr) return refuse_null("qwen35_vision_open", "model");
  if (path == nullptr) return refuse_null("qwen35_vision_open", "path");
  if (out == nullptr) return refuse_null("qwen35_vision_open", "out");
  if (!model->has_weights) {
    return fail(QWEN35_ERROR_ARGUMENT, "the model was opened with vocab_only: it has no weights");
  }
  qwen35_vision *vision = new (std::nothrow) qwen35_vision(model);
  if (vision == nullptr) return fail(QWEN35_ERROR_MEMORY, "out of memory for a vision handle");
  const Status status = vision->open(path);
  if (status != kOk) {
    delete vision;
    return q35::name_file(status, path);
  }
  *out = vision;
  return kOk;
}

void qwen35_vision_close(qwen35_vision *vision) {
  delete vision;
}

qwen35_status qwen35_vision_get_info(const qwen35_vision *vision, qwen35_vision_info *out) {
  clear_error();
  if (vision == nullptr) return refuse_null("qwen35_vision_get_info", "vision");
  if (out == nullptr) return refuse_null("qwen35_vision_get_info", "out");
  vision->info(out);
  return kOk;
}

qwen35_status qwen35_vision_encode(qwen35_vision *vision, const uint8_t *first,
                                   const uint8_t *second, uint32_t height, uint32_t width,
                                   float *rows, qwen35_progress progress, void *user) {
  clear_error();
  if (vision == nullptr) return refuse_null("qwen35_vision_encode", "vision");
  if (first == nullptr) return refuse_null("qwen35_vision_encode", "first");
  if (rows == nullptr) return refuse_null("qwen35_vision_encode", "rows");
  return vision->encode({first, second, height, width}, rows, progress, user);
}

void qwen35_vision_cancel(qwen35_vision *vision) {
  if (vision != nullptr) vision->cancel.store(1);
}

void qwen35_vision_clear_cancel(qwen35_vision *vision) {
  if (vision != nullptr) vision->cancel.store(0);
}

uint64_t qwen35_vision_scratch(const qwen35_vision *vision, uint32_t height, uint32_t width) {
  return vision == nullptr ? 0 : vision->scratch_bytes(height, width);
}
