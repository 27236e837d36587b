"""The prefix cache: what is read again, that results do not change, and that limits hold."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qwen35cpp.convert import info

import tiny_gguf
from qwen35cpp import Llama, Text, system_info
from qwen35cpp._prefix import Markers, Node, Plan, Tree, state_file
from qwen35cpp._prefix.boundaries import GRID
from qwen35cpp.errors import InvalidArgument, StateInvalid
from qwen35cpp.vision import Picture, Span

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = "Answer in one short sentence. Use only what the user wrote, and do not guess. " * 4
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "logprobs": 0, "think": False}


def figures(answer: Text) -> tuple[str, list[float]]:
    return str(answer), [each.logprob for each in answer.logprobs or ()]


def ask(llm: Llama, *texts: str, **options: Any) -> Any:
    """The answer to the last text of a conversation; the others are the user's and answers."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return llm.chat(messages, system=SYSTEM, **{**GREEDY, **options})


# ---- what is read again --------------------------------------------------------------------------


def test_a_turn_reads_only_what_is_new() -> None:
    first, second = "Where is the red ball? " * 5, "And where is the blue box? " * 5
    with Llama.tiny(n_ctx=2048, n_threads=1) as llm:
        one = ask(llm, first)
        assert one.usage.cached_tokens == 0
        again = ask(llm, first)
        assert again.usage.prompt_tokens - again.usage.cached_tokens < GRID + 16
        assert figures(again) == figures(one)
        header = again.usage.cached_tokens
        two = ask(llm, first, str(one), second)
        assert two.usage.cached_tokens >= header
        edited = ask(llm, first, str(one), "What did I ask before?")
        question = len(llm.tokenize("What did I ask before?"))
        assert edited.usage.prompt_tokens - edited.usage.cached_tokens <= question + 64
        other = ask(llm, "Something else: what is on the table?")
        assert other.usage.cached_tokens >= len(llm.tokenize(SYSTEM)) - GRID


def test_a_prompt_that_parts_from_another_leaves_a_state_where_it_does() -> None:
    text = "The small dog ran over the hill and saw a tree. " * 40
    with Llama.tiny(n_ctx=2048, n_threads=1) as llm:
        read = []
        for end in ("One", "Two", "Three"):
            answer = llm.generate(text + end + " more of it" * 12, max_tokens=2, temperature=0)
            read.append(answer.usage.prompt_tokens - answer.usage.cached_tokens)
    assert read[0] > read[1] or read[1] > read[2]
    assert read[2] < 12 * 4 + 2 * GRID


def test_long_text_has_states_on_the_way() -> None:
    plan = Plan(20_000, (), 512)
    assert plan.snapshots(0, (), 20_000) == {4096, 8192, 12288, 16384, 19_968}
    assert plan.snapshots(9000, (), 10_010) == {9984, 12288, 16384, 19_968}


def test_batches_of_text_end_where_they_always_do() -> None:
    assert list(Plan(1200, (), 512).parts(0)) == [(0, 512), (512, 1024), (1024, 1200)]
    assert list(Plan(1200, (), 512).parts(96)) == [(96, 512), (512, 1024), (1024, 1200)]
    assert list(Plan(1200, (), 512).parts(1024)) == [(1024, 1200)]
    assert list(Plan(600, (), 512).parts(5)) == [(5, 517), (517, 600)]  # behind drawn tokens


def test_the_places_of_a_chat() -> None:
    markers = Markers(start=1, user=(2,), assistant=(3, 4), call=9)
    tokens = [1, 5, 6, 1, 2, 6, 1, 3, 4, 7, 1, 2, 6, 1, 3, 4]
    assert list(markers.places(tokens)) == [3, 9, 10, 16]
    assert markers.keeps_answer([5, 6])
    assert not markers.keeps_answer([*tokens, 8])
    assert markers.keeps_answer([*tokens, 9, 8])
    assert list(Markers().places(tokens)) == []


