"""Drafts change the speed and nothing else: tokens, figures, seeds, penalties, stops, states."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import tiny_gguf
from qwen35cpp import InvalidArgument, Llama, SchemaError, Timings
from qwen35cpp._handles import DRAFTS, Model, Outputs, Sampler, Sampling, Session
from qwen35cpp._native import lib
from tiny import cases

ALWAYS = DRAFTS["both"] | lib.QWEN35_DRAFT_ALWAYS
CONTEXT = 1024
SETS = ("chat", "passage", "extract", "tools", "copy", "classify")


@pytest.fixture(scope="module")
def plain() -> Iterator[Llama]:
    with Llama.tiny(n_ctx=CONTEXT, n_threads=1, draft="off") as llama:
        yield llama


@pytest.fixture(scope="module")
def drafting() -> Iterator[Llama]:
    """Drafts whenever it can, whether that pays or not, so that nothing depends on timing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DRAFTS, "both", ALWAYS)
        with Llama.tiny(n_ctx=CONTEXT, n_threads=1, draft="both") as llama:
            yield llama


def _prompts(llama: Llama, count: int) -> list[list[int]]:
    """Stories to continue and questions of several skills, as token ids."""
    each = -(-count // (len(SETS) + 1))
    texts = [sample.text[:60] for sample in cases.stories(each)]
    prompts = [llama.tokenize(text) for text in texts]
    for name in SETS:
        for sample in cases.SETS[name].cases(each):
            rendered = llama.render_chat(sample.prompt, tools=sample.tools or None)
            prompts.append(list(rendered.ids))
    return [prompt for prompt in prompts if len(prompt) < CONTEXT - 200]


def _outcome(llama: Llama, prompt: list[int], **options: Any) -> tuple[Any, ...]:
    text = llama.generate(prompt, **options)
    return str(text), text.tokens, text.logprobs, text.finish_reason, text.stop_reason


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.long)])
def test_greedy_texts_are_equal(plain: Llama, drafting: Llama, count: int) -> None:
    accepted = made = 0
    for prompt in _prompts(plain, count):
        options: dict[str, Any] = {"max_tokens": 80, "temperature": 0, "logprobs": 2}
        assert _outcome(drafting, prompt, **options) == _outcome(plain, prompt, **options)
        text = drafting.generate(prompt, max_tokens=80, temperature=0)
        accepted += text.timings.accepted_tokens
        made += len(text.tokens)
    assert accepted > 0.3 * made  # else nothing was compared


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.7, "top_k": 0, "repetition_penalty": 1.2, "frequency_penalty": 0.3},
        {"temperature": 1.0, "presence_penalty": 1.5, "logit_bias": {300: 4.0, 301: -9.0}},
        {"temperature": 0.5, "stop": ["the ", "."], "presence_penalty": 0.0},
        {"temperature": 0.3, "ignore_eos": True, "stop_token_ids": [200, 261, 300]},
    ],
    ids=["card", "repetition", "bias", "stop", "stop tokens"],
)
def test_a_seed_gives_the_same_text(
    plain: Llama, drafting: Llama, settings: dict[str, Any]
) -> None:
    for seed, prompt in enumerate(_prompts(plain, 8)):
        options = {"max_tokens": 60, "seed": seed, "logprobs": 1, **settings}
        assert _outcome(drafting, prompt, **options) == _outcome(plain, prompt, **options)


def test_thoughts_that_are_ended_and_forced_calls(plain: Llama, drafting: Llama) -> None:
    for seed, sample in enumerate(cases.SETS["tools"].cases(3)):
        thoughts = [
            llama.chat(sample.prompt, think=True, thinking_budget=6, seed=seed, max_tokens=70)
            for llama in (plain, drafting)
        ]
        assert thoughts[0].tokens == thoughts[1].tokens
        assert thoughts[0].reasoning == thoughts[1].reasoning
        calls = [
            llama.create_chat_completion(
                sample.prompt,
                tools=sample.tools,
                tool_choice="required",
                seed=seed,
                max_tokens=70,
            )
            .choices[0]
            .message.tool_calls
            for llama in (plain, drafting)
        ]
        assert [call["function"] for call in calls[0]] == [call["function"] for call in calls[1]]


