"""Writes the cffi module of the public C header: `build_ffi.py HEADER OUTPUT`.

The module is pure Python (cffi's out-of-line ABI mode), so importing it neither parses C nor needs
a compiler, and one wheel serves every Python version.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from cffi import FFI

MODULE = "qwen35cpp._qwen35_ffi"


def declarations(header: str) -> str:
    """The part of a C header that cffi understands: no comments, macros or linkage blocks."""
    text = re.sub(r"/\*.*?\*/", " ", header, flags=re.DOTALL)
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", text, flags=re.DOTALL)
    text = re.sub(r"^#.*(?:\\\n.*)*$", "", text, flags=re.MULTILINE)
    return re.sub(r"\bQWEN35_API\b", "", text)


def main(header: str, output: str) -> None:
    """Reads `header` and writes the Python module `output`."""
    builder = FFI()
    builder.cdef(declarations(Path(header).read_text(encoding="utf-8")))
    builder.set_source(MODULE, None)
    builder.emit_python_code(output)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} HEADER OUTPUT")
    main(sys.argv[1], sys.argv[2])
