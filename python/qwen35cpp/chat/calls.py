"""Text of an answer -> tool calls, while it is being generated.

The form that the models were trained on:

    <tool_call>
    <function=NAME>
    <parameter=KEY>
    VALUE
    </parameter>
    </function>
    </tool_call>

VALUE is raw, so it may hold any of these tags. Three rules find its end:

1. </parameter> ends a value only when the call goes on as the form demands: with <parameter=...>,
   or with </function> and </tool_call>, one of which models forget now and then. If anything else
   stands behind it, it belongs to the value.
2. A <tool_call> inside a value opens a block that the value keeps up to the </tool_call> that
   closes it: a value may quote whole calls. When the answer ends with such a block open, the value
   is read again without this rule.
3. When the model ends its turn early, what is left of the value counts. When the answer is cut off
   by a limit, it does not: the call is marked as incomplete and must not be run.

Only a call that a value quotes without its <tool_call>, or without its end, can still be mistaken
for the end of the call around it.

Also read: <tool_call>{"name": ..., "arguments": {...}}</tool_call>, which models of other families
and hand-written prompts use, and a bare <function=NAME> at the start of a line for a known tool.
What turns out to be no call is handed back as text.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .values import Schema, convert, decode_json
from .vocabulary import END_TOOL_CALL, TOOL_CALL


@dataclass(frozen=True)
class CallDelta:
    """A piece of a tool call: the first has id and name, the `arguments` join to one JSON text."""

    index: int  # counts the calls of one answer
    id: str
    name: str
    arguments: str
    done: bool = False  # on the last piece of a call
    complete: bool = True  # on the last piece: False when the answer was cut off inside the call


Event = str | CallDelta  # text that is no call, or a piece of one

_FUNCTION = re.compile(r"\s*<function=([^>\n]*)>")
_END_FUNCTION = re.compile(r"\s*</function>")
_PARAMETER = re.compile(r"\s*<parameter=[^>\n]*>")
_END_CALL = re.compile(rf"\s*{END_TOOL_CALL}")
_NEXT_CALL = re.compile(rf"\s*{TOOL_CALL}")
# Between parameters, text that is no tag means nothing and is skipped.
_NEXT_TAG = re.compile(rf"<parameter=([^>\n]*)>|{END_TOOL_CALL}|</function>\s*(?={TOOL_CALL})")
_NEXT_TAG_BARE = re.compile(r"<parameter=([^>\n]*)>|</function>")
_VALUE_TAG = re.compile(rf"</parameter>|{TOOL_CALL}|{END_TOOL_CALL}")
_BARE = re.compile(r"(?:^|\n)[ \t]*(<function=([^>\n]*)>)")
_BARE_START = "<function="
_CALL_TAGS = (TOOL_CALL, END_TOOL_CALL)


class CallParser:
    """Reads the text of one answer piece by piece.

    Outside a call everything is text. `open()` begins a call, where the token <tool_call> came;
    inside a call that tag is part of the text to feed.
    """

    def __init__(self, parameters: Mapping[str, Schema]) -> None:
        """`parameters` has the JSON schema of each known tool's parameters."""
        self._parameters = parameters
        self._held = ""  # text not decided yet
        self._line_start = True  # where the text outside of calls stands
        self._call: _Call | None = None
        self._count = 0
        self._behind = False  # the text held was fed while a call was open: its tags are text

    @property
    def inside(self) -> bool:
        """Whether a call is open."""
        return self._call is not None

    def open(self) -> list[Event]:
        """Begins a call behind the tag <tool_call>."""
        events: list[Event] = [self._held] if self._held else []
        self._held = ""
        self._begin(bare=False)
        return events

    def feed(self, text: str) -> list[Event]:
        """The next piece of the answer."""
        self._held += text
        return self._read(final=False, cut=False)

    def finish(self, *, cut: bool) -> list[Event]:
        """The end of the answer; `cut`: by a limit and not by the model."""
        return self._read(final=True, cut=cut)

    def _begin(self, *, bare: bool) -> None:
        self._call = _Call(self._parameters, self._count, bare=bare)

    def _read(self, *, final: bool, cut: bool) -> list[Event]:
        events: list[Event] = []
        while True:
            if self._call is None:
                events += self._read_text(final)
                if self._call is None:
                    return events
            events += self._call.read(self._held, final=final, cut=cut)
            if self._call.rest is None:
                self._held = ""  # the call keeps what it needs
                return events
            self._count += self._call.started
            self._held, self._line_start = self._call.rest, self._call.started
            self._call, self._behind = None, True
            if not self._held:
                return events

    def _read_text(self, final: bool) -> list[Event]:
        """Text up to a bare call; holds back what may become one."""
        text, known = self._held, self._parameters
        if self._behind and TOOL_CALL in text:
            shown, _, self._held = text.partition(TOOL_CALL)
            self._begin(bare=False)
            return [shown] if shown else []
        self._behind = False
        prefix = "\n" if self._line_start else "."  # so that a line start can be seen
        for found in _BARE.finditer(prefix + text) if known else ():
            if found[2].strip() in known:
                at = found.start(1) - 1
                self._held = text[at:]
                self._begin(bare=True)
                return [text[:at]] if text[:at] else []
        keep = 0 if final or not known else _undecided(prefix + text)
        shown = text[: len(text) - keep]
        self._held = text[len(shown) :]
        if shown:
            line = shown.rpartition("\n")[2]
            self._line_start = not line.strip(" \t") and ("\n" in shown or self._line_start)
        return [shown] if shown else []


