"""Random checkpoints by shape, as our files and as transformers models; comparing logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Qwen3_5ForConditionalGeneration

import checkpoints
from qwen35cpp import convert

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """r: value heads per key head of linear attention; tied: head shares the embedding."""

    r: int
    tied: bool

    def __str__(self) -> str:
        return f"r{self.r}-{'tied' if self.tied else 'untied'}"


SHAPES = [Shape(r, tied) for r in (1, 2) for tied in (True, False)]


class Models:
    """Checkpoints by shape and stored type, as files of ours and as transformers models."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[tuple[Shape, str, str], Path] = {}
        self._references: dict[tuple[Shape, str], Any] = {}

    def checkpoint(self, shape: Shape, stored: str = "float32") -> Path:
        """The Hugging Face folder."""
        return checkpoints.build(r=shape.r, tied=shape.tied, layers=8, dtype=stored)

    def gguf(self, shape: Shape, type_name: str, stored: str = "float32") -> Path:
        """The same model converted by us."""
        key = (shape, type_name, stored)
        if key not in self._files:
            path = self._folder / f"{shape}-{stored}-{type_name}.gguf"
            convert.convert(self.checkpoint(shape, stored), path, type_name, vision="none")
            self._files[key] = path
        return self._files[key]

    def reference(self, shape: Shape, stored: str = "float32") -> Any:
        """The same model in transformers, computing in float32."""
        key = (shape, stored)
        if key not in self._references:
            folder = self.checkpoint(shape, stored)
            model = Qwen3_5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
            self._references[key] = model.eval()
        return self._references[key]


def random_tokens(vocab: int, count: int, seed: int) -> list[int]:
    """Ordinary tokens: the small vocabularies end with at most 128 control and padding rows."""
    draws = np.random.default_rng(seed).integers(0, vocab - 128, count)
    return [int(token) for token in draws]


def mean_kld(reference: Logits, other: Logits) -> float:
    """Mean Kullback-Leibler divergence of rows of logits, in nats, computed in float64."""
    p = torch.log_softmax(torch.from_numpy(reference).double(), -1)
    q = torch.log_softmax(torch.from_numpy(other).double(), -1)
    return float((p.exp() * (p - q)).sum(-1).mean())
