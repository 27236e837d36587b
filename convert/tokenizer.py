"""Tokenizer and chat template of a checkpoint, checked and put into GGUF form.

The engine implements one pipeline: NFC, the Qwen 3.5 splitting regex, byte-level BPE. A
tokenizer.json that says anything else would give other ids, so it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import metadata as md
from ._errors import CheckpointError
from .config import read_json

# How text is split before BPE. Differs from Qwen 2 and 3 by the \p{M} classes.
PRETOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # tokenizer.ggml.token_type
_MAX_TEMPLATE_BYTES = 1 << 20
_END_OF_TURN, _END_OF_TEXT = "<|im_end|>", "<|endoftext|>"


@dataclass(frozen=True)
class Tokenizer:
    """`tokens` and `types` have one entry per row of the embedding."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    eos: int | None
    pad: int | None
    bos: int | None
    chat_template: str | None

    def metadata(self) -> md.Metadata:
        """The `tokenizer.*` keys."""
        result: md.Metadata = {
            "tokenizer.ggml.model": md.string("gpt2"),
            "tokenizer.ggml.pre": md.string("qwen35"),
            "tokenizer.ggml.tokens": md.strings(self.tokens),
            "tokenizer.ggml.token_type": md.i32s(self.types),
            "tokenizer.ggml.merges": md.strings(self.merges),
        }
        for key, token in (("eos", self.eos), ("padding", self.pad), ("bos", self.bos)):
            if token is not None:
                result[f"tokenizer.ggml.{key}_token_id"] = md.u32(token)
        result["tokenizer.ggml.add_bos_token"] = md.boolean(False)
        if self.chat_template is not None:
            result["tokenizer.chat_template"] = md.string(self.chat_template)
        return result


