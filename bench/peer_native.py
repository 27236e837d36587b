"""llama.cpp through `llama-cpp-python`, which pip builds for the machine at hand.

    python bench/peer_native.py MODEL.gguf --threads 2 --depths 0,8192 --prompt 512 --new 64

Behind each depth, in one context: the speed of reading `prompt` more tokens, best of two at depth
0, and of generating `new` one by one. Prints a JSON object per depth. Needs nothing of this
project, so that it can run in an environment of its own:

    CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from typing import Any

import llama_cpp

BATCH = 512


@llama_cpp.llama_log_callback
def quiet(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    """Drops a line of the log."""


class Context:
    """A model with room for n_ctx tokens."""

    def __init__(self, path: str, threads: int, n_ctx: int) -> None:
        llama_cpp.llama_log_set(quiet, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        if self._model is None:
            raise SystemExit(f"{path}: llama.cpp cannot load it")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch: Any = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self.position = 0

    def eval(self, n: int) -> float:
        """Reads n more tokens; returns the seconds. Logits are computed for the last one."""
        start = time.perf_counter()
        batch = self._batch
        while n > 0:
            batch.n_tokens = count = min(n, BATCH)
            n -= count
            for i in range(count):
                position = self.position + i
                batch.token[i] = (7 * position + 11) % 100_000
                batch.pos[i] = position
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = i == count - 1
            if llama_cpp.llama_decode(self._context, batch) != 0:
                raise SystemExit("llama.cpp: llama_decode failed")
            llama_cpp.llama_get_logits_ith(self._context, -1)
            self.position += count
        return time.perf_counter() - start

    def clear(self) -> None:
        """Forgets everything."""
        llama_cpp.llama_memory_clear(self._memory, True)
        self.position = 0


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--depths", default="0")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=64)
    arguments = parser.parse_args()
    depths = [int(depth) for depth in arguments.depths.split(",")]
    room = max(depths) + arguments.prompt + arguments.new + BATCH
    context = Context(arguments.model, arguments.threads, room)
    context.eval(16)
    context.clear()
    for depth in depths:
        if depth == 0:
            first = context.eval(arguments.prompt)
            context.clear()
            read = min(first, context.eval(arguments.prompt))
        else:
            context.eval(max(0, depth - context.position))
            read = context.eval(arguments.prompt)
        spent = sum(context.eval(1) for _ in range(arguments.new))
        result = {
            "depth": depth, "prefill": arguments.prompt / read, "decode": arguments.new / spent,
        }  # fmt: skip
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
