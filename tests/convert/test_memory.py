"""Peak memory of a conversion: bounded by the block size, not by tensors or checkpoint."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import checkpoints

CHILD = """
import os, resource, sys
from qwen35cpp.convert import convert
if hasattr(os, "sched_setaffinity"):  # the number of workers counts
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(sys.argv[1], sys.argv[2], sys.argv[3], vision="none")
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
FFN = 40_960  # matrices of 256 x 40960 values: 42 MB each in F32
EXTRA_MB = 150


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint whose feed-forward matrices were made huge: 600 MB in sparse zeros."""
    folder = tmp_path_factory.mktemp("wide")
    checkpoints.build(folder, mtp=True, vision=False)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = FFN
    (folder / "config.json").write_text(json.dumps(config))
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    old, header, offset = json.loads(raw[8 : 8 + length]), {}, 0
    old.pop("__metadata__")
    for name, entry in old.items():
        shape = [FFN if ".mlp." in name and size == 512 else size for size in entry["shape"]]
        size = 4 * int(np.prod(shape))
        header[name] = entry | {"shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return folder


def test_peak_memory(tmp_path: Path, wide: Path) -> None:
    size = (wide / "model.safetensors").stat().st_size
    assert size > 3.5 * EXTRA_MB * 2**20
    out = tmp_path / "model.gguf"
    command = [sys.executable, "-c", CHILD, str(wide), str(out), "q8_0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, peak = map(int, done.stdout.split())
    assert (peak - before) / 1024 < EXTRA_MB
    out.unlink()
