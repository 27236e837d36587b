"""Drafts change the speed and nothing else: tokens, figures, seeds, penalties, stops, states."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tiny_gguf
from qwen35cpp import InvalidArgument, Llama
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
        drawn = self.drafting.decode([self.last], self.samplers[0], [], 8)
        back = self.rng.choice([0, 0, 1, len(drawn) // 2, len(drawn) - 1])
        self.drafting.take_back(self.samplers[0], min(back, len(drawn) - 1))
        drawn = drawn[: len(drawn) - min(back, len(drawn) - 1)]
        for token, logprob in drawn:
            self.text.append(self.last)
            same = self.plain.decode([self.last], self.samplers[1], [], 1)
            assert same == [(token, logprob)] or not self.trained
            self.last = token
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
        for _ in range(30):
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
    assert accepted > 15


@pytest.mark.parametrize("draws", [600, pytest.param(20_000, marks=pytest.mark.long)])
def test_draws_follow_the_distribution(draws: int) -> None:
    """Three tokens behind a short text, each of the best three: 27 cells against the exact ones."""
    from qwen35cpp._bundled import tiny_path

    model = Model(bytes(tiny_path()), n_threads=1)
    prompt = model.tokenize(b"Once there was a", special=False)
    session = Session(model, n_ctx=64, draft=ALWAYS)
    n_vocab, n_used = model.info.n_vocab, 3683

    def best_three(tokens: list[int]) -> dict[int, float]:
        row = np.empty((1, n_vocab), np.float32)
        session.reset()
        session.eval(tokens, Outputs(logits=row))
        ids = np.argsort(-row[0, :n_used])[:3]
        weights = np.exp((row[0, ids] - row[0, ids[0]]) / 1.3)
        return dict(zip(map(int, ids), weights / weights.sum(), strict=True))

    expected = {
        (a, b, c): pa * pb * pc
        for a, pa in best_three(prompt).items()
        for b, pb in best_three([*prompt, a]).items()
        for c, pc in best_three([*prompt, a, b]).items()
    }
    counts = dict.fromkeys(expected, 0)
    settings = Sampling(temperature=1.3, top_k=3, top_p=1.0, presence_penalty=0.0)
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
