"""A long video through a model: time for each second of it, and memory on the way.

    python bench/film.py tiny --seconds 60 --size 1280x720
    python bench/film.py text.gguf --mmproj mmproj.gguf --seconds 60 --size 1280x720 --budget fast
    python bench/film.py tiny --seconds 1800 --size 320x180 --fps 0.5

Makes the clip first. Prints the growth of the process at every tenth of the video, which must stay
flat but for the context and the rows kept, and the largest size of the decoding process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from process import memory

from qwen35cpp import Llama
from qwen35cpp._bundled import tiny_path
from qwen35cpp.vision import PicturePrompt, VideoFile, video_parts
from qwen35cpp.vision.prompt import View

RATE = 10  # frames a second of the clip


def make_clip(path: Path, seconds: int, width: int, height: int) -> None:
    """A gradient that moves, with a new scene every 10 seconds."""
    import av

    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=2).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size = 2 * RATE
        for index in range(seconds * RATE):
            pixels = np.roll(base, (3 * index, 40 * (index // (10 * RATE))), axis=(1, 2))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def prompt_of(parts: list[tuple[str, View]], llm: Llama) -> PicturePrompt:
    """The times and the pairs, without anything around them."""
    ids: list[int] = []
    places = []
    for text, pair in parts:
        ids += llm.tokenize(text)
        places.append((len(ids), pair))
        ids.append(0)
    return PicturePrompt.build([*ids, 1], places)


def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a model, or tiny")
    parser.add_argument("--mmproj")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--fps", type=float, default=2.0)
    parser.add_argument("--budget", default="default", choices=["fast", "default"])
    args = parser.parse_args()
    width, height = (int(side) for side in args.size.split("x"))
    model = tiny_path() if args.model == "tiny" else args.model
    with tempfile.TemporaryDirectory() as folder, Llama(
        model, n_ctx=16_384, mmproj=args.mmproj
    ) as llm:  # fmt: skip
        path = Path(folder) / "clip.mp4"
        make_clip(path, args.seconds, width, height)
        llm._engine.tower()
        before, start = memory("VmRSS"), time.perf_counter()
        parts = video_parts(VideoFile(path, args.fps), args.budget)
        film = parts[0][1].film  # type: ignore[attr-defined]
        prompt = prompt_of(parts, llm)
        opened = time.perf_counter() - start
        print(
            f"{args.seconds} s, {len(film.times)} frames of {film.size[1]} x {film.size[0]}, "
            f"{len(prompt.ids)} tokens, opened in {opened:.2f} s"
        )
        decoder = 0.0
        with llm._engine.hold_first() as held:
            for number, (text, pair) in enumerate(parts):
                held.slot.eval(llm.tokenize(text))
                held.slot.eval_picture(pair, pair.ids())
                child = film._decoder._child.pid
                decoder = max(decoder, memory("VmHWM", child))
                if (number + 1) % max(1, len(parts) // 10) == 0:
                    taken, grown = time.perf_counter() - start, memory("VmRSS") - before
                    seen = film.times[2 * number]
                    print(f"  {seen:7.1f} s of video: {taken:7.1f} s, +{grown:.0f} MiB", flush=True)
        taken = time.perf_counter() - start
        print(
            f"{taken / args.seconds:.3f} s for each second of video; process +"
            f"{memory('VmHWM') - before:.0f} MiB to {memory('VmHWM'):.0f} MiB, "
            f"decoder {decoder:.0f} MiB"
        )


if __name__ == "__main__":
    main()
