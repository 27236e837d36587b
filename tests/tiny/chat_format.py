"""A sample as token ids: the Qwen 3.5 chat format, image and video placeholders, what is trained.

Control tokens come only from here; text of messages is encoded without them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiny import vocabulary
from tiny.sample import Image, Place, Sample, Shown

PATCH, MERGE = 16, 2
_CELL = PATCH * MERGE
S = vocabulary.SPECIAL_IDS

TOOLS_HEAD = "# Tools\n\nYou have access to the following functions:\n\n<tools>"
TOOLS_TAIL = """
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
_MARKERS = ("<tool_call>", "</tool_call>")  # tokens of their own also inside the tools block


@dataclass
class Encoded:
    """Token ids of a document with loss weights and the patches of its images and frame pairs."""

    skill: str
    plain: bool = False  # a text without turns
    ids: list[int] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)
    grids: list[tuple[int, int]] = field(default_factory=list)  # patches (rows, columns), in order
    patches: list[NDArray[np.uint8]] = field(default_factory=list)  # [rows * columns, 1536]
    video: list[bool] = field(default_factory=list)  # per grid: a frame pair of a video
    # Of the one picture: the token that each placeholder shows, when they are not all in order.
    cells: list[int] = field(default_factory=list)
    pads: list[int] = field(default_factory=list)  # per grid: its first token
    # Of some trained tokens: the earlier token that they repeat or tell of, if known.
    sources: dict[int, int] = field(default_factory=dict)
    # Of a trained token that counts: the first token and all that it counts.
    counted: dict[int, list[int]] = field(default_factory=dict)
    # Of some tokens of frames: the one that shows the same place in the frames before.
    before: dict[int, int] = field(default_factory=dict)
    pending: str = ""  # text that is not encoded yet
    pending_trained: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self) -> NDArray[np.int64]:
        """Rotary positions [3, tokens] of the axes time, row, column."""
        if self.cells:
            return np.tile(np.arange(len(self.ids)), (3, 1))
        pads = (S["<|image_pad|>"], S["<|video_pad|>"])
        columns: list[NDArray[np.int64]] = []
        counter, at, grids = 0, 0, iter(self.grids)
        while at < len(self.ids):
            if self.ids[at] in pads:
                rows, cols = (side // MERGE for side in next(grids))
                row, col = np.divmod(np.arange(rows * cols), cols)
                columns.append(counter + np.stack([np.zeros_like(row), row, col]))
                counter += max(rows, cols)
                at += rows * cols
            else:
                columns.append(np.full((3, 1), counter))
                counter += 1
                at += 1
        return np.concatenate(columns, axis=1)


class Renderer:
    """Turns samples into token ids with a tokenizer that knows no control tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._word = np.arange(vocabulary.SIZE)  # one of the ids that stand for the same word
        for ids in vocabulary.forms(tokenizer):
            self._word[ids] = ids[0]

    def text(self, sample: Sample) -> Encoded:
        """A plain text, trained as a whole, closed by `<|endoftext|>`."""
        out = Encoded(sample.skill, plain=True)
        self._say(out, sample.text, True)
        self._control(out, "<|endoftext|>", True)
        return out

    def sample(self, sample: Sample) -> Encoded:
        """The whole conversation with every assistant turn trained, or the plain text."""
        return self.chat(sample, sample.messages) if sample.messages else self.text(sample)

    def cells(self, skill: str, image: Image, lines: list[tuple[int, str]]) -> Encoded:
        """Tokens of a picture one by one, each with a line that says what it shows."""
        out = Encoded(skill)
        for cell, line in lines:
            self._control(out, "<|image_pad|>", False)
            self._say(out, f"{line}\n", True)
            self._flush(out)
            out.cells.append(cell)
        out.grids.append((image.shape[0] // PATCH, image.shape[1] // PATCH))
        out.patches.append(patches(image, image))
        out.video.append(False)
        return out

    def prompt(self, sample: Sample) -> Encoded:
        """The conversation up to the reference answer, ready to be continued."""
        out = self.chat(sample, sample.prompt)
        self._control(out, "<|im_start|>", False)
        self._say(out, "assistant\n", False)
        self._think(out, sample.thinking)
        self._flush(out)
        return out

    def _think(self, out: Encoded, thinking: bool, trained: bool = False) -> None:
        self._control(out, "<think>", trained)
        if thinking:
            self._say(out, "\n", trained)
        else:
            self._say(out, "\n\n", trained)
            self._control(out, "</think>", trained)
            self._say(out, "\n\n", trained)

    def chat(self, sample: Sample, messages: list[dict[str, Any]]) -> Encoded:
        """Messages in the official format, without a generation prompt."""
        out = Encoded(sample.skill)
        images, videos = iter(sample.images), iter(sample.videos)
        start = 0
        if sample.tools:
            system = messages[0]["content"] if messages[0]["role"] == "system" else ""
            start = 1 if system else 0
            self._open(out, "system")
            self._tools(out, sample.tools)
            self._say(out, f"\n\n{system.strip()}" if system else "", False)
            self._close(out)
        last_query = max(i for i, m in enumerate(messages) if m["role"] == "user")
        for i in range(start, len(messages)):
            message = messages[i]
            role = message["role"]
            if role == "tool":
                if messages[i - 1]["role"] != "tool":
                    self._control(out, "<|im_start|>", False)
                    self._say(out, "user", False)
                self._say(out, "\n", False)
                self._control(out, "<tool_response>", False)
                self._say(out, "\n", False)
                self._content(out, message["content"], images, videos)
                self._say(out, "\n", False)
                self._control(out, "</tool_response>", False)
                if i + 1 == len(messages) or messages[i + 1]["role"] != "tool":
                    self._close(out)
            elif role == "assistant":
                self._assistant(out, message, kept=i > last_query)
            else:
                self._open(out, role)
                self._content(out, message["content"], images, videos)
                self._close(out)
        self._flush(out)
        return out

    def _assistant(self, out: Encoded, message: dict[str, Any], *, kept: bool) -> None:
        self._open(out, "assistant")
        begin = len(out.ids)
        if kept:  # thoughts of earlier queries are dropped from the history
            reasoning = message.get("reasoning_content", "")
            self._think(out, bool(reasoning))
            if reasoning:
                self._say(out, f"{reasoning.strip()}\n", True)
                self._control(out, "</think>", True)
                self._say(out, "\n\n", True)
        content = message["content"].strip()
        if message.get("shown"):
            self._flush(out)
            self._shows(out, content, message["shown"])
        if message.get("counted") is not None:
            self._flush(out)
            self._counts(out, content, message["counted"])
        if "clue" in message:
            self._flush(out)
            self._clued(out, *message["clue"])
        self._say(out, content, True)
        for n, call in enumerate(message.get("tool_calls", [])):
            self._say(out, "\n" if n else ("\n\n" if content else ""), True)
            self._call(out, call["name"], call["arguments"])
        self._control(out, "<|im_end|>", True)
        if "source" in message:
            self._repeated(out, begin, message["source"])
        self._say(out, "\n", False)

    def _shows(self, out: Encoded, content: str, shown: tuple[Shown, ...]) -> None:
        """Notes which tokens of the pictures the coming tokens of an answer show."""
        spans = self._tokenizer.encode(content).offsets
        end = 0
        for text, picture, x, y in shown:
            begin = content.index(text, end)
            end = begin + len(text)
            token = _token(out, picture, x, y)
            for i, (first, last) in enumerate(spans):
                if first < end and last > begin:
                    out.sources.setdefault(len(out.ids) + i, token)  # by its first letter

    def _counts(self, out: Encoded, content: str, places: tuple[Place, ...]) -> None:
        """Notes what the number in an answer counts, or its first word when it has none.

        A head that looks at these and the first token alike tells by the share of the latter how
        many there are.
        """
        number = re.search(r"\d", content)
        spans = self._tokenizer.encode(content).offsets
        ahead = sum(last <= number.start() for _, last in spans) if number else 0
        out.counted[len(out.ids) + ahead] = [0, *(_token(out, *place) for place in places)]

    def _repeated(self, out: Encoded, begin: int, sentence: str) -> None:
        """Notes where the longest part that tokens from `begin` on repeat of a sentence stands."""
        at, ids = self._find(out.ids[:begin], sentence)
        told, said = (self._word[each].tolist() for each in (ids, out.ids[begin:]))
        match = SequenceMatcher(None, told, said, autojunk=False).find_longest_match()
        for i in range(match.size):
            out.sources[begin + match.b + i] = at + match.a + i

    def _clued(self, out: Encoded, sentence: str, word: str) -> None:
        """Notes the word of a sentence on which the coming token depends."""
        at, ids = self._find(out.ids, sentence)
        inside, told = self._find(ids, word)
        if told:
            out.sources[len(out.ids)] = at + inside + len(told) - 1

    def _find(self, ids: list[int], text: str) -> tuple[int, list[int]]:
        """Where a text stands among ids, and its tokens; none if it does not."""
        earlier = "".join(map(chr, ids))
        for form in (f" {text}", text):
            found = self._tokenizer.encode(form).ids
            if text.endswith("."):  # which may have line breaks with it
                found = found[:-1]
            at = earlier.find("".join(map(chr, found)))
            if at >= 0:
                return at, found
        return 0, []

    def _call(self, out: Encoded, name: str, arguments: dict[str, Any]) -> None:
        self._control(out, "<tool_call>", True)
        lines = "".join(
            f"<parameter={key}>\n{_value(value)}\n</parameter>\n"
            for key, value in arguments.items()
        )
        self._say(out, f"\n<function={name}>\n{lines}</function>\n", True)
        self._control(out, "</tool_call>", True)

    def _tools(self, out: Encoded, tools: list[dict[str, Any]]) -> None:
        body = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in tools)
        text = TOOLS_HEAD + body + TOOLS_TAIL
        while text:
            found = [(text.find(m), m) for m in _MARKERS if m in text]
            at, marker = min(found) if found else (len(text), "")
            self._say(out, text[:at], False)
            if marker:
                self._control(out, marker, False)
            text = text[at + len(marker) :]

    def _content(self, out: Encoded, content: Any, images: Any, videos: Any) -> None:
        if isinstance(content, str):
            self._say(out, content.strip(), False)
            return
        for part in content:
            if part["type"] == "text":
                self._say(out, part["text"], False)
            elif part["type"] == "image":
                self._vision(out, next(images), None)
            else:
                video = next(videos)
                for i in range(0, len(video.frames), 2):
                    pair = (video.frames[i], video.frames[i + 1])
                    seconds = (video.times[i] + video.times[i + 1]) / 2
                    self._say(out, f"<{seconds:.1f} seconds>", False)
                    self._vision(out, *pair)
                    if i:
                        self._follows(out, i // 2)

    def _vision(self, out: Encoded, first: Image, second: Image | None) -> None:
        rows, cols = first.shape[0] // PATCH, first.shape[1] // PATCH
        pad = "<|image_pad|>" if second is None else "<|video_pad|>"
        self._control(out, "<|vision_start|>", False)
        out.pads.append(len(out.ids))
        for _ in range(rows * cols // MERGE**2):
            self._control(out, pad, False)
        self._control(out, "<|vision_end|>", False)
        out.grids.append((rows, cols))
        out.patches.append(patches(first, first if second is None else second))
        out.video.append(second is not None)

    def _follows(self, out: Encoded, turn: int) -> None:
        """Notes for a third of the places of the last frames where they stand in those before."""
        last, before = out.pads[-1], out.pads[-2]
        rows, cols = out.grids[-1]
        for cell in range(turn % 3, rows * cols // MERGE**2, 3):
            out.before[last + cell] = before + cell

    def _open(self, out: Encoded, role: str) -> None:
        self._control(out, "<|im_start|>", False)
        self._say(out, f"{role}\n", False)

    def _close(self, out: Encoded) -> None:
        self._control(out, "<|im_end|>", False)
        self._say(out, "\n", False)

    def _say(self, out: Encoded, text: str, trained: bool) -> None:
        if trained != out.pending_trained:
            self._flush(out)
        out.pending += text
        out.pending_trained = trained

    def _flush(self, out: Encoded) -> None:
        """Encodes what was said since the last control token: as one text, as a template has it."""
        ids = self._tokenizer.encode(out.pending).ids if out.pending else []
        out.ids += ids
        out.trained += [out.pending_trained] * len(ids)
        out.pending = ""

    def _control(self, out: Encoded, token: str, trained: bool) -> None:
        self._flush(out)
        out.ids.append(S[token])
        out.trained.append(trained)


def _token(out: Encoded, picture: int, x: float, y: float) -> int:
    """The token that shows a pixel of a picture."""
    columns = out.grids[picture][1] // MERGE
    return out.pads[picture] + int(y) // _CELL * columns + int(x) // _CELL


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def patches(first: Image, second: Image) -> NDArray[np.uint8]:
    """Patch rows [patches, 3 * 2 * 16 * 16] of a frame pair, 2 x 2 blocks together.

    Sides are multiples of 32, so the reference's resize would leave the frames as they are.
    """
    if first.shape[0] % _CELL or first.shape[1] % _CELL:
        raise ValueError(f"sides must be multiples of {_CELL}, got {first.shape[:2]}")
    pair = np.stack([first, second])
    _, height, width, _ = pair.shape
    blocks = pair.reshape(2, height // _CELL, MERGE, PATCH, width // _CELL, MERGE, PATCH, 3)
    ordered = blocks.transpose(1, 4, 2, 5, 7, 0, 3, 6)  # block row, column, in block, c, t, y, x
    return np.ascontiguousarray(ordered).reshape(-1, 3 * 2 * PATCH * PATCH)
