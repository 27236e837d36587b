// Parser of one GGUF header held in memory: metadata, tensor records, and the checks that make the
// records safe to use. Layout: magic, version, counts, key-value pairs, tensor records, padding,
// data.
#pragma once

#include <cstdint>

#include "base/array.h"
#include "base/status.h"
#include "gguf/gguf.h"

namespace q35::gguf {

// Not a failure: the header goes on behind the bytes given. No message is set.
constexpr Status kNeedMore = -1;

struct Header {
  Array<Value> values;        // views into the bytes parsed
  Array<TensorInfo> tensors;  // offsets from the start of the file; shard is 0
  uint64_t bytes = 0;         // from the start of the file to the end of the last record
  uint64_t needed = 0;        // after kNeedMore: parse again with at least this many bytes
};

// Parses the first `size` bytes (size <= file_bytes) of a file of `file_bytes`.
// name: of the file, for messages.
[[nodiscard]] Status parse_header(const char *name, const uint8_t *data, uint64_t size,
                                  uint64_t file_bytes, Header *out);

// The message for a file that does not start with a GGUF header: says what it seems to be.
[[nodiscard]] Status not_gguf(const char *name, const uint8_t *data, uint64_t size);

}  // namespace q35::gguf
