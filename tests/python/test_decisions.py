"""Decisions, likelihoods and rankings with the bundled model and its world."""

from __future__ import annotations

import asyncio
import csv
import enum
import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from qwen35cpp import AsyncLlama, ContextTooLong, Field, InvalidArgument, Llama
from qwen35cpp.cli import main
from qwen35cpp.decisions import labels as decided
from qwen35cpp.decisions.labels import LabelTree
from qwen35cpp.decisions.table import decide_table
from qwen35cpp.errors import FileError
from qwen35cpp.vision import Picture
from tiny import cases, draw, labels, pictures

TEAMS = ["billing", "bug", "shipping", "other"]
MESSAGES = {
    "Where is my package with the lamp?": "shipping",
    "I was charged 5 coins twice for the box.": "billing",
    "The app crashes when I open the lamp page.": "bug",
    "Are you open on Monday?": "other",
}


@pytest.fixture(scope="module")
def tiny() -> Iterator[Llama]:
    with Llama.tiny(n_ctx=4096) as llama:
        yield llama


def _logprob(llm: Llama, prompt: list[int], continuation: list[int]) -> float:
    """Of a continuation, in one evaluation and float64."""
    llm.reset()
    rows = llm.eval([*prompt, *continuation], all_logits=True).astype(np.float64)
    logits = rows[len(prompt) - 1 : -1]
    values = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(sum(values[i, token] for i, token in enumerate(continuation)))


# ---- labels -------------------------------------------------------------------------------------

WORDS = ["red", "red lamp", "red lamp post", "blue", "blue box", "the old man", "the old map", "a"]


def _rated(llm: Llama, prompt: list[int], every: bool) -> list[float]:
    """Log-probabilities of WORDS behind a prompt."""
    ids = [llm.tokenize(word) for word in WORDS]
    tree = LabelTree(ids, llm.tokenize("<|im_end|>", special=True)[0], llm.n_vocab())
    with llm._engine.hold() as held:
        held.slot.begin(prompt, branches=tree.branches)
        found = tree.rate(held.slot, every=every)
        assert held.slot.position == len(prompt)  # where it was
    return found


