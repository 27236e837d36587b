"""Decodes a picture, whatever form it comes in, to RGB pixels.

Size limits are checked on the header, before anything is decoded. The orientation of EXIF is
applied, transparent parts are put on white, and palettes, grey, CMYK and 16 bits become 8-bit RGB.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import FileError, ImageInvalid

Pixels = NDArray[np.uint8]  # [height, width, 3], RGB
Source = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[Any]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_ASPECT = 200  # the reference refuses more
_DATA_URL = re.compile(r"data:(image/[\w.+-]+)?(;[\w-]+=[\w.+-]+)*(;base64)?,", re.IGNORECASE)


@dataclass(frozen=True)
class Limits:
    """What pictures may cost.

    Args:
        file_bytes: of an encoded picture.
        pixels: width times height before resizing.
        side: longest side in pixels before resizing.
        count: pictures and videos in a prompt. Agents look at some 20 screenshots at once; the
            server has a limit of its own.
    """

    file_bytes: int = 20 << 20
    pixels: int = 64_000_000
    side: int = 16_384
    count: int = 64

    def __post_init__(self) -> None:
        if min(self.file_bytes, self.pixels, self.side, self.count) < 1:
            raise ImageInvalid("limits of pictures must be at least 1")

    def check_count(self, count: int) -> None:
        """Refuses a prompt with too many pictures."""
        if count > self.count:
            raise ImageInvalid(
                f"the prompt has {count} pictures and videos, at most {self.count} are taken",
                hint="leave out old ones, or raise Limits.count",
            )


DEFAULT_LIMITS = Limits()


def open_picture(source: Source, limits: Limits = DEFAULT_LIMITS) -> Pixels:
    """RGB pixels of a path, encoded bytes, data URL, `PIL.Image` or array.

    Arrays are uint8 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4], or floats from 0 to 1 in the same
    shapes. Of an animation the first frame is taken. Raises ImageInvalid for what is not a picture
    or exceeds `limits`, FileError for a path that cannot be read.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, limits)
    if isinstance(source, Image.Image):
        _check_size(source.width, source.height, limits)
        return _to_rgb(source)
    return _decode(_encoded(source, limits), limits)


def _encoded(source: Any, limits: Limits) -> bytes:
    """The bytes of an encoded picture."""
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
        _check_bytes(len(data), limits)
        return data
    if isinstance(source, str) and source[:5].lower() == "data:":
        return _from_data_url(source, limits)
    if isinstance(source, str) and re.match(r"[a-zA-Z][\w+.-]*://", source):
        raise ImageInvalid(
            f"pictures are not fetched from addresses: {source[:60]!r}",
            hint="download it, or pass its bytes or a data: URL",
        )
    if isinstance(source, str | os.PathLike):
        return _read(Path(source), limits)
    raise ImageInvalid(
        f"a picture cannot be made from {type(source).__name__}",
        hint="pass a path, bytes, a data: URL, a PIL.Image or a NumPy array",
    )


def _read(path: Path, limits: Limits) -> bytes:
    try:
        if not path.is_file():
            raise FileError(f"no picture at {path}" if not path.exists() else f"not a file: {path}")
        _check_bytes(path.stat().st_size, limits)
        return path.read_bytes()
    except ValueError as error:  # a NUL in the path
        raise FileError(f"not a path: {error}") from None
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"cannot read {path}: {error.strerror}") from error


def _from_data_url(url: str, limits: Limits) -> bytes:
    head = _DATA_URL.match(url)
    if head is None or head[3] is None:
        raise ImageInvalid("expected a data URL of the form data:image/png;base64,...")
    _check_bytes((len(url) - head.end()) * 3 // 4 - 2, limits)
    try:
        return base64.b64decode(url[head.end() :].strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageInvalid(f"the data URL is not valid base64: {error}") from None


def _decode(data: bytes, limits: Limits) -> Pixels:
    if not data:
        raise ImageInvalid("the picture has no bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd files; limits are ours
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image.width, image.height, limits)
                image.load()
                return _to_rgb(image)
    except ImageInvalid:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        detail = str(error).replace(repr(io.BytesIO), "").split("<_io")[0].strip()
        raise ImageInvalid(
            f"not a readable picture ({len(data)} bytes): {detail or type(error).__name__}",
            hint=f"formats: {', '.join(FORMATS)}; the file may be cut short or damaged",
        ) from error


def _to_rgb(image: Image.Image) -> Pixels:
    turned = ImageOps.exif_transpose(image) or image
    if turned.mode.startswith(("I;16", "I", "F")):
        return _grey_to_rgb(np.asarray(turned))
    if turned.has_transparency_data:
        layers = turned.convert("RGBA")
        white = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        turned = Image.alpha_composite(white, layers)
    return np.asarray(turned.convert("RGB"))


def _grey_to_rgb(values: NDArray[Any]) -> Pixels:
    """16-bit and wider grey: the high 8 of 16 bits; floats count as 0 to 255."""
    wide = values.astype(np.float64)
    if np.issubdtype(values.dtype, np.integer):
        wide = np.floor(wide / 256)
    grey = np.clip(np.nan_to_num(wide), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _from_array(array: NDArray[Any], limits: Limits) -> Pixels:
    plane = array.ndim == 2
    if not plane and (array.ndim != 3 or array.shape[2] not in (1, 3, 4)):
        raise ImageInvalid(
            f"array of shape {array.shape}: expected [h, w], [h, w, 1], [h, w, 3] or [h, w, 4]",
            hint="move the channels to the end: array.transpose(1, 2, 0)",
        )
    _check_size(array.shape[1], array.shape[0], limits)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ImageInvalid("array of floats: expected finite values from 0 to 1")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        raise ImageInvalid(f"array of {array.dtype}: expected uint8, or floats from 0 to 1")
    pixels = array[:, :, None] if plane else array
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 4:
        return _to_rgb(Image.fromarray(np.ascontiguousarray(pixels), "RGBA"))
    return np.ascontiguousarray(pixels)


def _check_bytes(count: int, limits: Limits) -> None:
    if count > limits.file_bytes:
        raise ImageInvalid(
            f"the picture has {count:,} bytes, at most {limits.file_bytes:,} are taken",
            hint="save it smaller, or raise Limits.file_bytes",
        )


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width < 1 or height < 1:
        raise ImageInvalid(f"a picture of {width} x {height} pixels is empty")
    if width * height > limits.pixels or max(width, height) > limits.side:
        raise ImageInvalid(
            f"a picture of {width} x {height} pixels: at most {limits.pixels:,} pixels and "
            f"{limits.side:,} on a side are taken",
            hint="make it smaller, or raise Limits.pixels and Limits.side",
        )
