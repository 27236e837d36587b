// Checks the text stream against whole-text references written from the definitions: stop strings
// by comparing every suffix, ill-formed UTF-8 by the set of all prefixes of well-formed characters.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "runtime/text_stream.h"

namespace {

using q35::TextStream;
using Strings = std::vector<std::string>;

int g_failures = 0;

std::string escaped(const std::string &text) {
  std::string out;
  char hex[8];
  for (const char c : text) {
    std::snprintf(hex, sizeof hex, c >= 32 && c < 127 ? "%c" : "\\x%02x", c & 0xff);
    out += hex;
  }
  return out;
}

void expect_text(const char *what, const std::string &found, const std::string &expected) {
  if (found == expected) return;
  g_failures++;
  std::printf("FAIL %s: found \"%s\", expected \"%s\"\n", what, escaped(found).c_str(),
              escaped(expected).c_str());
}

void expect(bool ok, const char *what, long found = 0, long expected = 0) {
  if (ok) return;
  g_failures++;
  std::printf("FAIL %s: found %ld, expected %ld\n", what, found, expected);
}

std::string encode(uint32_t code) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | ((code >> shift) & 0x3f)); };
  if (code < 0x80) return {static_cast<char>(code)};
  if (code < 0x800) return {static_cast<char>(0xc0 | (code >> 6)), tail(0)};
  if (code < 0x10000) return {static_cast<char>(0xe0 | (code >> 12)), tail(6), tail(0)};
  return {static_cast<char>(0xf0 | (code >> 18)), tail(12), tail(6), tail(0)};
}

// The prefixes of all well-formed characters, by length.
class Prefixes {
 public:
  Prefixes() : known_(size_t{1} << 26) {
    for (uint32_t code = 0; code < 0x110000; code++) {
      if (code >= 0xd800 && code < 0xe000) continue;
      const std::string bytes = encode(code);
      for (size_t n = 1; n < bytes.size(); n++) known_[key(bytes, 0, n)] = true;
    }
  }
  // Whether the n bytes of `text` at `at` begin a character without ending it.
  bool open(const std::string &text, size_t at, size_t n) const {
    return n < 4 && at + n <= text.size() && known_[key(text, at, n)];
  }

 private:
  static size_t key(const std::string &text, size_t at, size_t n) {
    size_t key = n;
    for (size_t i = 0; i < n; i++) key = key << 8 | static_cast<uint8_t>(text[at + i]);
    return key;  // the length is the leading digit: at most 3 << 24 | 24 bits
  }
  std::vector<bool> known_;
};

const Prefixes g_prefixes;

// Well-formed characters are the ones whose bytes before the last are open and whose last is a
// continuation byte. ends: the text is complete; otherwise a trailing open character is left out.
std::string decode(const std::string &text, bool ends) {
  std::string out;
  size_t at = 0;
  while (at < text.size()) {
    const uint8_t lead = static_cast<uint8_t>(text[at]);
    size_t n = 1;
    while (g_prefixes.open(text, at, n) && g_prefixes.open(text, at, n + 1)) n++;
    const bool open = g_prefixes.open(text, at, n);
    const size_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (open && at + n == text.size() && !ends) break;
    const bool whole = open && n + 1 == length && at + n < text.size() &&
                       (static_cast<uint8_t>(text[at + n]) & 0xc0) == 0x80;
    if (lead < 0x80 || whole) {
      out += text.substr(at, length);
      at += length;
    } else {
      out += "\xEF\xBF\xBD";
      at += n;
    }
  }
  return out;
}

bool ends_with(const std::string &text, size_t end, const std::string &suffix, size_t n) {
  return end >= n && text.compare(end - n, n, suffix, 0, n) == 0;
}

struct Expected {
  std::string text;
  int32_t stopped;
};

