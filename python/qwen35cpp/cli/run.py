"""`qwen35cpp run MODEL [PROMPT]`: answers a prompt, or with --raw continues it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument
from ..types import Text
from ._common import (
    Commands,
    Progress,
    add_chat,
    add_generation,
    add_model,
    add_pictures,
    figures,
    generation_options,
    open_llama,
    picture_parts,
    print_json,
    show_chat,
)

if TYPE_CHECKING:
    from ..llama import Llama


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    parser = commands.add_parser("run", parents=[common], help="answer a prompt, or continue it")
    add_model(parser)
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="the text; - or nothing reads standard input"
    )
    add_chat(parser)
    add_pictures(parser)
    parser.add_argument(
        "--raw", action="store_true", help="continue the text as it stands, without a chat format"
    )
    add_generation(parser)
    parser.add_argument(
        "--schema", metavar="JSON", help="answer with JSON of this schema, or of the one in a file"
    )
    parser.add_argument("--logprobs", type=int, metavar="N", help="with --json: N alternatives")
    parser.add_argument(
        "--special", action="store_true", help="with --raw: recognise control tokens in the prompt"
    )
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Does the work."""
    if args.special and not args.raw:
        args.usage_error("--special needs --raw")
    if args.raw and (args.system, args.think, args.thinking_budget) != (None, None, None):
        args.usage_error("--raw has no --system, --think or --thinking-budget")
    if args.raw and (args.image or args.video):
        args.usage_error("--raw takes no pictures")
    if args.raw and args.chat_template is not None:
        args.usage_error("--raw has no --chat-template")
    prompt = _read_prompt(args.prompt)
    with open_llama(args) as llama:
        progress = Progress("reading the prompt", quiet=args.quiet)
        answer = _continue if args.raw else _answer
        text = answer(llama, prompt, args, progress)
    if args.json:
        print_json(_as_json(text))
    if args.stats:
        print(figures(text), file=sys.stderr)
    return 0


def _read_prompt(given: str | None) -> bytes:
    if given is not None and given != "-":
        return os.fsencode(given)  # the bytes as typed, whatever the locale made of them
    if given is None and sys.stdin.isatty():
        raise InvalidArgument("there is no prompt", hint="give it as an argument or in a pipe")
    return sys.stdin.buffer.read()


def _schema(given: str | None) -> Any:
    """The schema that --schema names or holds."""
    if given is None:
        return None
    try:
        text = given if given.lstrip().startswith("{") else Path(given).read_text("utf-8")
        return json.loads(text)
    except OSError as error:
        raise InvalidArgument(
            f"--schema: no JSON and no file that can be read: {error.strerror}"
        ) from None
    except ValueError as error:
        raise InvalidArgument(f"--schema is not JSON: {error}") from None


def _answer(llama: Llama, prompt: bytes, args: argparse.Namespace, progress: Progress) -> Text:
    text = prompt.decode("utf-8", "replace")
    if not text.strip():
        raise InvalidArgument("the prompt is empty")
    options: dict[str, Any] = {
        "system": args.system,
        "think": args.think,
        "thinking_budget": args.thinking_budget,
        "budget": args.budget,
        "progress": progress,
        "schema": _schema(args.schema),
        **generation_options(args),
    }
    content = [*picture_parts(args), {"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    if args.json:
        answer: Text = llama.chat(messages, logprobs=args.logprobs, **options)
        progress.clear()
        return answer
    with llama.chat(messages, stream=True, **options) as stream:
        show_chat(stream, progress, quiet=args.quiet)
    whole: Text = stream.drain()
    return whole


def _continue(llama: Llama, prompt: bytes, args: argparse.Namespace, progress: Progress) -> Text:
    options: dict[str, Any] = {
        "special": args.special,
        "progress": progress,
        "schema": _schema(args.schema),
        **generation_options(args),
    }
    if args.json:
        text: Text = llama.generate(prompt, logprobs=args.logprobs, **options)
        progress.clear()
        return text
    last = ""
    with llama.generate(prompt, stream=True, **options) as stream:
        try:
            for piece in stream:
                progress.clear()
                sys.stdout.write(piece)
                sys.stdout.flush()
                last = piece or last
        finally:
            progress.clear()
            if not last.endswith("\n"):
                sys.stdout.write("\n")
                sys.stdout.flush()
    whole: Text = stream.drain()
    return whole


def _as_json(text: Text) -> dict[str, Any]:
    return {
        "text": str(text),
        "reasoning": getattr(text, "reasoning", None),
        "tokens": text.tokens,
        "finish_reason": text.finish_reason,
        "stop_reason": text.stop_reason,
        "seed": text.seed,
        "usage": dataclasses.asdict(text.usage),
        "timings": dataclasses.asdict(text.timings),
        "logprobs": None
        if text.logprobs is None
        else [
            {
                "token": entry.token,
                "text": entry.piece.decode("utf-8", "replace"),
                "logprob": entry.logprob,
                "top": [{"token": t.token, "logprob": t.logprob} for t in entry.top],
            }
            for entry in text.logprobs
        ],
    }
