// Checks of the tokenizer that need no reference. With `encode VOCABULARY` it is instead a filter
// that test_tokenizer.py compares with the `tokenizers` library, text by text.
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "tokenizer/pretokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace {

using namespace q35;

int g_failures = 0;

#define CHECK(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::printf("%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, last_error()); \
      g_failures++;                                                                  \
    }                                                                                \
  } while (0)

// A vocabulary in GGUF form.
struct Vocabulary {
  std::vector<std::string> tokens, merges;
  std::vector<int32_t> types;

  int32_t add(const std::string &token, int32_t type = QWEN35_TOKEN_NORMAL) {
    tokens.push_back(token);
    types.push_back(type);
    return static_cast<int32_t>(tokens.size()) - 1;
  }

  Status build(Tokenizer *tokenizer) const {
    Array<std::string_view> token_views, merge_views;
    Array<int32_t> type_array;
    for (const std::string &token : tokens) Q35_TRY(token_views.push_back(token));
    for (const std::string &merge : merges) Q35_TRY(merge_views.push_back(merge));
    Q35_TRY(type_array.append(types.data(), types.size()));
    return tokenizer->build(token_views, type_array, merge_views);
  }
};

// The 256 single bytes: ids 0..187 are the printable ones, then the rest in ascending order.
Vocabulary bytes_only() {
  Vocabulary v;
  char text[4];
  std::vector<int> rest;
  for (int b = 0; b < 256; b++) {
    const bool printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
    if (printable) v.add(std::string(text, encode_utf8(static_cast<uint32_t>(b), text)));
    if (!printable) rest.push_back(b);
  }
  for (size_t i = 0; i < rest.size(); i++) {
    v.add(std::string(text, encode_utf8(static_cast<uint32_t>(256 + i), text)));
  }
  return v;
}

std::vector<int32_t> ids(const Tokenizer &tokenizer, std::string_view text, bool special = true) {
  Array<int32_t> out;
  CHECK(tokenizer.encode(text, special, SIZE_MAX, &out) == kOk);
  return std::vector<int32_t>(out.begin(), out.end());
}

std::string nfc(std::string_view text) {
  Array<char> buffer;
  std::string_view out;
  CHECK(normalize_nfc(text, &buffer, &out) == kOk);
  return std::string(out);
}

std::string repaired(std::string_view text) {
  Array<char> buffer;
  std::string_view out;
  CHECK(repair_utf8(text, &buffer, &out) == kOk);
  return std::string(out);
}

std::string pieces(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = next_piece(text, at);
    CHECK(end > at && end <= text.size());
    if (!out.empty()) out += '|';
    out += text.substr(at, end - at);
    at = end;
  }
  return out;
}

void check_repair() {
  CHECK(repaired("plain") == "plain");
  CHECK(repaired("\xe2\x82\xac") == "\xe2\x82\xac");
  CHECK(repaired("\xe2\x82") == "\xef\xbf\xbd");                              // one maximal part
  CHECK(repaired("\xe2\x28") == "\xef\xbf\xbd(");                             // stops before ASCII
  CHECK(repaired("\xed\xa0\x80") == "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");  // a surrogate
  CHECK(repaired("\xc0\xaf") == "\xef\xbf\xbd\xef\xbf\xbd");                  // overlong
  CHECK(repaired("\xf4\x90\x80\x80").size() == 12);                           // above U+10FFFF
  CHECK(repaired("a\xf0\x9f\x98") == "a\xef\xbf\xbd");
}

void check_nfc() {
  CHECK(nfc("e\xcc\x81") == "\xc3\xa9");
  CHECK(nfc("\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab") == "\xed\x95\x9c");  // Hangul jamo
  CHECK(nfc("a\xcc\x81\xcc\xa3") == "\xe1\xba\xa1\xcc\x81");             // reordered, composed
  CHECK(nfc("\xe0\xa5\x98") == "\xe0\xa4\x95\xe0\xa4\xbc");              // excluded composite
  CHECK(nfc("\xcc\x81"
            "e") ==
        "\xcc\x81"
        "e");
  std::string marks = "q";
  for (int i = 0; i < 40; i++) marks += i % 2 ? "\xcc\x8d" : "\xcc\xa3";  // classes 230 and 220
  std::string sorted = "q";
  for (int i = 0; i < 20; i++) sorted += "\xcc\xa3";
  for (int i = 0; i < 20; i++) sorted += "\xcc\x8d";
  CHECK(nfc(marks) == sorted);
}

