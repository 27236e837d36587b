"""llama.cpp through `llama-cpp-python`, which pip builds for the machine at hand.

    python bench/peer_native.py MODEL.gguf --threads 2 --depths 0,8192 --prompt 512 --new 64

    python bench/peer_native.py MODEL.gguf --mmproj MMPROJ.gguf --image picture.npy --warm small.npy

Behind each depth, in one context: the speed of reading `prompt` more tokens, best of two at depth
0, and of generating `new` one by one. With --fill the depth is not read but made of the entries of
a short text, again and again (attention-only models). Prints a JSON object per depth. With a
picture, uint8 [height, width, 3] in NumPy's file, instead the seconds of its encoding and to the
first token. Needs nothing but files of this folder, so that it can run in an environment of its
own:

    CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python
"""

from __future__ import annotations

import argparse
import ctypes
import json
import struct
import time
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp as mtmd
from process import Watch

BATCH = 512
SEED = 256  # tokens whose entries are repeated
PIECE = 2048  # entries that are made at once: memory beside the cache
CELLS_AT = 16  # byte of a saved state where its cells begin
CELL = np.dtype([("position", "<i4"), ("sequences", "<u4"), ("sequence", "<i4")])


@llama_cpp.llama_log_callback
def quiet(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    """Drops a line of the log."""


class Context:
    """A model with room for n_ctx tokens."""

    def __init__(self, path: str, threads: int, n_ctx: int, *, fills: bool = False) -> None:
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
        if fills:
            params.n_seq_max, params.kv_unified = 2, True
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if self._context is None:
            raise SystemExit(f"llama.cpp has no memory for {n_ctx} tokens")
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

    def fill(self, depth: int) -> None:
        """Makes the sequence `depth` tokens long with the entries of its first ones.

        Loading a state replaces a sequence, so each piece is loaded as sequence 1 and its cells
        are then shared with sequence 0: no second copy of the whole cache is needed.
        """
        self.clear()
        self.eval(min(depth, SEED))
        if depth <= SEED:
            return
        size = llama_cpp.llama_state_seq_get_size(self._context, 0)
        short = (ctypes.c_uint8 * size)()
        llama_cpp.llama_state_seq_get_data(self._context, short, size, 0)
        self.clear()
        state = bytearray()
        for first in range(0, depth, PIECE):
            count = min(PIECE, depth - first)
            if first == 0 or count < PIECE:
                state = repeated(bytes(short), count)
            cells = np.frombuffer(state, CELL, count, CELLS_AT)
            cells["position"] = np.arange(first, first + count)
            data = (ctypes.c_uint8 * len(state)).from_buffer(state)
            if llama_cpp.llama_state_seq_set_data(self._context, data, len(state), 1) == 0:
                raise SystemExit("llama.cpp did not take the state")
            llama_cpp.llama_memory_seq_cp(self._memory, 1, 0, -1, -1)
            llama_cpp.llama_memory_seq_rm(self._memory, 1, -1, -1)
            del data
        self.position = 1 + llama_cpp.llama_memory_seq_pos_max(self._memory, 0)
        if self.position != depth:
            raise SystemExit(f"llama.cpp holds {self.position} tokens instead of {depth}")


def repeated(state: bytes, count: int) -> bytearray:
    """The state of a sequence of `count` tokens out of one of SEED.

    Two words, n_stream, n_cells; the cells (CELL); whether values are transposed, n_layer; for
    each layer's keys, then values: type (4 bytes), bytes of a row (8), rows.
    """
    unknown = "llama.cpp saves states in a layout not known here: read the tokens instead"
    known = struct.unpack_from("=IIiIi", state, 8) == (1, SEED, 0, 1, 0)
    at = CELLS_AT + CELL.itemsize * SEED
    transposed, layers = struct.unpack_from("=II", state, at)
    if not known or transposed:
        raise SystemExit(unknown)
    cells = np.zeros(count, CELL)
    cells["sequences"] = 1
    out = bytearray(state[:12] + struct.pack("=I", count) + cells.tobytes() + state[at : at + 8])
    at += 8
    for _ in range(2 * layers):
        rows = struct.unpack_from("=Q", state, at + 4)[0] * SEED
        entries = state[at + 12 : at + 12 + rows]
        out += state[at : at + 12] + (entries * -(-count // SEED))[: rows // SEED * count]
        at += 12 + rows
    if at != len(state):
        raise SystemExit(unknown)
    return out


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
    parser.add_argument("--fill", action="store_true", help="depth is filled instead of read")
    parser.add_argument("--mmproj", help="the projector, with --image")
    parser.add_argument("--image", help="a picture to read instead")
    parser.add_argument("--warm", help="a picture to see first")
    arguments = parser.parse_args()
    if arguments.image:
        picture(arguments)
        return
    depths = [int(depth) for depth in arguments.depths.split(",")]
    room = max(depths) + arguments.prompt + arguments.new + BATCH
    context = Context(arguments.model, arguments.threads, room, fills=arguments.fill)
    context.eval(16)
    context.clear()
    for depth in depths:
        read = 0.0
        if arguments.fill:
            context.fill(depth)
            context.eval(1)  # its buffers are made now
        elif depth == 0:
            first = context.eval(arguments.prompt)
            context.clear()
            read = min(first, context.eval(arguments.prompt))
        else:
            context.eval(max(0, depth - context.position))
            read = context.eval(arguments.prompt)
        spent = sum(context.eval(1) for _ in range(arguments.new))
        result = {"depth": depth, "decode": arguments.new / spent}
        if read:
            result["prefill"] = arguments.prompt / read
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
