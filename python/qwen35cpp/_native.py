"""The C library: the only module that loads it and the one place that turns statuses into errors.

Next: _handles.py wraps the objects of the C API, _engine.py puts a model and a session together.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _qwen35_ffi, errors

_NAMES = {"win32": "qwen35cpp.dll", "darwin": "libqwen35cpp.dylib"}

ffi: Any = _qwen35_ffi.ffi


def library_path() -> str:
    """The library beside the generated cffi module, or the one that QWEN35_LIBRARY names."""
    name = _NAMES.get(sys.platform, "libqwen35cpp.so")
    return os.environ.get("QWEN35_LIBRARY") or str(Path(_qwen35_ffi.__file__).with_name(name))


def _load() -> Any:
    path = library_path()
    # When the interpreter ends, objects in cycles are freed in any order: the library must still be
    # there when the last of them calls it.
    flags = ffi.RTLD_NOW | getattr(os, "RTLD_NODELETE", 0)
    try:
        return ffi.dlopen(path, flags)
    except OSError as error:
        raise ImportError(f"qwen35cpp cannot load its library {path}: {error}") from error


lib: Any = _load()


def check(status: int) -> None:
    """Raises the error of a failed call. Must run on the thread that made the call."""
    if status != lib.QWEN35_OK:
        raise errors.from_status(status, text(lib.qwen35_last_error()))


def text(pointer: Any) -> str:
    """A NUL-terminated C string as str; "" for NULL."""
    return ffi.string(pointer).decode("utf-8", "replace") if pointer else ""


def version() -> str:
    """The version of the C library."""
    return text(lib.qwen35_version())


def system_info() -> dict[str, str]:
    """What the CPU offers and what is used, e.g. {"isa": "avx512", "cores": "2"}."""
    buffer = ffi.new("char[]", 1024)
    check(lib.qwen35_system_info(buffer, len(buffer)))
    return dict(pair.split("=", 1) for pair in text(buffer).split() if "=" in pair)


@dataclass(frozen=True)
class Machine:
    """Limits of this machine, per second, with all threads together."""

    read_bytes_per_second: float
    int8_ops_per_second: float


def measure(n_threads: int = 0) -> Machine:
    """Measures the limits; takes about half a second."""
    limits = ffi.new("qwen35_machine *")
    check(lib.qwen35_measure(n_threads, limits))
    return Machine(limits.read_bytes_per_second, limits.int8_ops_per_second)


def type_name(tensor_type: int) -> str:
    """The name of a tensor type, e.g. "Q4_K"."""
    traits = ffi.new("qwen35_type_traits *")
    status = lib.qwen35_type_info(tensor_type, traits)
    return text(traits.name) if status == lib.QWEN35_OK else f"type {tensor_type}"