def test_the_next_turn_goes_on_from_an_answer_that_stopped(drafting: Llama) -> None:
    prompt = drafting.tokenize(cases.stories(1)[0].text[:60])
    whole = drafting.generate(prompt, max_tokens=60, temperature=0)
    stop = str(whole)[30:34]
    first = drafting.generate(prompt, max_tokens=60, temperature=0, stop=[stop])
    more = prompt + first.tokens + drafting.tokenize(" And then")
    second = drafting.generate(more, max_tokens=4, temperature=0)
    # All tokens but the last were evaluated: what was drawn beyond the stop left no trace.
    assert second.usage.cached_tokens == len(prompt) + len(first.tokens) - 1
    stream = drafting.generate(prompt, max_tokens=60, temperature=0, stream=True)
    seen = [token for chunk in itertools.islice(stream, 5) for token in chunk.tokens]
    stream.close()
    third = drafting.generate(prompt + seen + [300], max_tokens=4, temperature=0)
    assert third.usage.cached_tokens == len(prompt) + len(seen) - 1


# ---- within limits ---------------------------------------------------------------------------

STRING = {"type": "string"}
ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "maxLength": 60}, "customer": STRING,
        "count": {"type": "integer"}, "words": {"type": "array", "items": STRING, "maxItems": 4},
    },
    "required": ["text", "customer", "count", "words"],
}  # fmt: skip
TEXT = "An order from Nora: 28 black drums. The price is 70 coins. Send it to Cairo."
KINDS: dict[str, dict[str, Any]] = {
    "schema": {"schema": ORDER},
    "regex": {"regex": r"(An order from [A-Z][a-z]{1,12}: \d+ [a-z ]{3,20}\. ){2,3}"},
    "choice": {"choice": [TEXT, TEXT[:-7] + " Lima.", TEXT[:30]]},
    "schema behind a thought": {"schema": ORDER, "think": True, "thinking_budget": 24},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "seed": {"temperature": 1.2, "top_k": 0, "seed": 5},
    "penalties": {
        "temperature": 0.6,
        "presence_penalty": 1.0,
        "repetition_penalty": 1.1,
        "seed": 6,
    },
    "logprobs": {"temperature": 0.8, "logprobs": 2, "seed": 7},
    "bias": {"temperature": 0.8, "logit_bias": {300: 2.0, 301: -9.0}, "seed": 8},
}


