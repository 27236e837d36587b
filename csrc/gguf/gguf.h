// GGUF reader: bytes to metadata and tensor index. Knows nothing of models.
// Every count, length and offset is checked against the file's size before it is used, and nothing
// is allocated in proportion to a number from the file before that number was checked.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/array.h"
#include "base/status.h"
#include "quant/quant.h"

namespace q35::gguf {

enum class ValueType : uint32_t {
  U8 = 0,
  I8 = 1,
  U16 = 2,
  I16 = 3,
  U32 = 4,
  I32 = 5,
  F32 = 6,
  Bool = 7,
  String = 8,
  Array = 9,
  U64 = 10,
  I64 = 11,
  F64 = 12,
};

const char *value_type_name(ValueType type);

// A name from a file made safe to show: cut at 64 bytes, unprintable bytes replaced by '?'.
struct Shown {
  char text[72];
};
Shown shown(std::string_view name);

struct Value {
  std::string_view key;
  ValueType type;
  ValueType element;    // of an array; equal to type otherwise
  uint64_t count;       // elements of an array, 1 otherwise
  const uint8_t *data;  // scalars little-endian, strings as u64 length and bytes
  uint64_t bytes;       // of data
  uint64_t offset;      // of the value in the file, for messages
};

struct TensorInfo {
  std::string_view name;
  DType type;       // already known to type_traits()
  uint32_t n_dims;  // 1..4
  uint64_t ne[4];   // fastest first, 1 where unused
  uint64_t offset;  // of the data from the start of its file
  uint64_t bytes;
  uint32_t shard;
};

// An opened model file, or all shards of one. The header is held in memory; data is read on demand.
// Views and pointers of its values and tensors live as long as the File.
class File {
 public:
  File() = default;
  ~File();
  File(const File &) = delete;
  File &operator=(const File &) = delete;

  // Opens `path`; when it is one shard of several, all of them.
  [[nodiscard]] Status open(const char *path);

  const Array<Value> &values() const { return values_; }
  const Array<TensorInfo> &tensors() const { return tensors_; }
  uint32_t shard_count() const { return static_cast<uint32_t>(shards_.size()); }
  const char *shard_path(uint32_t shard) const;
  int shard_fd(uint32_t shard) const;
  uint64_t shard_bytes(uint32_t shard) const;  // of the whole file

  const Value *find(std::string_view key) const;               // null when absent
  const TensorInfo *find_tensor(std::string_view name) const;  // null when absent

  // Typed access. `required` false: *out keeps its value when the key is absent.
  // A wrong type is an error that names key, offset, expected and found. Integers may have any
  // width as long as the value fits: writers differ.
  [[nodiscard]] Status get_u32(std::string_view key, bool required, uint32_t *out) const;
  [[nodiscard]] Status get_f32(std::string_view key, bool required, float *out) const;
  [[nodiscard]] Status get_bool(std::string_view key, bool required, bool *out) const;
  [[nodiscard]] Status get_string(std::string_view key, bool required, std::string_view *out) const;
  // Arrays: replaced by the elements. Booleans may also be written as integers 0 and 1.
  [[nodiscard]] Status get_strings(std::string_view key, bool required,
                                   Array<std::string_view> *out) const;
  [[nodiscard]] Status get_i32s(std::string_view key, bool required, Array<int32_t> *out) const;
  [[nodiscard]] Status get_f32s(std::string_view key, bool required, Array<float> *out) const;
  [[nodiscard]] Status get_bools(std::string_view key, bool required, Array<uint8_t> *out) const;

  // Reads bytes [offset, offset + bytes) of the tensor's data; several threads may read at once.
  [[nodiscard]] Status read(const TensorInfo &tensor, uint64_t offset, void *dst,
                            uint64_t bytes) const;
  // Fails with ERROR_IO when a shard no longer has the size it had when it was opened.
  [[nodiscard]] Status check_unchanged() const;

 private:
  struct Shard {
    int fd;
    uint64_t file_bytes;
    uint8_t *header;  // malloc'ed copy of the file's head, up to the end of the tensor records
    char *path;       // malloc'ed
  };

  Status open_shard(const char *path, Array<Value> *values);
  Status open_siblings(const char *path);
  void close_shards();
  Status build_orders();

  Array<Shard> shards_;
  Array<Value> values_;         // of the first shard, in file order
  Array<TensorInfo> tensors_;   // of all shards
  Array<uint32_t> key_order_;   // indices of values_ sorted by key
  Array<uint32_t> name_order_;  // indices of tensors_ sorted by name
};

}  // namespace q35::gguf
