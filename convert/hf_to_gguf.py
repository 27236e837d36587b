"""Hugging Face checkpoint to GGUF: reads the folder, plans every tensor, checks, streams.

Nothing is written before the whole checkpoint was found to be what its config.json says: all
tensors present, all shapes as computed, none unknown, and room on the disk for every output.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from . import metadata as md
from ._errors import CheckpointError, ConversionError
from .config import CheckpointConfig, read_config
from .ggml_types import FileType, TensorType, parse_file_type
from .model_metadata import ARCHITECTURE, general_metadata, text_metadata, vision_metadata
from .pipeline import Job, Progress, write_file
from .recipes import RECIPES, choose_type, choose_vision_type, parse_vision_type
from .safetensors_reader import Checkpoint, StoredTensor
from .tensor_map import PlannedTensor, plan_text
from .tokenizer import read_tokenizer
from .vision import PREFIX as VISION_PREFIX
from .vision import plan_vision
from .writer import GgufWriter, TensorSpec, check_free_space

Vision = Literal["separate", "embed", "none"]
_MTP_PREFIX = "mtp."
_JobsOf = Callable[[Sequence[PlannedTensor]], list[Job]]


@dataclass(frozen=True)
class ConvertResult:
    """What was written."""

    paths: list[Path]  # the text model; then the mmproj file, if one was written
    file_type: FileType
    mtp: bool  # the prediction block is included
    vision: bool
    tensor_count: int
    file_bytes: int  # of all files


@dataclass(frozen=True)
class _Output:
    path: Path
    metadata: md.Metadata
    jobs: list[Job]


def convert(
    src_dir: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    type_name: str,
    *,
    vision: Vision = "separate",
    vision_type: str | None = None,
    mtp: bool = True,
    progress: Progress | None = None,
) -> ConvertResult:
    """Converts the checkpoint in `src_dir` to `out_path`.

    type_name: f32, bf16, f16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0 or iq4_xs. vision: `separate`
    writes the tower, if there is one, to `mmproj-<name>` beside `out_path`; `embed` puts it into
    the same file, which llama.cpp does not read; `none` drops it. vision_type: of the tower's
    matrices, f32, f16, bf16 or q8_0; None is F16, or the type itself when it is a float type. mtp:
    include the prediction block when the checkpoint has one. progress is called with (bytes done,
    bytes in all, tensor name) over all files.

    Each file appears complete or not at all. Raises CheckpointError for anything wrong with the
    checkpoint, DiskSpaceError, or ConversionError.
    """
    file_type, tower_type = _parse_types(type_name, vision_type)
    if vision not in ("separate", "embed", "none"):
        raise ConversionError(f"vision: expected separate, embed or none, found {vision!r}")
    source, target = Path(src_dir), Path(out_path)
    with _open_checkpoint(source) as checkpoint:
        config = read_config(source)
        mtp = mtp and any(name.startswith(_MTP_PREFIX) for name in checkpoint.tensors)
        plan = plan_text(config.text, _text_prefix(checkpoint), mtp=mtp)
        vision_plan = plan_vision(config.vision) if config.vision and vision != "none" else []
        stored = _match([*plan, *vision_plan], checkpoint, config.text.tied)

        def jobs_of(items: Sequence[PlannedTensor]) -> list[Job]:
            types = (file_type, tower_type)
            return [_job(item, stored[item.name], checkpoint, types, config) for item in items]

        request = _Request(source, target, file_type, tower_type, vision == "embed", mtp)
        outputs = _outputs(request, config, plan, vision_plan, jobs_of)
        size = _write_all(outputs, progress)
    return ConvertResult(
        paths=[output.path for output in outputs],
        file_type=file_type,
        mtp=mtp,
        vision=bool(vision_plan),
        tensor_count=len(plan) + len(vision_plan),
        file_bytes=size,
    )


def _parse_types(name: str, vision: str | None) -> tuple[FileType, TensorType]:
    """The types of the file and of the tower's matrices."""
    try:
        file_type = parse_file_type(name)
        return file_type, parse_vision_type(vision) if vision else RECIPES[file_type].vision
    except ValueError as error:
        raise ConversionError(str(error)) from None


def _open_checkpoint(folder: Path) -> Checkpoint:
    if folder.is_dir() and not (folder / "config.json").exists():
        raise CheckpointError(
            f"{folder}: config.json is missing", hint="give the folder of a full checkpoint"
        )
    if folder.is_dir():
        read_config(folder)  # a wrong architecture is the more useful message
    return Checkpoint(folder)


# ---- matching the plan with the checkpoint -------------------------------------------------------


def _text_prefix(checkpoint: Checkpoint) -> str:
    for prefix in ("model.language_model.", "model."):
        if f"{prefix}embed_tokens.weight" in checkpoint.tensors:
            return prefix
    raise CheckpointError(f"{checkpoint.folder}: no embed_tokens.weight in the checkpoint")


def _match(
    plan: Sequence[PlannedTensor], checkpoint: Checkpoint, tied: bool
) -> dict[str, StoredTensor]:
    """The stored tensor of each planned one; refuses missing, misshapen and unknown tensors."""
    result = {}
    for item in plan:
        tensor = checkpoint.tensors.get(item.source)
        if tensor is None:
            raise CheckpointError(
                f"{checkpoint.folder}: {item.source} is missing",
                hint="the checkpoint is incomplete",
            )
        if tensor.shape != item.source_shape:
            raise CheckpointError(
                f"{tensor.file}: {item.source}: expected {list(item.source_shape)}, "
                f"found {list(tensor.shape)}"
            )
        result[item.name] = tensor
    _refuse_unknown(plan, checkpoint, tied)
    return result