def test_a_state_is_kept_behind_the_tools() -> None:
    def look_up(city: str) -> str:
        """Weather of a city."""
        return city

    def asked(llm: Llama, question: str) -> Any:
        return llm.chat(question, system=SYSTEM, tools=[look_up], **GREEDY)

    with Llama.tiny(n_ctx=2048, n_threads=1) as llm:
        first = asked(llm, "Where is the red ball?")
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Where"}]
        ids = llm._chat().render(messages, tools=[look_up], thinking=False).ids
        behind = min(llm._engine.cache.markers.places(ids))
        assert llm.decode(ids[:behind], special=True).endswith("<|im_end|>\n")
        assert "look_up" in llm.decode(ids[:behind])
        ends = [node.end for node in llm._engine.cache.tree.nodes() if node.restorable]
        assert behind // GRID * GRID in ends
        second = asked(llm, "Something else: what is on the table?")
        assert first.usage.cached_tokens == 0
        assert second.usage.cached_tokens >= behind // GRID * GRID


def test_a_state_is_kept_behind_a_picture() -> None:
    picture = Picture(np.full((96, 64, 3), 7, np.uint8))  # 6 tokens
    plan = Plan(300, [Span(41, picture)], 512)
    assert plan.snapshots(0, [130], 0) == {47, 47 + 64}  # text is counted from its end
    assert plan.fits(47)
    assert not plan.fits(45)
    with Llama.tiny(n_ctx=2048, n_threads=1) as llm:
        tower = llm._engine.tower()
        answers = [
            llm.chat(question, images=[picture], system=SYSTEM, **GREEDY)
            for question in ("How many shapes are there?", "What colour is the circle?")
        ]
        before = len(llm.tokenize(SYSTEM))
        assert answers[0].usage.cached_tokens == 0
        assert answers[1].usage.cached_tokens > before + picture.n_tokens
        ends = [node.all_tokens() for node in llm._engine.cache.tree.nodes() if node.restorable]
        assert any(tokens[-1] == picture.ids()[-1] for tokens in ends)
        assert tower.encoded == 1


# ---- results do not change -----------------------------------------------------------------------


def conversations() -> Any:
    """The benchmark, which checks itself on every turn."""
    sys.path.insert(0, str(ROOT / "tests"))
    spec = importlib.util.spec_from_file_location("talks", ROOT / "bench" / "conversations.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["talks"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("kv_type", "limit"), [("f16", None), ("q8_0", 4 << 20)])
def test_random_conversations_equal_cold_ones(kv_type: Any, limit: int | None) -> None:
    options: dict[str, Any] = {"n_ctx": 4096, "n_threads": 1, "kv_type": kv_type}
    with (
        Llama.tiny(**options, prefix_cache_bytes=limit) as warm,
        Llama.tiny(**options, prefix_cache=False) as cold,
    ):
        done = conversations().run(warm, cold, random.Random(kv_type), 1, 4)
        tree = warm._engine.cache.tree
        assert tree.n_bytes <= tree.limit
    assert done.turns == 20
    assert (done.other_texts, done.other_logprobs) == (0, 0)
    if limit is None:
        assert done.full_reads == 0


def test_prompts_that_share_beginnings_equal_cold_ones() -> None:
    rng = random.Random(4)
    texts = [
        "The cat sat. " * 30,
        "The cat sat. " * 9 + "A dog came. " * 20,
        "Once upon a time " * 33,
    ]
    with (
        Llama.tiny(n_ctx=1024, n_threads=1, n_batch=64, prefix_cache_bytes=3 << 20) as warm,
        Llama.tiny(n_ctx=1024, n_threads=1, n_batch=64, prefix_cache=False) as cold,
    ):
        for _ in range(40):
            ids = warm.tokenize(rng.choice(texts))
            prompt = ids[: rng.randrange(20, len(ids))] + warm.tokenize(
                " and then" * rng.randrange(9)
            )
            options: dict[str, Any] = {"temperature": 0, "max_tokens": 1, "logprobs": 0}
            assert figures(warm.generate(prompt, **options)) == figures(
                cold.generate(prompt, **options)
            )


def test_an_interrupted_prompt_leaves_true_states() -> None:
    text = "The small dog ran over the hill and saw a tree. " * 40

    def stop(done: int, _total: int) -> None:
        if done >= 256:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"temperature": 0, "max_tokens": 3, "logprobs": 0}
    with Llama.tiny(n_ctx=2048, n_threads=1, n_batch=64) as llm:
        expected = figures(llm.generate(text, **options))
        llm.reset()
        llm.generate("Another text. " * 20, max_tokens=1)
        with pytest.raises(KeyboardInterrupt):
            llm.generate(text, progress=stop, **options)
        answer = llm.generate(text, **options)
        assert answer.usage.cached_tokens >= 256
        assert figures(answer) == expected


