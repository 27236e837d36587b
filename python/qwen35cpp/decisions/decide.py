"""One prompt for all fields, read once, and a Decision of the likelihood of their labels."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._engine import Engine, Slot
from ..chat.messages import Message
from ..chat.model import conversation
from ..chat.vocabulary import IM_END
from ..errors import ContextTooLong, InvalidArgument
from ..types import Record, Timings, Usage
from .fields import Asked
from .labels import LabelTree

if TYPE_CHECKING:
    from .._request import Progress
    from ..chat.model import ChatModel
    from ..vision import Budget, PicturePrompt, Preset

Prepare = Callable[[Sequence[Message]], "list[int] | PicturePrompt"]

# What stands in for the text to learn how a model leans without one.
_NOTHING = "N/A"


class Decision(Record):
    """The value of each field, by name or as an attribute, with what the model thinks of others.

    A field of numbers has their mean, weighted by probability; the others have the likeliest value.
    """

    probabilities: dict[str, dict[Any, float]]  # field -> value -> probability, sums to 1
    confidence: dict[str, float]  # the probability of the likeliest value of each field
    usage: Usage
    timings: Timings

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def key_of(value: Any) -> str:
    """A value of a field as a key of a JSON object."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class Label(str):
    """A label as text, with what the model thinks of the others."""

    __slots__ = ("probabilities", "probability", "value")
    value: Any  # what the label stands for, where that is no text
    probability: float
    probabilities: dict[Any, float]

    @classmethod
    def of(cls, decision: Decision, field: str) -> Label:
        """The decision of one field."""
        probabilities = decision.probabilities[field]
        value = max(probabilities, key=lambda each: probabilities[each])
        label = cls(value)
        label.value, label.probabilities = value, probabilities
        label.probability = probabilities[value]
        return label


@dataclass(frozen=True)
class Options:
    """What goes before the texts, and how labels are compared; see Llama.decide."""

    system: str | None = None
    budget: Budget | Preset = "default"
    length_normalize: bool = False
    calibrate: bool = False


class Decider:
    """Decides the same fields for any number of texts."""

    def __init__(
        self, engine: Engine, model: ChatModel, fields: Sequence[Asked], options: Options
    ) -> None:
        if not fields:
            raise InvalidArgument("there are no fields to decide")
        self._engine, self._model = engine, model
        self._fields, self._options = fields, options
        self._end = model.vocabulary.id(IM_END)
        self._labels = [[model.vocabulary.encode(x) for x in f.labels] for f in fields]
        self._priors: list[list[float]] | None = None

    @property
    def names(self) -> list[str]:
        """The names of the fields."""
        return [field.name for field in self._fields]

    def gave(self, values: Sequence[str]) -> bool:
        """Whether the texts of values, one for each field, can be those of a decision."""
        return all(
            field.is_number or value in map(str, field.values)
            for field, value in zip(self._fields, values, strict=True)
        )

    def __call__(
        self, prompt: str | Sequence[Message], *, progress: Progress | None = None
    ) -> Decision:
        """The decision about a text, or about messages of which the last is the user's."""
        messages = conversation(prompt, self._options.system, ())
        prepare = self._model.preparation(self._options.budget)
        if self._options.calibrate and self._priors is None:
            bare = conversation(_NOTHING, self._options.system, ())
            self._priors = self._rate(bare, prepare, None)[0]
        scores, usage, timings = self._rate(messages, prepare, progress)
        if self._priors is not None:
            pairs = zip(scores, self._priors, strict=True)
            scores = [[a - b for a, b in zip(*pair, strict=True)] for pair in pairs]
        decision = Decision()
        decision.probabilities, decision.confidence = {}, {}
        decision.usage, decision.timings = usage, timings
        for field, row in zip(self._fields, scores, strict=True):
            shares = dict(zip(field.values, _softmax(row), strict=True))
            best = max(shares, key=lambda value: shares[value])
            mean = sum(v * p for v, p in shares.items()) if field.is_number else None
            decision[field.name] = best if mean is None else mean
            decision.probabilities[field.name] = shares
            decision.confidence[field.name] = shares[best]
        return decision

    def _rate(
        self, messages: Sequence[Message], prepare: Prepare, progress: Progress | None
    ) -> tuple[list[list[float]], Usage, Timings]:
        """Log-probabilities of the labels of every field."""
        prompts = [prepare(_with_question(messages, field.question)) for field in self._fields]
        ids = [prompt if isinstance(prompt, list) else list(prompt.ids) for prompt in prompts]
        spans = () if isinstance(prompts[0], list) else prompts[0].spans
        self._check_room(ids)
        shared = ids[0] if len(ids) == 1 else _common(ids)
        with self._engine.hold(shared) as held:
            slot = held.slot
            started = time.perf_counter()
            tree = self._tree(0) if len(ids) == 1 else None
            branches = None if tree is None else tree.branches
            cached = slot.begin(shared, progress, spans, branches=branches)
            rest = [tokens[len(shared) :] for tokens in ids]
            scores = self._branch(slot, rest) if tree is None else [self._score(slot, tree, 0)]
            seconds = time.perf_counter() - started - slot.waited
        total = len(shared) + sum(map(len, rest))
        return scores, Usage(total, 0, cached), Timings(seconds, 0.0, total - cached, 0)

    def _branch(self, slot: Slot, rest: Sequence[list[int]]) -> list[list[float]]:
        """The labels behind the question of each field; the slot comes back to the text."""
        mark = slot.mark()
        scores = []
        for field, tokens in enumerate(rest):
            tree = self._tree(field)
            slot.eval(tokens, tree.branches.outputs(len(tokens)))
            scores.append(self._score(slot, tree, field))
            slot.return_to(mark)
        return scores

    def _tree(self, field: int) -> LabelTree:
        return LabelTree(self._labels[field], self._end, self._engine.info.n_vocab)

    def _score(self, slot: Slot, tree: LabelTree, field: int) -> list[float]:
        """The labels of a field, with whose question their branches were evaluated."""
        fair = self._options.length_normalize
        row = tree.rate(slot, every=fair)
        lengths = map(len, self._labels[field])
        return [x / n for x, n in zip(row, lengths, strict=True)] if fair else row

    def _check_room(self, prompts: Sequence[Sequence[int]]) -> None:
        for tokens, labels in zip(prompts, self._labels, strict=True):
            needed = len(tokens) + max(map(len, labels)) + 1
            if needed > self._engine.n_ctx:
                raise ContextTooLong(
                    f"text, question and labels have {needed} tokens, "
                    f"the context holds {self._engine.n_ctx}"
                )


def _with_question(messages: Sequence[Message], question: str) -> list[Message]:
    """The messages with a question at the end of the last one."""
    last = dict(messages[-1])
    if last.get("role") != "user":
        raise InvalidArgument("the last message must be the user's: it is what is decided about")
    content = last.get("content") or ""
    if not question:
        return list(messages)
    if isinstance(content, str):
        last["content"] = f"{content}\n\n{question}" if content else question
    else:
        last["content"] = [*content, {"type": "text", "text": f"\n\n{question}"}]
    return [*messages[:-1], last]


def _common(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all prompts begin with, but not the whole of one."""
    length = min(map(len, prompts)) - 1
    first = prompts[0]
    for n in range(length):
        if any(tokens[n] != first[n] for tokens in prompts):
            return list(first[:n])
    return list(first[:length])


def _softmax(scores: Sequence[float]) -> list[float]:
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    return [weight / sum(weights) for weight in weights]
