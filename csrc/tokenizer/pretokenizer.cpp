// A hand-written matcher: one look at the first two characters decides the alternative, since each
// alternative of the expression is a run of one class with at most one character before it.
#include "tokenizer/pretokenizer.h"

#include "tokenizer/unicode.h"

namespace q35 {

namespace {

// Class of the character at text[at]; *next is the place behind it.
inline CharClass class_at(std::string_view text, size_t at, size_t *next) {
  *next = at;
  return static_cast<CharClass>(char_info(decode_utf8(text, next)).char_class);
}

inline bool is_word(CharClass c) {
  return c == CharClass::Letter || c == CharClass::Mark;
}

inline bool is_space(CharClass c) {
  return c == CharClass::Space || c == CharClass::Newline;
}

size_t end_of_word(std::string_view text, size_t at) {
  for (size_t next = 0; at < text.size() && is_word(class_at(text, at, &next));) at = next;
  return at;
}

// [^\s\p{L}\p{M}\p{N}]*[\r\n]*
size_t end_of_symbols(std::string_view text, size_t at) {
  for (size_t next = 0; at < text.size() && class_at(text, at, &next) == CharClass::Other;) {
    at = next;
  }
  while (at < text.size() && (text[at] == '\r' || text[at] == '\n')) at++;
  return at;
}

// 's 't 're 've 'm 'll 'd in any case; returns `at` when there is none. The long s folds to s.
size_t end_of_contraction(std::string_view text, size_t at) {
  const auto lower = [text](size_t i) -> char {
    if (i >= text.size()) return '\0';
    const char c = text[i];
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
  };
  const char first = lower(at + 1), second = lower(at + 2);
  switch (first) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return at + 2;
    case 'r':
    case 'v':
      return second == 'e' ? at + 3 : at;
    case 'l':
      return second == 'l' ? at + 3 : at;
    default:
      return text.substr(at + 1, 2) == "\xc5\xbf" ? at + 3 : at;
  }
}

// A run of white space: up to its last line break; without one, all but its last character when
// something follows, for that character may begin the next piece.
size_t end_of_spaces(std::string_view text, size_t at) {
  const size_t begin = at;
  size_t last = at, after_break = at;  // last: start of the last character
  for (size_t next = 0; at < text.size(); at = next) {
    const CharClass c = class_at(text, at, &next);
    if (!is_space(c)) break;
    if (c == CharClass::Newline) after_break = next;
    last = at;
  }
  if (after_break != begin) return after_break;
  return at == text.size() || last == begin ? at : last;
}

}  // namespace

size_t next_piece(std::string_view text, size_t at) {
  if (text[at] == '\'') {
    const size_t end = end_of_contraction(text, at);
    if (end != at) return end;
  }
  size_t second = 0, third = 0;
  const CharClass first_class = class_at(text, at, &second);
  if (first_class == CharClass::Number) return second;
  if (is_word(first_class)) return end_of_word(text, second);
  if (first_class == CharClass::Newline) return end_of_spaces(text, at);
  if (second == text.size()) return second;
  const CharClass second_class = class_at(text, second, &third);
  if (is_word(second_class)) return end_of_word(text, third);
  if (first_class == CharClass::Other) return end_of_symbols(text, second);
  if (text[at] == ' ' && second_class == CharClass::Other) return end_of_symbols(text, third);
  return end_of_spaces(text, at);
}

}  // namespace q35