def test_slots_share_what_they_read() -> None:
    with Llama.tiny(n_ctx=1024, n_threads=1, n_parallel=3) as llm:
        expected = [figures(ask(llm, f"What is {i} plus {i}?")) for i in range(6)]
        llm.reset()
        found: list[Any] = [None] * 6
        threads = [
            threading.Thread(
                target=lambda i=i: found.__setitem__(i, ask(llm, f"What is {i} plus {i}?"))
            )
            for i in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [figures(each) for each in found] == expected
        assert sum(each.usage.cached_tokens > 0 for each in found) >= 3


# ---- the tree ------------------------------------------------------------------------------------


def test_the_tree_keeps_every_token_and_its_entries() -> None:
    rng = random.Random(1)
    tree = Tree(1 << 30)
    tree.token_bytes = 1
    added = []
    for _ in range(300):
        tokens = [rng.randrange(3) for _ in range(rng.randrange(1, 12))]
        node = tree.add(tokens, None)
        for each in node.path():
            each.entries = bytearray(each.tokens)
        node.snapshot = b"s"
        added.append(tokens)
        assert node.all_tokens() == tokens
    for node in tree.nodes():
        assert node.entries == bytearray(node.tokens)
        assert all(first == child.tokens[0] for first, child in node.children.items())
    for tokens in added:
        path, common = tree.walk(tokens)
        assert common == len(tokens) == path[-1].end
        assert path[-1].snapshot


def test_a_long_conversation_is_a_long_chain() -> None:
    tree = Tree(1 << 30, bounded=True)
    for n in range(1, 3000):
        node = tree.add([7] * n, None)
    node.pins = 1
    first = node.path()[0]
    assert (first.end, node.end) == (1, 2999)
    assert node.root is tree.root
    assert first.pinned
    node.pins = 0
    assert not first.pinned
    tree.remove(node)
    assert not list(tree.nodes())


def test_the_least_useful_goes_first() -> None:
    tree = Tree(1 << 30)
    tree.token_bytes = 1

    def put(tokens: list[int], size: int) -> Node:
        node = tree.add(tokens, None)
        node.entries, node.snapshot = bytes(len(node.tokens)), bytes(size)
        tree.touch(node)
        return node

    long, short = put([1] * 1000, 100), put([2] * 10, 100)
    pinned = put([3], 100)
    pinned.pins = 1
    assert tree.least_useful() is short
    tree.drop(short)
    assert tree.walk([2] * 10) == ([], 0)
    old = long
    tree.touch(put([4] * 900, 100))
    assert tree.least_useful() is not None
    tree.drop(old)
    assert {node.tokens[0] for node in tree.nodes()} == {3, 4}


# ---- files ---------------------------------------------------------------------------------------


def test_states_survive_a_restart(tmp_path: Path) -> None:
    def run(**options: Any) -> Any:
        with Llama.tiny(n_ctx=2048, n_threads=1, cache_dir=tmp_path / "states", **options) as llm:
            return ask(llm, "Where is the red ball?", max_tokens=6)

    first, second = run(), run()
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens >= len(SYSTEM) // 8
    assert figures(first) == figures(second)
    assert run(kv_type="q8_0").usage.cached_tokens == 0  # other states
    files = sorted((tmp_path / "states").iterdir())
    assert files
    for path in files:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    third = run()
    assert third.usage.cached_tokens == 0
    assert figures(third) == figures(first)


def test_the_folder_stays_within_its_limit(tmp_path: Path) -> None:
    with Llama.tiny(n_ctx=1024, n_threads=1, cache_dir=tmp_path, prefix_cache_bytes=2 << 20) as llm:
        disk = llm._engine.cache.disk
        assert disk is not None
        disk._limit = 3 << 20
        for i in range(8):
            llm.chat(f"{i} " * 90, **{**GREEDY, "max_tokens": 1})
    assert 0 < sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3 << 20
    assert not list(tmp_path.glob("*.partial"))


# ---- sessions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_sessions_go_on_branch_and_come_back(prefix_cache: bool) -> None:
    with Llama.tiny(n_ctx=2048, n_threads=1, prefix_cache=prefix_cache) as llm:
        session = llm.session()
        start = session.generate(
            "Once upon a time there was a small dog. " * 9, max_tokens=5, temperature=0
        )
        at = session.snapshot()
        more: dict[str, Any] = {"max_tokens": 6, "temperature": 0, "logprobs": 0}
        expected = session.generate(" Then", **more)
        assert expected.usage.cached_tokens >= start.usage.prompt_tokens
        other = llm.session()
        other.restore(at)
        branch = other.fork()
        llm.generate("Something else. " * 30, max_tokens=4)
        assert figures(other.generate(" Then", **more)) == figures(expected)
        different = branch.generate(" But", **more)
        assert different.usage.cached_tokens == expected.usage.cached_tokens
        session.restore(at)
        assert figures(session.generate(" Then", **more)) == figures(expected)
        assert session.tokens == at.input_ids + llm.tokenize(" Then") + expected.tokens


def test_a_session_is_a_conversation() -> None:
    with Llama.tiny(n_ctx=2048, n_threads=1) as llm:
        session = llm.session(system=SYSTEM)
        one = session.chat("Where is the red ball?", **GREEDY)
        two = session.chat("And the blue one?", **GREEDY)
        assert [message["role"] for message in session.messages] == [
            "system", "user", "assistant", "user", "assistant",
        ]  # fmt: skip
        llm.reset()
        expected = ask(llm, "Where is the red ball?", str(one), "And the blue one?")
        assert figures(two) == figures(expected)
        with pytest.raises(InvalidArgument, match="show pictures with chat"):
            session.generate("x", images=["a.png"])


def test_sessions_are_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "talk.q35state"
    with Llama.tiny(n_ctx=2048, n_threads=1) as llm:
        session = llm.session(system=SYSTEM)
        with pytest.raises(InvalidArgument, match="not read anything"):
            session.save(path)
        session.chat("Where is the red ball?", **GREEDY)
        size = session.save(path)
        assert size == path.stat().st_size
        expected = session.fork().chat("And the blue one?", **GREEDY)
    with Llama.tiny(n_ctx=2048, n_threads=1) as llm:
        session = llm.session()
        session.load(path)
        assert session.messages[0] == {"role": "system", "content": SYSTEM}
        continued = session.generate(" and", max_tokens=2)
        assert continued.usage.cached_tokens > len(SYSTEM) // 8
        session.load(path)
        assert figures(session.chat("And the blue one?", **GREEDY)) == figures(expected)
        foreign = session.snapshot()
    with Llama.tiny(n_ctx=2048, n_threads=1, kv_type="q8_0") as llm:
        with pytest.raises(StateInvalid, match="another kv_type"):
            llm.session().load(path)
        with pytest.raises(InvalidArgument, match="another Llama"):
            llm.session().restore(foreign)


def test_a_state_of_another_model_is_refused(
    tmp_path: Path, tiny_model: Callable[..., tiny_gguf.TinyModel]
) -> None:
    """Two models that differ in the smallest tensor: in shape, size and settings they are equal."""
    path, other, copy = tiny_model(type="Q8_0").path, tmp_path / "b.gguf", tmp_path / "a.gguf"
    data = bytearray(Path(path).read_bytes())
    copy.write_bytes(data)
    norm = next(t for t in info(path).tensors if t.name == "blk.2.post_attention_norm.weight")
    values = np.frombuffer(data, np.float32, norm.bytes // 4, norm.offset)
    values[:] = values * np.float32(1.01)
    other.write_bytes(data)

    def ask(model: Path, cache: Path | None = None) -> int:
        with Llama(model, n_ctx=512, n_threads=1, cache_dir=cache) as llm:
            text = llm.generate("Once upon a time there was a dog. " * 9, max_tokens=2)
            return text.usage.cached_tokens

    with Llama(path, n_ctx=512, n_threads=1) as llm:
        session = llm.session()
        session.generate("Once upon a time", max_tokens=2, temperature=0)
        session.save(tmp_path / "state")
    with Llama(copy, n_ctx=512, n_threads=1) as llm:
        llm.session().load(tmp_path / "state")
    with (
        Llama(other, n_ctx=512, n_threads=1) as llm,
        pytest.raises(StateInvalid, match="saved with another model"),
    ):
        llm.session().load(tmp_path / "state")
    cache = tmp_path / "states"
    assert ask(Path(path), cache) == 0
    assert ask(other, cache) == 0
    assert ask(copy, cache) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="names of open files are read from /proc")
def test_a_state_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of what the system is asked for; no test can cut the power."""
    done: list[tuple[str, str]] = []
    sync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        done.append(("sync", Path(f"/proc/self/fd/{handle}").readlink().name))
        sync(handle)

    def renamed(self: Path, to: Path) -> Path:
        done.append(("rename", to.name))
        return replace(self, to)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    state_file.write(
        tmp_path / "s", model="m", start=0, tokens=[1], entries=b"e", snapshot=None, logits=False
    )
    assert [what for what, _ in done] == ["sync", "rename", "sync"]
    assert done[0][1].endswith(".partial")
    assert [name for _, name in done[1:]] == ["s", tmp_path.name]


def test_damaged_states_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    written = state_file.write(
        path, model="m", start=0, tokens=[1, -5], entries=b"abcd", snapshot=b"state", logits=True,
        notes={"a": 1},
    )  # fmt: skip
    header = state_file.read_header(path)
    assert (header.model, header.start, header.logits, header.notes) == ("m", 0, True, {"a": 1})
    assert state_file.read_tokens(header) == [1, -5]
    assert bytes(state_file.read_section(header, "entries")) == b"abcd"
    good = path.read_bytes()
    assert len(good) == written

    def read() -> None:
        found = state_file.read_header(path)
        for name in ("tokens", "entries", "snapshot"):
            state_file.read_section(found, name)

    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(StateInvalid):
            read()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(StateInvalid):
            read()
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_the_state_behind_eval_is_saved_and_loaded() -> None:
    with Llama.tiny(n_ctx=512, n_threads=1) as llm:
        ids = llm.tokenize("Once upon a time there was a small dog.")
        llm.eval(ids)
        state = llm.save_state()
        expected = llm.eval(ids[:3]).tobytes()
        llm.reset()
        llm.eval(ids[4:])
        llm.load_state(state)
        assert llm.n_tokens == state.n_tokens == len(ids)
        assert llm.eval(ids[:3]).tobytes() == expected


def test_the_last_tokens_of_a_prompt_are_not_taken_for_those_of_a_longer_one() -> None:
    with Llama.tiny(n_ctx=1024, n_threads=1, n_batch=64) as llm:
        ids = llm.tokenize("The small dog ran over the hill and saw a tree. " * 40)[:420]
        session = llm._engine.slots[0].session
        llm.generate(ids, max_tokens=1, ignore_eos=True)
        expected = bytes(session.export_entries(0, 400))
        llm.generate(
            ids[: 4 * 64 + 3], max_tokens=1, ignore_eos=True
        )  # the last three are computed on their own
        same = bytes(session.export_entries(0, 259)) == expected[: 259 * session.token_bytes]
        assert not same or system_info()["isa"] == "amx"  # where most of it is computed alike
        answer = llm.generate(ids, max_tokens=1, ignore_eos=True)
        assert answer.usage.cached_tokens > 300
        assert bytes(session.export_entries(0, 400)) == expected
