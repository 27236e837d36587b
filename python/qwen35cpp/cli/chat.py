"""`qwen35cpp chat MODEL`: a conversation on the terminal, or one message per line from a pipe."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileError, InvalidArgument, Qwen35Error
from ._common import (
    Commands,
    Progress,
    add_chat,
    add_generation,
    add_model,
    add_overflow,
    add_pictures,
    figures,
    generation_options,
    open_llama,
    picture_parts,
    report,
    show_chat,
)
from ._editing import edit_lines
from ._files import replacing

if TYPE_CHECKING:
    from ..chat.answer import ChatText
    from ..llama import Llama

HELP = """\
/system TEXT   give instructions (without TEXT: show them)
/think on|off  think before answering, or not; auto: as the model does
/image FILE    show a picture with the next message; /video FILE likewise
/retry         answer the last message again
/undo          take back the last message and its answer
/clear         begin anew; the instructions stay
/save FILE     write the conversation as JSON
/load FILE     go on with a saved one
/help          this list
/exit          leave; so does the end of input
Ctrl-C stops an answer. A message that begins with / is written with two: //like this."""
_THINK = {"on": True, "off": False, "auto": None}


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    parser = commands.add_parser("chat", parents=[common], help="talk to a model")
    add_model(parser)
    add_chat(parser)
    add_pictures(parser)
    add_generation(parser)
    add_overflow(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Does the work; the exit code is 1 when a message from a pipe failed."""
    with open_llama(args) as llama:
        return _Chat(llama, args).loop()


class _Chat:
    """The conversation and the commands on it."""

    def __init__(self, llama: Llama, args: argparse.Namespace) -> None:
        self._llama, self._args = llama, args
        self._options = generation_options(args)
        self._think: bool | None = args.think
        self._messages: list[dict[str, Any]] = []
        self._shown = picture_parts(args)  # for the next message
        self._person = sys.stdin.isatty()
        if args.system is not None:
            self._system(args.system)

    def loop(self) -> int:
        """Reads lines until the end."""
        if self._person:
            edit_lines([f"/{name}" for name in (*_COMMANDS, "exit")])
            self._note("Type a message; /help lists the commands.")
        failed = False
        while True:
            try:
                line = self._read()
            except KeyboardInterrupt:
                if not self._person:
                    raise
                self._note("")
                continue
            if line is None or line.strip() in ("/exit", "/quit"):
                return int(failed and not self._person)
            try:
                self._handle(line.strip())
            except (Qwen35Error, OSError) as error:
                if isinstance(error, BrokenPipeError):
                    raise
                report(error)
                failed = True

    def _read(self) -> str | None:
        """A line, None at the end of input."""
        if not self._person:
            line = sys.stdin.buffer.readline()
            return line.decode("utf-8", "replace") if line else None
        try:
            return input("> " if sys.stdout.isatty() else "")
        except EOFError:
            self._note("")
            return None

    def _note(self, text: str) -> None:
        if not self._args.quiet:
            print(text, file=sys.stderr)

    def _handle(self, line: str) -> None:
        if line.startswith("/") and not line.startswith("//"):
            name, _, argument = line[1:].partition(" ")
            command = _COMMANDS.get(name)
            if command is None:
                raise InvalidArgument(f"there is no command /{name}", hint="/help lists them")
            command(self, argument.strip())
        elif line:
            text = line.removeprefix("/")
            content = [*self._shown, {"type": "text", "text": text}] if self._shown else text
            self._ask([*self._messages, {"role": "user", "content": content}])
            self._shown = []

    def _ask(self, messages: list[dict[str, Any]]) -> None:
        """Answers `messages`, which become the conversation when that worked."""
        progress = Progress("reading", quiet=self._args.quiet)
        options = {**self._options, "progress": progress, "think": self._think}
        options["budget"], options["overflow"] = self._args.budget, self._args.overflow
        options["thinking_budget"] = None if self._think is False else self._args.thinking_budget
        said: list[str] = []
        try:
            answer = self._show(messages, options, progress, said)
        except KeyboardInterrupt:
            self._note("[stopped]")
            if said:  # the conversation goes on from what was shown
                shown = {"role": "assistant", "content": "".join(said)}
                self._messages = [*messages, shown]
            return
        self._messages = answer.messages
        if self._args.stats:
            print(figures(answer), file=sys.stderr)

    def _show(
        self, messages: list[dict[str, Any]], options: Any, progress: Progress, said: list[str]
    ) -> ChatText:
        if self._args.json:
            answer: ChatText = self._llama.chat(messages, **options)
            progress.clear()
            print(json.dumps(answer.message, ensure_ascii=False), flush=True)
            return answer
        with self._llama.chat(messages, stream=True, **options) as stream:
            show_chat(stream, progress, quiet=self._args.quiet, said=said)
        whole: ChatText = stream.drain()
        return whole

    # ---- commands -------------------------------------------------------------------------------

    def _help(self, _: str) -> None:
        print(HELP, file=sys.stderr)

    def _system(self, text: str) -> None:
        head = self._messages[:1]
        known = head[0]["content"] if head and head[0]["role"] == "system" else None
        if text:
            rest = self._messages[known is not None :]
            self._messages = [{"role": "system", "content": text}, *rest]
        else:
            print(known or "there are no instructions", file=sys.stderr)

    def _set_think(self, word: str) -> None:
        if word not in _THINK:
            raise InvalidArgument(f"/think is on, off or auto, not {word!r}")
        self._think = _THINK[word]

    def _last_question(self) -> int:
        """Index of the user's last message."""
        roles = [message["role"] for message in self._messages]
        if "user" not in roles:
            raise InvalidArgument("nothing was asked yet")
        return len(roles) - 1 - roles[::-1].index("user")

    def _image(self, name: str) -> None:
        self._shown.append({"type": "image", "image": str(_readable(name))})

    def _video(self, name: str) -> None:
        self._shown.append({"type": "video", "video": str(_readable(name))})

    def _retry(self, _: str) -> None:
        question = self._last_question()
        seed = self._options["seed"]
        if seed is not None:  # another answer, and again a reproducible one
            self._options["seed"] = seed + 1
        self._ask(self._messages[: question + 1])

    def _undo(self, _: str) -> None:
        self._messages = self._messages[: self._last_question()]

    def _clear(self, _: str) -> None:
        self._messages = [m for m in self._messages[:1] if m["role"] == "system"]

    def _save(self, name: str) -> None:
        with replacing(_path(name)) as file:
            file.write(json.dumps(self._messages, ensure_ascii=False, indent=1) + "\n")

    def _load(self, name: str) -> None:
        try:
            messages = json.loads(_path(name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise InvalidArgument(f"{name} is no JSON file: {error}") from error
        if not isinstance(messages, list):
            raise InvalidArgument(f"{name} does not hold a list of messages")
        self._llama.render_chat([*messages, {"role": "user", "content": "a trial"}])
        self._messages = messages


_COMMANDS = {
    "help": _Chat._help,
    "system": _Chat._system,
    "think": _Chat._set_think,
    "image": _Chat._image,
    "video": _Chat._video,
    "retry": _Chat._retry,
    "undo": _Chat._undo,
    "clear": _Chat._clear,
    "save": _Chat._save,
    "load": _Chat._load,
}


def _path(name: str) -> Path:
    if not name:
        raise InvalidArgument("the name of a file is missing")
    return Path(name).expanduser()


def _readable(name: str) -> Path:
    path = _path(name)
    if not path.is_file():
        raise FileError(f"no file at {path}")
    return path
