#include "model/keys.h"

#include <cinttypes>
#include <cstdio>

namespace q35 {

using gguf::File;
using gguf::shown;

uint64_t offset_of(const File &file, std::string_view key) {
  const gguf::Value *value = file.find(key);
  return value == nullptr ? 0 : value->offset;
}

Status refuse_number(const File &file, std::string_view key, Status code, const char *expected,
                     uint32_t found) {
  return fail(code, "key '%s' at offset %" PRIu64 ": expected %s, found %" PRIu32, shown(key).text,
              offset_of(file, key), expected, found);
}

Status read_number(const File &file, std::string_view key, uint32_t low, uint32_t high,
                   uint32_t step, uint32_t *out) {
  uint32_t value = 0;
  Q35_TRY(file.get_u32(key, true, &value));
  if (value < low || value > high || value % step != 0) {
    char expected[64];
    const int n = std::snprintf(expected, sizeof expected, "%" PRIu32 " to %" PRIu32, low, high);
    if (step != 1) {
      std::snprintf(expected + n, sizeof expected - n, ", a multiple of %" PRIu32, step);
    }
    return refuse_number(file, key, QWEN35_ERROR_MODEL, expected, value);
  }
  *out = value;
  return kOk;
}

Status read_float(const File &file, std::string_view key, bool required, float low, float high,
                  float *out) {
  float value = *out;
  Q35_TRY(file.get_f32(key, required, &value));
  if (!(value >= low && value <= high)) {
    return fail(QWEN35_ERROR_MODEL, "key '%s' at offset %" PRIu64 ": expected %g to %g, found %g",
                shown(key).text, offset_of(file, key), static_cast<double>(low),
                static_cast<double>(high), static_cast<double>(value));
  }
  *out = value;
  return kOk;
}

Status require_float(const File &file, std::string_view key, float expected) {
  float value = expected;
  Q35_TRY(file.get_f32(key, false, &value));
  if (value == expected) return kOk;
  return fail(QWEN35_ERROR_UNSUPPORTED, "key '%s' at offset %" PRIu64 ": expected %g, found %g",
              shown(key).text, offset_of(file, key), static_cast<double>(expected),
              static_cast<double>(value));
}

Status require_string(const File &file, std::string_view key, std::string_view expected) {
  std::string_view value = expected;
  Q35_TRY(file.get_string(key, false, &value));
  if (value == expected) return kOk;
  return fail(QWEN35_ERROR_UNSUPPORTED, "key '%s' at offset %" PRIu64 ": expected '%s', found '%s'",
              shown(key).text, offset_of(file, key), shown(expected).text, shown(value).text);
}

}  // namespace q35
