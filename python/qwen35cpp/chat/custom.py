"""A chat template of the user's own instead of render.py: opt-in, for models with another format.

MiniJinja runs it in a process apart, see template_process.py. Control tokens come from the text of
the template alone, whatever it does with what people, tools and files say: in the template, each
"<|im_end|>" and the like is replaced by a noncharacter of its own before it is compiled, what comes
out is split at these, and contents cannot hold them. So a token must stand as a whole in the
template: one that is put together ('<|' ~ kind ~ '_pad|>') stays text.

The template sees messages as render.py does, checked and in one shape: roles are system, user,
assistant and tool, contents are trimmed, `content` is a text or, where there are pictures, a list
of parts {"type": "text", "text": ...}, {"type": "image", "image": ""} and {"type": "video", ...},
a thought is in `reasoning_content`, calls are in `tool_calls`. Beside `messages` it has `tools`
(none: undefined), `add_generation_prompt`, `add_vision_id`, `enable_thinking` where the caller said
so, `bos_token` (empty), `eos_token` and `raise_exception`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileError, InvalidArgument, MissingExtra, TemplateInvalid
from .messages import Medium, Turn
from .pieces import Expand, Mark, Piece
from .vocabulary import (
    IM_END,
    IMAGE_PAD,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    Vocabulary,
    well_formed,
)

if TYPE_CHECKING:
    from .._engine import Engine

_MOST_SOURCE = 256 << 10  # characters of a template
_DEADLINE = 30.0  # seconds for one rendering, and for the start of the process
_TOKENS = re.compile(r"<\|\w+\|>|</?(?:think|tool_call|tool_response)>")
_FIRST, _LAST = 0xFDD0, 0xFDEF  # Unicode's noncharacters: "not for interchange"
_STAND_INS = re.compile(f"([{chr(_FIRST)}-{chr(_LAST)}])")
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def template_text(given: str | os.PathLike[str], engine: Engine) -> str:
    """The text of a template given as such, as a path, or as "file": the one in the model's file.

    Raises:
        FileError: the path cannot be read.
        TemplateInvalid: there is no template in the file.
    """
    if given == "file":
        text = engine.metadata("tokenizer.chat_template")
        if not text:
            raise TemplateInvalid("the model's file has no chat template")
        return text
    if isinstance(given, str) and re.search(r"\{[{%#]", given):
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read the chat template {os.fspath(given)!r}: {error}") from error


class ChatTemplate:
    """A compiled template. May be used by any thread.

    Raises:
        TemplateInvalid: it is too long, or no template; the text names the line.
        MissingExtra: MiniJinja is not installed.
    """

    def __init__(self, source: str, vocabulary: Vocabulary) -> None:
        if importlib.util.find_spec("minijinja") is None:
            raise MissingExtra(
                "a custom chat template needs the package minijinja",
                hint='pip install "qwen35cpp[template]"',
            )
        self.source = source
        length, most = len(source), _MOST_SOURCE
        if length > most:
            raise TemplateInvalid(f"the chat template has {length:,} characters, at most {most:,}")
        names = {IM_END, *(name for name in _TOKENS.findall(source) if vocabulary.knows(name))}
        if len(names) > _LAST - _FIRST + 1:
            raise TemplateInvalid(f"the chat template names {len(names)} control tokens")
        stand_ins = {name: chr(_FIRST + i) for i, name in enumerate(sorted(names))}
        self._names = {stand_in: name for name, stand_in in stand_ins.items()}
        compiled = _TOKENS.sub(lambda found: stand_ins.get(found[0], found[0]), _harmless(source))
        constants = {"bos_token": "", "eos_token": stand_ins[IM_END]}
        self._renderer = _Renderer(json.dumps({"source": compiled, "names": constants}))

    def pieces(
        self,
        turns: Sequence[Turn],
        expand: Expand,
        *,
        tools: Sequence[Mapping[str, Any]],
        **variables: bool,
    ) -> list[Piece]:
        """A conversation as text and control tokens.

        Raises:
            TemplateInvalid: the template fails, or shows other pictures than the messages have.
            InvalidArgument: the template refuses the messages.
        """
        values: dict[str, Any] = {"messages": [_message(turn) for turn in turns], **variables}
        if tools:
            values["tools"] = tools
        try:
            line = json.dumps(_harmless(values))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidArgument(f"tools and calls must be JSON: {error}") from error
        parts = _STAND_INS.split(self._renderer.render(line))
        pieces = [self._token(part) if i % 2 else part for i, part in enumerate(parts) if part]
        media = [part for turn in turns for part in turn.content if isinstance(part, Medium)]
        return _with_media(pieces, media, expand)

    def _token(self, stand_in: str) -> Piece:
        """The token that a noncharacter stands for; one that the template made up is no token."""
        name = self._names.get(stand_in)
        return _UNKNOWN if name is None else Mark(name)


def _harmless(value: Any) -> Any:
    """A copy of plain data in which no text holds a noncharacter or half a character."""
    if isinstance(value, str):
        return _STAND_INS.sub(_UNKNOWN, well_formed(value))
    if isinstance(value, Mapping):
        return {_harmless(key): _harmless(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_harmless(each) for each in value]
    return value


def _message(turn: Turn) -> dict[str, Any]:
    content: Any = "".join(part for part in turn.content if isinstance(part, str)).strip()
    if any(isinstance(part, Medium) for part in turn.content):
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": part.kind, part.kind: ""}
            for part in turn.content
        ]
    message: dict[str, Any] = {"role": turn.role, "content": content}
    if turn.role == "assistant":
        message["reasoning_content"] = turn.reasoning
        functions = [{"name": call.name, "arguments": call.arguments} for call in turn.calls]
        if functions:
            message["tool_calls"] = [{"type": "function", "function": f} for f in functions]
    return message


def _with_media(pieces: Sequence[Piece], media: Sequence[Medium], expand: Expand) -> list[Piece]:
    """The pieces with every placeholder as `expand` wants its picture shown."""
    found: list[Piece] = []
    left = list(media)
    for i, piece in enumerate(pieces):
        if not (isinstance(piece, Mark) and piece.name in (IMAGE_PAD, VIDEO_PAD)):
            found.append(piece)
            continue
        if not left or piece.name != (IMAGE_PAD if left[0].kind == "image" else VIDEO_PAD):
            raise TemplateInvalid("the chat template shows other pictures than the messages have")
        if i == 0 or pieces[i - 1 : i + 2 : 2] != [Mark(VISION_START), Mark(VISION_END)]:
            raise TemplateInvalid(
                f"the chat template shows a picture outside of {VISION_START} and {VISION_END}"
            )
        medium = left.pop(0)
        found.pop()
        for n, (text, source) in enumerate(expand(medium)):
            pad = Mark(piece.name, Medium(medium.kind, source))
            found += [*([Mark(VISION_END)] if n else []), text, Mark(VISION_START), pad]
    if left:
        raise TemplateInvalid(f"the chat template leaves {len(left)} pictures out")
    return found


class _Renderer:
    """The process that renders; started when it is needed, and again when it has ended."""

    def __init__(self, start: str) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._pid = 0
        with self._lock:
            self._ask(None)

    def render(self, line: str) -> str:
        """The text for a line of JSON with the variables."""
        with self._lock:
            return self._ask(line)

    def _ask(self, line: str | None) -> str:
        child = self._child
        if child is None or self._pid != os.getpid() or child.poll() is not None:
            child = self._child = _start()
            self._pid = os.getpid()
            weakref.finalize(self, _end, child, self._pid)
            self._said(child, self._start)
        return "" if line is None else self._said(child, line)

    def _said(self, child: subprocess.Popen[bytes], line: str) -> str:
        clock = threading.Timer(_DEADLINE, child.kill)
        clock.daemon = True
        clock.start()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(line.encode() + b"\n")
            child.stdin.flush()
            answer = child.stdout.readline()
        except BrokenPipeError:
            answer = b""
        except BaseException:
            _end(child, self._pid)  # its answer would be taken for that to the next line
            raise
        finally:
            clock.cancel()
        if not answer.endswith(b"\n"):
            _end(child, self._pid)
            raise TemplateInvalid("the chat template takes too much memory or time")
        said = json.loads(answer)
        if "refused" in said:
            raise InvalidArgument(f"the chat template refuses the messages: {said['refused']}")
        if "error" in said:
            where = f", line {said['line']}" if said["line"] else ""
            raise TemplateInvalid(f"chat template{where}: {said['error']}")
        text: str = said["text"]
        return text


def _start() -> subprocess.Popen[bytes]:
    package = str(Path(__file__).resolve().parents[2])
    paths = filter(None, [os.environ.get("PYTHONPATH"), package])
    return subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.template_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Nothing is imported from the current folder, which may hold anybody's files.
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"},
        start_new_session=True,  # Ctrl-C is for the answer alone
    )


def _end(child: subprocess.Popen[bytes], owner: int) -> None:
    """Ends the process, which a forked child leaves to its parent."""
    if os.getpid() != owner:
        return
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                continue
