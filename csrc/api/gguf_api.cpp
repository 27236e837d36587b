// C API: GGUF files of any architecture, for converters and inspection.
#include <new>

#include "api/api.h"
#include "gguf/gguf.h"

struct qwen35_gguf {
  q35::gguf::File file;
};

using q35::clear_error;
using q35::fail;
using q35::kOk;
using q35::refuse_null;
using q35::Status;

namespace {

Status check_index(const char *call, size_t index, size_t count) {
  if (index < count) return kOk;
  return fail(QWEN35_ERROR_ARGUMENT, "%s: index %zu, expected less than %zu", call, index, count);
}

}  // namespace

qwen35_status qwen35_gguf_open(const char *path, qwen35_gguf **out) {
  clear_error();
  if (path == nullptr) return refuse_null("qwen35_gguf_open", "path");
  if (out == nullptr) return refuse_null("qwen35_gguf_open", "out");
  qwen35_gguf *handle = new (std::nothrow) qwen35_gguf;
  if (handle == nullptr) return fail(QWEN35_ERROR_MEMORY, "out of memory for a file handle");
  const Status status = handle->file.open(path);
  if (status != kOk) {
    delete handle;
    return q35::name_file(status, path);
  }
  *out = handle;
  return kOk;
}

void qwen35_gguf_close(qwen35_gguf *file) {
  delete file;
}

size_t qwen35_gguf_value_count(const qwen35_gguf *file) {
  return file == nullptr ? 0 : file->file.values().size();
}

qwen35_status qwen35_gguf_get_value(const qwen35_gguf *file, size_t index, qwen35_gguf_value *out) {
  clear_error();
  if (file == nullptr) return refuse_null("qwen35_gguf_get_value", "file");
  if (out == nullptr) return refuse_null("qwen35_gguf_get_value", "out");
  Q35_TRY(check_index("qwen35_gguf_get_value", index, file->file.values().size()));
  const q35::gguf::Value &value = file->file.values()[index];
  const bool array = value.type == q35::gguf::ValueType::Array;
  out->key = value.key.data();
  out->key_length = value.key.size();
  out->type = static_cast<int32_t>(value.type);
  out->element_type = array ? static_cast<int32_t>(value.element) : -1;
  out->count = value.count;
  out->data = value.data;
  out->bytes = value.bytes;
  return kOk;
}

size_t qwen35_gguf_tensor_count(const qwen35_gguf *file) {
  return file == nullptr ? 0 : file->file.tensors().size();
}

qwen35_status qwen35_gguf_get_tensor(const qwen35_gguf *file, size_t index,
                                     qwen35_gguf_tensor *out) {
  clear_error();
  if (file == nullptr) return refuse_null("qwen35_gguf_get_tensor", "file");
  if (out == nullptr) return refuse_null("qwen35_gguf_get_tensor", "out");
  Q35_TRY(check_index("qwen35_gguf_get_tensor", index, file->file.tensors().size()));
  const q35::gguf::TensorInfo &tensor = file->file.tensors()[index];
  out->name = tensor.name.data();
  out->name_length = tensor.name.size();
  out->type = static_cast<int32_t>(tensor.type);
  out->n_dims = tensor.n_dims;
  for (int i = 0; i < 4; i++) out->ne[i] = tensor.ne[i];
  out->offset = tensor.offset;
  out->bytes = tensor.bytes;
  out->shard = tensor.shard;
  return kOk;
}

qwen35_status qwen35_gguf_read(const qwen35_gguf *file, size_t index, uint64_t offset, void *dst,
                               uint64_t bytes) {
  clear_error();
  if (file == nullptr) return refuse_null("qwen35_gguf_read", "file");
  if (dst == nullptr && bytes != 0) return refuse_null("qwen35_gguf_read", "dst");
  Q35_TRY(check_index("qwen35_gguf_read", index, file->file.tensors().size()));
  return file->file.read(file->file.tensors()[index], offset, dst, bytes);
}
