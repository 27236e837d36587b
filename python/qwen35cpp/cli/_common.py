"""What the commands share: arguments, progress and thoughts on a terminal, numbers for people."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument

if TYPE_CHECKING:
    from ..chat.conversation import ChatStream
    from ..llama import Llama
    from ..types import Text

Commands = Any  # argparse keeps the type of add_subparsers() private


def positive(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def add_model_file(parser: argparse.ArgumentParser) -> None:
    """The argument of every command that reads a model's file; _names.py finds it."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a GGUF file, a name such as 2b or 2b-q8_0 (see get), or tiny: the bundled model",
    )
    parser.set_defaults(find_model=True)


def add_model(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that opens a model."""
    add_model_file(parser)
    parser.add_argument("-t", "--threads", type=positive, metavar="N", help="threads to use")


def add_kv(parser: argparse.ArgumentParser) -> None:
    """The type of the attention cache, for commands that evaluate."""
    parser.add_argument(
        "--kv",
        choices=("auto", "f16", "f32", "q8_0", "iq4_nl"),
        default="auto",
        help="how attention keys and values are stored: q8_0 takes half the memory of f16, "
        "iq4_nl a quarter",
    )


def add_rope(parser: argparse.ArgumentParser) -> None:
    """Stretching of the context, for commands that look at or use one; see rope_scaling."""
    parser.add_argument(
        "--rope-scaling",
        choices=("yarn",),
        help="stretch the context beyond what the model was trained for, for a little precision",
    )
    parser.add_argument(
        "--rope-factor", type=float, metavar="X", help="how far --rope-scaling stretches (4)"
    )


def rope_scaling(args: argparse.Namespace) -> dict[str, Any] | None:
    """The argument of Llama that add_rope asked for."""
    if args.rope_scaling is None:
        if args.rope_factor is not None:
            raise InvalidArgument("--rope-factor needs --rope-scaling yarn")
        return None
    factor = 4.0 if args.rope_factor is None else args.rope_factor
    return {"rope_type": args.rope_scaling, "factor": factor}


def size(text: str) -> int:
    """An argparse type: bytes such as "6GB", "1.5g" or "800MB", powers of 1,000."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)b?", text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a size such as 6GB or 800MB, not {text!r}")
    value = round(float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[match[2]])
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1 byte")
    return value


def add_limit(parser: argparse.ArgumentParser) -> None:
    """What bounds the memory of a model, and stretches its context."""
    parser.add_argument(
        "--memory-limit",
        type=size,
        metavar="SIZE",
        help="what the process may take, e.g. 6GB: context and --kv auto are chosen to fit",
    )
    add_rope(parser)


def add_cache_dir(parser: argparse.ArgumentParser) -> None:
    """Where states outlive a command that generates."""
    parser.add_argument(
        "--cache-dir", metavar="DIR", help="keep what took long to read here, for the next start"
    )


def add_overflow(parser: argparse.ArgumentParser) -> None:
    """What happens to conversations that are too long."""
    parser.add_argument(
        "--overflow",
        choices=("error", "drop"),
        default="error",
        help="a conversation too long for the context is refused, or loses its oldest turns; its "
        "system prompt stays (default: error)",
    )


def add_generation(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that generates text; see generation_options."""
    parser.add_argument("-n", "--max-tokens", type=positive, metavar="N", help="tokens at most")
    parser.add_argument("--temp", type=float, metavar="T", help="temperature; 0 is greedy")
    parser.add_argument("--top-k", type=int, metavar="K", help="0 is off")
    parser.add_argument("--top-p", type=float, metavar="P", help="1 is off")
    parser.add_argument("--min-p", type=float, metavar="P", help="0 is off")
    parser.add_argument("--presence-penalty", type=float, metavar="X")
    parser.add_argument("--frequency-penalty", type=float, metavar="X")
    parser.add_argument("--repetition-penalty", type=float, metavar="X", help="1 is off")
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed, the same text")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end the text here")
    parser.add_argument("-c", "--ctx", type=positive, metavar="N", help="tokens of context")
    parser.add_argument("--stats", action="store_true", help="figures on standard error")
    add_kv(parser)
    add_limit(parser)
    add_cache_dir(parser)
    add_draft(parser, "auto")


def add_draft(parser: argparse.ArgumentParser, default: str) -> None:
    """Where drafts come from."""
    parser.add_argument(
        "--draft",
        choices=("auto", "off", "mtp", "lookup", "both"),
        default=default,
        help=f"where drafted tokens come from (default: {default})",
    )


def generation_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of Llama.generate and Llama.chat that add_generation asked for."""
    names = (
        "max_tokens", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty",
        "repetition_penalty", "seed", "stop",
    )  # fmt: skip
    return {"temperature": args.temp, **{name: getattr(args, name) for name in names}}


def add_chat(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that chats."""
    parser.add_argument("--system", metavar="TEXT", help="instructions for the model")
    parser.add_argument(
        "--think",
        action=argparse.BooleanOptionalAction,
        help="think before answering, or not (default: as the model does)",
    )
    parser.add_argument(
        "--thinking-budget", type=int, metavar="N", help="tokens of thought at most"
    )
    add_template(parser)


def add_template(parser: argparse.ArgumentParser) -> None:
    """The argument of every command that renders conversations."""
    parser.add_argument(
        "--chat-template",
        metavar="FILE",
        help="a Jinja template to render conversations with; 'file' is the one in the model's file "
        "(default: none is run, the format is built in)",
    )


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that shows pictures to a model."""
    parser.add_argument(
        "-i", "--image", action="append", metavar="FILE", help="a picture; may be given again"
    )
    parser.add_argument(
        "-v", "--video", action="append", metavar="FILE", help="a video; may be given again"
    )
    parser.add_argument(
        "--budget",
        choices=("fast", "default", "grounding"),
        default="default",
        help="size of pictures: fast costs at most 256 tokens, and 1,024 for a video; grounding at "
        "least 1,024",
    )
    parser.add_argument("--mmproj", metavar="FILE", help="the vision tower (default: looked for)")


def picture_parts(args: argparse.Namespace) -> list[dict[str, str]]:
    """The pictures and videos of add_pictures as parts of a message."""
    parts = [{"type": "image", "image": path} for path in args.image or ()]
    return parts + [{"type": "video", "video": path} for path in args.video or ()]


def open_llama(args: argparse.Namespace, **more: Any) -> Llama:
    """The model that add_model, add_generation and add_pictures describe."""
    from ..llama import Llama

    return Llama(
        args.model,
        n_ctx=args.ctx,
        n_threads=args.threads,
        kv_type=args.kv,
        draft=args.draft,
        mmproj=args.mmproj,
        chat_template=getattr(args, "chat_template", None),
        memory_limit=args.memory_limit,
        cache_dir=args.cache_dir,
        rope_scaling=rope_scaling(args),
        **more,
    )


def figures(text: Text) -> str:
    """What --stats prints."""
    timings = text.timings
    drafts = (
        f"{timings.accepted_tokens} of {timings.drafted_tokens} drafts right, "
        if timings.drafted_tokens
        else ""
    )
    return (
        f"prompt {timings.prefill_tokens} tokens at {timings.prefill_per_second:.1f}/s, "
        f"answer {timings.decode_tokens} tokens at {timings.decode_per_second:.1f}/s, "
        f"{drafts}seed {text.seed}"
    )


def show_chat(
    stream: ChatStream, progress: Progress, *, quiet: bool, said: list[str] | None = None
) -> None:
    """Prints the text of an answer as it comes, and on a terminal its thought, dimmed.

    `said` collects what was printed, for a reader who may interrupt.
    """
    dim = not quiet and sys.stderr.isatty()
    thinking, last = False, ""
    try:
        for chunk in stream:
            progress.clear()
            if chunk.kind == "reasoning" and dim:
                thinking = True
                print(f"\x1b[2m{chunk.reasoning}\x1b[0m", end="", file=sys.stderr, flush=True)
            if chunk and thinking:
                thinking = False
                print("\n", file=sys.stderr, flush=True)
            if chunk:
                sys.stdout.write(chunk)
                sys.stdout.flush()
                last = chunk
                if said is not None:
                    said.append(chunk)
    finally:
        progress.clear()
        if not last.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()


def report(error: Exception) -> None:
    """Prints an error and what to do about it."""
    print(f"error: {str(error) or type(error).__name__}", file=sys.stderr)
    hint = getattr(error, "hint", "")
    if hint:
        print(f"hint: {hint}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Prints one JSON document."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def human_bytes(count: float) -> str:
    """A size such as "1.41 GB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"


class Progress:
    """A line on standard error that is rewritten in place; silent in a pipe or with --quiet."""

    def __init__(self, what: str, *, quiet: bool) -> None:
        self._what = what
        self._shown = False
        self._active = not quiet and sys.stderr.isatty()
        self._next = time.monotonic() + 0.5  # short work shows nothing

    def __call__(self, done: int, total: int, name: str = "") -> None:
        """Shows `done` of `total` and the part at work, at most ten times a second."""
        now = time.monotonic()
        if self._active and now >= self._next:
            self._next = now + 0.1
            self._shown = True
            share = 100 * done // max(total, 1)
            line = f"\r\x1b[K{self._what} {share} % {name}"
            print(line.rstrip(), end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Removes the line."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False
