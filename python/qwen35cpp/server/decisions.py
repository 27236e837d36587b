"""POST /v1/decisions: typed answers with their probabilities, nothing is generated.

    {"input": "The app crashes!", "fields": {"team": ["billing", "bug"], "urgent": "bool",
     "anger": {"range": [0, 5]}}}

`input` may be a list of texts; `messages` take its place for a conversation or pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import msgspec

from ..decisions.decide import Decision, key_of
from ..decisions.fields import Field
from .answers import Body, Context, Objects
from .errors import bad
from .jobs import Event, Job

_MOST_INPUTS, _MOST_FIELDS, _MOST_NUMBERS = 256, 32, 1000


class Answers(msgspec.Struct, forbid_unknown_fields=True):
    """A field with a question of its own, or of numbers."""

    answers: list[str] | dict[str, str] | None = None
    range: tuple[int, int] | None = None  # from the first number up to before the second
    question: str | None = None


class DecisionBody(Body, kw_only=True):
    """The fields of a request."""

    fields: Annotated[
        dict[str, str | list[str] | Answers],
        msgspec.Meta(min_length=1, max_length=_MOST_FIELDS),
    ]
    input: str | list[str] | None = None
    messages: Objects | None = None
    system: str | None = None
    length_normalize: bool = False
    calibrate: bool = False
    user: Any = None  # without a meaning here


def decision_work(context: Context, data: bytes) -> Callable[[Job], Iterator[Event]]:
    """The work of a request."""
    body = msgspec.json.decode(data, type=DecisionBody)
    if (body.input is None) == (body.messages is None):
        raise bad("give either input or messages", "input")
    prompts: list[Any] = [body.input] if isinstance(body.input, str) else list(body.input or ())
    if body.messages is not None:
        prompts = [body.messages]
    if not 1 <= len(prompts) <= _MOST_INPUTS:
        raise bad(f"input: 1 to {_MOST_INPUTS} texts", "input")
    fields = {name: _field(name, given) for name, given in body.fields.items()}

    def work(job: Job) -> Iterator[Event]:
        if body.messages is not None:
            context.check(body.messages, {})
        decider = context.llama.decider(
            fields,
            system=body.system,
            length_normalize=body.length_normalize,
            calibrate=body.calibrate,
        )
        progress = job.stop.watched({})["progress"]
        decisions = []
        for index, prompt in enumerate(prompts):
            context.check_length(prompt)
            decision = decider(prompt, progress=progress)
            context.metrics.answered(
                prompt_tokens=decision.usage.prompt_tokens,
                cached_tokens=decision.usage.cached_tokens,
            )
            decisions.append((index, decision))
        n = sum(decision.usage.prompt_tokens for _, decision in decisions)
        yield {
            "object": "list",
            "data": [_shape(index, decision, list(fields)) for index, decision in decisions],
            "model": context.name,
            "usage": {"prompt_tokens": n, "total_tokens": n},
        }

    return work


def _field(name: str, given: str | list[str] | Answers) -> Any:
    if given == "bool":
        return bool
    if isinstance(given, str):
        raise bad(f"fields.{name}: expected 'bool', a list of answers or an object", "fields")
    if isinstance(given, list):
        return given
    if (given.answers is None) == (given.range is None):
        raise bad(f"fields.{name}: give either answers or range", "fields")
    if given.range is None:
        return Field(given.answers, given.question)
    first, end = given.range
    if not 2 <= end - first <= _MOST_NUMBERS:
        raise bad(f"fields.{name}: a range has 2 to {_MOST_NUMBERS} numbers", "fields")
    return Field(range(first, end), given.question)


def _shape(index: int, decision: Decision, names: list[str]) -> dict[str, Any]:
    """A decision as JSON: the values of fields are keys there, so they become texts."""
    return {
        "object": "decision",
        "index": index,
        "values": {name: decision[name] for name in names},
        "probabilities": {
            name: {key_of(value): p for value, p in decision.probabilities[name].items()}
            for name in names
        },
        "confidence": {name: decision.confidence[name] for name in names},
    }