@pytest.mark.parametrize("n_batch", [512, 32])
def test_labels_together_are_what_they_are_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch, n_batch: int
) -> None:
    with Llama.tiny(n_ctx=512, n_batch=n_batch, prefix_cache=False) as llm:
        ask = [{"role": "user", "content": "Which one? Choose one: " + ", ".join(WORDS) + "."}]
        prompt = llm.render_chat(ask, think=False).ids
        # Read in whole, up to a batch's end, and a single token behind one.
        for n in (len(prompt), len(prompt) // 32 * 32, len(prompt) // 32 * 32 + 1):
            together = _rated(llm, prompt[:n], every=False)
            with monkeypatch.context() as patch:
                patch.setattr(decided, "_MOST", 0)
                alone = _rated(llm, prompt[:n], every=True)
            np.testing.assert_allclose(together, alone, atol=0.2)


def test_probabilities_are_those_of_the_labels_as_answers(
    tiny: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = [{"role": "user", "content": "Which one? Choose one: " + ", ".join(WORDS) + "."}]
    prompt = tiny.render_chat(ask, think=False).ids
    end = tiny.tokenize("<|im_end|>", special=True)
    expected = []
    for word in WORDS:
        tokens = tiny.tokenize(word)
        begins = any(tiny.tokenize(x)[: len(tokens)] == tokens for x in WORDS if x != word)
        expected.append(_logprob(tiny, prompt, tokens + (end if begins else [])))
    found = _rated(tiny, prompt, every=True)
    again = _rated(tiny, prompt, every=False)  # behind what is known
    monkeypatch.setattr(decided, "_MOST", 2)
    pruned = _rated(tiny, prompt, every=False)
    # Tokens of a prompt and single ones may be rounded in other ways (AMX).
    np.testing.assert_allclose(found, expected, atol=0.2)
    np.testing.assert_allclose(found, again, atol=0.2)
    for exact, bound in zip(found, pruned, strict=True):
        assert bound >= exact - 0.2
        assert bound == pytest.approx(exact, abs=0.2) or bound < max(found) + math.log(1e-4)
    decision = tiny.decide(ask, word=Field(WORDS, ""))
    shares = np.exp(found) / np.exp(found).sum()
    np.testing.assert_allclose(list(decision.probabilities["word"].values()), shares, atol=1e-3)


def test_classes_of_messages(tiny: Llama) -> None:
    found = tiny.classify(list(MESSAGES), TEAMS)
    assert found == list(MESSAGES.values())
    for label in found:
        assert sum(label.probabilities.values()) == pytest.approx(1)
        assert label.probability == max(label.probabilities.values()) > 0.9
    assert tiny.classify("Where is my parcel?", TEAMS)[0] in TEAMS


def test_fields_share_the_text_and_do_not_touch_each_other(tiny: Llama) -> None:
    text = next(iter(MESSAGES))
    both = tiny.decide(text, team=TEAMS, urgent=bool, score=range(5))
    assert (both.team, both["team"]) == ("shipping", "shipping")
    assert isinstance(both.urgent, bool)
    assert 0 <= both.score <= 4
    scores = both.probabilities["score"]
    assert both.score == pytest.approx(sum(n * p for n, p in scores.items()))
    assert json.loads(json.dumps(both)) == dict(both)
    for name, field in (("team", TEAMS), ("urgent", bool), ("score", range(5))):
        alone = tiny.decide(text, {name: field})
        for value, share in alone.probabilities[name].items():
            assert share == pytest.approx(both.probabilities[name][value], abs=0.02)
    once = sum(tiny.decide(text, {n: f}).usage.prompt_tokens for n, f in [("team", TEAMS)])
    assert both.usage.prompt_tokens < 3 * once


class Team(enum.Enum):
    PAY = "billing"
    SHIP = "shipping"


@pytest.mark.parametrize(
    ("answers", "value"),
    [
        (Team, Team.SHIP),
        (Literal["billing", "shipping"], "shipping"),
        ({1: "billing", 2: "shipping"}, 2),
        (("shipping", "billing"), "shipping"),
    ],
)
def test_answers_in_all_forms(tiny: Llama, answers: Any, value: Any) -> None:
    assert tiny.decide(next(iter(MESSAGES)), team=answers).team == value


def test_decisions_agree_with_generation_and_know_how_sure_they_are(tiny: Llama) -> None:
    names = [list(labels.OPINIONS), list(labels.TOPICS), list(labels.CUSTOMER), ["yes", "no"]]
    right, sure, agree = [], [], []
    for sample in cases.SETS["classify"].cases(40):
        (choices,) = [each for each in names if sample.expect in each]
        decision = tiny.decide(sample.messages[:-1], label=Field(choices, ""))
        right.append(decision.label == sample.expect)
        sure.append(decision.confidence["label"])
        agree.append(decision.label == tiny.chat(sample.messages[:-1], temperature=0))
    assert np.mean(agree) > 0.95
    assert np.mean(right) > 0.75
    assert abs(np.mean(sure) - np.mean(right)) < 0.1


def test_length_and_calibration_change_the_comparison(tiny: Llama) -> None:
    text = "Are you open on Monday?"
    plain = tiny.decide(text, kind=["a", "a long walk in the old forest"])
    fair = tiny.decide(text, kind=["a", "a long walk in the old forest"], length_normalize=True)
    long = "a long walk in the old forest"
    assert fair.probabilities["kind"][long] > plain.probabilities["kind"][long]
    decider = tiny.decider({"team": TEAMS}, calibrate=True)
    for value in decider("N/A").probabilities["team"].values():  # compared with itself
        assert value == pytest.approx(1 / len(TEAMS), abs=1e-3)
    assert decider("Where is my package with the lamp?").team == "shipping"


def test_pictures(tiny: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = 0
    plain = Picture.open

    def counted(*arguments: Any) -> Picture:
        nonlocal decoded
        decoded += 1
        return plain(*arguments)

    monkeypatch.setattr(Picture, "open", counted)
    rng = random.Random(4)
    colours = {name: f"{name.capitalize()}." for name in draw.PAINTS}
    agree, seen = 0, set()
    for _ in range(8):
        scene = pictures.shapes_scene(rng, False)
        ask = f"What colour is the {scene.boxes[0].kind}?"
        said = tiny.chat(ask, images=[scene.image], temperature=0, max_tokens=10)
        decoded = 0
        found = tiny.decide(ask, images=[scene.image], colour=Field(colours, ""), big=bool)
        assert decoded == 1
        agree += said == colours[found.colour]
        seen.add(found.colour)
    assert agree >= 7
    assert len(seen) > 1  # it looks at the picture


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({}, "no fields"),
        ({"x": ["a"]}, "nothing to decide"),
        ({"x": ["a", "a"]}, "two answers"),
        ({"x": ["a", " "]}, "is empty"),
        ({"x": "abc"}, "no answers in"),
        ({"x": range(0)}, "nothing to decide"),
        ({"x": range(2000)}, "at most 1000"),
        ({"x": int}, "no answers in"),
    ],
)
def test_what_cannot_be_decided(tiny: Llama, fields: Any, what: str) -> None:
    with pytest.raises(InvalidArgument, match=what):
        tiny.decide("text", fields)


def test_messages_that_cannot_be_decided_about(tiny: Llama) -> None:
    with pytest.raises(InvalidArgument, match="last message"):
        tiny.decide([{"role": "assistant", "content": "x"}], x=["a", "b"])
    with pytest.raises(ContextTooLong, match="the context holds 4096"):
        tiny.decide("word " * 5000, x=["a", "b"])
    assert tiny.decide("text", x=["a", "b"]).x in "ab"


def test_many_decide_and_extract_at_once(tiny: Llama) -> None:
    texts = list(MESSAGES) * 2

    def extracted(text: str) -> Any:
        answer = tiny.chat(text, choice=TEAMS, temperature=0)
        return answer.parsed, tiny.decide(text, team=TEAMS).team

    alone = [extracted(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(extracted, texts)) == alone

    async def several() -> list[Any]:
        llm = AsyncLlama(tiny)
        found = await asyncio.gather(*(llm.decide(text, team=TEAMS) for text in MESSAGES))
        await llm.close()
        return [each.team for each in found]

    assert asyncio.run(several()) == list(MESSAGES.values())


# ---- likelihoods and ranking --------------------------------------------------------------------


def test_scores_are_log_likelihoods(tiny: Llama) -> None:
    prompt, more = tiny.tokenize("Anna has a red lamp."), tiny.tokenize(" The lamp is red. " * 12)
    score = tiny.score(prompt, more)
    assert score.logprob == pytest.approx(_logprob(tiny, prompt, more), rel=3e-3)
    assert score.per_token == pytest.approx(score.logprob / len(more))
    assert score.perplexity == pytest.approx(math.exp(-score.per_token))
    assert [token.token for token in score.tokens] == more
    ask = [{"role": "user", "content": "Hello!"}]
    answer = tiny.chat(ask, temperature=0)
    assert tiny.score(ask, answer).per_token > tiny.score(ask, "lamp box tree 77").per_token
    for bad, what in (("", "prompt has no"), ("x", "continuation has no")):
        with pytest.raises(InvalidArgument, match=what):
            tiny.score(bad, "")


def test_rankings(tiny: Llama) -> None:
    query = "What is Ben's favourite food?"
    documents = ["Anna lives in Lima.", "The box is blue.", "Ben's favourite food is soup."]
    for method in ("query", "embedding", "yes"):
        found = tiny.rank(query, documents, method=method)  # type: ignore[arg-type]
        assert sorted(each.index for each in found) == [0, 1, 2]
        assert [each.document for each in found] == [documents[each.index] for each in found]
        assert found == sorted(found, key=lambda each: -each.score)
    assert tiny.rank(query, documents)[0].index == 2
    assert tiny.rank("Where?", []) == []
    with pytest.raises(InvalidArgument, match="method must be"):
        tiny.rank("x", documents, method="best")  # type: ignore[arg-type]


# ---- tables and the command line ----------------------------------------------------------------


def _table(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "text"), *rows])


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_table_goes_on_wherever_it_was_cut_off(tiny: Llama, tmp_path: Path) -> None:
    source, target, part = tmp_path / "in.csv", tmp_path / "out.csv", tmp_path / "out.csv.part"
    texts = [*MESSAGES, 'A "quoted"\nline, and größe']
    _table(source, [(str(i), text) for i, text in enumerate(texts)])
    decider = tiny.decider({"team": TEAMS, "urgent": bool})
    assert decide_table(decider, source, "text", target) == 0
    whole = target.read_bytes()
    assert [row["team"] for row in _rows(target)][:4] == list(MESSAGES.values())
    assert [row["text"] for row in _rows(target)] == texts
    assert not part.exists()
    for cut in range(0, len(whole) + 1, 23):
        part.write_bytes(whole[:cut])
        known = decide_table(decider, source, "text", target)
        assert target.read_bytes() == whole, cut
        assert known <= len(texts)
    part.write_bytes(whole)
    assert decide_table(decider, source, "text", target) == len(texts)


