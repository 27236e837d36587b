// The pre-tokenizer of Qwen 3.5: cuts normalised text into the pieces that BPE never joins.
#pragma once

#include <cstddef>
#include <string_view>

namespace q35 {

// End of the piece that starts at text[at], at < text.size(); text is well-formed UTF-8.
// Equal to the match of the expression below at `at`, in linear time over a whole text:
//   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|
//    ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
size_t next_piece(std::string_view text, size_t at);

}  // namespace q35
