"""The C API of sampling and of the text stream against NumPy and Python's own UTF-8 decoder."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import tiny_gguf
from qwen35cpp import errors
from qwen35cpp._native import check, ffi, lib

Floats = npt.NDArray[np.float64]

N_VOCAB = 352  # 316 tokens, 36 unused rows
N_DRAWS = 20_000


@pytest.fixture(scope="module")
def tiny(tiny_model: Callable[..., tiny_gguf.TinyModel]) -> tiny_gguf.TinyModel:
    return tiny_model(n_vocab=N_VOCAB)


@pytest.fixture(scope="module")
def model(tiny: tiny_gguf.TinyModel) -> Iterator[Any]:
    params = ffi.new("qwen35_model_params *")
    lib.qwen35_model_defaults(params)
    params.vocab_only = 1
    out = ffi.new("qwen35_model **")
    check(lib.qwen35_model_open(str(tiny.path).encode(), params, out))
    yield out[0]
    lib.qwen35_model_close(out[0])


@pytest.fixture(scope="module")
def unused(tiny: tiny_gguf.TinyModel) -> list[int]:
    return [i for i, kind in enumerate(tiny.token_types) if kind == tiny_gguf.UNUSED]


@pytest.fixture(scope="module")
def logits(unused: list[int]) -> npt.NDArray[np.float32]:
    """Random logits whose unused rows would win every draw."""
    values = np.random.default_rng(5).normal(0, 2, N_VOCAB).astype(np.float32)
    values[unused] = 9
    return values


class Sampler:
    """A sampler of the C API: neutral parameters unless given."""

    def __init__(self, model: Any, *, bias: dict[int, float] | None = None, **values: Any) -> None:
        params = ffi.new("qwen35_sampling_params *")
        lib.qwen35_sampling_defaults(params)
        for name, value in {"temperature": 1, "top_k": 0, "top_p": 1, **values}.items():
            setattr(params, name, value)
        tokens = ffi.new("int32_t[]", list(bias or {}))
        amounts = ffi.new("float[]", list((bias or {}).values()))
        if bias:
            params.bias_tokens, params.bias_values, params.n_bias = tokens, amounts, len(bias)
        out = ffi.new("qwen35_sampler **")
        check(lib.qwen35_sampler_create(model, params, out))
        self.pointer = ffi.gc(out[0], lib.qwen35_sampler_close)

    def accept(self, tokens: list[int], *, prompt: bool) -> None:
        check(lib.qwen35_sampler_accept(self.pointer, tokens, len(tokens), int(prompt)))

    def sample(self, logits: npt.NDArray[np.float32]) -> Any:
        out = ffi.new("qwen35_sample *")
        values = ffi.from_buffer("float[]", logits)
        check(lib.qwen35_sampler_sample(self.pointer, values, out))
        return out


def log_softmax(logits: npt.NDArray[np.float32]) -> Floats:
    x = logits.astype(np.float64)
    return np.asarray(x - x.max() - np.log(np.exp(x - x.max()).sum()))


def probabilities(
    logits: Floats, temperature: float = 1, top_k: int = 0, top_p: float = 1, min_p: float = 0
) -> Floats:
    """The distribution that the header documents, from sorted copies."""
    x = logits / temperature
    order = np.argsort(-x, kind="stable")[: top_k or len(x)]
    p = np.exp(x[order] - x.max())
    p /= p.sum()
    kept = (np.cumsum(p) - p < top_p) & (p >= min_p * p[0])
    result = np.zeros(len(x))
    result[order[kept]] = p[kept] / p[kept].sum()
    return result


def assert_drawn_from(counts: npt.NDArray[np.int64], expected: Floats) -> None:
    """Pearson's chi-square at four standard deviations; rare tokens count as one."""
    assert counts[expected == 0].sum() == 0
    often = expected * N_DRAWS >= 10
    assert often.sum() > 1
    found = np.append(counts[often], counts[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum()) * N_DRAWS
    found, wanted = found[wanted > 0], wanted[wanted > 0]
    chi_square = ((found - wanted) ** 2 / wanted).sum()
    freedom = len(found) - 1
    spread = 2 / (9 * freedom)
    assert chi_square < freedom * (1 - spread + 4 * math.sqrt(spread)) ** 3


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"temperature": 1.5, "top_k": 20},
        {"top_k": 20, "top_p": 0.9},
        {"top_p": 0.8},
        {"min_p": 0.05},
        {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.1},
    ],
)
def test_draws_follow_the_documented_distribution(
    model: Any, logits: npt.NDArray[np.float32], unused: list[int], settings: dict[str, Any]
) -> None:
    sampler = Sampler(model, seed=11, **settings)
    tokens = [sampler.sample(logits).token for _ in range(N_DRAWS)]
    x = logits.astype(np.float64)
    x[unused] = -np.inf
    assert_drawn_from(np.bincount(tokens, minlength=N_VOCAB), probabilities(x, **settings))


