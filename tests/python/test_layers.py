"""Includes go one way: the order of the layers in csrc/README.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"

# Each layer with the layers it may include besides itself.
BELOW = {
    "base": set(),
    "quant": {"base"},
    "gguf": {"base", "quant"},
    "tokenizer": {"base"},
    "kernels": {"base", "quant"},
    "backend": {"base", "quant", "kernels"},
    "model": {"base", "quant", "gguf", "tokenizer", "backend"},
    "runtime": {"base", "quant", "gguf", "tokenizer", "kernels", "backend", "model"},
    "api": {"base", "quant", "gguf", "tokenizer", "kernels", "backend", "model", "runtime"},
}
# What the weights are, as plain data: the backend reads them, whoever loaded them.
DATA_HEADERS = {"backend": {"model/config.h", "model/matrix.h", "model/vision_config.h"}}
TIERS = {"avx2", "avx_vnni", "avx512", "amx", "neon", "neon_dotprod", "neon_i8mm"}
# Headers without inline functions: code of a tier must never be merged with baseline code.
TIER_HEADERS = {
    "arm_neon.h", "cstddef", "cstdint", "immintrin.h", "math.h", "stddef.h", "stdint.h", "string.h",
}  # fmt: skip
SOURCES = [p for p in sorted(CSRC.rglob("*")) if p.suffix in {".h", ".cpp", ".inc"}]


def includes(path: Path) -> list[tuple[str, str]]:
    """(kind, name) of each include: kind is the opening quote or bracket."""
    return re.findall(r'^\s*#\s*include\s*(["<])([^">]+)', path.read_text(), re.MULTILINE)


def layer_of(path: Path) -> str:
    return path.relative_to(CSRC).parts[0]


def test_every_folder_is_a_known_layer() -> None:
    assert {layer_of(p) for p in SOURCES} <= set(BELOW) | {"include", "examples"}


@pytest.mark.parametrize("layer", sorted(BELOW))
def test_a_layer_includes_only_layers_below_it(layer: str) -> None:
    allowed = BELOW[layer] | {layer}
    wrong = []
    for path in (p for p in SOURCES if layer_of(p) == layer):
        for kind, name in includes(path):
            target = name.split("/")[0]
            if kind == "<" or target == "include" or name in DATA_HEADERS.get(layer, ()):
                continue
            if target not in allowed:
                wrong.append(f"{path.relative_to(ROOT)} includes {name}")
    assert not wrong


def test_quoted_includes_are_paths_from_csrc() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} includes {name}"
        for path in SOURCES
        for kind, name in includes(path)
        if kind == '"' and not (CSRC / name).is_file()
    ]
    assert not wrong


def test_tier_folders_include_no_inline_code_of_the_standard_library() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} includes <{name}>"
        for path in SOURCES
        if TIERS & set(path.relative_to(CSRC).parts)
        for kind, name in includes(path)
        if kind == "<" and name not in TIER_HEADERS
    ]
    assert not wrong


def test_only_the_api_defines_exported_functions() -> None:
    exported = re.compile(
        r"^(?!.*\b(?:return|Q35_TRY)\b)[\w:&* ]+[ *]qwen35_\w+\([^;]*\{", re.MULTILINE
    )
    wrong = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if path.suffix == ".cpp" and layer_of(path) != "api" and exported.search(path.read_text())
    ]
    assert not wrong


def test_the_python_layers_use_only_what_is_below_them() -> None:
    package = ROOT / "python" / "qwen35cpp"
    wrong = [
        str(path.relative_to(ROOT))
        for folder in ("server", "chat", "apps")
        for path in sorted((package / folder).rglob("*.py"))
        if re.search(r"^\s*(from|import) .*\b(_native|_handles)\b", path.read_text(), re.MULTILINE)
    ]
    assert not wrong
    importers = {
        path.name
        for path in package.glob("*.py")
        if re.search(r"^\s*(from|import) .*\b_qwen35_ffi\b", path.read_text(), re.MULTILINE)
    }
    assert importers == {"_native.py"}