void check_pieces() {
  CHECK(pieces("I'll've 'S") == "I|'ll|'ve| '|S");
  CHECK(pieces("it'\xc5\xbf") == "it|'\xc5\xbf");
  CHECK(pieces("a  b\t\n  c ") == "a| | b|\t\n| | c| ");
  CHECK(pieces("x=12.5!?\n\ny") == "x|=|1|2|.|5|!?\n\n|y");
  CHECK(pieces("  \n \n  z") == "  \n \n| | z");
  CHECK(pieces("'r") == "'r");
  CHECK(pieces(" 7") == " |7");
}

void check_merging() {
  Vocabulary v = bytes_only();
  const int32_t ab = v.add("ab"), bc = v.add("bc"), abc = v.add("abc"), aa = v.add("aa");
  const int32_t tag = v.add("<t>", QWEN35_TOKEN_CONTROL);
  const int32_t longer = v.add("<t>x", QWEN35_TOKEN_USER_DEFINED);
  const int32_t unused = v.add("[PAD]", QWEN35_TOKEN_UNUSED);
  v.merges = {"b c", "a b", "a bc", "a a"};
  Tokenizer t;
  CHECK(v.build(&t) == kOk);
  const int32_t a = 'a' - '!', b = 'b' - '!', x = 'x' - '!';
  CHECK((ids(t, "ab") == std::vector<int32_t>{ab}));
  CHECK((ids(t, "bc") == std::vector<int32_t>{bc}));
  CHECK((ids(t, "abc") == std::vector<int32_t>{abc}));
  CHECK((ids(t, "aaab") == std::vector<int32_t>{aa, ab}));
  CHECK((ids(t, "aaa") == std::vector<int32_t>{aa, a}));  // the leftmost of equals
  CHECK((ids(t, "<t><t>xx") == std::vector<int32_t>{tag, longer, x}));
  CHECK(ids(t, "<t>", false).size() == 3);
  CHECK(ids(t, "[PAD]").size() == 5);
  CHECK(ids(t, "").empty());
  CHECK(t.special_id("<t>") == tag && t.special_id("<t") == -1 && t.special_id("[PAD]") == -1);
  CHECK(t.bytes(bc) == "bc" && t.bytes(tag) == "<t>" && t.bytes(unused).empty());
  CHECK(t.type(longer) == TokenType::UserDefined && t.size() == unused + 1);
  // Short pieces are scanned, long ones use a heap: both merge alike.
  for (size_t n = 1; n < 200; n++) {
    std::string text;
    std::vector<int32_t> expected;
    for (size_t i = 0; i < n; i++) text += "abb";
    for (size_t i = 0; i < n; i++) expected.insert(expected.end(), {ab, b});
    CHECK(ids(t, text) == expected);
  }
}

void check_limits() {
  Vocabulary v = bytes_only();
  const int32_t tag = v.add("<t>", QWEN35_TOKEN_CONTROL);
  Tokenizer t;
  CHECK(v.build(&t) == kOk);
  Array<int32_t> out;
  CHECK(t.encode("abc", true, 3, &out) == kOk && out.size() == 3);
  CHECK(t.encode("abc", true, 3, &out) == kOk && out.size() == 6);  // the limit is per call
  CHECK(t.encode("abcd", true, 3, &out) == QWEN35_ERROR_CONTEXT);
  CHECK(std::strstr(last_error(), "more than 3 tokens") != nullptr);
  out.clear();
  CHECK(t.encode("ab<t>", true, 2, &out) == QWEN35_ERROR_CONTEXT);
  CHECK(t.encode("", true, 0, &out) == kOk);
  out.clear();
  CHECK(t.encode("<t>", true, 1, &out) == kOk && out.size() == 1 && out[0] == tag);
}

