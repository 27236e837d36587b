"""Token ids against the `tokenizers` library, with the real vocabulary and with awkward ones.

QWEN35_TOKENIZER_TEXTS sets the number of generated texts (each is encoded with and without special
tokens), QWEN35_TOKENIZER_SEED their seed.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFValueType as Kind
from tokenizers import Tokenizer

import qwen_vocab
import tiny_gguf
from qwen35cpp._native import check, ffi, lib
from qwen_vocab import CONTROL, USER_DEFINED, QwenVocab
from tokenizer_texts import TextSource, english_text

Ids = list[int]
TEXTS = int(os.environ.get("QWEN35_TOKENIZER_TEXTS", "25000"))
SEED = int(os.environ.get("QWEN35_TOKENIZER_SEED", "20260301"))
BATCH = 20_000


def write_native(path: Path, vocab: QwenVocab) -> Path:
    """The vocabulary as check_tokenizer reads it."""
    parts = [struct.pack("<I", len(vocab.tokens))]
    for token, kind in zip(vocab.tokens, vocab.types, strict=True):
        parts += [struct.pack("<iI", kind, len(token.encode())), token.encode()]
    parts.append(struct.pack("<I", len(vocab.merges)))
    for merge in vocab.merges:
        parts += [struct.pack("<I", len(merge.encode())), merge.encode()]
    path.write_bytes(b"".join(parts))
    return path


class Native:
    """The engine's tokenizer behind a pipe."""

    def __init__(self, program: Path, vocabulary: Path) -> None:
        self.command = [str(program), "encode", str(vocabulary)]

    def encode(self, texts: Sequence[bytes], special: bool) -> list[Ids]:
        requests = (struct.pack("<BI", special, len(text)) + text for text in texts)
        done = subprocess.run(
            self.command, input=b"".join(requests), capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        results: list[Ids] = []
        at = 0
        for text in texts:
            status, count = struct.unpack_from("<iI", done.stdout, at)
            assert status == 0, f"status {status} for {text!r}"
            results.append(list(struct.unpack_from(f"<{count}i", done.stdout, at + 8)))
            at += 8 + 4 * count
        assert at == len(done.stdout)
        return results


class Reference:
    """The `tokenizers` library, with its own ids of added tokens translated to the vocabulary's."""

    def __init__(self, vocab: QwenVocab) -> None:
        self.tokenizers = {
            special: qwen_vocab.hf_tokenizer(vocab, special) for special in (True, False)
        }
        full: Tokenizer = self.tokenizers[True]
        self.ids = {full.token_to_id(token): i for i, token in enumerate(vocab.tokens)}

    def encode(self, texts: Sequence[bytes], special: bool) -> list[Ids]:
        decoded = [text.decode("utf-8", errors="replace") for text in texts]
        encodings = self.tokenizers[special].encode_batch_fast(decoded, add_special_tokens=False)
        return [[self.ids[i] for i in encoding.ids] for encoding in encodings]


class Pair:
    """Both tokenizers of one vocabulary."""

    def __init__(self, native: Native, reference: Reference) -> None:
        self.native = native
        self.reference = reference

    def compare(self, texts: Sequence[bytes]) -> None:
        for special in (True, False):
            found = self.native.encode(texts, special)
            expected = self.reference.encode(texts, special)
            wrong = [i for i in range(len(texts)) if found[i] != expected[i]]
            if wrong:
                first = min(wrong, key=lambda i: len(texts[i]))
                pytest.fail(
                    f"{len(wrong)} of {len(texts)} texts differ with special={special}, "
                    f"the shortest is {texts[first]!r}:\n"
                    f"found    {found[first]}\nexpected {expected[first]}"
                )


@pytest.fixture(scope="session")
def program(native_build: Path) -> Path:
    return next(p for p in native_build.rglob("check_tokenizer") if p.is_file())


@pytest.fixture(scope="session")
def make_pair(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pair]:
    folder = tmp_path_factory.mktemp("vocabularies")

    def make(vocab: QwenVocab, name: str) -> Pair:
        return Pair(Native(program, write_native(folder / name, vocab)), Reference(vocab))

    return make


@pytest.fixture(scope="session")
def qwen(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair(qwen_vocab.load(), "qwen")


def test_internal_checks(run_check: Callable[..., str]) -> None:
    run_check("check_tokenizer")


def test_vocabulary_is_the_published_one(qwen: Pair) -> None:
    vocab = qwen_vocab.load()
    assert len(vocab.tokens) == 248_320
    assert len(vocab.merges) == 247_587
    assert vocab.merges[:4] == ["Ġ Ġ", "ĠĠ ĠĠ", "i n", "Ġ t"]
    texts = ["Hello world", "日本語", "e\u0301", "é", "<|im_end|><think></tool_response>"]
    expected = [[9419, 1814], [247359], [933], [933], [248046, 248068, 248067]]
    assert qwen.native.encode([text.encode() for text in texts], True) == expected


def test_varied_texts(qwen: Pair) -> None:
    source = TextSource(SEED)
    for done in range(0, TEXTS, BATCH):
        qwen.compare(list(source.texts(min(BATCH, TEXTS - done))))


def code_point_blocks(every: bool) -> list[list[str]]:
    """Neighbouring code points, 64 to a block. Unless `every`, of a block whose characters are all
    of one category and none decomposes, the first stands for the others.
    """
    blocks = []
    for start in range(0, 0x110000, 64):
        block = [chr(c) for c in range(start, start + 64) if not 0xD800 <= c < 0xE000]
        kinds = {unicodedata.category(c) + unicodedata.decomposition(c) for c in block}
        blocks.append(block if every or len(kinds) > 1 else block[:1])
    return blocks


@pytest.mark.parametrize("form", ["{}", "{}a", "☆\u0345{}\u0334", "'{}", " {}", "{}\u0301", "e{}"])
def test_every_code_point(qwen: Pair, form: str) -> None:
    """A block shares a text, so that a difference names its place."""
    blocks = code_point_blocks(every=form == "{}")
    qwen.compare(["".join(map(form.format, block)).encode() for block in blocks])


@pytest.mark.parametrize("piece", ["a", " ", "\n", "\u0301", "\u0323\u030d", "👩\u200d", "<", "é"])
def test_long_runs(qwen: Pair, piece: str) -> None:
    qwen.compare([(piece * 20_000).encode(), ("x" + piece * 19_999 + "y").encode()])


def test_long_texts(qwen: Pair) -> None:
    letters = "".join(random.Random(SEED).choices("abcdefghijklmnopqrstuvwxyz", k=100_000))
    qwen.compare([english_text(300_000).encode(), letters.encode()])


def test_ill_formed_utf8(qwen: Pair) -> None:
    """All pairs and many longer sequences of bytes that matter to UTF-8."""
    source = random.Random(SEED)
    edges = b"a\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xec\xed\xef\xf0\xf1\xf4\xf5\xff"
    pairs = [bytes([a, b]) for a in edges for b in range(256)]
    qwen.compare(pairs + [bytes(source.choices(edges, k=6)) for _ in range(4000)])


def test_prefixes_of_a_character(qwen: Pair) -> None:
    text = "<|im_start|>é日👩\u200d👧<think>".encode()
    qwen.compare([text[a:b] for a in range(len(text)) for b in range(a + 1, len(text) + 1)])


def test_overlapping_special_tokens(make_pair: Callable[..., Pair]) -> None:
    """Leftmost, then longest; cut out before the normalisation, also where that would change it."""
    vocab = qwen_vocab.small(300)
    added = ["<a>", "<a>b", "b<a>", "<<", "<a", "éx", "e\u0301y", "\u0301", "\ufffd!", "a<a>b<"]
    added.append("\u212b")
    kinds = [(CONTROL, USER_DEFINED)[i % 2] for i in range(len(added))]
    tokens, types = [*vocab.tokens, *added], [*vocab.types, *kinds]
    pair = make_pair(QwenVocab(tokens, types, vocab.merges), "overlapping")
    source = random.Random(SEED)
    alphabet = [*"<a>béexy\ufffd!\u0301\u212bÅ\u0327 ", "A\u030a"]
    texts = ("".join(source.choices(alphabet, k=source.randint(1, 14))) for _ in range(10_000))
    pair.compare([text.encode() for text in texts])


@pytest.mark.parametrize("n", [256, 300, 5000])
def test_small_vocabularies(make_pair: Callable[..., Pair], n: int) -> None:
    vocab = qwen_vocab.small(n, size=n + 64)
    assert len(vocab.tokens) == n + 64
    make_pair(vocab, f"small-{n}").compare(list(TextSource(SEED + n).texts(2000)))


@pytest.mark.parametrize(
    ("order", "text", "expected"),
    [
        (["b c", "a bc", "a b"], "abcab", ["abc", "ab"]),
        (["a b", "b c", "a bc"], "abcab", ["ab", "c", "ab"]),
        (["a bc", "a b", "b c"], "abcbc", ["ab", "c", "bc"]),
    ],
)
def test_rank_decides_not_the_id(
    make_pair: Callable[..., Pair], order: list[str], text: str, expected: list[str]
) -> None:
    tokens = [*qwen_vocab.BYTE_ALPHABET, "abc", "bc", "ab"]
    pair = make_pair(QwenVocab(tokens, [1] * len(tokens), order), "-".join(order))
    assert pair.native.encode([text.encode()], True) == [[tokens.index(t) for t in expected]]
    pair.compare([(text * n).encode() for n in range(1, 60)])


# ---- through the C API ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model file with the real vocabulary, opened without its weights."""
    vocab = qwen_vocab.load()
    path = tmp_path_factory.mktemp("model") / "vocabulary.gguf"
    metadata = {
        "tokenizer.ggml.tokens": (vocab.tokens, Kind.ARRAY),
        "tokenizer.ggml.token_type": (vocab.types, Kind.ARRAY),
        "tokenizer.ggml.merges": (vocab.merges, Kind.ARRAY),
        "tokenizer.ggml.eos_token_id": (vocab.id_of("<|im_end|>"), Kind.UINT32),
        "tokenizer.ggml.padding_token_id": (vocab.id_of("<|endoftext|>"), Kind.UINT32),
    }
    shape = {"n_vocab": len(vocab.tokens), "n_embd": 32, "types": {"token_embd": "F16"}}
    tiny_gguf.build(path, metadata=metadata, **shape)
    params = ffi.new("qwen35_model_params *")
    params.struct_size = ffi.sizeof("qwen35_model_params")
    params.vocab_only = 1
    out = ffi.new("qwen35_model **")
    check(lib.qwen35_model_open(str(path).encode(), params, out))
    return ffi.gc(out[0], lib.qwen35_model_close)


def api_encode(model: Any, text: bytes, special: bool) -> Ids:
    flags = lib.QWEN35_TOKENIZE_SPECIAL if special else 0
    needed = ffi.new("size_t *")
    check(lib.qwen35_tokenize(model, text, len(text), flags, ffi.NULL, 0, needed))
    ids = ffi.new("int32_t[]", max(1, needed[0]))
    check(lib.qwen35_tokenize(model, text, len(text), flags, ids, needed[0], needed))
    return list(ids[0 : needed[0]])


def api_bytes(model: Any, token: int) -> bytes:
    start, length = ffi.new("char **"), ffi.new("size_t *")
    check(lib.qwen35_token_bytes(model, token, start, length, ffi.NULL))
    return bytes(ffi.buffer(start[0], length[0]))


def test_api_gives_the_same_ids(qwen: Pair, model: Any) -> None:
    texts = list(TextSource(SEED + 1).texts(5000))
    for special in (True, False):
        found = [api_encode(model, text, special) for text in texts]
        assert found == qwen.reference.encode(texts, special)


def test_api_gives_the_bytes_of_every_token(model: Any) -> None:
    vocab = qwen_vocab.load()
    byte_of = {char: bytes([b]) for b, char in enumerate(qwen_vocab.BYTE_ALPHABET)}
    for token, (text, kind) in enumerate(zip(vocab.tokens, vocab.types, strict=True)):
        if kind == qwen_vocab.NORMAL:
            expected = b"".join(byte_of[char] for char in text)
        else:
            expected = b"" if kind == qwen_vocab.UNUSED else text.encode()
        assert api_bytes(model, token) == expected


def test_api_tokenizes_on_several_threads(model: Any) -> None:
    texts = list(TextSource(SEED + 2).texts(2000))
    expected = [api_encode(model, text, True) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            assert list(pool.map(lambda text: api_encode(model, text, True), texts)) == expected