// What must have been shown once `raw` was pushed.
Expected shown_after(const std::string &raw, const Strings &stops, bool finished) {
  for (size_t end = 1; end <= raw.size(); end++) {
    int32_t best = -1;
    for (size_t i = 0; i < stops.size(); i++) {
      if (!ends_with(raw, end, stops[i], stops[i].size())) continue;
      if (best < 0 || stops[i].size() > stops[best].size()) best = static_cast<int32_t>(i);
    }
    if (best >= 0) return {decode(raw.substr(0, end - stops[best].size()), true), best};
  }
  size_t held = 0;
  for (const std::string &stop : stops) {
    for (size_t n = 1; n < stop.size(); n++) {
      if (ends_with(raw, raw.size(), stop, n)) held = std::max(held, n);
    }
  }
  if (finished) return {decode(raw, true), -1};
  return {decode(raw.substr(0, raw.size() - held), false), -1};
}

void init(TextStream *stream, const Strings &stops) {
  std::vector<std::string_view> views(stops.begin(), stops.end());
  expect(stream->init(nullptr, views.data(), views.size(), false) == q35::kOk, q35::last_error());
}

// Feeds the pieces and compares everything shown after each with the reference.
void check(const char *what, const Strings &pieces, const Strings &stops) {
  TextStream stream;
  init(&stream, stops);
  std::string raw;
  std::string shown;
  std::string_view text;
  int32_t stopped = -1;
  for (const std::string &piece : pieces) {
    raw += piece;
    expect(stream.push_bytes(piece, &text, &stopped) == q35::kOk, "push");
    shown += text;
    const Expected expected = shown_after(raw, stops, false);
    expect_text(what, shown, expected.text);
    expect(stopped == expected.stopped, what, stopped, expected.stopped);
  }
  expect(stream.finish(&text) == q35::kOk && text.data() != nullptr, "finish");
  shown += text;
  expect_text(what, shown, shown_after(raw, stops, true).text);
  expect(stream.push_bytes("x", &text, &stopped) == QWEN35_ERROR_ARGUMENT, "push after finish");
}

Strings split(const std::string &text, size_t at) {
  return {text.substr(0, at), text.substr(at)};
}

Strings bytes_of(const std::string &text) {
  Strings pieces;
  for (const char c : text) pieces.push_back(std::string(1, c));
  return pieces;
}

void check_characters() {
  const std::string text = "a\u00e9\u65e5\u672c\U0001F600\U0001F469\u200D\U0001F680z";
  for (size_t at = 0; at <= text.size(); at++) {
    check("split character", split(text, at), {});
    check("truncated character", {text.substr(0, at)}, {});
    check("cut-off start", bytes_of(text.substr(at)), {});
  }
  check("bytes", bytes_of(text), {});
}

// Known results of Python's bytes.decode("utf-8", "replace"); R stands for U+FFFD.
void check_replacement() {
  const struct {
    const char *bytes, *expected;
  } cases[] = {
      {"\x80", "R"},
      {"\xC0\xAF", "RR"},
      {"\xE0\x80\xAF", "RRR"},
      {"\xED\xA0\x80", "RRR"},
      {"\xF4\x90\x80\x80", "RRRR"},
      {"\xF0\x9F\x98", "R"},
      {"\xF0\x9F\x98"
       "A",
       "RA"},
      {"\xE6\x97"
       "\xE6\x97\xA5",
       "R\xE6\x97\xA5"},
      {"\xF0\x9F\xF0\x9F\x98\x80", "R\xF0\x9F\x98\x80"},
      {"\xF5\x80\x80\x80", "RRRR"},
      {"\xFF\xFE"
       "A",
       "RRA"},
      {"A\xC3", "AR"},
  };  // clang-format keeps the split literals: a hex escape would swallow the next letter
  for (const auto &c : cases) {
    std::string expected;
    for (const char *p = c.expected; *p != '\0'; p++) {
      expected += *p == 'R' ? std::string("\xEF\xBF\xBD") : std::string(1, *p);
    }
    expect_text("reference decoder", decode(c.bytes, true), expected);
    check("replacement", {c.bytes}, {});
    check("replacement bytewise", bytes_of(c.bytes), {});
  }
}