Status build_error(const Vocabulary &v, const char *part_of_message) {
  Tokenizer t;
  const Status status = v.build(&t);
  if (std::strstr(last_error(), part_of_message) == nullptr) {
    std::printf("expected \"%s\" in \"%s\"\n", part_of_message, last_error());
    g_failures++;
  }
  return status;
}

void check_refusals() {
  const auto with = [](const char *token, int32_t type, const char *merge) {
    Vocabulary v = bytes_only();
    if (token != nullptr) v.add(token, type);
    if (merge != nullptr) v.merges.push_back(merge);
    return v;
  };
  const int32_t normal = QWEN35_TOKEN_NORMAL, control = QWEN35_TOKEN_CONTROL;
  const Status model = QWEN35_ERROR_MODEL;
  CHECK(build_error(with("", normal, nullptr), "token 256 is empty") == model);
  CHECK(build_error(with("a", control, nullptr), "token 256 repeats token 64: \"a\"") == model);
  CHECK(build_error(with("a b", normal, nullptr), "token 256 has a character outside") == model);
  CHECK(build_error(with("ab", 2, nullptr), "token 256 has type 2") == model);
  CHECK(build_error(with("\xff<", control, nullptr), "token 256 is not UTF-8: \"\\xff<\"") ==
        model);
  CHECK(build_error(with("ab", normal, "ab"), "merge 0 is not two tokens") == model);
  CHECK(build_error(with("ab", normal, "a b c"), "merge 0 is not two tokens") == model);
  CHECK(build_error(with("ab", normal, "a c"), "the result is not a normal token") == model);
  CHECK(build_error(with("ab", control, "a b"), "the result is not a normal token") == model);
  CHECK(build_error(with("ab", normal, "a "), "the right part is not") == model);
  CHECK(build_error(with("ab", normal, "xx b"), "the left part is not a normal token: \"xx\" +") ==
        model);
  Vocabulary twice = with("ab", normal, "a b");
  twice.merges.push_back("a b");
  CHECK(build_error(twice, "merge 1 repeats an earlier one") == model);
  Vocabulary incomplete = bytes_only();
  incomplete.tokens.pop_back();
  incomplete.types.pop_back();
  CHECK(build_error(incomplete, "no normal token for byte 0xad") == model);
  incomplete.types.pop_back();
  CHECK(build_error(incomplete, "255 tokens but 254 types") == model);
  CHECK(build_error(Vocabulary(), "no normal token for byte 0x00") == model);
  const std::string huge(1000, '\x01');
  CHECK(build_error(with(huge.c_str(), normal, nullptr), "\\x01\"...") == model);
}

// ---- random vocabularies and texts --------------------------------------------------------------

// xorshift64: the same sequence everywhere.
struct Random {
  uint64_t state = 0x9e3779b97f4a7c15u;
  size_t below(size_t n) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return static_cast<size_t>(state >> 16) % n;
  }
};

std::string random_bytes(Random *random, size_t most) {
  static const char *const parts[] = {"a",   "b",        "ab",           " ",           "\n",
                                      "<t>", "<",        "'s",           "1",           "\xcc\x81",
                                      "e",   "\xcc\xa3", "\xe1\x84\x80", "\xe1\x85\xa1"};
  std::string text;
  for (size_t n = random->below(most); n > 0; n--) {
    if (random->below(4) == 0) {
      text += static_cast<char>(random->below(256));
    } else {
      text += parts[random->below(sizeof parts / sizeof parts[0])];
    }
  }
  return text;
}

void mutate(Random *random, Vocabulary *v) {
  const auto any = [random](std::vector<std::string> *list) -> std::string & {
    return (*list)[random->below(list->size())];
  };
  std::string &target = random->below(3) == 0 ? any(&v->tokens) : any(&v->merges);
  if (target.empty()) return;
  switch (random->below(5)) {
    case 0:
      target[random->below(target.size())] = static_cast<char>(random->below(256));
      break;
    case 1:
      target.resize(random->below(target.size() + 1));
      break;
    case 2:
      target += random_bytes(random, 100);
      break;
    case 3:
      v->types[random->below(v->types.size())] = static_cast<int32_t>(random->below(8)) - 1;
      break;
    default:
      std::swap(target, any(&v->merges));
  }
}

