"""Turns -> token ids: the Qwen 3.5 chat format, written out as code.

No template is executed unless the caller opts in (custom.py). Control tokens come only from here;
what people, tools and files say is encoded without them. Between two control tokens the
text is encoded as one run, as a tokenizer does that gets the whole prompt as one string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InvalidArgument
from .messages import Call, Medium, Message, Turn, parse_messages
from .pieces import Expand, Mark, Piece, as_given
from .vocabulary import (
    END_THINK,
    END_TOOL_CALL,
    END_TOOL_RESPONSE,
    IM_END,
    IM_START,
    IMAGE_PAD,
    THINK,
    TOOL_CALL,
    TOOL_RESPONSE,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    Vocabulary,
)

if TYPE_CHECKING:
    from .custom import ChatTemplate

# What the models were trained to read around the tool schemas, to the letter.
_TOOLS_HEAD = "# Tools\n\nYou have access to the following functions:\n\n<tools>"
_TOOLS_TAIL = """
</tools>

If you choose to call a function ONLY reply in the following format with NO suffix:

<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>
value_1
</parameter>
<parameter=example_parameter_2>
This is the value for the second parameter
that can span
multiple lines
</parameter>
</function>
</tool_call>

<IMPORTANT>
Reminder:
- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested within <tool_call></tool_call> XML tags
- Required parameters MUST be specified
- You may provide optional reasoning for your function call in natural language BEFORE the function call, but NOT after
- If there is no function call available, answer the question like normal with your current knowledge and do not tell the user about function calls
</IMPORTANT>"""  # noqa: E501


@dataclass(frozen=True)
class Media:
    """An image, or a part of a video, of a rendered conversation."""

    kind: Literal["image", "video"]
    source: Any  # as given in the message, or what `expand` made of it
    index: int  # of its one placeholder token in the ids


@dataclass(frozen=True)
class Rendered:
    """A conversation as token ids.

    `media` are in the order of their placeholders. Each placeholder is one <|image_pad|> or
    <|video_pad|> between vision markers; whoever adds vision replaces it by as many as the picture
    takes.
    """

    ids: list[int]
    media: tuple[Media, ...]
    thinking: bool  # the ids end within an opened thought
    # How many ids at the beginning stay as they are however the conversation goes on: those before
    # the first thought. A new question drops the thoughts rendered here, empty ones too. (Where
    # an assistant's content begins with blanks, they melt with the line break before.)
    stable: int


def render(
    messages: Sequence[Message],
    vocabulary: Vocabulary,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    thinking: bool | None = False,
    add_generation_prompt: bool = True,
    add_vision_id: bool = False,
    expand: Expand = as_given,
    template: ChatTemplate | None = None,
    check_count: Callable[[int], None] | None = None,
) -> Rendered:
    """Renders a conversation.

    Args:
        messages: OpenAI's chat messages, see parse_messages.
        vocabulary: of the model that will read the ids.
        tools: JSON schemas of tools, see tool_schemas.
        thinking: open a thought for the answer; otherwise an empty one is put there. None: as a
            template does by itself.
        add_generation_prompt: end with the head of the assistant's answer.
        add_vision_id: number the pictures ("Picture 1: ") over the conversation.
        expand: what each picture is shown as; videos are a time and a placeholder, again and again.
        template: renders instead of the code here.
        check_count: called with the number of pictures and videos, if any, before they are opened.

    Raises:
        InvalidArgument: a message cannot be rendered; the text names its index. Or a template does
            not think as it is told.
        TemplateInvalid: the template fails.
    """
    turns = parse_messages(messages)
    count = sum(isinstance(part, Medium) for turn in turns for part in turn.content)
    if count and check_count is not None:
        check_count(count)
    if template is None:
        frames = _Frames(add_vision_id, expand)
        pieces = frames.whole(turns, tools)
        if add_generation_prompt:
            pieces += _open("assistant")
            pieces += [Mark(THINK), "\n"] if thinking else _thought("")
    else:
        switches = {"add_generation_prompt": add_generation_prompt, "add_vision_id": add_vision_id}
        if thinking is not None:
            switches["enable_thinking"] = thinking
        pieces = template.pieces(turns, expand, tools=tools, **switches)
    opened = add_generation_prompt and _ends_in_thought(pieces)
    if add_generation_prompt and thinking is not None and opened != thinking:
        does, asked = ("a", "off") if opened else ("no", "on")
        raise InvalidArgument(f"the chat template opens {does} thought though thinking is {asked}")
    out = _Encoder(vocabulary)
    out.add(pieces)
    first_thought = vocabulary.id(THINK)  # nothing but the renderer makes such a token
    stable = out.ids.index(first_thought) if first_thought in out.ids else len(out.ids)
    return Rendered(out.ids, tuple(out.media), opened, stable)


def _ends_in_thought(pieces: Sequence[Piece]) -> bool:
    tags = [piece for piece in pieces if piece in (Mark(THINK), Mark(END_THINK))]
    return bool(tags) and tags[-1] == Mark(THINK)


class _Encoder:
    """Collects ids of pieces."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.ids: list[int] = []
        self.media: list[Media] = []

    def add(self, pieces: Sequence[Piece]) -> None:
        run: list[str] = []
        for piece in pieces:
            if isinstance(piece, str):
                run.append(piece)
                continue
            self._flush(run)
            if piece.medium is not None:
                medium = piece.medium
                self.media.append(Media(medium.kind, medium.source, len(self.ids)))
            self.ids.append(self._vocabulary.id(piece.name))
        self._flush(run)

    def _flush(self, run: list[str]) -> None:
        text = "".join(run)
        if text:
            self.ids += self._vocabulary.encode(text)
        run.clear()


