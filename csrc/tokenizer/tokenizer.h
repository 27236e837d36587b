// Byte-level BPE of the Qwen 3.5 family: NFC, pre-tokenizer split, merges by rank.
// Ids equal those of the Hugging Face `tokenizers` library for the same vocabulary and merges.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/array.h"
#include "base/status.h"

namespace q35 {

enum class TokenType : int32_t {
  Normal = QWEN35_TOKEN_NORMAL,
  Control = QWEN35_TOKEN_CONTROL,
  UserDefined = QWEN35_TOKEN_USER_DEFINED,
  Unused = QWEN35_TOKEN_UNUSED,
};

class Tokenizer {
 public:
  // tokens: as in `tokenizer.ggml.tokens` (normal ones in the printable byte alphabet);
  // types: as in `tokenizer.ggml.token_type`; merges: "left right", best first.
  // Everything needed is copied. Refuses duplicate or empty tokens, an incomplete byte alphabet and
  // merges of unknown tokens, naming the entry.
  [[nodiscard]] Status build(const Array<std::string_view> &tokens, const Array<int32_t> &types,
                             const Array<std::string_view> &merges);

  // Appends the ids of `text`. special: control and user-defined tokens in the text are recognised;
  // otherwise they are ordinary characters. Ill-formed UTF-8 becomes U+FFFD as in Python.
  // Stops with ERROR_CONTEXT as soon as more than max_tokens ids were appended.
  [[nodiscard]] Status encode(std::string_view text, bool special, size_t max_tokens,
                              Array<int32_t> *out) const;

  // Bytes of a token (control tokens: their text); empty for unused ones. id in [0, size()).
  std::string_view bytes(int32_t id) const;
  TokenType type(int32_t id) const;
  // Id of the control or user-defined token with this text, else -1.
  int32_t special_id(std::string_view text) const;
  int32_t size() const;

 private:
  struct Impl;
  // members are the implementer's choice
};

}  // namespace q35
