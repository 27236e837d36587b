"""Pictures and videos in conversations, on the bundled model."""

from __future__ import annotations

import base64
import io
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tokenizers")

from films import film
from qwen35cpp import ImageInvalid, InvalidArgument, Llama, MissingExtra
from qwen35cpp.errors import FileError
from qwen35cpp.vision import Budget, Limits, Picture, Video, VideoFile, video_parts
from qwen35cpp.vision.film import Film
from qwen35cpp.vision.video import FPS, MAX_FRAMES, Volume, frame_size, sample
from tiny import clips, pictures, screens, vocabulary
from tiny.chat_format import Renderer
from tiny.sample import Sample

CHECKPOINT = Path(__file__).resolve().parents[1] / "tiny" / "qwen35-tiny"
VOLUME = Volume(4_096, 25_165_824)
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
WHAT = {"type": "text", "text": "What appears?"}


@pytest.fixture(scope="module")
def tiny() -> Iterator[Llama]:
    with Llama.tiny(n_ctx=4096) as llama:
        yield llama


def picture(seed: int, side: int = 256) -> np.ndarray:
    return (
        pictures.scene(random.Random(seed), False).image
        if side == 256
        else np.zeros((side, side, 3), np.uint8)
    )


def messages_of(made: Sample) -> list[dict[str, Any]]:
    """A sample's prompt with its pictures in OpenAI's form."""
    images, videos = iter(made.images), iter(made.videos)
    found = []
    for message in made.prompt:
        content = message["content"]
        if isinstance(content, list):
            parts = []
            for part in content:
                if part["type"] == "image":
                    part = {"type": "image", "image": next(images)}
                elif part["type"] == "video":
                    video = next(videos)
                    part = {"type": "video", "video": Video(video.frames, video.times)}
                parts.append(part)
            message = {**message, "content": parts}
        if "tool_calls" in message:
            calls = [{"type": "function", "function": call} for call in message["tool_calls"]]
            message = {**message, "tool_calls": calls}
        found.append(message)
    return found


@pytest.mark.parametrize(
    "make", [pictures.make_shapes, screens.make_click, screens.make_act, clips.make]
)
def test_prompts_are_those_of_the_training(tiny: Llama, make: Any) -> None:
    """Ids, expanded placeholders, times of frame pairs: all as the model learnt them."""
    renderer = Renderer(vocabulary.plain(CHECKPOINT))
    pads = {vocabulary.SPECIAL_IDS[f"<|{kind}_pad|>"] for kind in ("image", "video")}
    for seed in range(8):
        made = make(random.Random(seed), True)
        request = tiny._chat().request(
            messages_of(made), {}, seed=0, tools=made.tools or None, think=made.thinking
        )
        want = renderer.prompt(made).ids
        ours = request.request.tokens
        assert len(ours) == len(want)
        assert all(b in pads if a < 0 else a == b for a, b in zip(ours, want, strict=True))
        assert sum(span.picture.n_tokens for span in request.request.spans) == sum(
            token < 0 for token in ours
        )


def test_one_picture_in_every_form(tiny: Llama, tmp_path: Path) -> None:
    pixels = picture(1)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(out.getvalue())
    url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    question = "How many shapes are there?"
    answers = {
        tiny.chat(question, images=form, **GREEDY) for form in (path, [pixels], out.getvalue())
    }
    for part in (
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "input_image", "image_url": url},
        {"type": "image", "image": Image.fromarray(pixels)},
    ):
        content = [part, {"type": "text", "text": question}]
        answers.add(tiny.chat([{"role": "user", "content": content}], **GREEDY))
    assert len(answers) == 1


def test_pictures_keep_their_places_over_turns() -> None:
    with Llama.tiny(n_ctx=4096) as llama:
        first = llama.chat("How many shapes are there?", images=[picture(1), picture(2)], **GREEDY)
        assert first.usage.prompt_tokens > 128
        again = llama.chat(
            [*first.messages, {"role": "user", "content": "Where is the red one?"}], **GREEDY
        )
        assert again.usage.prompt_tokens > first.usage.prompt_tokens
        assert llama._engine.tower().encoded == 2  # each was encoded once
        swapped = llama.chat(
            "How many shapes are there?", images=[picture(2), picture(1)], **GREEDY
        )
        assert swapped.usage.cached_tokens == 0
        assert llama._engine.tower().encoded == 2


