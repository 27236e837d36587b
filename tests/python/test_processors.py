"""Pictures and clips as the processors of the published models make them, byte for byte.

The reference's side is a record, see tests/reference/processors.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import processors
from processors import CLIPS, PICTURES, Clip, blotches, digest, shortened
from qwen35cpp import Llama
from qwen35cpp.vision import Picture, Video, VideoFile, View
from qwen35cpp.vision.video import sample

RECORD = json.loads(processors.RECORD.read_text())


def test_pictures_equal_the_reference() -> None:
    for size, want in zip(PICTURES, RECORD["pictures"], strict=True):
        picture = Picture.open(blotches(sum(size), *size))
        assert [1, *(2 * side for side in picture.grid)] == want["grid"]
        assert digest(picture.frames()[0]) == want["pixels"], size


def written(clip: Clip, path: Path) -> VideoFile:
    """The clip as a file without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=clip.fps)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "rgb24"
        for pixels in clip.frames():
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return VideoFile(path)


def both_frames(pairs: Sequence[View]) -> np.ndarray:
    return np.concatenate([np.stack([f for f in pair.frames() if f is not None]) for pair in pairs])


@pytest.mark.parametrize("index", range(len(CLIPS)))
def test_clips_equal_the_reference(index: int, tmp_path: Path) -> None:
    """Which frames, their pixels, the times as text and the tokens; as frames and as a file."""
    clip, want = CLIPS[index], RECORD["clips"][index]
    indices = sample(clip.total, float(clip.fps))
    assert indices == want["indices"]
    frames = clip.frames()
    video = Video([frames[i] for i in indices], [i / float(clip.fps) for i in indices])
    with Llama.tiny(n_ctx=2048) as llm:
        for source in (video, written(clip, tmp_path / "clip.mov")):
            content: list[dict[str, Any]] = [
                {"type": "video", "video": source},
                {"type": "text", "text": processors.QUESTION},
            ]
            options = {"budget": clip.budget}
            request = llm._chat().request([{"role": "user", "content": content}], options, seed=0)
            prompt = request.request
            pairs = [span.picture for span in prompt.spans]
            steps, rows, columns = want["grid"]
            assert [pair.grid for pair in pairs] == [(rows // 2, columns // 2)] * steps
            assert digest(both_frames(pairs)) == want["frames"]
            (pad,) = llm.tokenize("<|video_pad|>", special=True)
            ids = [pad if token < 0 else token for token in prompt.tokens]
            said = shortened(llm.decode(ids, special=True))
            # transformers 5 writes one more pair of markers around the whole, see video.py.
            start, end = "<|vision_start|>", f"<|vision_end|>{processors.QUESTION}"
            inner = want["text"].removeprefix(start).removesuffix(end) + processors.QUESTION
            assert said.startswith(f"<|im_start|>user\n{inner}<|im_end|>")
