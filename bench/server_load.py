"""Load on the server: many streams, half of them cut at random, and what /health says meanwhile.

    python bench/server_load.py                       # the bundled model, 16 streams for 60 s
    python bench/server_load.py --model 0.8b.gguf --streams 16 --seconds 60
    python bench/server_load.py --peer --model 0.8b.gguf        # llama.cpp's server
    python bench/server_load.py --url http://127.0.0.1:8080     # any server of OpenAI's protocol
    python bench/server_load.py --shared 2000 --rounds 5        # 16 at once, one system prompt

Says how many answers were whole, cut and failed, the tokens per second of all streams together, the
latency of /health, the memory of a server it starts and, for ours, whether every slot came back.
With --shared requests come all at once instead, in rounds of a fresh system prompt each, and what
is said is how many tokens were read and how long the answers took to begin.
Exits with 1 when an answer failed or a slot was lost. Needs the package httpx2.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import peer_server
from process import memory

CONTEXT = 4096  # tokens of each request
TOPICS = ["dog", "cat", "bird", "horse", "fish", "rabbit", "fox", "bear"]


def resident(pid: int) -> float:
    """Memory of a process in MB; 0 where it cannot be known."""
    return memory("VmRSS", pid) * 1.024 * 1.024


async def stream(
    client: httpx.AsyncClient, rng: random.Random, until: float, done: Counter[str]
) -> None:
    """Asks for answers one after another; leaves half of them after some tokens."""
    while time.monotonic() < until:
        keep = rng.random() < 0.5
        left = rng.randint(1, 40)
        words = " ".join(rng.choice(TOPICS) for _ in range(rng.randint(0, 60)))
        body = {
            "messages": [
                {
                    "role": "user",
                    "content": f"{words} Tell me a story about a {rng.choice(TOPICS)}.",
                }
            ],
            "max_tokens": 96,
            "stream": True,
            "seed": rng.randrange(1 << 30),
        }
        try:
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code == 503:
                    done["told to come back"] += 1
                    await asyncio.sleep(float(response.headers.get("retry-after", 1)))
                    continue
                response.raise_for_status()
                reason = None
                async for line in response.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise RuntimeError(event["error"])
                    for choice in event["choices"]:
                        done["pieces"] += bool(choice["delta"].get("content"))
                        reason = choice["finish_reason"] or reason
                        left -= 1
                    if left < 0 and not keep:
                        break
                done["whole" if reason else "cut"] += 1
        except Exception as error:
            done["failed"] += 1
            print(f"failed: {type(error).__name__}: {error}", file=sys.stderr)


@dataclass
class Begun:
    """An answer to one of several requests that came at once."""

    prompt: int  # tokens
    read: int  # of these, not known already
    first: float  # seconds to the first piece
    whole: float  # to the last one


async def ask(client: httpx.AsyncClient, system: str, question: str) -> Begun:
    """A short answer, with the server's figures: those of llama.cpp, which ours gives too."""
    body = {
        "messages": [
            {"role": "system", "content": system},
            {"role": "user", "content": question},
        ],
        "max_tokens": 16,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    since, first = time.monotonic(), 0.0
    usage: dict[str, Any] = {}
    timings: dict[str, Any] = {}
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"])
            usage, timings = event.get("usage") or usage, event.get("timings") or timings
            deltas = (choice["delta"] for choice in event["choices"])
            said = any(delta.get("content") or delta.get("reasoning_content") for delta in deltas)
            if said and not first:
                first = time.monotonic() - since
    whole = time.monotonic() - since
    return Begun(usage["prompt_tokens"], timings["prompt_n"], first or whole, whole)


async def waves(url: str, args: argparse.Namespace) -> bool:
    """Rounds of requests that come at once and share their system prompt; False: some failed."""
    rng = random.Random(args.seed)
    limits = httpx.Limits(max_connections=args.streams + 4)
    good = True
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        for number in range(args.rounds):
            system = " ".join(rng.choices(TOPICS, k=args.shared))  # about a token each
            questions = [
                f"{i}. Tell me a story about a {rng.choice(TOPICS)}." for i in range(args.streams)
            ]
            asked = (ask(client, system, question) for question in questions)
            answers = await asyncio.gather(*asked, return_exceptions=True)
            for answer in answers:
                if isinstance(answer, BaseException):
                    good = False
                    print(f"failed: {type(answer).__name__}: {answer}", file=sys.stderr)
            begun = [answer for answer in answers if isinstance(answer, Begun)]
            if begun:
                prompt, read = sum(b.prompt for b in begun), sum(b.read for b in begun)
                first = sorted(b.first for b in begun)
                print(
                    f"round {number + 1}: {len(begun)} prompts of {prompt / len(begun):.0f} "
                    f"tokens, {read} read; first piece: median "
                    f"{statistics.median(first):.2f} s, worst {first[-1]:.2f} s; "
                    f"all answers {max(b.whole for b in begun):.2f} s"
                )
    return good


async def probe(client: httpx.AsyncClient, until: float, seconds: list[float]) -> None:
    """Asks /health ten times a second."""
    while time.monotonic() < until:
        since = time.monotonic()
        (await client.get("/health")).raise_for_status()
        seconds.append(time.monotonic() - since)
        await asyncio.sleep(0.1)


async def load(url: str, args: argparse.Namespace) -> tuple[Counter[str], list[float]]:
    """The whole load."""
    done: Counter[str] = Counter()
    health: list[float] = []
    until = time.monotonic() + args.seconds
    limits = httpx.Limits(max_connections=args.streams + 4)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        streams = [
            stream(client, random.Random(f"{args.seed} {i}"), until, done)
            for i in range(args.streams)
        ]
        await asyncio.gather(probe(client, until, health), *streams)
    return done, health


def slots(url: str) -> tuple[int, int] | None:
    """Requests at work and waiting, once they had time to end; None: the server does not say."""
    for _ in range(50):
        health: dict[str, Any] = httpx.get(f"{url}/health", timeout=10).json()
        if "running" not in health:
            return None
        if not health["running"] and not health["waiting"]:
            break
        time.sleep(0.1)
    return health["running"], health["waiting"]


@contextlib.contextmanager
def serving(args: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Our server on the model: its address and process number."""
    command = [sys.executable, "-m", "qwen35cpp", "serve", args.model, "--port", "0", "--quiet"]
    command += ["--parallel", str(args.parallel), "--ctx", str(CONTEXT)]
    command += ["--cache-mb", str(args.cache_mb)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip(), server.pid
        server.terminate()
        print(f"the server ended with {server.wait(30)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--peer", action="store_true", help="llama.cpp's server on the model")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--cache-mb", type=int, default=64)
    parser.add_argument("--shared", type=int, metavar="WORDS", help="of a common system prompt")
    parser.add_argument("--rounds", type=int, default=3, help="of --shared")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if args.url:
            url, pid = args.url, 0
        elif args.peer:
            options = ("--parallel", str(args.parallel), "--ctx", str(CONTEXT * args.parallel))
            url, pid = stack.enter_context(peer_server.serving(args.model, *options))
        else:
            url, pid = stack.enter_context(serving(args))
        if args.shared:
            good = asyncio.run(waves(url, args))
            left = slots(url)
            print(f"afterwards at work and waiting: {left}")
            return int(not good or bool(left and any(left)))
        before = resident(pid)
        done, health = asyncio.run(load(url, args))
        left = slots(url)
        after = resident(pid)
    health.sort()
    name = f"{args.model} in {'llama.cpp' if args.peer else 'qwen35cpp'}" if pid else url
    print(f"{args.streams} streams, {args.seconds:.0f} s, {name}")
    print(f"answers: {done['whole']} whole, {done['cut']} cut, {done['failed']} failed, "
          f"{done['told to come back']} told to come back")  # fmt: skip
    print(f"text pieces per second, all streams: {done['pieces'] / args.seconds:.1f}")
    print(f"/health: median {1e3 * statistics.median(health):.1f} ms, "
          f"99 % {1e3 * health[int(0.99 * (len(health) - 1))]:.1f} ms, "
          f"worst {1e3 * health[-1]:.1f} ms of {len(health)}")  # fmt: skip
    print(f"afterwards at work and waiting: {left}; memory {before:.0f} -> {after:.0f} MB")
    return int(bool(done["failed"] or (left and any(left))))


if __name__ == "__main__":
    sys.exit(main())
