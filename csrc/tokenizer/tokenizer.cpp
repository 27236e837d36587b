// Encoding: special tokens are cut out first, the text between them is normalised, cut into pieces
// and merged.
#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <cstring>

#include "tokenizer/pretokenizer.h"
#include "tokenizer/unicode.h"

namespace q35 {

namespace {

Status too_many(size_t max_tokens) {
  return fail(QWEN35_ERROR_CONTEXT, "the text has more than %zu tokens", max_tokens);
}

}  // namespace

std::string_view Tokenizer::bytes(int32_t id) const {
  return std::string_view(arena_.data() + offsets_[id], offsets_[id + 1] - offsets_[id]);
}

int32_t Tokenizer::special_id(std::string_view text) const {
  const int32_t *found =
      std::lower_bound(specials_.begin(), specials_.end(), text,
                       [this](int32_t id, std::string_view value) { return bytes(id) < value; });
  return found != specials_.end() && bytes(*found) == text ? *found : -1;
}

// Id of the longest special token that `text` starts with, or -1. The candidates are the range of
// the sorted tokens that agree with the text so far; it narrows with each character.
int32_t Tokenizer::longest_special(std::string_view text) const {
  int32_t longest = -1;
  const int32_t *begin = specials_.begin(), *end = specials_.end();
  for (size_t length = 0; length < text.size() && begin != end; length++) {
    const unsigned char c = static_cast<unsigned char>(text[length]);
    // Tokens that end here sort first: -1 for their missing character.
    const auto char_of = [this, length](int32_t id) {
      const std::string_view token = bytes(id);
      return length < token.size() ? static_cast<unsigned char>(token[length]) : -1;
    };
    begin = std::lower_bound(begin, end, c, [&](int32_t id, int v) { return char_of(id) < v; });
    end = std::upper_bound(begin, end, c, [&](int v, int32_t id) { return v < char_of(id); });
    if (begin != end && bytes(*begin).size() == length + 1) longest = *begin;
  }
  return longest;
}

bool Tokenizer::find_special(std::string_view text, size_t at, Special *found) const {
  for (; at < text.size(); at++) {
    if (!starts_special_[static_cast<unsigned char>(text[at])]) continue;
    const int32_t id = longest_special(text.substr(at));
    if (id >= 0) {
      *found = {at, id};
      return true;
    }
  }
  return false;
}

// Appends the ids of text without special tokens, at most `limit - out->size()` of them.
Status Tokenizer::encode_plain(std::string_view text, size_t limit, PieceMerger *merger,
                               Array<char> *buffer, Array<int32_t> *out) const {
  Q35_TRY(normalize_nfc(text, buffer, &text));
  for (size_t at = 0; at < text.size();) {
    const size_t end = next_piece(text, at);
    // A piece too long for the room left is not worth merging.
    if ((end - at) / longest_normal_ > limit - out->size()) return QWEN35_ERROR_CONTEXT;
    Q35_TRY(merger->merge(text.substr(at, end - at), out));
    if (out->size() > limit) return QWEN35_ERROR_CONTEXT;
    at = end;
  }
  return kOk;
}

Status Tokenizer::encode(std::string_view text, bool special, size_t max_tokens,
                         Array<int32_t> *out) const {
  if (text.size() > kMaxText) {
    return fail(QWEN35_ERROR_ARGUMENT, "text of %zu bytes is longer than %zu", text.size(),
                kMaxText);
  }
  const size_t limit = max_tokens < SIZE_MAX - out->size() ? out->size() + max_tokens : SIZE_MAX;
  Array<char> repaired, normalized;
  Q35_TRY(repair_utf8(text, &repaired, &text));
  PieceMerger merger(merges_, byte_ids_, pair_ranks_.data());
  const auto encode_until = [&](size_t begin, size_t end) -> Status {
    const Status status =
        encode_plain(text.substr(begin, end - begin), limit, &merger, &normalized, out);
    return status == QWEN35_ERROR_CONTEXT ? too_many(max_tokens) : status;
  };
  size_t at = 0;
  Special found = {};
  while (special && find_special(text, at, &found)) {
    Q35_TRY(encode_until(at, found.begin));
    if (out->size() == limit) return too_many(max_tokens);
    Q35_TRY(out->push_back(found.id));
    at = found.begin + bytes(found.id).size();
  }
  return encode_until(at, text.size());
}

}  // namespace q35
