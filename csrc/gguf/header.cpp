#include "gguf/header.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "base/checked.h"

namespace q35::gguf {

namespace {

// Real models have about 50 keys and 450 tensors; the limits only bound the work on hostile files.
constexpr uint64_t kMaxValues = 1u << 16;
constexpr uint64_t kMaxTensors = 1u << 16;
constexpr uint64_t kMaxKeyBytes = 1u << 10;
constexpr uint64_t kMaxNameBytes = 127;
// Smallest encodings: key length + 1 byte + type + 1 byte; name length + 1 byte + dims, one extent,
// type, offset.
constexpr uint64_t kMinValueBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;
constexpr uint32_t kDefaultAlignment = 32;

uint32_t scalar_bytes(ValueType type) {
  switch (type) {
    case ValueType::U8:
    case ValueType::I8:
    case ValueType::Bool:
      return 1;
    case ValueType::U16:
    case ValueType::I16:
      return 2;
    case ValueType::U32:
    case ValueType::I32:
    case ValueType::F32:
      return 4;
    case ValueType::U64:
    case ValueType::I64:
    case ValueType::F64:
      return 8;
    case ValueType::String:
    case ValueType::Array:
      break;
  }
  return 0;
}

class Parser {
 public:
  Parser(const char *name, const uint8_t *data, uint64_t size, uint64_t file_bytes, Header *out)
      : name_(name), data_(data), size_(size), file_bytes_(file_bytes), out_(out) {}

  Status parse() {
    uint64_t n_tensors = 0;
    uint64_t n_values = 0;
    Q35_TRY(read_preamble(&n_tensors, &n_values));
    for (uint64_t i = 0; i < n_values; i++) Q35_TRY(read_value());
    Q35_TRY(find_alignment());
    for (uint64_t i = 0; i < n_tensors; i++) Q35_TRY(read_tensor());
    out_->bytes = at_;
    return place_tensors();
  }

 private:
  uint64_t left() const { return file_bytes_ - at_; }

  Status take(uint64_t n, const char *what, const uint8_t **out) {
    if (n > left()) {
      return fail(QWEN35_ERROR_MODEL,
                  "%s: truncated: %s at offset %" PRIu64 " takes %" PRIu64
                  " bytes, the file has %" PRIu64 " more",
                  name_, what, at_, n, left());
    }
    if (n > size_ - at_) {
      out_->needed = at_ + n;
      return kNeedMore;
    }
    *out = data_ + at_;
    at_ += n;
    return kOk;
  }

  template <class T>
  Status take_number(const char *what, T *out) {
    const uint8_t *bytes = nullptr;
    Q35_TRY(take(sizeof(T), what, &bytes));
    std::memcpy(out, bytes, sizeof(T));
    return kOk;
  }

  Status take_string(const char *what, uint64_t min, uint64_t max, std::string_view *out) {
    uint64_t length = 0;
    Q35_TRY(take_number(what, &length));
    if (length < min || length > max) {
      return fail(QWEN35_ERROR_MODEL,
                  "%s: %s at offset %" PRIu64 " has %" PRIu64 " bytes, expected %" PRIu64
                  " to %" PRIu64,
                  name_, what, at_ - 8, length, min, max);
    }
    const uint8_t *bytes = nullptr;
    Q35_TRY(take(length, what, &bytes));
    *out = std::string_view(reinterpret_cast<const char *>(bytes), length);
    return kOk;
  }

  Status read_preamble(uint64_t *n_tensors, uint64_t *n_values) {
    if (file_bytes_ < 4 || (size_ >= 4 && std::memcmp(data_, "GGUF", 4) != 0)) {
      return not_gguf(name_, data_, size_);
    }
    const uint8_t *magic = nullptr;
    uint32_t version = 0;
    Q35_TRY(take(4, "magic", &magic));
    Q35_TRY(take_number("version", &version));
    if (version != 0 && (version & 0xffffu) == 0) {
      return fail(QWEN35_ERROR_UNSUPPORTED,
                  "%s: a big-endian GGUF file; convert the model again as little-endian", name_);
    }
    if (version != 2 && version != 3) {
      return fail(QWEN35_ERROR_UNSUPPORTED,
                  "%s: GGUF version at offset 4: expected 2 or 3, found %" PRIu32, name_, version);
    }
    Q35_TRY(take_number("tensor count", n_tensors));
    Q35_TRY(take_number("key count", n_values));
    Q35_TRY(check_count("tensors", *n_tensors, kMaxTensors, kMinTensorBytes, 8));
    return check_count("keys", *n_values, kMaxValues, kMinValueBytes, 16);
  }

