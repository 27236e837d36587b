"""Estimates of memory: against the measured peak, and what is chosen or refused because of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_gguf
from qwen35cpp import Llama, _memory
from qwen35cpp._bundled import tiny_path as bundled_path
from qwen35cpp._header import Header
from qwen35cpp._load import rope_factor
from qwen35cpp.errors import InvalidArgument, ModelInvalid, NotEnoughMemory

CONTEXT = 65_536
MB = 1_000_000
# Fills the caches without reading: what they hold does not matter.
PEAK = """
import sys
from qwen35cpp import Llama
n_ctx, kv_type, draft, n_parallel, side = sys.argv[1:]
llm = Llama.tiny(
    n_ctx=int(n_ctx), kv_type=kv_type, draft=draft, n_parallel=int(n_parallel), n_threads=2,
    prefix_cache=False,
)
for slot in llm._engine.slots:
    session = slot.session
    for first in range(0, llm.n_ctx(), 1024):
        session.import_entries(first, bytes(1024 * session.token_bytes))
    session.eval(list(range(10, 600)))
llm.generate("One, two, three. " * 9, max_tokens=9)
if int(side):
    import numpy as np
    from qwen35cpp.vision import Picture
    llm._engine.tower().rows(Picture(np.zeros((int(side), int(side), 3), np.uint8)))
fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(1024 * int(fields["VmHWM"].split()[0]))
"""

RESIDENT = 100 << 20  # bytes of this process


@pytest.fixture(autouse=True)
def resident(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests left behind in this process is not what limits are about here."""
    monkeypatch.setattr(_memory, "resident", lambda: RESIDENT)


def fit(*arguments: str) -> Any:
    command = [sys.executable, "-m", "qwen35cpp", "fit", "tiny", "-t", "2", "--json", *arguments]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(
    ("kv_type", "draft", "contexts", "side"),
    [("f16", "off", 1, 0), ("q8_0", "both", 2, 0), ("f16", "both", 1, 1024)],
)
def test_the_estimate_is_near_the_peak(
    kv_type: str, draft: str, contexts: int, side: int, tiny_path: str
) -> None:
    """Caches, MTP layer and scratch of several contexts; the last with the tower at work."""
    command = [sys.executable, "-c", PEAK, str(CONTEXT), kv_type, draft, str(contexts), str(side)]
    peak = int(subprocess.run(command, capture_output=True, check=True).stdout)
    tower = [] if side else ["--mmproj", tiny_path]  # which has none
    options = ["--kv", kv_type, "--draft", draft, "--parallel", str(contexts)]
    needs = fit("--ctx", str(CONTEXT), *options, *tower)
    used = needs["total"] - needs["cache"] - needs["pictures"]
    assert used == pytest.approx(peak, rel=0.05)
    names = (
        "weights", "vision", "encoding", "kv", "state", "scratch", "pictures", "cache", "process",
    )  # fmt: skip
    assert needs["total"] == sum(needs[name] for name in names)
    assert bool(needs["vision"]) == bool(side)


def test_fit_offers_what_fits() -> None:
    needs = fit("--ctx", "60000000", "--parallel", "8")
    assert not needs["fits"]
    for kind, n_ctx in needs["choices"].items():
        if n_ctx:
            assert fit("--ctx", str(n_ctx), "--kv", kind, "--parallel", "8")["total"] < (
                needs["available"] * 1.1
            )


def test_a_limit_chooses_the_cache_and_the_context() -> None:
    def opened(megabytes: int, **options: Any) -> tuple[int, int]:
        limit = RESIDENT + (megabytes << 20)  # it is for the process as a whole
        fixed = {"n_parallel": 1, "draft": "off", "prefix_cache_bytes": 8 << 20}
        with Llama.tiny(memory_limit=limit, **fixed, **options) as llm:
            return llm.n_ctx(), llm._engine.slots[0].session.token_bytes

    with Llama.tiny(n_ctx=64, draft="off") as llm:
        exact = llm._engine.slots[0].session.token_bytes
        llm._engine.tower()  # its libraries are part of the process
    context, stored = opened(280, n_ctx=32_768)
    assert (context, stored) == (32_768, exact)
    context, stored = opened(120, n_ctx=32_768)
    assert context == 32_768
    assert stored < exact
    context, stored = opened(120)
    assert 4096 < context < 262_144
    assert stored < exact
    with pytest.raises(NotEnoughMemory, match="a context of 262144 tokens") as caught:
        opened(120, n_ctx=262_144, kv_type="f16")
    assert "n_ctx=" in caught.value.hint
    with pytest.raises(NotEnoughMemory):
        opened(1)


