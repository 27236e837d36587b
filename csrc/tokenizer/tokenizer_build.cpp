// Reading a vocabulary: checks, the byte arena, the index of special tokens, the merge table.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "tokenizer/string_index.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace q35 {

// A merge rule on its way from text into the table.
struct PendingMerge {
  std::string_view left, right;
  uint64_t left_hash, right_hash;
  int32_t left_id, right_id, merged_id;
};

namespace {

// A text from the file for a message: at most 64 bytes, anything but printable ASCII escaped.
class Quoted {
 public:
  explicit Quoted(std::string_view text) {
    constexpr size_t kLimit = 64;
    char *p = buffer_;
    *p++ = '"';
    for (const char c : text.substr(0, kLimit)) {
      const unsigned char byte = static_cast<unsigned char>(c);
      if (byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\') {
        *p++ = c;
      } else {
        p += std::snprintf(p, 5, "\\x%02x", byte);
      }
    }
    std::strcpy(p, text.size() > kLimit ? "\"..." : "\"");
  }
  const char *text() const { return buffer_; }

 private:
  char buffer_[64 * 4 + 8];
};

// The printable byte alphabet of GPT-2: printable Latin-1 stands for itself, the other 68 bytes in
// ascending order for U+0100 and up.
struct ByteAlphabet {
  static constexpr uint32_t kChars = 256 + 68;
  uint16_t char_of[256];
  int16_t byte_of[kChars];  // -1: not in the alphabet

  ByteAlphabet() {
    std::fill(std::begin(byte_of), std::end(byte_of), int16_t{-1});
    uint16_t next = 256;
    for (int b = 0; b < 256; b++) {
      const bool printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
      char_of[b] = printable ? static_cast<uint16_t>(b) : next++;
      byte_of[char_of[b]] = static_cast<int16_t>(b);
    }
  }

  // Writes the bytes that `token` stands for to out[0..token.size()) and returns their number;
  // 0 when the token has a character outside the alphabet. All its characters are below U+0144,
  // so one or two bytes long.
  size_t decode(std::string_view token, char *out) const {
    const auto *p = reinterpret_cast<const unsigned char *>(token.data());
    const unsigned char *end = p + token.size();
    size_t n = 0;
    while (p < end) {
      uint32_t c = *p++;
      if (c >= 0x80) {
        if (c < 0xc2 || c > 0xc5 || p == end || (*p & 0xc0) != 0x80) return 0;
        c = (c & 31u) << 6 | (*p++ & 63u);
      }
      if (c >= kChars || byte_of[c] < 0) return 0;
      out[n++] = static_cast<char>(byte_of[c]);
    }
    return n;
  }
};

Status check_sizes(size_t tokens, size_t types, size_t merges) {
  constexpr size_t kMaxTokens = size_t{1} << MergeTable::kIdBits;
  if (tokens != types) {
    return fail(QWEN35_ERROR_MODEL, "the vocabulary has %zu tokens but %zu types", tokens, types);
  }
  if (tokens > kMaxTokens || merges >= MergeTable::kNone) {
    return fail(QWEN35_ERROR_UNSUPPORTED,
                "vocabulary of %zu tokens and %zu merges: at most %zu and %u are supported", tokens,
                merges, kMaxTokens, MergeTable::kNone - 1);
  }
  return kOk;
}

Status index_tokens(const Array<std::string_view> &tokens, StringIndex *index) {
  constexpr size_t kAhead = 8;  // slots are fetched this many tokens early
  uint64_t hashes[kAhead];
  Q35_TRY(index->reserve(tokens));
  for (size_t i = 0; i < tokens.size() + kAhead; i++) {
    if (i >= kAhead) {
      const size_t id = i - kAhead;
      const int32_t same = index->add(static_cast<int32_t>(id), hashes[id % kAhead]);
      if (same >= 0) {
        return fail(QWEN35_ERROR_MODEL, "token %zu repeats token %d: %s", id, same,
                    Quoted(tokens[id]).text());
      }
    }
    if (i < tokens.size()) {
      hashes[i % kAhead] = StringIndex::hash(tokens[i]);
      index->prefetch_slot(hashes[i % kAhead]);
    }
  }
  return kOk;
}

Status copy_types(const Array<int32_t> &types, Array<uint8_t> *out) {
  Q35_TRY(out->resize(types.size()));
  for (size_t i = 0; i < types.size(); i++) {
    const int32_t type = types[i];
    if (type != QWEN35_TOKEN_NORMAL && type != QWEN35_TOKEN_CONTROL &&
        type != QWEN35_TOKEN_USER_DEFINED && type != QWEN35_TOKEN_UNUSED) {
      return fail(QWEN35_ERROR_MODEL, "token %zu has type %d, expected 1, 3, 4 or 5", i, type);
    }
    (*out)[i] = static_cast<uint8_t>(type);
  }
  return kOk;
}

Status parse_merge(std::string_view rule, size_t rank, PendingMerge *out) {
  const size_t space = rule.find(' ');
  if (space == std::string_view::npos || rule.find(' ', space + 1) != std::string_view::npos) {
    return fail(QWEN35_ERROR_MODEL, "merge %zu is not two tokens around one space: %s", rank,
                Quoted(rule).text());
  }
  out->left = rule.substr(0, space);
  out->right = rule.substr(space + 1);
  out->left_hash = StringIndex::hash(out->left);
  out->right_hash = StringIndex::hash(out->right);
  return kOk;
}

bool is_concatenation(std::string_view whole, std::string_view left, std::string_view right) {
  return whole.size() == left.size() + right.size() && whole.substr(0, left.size()) == left &&
         whole.substr(left.size()) == right;
}

Status find_concatenation(const StringIndex &index, const PendingMerge &rule, int32_t *id) {
  Array<char> text;
  Q35_TRY(text.append(rule.left.data(), rule.left.size()));
  Q35_TRY(text.append(rule.right.data(), rule.right.size()));
  *id = index.find(std::string_view(text.data(), text.size()));
  return kOk;
}

}  // namespace

