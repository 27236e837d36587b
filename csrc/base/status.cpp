#include "base/status.h"

#include <cstdarg>
#include <cstdio>

namespace q35 {

namespace {
thread_local char t_message[1024];
}

Status fail(Status code, const char *format, ...) {
  va_list args;
  va_start(args, format);
  std::vsnprintf(t_message, sizeof t_message, format, args);
  va_end(args);
  return code;
}

const char *last_error() {
  return t_message;
}

void clear_error() {
  t_message[0] = '\0';
}

}  // namespace q35
