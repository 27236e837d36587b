// Typed access to GGUF metadata.
#include <algorithm>
#include <cinttypes>
#include <cstring>

#include "gguf/gguf.h"

namespace q35::gguf {

namespace {

constexpr const char *kTypeNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                      "bool", "string", "array", "u64", "i64", "f64"};

template <class T>
T load(const uint8_t *data) {
  T value;
  std::memcpy(&value, data, sizeof value);
  return value;
}

uint64_t integer_bytes(ValueType type) {
  switch (type) {
    case ValueType::U8:
    case ValueType::I8:
      return 1;
    case ValueType::U16:
    case ValueType::I16:
      return 2;
    case ValueType::U32:
    case ValueType::I32:
      return 4;
    case ValueType::U64:
    case ValueType::I64:
      return 8;
    default:
      return 0;
  }
}

// An integer of any width; values above INT64_MAX are cut there, which no caller accepts anyway.
int64_t load_integer(ValueType type, const uint8_t *data) {
  switch (type) {
    case ValueType::U8:
      return *data;
    case ValueType::I8:
      return static_cast<int8_t>(*data);
    case ValueType::U16:
      return load<uint16_t>(data);
    case ValueType::I16:
      return load<int16_t>(data);
    case ValueType::U32:
      return load<uint32_t>(data);
    case ValueType::I32:
      return load<int32_t>(data);
    case ValueType::U64:
      return static_cast<int64_t>(std::min<uint64_t>(load<uint64_t>(data), INT64_MAX));
    default:
      return load<int64_t>(data);
  }
}

Status wrong_type(const Value &value, const char *expected) {
  const bool array = value.type == ValueType::Array;
  return fail(QWEN35_ERROR_MODEL, "key '%s' at offset %" PRIu64 ": expected %s, found %s%s",
              shown(value.key).text, value.offset, expected, array ? "array of " : "",
              value_type_name(value.element));
}

Status missing(std::string_view key, const char *expected) {
  return fail(QWEN35_ERROR_MODEL, "key '%s' is missing: expected %s", shown(key).text, expected);
}

// Reads the elements of an integer array into int32, each in [low, high].
Status read_integers(const Value &value, int64_t low, int64_t high, Array<int32_t> *out) {
  const uint64_t each = integer_bytes(value.element);
  out->clear();
  Q35_TRY(out->resize(value.count));
  if (value.element == ValueType::I32 && low == INT32_MIN && value.count != 0) {
    std::memcpy(out->data(), value.data, value.bytes);
    return kOk;
  }
  for (uint64_t i = 0; i < value.count; i++) {
    const int64_t element = load_integer(value.element, value.data + i * each);
    if (element < low || element > high) {
      return fail(QWEN35_ERROR_MODEL,
                  "key '%s' at offset %" PRIu64 ": element %" PRIu64 ": expected %" PRId64
                  " to %" PRId64 ", found %" PRId64,
                  shown(value.key).text, value.offset, i, low, high, element);
    }
    (*out)[i] = static_cast<int32_t>(element);
  }
  return kOk;
}

}  // namespace

const char *value_type_name(ValueType type) {
  const uint32_t number = static_cast<uint32_t>(type);
  return number < std::size(kTypeNames) ? kTypeNames[number] : "unknown";
}

Shown shown(std::string_view name) {
  Shown out = {};
  const size_t limit = 64;
  const size_t n = std::min(name.size(), limit);
  for (size_t i = 0; i < n; i++) out.text[i] = name[i] >= 32 && name[i] < 127 ? name[i] : '?';
  if (name.size() > limit) std::memcpy(out.text + limit, "...", 4);
  return out;
}

Status File::get_u32(std::string_view key, bool required, uint32_t *out) const {
  const Value *value = find(key);
  if (value == nullptr) return required ? missing(key, "u32") : kOk;
  if (integer_bytes(value->type) == 0) return wrong_type(*value, "u32");
  const int64_t number = load_integer(value->type, value->data);
  if (number < 0 || number > UINT32_MAX) {
    return fail(QWEN35_ERROR_MODEL,
                "key '%s' at offset %" PRIu64 ": expected 0 to 4294967295, found %" PRId64,
                shown(key).text, value->offset, number);
  }
  *out = static_cast<uint32_t>(number);
  return kOk;
}

Status File::get_f32(std::string_view key, bool required, float *out) const {
  const Value *value = find(key);
  if (value == nullptr) return required ? missing(key, "f32") : kOk;
  if (value->type != ValueType::F32) return wrong_type(*value, "f32");
  *out = load<float>(value->data);
  return kOk;
}

Status File::get_bool(std::string_view key, bool required, bool *out) const {
  const Value *value = find(key);
  if (value == nullptr) return required ? missing(key, "bool") : kOk;
  if (value->type != ValueType::Bool || *value->data > 1) return wrong_type(*value, "bool");
  *out = *value->data != 0;
  return kOk;
}

Status File::get_string(std::string_view key, bool required, std::string_view *out) const {
  const Value *value = find(key);
  if (value == nullptr) return required ? missing(key, "string") : kOk;
  if (value->type != ValueType::String) return wrong_type(*value, "string");
  *out = std::string_view(reinterpret_cast<const char *>(value->data) + 8, value->bytes - 8);
  return kOk;
}

Status File::get_strings(std::string_view key, bool required, Array<std::string_view> *out) const {
  const Value *value = find(key);
  if (value == nullptr) return required ? missing(key, "array of string") : kOk;
  if (value->type != ValueType::Array || value->element != ValueType::String) {
    return wrong_type(*value, "array of string");
  }
  out->clear();
  Q35_TRY(out->resize(value->count));
  const uint8_t *at = value->data;  // lengths were checked when the header was parsed
  for (uint64_t i = 0; i < value->count; i++) {
    const uint64_t length = load<uint64_t>(at);
    (*out)[i] = std::string_view(reinterpret_cast<const char *>(at) + 8, length);
    at += 8 + length;
  }
  return kOk;
}

Status File::get_i32s(std::string_view key, bool required, Array<int32_t> *out) const {
  const Value *value = find(key);
  if (value == nullptr) return required ? missing(key, "array of i32") : kOk;
  if (value->type != ValueType::Array || integer_bytes(value->element) == 0) {
    return wrong_type(*value, "array of i32");
  }
  return read_integers(*value, INT32_MIN, INT32_MAX, out);
}

Status File::get_f32s(std::string_view key, bool required, Array<float> *out) const {
  const Value *value = find(key);
  if (value == nullptr) return required ? missing(key, "array of f32") : kOk;
  if (value->type != ValueType::Array || value->element != ValueType::F32) {
    return wrong_type(*value, "array of f32");
  }
  out->clear();
  Q35_TRY(out->resize(value->count));
  if (value->count != 0) std::memcpy(out->data(), value->data, value->count * sizeof(float));
  return kOk;
}

Status File::get_bools(std::string_view key, bool required, Array<uint8_t> *out) const {
  const Value *value = find(key);
  if (value == nullptr) return required ? missing(key, "array of bool") : kOk;
  Value plain = *value;
  if (plain.element == ValueType::Bool) plain.element = ValueType::U8;
  if (value->type != ValueType::Array || integer_bytes(plain.element) == 0) {
    return wrong_type(*value, "array of bool");
  }
  Array<int32_t> integers;
  Q35_TRY(read_integers(plain, 0, 1, &integers));
  out->clear();
  Q35_TRY(out->resize(integers.size()));
  for (size_t i = 0; i < integers.size(); i++) (*out)[i] = static_cast<uint8_t>(integers[i]);
  return kOk;
}

}  // namespace q35::gguf