  Status check_count(const char *what, uint64_t n, uint64_t max, uint64_t min_bytes,
                     uint64_t offset) {
    if (n <= max && n <= left() / min_bytes) return kOk;
    return fail(QWEN35_ERROR_MODEL,
                "%s: number of %s at offset %" PRIu64 ": found %" PRIu64
                ", expected at most %" PRIu64 " in a file of %" PRIu64 " bytes",
                name_, what, offset, n, std::min(max, left() / min_bytes), file_bytes_);
  }

  Status read_value() {
    Value value = {};
    Q35_TRY(take_string("key", 1, kMaxKeyBytes, &value.key));
    Q35_TRY(take_type(value.key, &value.type));
    value.element = value.type;
    value.count = 1;
    value.offset = at_;
    if (value.type == ValueType::Array) {
      Q35_TRY(take_type(value.key, &value.element));
      Q35_TRY(take_number("array length", &value.count));
      if (value.element == ValueType::Array) {
        return fail(QWEN35_ERROR_UNSUPPORTED,
                    "%s: key '%s' at offset %" PRIu64 ": arrays of arrays are not supported", name_,
                    shown(value.key).text, value.offset);
      }
    }
    Q35_TRY(take_elements(&value));
    return out_->values.push_back(value);
  }

  Status take_type(std::string_view key, ValueType *out) {
    uint32_t number = 0;
    Q35_TRY(take_number("value type", &number));
    if (number > static_cast<uint32_t>(ValueType::F64)) {
      return fail(QWEN35_ERROR_MODEL,
                  "%s: key '%s': value type at offset %" PRIu64
                  ": expected 0 to 12, found %" PRIu32,
                  name_, shown(key).text, at_ - 4, number);
    }
    *out = static_cast<ValueType>(number);
    return kOk;
  }

  Status take_elements(Value *value) {
    const uint64_t start = at_;
    const bool strings = value->element == ValueType::String;
    const uint64_t each = strings ? 8 : scalar_bytes(value->element);
    if (value->count > left() / each) {
      return fail(QWEN35_ERROR_MODEL,
                  "%s: key '%s' at offset %" PRIu64 ": %" PRIu64
                  " elements of type %s do not fit the %" PRIu64 " bytes left in the file",
                  name_, shown(value->key).text, value->offset, value->count,
                  value_type_name(value->element), left());
    }
    if (strings) {
      char what[96];
      std::snprintf(what, sizeof what, "a string of key '%s'", shown(value->key).text);
      const uint64_t longest = left();
      std::string_view text;
      for (uint64_t i = 0; i < value->count; i++) {
        Q35_TRY(take_string(what, 0, longest, &text));
      }
    } else {
      const uint8_t *bytes = nullptr;
      Q35_TRY(take(value->count * each, "array", &bytes));
    }
    value->data = data_ + start;
    value->bytes = at_ - start;
    return kOk;
  }

  // Tensor offsets are multiples of general.alignment. Writers use 32 (the default) or 64; the
  // kernels need 4 for F32 data, and a page is the most that makes sense.
  Status find_alignment() {
    for (const Value &value : out_->values) {
      if (value.key != "general.alignment") continue;
      if (value.type != ValueType::U32) {
        return fail(QWEN35_ERROR_MODEL,
                    "%s: key 'general.alignment' at offset %" PRIu64 ": expected u32, found %s",
                    name_, value.offset, value_type_name(value.type));
      }
      std::memcpy(&alignment_, value.data, 4);
      if (alignment_ < 8 || alignment_ > 4096 || (alignment_ & (alignment_ - 1)) != 0) {
        return fail(QWEN35_ERROR_MODEL,
                    "%s: key 'general.alignment' at offset %" PRIu64
                    ": expected a power of two from 8 to 4096, found %" PRIu32,
                    name_, value.offset, alignment_);
      }
    }
    return kOk;
  }

  Status read_tensor() {
    TensorInfo tensor = {};
    Q35_TRY(take_string("tensor name", 1, kMaxNameBytes, &tensor.name));
    const uint64_t record = at_;
    Q35_TRY(take_number("tensor dimensions", &tensor.n_dims));
    if (tensor.n_dims < 1 || tensor.n_dims > 4) {
      return fail(QWEN35_ERROR_MODEL,
                  "%s: tensor '%s' at offset %" PRIu64
                  ": expected 1 to 4 dimensions, found %" PRIu32,
                  name_, shown(tensor.name).text, record, tensor.n_dims);
    }
    for (uint32_t i = 0; i < 4; i++) tensor.ne[i] = 1;
    for (uint32_t i = 0; i < tensor.n_dims; i++) {
      Q35_TRY(take_number("tensor shape", &tensor.ne[i]));
    }
    uint32_t type = 0;
    Q35_TRY(take_number("tensor type", &type));
    Q35_TRY(take_number("tensor offset", &tensor.offset));
    Q35_TRY(size_tensor(type, record, &tensor));
    return out_->tensors.push_back(tensor);
  }

