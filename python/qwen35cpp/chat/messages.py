"""Messages as people and clients write them -> turns ready to be rendered.

Accepts OpenAI's chat messages and Qwen's own form of image and video parts; whatever cannot be
rendered is an InvalidArgument that names the message. Next: render.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import InvalidArgument
from .vocabulary import END_THINK, END_TOOL_RESPONSE, THINK, TOOL_RESPONSE

Message = Mapping[str, Any]
Role = Literal["system", "user", "assistant", "tool"]

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",  # OpenAI's newer name
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
# Keys of a part that hold a picture, in the order in which they are looked for.
_IMAGE_KEYS, _VIDEO_KEYS = ("image", "image_url"), ("video", "video_url")
_IMAGE_TYPES = frozenset({"image", "image_url", "input_image"})
_VIDEO_TYPES = frozenset({"video", "video_url", "input_video"})
# Keys that say how to look at a picture or video: Qwen's, and OpenAI's `detail`.
_KNOWN: dict[str, tuple[str, ...]] = {
    "image": ("min_pixels", "max_pixels", "detail"),
    "video": ("min_pixels", "max_pixels", "total_pixels", "fps"),
}
_REFUSED = (
    "resized_height", "resized_width", "nframes", "min_frames", "max_frames", "video_start",
    "video_end", "raw_fps", "sample_fps",
)  # fmt: skip
_DETAILS = ("auto", "low", "high", "original")


@dataclass(frozen=True)
class Medium:
    """An image or a video within a message."""

    kind: Literal["image", "video"]
    source: Any  # as given: a path, URL, bytes, array or picture object
    options: tuple[tuple[str, Any], ...] = ()  # how to look at it, see _KNOWN


@dataclass(frozen=True)
class Call:
    """A tool call of an earlier answer."""

    name: str
    arguments: Mapping[str, Any]


Content = tuple["str | Medium", ...]  # no two strings side by side, no blank at either end


@dataclass(frozen=True)
class Turn:
    """One message, checked and in one shape."""

    role: Role
    content: Content
    reasoning: str = ""  # of the assistant, trimmed
    calls: tuple[Call, ...] = ()

    @property
    def is_query(self) -> bool:
        """Whether a person asks here; a user turn that is wholly a tool response does not count."""
        if self.role != "user":
            return False
        first, last = (self.content[0], self.content[-1]) if self.content else ("", "")
        return not (
            isinstance(first, str)
            and isinstance(last, str)
            and first.startswith(TOOL_RESPONSE)
            and last.endswith(END_TOOL_RESPONSE)
        )


def parse_messages(messages: Sequence[Message]) -> list[Turn]:
    """Checks a conversation.

    Raises:
        InvalidArgument: a message cannot be rendered; the text names its index.
    """
    turns = [_turn(index, message) for index, message in enumerate(checked_list(messages))]
    if not any(turn.is_query for turn in turns):
        raise InvalidArgument(
            "no user query was found in the messages",
            hint="a conversation needs a message of role 'user' that is not a tool response",
        )
    return turns


def checked_list(messages: Any) -> Sequence[Message]:
    """The messages, if they are a list of at least one dictionary."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        kind = type(messages).__name__
        raise InvalidArgument(f"messages must be a list of messages, not {kind}")
    if not messages:
        raise InvalidArgument("no messages were given")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            kind = type(message).__name__
            raise InvalidArgument(f"messages[{index}] must be a dictionary, not {kind}")
    return messages


def _turn(index: int, message: Message) -> Turn:
    where = f"messages[{index}]"
    name = message.get("role")
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise InvalidArgument(
            f"{where} has the unexpected role {name!r}", hint=f"roles are {', '.join(_ROLES)}"
        )
    content = _content(where, message.get("content"))
    if role == "system":
        if index:
            raise InvalidArgument(
                f"{where}: a system message must be at the beginning",
                hint="join system messages into the first one",
            )
        if any(isinstance(part, Medium) for part in content):
            raise InvalidArgument(f"{where}: a system message cannot contain images or videos")
    if role != "assistant":
        return Turn(role, content)
    content, reasoning = _reasoning(where, content, message.get("reasoning_content"))
    return Turn(role, content, reasoning, _calls(where, message.get("tool_calls")))


# ---- content ------------------------------------------------------------------------------------


