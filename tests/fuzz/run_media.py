"""Damaged pictures and clips: each is decoded, or refused with a clear error; nothing else happens.

    python tests/fuzz/run_media.py IMAGES CLIPS [SEED]

Inputs are decoded in child processes, so that a crash, a hang or an exhausted memory is counted
with the number of the input, which makes it again. Some of the pictures that survive are encoded by
the small tower, and clips are read to their end.
"""

from __future__ import annotations

import io
import multiprocessing
import multiprocessing.connection
import random
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from qwen35cpp import Llama, Qwen35Error
from qwen35cpp.vision import BUDGETS, Picture, video_parts

BATCH, SECONDS = 100, 600.0  # inputs of a child process, and how long it may take
MEMORY = 8 << 30  # its address space
ENCODED_EVERY = 40


@dataclass
class Summary:
    """Counts over many inputs. `failures` must stay empty."""

    opened: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by the first words of the message
    failures: list[str] = field(default_factory=list)

    def line(self, name: str) -> str:
        """The counts in words."""
        refused = sum(self.refused.values())
        return f"{name}: {self.opened} opened, {refused} refused, {len(self.failures)} failures"


# ---- inputs --------------------------------------------------------------------------------------


def _pixels(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 5 % 256, y * 3 % 256, (x + y) * 2 % 256], axis=2).astype(np.uint8)


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@cache
def pictures() -> list[bytes]:
    """Whole files of every format and of the modes that decoders treat apart."""
    image = Image.fromarray(_pixels(56, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(_pixels(40, 30)[:, :, 0].astype(np.uint16) * 257)
    other = Image.fromarray(_pixels(56, 40)[::-1].copy())
    return [
        _saved(image, "PNG"),
        _saved(image.convert("P"), "PNG", transparency=3),
        _saved(image.convert("RGBA"), "PNG"),
        _saved(wide, "PNG"),
        _saved(image, "JPEG", exif=exif),
        _saved(image, "JPEG", progressive=True),
        _saved(image.convert("CMYK"), "JPEG"),
        _saved(image, "WEBP"),
        _saved(image.convert("RGBA"), "WEBP", lossless=True),
        _saved(image.convert("P"), "GIF", save_all=True, append_images=[other.convert("P")]),
        _saved(image, "BMP"),
        _saved(image.convert("1"), "BMP"),
    ]


@cache
def clips() -> list[tuple[str, bytes]]:
    """Endings and whole files of clips in several containers and codecs."""
    import av

    kinds = [
        (".mp4", "mpeg4", "yuv420p"),
        (".mp4", "libx264", "yuv420p"),
        (".avi", "mjpeg", "yuvj420p"),
        (".mkv", "ffv1", "yuv420p"),
        (".webm", "libvpx", "yuv420p"),
    ]
    made = []
    for ending, codec, form in kinds:
        if codec not in av.codecs_available:
            continue
        out = io.BytesIO()
        name = {".mkv": "matroska"}.get(ending, ending[1:])
        with av.open(out, "w", format=name) as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, form
            for index in range(20):
                pixels = np.roll(_pixels(48, 64), 2 * index, axis=1)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        made.append((ending, out.getvalue()))
    return made


def mutated(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """A few changes: bytes, numbers, cuts, repeats, zeros, a part of another file."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        if not out:
            break
        at = rng.randrange(min(len(out), 200)) if rng.random() < 0.4 else rng.randrange(len(out))
        length = min(rng.randint(1, 64), len(out) - at)
        kind = rng.randrange(8)
        if kind <= 2:
            out[at] = rng.randrange(256)
        elif kind == 3:  # a length or a size
            number = rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)])
            out[at : at + 4] = number.to_bytes(4, rng.choice(["little", "big"]))
        elif kind == 4:
            del out[at : at + length]
        elif kind == 5:
            out[at:at] = out[at : at + length]
        elif kind == 6:
            out[at : at + length] = bytes(length)
        else:
            start = rng.randrange(len(other))
            out[at : at + length] = other[start : start + length]
    if rng.random() < 0.2:
        del out[rng.randrange(len(out) + 1) :]
    if out[:4] == b"\x89PNG" and rng.random() < 0.6:
        _fix_checksums(out)
    return bytes(out)


def _fix_checksums(png: bytearray) -> None:
    """Lets damaged chunks pass, so that what they hold is read."""
    at = 8
    while at + 12 <= len(png):
        end = at + 8 + int.from_bytes(png[at : at + 4], "big")
        png[end : end + 4] = zlib.crc32(png[at + 4 : end]).to_bytes(4, "big")
        at = end + 4


# ---- what is done with them ----------------------------------------------------------------------


def open_mutated_picture(seed: int, number: int, llm: Llama) -> None:
    """Decodes picture `number`, and encodes it when its turn comes."""
    rng = random.Random(f"{seed} picture {number}")
    base, other = rng.choice(pictures()), rng.choice(pictures())
    picture = Picture.open(mutated(base, rng, other), BUDGETS["fast"])
    if number % ENCODED_EVERY == 0 and not np.isfinite(llm._engine.tower().rows(picture)).all():
        raise ArithmeticError("rows that are not finite")


def open_mutated_clip(seed: int, number: int, _llm: Llama) -> None:
    """Reads clip `number` to its end."""
    rng = random.Random(f"{seed} clip {number}")
    ending, base = rng.choice(clips())
    _, other = rng.choice(clips())
    data = mutated(base, rng, other)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{ending}"
        path.write_bytes(data)
        for _, pair in video_parts(path, "fast"):
            assert pair.frames()[0].ndim == 3


Job = Callable[[int, int, Llama], None]


def _work(job: Job, seed: int, numbers: range, out: multiprocessing.connection.Connection) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except ImportError:  # Windows
        pass
    with Llama.tiny(n_ctx=64) as llm:
        llm._engine.tower()
        for number in numbers:
            out.send((number, None, None))
            try:
                job(seed, number, llm)
            except Qwen35Error as error:
                text = str(error)
                clear = bool(text.strip()) and "Traceback" not in text and len(text) < 2000
                out.send((number, clear, text))
            except BaseException as error:
                out.send((number, False, f"{type(error).__name__}: {error}"))
            else:
                out.send((number, True, None))


def _run_batch(job: Job, seed: int, numbers: range, summary: Summary) -> int:
    """Runs a batch in a child; returns the number of the input to go on with."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(job, seed, numbers, theirs))
    child.start()
    theirs.close()
    current = numbers.start
    try:
        while ours.poll(SECONDS):
            current, fine, text = ours.recv()
            if fine is None:
                continue
            if not fine:
                summary.failures.append(f"input {current}: {text}")
            elif text is None:
                summary.opened += 1
            else:
                summary.refused[" ".join(text.split()[:4])] += 1
        summary.failures.append(f"input {current}: no end within {SECONDS:.0f} s")
    except EOFError:
        child.join()
        if child.exitcode:
            summary.failures.append(f"input {current}: the process died ({child.exitcode})")
    finally:
        child.kill()
        child.join()
    return current + 1


def run(job: Job, count: int, seed: int) -> Summary:
    """Runs `count` inputs; deaths and hangs cost the input that caused them only."""
    summary = Summary()
    first = 0
    while first < count:
        first = _run_batch(job, seed, range(first, min(first + BATCH, count)), summary)
    return summary


def main() -> None:
    """Command line."""
    images, films = int(sys.argv[1]), int(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    failed = False
    for name, job, count in (
        ("pictures", open_mutated_picture, images),
        ("clips", open_mutated_clip, films),
    ):
        summary = run(job, count, seed)
        print(summary.line(name), flush=True)
        for text in summary.failures:
            print(f"  {text}")
        for words, times in summary.refused.most_common(12):
            print(f"  {times:5} {words}")
        failed = failed or bool(summary.failures)
    sys.exit(failed)


if __name__ == "__main__":
    main()
