"""GGUF to GGUF: the same model in another file type, optionally with an importance matrix."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import metadata as md
from ._engine import GgufFile, GgufTensor, decode, type_traits
from ._errors import ConversionError
from .ggml_types import FileType, TensorType, parse_file_type
from .hf_to_gguf import ConvertResult
from .imatrix import Importance, read_imatrix
from .model_metadata import ARCHITECTURE, PROJECTOR
from .pipeline import Job, Progress, write_file
from .recipes import choose_type, fit_type, parse_vision_type
from .tensor_map import Role, role_of
from .vision import is_matrix
from .writer import GgufWriter, TensorSpec, check_free_space

# Requantising from fewer bits than this adds the errors of two roundings.
_GOOD_SOURCES = {int(kind) for kind in TensorType if kind.name in ("F32", "F16", "BF16", "Q8_0")}
_UNWEIGHTED = {Role.EMBEDDING}  # looked up, not multiplied: its columns have no inputs


def quantize(
    in_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    type_name: str,
    *,
    vision_type: str | None = None,
    imatrix: str | os.PathLike[str] | None = None,
    allow_requantize: bool = False,
    progress: Progress | None = None,
) -> ConvertResult:
    """Writes `in_path`, a qwen35 file (or any shard of one), to `out_path` with another file type.

    type_name and progress are those of convert(). `in_path` may also be an mmproj file, whose types
    are f32, f16, bf16 and q8_0. vision_type: of the matrices of an embedded vision tower; None
    copies them, as every other tensor outside the text model. imatrix: an importance matrix of
    llama.cpp, in either of its forms. Files with matrices below 8 bits are refused unless
    allow_requantize is set.
    """
    source, target = Path(in_path), Path(out_path)
    with GgufFile(source) as file:
        _check_source(source, file, allow_requantize)
        try:
            file_type = parse_file_type(type_name)
            if _is_tower(file):
                vision_type = type_name
            tower_type = parse_vision_type(vision_type) if vision_type else None
        except ValueError as error:
            raise ConversionError(str(error)) from None
        importance = read_imatrix(Path(imatrix)) if imatrix is not None else {}
        jobs = _jobs(file, file_type, tower_type, importance)
        metadata = _metadata(file, file_type, imatrix)
        if not target.parent.is_dir():
            raise ConversionError(f"{target.parent}: the output folder does not exist")
        total = GgufWriter(target, metadata, [job.spec for job in jobs]).total_bytes
        check_free_space(target.parent, total)
        size = write_file(target, metadata, jobs, progress)
    names = [job.spec.name for job in jobs]
    return ConvertResult(
        paths=[target],
        file_type=file_type,
        mtp=any(".nextn." in name for name in names),
        vision=any(name.startswith("v.") for name in names),
        tensor_count=len(jobs),
        file_bytes=size,
    )


def _check_source(path: Path, file: GgufFile, allow_requantize: bool) -> None:
    found = _string(file, "general.architecture")
    if found != ARCHITECTURE and not _is_tower(file):
        raise ConversionError(
            f"{path}: general.architecture: expected {ARCHITECTURE!r}, found {str(found)[:80]!r}",
            hint="only models of Qwen 3.5 and their vision towers can be quantised",
        )
    if allow_requantize:
        return
    for tensor in file.tensors:
        if tensor.type not in _GOOD_SOURCES:
            raise ConversionError(
                f"{path}: {tensor.name} is already {type_traits(tensor.type).name}",
                hint="start from an F32, BF16, F16 or Q8_0 file, or allow requantising",
            )


def _string(file: GgufFile, key: str) -> object:
    value = file.metadata.get(key)
    return value.decode() if value is not None else None


def _is_tower(file: GgufFile) -> bool:
    projector = _string(file, "clip.projector_type")
    return _string(file, "general.architecture") == "clip" and projector == PROJECTOR


def _jobs(
    file: GgufFile, file_type: FileType, tower_type: TensorType | None, importance: Importance
) -> list[Job]:
    names = {tensor.name for tensor in file.tensors}
    tied = "output.weight" not in names
    layers = _trunk_layers(file)
    jobs = []
    for tensor in file.tensors:
        role, layer = role_of(tensor.name)
        kind = _known_type(tensor)
        if role is not None:
            kind = choose_type(file_type, role, layer, layers, tensor.ne[0], tied=tied)
        elif tower_type is not None and is_matrix(tensor.name):
            kind = fit_type(tower_type, tensor.ne[0])
        spec = TensorSpec(tensor.name, tensor.ne, kind)
        if int(kind) == tensor.type:
            jobs.append(Job(spec, copy=_Copy(file, tensor)))
            continue
        weights = None if role in _UNWEIGHTED else importance.get(tensor.name)
        if weights is not None and len(weights) != tensor.ne[0]:
            raise ConversionError(
                f"importance of {tensor.name}: expected {tensor.ne[0]} values, found {len(weights)}"
            )
        jobs.append(Job(spec, load=_Load(file, tensor), importance=weights))
    return jobs


def _known_type(tensor: GgufTensor) -> TensorType:
    try:
        return TensorType(tensor.type)
    except ValueError:
        name = type_traits(tensor.type).name
        raise ConversionError(f"{tensor.name}: cannot be copied: {name} is not written") from None


def _trunk_layers(file: GgufFile) -> int:
    def number(key: str) -> int:
        value = file.metadata.get(f"{ARCHITECTURE}.{key}")
        return int(value.decode()) if value is not None and value.type is md.ValueType.U32 else 0

    return number("block_count") - number("nextn_predict_layers")


def _metadata(
    file: GgufFile, file_type: FileType, imatrix: str | os.PathLike[str] | None
) -> md.Metadata:
    """The metadata of the source, with what the new types change. Shards become one file."""
    kept = {key: val for key, val in file.metadata.items() if not key.startswith("split.")}
    kept["general.file_type"] = md.u32(file_type)
    kept["general.quantization_version"] = md.u32(2)
    if imatrix is not None:
        kept["quantize.imatrix.file"] = md.string(Path(imatrix).name)
    return kept


class _Copy:
    """Rows of a tensor as they are stored."""

    def __init__(self, file: GgufFile, tensor: GgufTensor) -> None:
        self.file, self.tensor = file, tensor
        self.row_bytes = tensor.bytes // (tensor.elements // tensor.ne[0])

    def __call__(self, start: int, stop: int) -> NDArray[np.uint8]:
        size = (stop - start) * self.row_bytes
        return self.file.read(self.tensor, start * self.row_bytes, size)


class _Load(_Copy):
    """Rows of a tensor as float32."""

    def __call__(self, start: int, stop: int) -> NDArray[np.float32]:  # type: ignore[override]
        data = super().__call__(start, stop)
        return decode(self.tensor.type, data, stop - start, self.tensor.ne[0])
