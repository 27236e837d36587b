"""llama.cpp through `llama-cpp-python`, which pip builds for the machine at hand.

    python bench/peer_native.py MODEL.gguf --threads 2 --depths 0,8192 --prompt 512 --new 64

    python bench/peer_native.py MODEL.gguf --mmproj MMPROJ.gguf --image picture.npy --warm small.npy

Behind each depth, in one context: the speed of reading `prompt` more tokens, best of two at depth
0, and of generating `new` one by one. Prints a JSON object per depth. With a picture, uint8
[height, width, 3] in NumPy's file, instead the seconds of its encoding and to the first token.
Needs nothing but files of this folder, so that it can run in an environment of its own:

    CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp as mtmd
from process import Watch

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


class Eyes:
    """The projector of a context."""

    def __init__(self, context: Context, path: str, threads: int) -> None:
        self._context = context._context
        params = mtmd.mtmd_context_params_default()
        params.use_gpu, params.warmup, params.n_threads = False, False, threads
        self._eyes = mtmd.mtmd_init_from_file(path.encode(), context._model, params)
        if self._eyes is None:
            raise SystemExit(f"{path}: llama.cpp cannot load it")

    def ask(self, path: str) -> dict[str, float]:
        """Reads a picture in a question, ready for the first token of the answer."""
        pixels = np.ascontiguousarray(np.load(path))
        height, width, _ = pixels.shape
        data = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        bitmap = mtmd.mtmd_bitmap_init(width, height, data)
        chunks = mtmd.mtmd_input_chunks_init()
        marker = mtmd.mtmd_default_marker()
        text = b"<|im_start|>user\n%s?<|im_end|>\n<|im_start|>assistant\n" % marker
        question = mtmd.mtmd_input_text(text, len(text), True, True)
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
        start = time.perf_counter()
        call = (self._eyes, chunks, ctypes.byref(question), bitmaps, 1)
        _check("mtmd_tokenize", mtmd.mtmd_tokenize(*call))
        past, encode, tokens = llama_cpp.llama_pos(0), 0.0, 0
        count = mtmd.mtmd_input_chunks_size(chunks)
        for index in range(count):
            chunk = mtmd.mtmd_input_chunks_get(chunks, index)
            tokens += mtmd.mtmd_input_chunk_get_n_tokens(chunk)
            place = (past, 0, BATCH)
            if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
                end = (index == count - 1, ctypes.byref(past))
                call = (self._eyes, self._context, chunk, *place, *end)
                _check("reading text", mtmd.mtmd_helper_eval_chunk_single(*call))
                continue
            before = time.perf_counter()
            _check("mtmd_encode_chunk", mtmd.mtmd_encode_chunk(self._eyes, chunk))
            encode += time.perf_counter() - before
            rows = mtmd.mtmd_get_output_embd(self._eyes)
            none = (mtmd.mtmd_helper_post_decode_callback(), None)
            call = (self._eyes, self._context, chunk, rows, *place, ctypes.byref(past), *none)
            _check("reading rows", mtmd.mtmd_helper_decode_image_chunk(*call))
        llama_cpp.llama_get_logits_ith(self._context, -1)
        first = time.perf_counter() - start
        mtmd.mtmd_input_chunks_free(chunks)
        mtmd.mtmd_bitmap_free(bitmap)
        return {"encode": encode, "first": first, "tokens": tokens}


def _check(what: str, code: int) -> None:
    if code != 0:
        raise SystemExit(f"llama.cpp: {what} failed with {code}")


def picture(arguments: argparse.Namespace) -> None:
    """Prints the figures of one picture."""
    context = Context(arguments.model, arguments.threads, 8192)
    eyes = Eyes(context, arguments.mmproj, arguments.threads)
    if arguments.warm:
        eyes.ask(arguments.warm)
        context.clear()
    watch = Watch()
    figures = eyes.ask(arguments.image)
    print(json.dumps(figures | watch.figures()), flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--depths", default="0")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--mmproj", help="the projector, with --image")
    parser.add_argument("--image", help="a picture to read instead")
    parser.add_argument("--warm", help="a picture to see first")
    arguments = parser.parse_args()
    if arguments.image:
        picture(arguments)
        return
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
