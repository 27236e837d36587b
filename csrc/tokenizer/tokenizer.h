// Byte-level BPE of the Qwen 3.5 family: NFC, pre-tokenizer split, merges by rank.
// Ids equal those of the Hugging Face `tokenizers` library for the same vocabulary and merges.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/array.h"
#include "base/status.h"
#include "tokenizer/merges.h"

namespace q35 {

class StringIndex;
struct PendingMerge;

enum class TokenType : int32_t {
  Normal = QWEN35_TOKEN_NORMAL,
  Control = QWEN35_TOKEN_CONTROL,
  UserDefined = QWEN35_TOKEN_USER_DEFINED,
  Unused = QWEN35_TOKEN_UNUSED,
};

// Immutable once built: any number of threads may use one at the same time.
class Tokenizer {
 public:
  // Longest text that encode() accepts, in bytes: repaired and normalised it stays below 2^32.
  static constexpr size_t kMaxText = size_t{1} << 30;

  // tokens: as in `tokenizer.ggml.tokens` (normal ones in the printable byte alphabet);
  // types: as in `tokenizer.ggml.token_type`; merges: "left right", best first.
  // Everything needed is copied. Refuses duplicate or empty tokens, an incomplete byte alphabet and
  // merges that are repeated or of unknown tokens, with ERROR_MODEL, naming the entry.
  [[nodiscard]] Status build(const Array<std::string_view> &tokens, const Array<int32_t> &types,
                             const Array<std::string_view> &merges);

  // Appends the ids of `text`. special: control and user-defined tokens in the text are recognised,
  // the leftmost first, of several at one place the longest; otherwise they are ordinary
  // characters. Ill-formed UTF-8 becomes U+FFFD as in Python.
  // Stops with ERROR_CONTEXT as soon as more than max_tokens ids would be appended.
  [[nodiscard]] Status encode(std::string_view text, bool special, size_t max_tokens,
                              Array<int32_t> *out) const;

  // Bytes of a token (control tokens: their text); empty for unused ones. id in [0, size()).
  std::string_view bytes(int32_t id) const;
  TokenType type(int32_t id) const { return static_cast<TokenType>(types_[id]); }
  // Id of the control or user-defined token with this text, else -1.
  int32_t special_id(std::string_view text) const;
  int32_t size() const { return static_cast<int32_t>(types_.size()); }

 private:
  struct Special {
    size_t begin;  // in the text
    int32_t id;
  };

  [[nodiscard]] Status build_bytes(const Array<std::string_view> &tokens);
  [[nodiscard]] Status build_specials();
  [[nodiscard]] Status build_alphabet(const StringIndex &index);
  [[nodiscard]] Status build_merges(const Array<std::string_view> &tokens,
                                    const Array<std::string_view> &merges,
                                    const StringIndex &index);
  [[nodiscard]] Status resolve_merge(const Array<std::string_view> &tokens,
                                     const StringIndex &index, size_t rank, int32_t previous,
                                     PendingMerge *rule) const;
  [[nodiscard]] Status add_merge(size_t rank, const PendingMerge &rule);
  bool is_normal(int32_t id) const { return id >= 0 && types_[id] == QWEN35_TOKEN_NORMAL; }
  int32_t longest_special(std::string_view text) const;
  bool find_special(std::string_view text, size_t at, Special *found) const;
  [[nodiscard]] Status encode_plain(std::string_view text, size_t limit, PieceMerger *merger,
                                    Array<char> *buffer, Array<int32_t> *out) const;

  Array<char> arena_;              // bytes of all tokens in the order of ids
  Array<uint32_t> offsets_;        // (size() + 1) into arena_
  Array<uint8_t> types_;           // (size()) TokenType
  Array<int32_t> specials_;        // control and user-defined tokens in the order of their bytes
  bool starts_special_[256] = {};  // first bytes of these
  size_t longest_normal_ = 1;      // bytes of the longest normal token
  int32_t byte_ids_[256] = {};
  Array<uint32_t> pair_ranks_;  // (256, 256) rank of the merge of two single bytes
  MergeTable merges_;
};

}  // namespace q35
