// Status codes and the thread's error message.
// Everything that can fail returns a Status; the message is written where the failure happens.
#pragma once

#include "include/qwen35.h"

namespace q35 {

using Status = qwen35_status;

constexpr Status kOk = QWEN35_OK;

// Writes the thread's message (printf style) and returns `code`.
[[nodiscard, gnu::format(printf, 2, 3)]] Status fail(Status code, const char *format, ...);

// The thread's message, "" when the last call succeeded.
const char *last_error();
void clear_error();

}  // namespace q35

// Returns from the calling function when `expr` is not kOk.
#define Q35_TRY(expr)                         \
  do {                                        \
    if (::q35::Status q35_status_ = (expr)) { \
      return q35_status_;                     \
    }                                         \
  } while (0)
