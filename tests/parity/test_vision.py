"""Pictures and clips against transformers in float32, on random weights in real tower shapes.

Preprocessing, token counts, rows of the tower, logits behind a picture and greedy text.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import Qwen3_5ForConditionalGeneration

import checkpoints
from parity import mean_kld
from qwen35cpp import Llama, convert
from qwen35cpp.vision import Budget, Picture, PicturePrompt, Video, fit, target_size, video_parts

processing = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")

BUDGET = Budget(65_536, 16_777_216)
IMAGES, CLIPS, NEW_TOKENS = 40, 5, 16
CELL = 32


def image(index: int) -> NDArray[np.uint8]:
    """A picture of an odd size: smooth colours with noise, sides from 9 to 700 pixels."""
    rng = np.random.default_rng(index)
    height, width = (int(9 * (700 / 9) ** rng.random()) for _ in range(2))
    while max(height, width) > 12 * min(height, width):
        height, width = (int(9 * (700 / 9) ** rng.random()) for _ in range(2))
    y, x = np.mgrid[0:height, 0:width]
    phase = rng.uniform(0, 6, 3)
    waves = np.sin(x[..., None] / rng.uniform(3, 60, 3) + y[..., None] / 20 + phase)
    return np.clip(127 + 90 * waves + rng.normal(0, 20, waves.shape), 0, 255).astype(np.uint8)


class Reference:
    """A checkpoint in transformers, and the same in our files."""

    def __init__(self, folder: Path, tower: str, type_name: str) -> None:
        self.checkpoint = checkpoints.build(r=2, layers=4, tower=tower, dtype="bfloat16")
        self.path = folder / f"{tower}-{type_name}.gguf"
        convert.convert(self.checkpoint, self.path, type_name)
        self.hf: Any = Qwen3_5ForConditionalGeneration.from_pretrained(
            self.checkpoint, dtype=torch.float32
        ).eval()
        sizes = {"shortest_edge": BUDGET.min_pixels, "longest_edge": BUDGET.max_pixels}
        self.processor = processing.Qwen2VLImageProcessorPil(
            size=sizes, patch_size=16, temporal_patch_size=2, merge_size=2,
            image_mean=[0.5] * 3, image_std=[0.5] * 3,
        )  # fmt: skip

    @property
    def pads(self) -> tuple[int, int]:
        """Ids of the placeholders of images and videos."""
        return self.hf.config.image_token_id, self.hf.config.video_token_id

    def patches(self, pixels: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches and grid as the reference makes them."""
        out = self.processor(images=Image.fromarray(pixels), return_tensors="pt")
        return out["pixel_values"], out["image_grid_thw"]

    @torch.no_grad()
    def rows(self, patches: torch.Tensor, grid: torch.Tensor) -> NDArray[np.float32]:
        """What the tower gives."""
        merged: NDArray[np.float32] = self.hf.model.visual(
            patches, grid_thw=grid
        ).pooler_output.numpy()
        return merged


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(tmp_path_factory.mktemp("vision"), "small", "f32")