def test_greedy_takes_the_lowest_id_of_the_best(
    model: Any, logits: npt.NDArray[np.float32]
) -> None:
    tied = logits.copy()
    tied[[40, 120, 200]] = 8
    assert Sampler(model, temperature=0).sample(tied).token == 40


def test_penalties_and_bias_follow_their_rules(
    model: Any, logits: npt.NDArray[np.float32], unused: list[int]
) -> None:
    """Greedy choices of 60 steps against the formulas applied to all rows."""
    prompt, bias = [3, 3, 7, 60], {5: 2.5, 9: -math.inf, 60: 1.0}
    sampler = Sampler(
        model, temperature=0, presence_penalty=0.5, frequency_penalty=0.3, repetition_penalty=1.2,
        bias=bias,
    )  # fmt: skip
    sampler.accept(prompt, prompt=True)
    sampler.accept([8, 8], prompt=False)
    counts = np.zeros(N_VOCAB)
    counts[8] = 2
    for _ in range(60):
        x = logits.astype(np.float64)
        x[unused] = -np.inf
        for token, amount in bias.items():
            x[token] += amount
        seen = counts > 0
        seen[prompt] = True
        x = np.where(seen, np.where(x > 0, x / 1.2, x * 1.2), x)
        x -= 0.3 * counts + 0.5 * (counts > 0)
        best = int(np.argmax(x))
        assert sampler.sample(logits).token == best
        counts[best] += 1


def test_logprobs_are_the_log_softmax_of_the_given_logits(
    model: Any, logits: npt.NDArray[np.float32], unused: list[int]
) -> None:
    sampler = Sampler(
        model, temperature=0.3, top_k=5, presence_penalty=2, n_logprobs=20, bias={30: 7.0}
    )
    expected = log_softmax(logits)
    used = [i for i in np.argsort(-logits, kind="stable") if i not in set(unused)]
    for _ in range(5):
        out = sampler.sample(logits)
        assert out.logprob == pytest.approx(expected[out.token], abs=2e-6)
        assert [out.top[i].token for i in range(out.n_top)] == used[:20]
        found = [out.top[i].logprob for i in range(out.n_top)]
        np.testing.assert_allclose(found, expected[used[:20]], atol=2e-6)
    alone = Sampler(model, n_logprobs=0).sample(logits)
    assert alone.n_top == 0
    assert alone.logprob == pytest.approx(expected[alone.token], abs=2e-6)
    assert math.isnan(Sampler(model).sample(logits).logprob)