def test_the_header_says_what_the_engine_takes(
    tiny_model: Callable[..., tiny_gguf.TinyModel],
) -> None:
    shapes: tuple[dict[str, Any], ...] = (
        {"type": "Q8_0", "mtp": True},
        {"n_head_kv": 1, "tied": False, "vision": True},
    )
    paths = [bundled_path(), *(tiny_model(**shape).path for shape in shapes)]
    for path in paths:
        header = Header.read(bytes(path))
        with Llama(path, n_ctx=256, kv_type="f32", draft="auto") as llm:
            assert header.weights == llm.info.weight_bytes
            assert header.n_ctx_train == llm.info.n_ctx_train
            assert header.float32 == (llm.info.matrix_type == "F32")
            assert 4 * header.cache_values == llm._engine.slots[0].session.token_bytes
            if header.tower is None:
                continue
            tower = llm._engine.tower()
            for height, width in ((512, 512), (2048, 1024)):
                scratch = tower._handle.scratch(height, width)
                guess = header.tower.scratch(height * width // 256)
                assert guess <= scratch <= guess + MB * llm.n_threads
    assert Header.read(bytes(paths[0])).tower is not None


def test_what_cannot_fit_is_refused_before_weights_are_read(
    tiny_model: Callable[..., tiny_gguf.TinyModel],
) -> None:
    path = tiny_model(tensors={"output_norm.weight": np.full(256, np.nan, np.float32)}).path
    with pytest.raises(ModelInvalid, match="finite"):
        Llama(path)
    limit = RESIDENT + (64 << 20)
    with pytest.raises(NotEnoughMemory, match=r"65536 tokens .* needs .* GB .* there") as caught:
        Llama(path, n_ctx=65_536, memory_limit=limit, kv_type="f32", n_parallel=4)
    assert "n_ctx=" in caught.value.hint


def test_the_hint_names_what_fits() -> None:
    options: dict[str, Any] = {
        "n_ctx": 65_536, "draft": "off", "kv_type": "f16", "prefix_cache_bytes": 1 << 20,
    }  # fmt: skip
    limit = RESIDENT + (400 << 20)
    with pytest.raises(NotEnoughMemory, match="4 times") as caught:
        Llama.tiny(memory_limit=limit, n_parallel=4, **options)
    hint = caught.value.hint
    choices = dict(part.split("=") for part in hint.removeprefix("what fits: ").split(" or "))
    assert choices.keys() == {"kv_type", "n_ctx", "n_parallel"}
    fewer = int(choices["n_parallel"])
    assert 1 <= fewer < 4
    limit += 8 << 20  # this process grows
    Llama.tiny(memory_limit=limit, n_parallel=fewer, **options).close()
    options["n_ctx"] = int(choices["n_ctx"])
    Llama.tiny(memory_limit=limit, n_parallel=4, **options).close()


def test_one_limit_bounds_pictures_too() -> None:
    def opened(megabytes: int, **options: Any) -> Llama:
        limit = RESIDENT + (megabytes << 20)
        fixed: dict[str, Any] = {"n_ctx": 4096, "n_parallel": 1, "draft": "off"}
        return Llama.tiny(memory_limit=limit, prefix_cache_bytes=1 << 20, **fixed, **options)

    with Llama.tiny(n_ctx=64) as llm:
        tower = llm._engine.tower()
        assert tower._cache_bytes == 256 << 20
        large = tower._handle.scratch(2048, 2048)
    with opened(160) as llm:
        tower = llm._engine.tower()
        assert tower._cache_bytes < 32 << 20
        assert tower._most_scratch is not None
        assert tower._most_scratch < large
        tower.rows(_blank(256))
        with pytest.raises(NotEnoughMemory, match=r"2048 x 2048 pixels takes \d+ MB") as caught:
            tower.rows(_blank(2048))
        assert tower.encoded == 1
        pixels = int(caught.value.hint.split("max_pixels=")[1].rstrip(")"))
        side = int(pixels**0.5) // 32 * 32
        assert tower._most_scratch * 0.7 < tower._handle.scratch(side, side) <= tower._most_scratch
    with opened(160, picture_cache_bytes=3 << 20) as llm:
        assert llm._engine.tower()._cache_bytes == 3 << 20
    # A tower that nobody named gives way to the text; one that was named does not.
    with opened(40) as llm, pytest.raises(NotEnoughMemory, match="vision tower takes"):
        llm._engine.tower()
    with pytest.raises(NotEnoughMemory):
        opened(40, mmproj=bundled_path())


def _blank(side: int) -> Any:
    from qwen35cpp.vision import Picture

    return Picture(np.zeros((side, side, 3), np.uint8))


def test_one_limit_bounds_the_snapshots_of_sessions() -> None:
    limit = RESIDENT + (200 << 20)
    options: dict[str, Any] = {"n_ctx": 2048, "n_parallel": 1, "draft": "off"}
    with Llama.tiny(memory_limit=limit, prefix_cache_bytes=5 << 20, **options) as llm:
        tree = llm._engine.cache.tree
        session = llm.session()
        kept = []
        for i in range(6):
            session.generate(f"The number {i} is. ", max_tokens=2, temperature=0)
            kept.append(session.snapshot())
            assert tree.n_bytes <= tree.limit
        before = session.tokens
        with pytest.raises(NotEnoughMemory, match="snapshots of sessions take 5 MB") as caught:
            session.generate("One more. ", max_tokens=2)
        assert "let go" in caught.value.hint
        assert session.tokens == before
        with pytest.raises(NotEnoughMemory):
            llm.save_state()
        del kept[:-1]  # of which the session needs nothing
        session.generate("And then", max_tokens=2)
        assert session.tokens[: len(before)] == before


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Lets this machine have so many bytes of memory, and so many free."""

    def has(total: int, available: int) -> None:
        monkeypatch.setattr(_memory, "memory", lambda: (total, available))
        monkeypatch.setattr(_memory, "swap", lambda: (0, 0))

    return has


def test_without_a_limit_only_what_cannot_work_is_refused(
    machine: Callable[[int, int], None],
) -> None:
    def opened(**options: Any) -> int:
        with Llama.tiny(draft="off", **options) as llm:
            assert llm._engine.slots[0].session.token_bytes == 4096  # f16
            return llm.n_ctx()

    machine(4 << 30, 2 << 30)
    assert opened() == 262_144
    machine(4 << 30, 400 << 20)  # of the 1 GiB of a full context
    assert 60_000 < opened() < 90_000
    assert opened(n_ctx=262_144) == 262_144  # committed as it fills, and others may end
    machine(400 << 20, 200 << 20)
    with pytest.raises(NotEnoughMemory, match="262144 tokens") as caught:
        opened(n_ctx=262_144)
    assert "n_ctx=" in caught.value.hint
    machine(400 << 20, 24 << 20)
    with pytest.raises(NotEnoughMemory, match="with the model") as caught:
        opened()
    assert "file of fewer bits, or use_mmap=True" in caught.value.hint
    assert 512 <= opened(use_mmap=True) < 4096
    machine(0, 0)  # unknown
    assert opened() == 262_144


def test_a_context_beyond_the_machine_is_refused() -> None:
    with pytest.raises(NotEnoughMemory, match=r"needs .* GB") as caught:
        Llama.tiny(n_ctx=67_108_864, kv_type="f32", n_parallel=1)
    assert "n_ctx=" in caught.value.hint or "kv_type=" in caught.value.hint


def test_limits_of_control_groups(tmp_path: Path) -> None:
    def group(name: str, limit: str, used: int, cached: int) -> None:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(
            f"anon 1\ninactive_file {cached}\nactive_file 0\nslab 2\n"
        )

    assert _memory.group_limit(tmp_path, "/a/b") == (0, 0)
    group("a/b", "max", 100, 0)
    assert _memory.group_limit(tmp_path, "/a/b") == (0, 0)
    group("a", "5000", 4000, 1500)  # what caches files is given up
    assert _memory.group_limit(tmp_path, "/a/b") == (5000, 2500)
    group("a/b", "3000", 2900, 0)
    assert _memory.group_limit(tmp_path, "/a/b") == (3000, 2900)
    assert _memory.group_limit(tmp_path, "/") == (0, 0)


def test_rope_scaling_is_a_name_or_a_mapping() -> None:
    assert rope_factor(None) == 0.0
    assert rope_factor("yarn") == 4.0
    assert rope_factor({"rope_type": "yarn", "factor": 2.0}) == 2.0
    for wrong in (
        "linear",
        {"factor": 2.0},
        {"type": "yarn", "factor": 0.5},
        {"type": "yarn", "x": 1},
    ):
        with pytest.raises(InvalidArgument, match="rope_scaling"):
            rope_factor(wrong)
    with Llama.tiny(n_ctx=512, rope_scaling="yarn") as llm:
        assert llm.info.n_ctx_train == 4 * 262_144
        stretched = llm.eval(llm.tokenize("Once upon a time"))
    with Llama.tiny(n_ctx=512) as llm:
        assert (llm.eval(llm.tokenize("Once upon a time")) != stretched).any()
