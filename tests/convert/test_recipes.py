"""Tensor table and types at full size: parameter counts and file sizes of the published models."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import gguf
import pytest
from qwen35cpp.convert import info
from qwen35cpp.convert.ggml_types import BLOCKS, FileType, TensorType, row_bytes
from qwen35cpp.convert.recipes import RECIPES, choose_type, fit_type, more_bits
from qwen35cpp.convert.tensor_map import PlannedTensor, Role, plan_text, role_of

T = TensorType


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The benchmark script that writes full-size files."""
    path = Path(__file__).resolve().parents[2] / "bench" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("synthetic", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["synthetic"] = module
    spec.loader.exec_module(module)
    return module


def total_bytes(plan: list[PlannedTensor], types: list[TensorType]) -> int:
    pairs = zip(plan, types, strict=True)
    return sum(math.prod(t.ne[1:]) * row_bytes(kind, t.ne[0]) for t, kind in pairs)


# Published text and MTP parameters; tensors without and with MTP.
PARAMETERS = {
    "0.8b": (752_393_024, 20_452_864, 320, 335),
    "2b": (1_881_825_088, 60_828_160, 320, 335),
    "4b": (4_205_751_296, 120_599_552, 426, 441),
    "9b": (8_953_803_264, 243_290_624, 427, 442),
}


@pytest.mark.parametrize("size", PARAMETERS)
def test_parameter_counts(synthetic: ModuleType, size: str) -> None:
    text, mtp, tensors, tensors_mtp = PARAMETERS[size]
    config = synthetic.config_of(size)
    plain, full = plan_text(config, "", mtp=False), plan_text(config, "", mtp=True)
    assert sum(math.prod(item.ne) for item in plain) == text
    assert sum(math.prod(item.ne) for item in full) == text + mtp
    assert (len(plain), len(full)) == (tensors, tensors_mtp)


# Tensor bytes of published plain files: without and with MTP.
SIZES = {
    ("0.8b", "Q4_K_M"): (516_541_696, 529_011_968),
    ("2b", "Q4_K_M"): (1_259_846_912, 1_297_343_744),
    ("4b", "Q4_K_M"): (2_696_546_304, 2_770_511_872),
    ("9b", "Q4_K_M"): (5_616_076_800, 5_765_976_064),
    ("0.8b", "Q8_0"): (800_881_920, 822_629_632),
    ("9b", "Q8_0"): (9_516_533_760, 9_775_091_712),
    ("2b", "BF16"): (3_764_747_520, 3_886_425_344),
}


@pytest.mark.parametrize(("size", "name"), SIZES)
def test_plain_mix_has_published_sizes(synthetic: ModuleType, size: str, name: str) -> None:
    config = synthetic.config_of(size)
    for mtp, expected in zip((False, True), SIZES[size, name], strict=True):
        plan = plan_text(config, "", mtp=mtp)
        types = synthetic.plain_types(plan, FileType[name], config.tied)
        assert total_bytes(plan, types) == expected


def test_synthetic_file(
    synthetic: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small model through the script: readable, of the right types, finite values."""
    monkeypatch.setitem(synthetic.SIZES, "tiny", (256, 512, 4, 4, 1, 2, True))
    path, tokenizer = tmp_path / "tiny.gguf", synthetic.placeholder_tokenizer()
    size = synthetic.write(path, "tiny", FileType.Q4_K_M, tokenizer, mtp=True)
    content = info(path)
    assert content.tensor_bytes == size
    assert content.types.keys() == {"F32", "Q4_K", "Q5_K", "Q6_K"}
    for tensor in gguf.GGUFReader(path).tensors[:12]:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert 0.005 < abs(values).max() < 100
        if tensor.n_elements > 10_000 and "conv" not in tensor.name:
            assert abs(values.mean()) < values.std()


@pytest.mark.parametrize("size", PARAMETERS)
def test_our_mixes_are_ordered_by_size(synthetic: ModuleType, size: str) -> None:
    config = synthetic.config_of(size)
    plan = plan_text(config, "", mtp=True)

    def bytes_of(file_type: FileType) -> int:
        return total_bytes(
            plan,
            [
                choose_type(file_type, t.role, t.layer, config.layers, t.ne[0], tied=config.tied)
                for t in plan
            ],
        )

    order = ["Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16", "F32"]
    sizes = [bytes_of(FileType[name]) for name in order]
    assert sizes == sorted(sizes)
    plain = SIZES.get((size, "Q4_K_M"), (0, 0))[1]
    assert bytes_of(FileType.Q4_K_M) < 1.04 * plain  # what the protected tensors cost
    assert bytes_of(FileType.IQ4_XS) < bytes_of(FileType.Q4_K_M)


@pytest.mark.parametrize("file_type", FileType)
def test_protected_tensors(file_type: FileType) -> None:
    def chosen(role: Role, layer: int | None = 3, *, tied: bool = False) -> TensorType:
        return choose_type(file_type, role, layer, 24, 1024, tied=tied)

    for role in (Role.VECTOR, Role.CONV, Role.DECAY_GATE):
        assert chosen(role) is T.F32
    recipe = RECIPES[file_type]
    assert chosen(Role.OUTPUT, None) is chosen(Role.EMBEDDING, None, tied=True) is recipe.high
    assert chosen(Role.EMBEDDING, None) is recipe.base
    assert chosen(Role.LINEAR_QKV) is chosen(Role.LINEAR_OUT) is recipe.raised
    assert chosen(Role.FFN_DOWN, 0) is recipe.high
    assert chosen(Role.FFN_DOWN, 24) is recipe.base  # the MTP block


def test_layers_with_more_bits() -> None:
    chosen = [layer for layer in range(24) if more_bits(layer, 24)]
    assert chosen == [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]
    assert sum(more_bits(layer, 32) for layer in range(32)) == 16


def test_rows_that_do_not_fill_blocks() -> None:
    assert fit_type(T.Q4_K, 256) is T.Q4_K
    assert fit_type(T.Q4_K, 288) is T.Q8_0
    assert fit_type(T.Q4_K, 4304) is T.F16
    assert fit_type(T.BF16, 4304) is T.BF16
    with pytest.raises(ValueError, match="do not fill"):
        row_bytes(T.Q8_0, 33)


def test_block_sizes() -> None:
    for kind, sizes in BLOCKS.items():
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(int(kind))] == sizes


def test_roles_of_names(synthetic: ModuleType) -> None:
    for item in plan_text(synthetic.config_of("9b"), "", mtp=True):
        assert role_of(item.name) == (item.role, item.layer)
    for name in ("v.blk.0.ln1.weight", "blk.x.ffn_up.weight", "blk.1.ffn_up", "", "blk.0."):
        assert role_of(name) == (None, None)
