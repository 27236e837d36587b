"""Pictures through the whole engine, on the bundled model with its real tower."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qwen35cpp import (
    Cancelled,
    ContextTooLong,
    InvalidArgument,
    Llama,
    ModelInvalid,
    ModelNotFound,
    SessionClosed,
    VisionMissing,
)
from qwen35cpp._bundled import tiny_path
from qwen35cpp.errors import ImageInvalid
from qwen35cpp.vision import Budget, Picture, PicturePrompt, Tower, find_tower

SMALL = Budget(1024, 65_536)
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def noise(seed: int, height: int = 96, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def llm() -> Iterator[Llama]:
    with Llama.tiny(n_ctx=2048) as opened:
        yield opened


def prompt_of(llm: Llama, text: str, *pictures: Picture) -> PicturePrompt:
    pad = llm.tokenize("<|image_pad|>", special=True)[0]
    return PicturePrompt.fill(llm.tokenize(text, special=True), {pad}, pictures)


def logits(llm: Llama, prompt: PicturePrompt) -> np.ndarray:
    """Logits of the last token after evaluating everything from the start."""
    engine = llm._engine
    with engine.hold_first() as held:
        held.slot.reset()
        held.slot.begin(prompt.ids[:-1], spans=prompt.spans)
    return llm.eval(prompt.ids[-1:])


def test_a_picture_changes_the_answer(llm: Llama) -> None:
    text = TURN.format(IMAGE + "How many shapes are there?")
    seen = [logits(llm, prompt_of(llm, text, Picture(noise(seed)))) for seed in (1, 2, 1)]
    assert np.array_equal(seen[0], seen[2])
    assert not np.allclose(seen[0], seen[1], atol=1e-3)


def test_generate_takes_images(llm: Llama) -> None:
    text = TURN.format(f"{IMAGE}{IMAGE}How many shapes are there?")
    options = {"special": True, "temperature": 0, "max_tokens": 8}
    answers = [
        llm.generate(text, images=[noise(1), noise(2)], budget=SMALL, **options)  # type: ignore[call-overload]
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert answers[0].usage.prompt_tokens == len(llm.tokenize(text, special=True)) - 2 + 2 * 6
    # The state behind the second picture was kept.
    behind = len(llm.tokenize("<|im_start|>user\n", special=True)) + 2 * 6 + 3
    assert answers[1].usage.cached_tokens == behind


def test_placeholders_and_images_must_match(llm: Llama) -> None:
    for text, count in ((IMAGE, 2), ("no place", 1), (IMAGE + IMAGE, 1)):
        with pytest.raises(InvalidArgument, match="image placeholders"):
            llm.generate(text, special=True, images=[noise(0)] * count, max_tokens=1)
    # Text of users never becomes a placeholder.
    with pytest.raises(InvalidArgument, match="0 image placeholders"):
        llm.generate(IMAGE, images=[noise(0)], max_tokens=1)
    with pytest.raises(ImageInvalid, match="not a readable picture"):
        llm.generate(IMAGE, special=True, images=[b"junk"], max_tokens=1)


@pytest.mark.parametrize("n_batch", [8, 13, 64])
def test_batches_do_not_matter(llm: Llama, n_batch: int) -> None:
    pictures = [Picture(noise(3, 160, 96)), Picture(noise(4, 64, 128), noise(5, 64, 128))]
    text = TURN.format(f"{IMAGE}What is this?{IMAGE}And that?")
    whole = logits(llm, prompt_of(llm, text, *pictures))
    with Llama.tiny(n_ctx=512, n_batch=n_batch, n_threads=1) as other:
        parts = logits(other, prompt_of(other, text, *pictures))
    assert np.argmax(whole) == np.argmax(parts)
    assert np.abs(whole - parts).max() < 0.1  # activations are rounded to 8 bits by batch


def test_a_conversation_is_read_once() -> None:
    with Llama.tiny(n_ctx=2048) as llm:
        first, second = Picture(noise(6)), Picture(noise(7))
        start = prompt_of(llm, TURN.format(IMAGE + "How many?"), first)
        more = prompt_of(
            llm,
            TURN.format(IMAGE + "How many?") + "4" + TURN.format(IMAGE + "Here?"),
            first,
            second,
        )
        engine = llm._engine
        with engine.hold_first() as held:
            assert held.slot.begin(start.ids, spans=start.spans) == 0
            assert held.slot.begin(more.ids, spans=more.spans) == len(start.ids)
        tower = engine.tower()
        assert tower.encoded == 2
        # Another first picture: nothing of the old conversation is of use, its rows are not needed.
        other = prompt_of(llm, TURN.format(IMAGE + "How many?"), second)
        with engine.hold_first() as held:
            assert held.slot.begin(other.ids, spans=other.spans) == 0
        assert tower.encoded == 2


def test_the_cache_on_or_off_gives_the_same_text() -> None:
    text = TURN.format(IMAGE + "How many shapes are there?")
    answers: list[str] = []
    for cached in (True, False):
        with Llama.tiny(n_ctx=512, prefix_cache=cached) as llm:
            answers += [
                llm.generate(text, special=True, images=[noise(1)], temperature=0, max_tokens=12)
                for _ in range(2)
            ]
    assert len(set(answers)) == 1


def test_rows_are_kept_within_their_bytes(llm: Llama) -> None:
    tower = Tower(llm._engine.model, tiny_path(), cache_bytes=3 * 6 * 256 * 4)
    try:
        pictures = [Picture(noise(seed)) for seed in range(4)]
        rows = [tower.rows(picture) for picture in pictures]
        assert tower.encoded == 4
        assert np.array_equal(tower.rows(pictures[3]), rows[3])
        assert np.array_equal(tower.rows(pictures[1]), rows[1])
        assert tower.encoded == 4
        assert np.array_equal(tower.rows(pictures[0]), rows[0])  # was dropped
        assert tower.encoded == 5
    finally:
        tower.close()


def test_threads_do_not_change_the_rows() -> None:
    rows = []
    for threads in (1, 2, 3):
        with Llama.tiny(n_ctx=64, n_threads=threads) as llm:
            rows.append(llm._engine.tower().rows(Picture(noise(8, 256, 192))))
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[0], rows[2])


def test_a_still_is_a_pair_of_equal_frames(llm: Llama) -> None:
    frame = noise(9)
    tower = llm._engine.tower()
    still, pair = tower.rows(Picture(frame)), tower.rows(Picture(frame, frame))
    # Sums in another order, of which roundings to fewer bits make more.
    assert np.allclose(still, pair, rtol=0, atol=1e-2 * np.abs(still).max())


def test_a_cancelled_picture_leaves_the_session_as_it_was() -> None:
    with Llama.tiny(n_ctx=2048, n_batch=8) as llm:
        engine = llm._engine
        prompt = prompt_of(llm, "Look: " + IMAGE + " so.", Picture(noise(10, 256, 256)))
        want = logits(llm, prompt)
        calls = []

        def stop(done: int, total: int) -> None:
            calls.append((done, total))
            if done > prompt.spans[0].start + 16:
                raise KeyboardInterrupt

        with engine.hold_first() as held:
            held.slot.reset(forget=True)
            with pytest.raises(KeyboardInterrupt):
                held.slot.begin(prompt.ids[:-1], stop, prompt.spans)
            assert held.slot.position == prompt.spans[0].start
            # What was read before the picture still counts.
            assert held.slot.begin(prompt.ids[:-1], spans=prompt.spans) == prompt.spans[0].start
        assert np.allclose(llm.eval(prompt.ids[-1:]), want, atol=0.1)
        assert all(total == len(prompt.ids) - 1 for _, total in calls if total)


def test_encoding_can_be_cancelled(llm: Llama) -> None:
    handle = llm._engine.tower()._handle
    handle.cancel()
    with pytest.raises(Cancelled):
        handle.encode(noise(0))
    handle.encode(noise(0))  # the request was used up


def test_a_closed_model_says_so() -> None:
    llm = Llama.tiny(n_ctx=256)
    llm._engine.tower()
    llm.close()
    with pytest.raises(SessionClosed, match="closed"):
        llm.generate(IMAGE, special=True, images=[noise(0)])


def test_a_picture_that_does_not_fit_the_context() -> None:
    with Llama.tiny(n_ctx=32) as llm:
        prompt = prompt_of(llm, IMAGE + " so.", Picture(noise(0, 256, 256)))
        with (
            llm._engine.hold_first() as held,
            pytest.raises(ContextTooLong, match="exceed the context"),
        ):
            held.slot.begin(prompt.ids, spans=prompt.spans)


def test_sizes_that_the_tower_refuses(llm: Llama) -> None:
    handle = llm._engine.tower()._handle
    for height, width in ((33, 64), (0, 32), (16, 16)):
        with pytest.raises(InvalidArgument, match="multiples of 32"):
            handle.encode(np.zeros((height, width, 3), np.uint8))
    with pytest.raises(InvalidArgument, match="at most 65536 patches"):
        handle.encode(np.zeros((32, 32 * 20_000, 3), np.uint8))
    assert handle.scratch(256, 256) > 0


def test_where_the_tower_is_looked_for(tmp_path: Path) -> None:
    model = tmp_path / "a.gguf"
    model.write_bytes(b"")
    assert find_tower(model, None) == model  # inside
    (tmp_path / "some-mmproj-F16.gguf").write_bytes(b"")
    assert find_tower(model, None).name == "some-mmproj-F16.gguf"
    (tmp_path / "other-mmproj.gguf").write_bytes(b"")
    assert find_tower(model, None) == model  # which of the two cannot be known
    (tmp_path / "mmproj-a.gguf").write_bytes(b"")
    assert find_tower(model, None).name == "mmproj-a.gguf"
    assert find_tower(model, tmp_path / "other-mmproj.gguf").name == "other-mmproj.gguf"
    with pytest.raises(ModelNotFound, match="no vision file"):
        Llama(tiny_path(), mmproj=tmp_path / "missing.gguf")


def test_models_without_a_tower_say_so(tiny_path: str, tmp_path: Path) -> None:
    path = tmp_path / "text.gguf"
    shutil.copy(tiny_path, path)
    with Llama(path, n_ctx=64) as llm, pytest.raises(VisionMissing, match="no vision tower") as e:
        llm.generate(IMAGE, special=True, images=[noise(0)], max_tokens=1)
    assert "mmproj=" in e.value.hint


def test_a_tower_of_another_size_is_refused(tmp_path: Path) -> None:
    import tiny_gguf

    path = tmp_path / "narrow.gguf"
    tiny_gguf.build(path, n_embd=128)
    with Llama(path, n_ctx=64, mmproj=tiny_path()) as llm, pytest.raises(ModelInvalid, match="128"):
        llm._engine.tower()


def test_threads_share_one_tower(llm: Llama) -> None:
    want = {seed: llm._engine.tower().rows(Picture(noise(seed))) for seed in range(3)}
    wrong = []

    def work(seed: int) -> None:
        for turn in range(6):
            picture = Picture(noise((seed + turn) % 3))
            if not np.array_equal(llm._engine.tower().rows(picture), want[(seed + turn) % 3]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(("stop", "error"), [("cancel", Cancelled), ("close", SessionClosed)])
def test_a_running_encode_is_stopped(stop: str, error: type[Exception]) -> None:
    llm = Llama.tiny(n_ctx=512)
    tower = llm._engine.tower()
    reports = []

    def progress(done: int, total: int) -> None:
        reports.append((done, total))
        getattr(llm, stop)()

    with pytest.raises(error):
        llm.generate(IMAGE, special=True, images=[noise(0, 512, 512)], progress=progress)
    assert reports  # the tower was at work
    assert tower.encoded == 0
    if stop == "cancel":
        llm.generate(IMAGE, special=True, images=[noise(0)], max_tokens=1)
        assert tower.encoded == 1
    llm.close()