// Whatever the vocabulary, ids are valid and stand for the repaired text in NFC. What stands
// between special tokens is normalised by itself, so then only up to NFC of the whole.
void check_round_trip(const Tokenizer &t, std::string_view text, bool special) {
  std::string joined;
  for (const int32_t id : ids(t, text, special)) {
    CHECK(id >= 0 && id < t.size() && t.type(id) != TokenType::Unused);
    joined += t.bytes(id);
  }
  CHECK(special ? nfc(joined) == nfc(repaired(text)) : joined == nfc(repaired(text)));
}

void check_random() {
  Vocabulary base = bytes_only();
  for (const char *token : {"ab", "aab", "abab", "\xc3\x8c\xc2\xa3"}) base.add(token);
  base.add("<t>", QWEN35_TOKEN_CONTROL);
  base.add("<t><t>", QWEN35_TOKEN_USER_DEFINED);
  base.add("[PAD]", QWEN35_TOKEN_UNUSED);
  base.merges = {"a b", "ab ab", "a ab"};
  Random random;
  int built = 0;
  for (int round = 0; round < 4000; round++) {
    Vocabulary v = base;
    for (size_t n = random.below(3); n > 0; n--) mutate(&random, &v);
    Tokenizer t;
    if (v.build(&t) != kOk) continue;
    built++;
    const std::string text = random_bytes(&random, 60);
    check_round_trip(t, text, false);
    check_round_trip(t, text, true);
  }
  CHECK(built > 1000);
}

// ---- the filter --------------------------------------------------------------------------------

bool read_bytes(FILE *file, void *out, size_t n) {
  return std::fread(out, 1, n, file) == n;
}

bool read_string(FILE *file, std::string *out) {
  uint32_t n = 0;
  if (!read_bytes(file, &n, 4)) return false;
  out->resize(n);
  return read_bytes(file, &(*out)[0], n);
}

// u32 number of tokens; per token i32 type and string; u32 number of merges; per merge a string.
// A string is a u32 length and bytes.
bool read_vocabulary(const char *path, Vocabulary *v) {
  FILE *file = std::fopen(path, "rb");
  if (file == nullptr) return false;
  uint32_t n = 0;
  bool ok = read_bytes(file, &n, 4);
  for (uint32_t i = 0; ok && i < n; i++) {
    int32_t type = 0;
    std::string token;
    ok = read_bytes(file, &type, 4) && read_string(file, &token);
    v->add(token, type);
  }
  ok = ok && read_bytes(file, &n, 4);
  v->merges.resize(ok ? n : 0);
  for (std::string &merge : v->merges) ok = ok && read_string(file, &merge);
  std::fclose(file);
  return ok;
}

// Answers each request on stdin (u8 special, string text) with i32 status, u32 count, i32 ids.
int serve(const char *path) {
  Vocabulary v;
  Tokenizer tokenizer;
  if (!read_vocabulary(path, &v) || v.build(&tokenizer) != kOk) {
    std::fprintf(stderr, "%s: %s\n", path, last_error());
    return 1;
  }
  uint8_t special = 0;
  std::string text;
  Array<int32_t> out;
  while (read_bytes(stdin, &special, 1) && read_string(stdin, &text)) {
    out.clear();
    const int32_t status = tokenizer.encode(text, special != 0, SIZE_MAX, &out);
    const uint32_t count = static_cast<uint32_t>(out.size());
    std::fwrite(&status, 4, 1, stdout);
    std::fwrite(&count, 4, 1, stdout);
    if (count != 0) std::fwrite(out.data(), 4, count, stdout);
  }
  return 0;
}

}  // namespace

int main(int argc, char **argv) {
  if (argc == 3 && std::strcmp(argv[1], "encode") == 0) return serve(argv[2]);
  check_repair();
  check_nfc();
  check_pieces();
  check_merging();
  check_limits();
  check_refusals();
  check_random();
  if (g_failures == 0) std::printf("tokenizer: all checks passed\n");
  return g_failures == 0 ? 0 : 1;
}