class _Frames:
    """Turns to pieces; counts the pictures on the way."""

    def __init__(self, add_vision_id: bool, expand: Expand) -> None:
        self._add_vision_id, self._expand = add_vision_id, expand
        self._count = {"image": 0, "video": 0}

    def whole(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]]) -> list[Piece]:
        """The turns, with the tools before them."""
        if not tools:
            return self.conversation(turns)
        system = turns[0] if turns[0].role == "system" else None
        return self.tools(tools, system) + self.conversation(turns[1:] if system else turns)

    def conversation(self, turns: Sequence[Turn]) -> list[Piece]:
        last_query = max((i for i, turn in enumerate(turns) if turn.is_query), default=-1)
        pieces: list[Piece] = []
        for i, turn in enumerate(turns):
            if turn.role == "tool":
                first = i == 0 or turns[i - 1].role != "tool"
                last = i + 1 == len(turns) or turns[i + 1].role != "tool"
                pieces += self._result(turn, first, last)
            elif turn.role == "assistant":
                pieces += self._answer(turn, keep_thought=i > last_query)
            else:
                pieces += [*_open(turn.role), *self._content(turn), *_close()]
        return pieces

    def tools(self, tools: Sequence[Mapping[str, Any]], system: Turn | None) -> list[Piece]:
        """The system turn with the schemas, then the caller's own system text."""
        pieces: list[Piece] = [*_open("system"), _TOOLS_HEAD]
        pieces += ["\n" + _json(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
        pieces += _marked(_TOOLS_TAIL)
        if system and system.content:
            pieces += ["\n\n", *self._content(system)]
        return pieces + _close()

    def _result(self, turn: Turn, first: bool, last: bool) -> list[Piece]:
        """The result of a tool; neighbours share the frame of one user turn."""
        head: list[Piece] = [Mark(IM_START), "user"] if first else []
        content = self._content(turn)
        body = ["\n", Mark(TOOL_RESPONSE), "\n", *content, "\n", Mark(END_TOOL_RESPONSE)]
        return [*head, *body, *(_close() if last else [])]

    def _answer(self, turn: Turn, *, keep_thought: bool) -> list[Piece]:
        pieces = _open("assistant")
        if keep_thought:
            pieces += _thought(turn.reasoning)
        pieces += self._content(turn)
        said = any(isinstance(part, Medium) or part.strip() for part in turn.content)
        for n, call in enumerate(turn.calls):
            pieces.append("\n" if n else "\n\n" if said else "")
            pieces += _call(call)
        return pieces + _close()

    def _content(self, turn: Turn) -> list[Piece]:
        pieces: list[Piece] = []
        for part in turn.content:
            pieces += [part] if isinstance(part, str) else self._medium(part)
        return pieces

    def _medium(self, medium: Medium) -> list[Piece]:
        self._count[medium.kind] += 1
        image = medium.kind == "image"
        name = "Picture" if image else "Video"
        label = f"{name} {self._count[medium.kind]}: " if self._add_vision_id else ""
        pieces: list[Piece] = [label]
        for text, source in self._expand(medium):
            pad = Mark(IMAGE_PAD if image else VIDEO_PAD, Medium(medium.kind, source))
            pieces += [text, Mark(VISION_START), pad, Mark(VISION_END)]
        return pieces


def _open(role: str) -> list[Piece]:
    return [Mark(IM_START), f"{role}\n"]


def _close() -> list[Piece]:
    return [Mark(IM_END), "\n"]


def _thought(text: str) -> list[Piece]:
    return [Mark(THINK), f"\n{text}\n", Mark(END_THINK), "\n\n"]


def _marked(text: str) -> list[Piece]:
    """Our own text about tool calls: the tags that it names are control tokens there too."""
    found = re.split(f"({TOOL_CALL}|{END_TOOL_CALL})", text)
    return [Mark(part) if i % 2 else part for i, part in enumerate(found)]


def _call(call: Call) -> list[Piece]:
    lines = "".join(
        f"<parameter={key}>\n{_value(value, call.name)}\n</parameter>\n"
        for key, value in call.arguments.items()
    )
    text = f"\n<function={call.name}>\n{lines}</function>\n"
    return [Mark(TOOL_CALL), text, Mark(END_TOOL_CALL)]


def _value(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, bytes)):
        return _json(value, f"the arguments of {name}")
    return str(value)  # True and None in Python's spelling: so the models were trained


def _json(value: Any, what: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"{what}: not JSON: {error}") from error
