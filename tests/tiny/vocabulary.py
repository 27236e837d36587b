"""The tokenizer of the small model: byte-level BPE over the toy world, Qwen 3.5's rules and tokens.

Ids 0..255 are the bytes, then come the merges, then the special tokens in the order of Qwen 3.5,
then rows that no token uses, as in the published models.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from reference.qwen_tokens import PRETOKENIZE_REGEX, SPECIAL_TOKENS, VISIBLE_TOKENS

SIZE = 4096
NORMAL = 3680  # ids 0..NORMAL-1 are bytes and merges: the closed world gives no more
SPECIAL_IDS = {token: NORMAL + index for index, token in enumerate(SPECIAL_TOKENS)}


def _pipeline(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel(
        add_prefix_space=False, trim_offsets=False, use_regex=False
    )
    return tokenizer


def train(texts: Iterator[str]) -> Tokenizer:
    """Learns the merges; the result has NORMAL tokens and no control tokens."""
    tokenizer = _pipeline(models.BPE())
    trainer = BpeTrainer(
        vocab_size=NORMAL,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def plain(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint without its control tokens: text is never one of them."""
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    data["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(data))


def forms(tokenizer: Tokenizer) -> list[list[int]]:
    """Ids that stand for one word: with or without a space before it, small or capital."""
    words: dict[str, list[int]] = {}
    for token in range(256, NORMAL):
        words.setdefault(tokenizer.decode([token]).strip().lower(), []).append(token)
    return [ids for word, ids in words.items() if word and len(ids) > 1]


def full(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint with its control tokens, for decoding."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def write(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json as the published models have them."""
    folder.mkdir(parents=True, exist_ok=True)
    complete = Tokenizer.from_str(tokenizer.to_str())
    for token in SPECIAL_TOKENS:
        hidden = token not in VISIBLE_TOKENS
        complete.add_tokens([AddedToken(token, special=hidden, normalized=False)])
    if any(complete.token_to_id(token) != index for token, index in SPECIAL_IDS.items()):
        raise RuntimeError("special tokens did not get their ids")
    complete.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2TokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 262_144,
        "added_tokens_decoder": {
            str(index): {
                "content": token,
                "special": token not in VISIBLE_TOKENS,
                "normalized": False,
                "lstrip": False,
                "rstrip": False,
                "single_word": False,
            }
            for token, index in SPECIAL_IDS.items()
        },
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    (folder / "chat_template.jinja").write_text(chat_template(), encoding="utf-8")


def chat_template() -> str:
    """The chat format as a Jinja template, with the fixed text around tool schemas filled in."""
    from tiny.chat_format import TOOLS_HEAD, TOOLS_TAIL

    template = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")
    for mark, text in (("@TOOLS_HEAD@", TOOLS_HEAD), ("@TOOLS_TAIL@", TOOLS_TAIL)):
        template = template.replace(mark, text.replace("\n", "\\n"))
    return template


def corpus(seed: int = 0, samples: int = 5000) -> Iterator[str]:
    """Texts of every skill, with tool schemas as the chat format shows them."""
    from tiny import skills

    rng = random.Random(seed)
    for skill in skills.SKILLS.values():
        for _ in range(samples):
            sample = skill.make(rng, False)
            yield sample.text
            for tool in sample.tools[: 1 if rng.random() < 0.1 else 0]:
                yield json.dumps(tool)
            for message in sample.messages:
                content = message["content"]
                whole = isinstance(content, str)
                yield from [content] if whole else [part.get("text", "") for part in content]
                yield message.get("reasoning_content", "")
                for call in message.get("tool_calls", []):
                    lines = [
                        f"<parameter={k}>\n{v}\n</parameter>" for k, v in call["arguments"].items()
                    ]
                    yield "\n".join([f"<function={call['name']}>", *lines, "</function>"])