def test_a_table_of_something_else_is_left_alone(tiny: Llama, tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    part = tmp_path / "out.csv.part"
    _table(source, [("1", "one"), ("2", "two")])
    decider = tiny.decider({"team": TEAMS})
    for data in ("id,text,other,other_p\n", "id,text,team,team_p\n1,uno,bug,0.5\n",
                 "id,text,team,team_p\n1,one,sales,0.5\n"):  # fmt: skip
        part.write_text(data)
        with pytest.raises(FileError, match="does not belong"):
            decide_table(decider, source, "text", target)
        assert part.read_text() == data
    part.unlink()
    with pytest.raises(InvalidArgument, match="no column 'texts'"):
        decide_table(decider, source, "texts", target)
    with pytest.raises(InvalidArgument, match="a column 'text' already"):
        decide_table(tiny.decider({"text": TEAMS}), source, "text", target)
    with pytest.raises(FileError, match="cannot use"):
        decide_table(decider, tmp_path / "missing.csv", "text", target)


def test_a_table_with_a_long_cell(tiny: Llama, tmp_path: Path) -> None:
    source, target, part = tmp_path / "in.csv", tmp_path / "out.csv", tmp_path / "out.csv.part"
    _table(source, [("x" * 200_000, next(iter(MESSAGES)))])  # Python's limit is 131,072
    decider = tiny.decider({"team": TEAMS})
    assert decide_table(decider, source, "text", target) == 0
    part.write_bytes(target.read_bytes())
    assert decide_table(decider, source, "text", target) == 1
    source.write_text('id,text\n1,"open\n')
    with pytest.raises(InvalidArgument, match="unexpected end of data"):
        decide_table(decider, source, "text", target)
    source.write_text("")
    with pytest.raises(InvalidArgument, match="expected a header"):
        decide_table(decider, source, "text", target)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, team = list(MESSAGES.items())[1]
    base = ["decide", "tiny", "--label", ",".join(TEAMS)]
    assert main([*base, text, "--field", "urgent:bool", "--field", "score:0..4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["label"]["value"] == team
    assert found["urgent"]["value"] in (True, False)
    assert set(found["score"]["probabilities"]) == {"0", "1", "2", "3", "4"}
    assert main([*base, text]) == 0
    assert capsys.readouterr().out.startswith("label: billing  (billing 1.000")
    _table(tmp_path / "in.csv", [("1", text)])
    files = ["--csv", str(tmp_path / "in.csv"), "--out", str(tmp_path / "out.csv")]
    assert main([*base, *files, "--column", "text", "-q"]) == 0
    assert _rows(tmp_path / "out.csv")[0]["label"] == team
    for wrong in (
        [*base, *files], [*base, text, "--field", "x"], ["decide", "tiny", text],
        [*base, text, "--question", "no:Which?"],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as caught:
            main(wrong)
        assert caught.value.code == 2


def test_importing_the_package_imports_no_extra() -> None:
    code = (
        "import sys, qwen35cpp; qwen35cpp.Llama.tiny().close();"
        "print([n for n in ('llguidance', 'msgspec', 'jsonschema_rs', 'csv') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
