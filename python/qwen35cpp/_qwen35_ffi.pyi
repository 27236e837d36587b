"""Generated from qwen35.h at build time, see python/build_ffi.py."""

from typing import Any

ffi: Any
