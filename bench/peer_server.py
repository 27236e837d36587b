"""llama.cpp's server (the `xllamacpp` wheel) on a file, in a process of its own.

    python bench/peer_server.py MODEL.gguf [--mmproj FILE] [--threads 2] [--parallel 4]
        [--drafts .85,.70,.55] [--forget]

Prints its address and serves until its standard input closes. `serving` does the same from Python.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def serving(model: str, *options: str) -> Iterator[tuple[str, int]]:
    """The address and the process number of a server with these options of the command line."""
    command = [sys.executable, __file__, model, *options]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        url = child.stdout.readline().strip()
        if not url:
            raise SystemExit(f"llama.cpp's server did not start: {' '.join(command)}")
        try:
            yield url, child.pid
        finally:
            child.stdin.close()


def complete(url: str, prompt: Sequence[int] | str, new: int, **options: Any) -> dict[str, Any]:
    """Greedy completion of ids or text: text, `timings` (prompt_n read, cache_n known, ...)."""
    given = prompt if isinstance(prompt, str) else list(prompt)
    body = {"prompt": given, "n_predict": new, "temperature": 0, "cache_prompt": True}
    return _post(f"{url}/completion", body | options)


def chat(url: str, messages: Sequence[dict[str, Any]], new: int) -> dict[str, Any]:
    """Greedy answer to messages in OpenAI's form, with `timings` as above."""
    body = {"messages": list(messages), "max_tokens": new, "temperature": 0, "cache_prompt": True,
            "chat_template_kwargs": {"enable_thinking": False}}  # fmt: skip
    return _post(f"{url}/v1/chat/completions", body)


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=600) as answer:
        said: dict[str, Any] = json.load(answer)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model")
    parser.add_argument("--mmproj", default="", help="tower, for pictures in chats")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--ctx", type=int, default=16384, help="of all slots together")
    parser.add_argument("--forget", action="store_true", help="keep nothing of earlier requests")
    parser.add_argument("--drafts", help="drafts of the MTP layer, accepted with these chances")
    args = parser.parse_args()
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.mmproj.path = args.model, args.mmproj
    params.n_ctx, params.n_parallel, params.kv_unified = args.ctx, args.parallel, True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
    params.n_gpu_layers = params.port = 0
    params.fit_params = False
    if args.forget:
        params.chat_template = "chatml"  # also where the file has none
        params.cache_ram_mib = params.n_ctx_checkpoints = 0
    if args.drafts:
        rates = [float(rate) for rate in args.drafts.split(",")]
        params.speculative.types = [
            xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_MTP
        ]
        params.speculative.draft.n_max = len(rates)
        params.speculative.synth_rates = rates
    server = xllamacpp.Server(params)
    address = server.listening_address
    print(address() if callable(address) else address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
