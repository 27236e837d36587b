"""llama.cpp (the `xllamacpp` wheel) as a second opinion: greedy ids and log-probabilities.

    with open_model(path, n_threads=2) as peer:
        ids = peer.greedy([1, 2, 3], 16)
        steps = peer.greedy_steps([1, 2, 3], 16, n_top=5)   # steps[i].id, .logprob, .top

Prompts are token ids and go to the model as they are: no template, no BOS (with a projector loaded
llama.cpp takes text only). Tokens that are only a
part of a UTF-8 character have no id in the server's answer: RuntimeError, so compare on models that
do not choose them (checkpoints.py builds such). Sampling is greedy and
penalties are off. KV is F16 unless `kv_type` says otherwise. The wheel is a test extra only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import xllamacpp

Prompt = Sequence[int] | str


@dataclass(frozen=True)
class Step:
    """One generated token; `top` holds (id, natural log-probability), most likely first."""

    id: int
    logprob: float
    top: list[tuple[int, float]]


class Peer(AbstractContextManager["Peer"]):
    """A model opened in llama.cpp. One thread at a time."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        n_threads: int = 2,
        *,
        n_ctx: int = 512,
        n_batch: int = 512,
        kv_type: str = "f16",
        mmproj: str | os.PathLike[str] | None = None,
    ) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(path)
        params = xllamacpp.CommonParams()
        params.model.path = os.fspath(path)
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = n_batch
        params.n_parallel = 1
        params.n_gpu_layers = 0
        params.cpuparams.n_threads = n_threads
        params.cpuparams_batch.n_threads = n_threads
        params.cache_type_k = params.cache_type_v = getattr(
            xllamacpp.ggml_type, f"GGML_TYPE_{kv_type.upper()}"
        )
        params.warmup = False
        params.fit_params = False  # keep the context asked for, whatever memory is free
        params.cache_ram_mib = 0  # no prompt cache between calls: every call starts afresh
        params.n_ctx_checkpoints = 0
        params.port = 0
        params.verbosity = 0
        if mmproj is not None:
            params.mmproj.path = os.fspath(mmproj)
        self._server: Any = xllamacpp.Server(params)

    def greedy(self, prompt: Prompt, n: int) -> list[int]:
        """The next `n` ids, fewer when an end-of-text id comes first (it is not returned)."""
        return [step.id for step in self.greedy_steps(prompt, n, 1)]

    def greedy_steps(self, prompt: Prompt, n: int, n_top: int = 5) -> list[Step]:
        """Like greedy(), with log-probabilities of the full distribution."""
        answer = self._complete(prompt, n, n_top)
        entries = answer["choices"][0]["logprobs"]["content"]
        ended = answer["choices"][0]["finish_reason"] == "stop"
        if len(entries) < answer["usage"]["completion_tokens"] - int(ended):
            raise RuntimeError("llama.cpp reports no id for tokens that are not whole characters")
        return [
            Step(
                id=int(entry["id"]),
                logprob=float(entry["logprob"]),
                top=[(int(top["id"]), float(top["logprob"])) for top in entry["top_logprobs"]],
            )
            for entry in entries
        ]

    def timings(self, prompt: Prompt, n: int) -> dict[str, float]:
        """llama.cpp's own measurement: `prompt_per_second`, `predicted_per_second` and others."""
        return dict(self._complete(prompt, n, 0)["timings"])

    def close(self) -> None:
        """Frees the model."""
        self._server = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _complete(self, prompt: Prompt, n: int, n_top: int) -> dict[str, Any]:
        request = {
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "n_predict": n,
            "temperature": 0.0,
            "samplers": ["temperature"],
            "repeat_penalty": 1.0,
            "n_probs": n_top,
            "post_sampling_probs": False,
            "cache_prompt": False,
            "stream": False,
        }
        answer = self._server.handle_completions(request)
        if isinstance(answer, str | bytes):
            answer = json.loads(answer)
        if "error" in answer:
            raise RuntimeError(f"llama.cpp: {answer['error']}")
        return dict(answer)


def open_model(path: str | os.PathLike[str], n_threads: int = 2, **options: Any) -> Peer:
    """Opens a GGUF file; RuntimeError when llama.cpp refuses it."""
    return Peer(path, n_threads, **options)
