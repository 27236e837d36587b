// Reading of metadata keys with their limits: what config.h and vision_config.h share. Errors name
// key, offset, expected and found.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/status.h"
#include "gguf/gguf.h"

namespace q35 {

// Of the key's value in its file; 0 when absent.
uint64_t offset_of(const gguf::File &file, std::string_view key);

[[nodiscard]] Status refuse_number(const gguf::File &file, std::string_view key, Status code,
                                   const char *expected, uint32_t found);

// A required number in [low, high] that is a multiple of `step`.
[[nodiscard]] Status read_number(const gguf::File &file, std::string_view key, uint32_t low,
                                 uint32_t high, uint32_t step, uint32_t *out);

// A float in [low, high]; NaN is outside. Absent and not required: *out keeps its value.
[[nodiscard]] Status read_float(const gguf::File &file, std::string_view key, bool required,
                                float low, float high, float *out);

// A parameter of a feature that the engine computes with one value only.
[[nodiscard]] Status require_float(const gguf::File &file, std::string_view key, float expected);
[[nodiscard]] Status require_string(const gguf::File &file, std::string_view key,
                                    std::string_view expected);

}  // namespace q35