Status Tokenizer::build(const Array<std::string_view> &tokens, const Array<int32_t> &types,
                        const Array<std::string_view> &merges) {
  Q35_TRY(check_sizes(tokens.size(), types.size(), merges.size()));
  Q35_TRY(copy_types(types, &types_));
  Q35_TRY(build_bytes(tokens));
  StringIndex index;
  Q35_TRY(index_tokens(tokens, &index));
  Q35_TRY(build_specials());
  Q35_TRY(build_alphabet(index));
  return build_merges(tokens, merges, index);
}

Status Tokenizer::build_bytes(const Array<std::string_view> &tokens) {
  static const ByteAlphabet alphabet;
  uint64_t total = 0;
  for (size_t i = 0; i < tokens.size(); i++) {
    if (tokens[i].empty()) return fail(QWEN35_ERROR_MODEL, "token %zu is empty", i);
    total += tokens[i].size();
  }
  if (total > UINT32_MAX) {
    return fail(QWEN35_ERROR_UNSUPPORTED, "the vocabulary has %llu bytes of text, at most %u",
                static_cast<unsigned long long>(total), UINT32_MAX);
  }
  Q35_TRY(arena_.resize(total));
  Q35_TRY(offsets_.resize(tokens.size() + 1));
  longest_normal_ = 1;
  size_t used = 0;
  for (size_t i = 0; i < tokens.size(); i++) {
    const std::string_view token = tokens[i];
    size_t n = 0;
    if (types_[i] == QWEN35_TOKEN_NORMAL) {
      n = alphabet.decode(token, arena_.data() + used);
      if (n == 0) {
        return fail(QWEN35_ERROR_MODEL, "token %zu has a character outside the byte alphabet: %s",
                    i, Quoted(token).text());
      }
      longest_normal_ = std::max(longest_normal_, n);
    } else if (types_[i] != QWEN35_TOKEN_UNUSED) {
      n = token.size();
      std::memcpy(arena_.data() + used, token.data(), n);
    }
    used += n;
    offsets_[i + 1] = static_cast<uint32_t>(used);
  }
  arena_.truncate(used);
  return kOk;
}

Status Tokenizer::build_specials() {
  Array<char> scratch;
  specials_.clear();
  std::fill(std::begin(starts_special_), std::end(starts_special_), false);
  for (int32_t id = 0; id < size(); id++) {
    if (type(id) != TokenType::Control && type(id) != TokenType::UserDefined) continue;
    std::string_view repaired;
    Q35_TRY(repair_utf8(bytes(id), &scratch, &repaired));
    if (!scratch.empty()) {
      return fail(QWEN35_ERROR_MODEL, "token %d is not UTF-8: %s", id, Quoted(bytes(id)).text());
    }
    starts_special_[static_cast<unsigned char>(bytes(id)[0])] = true;
    Q35_TRY(specials_.push_back(id));
  }
  std::sort(specials_.begin(), specials_.end(),
            [this](int32_t a, int32_t b) { return bytes(a) < bytes(b); });
  return kOk;
}