def _refuse_unknown(plan: Iterable[PlannedTensor], checkpoint: Checkpoint, tied: bool) -> None:
    used = {item.source for item in plan}
    # Left out on request: a whole vision tower or prediction block.
    skipped = [p for p in (VISION_PREFIX, _MTP_PREFIX) if not any(n.startswith(p) for n in used)]
    if tied:
        skipped.append("lm_head.weight")  # repeats the embedding
    others = [name for name in checkpoint.tensors if name not in used]
    unknown = [name for name in others if not name.startswith(tuple(skipped))]
    if unknown:
        raise CheckpointError(
            f"{checkpoint.folder}: {len(unknown)} tensors are not part of a Qwen 3.5 dense model, "
            f"first {unknown[0][:200]}",
            hint="merge adapters into the weights before converting",
        )


def _job(
    item: PlannedTensor,
    stored: StoredTensor,
    checkpoint: Checkpoint,
    types: tuple[FileType, TensorType],
    config: CheckpointConfig,
) -> Job:
    text = config.text
    if item.source.startswith(VISION_PREFIX):
        kind = choose_vision_type(types[1], item.role, item.ne[0])
    else:
        kind = choose_type(types[0], item.role, item.layer, text.layers, item.ne[0], tied=text.tied)
    return Job(TensorSpec(item.name, item.ne, kind), load=_RowLoader(item, stored, checkpoint))


class _RowLoader:
    """Reads output rows of a planned tensor: rows gathered, columns ordered, values transformed."""

    def __init__(self, item: PlannedTensor, stored: StoredTensor, checkpoint: Checkpoint) -> None:
        self.item, self.stored, self.checkpoint = item, stored, checkpoint
        # A GGUF row is ne[0] values; a patch kernel's source row makes several of them.
        width = item.source_cols if item.cols is None else len(item.cols)
        self.rows_per_source = width // item.ne[0]

    def __call__(self, start: int, stop: int) -> NDArray[np.float32]:
        first, last = start // self.rows_per_source, -(-stop // self.rows_per_source)
        values = self._source_rows(first, last)
        if self.item.cols is not None:
            values = values[:, self.item.cols]
        if self.item.value is not None:
            values = self.item.value(values)
        values = values.reshape(-1, self.item.ne[0])
        skip = start - first * self.rows_per_source
        return values[skip : skip + stop - start]

    def _source_rows(self, first: int, last: int) -> NDArray[np.float32]:
        cols = self.item.source_cols
        if self.item.rows is None:
            return self.checkpoint.rows(self.stored, cols, first, last)
        wanted = self.item.rows[first:last]
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1)
        parts = [self.checkpoint.rows(self.stored, cols, run[0], run[-1] + 1) for run in runs]
        return np.concatenate(parts)


# ---- outputs -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Request:
    source: Path
    target: Path
    file_type: FileType
    tower_type: TensorType
    embed: bool
    mtp: bool


def mmproj_path(target: Path) -> Path:
    """Where the vision tower of `target` goes."""
    return target.with_name(f"mmproj-{target.name}")


def _elements(plan: Iterable[PlannedTensor]) -> int:
    return sum(math.prod(item.ne) for item in plan)


def _outputs(
    request: _Request,
    config: CheckpointConfig,
    plan: list[PlannedTensor],
    vision_plan: list[PlannedTensor],
    jobs_of: _JobsOf,
) -> list[_Output]:
    name = request.source.resolve().name
    text_md = general_metadata(ARCHITECTURE, "model", name, request.file_type, _elements(plan))
    text_md |= text_metadata(config.text, mtp=request.mtp)
    text_md |= read_tokenizer(request.source, config.text.vocab).metadata()
    if not vision_plan:
        return [_Output(request.target, text_md, jobs_of(plan))]
    assert config.vision is not None
    vision_md = vision_metadata(config.vision, config.text)
    if request.embed:
        return [_Output(request.target, text_md | vision_md, jobs_of([*plan, *vision_plan]))]
    stored_as = FileType[request.tower_type.name]
    general = general_metadata("clip", "mmproj", name, stored_as, _elements(vision_plan))
    return [
        _Output(request.target, text_md, jobs_of(plan)),
        _Output(mmproj_path(request.target), general | vision_md, jobs_of(vision_plan)),
    ]


def _write_all(outputs: list[_Output], progress: Progress | None) -> int:
    sizes = [
        GgufWriter(output.path, output.metadata, [job.spec for job in output.jobs]).total_bytes
        for output in outputs
    ]
    folder = outputs[0].path.parent
    if not folder.is_dir():
        raise ConversionError(f"{folder}: the output folder does not exist")
    stale = sum(_size(output.path.with_name(output.path.name + ".part")) for output in outputs)
    check_free_space(folder, sum(sizes) - stale)
    total = sum(job.spec.bytes for output in outputs for job in output.jobs)
    before = 0
    for output in outputs:
        write_file(output.path, output.metadata, output.jobs, _shifted(progress, before, total))
        before += sum(job.spec.bytes for job in output.jobs)
    return sum(sizes)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Progress of one file as part of all of them."""
    if progress is None:
        return None
    return lambda done, _, name: progress(before + done, total, name)
