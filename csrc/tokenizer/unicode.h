// UTF-8 and the Unicode facts that tokenization needs: character classes, NFC.
// The tables are generated (generate_unicode.py) to agree with the `tokenizers` library.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/array.h"
#include "base/status.h"

namespace q35 {

// What the pre-tokenizer's expression distinguishes. Newline is CR or LF, which are also space.
enum class CharClass : uint8_t { Other, Letter, Mark, Number, Space, Newline };

struct CharInfo {
  uint8_t char_class;
  uint8_t combining_class;
  uint8_t nfc_stable;  // never changes under NFC, nor composes with what stands before it
};

extern const CharInfo kCharInfo[];
extern const uint16_t kBlockOf[];
extern const uint8_t kInfoOf[];

// cp < 0x110000
inline const CharInfo &char_info(uint32_t cp) {
  return kCharInfo[kInfoOf[kBlockOf[cp >> 7] * 128u + (cp & 127)]];
}

// Decodes the character at text[*at], which is well-formed UTF-8, and moves *at behind it.
inline uint32_t decode_utf8(std::string_view text, size_t *at) {
  const unsigned char *p = reinterpret_cast<const unsigned char *>(text.data()) + *at;
  if (p[0] < 0x80) {
    *at += 1;
    return p[0];
  }
  if (p[0] < 0xe0) {
    *at += 2;
    return (p[0] & 31u) << 6 | (p[1] & 63u);
  }
  if (p[0] < 0xf0) {
    *at += 3;
    return (p[0] & 15u) << 12 | (p[1] & 63u) << 6 | (p[2] & 63u);
  }
  *at += 4;
  return (p[0] & 7u) << 18 | (p[1] & 63u) << 12 | (p[2] & 63u) << 6 | (p[3] & 63u);
}

// Writes cp to out[0..4) and returns the number of bytes.
size_t encode_utf8(uint32_t cp, char *out);

// Bytes of the ASCII run at text[at].
size_t ascii_run(std::string_view text, size_t at);

// *out is `text` when that is well-formed UTF-8. Otherwise it is a copy in *buffer with U+FFFD for
// every maximal ill-formed part, as Python's bytes.decode("utf-8", errors="replace") writes it.
[[nodiscard]] Status repair_utf8(std::string_view text, Array<char> *buffer, std::string_view *out);

// *out is the NFC of `text` (well-formed UTF-8): `text` itself when it is normalised already, else
// a copy in *buffer. Linear in the length of the text.
[[nodiscard]] Status normalize_nfc(std::string_view text, Array<char> *buffer,
                                   std::string_view *out);

}  // namespace q35
