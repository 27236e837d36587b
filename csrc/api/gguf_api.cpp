// C API: GGUF files of any architecture, for converters and inspection.
#include <cinttypes>
#include <new>

#include "base/status.h"
#include "gguf/gguf.h"

struct qwen35_gguf {
  q35::gguf::File file;
};

namespace q35 {
namespace {

Status open(const char *path, qwen35_gguf **out) {
  clear_error();
  if (path == nullptr || out == nullptr) {
    return fail(QWEN35_ERROR_ARGUMENT, "qwen35_gguf_open: %s is NULL",
                path == nullptr ? "path" : "out");
  }
  qwen35_gguf *handle = new (std::nothrow) qwen35_gguf;
  if (handle == nullptr) return fail(QWEN35_ERROR_MEMORY, "out of memory for a file handle");
  const Status status = handle->file.open(path);
  if (status != kOk) {
    delete handle;
    return status;
  }
  *out = handle;
  return kOk;
}

Status check_index(const char *function, const qwen35_gguf *file, size_t index, size_t count,
                   const void *out) {
  clear_error();
  if (file == nullptr || out == nullptr) {
    return fail(QWEN35_ERROR_ARGUMENT, "%s: %s is NULL", function,
                file == nullptr ? "file" : "the output");
  }
  if (index >= count) {
    return fail(QWEN35_ERROR_ARGUMENT, "%s: index %zu, expected less than %zu", function, index,
                count);
  }
  return kOk;
}

Status get_value(const qwen35_gguf *file, size_t index, qwen35_gguf_value *out) {
  Q35_TRY(check_index("qwen35_gguf_get_value", file, index, qwen35_gguf_value_count(file), out));
  const gguf::Value &value = file->file.values()[index];
  const bool array = value.type == gguf::ValueType::Array;
  out->key = value.key.data();
  out->key_length = value.key.size();
  out->type = static_cast<int32_t>(value.type);
  out->element_type = array ? static_cast<int32_t>(value.element) : -1;
  out->count = value.count;
  out->data = value.data;
  out->bytes = value.bytes;
  return kOk;
}

Status get_tensor(const qwen35_gguf *file, size_t index, qwen35_gguf_tensor *out) {
  Q35_TRY(check_index("qwen35_gguf_get_tensor", file, index, qwen35_gguf_tensor_count(file), out));
  const gguf::TensorInfo &tensor = file->file.tensors()[index];
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

Status read(const qwen35_gguf *file, size_t index, uint64_t offset, void *dst, uint64_t bytes) {
  // An empty read needs no destination.
  const void *checked = bytes == 0 ? static_cast<const void *>(file) : dst;
  Q35_TRY(check_index("qwen35_gguf_read", file, index, qwen35_gguf_tensor_count(file), checked));
  return file->file.read(file->file.tensors()[index], offset, dst, bytes);
}

}  // namespace
}  // namespace q35

qwen35_status qwen35_gguf_open(const char *path, qwen35_gguf **out) {
  return q35::open(path, out);
}

void qwen35_gguf_close(qwen35_gguf *file) {
  delete file;
}

size_t qwen35_gguf_value_count(const qwen35_gguf *file) {
  return file == nullptr ? 0 : file->file.values().size();
}

qwen35_status qwen35_gguf_get_value(const qwen35_gguf *file, size_t index, qwen35_gguf_value *out) {
  return q35::get_value(file, index, out);
}

size_t qwen35_gguf_tensor_count(const qwen35_gguf *file) {
  return file == nullptr ? 0 : file->file.tensors().size();
}

qwen35_status qwen35_gguf_get_tensor(const qwen35_gguf *file, size_t index,
                                     qwen35_gguf_tensor *out) {
  return q35::get_tensor(file, index, out);
}

qwen35_status qwen35_gguf_read(const qwen35_gguf *file, size_t index, uint64_t offset, void *dst,
                               uint64_t bytes) {
  return q35::read(file, index, offset, dst, bytes);
}
