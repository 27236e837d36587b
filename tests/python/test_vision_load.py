"""Pictures in every form that users pass, their limits, and the size rule."""

from __future__ import annotations

import base64
import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qwen35cpp.errors import FileError, ImageInvalid
from qwen35cpp.vision import BUDGETS, Budget, Limits, budget_of, fit, open_picture, target_size


def gradient(width: int, height: int) -> np.ndarray:
    """A picture in which every pixel differs from its neighbours."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 3 % 256, y * 5 % 256, (x + y) * 7 % 256], -1).astype(np.uint8)


def encoded(pixels: np.ndarray, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **options)
    return out.getvalue()


PIXELS = gradient(40, 30)


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP"])
def test_lossless_files_give_their_pixels(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(PIXELS, form, **options)
    for source in (data, bytearray(data), memoryview(data)):
        assert np.array_equal(open_picture(source), PIXELS)


def test_jpeg_gives_what_pillow_decodes() -> None:
    data = encoded(PIXELS, "JPEG", quality=90)
    assert np.array_equal(open_picture(data), np.asarray(Image.open(io.BytesIO(data))))


def test_paths_urls_images_and_arrays(tmp_path: Path) -> None:
    data = encoded(PIXELS, "PNG")
    path = tmp_path / "ümlaut picture.png"
    path.write_bytes(data)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    for source in (path, str(path), url, Image.fromarray(PIXELS), PIXELS):
        assert np.array_equal(open_picture(source), PIXELS)


def test_arrays_of_every_shape_and_kind() -> None:
    grey = PIXELS[:, :, 0]
    three = np.repeat(grey[:, :, None], 3, axis=2)
    assert np.array_equal(open_picture(grey), three)
    assert np.array_equal(open_picture(grey[:, :, None]), three)
    assert np.array_equal(open_picture(PIXELS.astype(np.float32) / 255), PIXELS)
    assert np.array_equal(open_picture(grey > 100), np.where(three > 100, 255, 0))
    opaque = np.dstack([PIXELS, np.full_like(grey, 255)])
    assert np.array_equal(open_picture(opaque), PIXELS)
    assert np.array_equal(open_picture(PIXELS[:, ::-1]), PIXELS[:, ::-1])


def test_transparent_parts_become_white() -> None:
    clear = np.dstack([PIXELS, np.zeros_like(PIXELS[:, :, 0])])
    assert (open_picture(encoded(clear, "PNG")) == 255).all()
    palette = Image.fromarray(PIXELS).quantize(8)
    out = io.BytesIO()
    palette.save(out, "PNG", transparency=0)
    shown = open_picture(out.getvalue())
    assert (shown[np.asarray(palette) == 0] == 255).all()


def test_every_mode_becomes_rgb() -> None:
    image = Image.fromarray(PIXELS)
    for mode in ("1", "L", "LA", "P", "CMYK", "YCbCr", "HSV"):
        converted = image.convert(mode)
        assert open_picture(converted).shape == PIXELS.shape
        plain = converted.convert("RGB") if mode != "LA" else converted.convert("L").convert("RGB")
        assert np.array_equal(open_picture(converted), np.asarray(plain)), mode


def test_sixteen_bits_keep_their_high_byte() -> None:
    wide = (PIXELS[:, :, 0].astype(np.uint16) << 8) + 77
    shown = open_picture(encoded(wide, "PNG"))
    assert np.array_equal(shown, np.repeat(PIXELS[:, :, :1], 3, axis=2))


def test_the_orientation_of_exif_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned right by 90 degrees when shown
    data = encoded(PIXELS, "PNG", exif=exif)
    assert np.array_equal(open_picture(data), np.rot90(PIXELS, -1))


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    assert open_picture(out.getvalue())[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 200), (16_384, 100), (1, 16_384)])
def test_extreme_sizes_are_opened(width: int, height: int) -> None:
    assert open_picture(gradient(width, height)).shape == (height, width, 3)


def bomb(side: int) -> bytes:
    """A PNG whose header promises far more than its bytes hold."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def test_limits_are_checked_before_decoding() -> None:
    with pytest.raises(ImageInvalid, match="12000 x 12000 pixels: at most 64,000,000"):
        open_picture(bomb(12_000))
    with pytest.raises(ImageInvalid, match="decompression bomb"):  # Pillow's own limit
        open_picture(bomb(30_000))
    with pytest.raises(ImageInvalid, match="17,000 bytes, at most 1,000"):
        open_picture(b"\0" * 17_000, Limits(file_bytes=1000))
    with pytest.raises(ImageInvalid, match="at most 100 pixels"):
        open_picture(PIXELS, Limits(pixels=100))
    with pytest.raises(ImageInvalid, match="20 on a side"):
        open_picture(Image.fromarray(PIXELS), Limits(side=20))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"", "no bytes"),
        (b"hello there", "not a readable picture"),
        (b"%PDF-1.4 something", "not a readable picture"),
        ("data:image/png;base64,@@@@", "not valid base64"),
        ("data:text/plain,hello", "data:image/png;base64"),
        ("https://example.com/cat.png", "not fetched"),
        ("file:///etc/passwd", "not fetched"),
        (17, "from int"),
        (None, "from NoneType"),
        (np.zeros((3, 40, 30), np.uint8), "expected"),
        (np.zeros((0, 30, 3), np.uint8), "empty"),
        (np.full((4, 4, 3), np.nan, np.float32), "finite"),
        (np.full((4, 4, 3), 255.0, np.float32), "from 0 to 1"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
    ],
)
def test_what_is_no_picture_says_so(source: object, words: str) -> None:
    with pytest.raises(ImageInvalid, match=words) as caught:
        open_picture(source)  # type: ignore[arg-type]
    assert caught.value.code == "image_invalid"


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no picture at"):
        open_picture(tmp_path / "missing.png")
    with pytest.raises(FileError, match="not a file"):
        open_picture(tmp_path)
    with pytest.raises(FileError):
        open_picture("a\0b.png")