def _undecided(text: str) -> int:
    """How many characters at the end may be the beginning of a bare call."""
    line = text.rpartition("\n")[2] if "\n" in text else ""
    tag = line.lstrip(" \t")
    begun = bool(tag) and (
        _BARE_START.startswith(tag) or (tag.startswith(_BARE_START) and ">" not in tag)
    )
    return len(tag) if begun else 0


class _Call:
    """One call being read. `rest` is None until it has ended, then the text behind it."""

    def __init__(self, parameters: Mapping[str, Schema], index: int, *, bare: bool) -> None:
        self._parameters = parameters
        self._index, self._bare = index, bare
        self._id = f"call_{os.urandom(12).hex()}"
        self._text = ""
        self._at = 0  # everything before is read
        self._scan = 0  # tags before are known not to end the value
        self._depth = 0  # of calls quoted in the value
        self._key: str | None = None  # of the value at _at
        self._name: str | None = None
        self._n_arguments = 0
        self.rest: str | None = None

    @property
    def started(self) -> bool:
        """Whether it turned out to be a call."""
        return self._name is not None

    def read(self, text: str, *, final: bool, cut: bool) -> list[Event]:
        """Reads on in `text`, the next piece; `final`: there is no more."""
        self._text += text
        events: list[Event] = []
        if not final and text and ">" not in text and "}" not in text:
            return events  # neither a tag nor an object can have ended
        if self._name is None:
            events += self._read_head(final, cut)
        events += self._read_on(ended=final and not cut)
        if final and self.rest is None:
            events += self._finish(cut)
        return events

    def _read_on(self, ended: bool) -> list[Event]:
        """All that is certain by now; `ended`: by the model, which may leave out closing tags."""
        events: list[Event] = []
        while self._name is not None and self.rest is None:
            piece = self._read_value(ended) if self._key is not None else self._read_tag(ended)
            if piece is None:
                break
            events.append(piece)
        return events

    def _read_head(self, final: bool, cut: bool) -> list[Event]:
        """<function=NAME>, or a call as a JSON object; gives back a text that is neither."""
        found = _FUNCTION.match(self._text)
        if found:
            self._name, self._at = found[1].strip(), found.end()
            return [CallDelta(self._index, self._id, self._name, "")]
        start = self._text.lstrip()
        if start.startswith("{"):
            call = self._read_json(final)
            if call is not None:
                return [call]
        begun = _may_be_head(start)
        if not final and (begun or END_TOOL_CALL not in self._text):
            return []
        end = len(self._text)
        if not final:
            end = self._text.index(END_TOOL_CALL) + len(END_TOOL_CALL)
        self.rest = self._text[end:]
        unfinished = begun and (cut or not start.startswith("{"))
        return [] if unfinished else [TOOL_CALL + self._text[:end]]

    def _read_json(self, final: bool) -> CallDelta | None:
        start = len(self._text) - len(self._text.lstrip())
        try:
            value, end = decode_json(self._text, start)
        except ValueError:
            return None
        closing = _END_CALL.match(self._text, end)
        if not final and not closing:
            return None
        function = value.get("function", value) if isinstance(value, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not isinstance(function, dict):
            return None
        arguments = function.get("arguments", function.get("parameters"))
        if isinstance(arguments, str):
            arguments = convert(arguments, {"type": "object"}, {})
        self._name = name
        self.rest = self._text[closing.end() if closing else end :]
        body = json.dumps(arguments if isinstance(arguments, dict) else {}, ensure_ascii=False)
        return CallDelta(self._index, self._id, name, body, done=True)

    def _read_tag(self, ended: bool) -> CallDelta | None:
        """The next parameter's opening tag, or the end of the call."""
        found = (_NEXT_TAG_BARE if self._bare else _NEXT_TAG).search(self._text, self._at)
        if found is None:
            return None
        if found[1] is None:
            return self._close(found.end(), complete=True)
        self._key, self._at = found[1].strip(), found.end()
        self._scan, self._depth = self._at, 0
        return self._read_value(ended)

    def _end_of_call(self, at: int, ended: bool) -> bool:
        """Whether the call ends at `at`, behind a parameter."""
        function = _END_FUNCTION.match(self._text, at)
        if _END_CALL.match(self._text, function.end() if function else at):
            return True
        if not function:
            return False
        rest = self._text[function.end() :]
        return self._bare or bool(_NEXT_CALL.match(rest)) or (ended and not rest.strip())

    def _read_value(self, ended: bool) -> CallDelta | None:
        """The value at _at when its end is certain (rules 1 and 2)."""
        for tag in _VALUE_TAG.finditer(self._text, self._scan):
            if tag[0] == TOOL_CALL:
                self._depth += 1
            elif tag[0] == END_TOOL_CALL:
                self._depth -= self._depth > 0
            elif self._depth == 0:
                goes_on = self._goes_on(tag.end(), ended)
                if goes_on is None:
                    self._scan = tag.start()  # its sequel has not come yet
                    return None
                if goes_on:
                    return self._take_value(tag.start(), tag.end())
            self._scan = tag.end()
        self._scan = max(self._scan, len(self._text) - len(END_TOOL_CALL))
        return None

    def _goes_on(self, at: int, ended: bool) -> bool | None:
        """Whether the form continues at `at`; None when that is not known yet."""
        if _PARAMETER.match(self._text, at) or self._end_of_call(at, ended):
            return True
        if ended:
            return not self._text[at:].strip()
        rest = self._text[at:].lstrip()
        if rest.startswith("</function>"):
            rest = rest[len("</function>") :].lstrip()
            return None if any(_may_become(rest, tag) for tag in _CALL_TAGS) else False
        expected = ("<parameter=", "</function>", END_TOOL_CALL)
        pending = any(_may_become(rest, tag) for tag in expected)
        unclosed = rest.startswith("<parameter=") and not re.search(r"[>\n]", rest)
        return None if pending or unclosed else False

    def _take_value(self, end: int, behind: int) -> CallDelta:
        text = self._text[self._at : end]
        text = text.removeprefix("\n").removesuffix("\n")
        key, self._key, self._at = self._key or "", None, behind
        root = self._parameters.get(self._name or "", {})
        properties = root.get("properties")
        schema = properties.get(key, {}) if isinstance(properties, Mapping) else {}
        value = convert(text, schema, root)
        pair = f"{_dumps(key)}: {_dumps(value)}"
        opening = ", " if self._n_arguments else "{"
        self._n_arguments += 1
        return CallDelta(self._index, self._id, "", opening + pair)

    def _close(self, end: int, *, complete: bool) -> CallDelta:
        self.rest = self._text[end:]
        closing = "}" if self._n_arguments else "{}"
        return CallDelta(self._index, self._id, "", closing, done=True, complete=complete)

    def _finish(self, cut: bool) -> list[Event]:
        """The end of the answer within a call (rules 2 and 3)."""
        events = self._read_again(not cut) if self._key is not None else []
        if self.rest is None and self._key is not None and not cut:
            left = _without_closing_tags(self._text[self._at :])
            events.append(self._take_value(self._at + len(left), len(self._text)))
        if self.rest is None:
            closed = _END_FUNCTION.search(self._text, self._at)
            end = closed.end() if closed and not cut else len(self._text)
            events.append(self._close(end, complete=not cut))
        return events

    def _read_again(self, ended: bool) -> list[Event]:
        """Ends the value that rule 2 left open without that rule, and reads what follows."""
        for tag in re.finditer("</parameter>", self._text[self._at :]):
            end = self._at + tag.end()
            if self._goes_on(end, ended):
                value = self._take_value(self._at + tag.start(), end)
                return [value, *self._read_on(ended)]
        return []


def _may_be_head(text: str) -> bool:
    """Whether more text can make the beginning of a call of this."""
    tag = text.startswith(_BARE_START) and not re.search(r"[>\n]", text)
    return tag or text.startswith("{") or _may_become(text, _BARE_START)


def _without_closing_tags(value: str) -> str:
    """A value whose </parameter> is missing, without the tags that stand behind it."""
    for tag in (END_TOOL_CALL, "</function>"):
        rest = value.rstrip()
        if rest.endswith(tag):
            value = rest[: -len(tag)]
    return value


def _may_become(text: str, tag: str) -> bool:
    """Whether more text can make `tag` of this beginning."""
    return len(text) < len(tag) and tag.startswith(text)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