def test_a_seed_gives_one_sequence(model: Any, logits: npt.NDArray[np.float32]) -> None:
    def draw(seed: int) -> list[int]:
        sampler = Sampler(model, seed=seed)
        return [sampler.sample(logits).token for _ in range(50)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(2**64 - 1) == draw(2**64 - 1)


def test_logits_without_a_token_are_an_error(model: Any) -> None:
    sampler = Sampler(model)
    with pytest.raises(errors.Qwen35Error, match="all 352 logits are NaN or -inf"):
        sampler.sample(np.full(N_VOCAB, np.nan, np.float32))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1}, "temperature is -1: expected"),
        ({"temperature": math.nan}, "temperature is -?nan: expected"),
        ({"top_k": -3}, "top_k is -3: expected"),
        ({"top_p": 1.5}, "top_p is 1.5: expected 0 to 1"),
        ({"min_p": -0.5}, "min_p is -0.5: expected 0 to 1"),
        ({"presence_penalty": 3}, "presence_penalty is 3: expected -2 to 2"),
        ({"frequency_penalty": -3}, "frequency_penalty is -3: expected -2 to 2"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0: expected"),
        ({"n_logprobs": 21}, "n_logprobs is 21: expected 0 to 20"),
        ({"struct_size": 4}, "struct_size is 4: expected"),
        ({"bias": {352: 1.0}}, r"bias_tokens\[0\] is 352: expected a token id from 0 to 351"),
        ({"bias": {4: math.inf}}, r"bias_values\[0\] of token 4 is inf: expected"),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(
    model: Any, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(errors.Qwen35Error, match=message):
        Sampler(model, **values)


def test_accepting_an_unknown_token_is_refused(model: Any) -> None:
    with pytest.raises(errors.Qwen35Error, match=r"tokens\[1\] is 352"):
        Sampler(model, presence_penalty=1).accept([0, N_VOCAB], prompt=False)


def token_bytes(model: Any, token: int) -> bytes:
    data, length = ffi.new("char **"), ffi.new("size_t *")
    check(lib.qwen35_token_bytes(model, token, data, length, ffi.NULL))
    return bytes(ffi.buffer(data[0], length[0]))


class Stream:
    """A text stream of the C API."""

    def __init__(self, model: Any, stop: list[bytes] | None = None, special: bool = False) -> None:
        strings = [ffi.from_buffer("char[]", item) for item in stop or []]
        lengths = [len(item) for item in stop or []]
        out = ffi.new("qwen35_stream **")
        call = (ffi.new("char *[]", strings), lengths, len(strings), int(special), out)
        check(lib.qwen35_stream_create(model, *call))
        self.pointer = ffi.gc(out[0], lib.qwen35_stream_close)
        self.text, self.length = ffi.new("char **"), ffi.new("size_t *")

    def push(self, token: int) -> tuple[str, int]:
        stopped = ffi.new("int32_t *")
        check(lib.qwen35_stream_push(self.pointer, token, self.text, self.length, stopped))
        return self._shown(), stopped[0]

    def finish(self) -> str:
        check(lib.qwen35_stream_finish(self.pointer, self.text, self.length))
        return self._shown()

    def _shown(self) -> str:
        """Strict decoding: the stream must never give a part of a character."""
        return bytes(ffi.buffer(self.text[0], self.length[0])).decode("utf-8")


def test_any_tokens_stream_as_python_decodes_their_bytes(
    model: Any, tiny: tiny_gguf.TinyModel
) -> None:
    rng = random.Random(3)
    # Mostly byte tokens of lead and continuation bytes, so that many characters are whole.
    by_byte = {token_bytes(model, i): i for i in range(256)}
    frequent = [by_byte[bytes([b])] for b in (0xC3, 0xA9, 0xE6, 0x97, 0xA5, 0xF0, 0x9F, 0x98, 0x80)]
    n_normal = tiny.token_types.index(tiny_gguf.CONTROL)
    for _ in range(500):
        tokens = [
            rng.choice(frequent) if rng.random() < 0.7 else rng.randrange(n_normal)
            for _ in range(rng.randrange(40))
        ]
        stream = Stream(model)
        text = "".join(stream.push(token)[0] for token in tokens) + stream.finish()
        raw = b"".join(token_bytes(model, token) for token in tokens)
        assert text == raw.decode("utf-8", errors="replace")


@pytest.mark.parametrize("text", ["日本語 é", "👩‍🚀 and 😀", "naïve"])
def test_a_character_appears_with_its_last_byte(model: Any, text: str) -> None:
    by_byte = {token_bytes(model, i): i for i in range(256)}
    stream, shown, raw = Stream(model), "", text.encode()
    for end in range(1, len(raw) + 1):
        shown += stream.push(by_byte[raw[end - 1 : end]])[0]
        assert shown == raw[:end].decode("utf-8", errors="ignore")
    assert stream.finish() == ""


def test_a_stop_string_over_many_tokens_is_never_shown(model: Any) -> None:
    by_byte = {token_bytes(model, i): i for i in range(256)}
    stream = Stream(model, [b"never", "終わり。".encode()])
    raw = "a終わ、終わり。b".encode()
    steps = [stream.push(by_byte[bytes([b])]) for b in raw]
    assert "".join(shown for shown, _ in steps) == "a終わ、"
    assert [index for _, index in steps] == [-1] * (len(raw) - 2) + [1, 1]
    assert stream.finish() == ""


def test_control_tokens_print_only_when_asked(model: Any, tiny: tiny_gguf.TinyModel) -> None:
    end, think = tiny.tokens.index("<|im_end|>"), tiny.tokens.index("<think>")
    plain, special = Stream(model), Stream(model, special=True)
    assert [plain.push(end)[0], plain.push(think)[0]] == ["", "<think>"]
    assert special.push(end)[0] == "<|im_end|>"


def test_stream_limits_are_refused_clearly(model: Any) -> None:
    with pytest.raises(errors.Qwen35Error, match="17 stop strings: expected at most 16"):
        Stream(model, [b"x"] * 17)
    with pytest.raises(errors.Qwen35Error, match="stop string 1 has 0 bytes: expected 1 to 256"):
        Stream(model, [b"x", b""])
    with pytest.raises(errors.Qwen35Error, match="stop string 0 has 257 bytes"):
        Stream(model, [b"x" * 257])
    with pytest.raises(errors.Qwen35Error, match="token is 352: expected an id from 0 to 351"):
        Stream(model).push(N_VOCAB)
    stream = Stream(model)
    stream.finish()
    with pytest.raises(errors.Qwen35Error, match="finished already"):
        stream.push(0)