@pytest.fixture(scope="module", params=["mtp", "lookup", "both"])
def source(request: pytest.FixtureRequest) -> Iterator[Llama]:
    """One source of drafts, or both, whether they pay or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DRAFTS, request.param, DRAFTS[request.param] | lib.QWEN35_DRAFT_ALWAYS)
        with Llama.tiny(n_ctx=CONTEXT, n_threads=1, draft=request.param) as llama:
            yield llama


def _answer(llama: Llama, **options: Any) -> tuple[tuple[Any, ...], Timings]:
    question = f"Write this as JSON.\n{TEXT}\n{TEXT}"
    text = llama.chat(question, max_tokens=80, **options)
    return (str(text), text.reasoning, text.tokens, text.logprobs), text.timings


@pytest.fixture(scope="module")
def without_drafts(plain: Llama) -> Callable[[str, str], Any]:
    """The answer of a kind with settings, for all sources."""
    return functools.cache(lambda kind, name: _answer(plain, **KINDS[kind], **SETTINGS[name])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_texts_within_a_grammar_are_equal(
    without_drafts: Callable[[str, str], Any], source: Llama, kind: str
) -> None:
    accepted = 0
    for name, settings in SETTINGS.items():
        found, timings = _answer(source, **KINDS[kind], **settings)
        assert found == without_drafts(kind, name), name
        accepted += timings.accepted_tokens
    assert accepted > 0 or kind == "choice"  # most of it is forced


def test_calls_of_strict_tools_are_equal(plain: Llama, source: Llama) -> None:
    made = 0
    for seed, sample in enumerate(cases.SETS["tools"].cases(4)):
        tools = [
            {**tool, "function": {**tool["function"], "strict": True}} for tool in sample.tools
        ]
        for options in ({}, {"stop": ["</par"]}):
            wanted, found = (
                llama.chat(sample.prompt, tools=tools, seed=seed, max_tokens=80, **options)
                for llama in (plain, source)
            )
            assert (str(found), found.tokens) == (str(wanted), wanted.tokens)
            calls = [[call.arguments for call in text.tool_calls] for text in (found, wanted)]
            assert calls[0] == calls[1]
            made += len(calls[0])
    assert made > 0


def test_schemas_and_drafts_of_several_callers(plain: Llama) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DRAFTS, "both", ALWAYS)
        with Llama.tiny(n_ctx=CONTEXT, n_threads=2, n_parallel=3, draft="both") as llama:

            def ask(seed: int) -> tuple[tuple[Any, ...], Timings]:
                return _answer(llama, schema=ORDER, temperature=0.9, seed=seed)

            with ThreadPoolExecutor(6) as pool:
                answers = list(pool.map(ask, range(6)))
    for seed, (found, _) in enumerate(answers):
        assert found == _answer(plain, schema=ORDER, temperature=0.9, seed=seed)[0]
    assert sum(timings.accepted_tokens for _, timings in answers) > 0


# ---- sessions --------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["tiny", "v2"])
def model(
    request: pytest.FixtureRequest, tiny_model: Callable[..., tiny_gguf.TinyModel]
) -> Iterator[Model]:
    """The trained model, and a random one of other head counts in quantised matrices."""
    from qwen35cpp._bundled import tiny_path

    path = tiny_path()
    if request.param == "v2":
        path = tiny_model(mtp=True, type="Q4_K", lin_k_heads=2, lin_v_heads=4).path
    opened = Model(bytes(path), n_threads=2)
    yield opened
    opened.close()


class Cycle:
    """Limits of a text that repeats itself: one token is allowed at each place."""

    def __init__(self, tokens: list[int], n_vocab: int) -> None:
        self.tokens, self.n_vocab = tokens, n_vocab
        self.at = 0
        self.most = 7  # drafts followed
        self.calls: list[Any] = []

    def follow(self, drafts: list[int]) -> int:
        self.calls.append(drafts)
        return min(self.most, len(drafts))

    def allow(self, drawn: list[int]) -> bytes:
        self.calls.append(len(drawn))
        token = self.tokens[(self.at + len(drawn)) % len(self.tokens)]
        mask = bytearray((self.n_vocab + 31) // 32 * 4)
        mask[token // 8] = 1 << token % 8
        return bytes(mask)


def test_limits_are_asked_only_where_a_token_is_drawn(model: Model) -> None:
    session = Session(model, n_ctx=256, draft=DRAFTS["lookup"] | lib.QWEN35_DRAFT_ALWAYS)
    sampler = Sampler(model, Sampling(temperature=0.0), seed=0, n_logprobs=None, logit_bias={})
    cycle = [11, 12, 13, 14, 15]
    limits = Cycle(cycle, model.info.n_vocab)

    def decode(tokens: list[int]) -> list[int]:
        return [token for token, _ in session.decode(tokens, sampler, [], 8, limits)]

    session.eval(cycle * 3)
    session.draft_context(cycle * 3)
    assert decode([]) == [11]
    limits.at, limits.calls = 1, []
    assert decode([11]) == (cycle * 2)[1:9]  # all seven drafts are right
    assert limits.calls == [(cycle * 2)[1:8], *range(8)]
    limits.at, limits.most, limits.calls = 4, 2, []
    assert decode([14]) == [15, 11, 12]
    assert limits.calls[1:] == [0, 1, 2]
    limits.at, limits.most, limits.calls = 0, 7, []
    assert decode([12, 13, 14, 15]) == [11, 12, 13, 14, 15]  # four drafts fit behind four tokens
    limits.at, limits.calls = 3, []  # the lookup is wrong about the first
    assert decode([15]) == [14]
    assert limits.calls[1:] == [0]
    free = session.decode([], sampler, [], 1)
    limits.tokens = [free[0][0] + 1]
    assert decode([]) == limits.tokens
    assert session.decode([], sampler, [], 1) == free  # every token is allowed again
    session.close()


def test_errors_of_limits_come_out(model: Model) -> None:
    session = Session(model, n_ctx=64, draft=DRAFTS["lookup"] | lib.QWEN35_DRAFT_ALWAYS)
    sampler = Sampler(model, Sampling(temperature=0.0), seed=0, n_logprobs=None, logit_bias={})
    cycle = [11, 12, 13]
    session.eval(cycle * 3)
    session.draft_context(cycle * 3)

    class Failing(Cycle):
        error: BaseException = SchemaError("too complex")
        due = 0

        def allow(self, drawn: list[int]) -> bytes:
            if len(drawn) == self.due:
                raise self.error
            return super().allow(drawn)

    limits = Failing(cycle, model.info.n_vocab)
    with pytest.raises(SchemaError, match="too complex"):
        session.decode([11], sampler, [], 8, limits)
    assert session.position == 10
    limits.at, limits.due = 2, 2
    assert [token for token, _ in session.decode([12], sampler, [], 8, limits)] == [13, 11]
    limits.at, limits.error = 1, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        session.decode([11], sampler, [], 8, limits)
    session.close()


class Pair:
    """A session that drafts and one that evaluates the same tokens one by one."""

    def __init__(self, model: Model, seed: int) -> None:
        self.model, self.rng = model, random.Random(seed)
        self.trained = model.info.n_vocab == 4096
        self.drafting = Session(model, n_ctx=512, n_batch=32, draft=ALWAYS)
        self.plain = Session(model, n_ctx=512, n_batch=32)
        self.text: list[int] = []
        settings = Sampling(temperature=0.4, presence_penalty=0.2)
        self.samplers = [
            Sampler(model, settings, seed=seed, n_logprobs=3, logit_bias={}) for _ in range(2)
        ]
        if not self.trained:  # nothing that a random model drafts is ever right
            self.drafting.impose_acceptance([0.7] * 7)
        self.accepted = 0
        self.last = 1

    def close(self) -> None:
        self.drafting.close()
        self.plain.close()

    def tokens(self, n: int) -> list[int]:
        if not self.trained:
            return [self.rng.randrange(260) for _ in range(n)]
        story = self.rng.choice(cases.stories(20)).text.encode()
        return self.model.tokenize(story, special=False)[:n]

    def eval(self, tokens: list[int]) -> None:
        for session in (self.drafting, self.plain):
            session.eval(tokens)
        self.text += tokens
        self.last = self.tokens(1)[0]

    def picture(self) -> None:
        rows = np.random.default_rng(self.rng.randrange(99)).normal(size=(6, self.width))
        rows *= 0.02
        for session in (self.drafting, self.plain):
            session.eval_picture(rows.astype(np.float32), (2, 3))
        self.text += [-1] * 6

    @property
    def width(self) -> int:
        return self.model.info.n_embd

    def decode(self) -> None:
        """Draws, takes some back, and has the plain session do what was left."""
        self.drafting.draft_context(self.text)
        certain = [self.last, *self.tokens(self.rng.choice([0, 0, 0, 0, 0, 1, 4, 7]))]
        drawn = self.drafting.decode(certain, self.samplers[0], [], 8)
        back = self.rng.choice([0, 0, 1, len(drawn) // 2, len(drawn) - 1])
        self.drafting.take_back(self.samplers[0], min(back, len(drawn) - 1))
        drawn = drawn[: len(drawn) - min(back, len(drawn) - 1)]
        for token, logprob in drawn:
            self.text += certain
            same = self.plain.decode(certain, self.samplers[1], [], 1)
            assert same == [(token, logprob)] or not self.trained
            certain = [token]
        self.last = certain[-1]
        self.accepted += len(drawn) - 1

    def check(self) -> None:
        """The same token gives the same logits, to the last bit."""
        rows = [np.empty((1, self.model.info.n_vocab), np.float32) for _ in range(2)]
        token = self.tokens(1)
        for session, row in zip((self.drafting, self.plain), rows, strict=True):
            session.eval(token, Outputs(logits=row))
        self.text += token
        assert rows[0].tobytes() == rows[1].tobytes()


def test_a_state_after_drafts_is_that_of_plain_evaluation(model: Model) -> None:
    accepted = 0
    for seed in range(3):
        pair = Pair(model, seed)
        pair.eval(pair.tokens(40) * 2)
        for _ in range(45):
            step = pair.rng.randrange(10)
            if step < 7:
                pair.decode()
            elif step == 7:
                pair.eval(pair.tokens(pair.rng.choice([2, 9, 20])))
            elif step == 8:
                pair.picture()
            else:
                pair.check()
        pair.check()
        accepted += pair.accepted
        pair.close()
    assert accepted > 10


@pytest.mark.parametrize("draws", [600, pytest.param(20_000, marks=pytest.mark.long)])
def test_draws_follow_the_distribution(draws: int) -> None:
    """Three tokens behind a short text, each of the best three: 27 cells against the exact ones."""
    from qwen35cpp._bundled import tiny_path

    model = Model(bytes(tiny_path()), n_threads=1)
    prompt = model.tokenize(b"Once there was a", special=False)
    session = Session(model, n_ctx=64, draft=ALWAYS)
    n_vocab, n_used = model.info.n_vocab, 3683

    plain = Session(model, n_ctx=64, draft=0)
    greedy = Sampler(model, Sampling(temperature=0.0), seed=0, n_logprobs=None, logit_bias={})

    def best_three(*drawn: int) -> dict[int, float]:
        plain.reset()
        plain.eval(prompt)
        for token in drawn:
            plain.decode([token], greedy, [], 1)
        row = plain.logits(n_vocab)
        ids = np.argsort(-row[:n_used])[:3]
        weights = np.exp((row[ids] - row[ids[0]]) / 8)
        return dict(zip(map(int, ids), weights / weights.sum(), strict=True))

    expected = {
        (a, b, c): pa * pb * pc
        for a, pa in best_three().items()
        for b, pb in best_three(a).items()
        for c, pc in best_three(a, b).items()
    }
    plain.close()
    counts = dict.fromkeys(expected, 0)
    settings = Sampling(temperature=8.0, top_k=3, top_p=1.0, presence_penalty=0.0)
    sampler = Sampler(model, settings, seed=11, n_logprobs=None, logit_bias={})
    before = session.draft_statistics().accepted
    for _ in range(draws):
        session.reset()
        session.eval(prompt)
        session.draft_context(prompt)
        drawn = [token for token, _ in session.decode([], sampler, [], 1)]
        while len(drawn) < 3:
            found = session.decode(drawn[-1:], sampler, [], 3 - len(drawn))
            drawn += [token for token, _ in found]
        counts[drawn[0], drawn[1], drawn[2]] += 1
    assert session.draft_statistics().accepted - before > draws / 20
    cells = [(counts[key], draws * p) for key, p in expected.items() if draws * p > 5]
    chi = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells)
    freedom = len(cells) - 1
    assert len(cells) > 8
    # Wilson and Hilferty: the chance of more is below 1 in 10,000.
    limit = freedom * (1 - 2 / (9 * freedom) + 3.72 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert chi < limit
    session.close()
    model.close()


def test_what_is_refused(tiny_path: str, drafting: Llama) -> None:
    with pytest.raises(InvalidArgument, match="no multi-token-prediction layer"):
        Llama(tiny_path, draft="mtp")
    with pytest.raises(InvalidArgument, match="draft must be one of auto, off, mtp"):
        Llama(tiny_path, draft="some")  # type: ignore[arg-type]
    with Llama(tiny_path) as llama:  # auto: lookups alone
        assert llama.generate("Hello Hello Hello", max_tokens=4).usage.completion_tokens == 4
    slot = drafting._engine.slots[0]
    sampler = Sampler(
        drafting._engine.model, Sampling(temperature=0.0), seed=0, n_logprobs=None, logit_bias={}
    )
    slot.session.eval([1, 2, 3])
    drawn = slot.session.decode([4], sampler, [], 3)
    with pytest.raises(InvalidArgument, match="cannot be taken back"):
        slot.session.take_back(sampler, len(drawn) + 1)
    slot.session.take_back(sampler, len(drawn))
    with pytest.raises(InvalidArgument, match="expected an id below"):
        slot.session.draft_context([1, 2, 99_999])
    with pytest.raises(InvalidArgument, match="expected 0 to 1"):
        slot.session.impose_acceptance([1.5])
    drafting.reset()
