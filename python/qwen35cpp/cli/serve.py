"""`qwen35cpp serve MODEL`: serves OpenAI's and Anthropic's protocols and a chat page."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..errors import FileError
from ._common import (
    Commands,
    add_cache_dir,
    add_draft,
    add_kv,
    add_limit,
    add_model,
    add_overflow,
    add_template,
    open_llama,
    positive,
    print_json,
)

_KEY_VARIABLE = "QWEN35CPP_API_KEY"


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "serve", parents=[common], help="serve the model over HTTP, with a chat page"
    )
    add_model(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8035, help="0 takes a free one")
    parser.add_argument(
        "--api-key", action="append", metavar="KEY", default=[],
        help=f"what callers must know; better in {_KEY_VARIABLE} or a file",
    )  # fmt: skip
    parser.add_argument("--api-key-file", metavar="FILE", help="keys, one on each line")
    parser.add_argument(
        "--allow-host", action="append", metavar="NAME", default=[],
        help="another name of this server, in Host headers",
    )  # fmt: skip
    parser.add_argument(
        "--cors-origin", action="append", metavar="ORIGIN", default=[],
        help="pages of this origin may use the server, e.g. https://example.org",
    )  # fmt: skip
    parser.add_argument("--name", help="the model's name in answers (default: its file's)")
    parser.add_argument(
        "--parallel", type=positive, default=4, metavar="N", help="requests that run at once"
    )
    parser.add_argument("--queue", type=int, default=64, metavar="N", help="requests that wait")
    parser.add_argument(
        "--timeout", type=float, default=600, metavar="S", help="of a request; 0 is none"
    )
    parser.add_argument(
        "--cache-mb",
        type=positive,
        metavar="N",
        help="memory for conversations read before (default: by the memory there is)",
    )
    parser.add_argument("-c", "--ctx", type=positive, metavar="N", help="tokens of context")
    parser.add_argument("--mmproj", metavar="FILE", help="the vision tower (default: looked for)")
    add_template(parser)
    add_kv(parser)
    add_limit(parser)
    add_cache_dir(parser)
    add_overflow(parser)
    add_draft(parser, "auto")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Does the work."""
    from .. import server

    settings = server.Settings(
        host=args.host,
        port=args.port,
        api_keys=tuple(_keys(args)),
        allowed_hosts=tuple(args.allow_host),
        cors_origins=tuple(args.cors_origin),
        name=args.name,
        parallel=args.parallel,
        queue=args.queue,
        timeout=args.timeout,
        overflow=args.overflow,
    )
    serve = server.serve  # a missing package is said before the model is read
    cache = None if args.cache_mb is None else args.cache_mb << 20
    with open_llama(args, n_parallel=args.parallel, prefix_cache_bytes=cache) as llama:

        def ready(url: str) -> None:
            if args.json:
                print_json({"url": url, "api": f"{url}/v1", "pid": os.getpid()})
            elif args.quiet:
                print(url, flush=True)
            else:
                print(_welcome(url, bool(settings.api_keys)), flush=True)

        serve(llama, settings, ready)
    return 0


def _keys(args: argparse.Namespace) -> list[str]:
    keys = list(args.api_key)
    if os.environ.get(_KEY_VARIABLE):
        keys.append(os.environ[_KEY_VARIABLE])
    if args.api_key_file:
        try:
            lines = Path(args.api_key_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"cannot read the keys in {args.api_key_file}: {error}") from error
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise FileError(f"there is no key in {args.api_key_file}")
        keys += found
    return keys


def _welcome(url: str, with_key: bool) -> str:
    key = "YOUR_KEY" if with_key else "none"
    return f"""chat page   {url}
OpenAI      openai.OpenAI(base_url="{url}/v1", api_key="{key}")
Anthropic   anthropic.Anthropic(base_url="{url}", api_key="{key}")
Ctrl-C ends the server."""