def unpatched(patches: NDArray[np.float32], grid: list[int]) -> NDArray[np.float32]:
    """Frames [2, height, width, 3] from 0 to 255 of a reference's patch rows."""
    _, rows, columns = grid
    blocks = patches.reshape(rows // 2, columns // 2, 2, 2, 3, 2, 16, 16)
    frames = blocks.transpose(5, 0, 2, 6, 1, 3, 7, 4)
    return frames.reshape(2, rows * 16, columns * 16, 3) * 127.5 + 127.5


def paired(pair: Picture) -> NDArray[np.float32]:
    """Patch rows of a frame pair, in the order of the reference."""
    assert pair.second is not None
    frames = np.stack([pair.first, pair.second]).astype(np.float32) / 127.5 - 1
    rows, columns = pair.grid
    blocks = frames.reshape(2, rows, 2, 16, columns, 2, 16, 3)
    return blocks.transpose(1, 4, 2, 5, 7, 0, 3, 6).reshape(rows * columns * 4, -1)


def clip(index: int) -> list[tuple[str, Picture]]:
    """The pairs of a clip of 3 to 6 frames."""
    rng = np.random.default_rng(100 + index)
    side = int(rng.integers(64, 200)), int(rng.integers(64, 200))
    frames = rng.integers(0, 256, (int(rng.integers(3, 7)), *side, 3), np.uint8)
    return video_parts(Video(list(frames), [i / 2 for i in range(len(frames))]))


def test_pixels_equal_the_reference(small: Reference) -> None:
    """Within 1/255 of the range from -1 to 1, and the same grid."""
    for index in range(IMAGES):
        pixels = image(index)
        patches, grid = small.patches(pixels)
        height, width, _ = pixels.shape
        size = target_size(height, width, BUDGET)
        assert [1, size[0] // 16, size[1] // 16] == grid[0].tolist()
        theirs = unpatched(patches.numpy(), grid[0].tolist())
        assert np.abs(theirs - fit(pixels, *size)).max() <= 1.0


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The smallest over the rows."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(((x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)).min())


@pytest.mark.parametrize(
    ("tower", "type_name", "images"), [("0.8b", "f16", 40), ("0.8b", "bf16", 8), ("9b", "f16", 12)]
)
def test_rows_of_the_tower(
    tmp_path: Path, report: Callable[[str], None], tower: str, type_name: str, images: int
) -> None:
    reference = Reference(tmp_path, tower, type_name)
    worst = 1.0
    with Llama(reference.path, n_ctx=64) as llm:
        ours = llm._engine.tower()
        for index in range(images):
            rows = ours.rows(Picture.open(image(index), BUDGET))
            theirs = reference.rows(*reference.patches(image(index)))
            assert rows.shape == theirs.shape
            worst = min(worst, cosine(rows, theirs))
        for index in range(CLIPS):
            for _, pair in clip(index):
                grid = torch.tensor([[1, pair.grid[0] * 2, pair.grid[1] * 2]])
                theirs = reference.rows(torch.from_numpy(paired(pair)), grid)
                worst = min(worst, cosine(ours.rows(pair), theirs))
    report(f"{tower} tower, {type_name}: least cosine of a row {worst:.7f}")
    assert worst >= 0.9999


def quantised(source: Path, target: Path) -> None:
    """A copy of a projector file with its matrices in Q8_0 where rows divide into blocks."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "clip")
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            kind, *inner = field.types
            value = field.contents()
            if kind is gguf.GGUFValueType.ARRAY:
                writer.add_key_value(field.name, value, kind, inner[0])
            else:
                writer.add_key_value(field.name, value, kind)
    for tensor in reader.tensors:
        is_matrix = len(tensor.shape) == 2 and tensor.name.startswith(("v.blk", "mm."))
        if is_matrix and tensor.shape[0] % 32 == 0:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            q8 = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, q8), raw_dtype=q8)
        else:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("tower", ["0.8b", "9b"])
def test_rows_of_an_8_bit_tower(tmp_path: Path, report: Callable[[str], None], tower: str) -> None:
    reference = Reference(tmp_path, tower, "f16")
    mmproj = tmp_path / "q8.gguf"
    quantised(reference.path.with_name(f"mmproj-{reference.path.name}"), mmproj)
    worst = 1.0
    with Llama(reference.path, n_ctx=64, mmproj=mmproj) as llm:
        assert llm._engine.tower().info.matrix_type == "Q8_0"
        for index in range(8):
            rows = llm._engine.tower().rows(Picture.open(image(index), BUDGET))
            worst = min(worst, cosine(rows, reference.rows(*reference.patches(image(index)))))
    report(f"{tower} tower, Q8_0: least cosine of a row {worst:.6f}")
    assert worst >= 0.999


def prompt_of(reference: Reference, llm: Llama, index: int) -> tuple[PicturePrompt, dict[str, Any]]:
    """Text, a picture, text, and for some a clip and more text: for us and for transformers."""
    rng = np.random.default_rng(index)
    words = [int(token) for token in rng.integers(0, llm.n_vocab() - 128, 12)]
    still, video = reference.pads
    parts = [Picture.open(image(index), BUDGET)]
    ids = [*words[:5], still, *words[5:9]]
    pixels, grid = reference.patches(image(index))
    inputs: dict[str, Any] = {"pixel_values": pixels, "image_grid_thw": grid}
    if index % 4 == 0:
        pairs = [pair for _, pair in clip(index % CLIPS)]
        ids += [words[0], video] * len(pairs)
        parts += pairs
        inputs["pixel_values_videos"] = torch.from_numpy(np.concatenate([*map(paired, pairs)]))
        grids = [[1, pair.grid[0] * 2, pair.grid[1] * 2] for pair in pairs]
        inputs["video_grid_thw"] = torch.tensor(grids)
    ids += words[9:]
    prompt = PicturePrompt.fill(ids, {still, video}, parts)
    kinds = np.zeros(len(prompt.ids), np.int64)
    hf_ids = list(prompt.ids)
    for span in prompt.spans:
        kind = 1 if span.picture.second is None else 2
        kinds[span.start : span.end] = kind
        hf_ids[span.start : span.end] = [reference.pads[kind - 1]] * span.picture.n_tokens
    inputs |= {
        "input_ids": torch.tensor([hf_ids]),
        "mm_token_type_ids": torch.from_numpy(kinds)[None],
    }
    return prompt, inputs


def test_logits_and_text_behind_pictures(small: Reference, report: Callable[[str], None]) -> None:
    same, worst = 0, 0.0
    with Llama(small.path, n_ctx=4096, prefix_cache=False) as llm:
        for index in range(IMAGES):
            prompt, inputs = prompt_of(small, llm, index)
            with torch.no_grad():
                theirs = small.hf(**inputs).logits[0, -2:].numpy()
                text = small.hf.generate(
                    **inputs, attention_mask=torch.ones_like(inputs["input_ids"]),
                    max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False,
                    eos_token_id=None,
                )[0, inputs["input_ids"].shape[1] :].tolist()  # fmt: skip
            engine = llm._engine
            with engine.hold_first() as held:
                held.slot.reset()
                held.slot.begin(prompt.ids[:-2], spans=prompt.spans)
            logits = llm.eval(prompt.ids[-2:], all_logits=True)
            worst = max(worst, mean_kld(theirs, logits))
            ours = [int(np.argmax(logits[-1]))]
            while len(ours) < NEW_TOKENS:
                ours.append(int(np.argmax(llm.eval(ours[-1:]))))
            same += ours == text
    report(f"{IMAGES} prompts: largest KLD {worst:.1e}, {same} texts of {NEW_TOKENS} tokens equal")
    assert worst <= 1e-3
    assert same >= 0.95 * IMAGES
