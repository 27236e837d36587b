// What the functions of the C API share: every call that can fail begins with clear_error(), then
// checks its pointers, structs and ranges, and only then reaches the engine.
#pragma once

#include <cstdio>
#include <cstring>

#include "base/status.h"

namespace q35 {

[[nodiscard]] inline Status refuse_null(const char *call, const char *name) {
  return fail(QWEN35_ERROR_ARGUMENT, "%s: %s is NULL", call, name);
}

// name: of the struct, without its prefix. The size tells which version of the header was used.
[[nodiscard]] inline Status check_struct_size(const char *name, uint32_t found, size_t expected) {
  if (found == expected) return kOk;
  return fail(QWEN35_ERROR_ARGUMENT, "qwen35_%s.struct_size: expected %zu, found %u", name,
              expected, found);
}

// Puts the name of the file before the message of what failed with it, unless it is there already.
[[nodiscard]] inline Status name_file(Status status, const char *path) {
  if (status == QWEN35_ERROR_ARGUMENT || status == QWEN35_ERROR_CPU) return status;
  const char *slash = std::strrchr(path, '/');
  const char *name = slash == nullptr ? path : slash + 1;
  const size_t length = std::strlen(name);
  char message[1024];
  std::snprintf(message, sizeof message, "%s", last_error());
  const bool first = std::strncmp(message, name, length) == 0 && message[length] == ':';
  if (first || (status == QWEN35_ERROR_IO && std::strstr(message, path) != nullptr)) return status;
  return fail(status, "%s: %s", name, message);
}

}  // namespace q35
