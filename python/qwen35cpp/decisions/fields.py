"""What a caller wants decided: the answers of a field, and how it is asked for."""

from __future__ import annotations

import enum
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidArgument

MOST_LABELS = 1000


@dataclass(frozen=True)
class Field:
    """One thing to decide.

    Args:
        answers: a list of values, a mapping from values to the texts that stand for them, `bool`,
            a `range` of numbers, an Enum or a Literal.
        question: what to ask the model, with the answers named; None makes a question of the
            field's name and its answers, "" adds none because the text asks already.
    """

    answers: Any
    question: str | None = None


@dataclass(frozen=True)
class Asked:
    """A field as it is put to the model."""

    name: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]  # the text that stands for each value
    question: str
    is_number: bool  # decided as the mean of the numbers and not as the likeliest


def asked(name: str, field: Any) -> Asked:
    """A field with its labels and its question.

    Raises:
        InvalidArgument: the answers cannot be decided between; the text says which and why.
    """
    given = field if isinstance(field, Field) else Field(field)
    answers = given.answers
    words = name.replace("_", " ").strip()
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    if answers is bool:
        values, labels = (True, False), ("yes", "no")
        question = f"{words}? Answer yes or no."
    elif isinstance(answers, range):
        values, labels = tuple(answers), tuple(map(str, answers))
        ends = f"{labels[0]} to {labels[-1]}" if labels else ""
        question = f"{words}: answer with a number from {ends}."
    else:
        values, labels = _choices(name, answers)
        question = f"Which {words} fits? Choose one: {', '.join(labels)}."
    _check(name, labels)
    chosen = given.question if given.question is not None else question
    return Asked(name, values, labels, chosen, isinstance(answers, range))


def _choices(name: str, answers: Any) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    if isinstance(answers, Mapping):
        return tuple(answers), tuple(map(str, answers.values()))
    if isinstance(answers, type) and issubclass(answers, enum.Enum):
        return tuple(answers), tuple(str(member.value) for member in answers)
    if typing.get_origin(answers) is typing.Literal:
        answers = typing.get_args(answers)
    if isinstance(answers, Sequence) and not isinstance(answers, (str, bytes)):
        return tuple(answers), tuple(map(str, answers))
    raise InvalidArgument(
        f"{name}: no answers in {answers!r}",
        hint="give a list of labels, bool, a range, an Enum, a Literal or a Field",
    )


def _check(name: str, labels: tuple[str, ...]) -> None:
    if len(labels) < 2:
        raise InvalidArgument(f"{name}: {len(labels)} answers, there is nothing to decide")
    if len(labels) > MOST_LABELS:
        raise InvalidArgument(f"{name}: {len(labels)} answers, at most {MOST_LABELS} can be asked")
    for label in labels:
        if not label.strip():
            raise InvalidArgument(f"{name}: an answer is empty")
        if labels.count(label) > 1:
            raise InvalidArgument(f"{name}: two answers are {label!r}")
