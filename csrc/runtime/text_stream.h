// TextStream: token bytes in, whole UTF-8 characters out, up to the first stop string.
// Bytes pass a stop-string matcher, which holds back what may become a stop string, and then a
// decoder, which holds back a character's first bytes. The text that comes out does not depend on
// how the bytes were divided into tokens.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/array.h"
#include "base/status.h"
#include "tokenizer/tokenizer.h"

namespace q35 {

// Incremental UTF-8 decoder. Each maximal ill-formed part (Unicode, section 3.9: what Python's
// errors="replace" does) becomes one U+FFFD as soon as it is certain.
class Utf8Filter {
 public:
  // The most bytes that n input bytes can add to `out`, pending ones included.
  static size_t bound(size_t n) { return 3 * (n + 1); }
  // `out` has room for bound(1) more bytes.
  void push(uint8_t byte, Array<char> *out);
  // Gives a truncated character as U+FFFD.
  void flush(Array<char> *out);

 private:
  void start(uint8_t byte, Array<char> *out);

  uint8_t held_[4] = {};  // the first bytes of a character
  uint32_t n_held_ = 0;
  uint32_t n_total_ = 0;  // bytes of that character
  uint8_t lowest_ = 0;    // range of its next byte
  uint8_t highest_ = 0;
};

class TextStream {
 public:
  static constexpr size_t kMaxStops = 16;
  static constexpr size_t kMaxStopBytes = 256;

  // stops: [n_stops] strings of 1 to kMaxStopBytes bytes, any bytes; copied. tokenizer: may be null
  // when only bytes are pushed, else it outlives the stream. special: control tokens print.
  [[nodiscard]] Status init(const Tokenizer *tokenizer, const std::string_view *stops,
                            size_t n_stops, bool special);

  // *text: what can be shown now, valid until the next call. *stopped: the index of the stop string
  // met, else -1. That is the one completed first; of several completed by the same byte the
  // longest; of equal ones the first. Text before it is given in full, later text never. Once
  // stopped, further pushes give no text and the same index; after finish() they are refused.
  // A failure leaves the stream as it was.
  [[nodiscard]] Status push(int32_t token, std::string_view *text, int32_t *stopped);
  [[nodiscard]] Status push_bytes(std::string_view bytes, std::string_view *text, int32_t *stopped);
  // Gives what was held back, a truncated character as U+FFFD.
  [[nodiscard]] Status finish(std::string_view *text);

 private:
  struct Stop {
    uint32_t offset;  // of its bytes in stop_bytes_ and of its borders in borders_
    uint32_t length;
    uint32_t matched;  // longest prefix of the string that the bytes so far end with
  };

  Status add_stop(std::string_view bytes);
  void advance(Stop *stop, char byte) const;
  int32_t match(char byte);
  void release(size_t n);

  const Tokenizer *tokenizer_ = nullptr;
  bool special_ = false;
  bool finished_ = false;
  int32_t stopped_ = -1;
  Array<Stop> stops_;
  Array<char> stop_bytes_;
  Array<uint32_t> borders_;  // Knuth-Morris-Pratt: [i] longest proper border of the first i+1 bytes
  Array<char> held_;         // bytes that may become a stop string
  Utf8Filter filter_;
  Array<char> out_;
};

}  // namespace q35

// The handle of the C API.
struct qwen35_stream {
  q35::TextStream stream;
};
