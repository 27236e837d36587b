// UTF-8 repair, and the generated character tables.
#include "tokenizer/unicode.h"

#include <cstring>

namespace q35 {

namespace {

// Length of the well-formed character at p, or 0; then *bad is the length of the ill-formed part:
// the longest start of a character that could have become well-formed, at least one byte.
size_t valid_length(const unsigned char *p, const unsigned char *end, size_t *bad) {
  *bad = 1;
  if (p[0] < 0x80) return 1;
  if (p[0] < 0xc2 || p[0] > 0xf4) return 0;
  const size_t length = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
  // The second byte excludes overlong forms, surrogates and values above U+10FFFF.
  const unsigned char low = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
  const unsigned char high = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
  if (end - p < 2 || p[1] < low || p[1] > high) return 0;
  for (*bad = 2; *bad < length; ++*bad) {
    if (p + *bad == end || (p[*bad] & 0xc0) != 0x80) return 0;
  }
  return length;
}

}  // namespace

size_t ascii_run(std::string_view text, size_t at) {
  const size_t start = at;
  for (; at + 8 <= text.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + at, 8);
    if ((word & 0x8080808080808080u) != 0) break;
  }
  while (at < text.size() && static_cast<unsigned char>(text[at]) < 0x80) at++;
  return at - start;
}

size_t encode_utf8(uint32_t cp, char *out) {
  if (cp < 0x80) {
    out[0] = static_cast<char>(cp);
    return 1;
  }
  if (cp < 0x800) {
    out[0] = static_cast<char>(0xc0 | cp >> 6);
    out[1] = static_cast<char>(0x80 | (cp & 63));
    return 2;
  }
  if (cp < 0x10000) {
    out[0] = static_cast<char>(0xe0 | cp >> 12);
    out[1] = static_cast<char>(0x80 | (cp >> 6 & 63));
    out[2] = static_cast<char>(0x80 | (cp & 63));
    return 3;
  }
  out[0] = static_cast<char>(0xf0 | cp >> 18);
  out[1] = static_cast<char>(0x80 | (cp >> 12 & 63));
  out[2] = static_cast<char>(0x80 | (cp >> 6 & 63));
  out[3] = static_cast<char>(0x80 | (cp & 63));
  return 4;
}

Status repair_utf8(std::string_view text, Array<char> *buffer, std::string_view *out) {
  const unsigned char *bytes = reinterpret_cast<const unsigned char *>(text.data());
  const unsigned char *end = bytes + text.size();
  size_t copied = 0;  // text before this is in *buffer, if anything was repaired
  buffer->clear();
  for (size_t at = ascii_run(text, 0); at < text.size(); at += ascii_run(text, at)) {
    size_t bad = 0;
    const size_t length = valid_length(bytes + at, end, &bad);
    if (length == 0) {
      Q35_TRY(buffer->append(text.data() + copied, at - copied));
      Q35_TRY(buffer->append("\xef\xbf\xbd", 3));
      copied = at + bad;
    }
    at += length == 0 ? bad : length;
  }
  if (copied == 0) {
    *out = text;
    return kOk;
  }
  Q35_TRY(buffer->append(text.data() + copied, text.size() - copied));
  *out = std::string_view(buffer->data(), buffer->size());
  return kOk;
}

}  // namespace q35
