"""Llama.tokenizer(): the tokenizer as an object of its own, as llama-cpp-python has it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .llama import Llama


class Tokenizer:
    """Text to token ids and back."""

    def __init__(self, llama: Llama) -> None:
        self._llama = llama

    def encode(self, text: str, add_bos: bool = False, special: bool = True) -> list[int]:
        """Token ids of a text; control tokens are recognised unless `special` is False."""
        return self._llama.tokenize(text, add_bos, special)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens, without control tokens."""
        return self._llama.decode(tokens)

    def tokenize(self, text: bytes, add_bos: bool = False, special: bool = True) -> list[int]:
        """`encode` for UTF-8 bytes."""
        return self._llama.tokenize(text, add_bos, special)

    def detokenize(self, tokens: Iterable[int]) -> bytes:
        """`decode` as bytes, possibly ending within a character."""
        return self._llama.detokenize(tokens)
