"""The bundled model in the engine: as good as the checkpoint in transformers, skill by skill.

scores.json holds, for every test set, which cases transformers answers right (evaluate.py writes
it). CI asks the first 50 cases of each; `pytest tests/tiny --long` asks all of them, and with
`--update-scores` writes the engine's scores beside those of transformers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers")

from qwen35cpp.convert import info, verify

from qwen35cpp import Llama
from qwen35cpp.vision import Picture
from tiny import card, cases, vocabulary
from tiny.chat_format import Renderer
from tiny.sample import Sample

HERE = Path(__file__).parent
CHECKPOINT = HERE / "qwen35-tiny"
SCORES = HERE / "scores.json"
POINT = 0.01
ALL = list(cases.SETS.values())
SHORT = [one for one in ALL if one.name not in ("needle 8k", "needle 16k", "needle 32k")]
PADS = [vocabulary.SPECIAL_IDS[f"<|{kind}_pad|>"] for kind in ("image", "video")]


@pytest.fixture(scope="module")
def llama() -> Iterator[Llama]:
    with Llama.tiny() as model:
        yield model


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    scores: dict[str, Any] = json.loads(SCORES.read_text(encoding="utf-8"))
    return scores


def pictures(sample: Sample) -> list[Picture]:
    """The stills of a sample, then the frame pairs of its videos: no sample has both."""
    stills = [Picture(image) for image in sample.images]
    pairs = [
        Picture(video.frames[i], video.frames[i + 1])
        for video in sample.videos
        for i in range(0, len(video.frames), 2)
    ]
    return stills + pairs


def placeholders(ids: list[int]) -> list[int]:
    """Prompt ids with one placeholder for each picture instead of one for each of its tokens."""
    return [
        token for i, token in enumerate(ids) if token not in PADS or i == 0 or ids[i - 1] != token
    ]


def outcomes(llama: Llama, test_set: cases.TestSet, count: int) -> list[bool]:
    """Which of the first `count` cases the engine answers right."""
    renderer, tokenizer = Renderer(vocabulary.plain(CHECKPOINT)), vocabulary.full(CHECKPOINT)
    found = []
    for sample in test_set.cases(count):
        prompt = placeholders(renderer.prompt(sample).ids)
        shown = pictures(sample)
        text = llama.generate(
            prompt, max_tokens=cases.MAX_REPLY, temperature=0, images=shown or None
        )
        reply = cases.reply_text(tokenizer, list(text.tokens))
        found.append(test_set.right(sample, reply))
    return found


def test_first_cases_of_every_skill(llama: Llama, recorded: dict[str, Any]) -> None:
    """50 cases cannot show one point of one skill; together they show it of all."""
    ours, theirs = 0, 0
    for one in SHORT:
        expected = [mark == "1" for mark in recorded[one.name]["outcomes"][:50]]
        found = outcomes(llama, one, 50)
        assert abs(sum(found) - sum(expected)) <= 3, one.name
        ours, theirs = ours + sum(found), theirs + sum(expected)
    assert abs(ours - theirs) <= POINT * 50 * len(SHORT) + 1


@pytest.mark.long
@pytest.mark.parametrize("test_set", ALL, ids=lambda one: one.name)
def test_every_case(
    llama: Llama, recorded: dict[str, Any], test_set: cases.TestSet, request: pytest.FixtureRequest
) -> None:
    marks = recorded[test_set.name]["outcomes"]
    found = outcomes(llama, test_set, test_set.full)
    share = sum(found) / len(found)
    print(
        f"{test_set.name}: engine {share:.3f}, transformers {recorded[test_set.name]['right']:.3f}"
    )
    if request.config.getoption("--update-scores"):
        scores = json.loads(SCORES.read_text(encoding="utf-8"))
        scores[test_set.name] |= {"engine": share, "engine_count": len(found)}
        card.save(scores, SCORES)
    # Only the cases that transformers was asked are comparable.
    difference = sum(found[: len(marks)]) - marks.count("1")
    assert abs(difference) <= max(1, round(POINT * len(marks)))


def test_goals_are_reached_or_named(recorded: dict[str, Any]) -> None:
    """A score under its goal must be listed as such in the model card."""
    text = (CHECKPOINT / "README.md").read_text(encoding="utf-8")
    assert card.table(recorded) in text
    for one in cases.SETS.values():
        if one.goal is not None and recorded[one.name]["right"] < one.goal:
            assert f"{one.name}: under its goal" in text


def test_bundled_file_is_whole_and_small(recorded: dict[str, Any]) -> None:
    from qwen35cpp._bundled import tiny_path

    path = tiny_path()
    assert path.stat().st_size <= 16_000_000
    assert verify(path) == []
    names = {tensor.name for tensor in info(path).tensors}
    assert "blk.8.nextn.eh_proj.weight" in names
    assert "v.patch_embd.weight" in names
    assert recorded["story"]["perplexity"] > 1


def test_bundled_file_is_the_checkpoint(tmp_path: Path) -> None:
    """Converting the checkpoint again gives the bundled file."""
    from qwen35cpp import convert
    from qwen35cpp._bundled import tiny_path

    convert.convert(CHECKPOINT, tmp_path / tiny_path().name, "q8_0", vision="embed")
    assert (tmp_path / tiny_path().name).read_bytes() == tiny_path().read_bytes()


def test_tiny_tells_a_story(llama: Llama) -> None:
    text = llama.generate("Once there was a", temperature=0, max_tokens=200)
    assert text.finish_reason == "stop"
    assert len(text.split()) > 15
