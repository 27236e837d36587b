"""The added tokens and the pre-tokenizer of Qwen 3.5: what every vocabulary of the tests has.

Public facts of the published tokenizer.json, see also the model cards.
"""

from __future__ import annotations

# In the order of their ids, the first behind the last normal token.
SPECIAL_TOKENS = [
    *(f"<|{name}|>" for name in ("endoftext", "im_start", "im_end")),
    *(f"<|{name}_{end}|>" for name in ("object_ref", "box", "quad") for end in ("start", "end")),
    *(f"<|vision_{name}|>" for name in ("start", "end", "pad")),
    *("<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>"),
    *(f"<|fim_{name}|>" for name in ("prefix", "middle", "suffix", "pad")),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>"),
    *("<think>", "</think>", "<|audio_start|>", "<|audio_end|>"),
    *("<tts_pad>", "<tts_text_bos>", "<tts_text_eod>", "<tts_text_bos_single>", "<|audio_pad|>"),
]
# Added, but part of the visible text: they survive skip_special_tokens.
VISIBLE_TOKENS = {
    f"<{slash}{name}>" for slash in ("", "/") for name in ("tool_call", "tool_response", "think")
}
PRETOKENIZE_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
