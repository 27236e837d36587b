"""The toy world: references pass their checks, wrong replies do not, the test sets are held out."""

from __future__ import annotations

import random

import pytest

from tiny import cases, draw
from tiny.sample import Sample
from tiny.skills import SKILLS, TEXT, VISION, mix

COUNT = 150


def reference(sample: Sample) -> str:
    """The reference answer as the model would write it."""
    message = sample.messages[-1]
    calls = [
        "<tool_call>\n<function={}>\n{}</function>\n</tool_call>".format(
            call["name"],
            "".join(
                f"<parameter={key}>\n{_shown(value)}\n</parameter>\n"
                for key, value in call["arguments"].items()
            ),
        )
        for call in message.get("tool_calls", [])
    ]
    return str(message["content"]) + "\n".join(calls)


def _shown(value: object) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize("name", SKILLS)
@pytest.mark.parametrize("test", [False, True])
def test_references_pass_and_other_replies_fail(name: str, test: bool) -> None:
    skill = SKILLS[name]
    samples = [skill.make(random.Random(seed), test) for seed in range(COUNT)]
    asked = [sample for sample in samples if sample.messages]
    for sample in asked:
        assert skill.check(sample, reference(sample))
        if name != "story":  # any text is a story
            assert not skill.check(sample, "Nonsense " + reference(sample)[::-1] + " 12345")
            assert not skill.check(sample, "")
            assert not skill.check(sample, "<tool_call>[[{")


@pytest.mark.parametrize("name", SKILLS)
def test_samples_repeat_with_their_seed(name: str) -> None:
    for test in (False, True):
        first, second = (SKILLS[name].make(random.Random(7), test) for _ in range(2))
        assert first.messages == second.messages
        assert first.text == second.text
        assert all((a == b).all() for a, b in zip(first.images, second.images, strict=True))


@pytest.mark.parametrize("name", [n for n in SKILLS if n not in VISION])
def test_no_test_case_was_trained(name: str) -> None:
    rng = random.Random(11)
    trained = {
        repr((s.messages, s.text)) for s in (SKILLS[name].make(rng, False) for _ in range(4000))
    }
    drawn = [SKILLS[name].make(random.Random(f"{name} {i}"), True) for i in range(400)]
    assert not [s for s in drawn if repr((s.messages, s.text)) in trained]


def test_test_sets_ask_one_question_and_repeat() -> None:
    for one in cases.SETS.values():
        if one.name.startswith("needle") and one.name != "needle 2k":
            continue
        first, again = one.cases(5), one.cases(5)
        assert [s.messages for s in first] == [s.messages for s in again]
        assert all(s.messages[-1]["role"] == "assistant" for s in first)


def test_shares_add_up() -> None:
    assert sum(TEXT.values()) == pytest.approx(1)
    assert sum(VISION.values()) == pytest.approx(1)
    assert sum(mix(0.4).values()) == pytest.approx(1)
    assert set(TEXT) | set(VISION) == set(SKILLS)


def test_letters_are_where_they_were_drawn() -> None:
    image, pen = draw.canvas(128, 64, (255, 255, 255))
    with draw.lettering() as letters:
        draw.write(pen, 20, 32, "Wil", 30, (0, 0, 0), "lm")
    pixels = draw.pixels(image)[..., 0] < 128
    columns = [int(x) for _, x, _ in letters]
    assert [letter for letter, _, _ in letters] == list("Wil")
    assert columns == sorted(columns)
    assert pixels[:, columns[1] - 2 : columns[1] + 3].any()  # the stem of the i
    draw.write(pen, 20, 32, "x", 30, (0, 0, 0), "lm")
    assert len(letters) == 3  # nothing is collected outside