  // Sets type and bytes from the shape.
  Status size_tensor(uint32_t type, uint64_t record, TensorInfo *tensor) {
    const TypeTraits *traits = type_traits(type);
    if (traits == nullptr) {
      return fail(QWEN35_ERROR_UNSUPPORTED,
                  "%s: tensor '%s' at offset %" PRIu64 ": tensor type %" PRIu32 " is not supported",
                  name_, shown(tensor->name).text, record, type);
    }
    uint64_t elements = 1;
    bool fits = true;
    for (uint64_t extent : tensor->ne) fits = fits && checked_mul(elements, extent, &elements);
    if (!fits || elements == 0 || tensor->ne[0] % traits->block_size != 0 ||
        !checked_mul(elements / traits->block_size, traits->block_bytes, &tensor->bytes)) {
      return fail(QWEN35_ERROR_MODEL,
                  "%s: tensor '%s' at offset %" PRIu64 ": shape [%" PRIu64 ", %" PRIu64 ", %" PRIu64
                  ", %" PRIu64 "] is not possible for type %s with blocks of %" PRIu32,
                  name_, shown(tensor->name).text, record, tensor->ne[0], tensor->ne[1],
                  tensor->ne[2], tensor->ne[3], traits->name, traits->block_size);
    }
    tensor->type = traits->type;
    return kOk;
  }

  // Turns offsets into file offsets; every tensor must be aligned, in the file and alone there.
  Status place_tensors() {
    Array<TensorInfo> &tensors = out_->tensors;
    if (tensors.empty()) return kOk;
    uint64_t start = 0;
    Array<uint32_t> order;
    Q35_TRY(order.resize(tensors.size()));
    for (size_t i = 0; i < tensors.size(); i++) order[i] = static_cast<uint32_t>(i);
    if (!checked_round_up(out_->bytes, alignment_, &start)) start = file_bytes_;
    for (TensorInfo &tensor : tensors) Q35_TRY(place_tensor(start, &tensor));
    std::sort(order.begin(), order.end(),
              [&](uint32_t a, uint32_t b) { return tensors[a].offset < tensors[b].offset; });
    for (size_t i = 1; i < order.size(); i++) {
      const TensorInfo &first = tensors[order[i - 1]];
      const TensorInfo &second = tensors[order[i]];
      if (first.offset + first.bytes > second.offset) {
        return fail(QWEN35_ERROR_MODEL, "%s: tensors '%s' and '%s' overlap at offset %" PRIu64,
                    name_, shown(first.name).text, shown(second.name).text, second.offset);
      }
    }
    return kOk;
  }

  Status place_tensor(uint64_t start, TensorInfo *tensor) {
    if (tensor->offset % alignment_ != 0) {
      return fail(QWEN35_ERROR_MODEL,
                  "%s: tensor '%s': expected a data offset that is a multiple of %" PRIu32
                  ", found %" PRIu64,
                  name_, shown(tensor->name).text, alignment_, tensor->offset);
    }
    uint64_t offset = 0;
    uint64_t end = 0;
    if (!checked_add(start, tensor->offset, &offset) || !checked_add(offset, tensor->bytes, &end) ||
        end > file_bytes_) {
      return fail(QWEN35_ERROR_MODEL,
                  "%s: truncated: tensor '%s' takes %" PRIu64 " bytes from offset %" PRIu64
                  " + %" PRIu64 ", the file has %" PRIu64 " bytes",
                  name_, shown(tensor->name).text, tensor->bytes, start, tensor->offset,
                  file_bytes_);
    }
    tensor->offset = offset;
    return kOk;
  }

  const char *name_;
  const uint8_t *data_;
  uint64_t size_;
  uint64_t file_bytes_;
  uint64_t at_ = 0;
  uint32_t alignment_ = kDefaultAlignment;
  Header *out_;
};

}  // namespace

Status parse_header(const char *name, const uint8_t *data, uint64_t size, uint64_t file_bytes,
                    Header *out) {
  *out = Header();
  return Parser(name, data, size, file_bytes, out).parse();
}

}  // namespace q35::gguf
