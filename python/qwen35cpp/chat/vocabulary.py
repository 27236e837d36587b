"""The control tokens of a model's vocabulary, and text that can never become one of them.

The published models and the bundled one have other ids for the same tokens, so they are looked up
by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ..errors import ModelUnsupported
from ..types import ModelInfo

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
THINK, END_THINK = "<think>", "</think>"
TOOL_CALL, END_TOOL_CALL = "<tool_call>", "</tool_call>"
TOOL_RESPONSE, END_TOOL_RESPONSE = "<tool_response>", "</tool_response>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"

_CONTROL = (
    IM_START, IM_END, THINK, END_THINK, TOOL_CALL, END_TOOL_CALL, TOOL_RESPONSE, END_TOOL_RESPONSE,
    VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD,
)  # fmt: skip

# The hidden size of the 2B model. The templates of 0.8B and 2B leave thinking off unless asked.
_LARGEST_WITHOUT_THINKING = 2048
_SWITCH = re.compile(r"enable_thinking\s*(?:is|==)\s*(?:not\s+)?(true|false)\b", re.IGNORECASE)


class Vocabulary:
    """Ids of the control tokens, and of text in which such tokens are ordinary characters."""

    def __init__(self, tokenize: Callable[[bytes, bool], list[int]]) -> None:
        """`tokenize(text, special)` gives token ids; `special` recognises control tokens.

        Raises:
            ModelUnsupported: the vocabulary lacks one of the tokens of the chat format.
        """
        self._tokenize = tokenize
        self._ids: dict[str, int] = {}
        for name in _CONTROL:
            ids = tokenize(name.encode(), True)
            if len(ids) != 1:
                raise ModelUnsupported(
                    f"the vocabulary has no token {name}",
                    hint="this is not a chat model: use generate(), on the command line run --raw",
                )
            self._ids[name] = ids[0]

    def id(self, name: str) -> int:
        """The id of a control token such as "<|im_start|>"."""
        return self._ids[name]

    def knows(self, name: str) -> bool:
        """Whether there is a control token of this name, one of the format or another."""
        if name not in self._ids:
            ids = self._tokenize(name.encode(), True)
            if len(ids) != 1 or ids == self._tokenize(name.encode(), False):
                return False
            self._ids[name] = ids[0]
        return True

    def encode(self, text: str) -> list[int]:
        """Ids of a run of plain text, made well-formed."""
        return self._tokenize(well_formed(text).encode(), False)


def well_formed(text: str) -> str:
    """A text without halves of surrogate pairs, which JSON escapes leave behind.

    Two halves become the character they stand for; a half on its own becomes U+FFFD.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def thinks_by_default(template: str | None, info: ModelInfo) -> bool:
    """Whether a model thinks unless told otherwise.

    The chat template in the file is read, never run: the variants of the published models compare
    `enable_thinking` with true (off by default) or with false (on). Without such a comparison the
    size decides: 4B and 9B think.
    """
    compared = {found.lower() for found in _SWITCH.findall(template or "")}
    if len(compared) == 1:
        return compared == {"false"}
    return info.n_embd > _LARGEST_WITHOUT_THINKING