def read_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """Reads tokenizer.json, or vocab.json with merges.txt, and the settings beside them."""
    settings = _optional_object(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").exists():
        vocab, merges, added = _from_tokenizer_json(folder / "tokenizer.json")
    elif (folder / "vocab.json").exists():
        vocab, merges, added = _from_vocab_files(folder, settings)
    else:
        raise CheckpointError(
            f"{folder}: neither tokenizer.json nor vocab.json is there",
            hint="copy the tokenizer files of the original model into the folder",
        )
    tokens, types = _table(vocab, added, vocab_size)
    _check_merges(merges, vocab)
    ids = {token: index for index, token in enumerate(tokens)}
    return Tokenizer(
        tokens=tokens,
        types=types,
        merges=merges,
        eos=ids.get(_token_text(settings.get("eos_token")) or _END_OF_TURN),
        pad=ids.get(_token_text(settings.get("pad_token")) or _END_OF_TEXT),
        bos=ids.get(_END_OF_TEXT),
        chat_template=_chat_template(folder, settings),
    )


def _optional_object(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected an object, found {type(value).__name__}")
    return value


# ---- the two sources ---------------------------------------------------------------------------

_Added = dict[int, tuple[str, bool]]  # id: text, special
_Source = tuple[dict[str, int], list[str], _Added]


def _from_tokenizer_json(path: Path) -> _Source:
    data = _optional_object(path)
    model = data.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise CheckpointError(f"{path}: model: expected a BPE model")
    _check_pipeline(path, data)
    if model.get("ignore_merges"):
        raise CheckpointError(f"{path}: model: ignore_merges: expected false, found true")
    added: _Added = {}
    for entry in data.get("added_tokens") or []:
        added[_index(path, entry.get("id"))] = (str(entry["content"]), bool(entry.get("special")))
    return _vocab(path, model.get("vocab")), _merges(path, model.get("merges")), added


def _from_vocab_files(folder: Path, settings: Mapping[str, Any]) -> _Source:
    path = folder / "merges.txt"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None
    merges = [line for line in lines if line and not line.startswith("#version")]
    added: _Added = {}
    for key, entry in (settings.get("added_tokens_decoder") or {}).items():
        added[_index(path, key)] = (str(entry["content"]), bool(entry.get("special")))
    vocab = _vocab(folder / "vocab.json", read_json(folder / "vocab.json"))
    return vocab, _merges(path, merges), added


def _index(path: Path, value: object) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = -1
    if number < 0:
        raise CheckpointError(f"{path}: token id: expected a number, found {value!r}")
    return number


def _vocab(path: Path, vocab: object) -> dict[str, int]:
    if not isinstance(vocab, dict) or not vocab:
        raise CheckpointError(f"{path}: vocab: expected an object of tokens")
    if any(type(index) is not int for index in vocab.values()):
        raise CheckpointError(f"{path}: vocab: expected integer ids")
    return vocab


def _merges(path: Path, merges: object) -> list[str]:
    """Both spellings of a rule: "left right" and ["left", "right"]."""
    if not isinstance(merges, list):
        raise CheckpointError(f"{path}: merges: expected a list")
    result = []
    for rule in merges:
        text = " ".join(rule) if isinstance(rule, list) else rule
        if not isinstance(text, str) or text.count(" ") != 1:
            raise CheckpointError(f"{path}: merges: expected two tokens, found {rule!r}")
        result.append(text)
    return result


# ---- checks ------------------------------------------------------------------------------------


def _steps(node: object) -> list[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, sequences flattened."""
    if not isinstance(node, dict):
        return []
    if node.get("type") == "Sequence":
        inner = node.get("normalizers") or node.get("pretokenizers") or []
        return [step for item in inner for step in _steps(item)]
    return [node]


def _check_pipeline(path: Path, data: Mapping[str, Any]) -> None:
    normalizer = [step.get("type") for step in _steps(data.get("normalizer"))]
    if normalizer != ["NFC"]:
        raise CheckpointError(f"{path}: normalizer: expected NFC, found {normalizer}")
    steps = _steps(data.get("pre_tokenizer"))
    kinds = [step.get("type") for step in steps]
    if kinds != ["Split", "ByteLevel"]:
        raise CheckpointError(f"{path}: pre_tokenizer: expected Split, ByteLevel; found {kinds}")
    split, bytes_step = steps
    pattern = (split.get("pattern") or {}).get("Regex")
    if pattern != PRETOKENIZER or split.get("behavior") != "Isolated" or split.get("invert"):
        raise CheckpointError(
            f"{path}: pre_tokenizer: Split: not the Qwen 3.5 pattern: {str(pattern)[:120]!r}",
            hint="the tokenizer belongs to another model",
        )
    if bytes_step.get("add_prefix_space") or bytes_step.get("use_regex"):
        raise CheckpointError(f"{path}: pre_tokenizer: ByteLevel: prefix space or regex is on")


def _table(vocab: dict[str, int], added: _Added, size: int) -> tuple[list[str], list[int]]:
    tokens: list[str | None] = [None] * size
    types = [UNUSED] * size
    for text, index in vocab.items():
        _place(tokens, index, text)
        types[index] = NORMAL
    for index, (text, special) in added.items():
        if index >= size or tokens[index] != text:
            _place(tokens, index, text)
        types[index] = CONTROL if special else USER_DEFINED
    named = [f"[PAD{index}]" if text is None else text for index, text in enumerate(tokens)]
    if len(set(named)) != len(named):
        raise CheckpointError("tokenizer: two ids have the same text")
    return named, types


def _place(tokens: list[str | None], index: int, text: str) -> None:
    if not 0 <= index < len(tokens):
        raise CheckpointError(
            f"tokenizer: {text!r} has id {index}, but the embedding has {len(tokens)} rows"
        )
    if tokens[index] is not None:
        raise CheckpointError(f"tokenizer: id {index} is both {tokens[index]!r} and {text!r}")
    if not text:
        raise CheckpointError(f"tokenizer: id {index} is empty")
    tokens[index] = text


def _check_merges(merges: list[str], vocab: dict[str, int]) -> None:
    for rule in merges:
        left, right = rule.split(" ")
        if left not in vocab or right not in vocab or left + right not in vocab:
            raise CheckpointError(f"tokenizer: merge {rule!r} names a token that does not exist")


# ---- settings ----------------------------------------------------------------------------------


def _token_text(value: object) -> str | None:
    """A token in tokenizer_config.json: its text, or an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            if path.stat().st_size > _MAX_TEMPLATE_BYTES:
                raise CheckpointError(f"{path}: larger than {_MAX_TEMPLATE_BYTES:,} bytes")
            return path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from None
    template = settings.get("chat_template")
    if isinstance(template, list):  # several named ones
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    return template if isinstance(template, str) else None