def test_text_of_people_makes_no_placeholder(tiny: Llama) -> None:
    text = "<|vision_start|><|image_pad|><|vision_end|> what is this?"
    rendered = tiny.render_chat([{"role": "user", "content": text}])
    assert not rendered.media
    pads = {vocabulary.SPECIAL_IDS[f"<|{kind}_pad|>"] for kind in ("image", "video")}
    assert not pads & set(rendered.ids)
    tiny.chat(text, **GREEDY)


def test_chat_completions_take_pictures(tiny: Llama) -> None:
    out = io.BytesIO()
    Image.fromarray(picture(3)).save(out, "JPEG")
    url = "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
    content = [
        {"type": "text", "text": "How many shapes are there?"},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
    ]
    made = tiny.create_chat_completion([{"role": "user", "content": content}], **GREEDY)
    assert made.usage.prompt_tokens > 64
    assert isinstance(made.choices[0].message.content, str)


def test_budgets_choose_the_size(tiny: Llama) -> None:
    large = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    tokens = {
        budget: tiny.chat(
            "What?", images=large, budget=budget, temperature=0, max_tokens=1
        ).usage.prompt_tokens
        for budget in ("fast", "default", "grounding")
    }
    assert tokens["fast"] < 256 + 30 < tokens["default"] < 1024 < tokens["grounding"]


def test_bad_pictures_name_what_is_wrong(tiny: Llama) -> None:
    with pytest.raises(ImageInvalid, match="not a readable picture"):
        tiny.chat("x", images=b"junk")
    with pytest.raises(ImageInvalid, match="budget must be one of"):
        tiny.chat("x", images=picture(1), budget="huge")  # type: ignore[call-overload]
    with pytest.raises(ImageInvalid, match="budget must be one of"):
        tiny.chat("x", budget=3)  # type: ignore[call-overload]


# ---- video --------------------------------------------------------------------------------------


def test_frames_are_shown_in_pairs_with_their_time() -> None:
    frames = [np.full((64, 64, 3), value, np.uint8) for value in (10, 20, 30)]
    parts = video_parts(Video(frames, [0.0, 0.5, 1.0]))
    assert [text for text, _ in parts] == ["<0.2 seconds>", "<1.0 seconds>"]
    last = parts[1][1]
    assert isinstance(last, Picture)
    assert last.second is not None
    assert np.array_equal(last.first, last.second)  # the odd frame is repeated
    assert [text for text, _ in video_parts(frames[:2])] == ["<0.2 seconds>"]


@pytest.mark.parametrize(
    ("frames", "times", "words"),
    [
        ([], [], "0 frames"),
        ([b""], [0.0, 1.0], "1 frames and 2 times"),
        ([b"", b""], [1.0, 0.0], "ascending"),
        ([b""], [float("nan")], "ascending"),
        ([b""] * (MAX_FRAMES + 1), [0.0] * (MAX_FRAMES + 1), "expected 1 to 768"),
    ],
)
def test_videos_are_checked(frames: Any, times: Any, words: str) -> None:
    with pytest.raises(ImageInvalid, match=words):
        Video(frames, times)


def test_sampling_and_sizes() -> None:
    assert sample(300, 30.0) == [round(i * 299 / 19) for i in range(20)]
    assert len(sample(3, 30.0)) == 3  # no more than there are
    assert len(sample(30, 30.0)) == 4  # four at least
    assert len(sample(10**6, 30.0)) == MAX_FRAMES
    assert frame_size(20, 720, 1280, VOLUME) == (704, 1280)
    rows, columns = frame_size(768, 1080, 1920, VOLUME)
    assert rows % 32 == columns % 32 == 0
    assert 768 * rows * columns <= 25_165_824
    assert frame_size(2, 20, 20, VOLUME) == (64, 64)
    assert frame_size(4, 8192, 8192, Volume(4_096, 469_762_048)) == (4096, 4096)  # as much as fits


