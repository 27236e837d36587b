"""The small model that comes with the package."""

from __future__ import annotations

from pathlib import Path

from .errors import ModelNotFound

TINY = "tiny"  # its name on the command line
TINY_FILE = Path(__file__).with_name("qwen35-tiny-q8_0.gguf")


def tiny_path() -> Path:
    """Where the bundled model lies.

    Raises:
        ModelNotFound: the package was installed without it.
    """
    if not TINY_FILE.is_file():
        raise ModelNotFound(
            f"{TINY_FILE.name} is missing beside the package",
            hint="reinstall qwen35cpp, or give the path of another GGUF file",
        )
    return TINY_FILE