void check_stops() {
  const Strings stops = {"</answer>", "\n\nUser:", "aab", "\U0001F600!"};
  const Strings texts = {"42</answer> more",        "hm\n\n\n\nUser: hi", "aaaaab",
                         "x\U0001F600\U0001F600!y", "</answer",           "no stop"};
  for (const std::string &text : texts) {
    check("stop bytewise", bytes_of(text), stops);
    for (size_t at = 0; at <= text.size(); at++) check("stop", split(text, at), stops);
  }
  check("completed first", {"abcdef"}, {"abcdef", "cd"});
  check("longest at the same byte", {"xabcd"}, {"cd", "abcd", "bcd"});
  check("first of equals", {"xy"}, {"y", "y"});
  check("a part of a character", {"a\u65e5"}, {"\x97"});
  check("a zero byte", {std::string("a\0b", 3)}, {std::string("\0b", 2)});
  check("pushes after the stop", {"ab", "cd", "ef"}, {"b"});
  check("truncated before the stop", {"\xE6\x97", "<end>"}, {"<end>"});
  std::string_view text;
  int32_t stopped = 0;
  TextStream stream;
  init(&stream, {"ab"});
  expect(stream.push_bytes("xa", &text, &stopped) == q35::kOk && text == "x", "held back");
  expect(stream.push_bytes("c", &text, &stopped) == q35::kOk && text == "ac", "given later");
}

void check_limits() {
  const auto refused = [](const Strings &stops, const char *message) {
    TextStream stream;
    std::vector<std::string_view> views(stops.begin(), stops.end());
    expect(stream.init(nullptr, views.data(), views.size(), false) == QWEN35_ERROR_ARGUMENT,
           message);
    expect(std::strstr(q35::last_error(), message) != nullptr, q35::last_error());
  };
  refused(Strings(17, "x"), "17 stop strings: expected at most 16");
  refused({"a", ""}, "stop string 1 has 0 bytes");
  refused({std::string(257, 'x')}, "stop string 0 has 257 bytes");
  Strings most;
  for (int i = 0; i < 16; i++) most.push_back(std::string(255, 'x') + static_cast<char>('a' + i));
  check("largest", {std::string(300, 'x'), "xq", std::string(254, 'x'), "xxxp"}, most);
}

// Random bytes of a small alphabet, so that stop strings and ill-formed sequences are frequent.
void check_random_streams() {
  uint64_t state = 1;
  const auto random = [&](uint32_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>((state >> 33) % n);
  };
  const Strings alphabet = {"a",    "b",    "\xC3", "\xA9", "\xE6",   "\x97",
                            "\xF0", "\x9F", "\x80", "\xED", "\u65e5", "\U0001F600",
                            "\xE0", "\xF4", "\xFF", "\xF5", "ab",     "a\xF0\x9F"};
  const auto word = [&](uint32_t most) {
    std::string out;
    const uint32_t n = random(most);
    for (uint32_t i = 0; i <= n; i++) {
      out += alphabet[random(2) == 0 ? random(2) : random(static_cast<uint32_t>(alphabet.size()))];
    }
    return out;
  };
  for (int round = 0; round < 20000; round++) {
    Strings pieces, stops;
    const uint32_t n_pieces = random(12);
    for (uint32_t i = 0; i < n_pieces; i++) pieces.push_back(random(8) == 0 ? "" : word(3));
    const uint32_t n_stops = random(4);
    for (uint32_t i = 0; i < n_stops; i++) stops.push_back(word(5));
    check("random", pieces, stops);
    if (g_failures > 10) return;
  }
}

}  // namespace

int main() {
  check_characters();
  check_replacement();
  check_stops();
  check_limits();
  check_random_streams();
  std::printf(g_failures == 0 ? "ok\n" : "%d failures\n", g_failures);
  return g_failures == 0 ? 0 : 1;
}