def test_formats_outside_the_list_are_refused() -> None:
    for form in ("TIFF", "ICO", "PPM", "TGA"):
        with pytest.raises(ImageInvalid):
            open_picture(encoded(PIXELS, form))


def test_mutated_files_never_do_worse_than_an_error() -> None:
    """300 damaged files a format in short; tests/fuzz has the long run."""
    rng = random.Random(0)
    seeds = [encoded(PIXELS, form) for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP")]
    opened = refused = 0
    for number in range(1500):
        data = bytearray(seeds[number % len(seeds)])
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        try:
            pixels = open_picture(bytes(data))
        except ImageInvalid:
            refused += 1
        else:
            opened += 1
            assert pixels.dtype == np.uint8
            assert pixels.shape[2:] == (3,)
    assert opened > 100
    assert refused > 100


# Sizes and grids in patches that the reference gives.
SIZES = [
    ((480, 640), (480, 640)),
    ((50, 100), (192, 384)),
    ((1080, 1920), (1088, 1920)),
    ((2340, 1080), (2336, 1088)),
    ((33, 33), (256, 256)),
    ((4000, 5000), (3648, 4576)),
]


@pytest.mark.parametrize(("size", "target"), SIZES)
def test_the_size_rule(size: tuple[int, int], target: tuple[int, int]) -> None:
    assert target_size(*size, Budget()) == target


def test_sizes_stay_within_their_budget() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        height, width = (int(10 ** rng.uniform(0, 4.2)) for _ in range(2))
        if max(height, width) > 200 * min(height, width):
            with pytest.raises(ImageInvalid, match="at most 200 times"):
                target_size(height, width, Budget())
            continue
        for budget in BUDGETS.values():
            rows, columns = target_size(height, width, budget)
            assert rows % 32 == columns % 32 == 0
            assert rows * columns >= budget.min_pixels
            # A side is never below one cell, so that long thin pictures may exceed a small budget.
            assert rows * columns <= budget.max_pixels or min(rows, columns) == 32


def test_budgets_are_checked() -> None:
    assert budget_of("fast") == BUDGETS["fast"]
    with pytest.raises(ImageInvalid, match="fast, default, grounding"):
        budget_of("slow")  # type: ignore[arg-type]
    with pytest.raises(ImageInvalid, match="min_pixels"):
        Budget(min_pixels=10)
    with pytest.raises(ImageInvalid, match="max_pixels"):
        Budget(max_pixels=1 << 40)


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    pixels = gradient(64, 32)
    assert np.array_equal(fit(pixels, 32, 64), pixels)
    assert fit(pixels, 64, 96).shape == (64, 96, 3)


def test_damaged_media_in_processes_of_their_own() -> None:
    """The long run of tests/fuzz in short: no crash, no hang, nothing but clear errors."""
    pytest.importorskip("av")
    from fuzz import run_media

    for job, count in ((run_media.open_mutated_picture, 60), (run_media.open_mutated_clip, 6)):
        summary = run_media.run(job, count, seed=1)
        assert not summary.failures
        assert summary.opened
        assert summary.refused