Status Tokenizer::build_alphabet(const StringIndex &index) {
  const ByteAlphabet alphabet;
  for (int b = 0; b < 256; b++) {
    char text[4];
    const size_t n = encode_utf8(alphabet.char_of[b], text);
    byte_ids_[b] = index.find(std::string_view(text, n));
    if (!is_normal(byte_ids_[b])) {
      return fail(QWEN35_ERROR_MODEL, "the vocabulary has no normal token for byte 0x%02x", b);
    }
  }
  return kOk;
}

// Finds the ids of a rule. `previous`: the result of the rule before, whose successor is likely.
Status Tokenizer::resolve_merge(const Array<std::string_view> &tokens, const StringIndex &index,
                                size_t rank, int32_t previous, PendingMerge *rule) const {
  rule->left_id = index.find(rule->left, rule->left_hash);
  rule->right_id = index.find(rule->right, rule->right_hash);
  rule->merged_id = previous + 1;
  if (rule->merged_id >= size() ||
      !is_concatenation(tokens[rule->merged_id], rule->left, rule->right)) {
    Q35_TRY(find_concatenation(index, *rule, &rule->merged_id));
  }
  const char *unknown = !is_normal(rule->left_id)     ? "left part"
                        : !is_normal(rule->right_id)  ? "right part"
                        : !is_normal(rule->merged_id) ? "result"
                                                      : nullptr;
  if (unknown == nullptr) return kOk;
  return fail(QWEN35_ERROR_MODEL, "merge %zu: the %s is not a normal token: %s + %s", rank, unknown,
              Quoted(rule->left).text(), Quoted(rule->right).text());
}

Status Tokenizer::add_merge(size_t rank, const PendingMerge &rule) {
  bool added = false;
  Q35_TRY(merges_.add(rule.left_id, rule.right_id, rule.merged_id, &added));
  if (added) return kOk;
  return fail(QWEN35_ERROR_MODEL, "merge %zu repeats an earlier one: %s + %s", rank,
              Quoted(rule.left).text(), Quoted(rule.right).text());
}

// A pipeline: every kStep rules further back a rule is one stage further, its memory fetched.
Status Tokenizer::build_merges(const Array<std::string_view> &tokens,
                               const Array<std::string_view> &merges, const StringIndex &index) {
  constexpr size_t kStep = 8, kRing = 64;  // kRing > 4 * kStep
  PendingMerge ring[kRing];
  int32_t previous = 255;
  Q35_TRY(merges_.reserve(merges.size()));
  const size_t n = merges.size();
  for (size_t i = 0; i < n + 4 * kStep; i++) {
    if (i < n) {
      PendingMerge &rule = ring[i % kRing];
      Q35_TRY(parse_merge(merges[i], i, &rule));
      index.prefetch_slot(rule.left_hash);
      index.prefetch_slot(rule.right_hash);
    }
    if (const size_t rank = i - kStep; rank < n) {
      index.prefetch_view(ring[rank % kRing].left_hash);
      index.prefetch_view(ring[rank % kRing].right_hash);
    }
    if (const size_t rank = i - 2 * kStep; rank < n) {
      index.prefetch_text(ring[rank % kRing].left_hash);
      index.prefetch_text(ring[rank % kRing].right_hash);
    }
    if (const size_t rank = i - 3 * kStep; rank < n) {
      PendingMerge &rule = ring[rank % kRing];
      Q35_TRY(resolve_merge(tokens, index, rank, previous, &rule));
      merges_.prefetch(rule.left_id, rule.right_id);
      previous = rule.merged_id;
    }
    if (const size_t rank = i - 4 * kStep; rank < n) Q35_TRY(add_merge(rank, ring[rank % kRing]));
  }
  Q35_TRY(pair_ranks_.resize(256 * 256));
  for (int i = 0; i < 256 * 256; i++) {
    pair_ranks_[i] = merges_.rank(byte_ids_[i / 256], byte_ids_[i % 256]);
  }
  return kOk;
}

}  // namespace q35
