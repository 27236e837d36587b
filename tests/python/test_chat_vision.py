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
from qwen35cpp import ImageInvalid, Llama, MissingExtra
from qwen35cpp.errors import FileError
from qwen35cpp.vision import Picture, Video, VideoFile, video_parts
from qwen35cpp.vision.film import Film
from qwen35cpp.vision.video import FPS, MAX_FRAMES, frame_size, sample
from tiny import clips, pictures, screens, vocabulary
from tiny.chat_format import Renderer
from tiny.sample import Sample

CHECKPOINT = Path(__file__).resolve().parents[1] / "tiny" / "qwen35-tiny"
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
    assert frame_size(20, 720, 1280, 25_165_824) == (704, 1280)
    rows, columns = frame_size(768, 1080, 1920, 25_165_824)
    assert rows % 32 == columns % 32 == 0
    assert 768 * rows * columns <= 25_165_824
    assert frame_size(2, 20, 20, 25_165_824) == (64, 64)


def test_a_file_is_sampled_twice_a_second(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    clip = Film(tmp_path / "a.mp4", 25_165_824, FPS)
    times = clip.times
    assert times == [index / 10 for index in sample(60, 10.0)]
    frames = [frame for index in range(len(clip)) for frame in clip.pair(index)]
    assert len(frames) == 12
    shown = [(float(frame.mean()) - 40) / 3 for frame in frames]
    assert np.allclose(shown, np.array(times) * 10, atol=1.0)


def test_frames_of_a_file_are_decoded_when_they_are_needed(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    clip = Film(tmp_path / "a.mp4", 25_165_824, FPS)
    decoder = clip._decoder
    third = clip.pair(2)
    assert decoder.taken == 6
    assert clip._decoder is decoder  # it goes on where it stands
    assert np.array_equal(clip.pair(0)[0], clip.pair(0)[0])  # going back starts again
    assert np.array_equal(clip.pair(2)[1], third[1])
    assert len({clip.digest(index) for index in range(len(clip))}) == len(clip)
    again = Film(tmp_path / "a.mp4", 25_165_824, FPS)
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
    clip = Film(tmp_path / "a.mp4", 25_165_824, FPS)
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
    clip = Film(tmp_path / "a.mp4", 25_165_824, FPS)
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
        Film(tmp_path / "a.mp4", 25_165_824, FPS, deadline=0.01)


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