def _content(where: str, content: Any) -> Content:
    if content is None:
        return ()
    if isinstance(content, str):
        return _trim([content])
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise InvalidArgument(
            f"{where}: content must be a string, a list of parts or None, "
            f"not {type(content).__name__}",
            hint="give the result of a tool as text, for example json.dumps(result)",
        )
    return _trim([_part(f"{where}: content[{i}]", part) for i, part in enumerate(content)])


def _part(where: str, part: Any) -> str | Medium:
    if not isinstance(part, Mapping):
        raise InvalidArgument(f"{where} must be a dictionary, not {type(part).__name__}")
    kind = part.get("type")
    known = kind if isinstance(kind, str) else ""
    if known in _IMAGE_TYPES or any(key in part for key in _IMAGE_KEYS):
        return _medium(where, part, "image", _IMAGE_KEYS)
    if known in _VIDEO_TYPES or any(key in part for key in _VIDEO_KEYS):
        return _medium(where, part, "video", _VIDEO_KEYS)
    text = part.get("text")
    if isinstance(text, str):
        return text
    raise InvalidArgument(
        f"{where}: unexpected type of part {kind!r}",
        hint="parts are text, image, image_url, input_image, input_text, video and video_url",
    )


def _medium(
    where: str, part: Mapping[str, Any], kind: Literal["image", "video"], keys: tuple[str, ...]
) -> Medium:
    given = {**part}
    for key in keys:  # OpenAI's {"url": ..., "detail": ...}
        if isinstance(part.get(key), Mapping):
            given = {**part[key], **given}
    options: list[tuple[str, Any]] = []
    for name in (*_KNOWN["image"], *_KNOWN["video"], *_REFUSED):
        if given.get(name) is None or name in dict(options):
            continue
        if name not in _KNOWN[kind]:
            raise InvalidArgument(
                f"{where}: {name} has no meaning for {kind}s here",
                hint=f"what can be given: {', '.join(_KNOWN[kind])}",
            )
        options.append((name, _option(where, name, given[name])))
    return Medium(kind, _source(where, part, keys), tuple(options))


def _option(where: str, name: str, value: Any) -> Any:
    if name == "detail":
        if value not in _DETAILS:
            raise InvalidArgument(f"{where}: detail must be one of {', '.join(_DETAILS)}")
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf or (name != "fps" and value != int(value)):
        kind = "number" if name == "fps" else "whole number"
        raise InvalidArgument(f"{where}: {name} must be a {kind} above 0, not {value!r}")
    return float(value) if name == "fps" else int(value)


def _source(where: str, part: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    for key in keys:
        source = part.get(key)
        if isinstance(source, Mapping):  # OpenAI's {"url": ...}
            source = source.get("url")
        if source is not None:
            return source
    raise InvalidArgument(f"{where} has no {' or '.join(keys)}")


def _trim(parts: Sequence[str | Medium]) -> Content:
    """Joins neighbouring texts and removes blanks at both ends of the whole."""
    joined: list[str | Medium] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, str) and isinstance(last, str):
            joined[-1] = last + part
        else:
            joined.append(part)
    if joined and isinstance(joined[0], str):
        joined[0] = joined[0].lstrip()
    if joined and isinstance(joined[-1], str):
        joined[-1] = joined[-1].rstrip()
    return tuple(part for part in joined if part != "")


# ---- what only an assistant says ----------------------------------------------------------------


def _reasoning(where: str, content: Content, given: Any) -> tuple[Content, str]:
    """The content and the thought, which clients send apart or at the head of the content."""
    if isinstance(given, str):
        return content, given.strip()
    if given is not None:
        raise InvalidArgument(f"{where}: reasoning_content must be a string or None")
    text = content[0] if len(content) == 1 else None
    if not isinstance(text, str) or END_THINK not in text:
        return content, ""
    thought = text.split(END_THINK)[0].split(THINK)[-1].strip()
    answer = text.split(END_THINK)[-1].lstrip("\n")
    return ((answer,) if answer else ()), thought


def _calls(where: str, calls: Any) -> tuple[Call, ...]:
    if calls is None:
        return ()
    if not isinstance(calls, Sequence) or isinstance(calls, (str, bytes)):
        raise InvalidArgument(f"{where}: tool_calls must be a list")
    return tuple(_call(f"{where}: tool_calls[{i}]", call) for i, call in enumerate(calls))


def _call(where: str, call: Any) -> Call:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidArgument(f"{where} needs a function with a name and arguments")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"{where}: arguments are not JSON: {error}") from error
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping) or not all(isinstance(key, str) for key in arguments):
        raise InvalidArgument(f"{where}: arguments must be an object")
    return Call(function["name"], arguments)