def test_a_file_is_sampled_twice_a_second(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    clip = Film(tmp_path / "a.mp4", VOLUME, FPS)
    times = clip.times
    assert times == [index / 10 for index in sample(60, 10.0)]
    frames = [frame for index in range(len(clip)) for frame in clip.pair(index)]
    assert len(frames) == 12
    shown = [(float(frame.mean()) - 40) / 3 for frame in frames]
    assert np.allclose(shown, np.array(times) * 10, atol=1.0)


def test_frames_of_a_file_are_decoded_when_they_are_needed(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    clip = Film(tmp_path / "a.mp4", VOLUME, FPS)
    decoder = clip._decoder
    third = clip.pair(2)
    assert decoder.taken == 6
    assert clip._decoder is decoder  # it goes on where it stands
    assert np.array_equal(clip.pair(0)[0], clip.pair(0)[0])  # going back starts again
    assert np.array_equal(clip.pair(2)[1], third[1])
    assert len({clip.digest(index) for index in range(len(clip))}) == len(clip)
    again = Film(tmp_path / "a.mp4", VOLUME, FPS)
    assert again.digest(3) == clip.digest(3)
    del clip
    assert decoder._child.poll() is not None


def test_sparse_samples_are_sought_by_key_frames(tmp_path: Path) -> None:
    """The frames are those of decoding everything, with far fewer decoded."""
    from qwen35cpp.vision.decode import _frames

    film(tmp_path / "a.mp4", seconds=7, rate=10, key_every=5)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        decoded = []
        decode = container.decode

        class Counting:
            def decode(self, source: Any) -> Iterator[Any]:
                for frame in decode(source):
                    decoded.append(frame.time)
                    yield frame

            def seek(self, *args: Any, **options: Any) -> None:
                container.seek(*args, **options)

        times = [0.0, 2.0, 4.0, 6.0]
        shown = [frame.time for frame in _frames(Counting(), stream, times)]
    assert np.allclose(shown, times, atol=0.05)
    assert len(decoded) < 45  # of 61


def test_the_rate_of_a_file_can_be_chosen(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    assert len(video_parts(VideoFile(tmp_path / "a.mp4", fps=4))) == 12
    with pytest.raises(ImageInvalid, match="fps"):
        VideoFile("a.mp4", fps=0)


def test_a_file_answers_as_its_frames_do(tiny: Llama, tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    parts = video_parts(tmp_path / "a.mp4")
    frames = [frame for _, pair in parts for frame in pair.frames()]
    clip = Film(tmp_path / "a.mp4", VOLUME, FPS)
    answers = [
        tiny.chat(
            [{"role": "user", "content": [{"type": "video", "video": video}, WHAT]}], **GREEDY
        )
        for video in (str(tmp_path / "a.mp4"), Video(frames, clip.times))
    ]
    assert answers[0] == answers[1]
    assert answers[0].usage.prompt_tokens == answers[1].usage.prompt_tokens


def test_a_decoder_that_dies_is_started_again(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", seconds=40)
    clip = Film(tmp_path / "a.mp4", VOLUME, FPS)
    clip.pair(0)
    clip._decoder._child.kill()
    with pytest.raises(ImageInvalid, match="breaks off after"):
        clip.pair(len(clip) - 1)
    assert clip.pair(0)[0].shape == (*clip.size, 3)


def test_a_clip_in_a_conversation(tiny: Llama, tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    content = [
        {"type": "video_url", "video_url": {"url": str(tmp_path / "a.mp4")}},
        {"type": "text", "text": "What appears?"},
    ]
    answer = tiny.chat([{"role": "user", "content": content}], **GREEDY)
    assert answer.usage.prompt_tokens > 6 * 6


def test_damaged_clips_are_errors(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    good = (tmp_path / "a.mp4").read_bytes()
    rng = random.Random(0)
    failed = 0
    for number in range(8):
        data = bytearray(good)
        for _ in range(rng.randint(1, 40)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if number % 2:
            del data[rng.randrange(len(data)) :]
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(data)
        try:
            frames = [pair.frames()[0] for _, pair in video_parts(path)]
        except ImageInvalid:
            failed += 1
        else:
            assert len({frame.shape for frame in frames}) == 1
    assert failed
    (tmp_path / "text.mp4").write_text("this is no video")
    with pytest.raises(ImageInvalid, match="cannot be decoded"):
        video_parts(tmp_path / "text.mp4")
    with pytest.raises(FileError, match="no video at"):
        video_parts(tmp_path / "missing.mp4")


def test_slow_decoding_is_given_up(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    with pytest.raises(ImageInvalid, match="more than 0 seconds"):
        Film(tmp_path / "a.mp4", VOLUME, FPS, deadline=0.01)


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "av.py").write_text("raise ImportError('No module named av')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x")
    with pytest.raises(MissingExtra, match="PyAV") as caught:
        video_parts(path)
    assert "qwen35cpp[video]" in caught.value.hint


def test_every_way_to_read_gives_the_same_text(tmp_path: Path) -> None:
    """Pictures and clips over several turns, with and without the prefix cache, in any batches."""
    film(tmp_path / "a.mp4", seconds=3)
    scene = pictures.scene(random.Random(5), False).image
    turns = [
        [{"type": "image", "image": scene}, {"type": "text", "text": "How many shapes are there?"}],
        [{"type": "video", "video": str(tmp_path / "a.mp4")}, WHAT],
        [{"type": "text", "text": "And in the picture before?"}],
    ]
    talks = []
    for prefix_cache in (True, False):
        for n_batch in (512, 64, 24):
            with Llama.tiny(n_ctx=2048, n_batch=n_batch, prefix_cache=prefix_cache) as llm:
                talk: list[dict[str, Any]] = []
                for content in turns:
                    talk.append({"role": "user", "content": content})
                    talk.append({"role": "assistant", "content": str(llm.chat(talk, **GREEDY))})
                talks.append([message["content"] for message in talk[1::2]])
    assert all(talk == talks[0] for talk in talks), talks
    assert all(talks[0])


# ---- settings -----------------------------------------------------------------------------------


def grids(llm: Llama, part: dict[str, Any], **options: Any) -> list[tuple[int, int]]:
    """Rows and columns of tokens that a part becomes."""
    messages = [{"role": "user", "content": [part, WHAT]}]
    prompt = llm._chat().request(messages, options, seed=0).request
    return [span.picture.grid for span in prompt.spans]


def test_parts_say_how_to_look_at_them(tiny: Llama, tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")  # 6 seconds of 64 x 96
    image = {"type": "image", "image": np.zeros((512, 512, 3), np.uint8)}
    assert grids(tiny, image) == [(16, 16)]
    assert grids(tiny, {**image, "max_pixels": 128 * 128}) == [
        (4, 4)
    ]  # below the least of a budget
    assert grids(tiny, {**image, "min_pixels": 768.0 * 768}) == [(24, 24)]
    assert grids(tiny, {**image, "detail": "high"}) == [(16, 16)]
    large = {"type": "image", "image": np.zeros((1024, 1024, 3), np.uint8), "detail": "low"}
    assert grids(tiny, large) == [(16, 16)]
    out = io.BytesIO()
    Image.fromarray(large["image"]).save(out, "PNG")
    url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    opened = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    assert grids(tiny, opened) == [(16, 16)]
    path = str(tmp_path / "a.mp4")
    for source in (path, VideoFile(path)):
        clip = {"type": "video", "video": source}
        assert grids(tiny, clip) == [(2, 3)] * 6
        assert grids(tiny, {**clip, "fps": 1}) == [(2, 3)] * 3
        assert grids(tiny, {**clip, "min_pixels": 128 * 192}) == [(4, 6)] * 6
        assert grids(tiny, {**clip, "max_pixels": 32 * 64}) == [(1, 1)] * 6
        assert grids(tiny, {**clip, "total_pixels": 12 * 32 * 64}) == [(1, 1)] * 6
    frames = {"type": "video", "video": [image["image"]] * 4}
    prompts = []
    for fps in (2.0, 0.5):
        messages = [{"role": "user", "content": [{**frames, "fps": fps}, WHAT]}]
        prompts.append(tiny._chat().request(messages, {}, seed=0).request.tokens)
    said = [tiny.decode([t for t in tokens if t >= 0], special=True) for tokens in prompts]
    assert "<0.2 seconds>" in said[0]
    assert "<1.0 seconds>" in said[1]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (
            {"type": "image", "image": "a.png", "resized_height": 64},
            "resized_height has no meaning",
        ),
        ({"type": "image", "image": "a.png", "fps": 2}, "fps has no meaning for images"),
        ({"type": "video", "video": "a.mp4", "nframes": 8}, "nframes has no meaning for videos"),
        ({"type": "video", "video": "a.mp4", "video_start": 1.5}, "video_start has no meaning"),
        ({"type": "video", "video": "a.mp4", "detail": "low"}, "detail has no meaning for videos"),
        ({"type": "video", "video": "a.mp4", "fps": 0}, "fps must be a number above 0"),
        (
            {"type": "image", "image": "a.png", "max_pixels": "9"},
            "max_pixels must be a whole number",
        ),
        ({"type": "image", "image": "a.png", "max_pixels": 1e4 + 0.5}, "must be a whole number"),
        ({"type": "image", "image": "a.png", "max_pixels": float("inf")}, "must be a whole number"),
        ({"type": "image", "image": "a.png", "detail": "most"}, "detail must be one of auto"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(
    tiny: Llama, part: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words):
        tiny.chat([{"role": "user", "content": [part, WHAT]}], **GREEDY)


def test_pictures_and_videos_made_before_keep_their_settings(tiny: Llama) -> None:
    pixels = np.zeros((256, 256, 3), np.uint8)
    with pytest.raises(InvalidArgument, match=r"a vision\.Picture has its size"):
        grids(tiny, {"type": "image", "image": Picture(pixels), "max_pixels": 4096})
    with pytest.raises(ImageInvalid, match="has times of its own"):
        grids(tiny, {"type": "video", "video": Video([pixels], [0.0]), "fps": 1})
    small = Video([pixels] * 2, [0.0, 1.0], max_pixels=64 * 64)
    assert grids(tiny, {"type": "video", "video": small}) == [(2, 2)]
    for least, most in ((4096, 2048), (10, None)):
        with pytest.raises(ImageInvalid, match="min_pixels <= max_pixels"):
            VideoFile("a.mp4", min_pixels=least, max_pixels=most)


def test_budgets_hold_for_videos(tiny: Llama, tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    half = Budget(max_video_pixels=12 * 32 * 64)
    frames = [np.zeros((64, 96, 3), np.uint8)] * 12
    for source in (str(tmp_path / "a.mp4"), frames):
        assert grids(tiny, {"type": "video", "video": source}, budget=half) == [(1, 1)] * 6
        large = Budget(min_video_pixels=12 * 128 * 192)
        assert grids(tiny, {"type": "video", "video": source}, budget=large) == [(4, 6)] * 6
    with pytest.raises(ImageInvalid, match="min_video_pixels <= max_video_pixels"):
        Budget(min_video_pixels=5_000, max_video_pixels=4_999)


def test_limits_of_pictures(tiny: Llama) -> None:
    """Of a Llama, of a call, and how many there may be in all messages together."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    two = [
        {"role": "user", "content": [{"type": "image", "image": pixels}, WHAT]},
        {"role": "assistant", "content": "A square."},
        {"role": "user", "content": [{"type": "video", "video": [pixels]}, WHAT]},
    ]
    with Llama.tiny(n_ctx=1024, limits=Limits(count=1, pixels=64 * 64)) as strict:
        strict.chat("What?", images=pixels, max_tokens=1)
        for ask in (
            lambda: strict.chat(two, max_tokens=1),
            lambda: strict.decide(two, sure=bool),
            lambda: strict.generate("<|image_pad|>" * 2, special=True, images=[pixels] * 2),
        ):
            with pytest.raises(ImageInvalid, match="2 pictures and videos, at most 1"):
                ask()
        wide = np.zeros((64, 65, 3), np.uint8)
        for ask in (
            lambda: strict.chat("What?", images=wide),
            lambda: strict.embed(images=wide),
            lambda: strict.locate("x", wide),
            lambda: strict.chat([{"role": "user", "content": [{"video": [wide]}, WHAT]}]),
        ):
            with pytest.raises(ImageInvalid, match="at most 4,096 pixels"):
                ask()
        strict.chat(two, limits=Limits(count=2), max_tokens=1)
        strict.chat("What?", images=wide, limits=Limits(), max_tokens=1)
    with pytest.raises(ImageInvalid, match="65 pictures and videos, at most 64"):
        tiny.chat("What?", images=["missing.png"] * 65)  # before any is opened
    with pytest.raises(ImageInvalid, match="at least 1"):
        Limits(count=0)


def test_progress_while_pictures_are_encoded(tmp_path: Path) -> None:
    """Half of a picture's tokens are done when it is encoded, by layers; so for pairs of a film."""
    film(tmp_path / "a.mp4")
    shown: list[Any] = [
        ({"type": "image", "image": np.zeros((512, 512, 3), np.uint8)}, 1, 256),
        ({"type": "video", "video": str(tmp_path / "a.mp4"), "min_pixels": 256 * 256}, 6, 70),
    ]
    with Llama.tiny(n_ctx=2048, prefix_cache=False) as llm:
        layers = llm._engine.tower().info.n_layer
        for part, count, tokens in shown:
            for known in (False, True):  # rows that are kept are not encoded again
                seen: list[tuple[int, int]] = []
                llm.chat(
                    [{"role": "user", "content": [part, WHAT]}],
                    progress=lambda done, total, seen=seen: seen.append((done, total)),
                    max_tokens=1,
                )
                steps = [done for done, _ in seen]
                (total,) = {total for _, total in seen}
                assert steps == sorted(steps)
                assert steps[-1] == total > count * tokens
                inner = len({done for done in steps if done < total})
                assert inner >= (1 if known else count * (layers - 1))


# ---- command line -------------------------------------------------------------------------------


def command(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qwen35cpp", *arguments],
        input=text, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_run_shows_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture(1)).save(path)
    done = command(
        "run", "tiny", "How many shapes are there?", "-i", str(path), "--temp", "0", "-n", "8",
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["usage"]["prompt_tokens"] > 64
    film(tmp_path / "a.mp4")
    both = command(
        "run", "tiny", "What?", "-i", str(path), "-v", str(tmp_path / "a.mp4"), "-n", "1", "--json"
    )
    assert json.loads(both.stdout)["usage"]["prompt_tokens"] > 64 + 36
    missing = command("run", "tiny", "x", "-i", str(tmp_path / "no.png"))
    assert missing.returncode == 1
    assert "no picture at" in missing.stderr
    raw = command("run", "tiny", "x", "--raw", "-i", str(path))
    assert raw.returncode == 2


def test_chat_shows_a_picture_with_the_next_message(tmp_path: Path) -> None:
    path = tmp_path / "a b.png"
    Image.fromarray(picture(1)).save(path)
    saved = tmp_path / "talk.json"
    lines = f"/image {path}\nHow many shapes are there?\nAnd now?\n/save {saved}\n"
    done = command("chat", "tiny", "--temp", "0", "-n", "8", text=lines)
    assert done.returncode == 0, done.stderr
    messages = json.loads(saved.read_text())
    assert messages[0]["content"][0] == {"type": "image", "image": str(path)}
    assert messages[2]["content"] == "And now?"
    assert command("chat", "tiny", text="/image nowhere.png\n").returncode == 1
