"""Llama.map: one prompt for many rows, several at once, resumable."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ._stoppable import Stop
from .errors import FileError, InvalidArgument, Qwen35Error

if TYPE_CHECKING:
    from .chat.answer import ChatText
    from .llama import Llama

Row = Any  # what prompts are made of: a str, or a mapping for templates
Prompt = str | Callable[[Row], Any] | None
Progress = Callable[[int, "int | None"], None]  # rows done, rows in total where known


@dataclass(frozen=True)
class Mapped:
    """What became of a row."""

    index: int  # of the row, from 0
    row: Row = field(repr=False)
    text: str = ""
    error: str | None = None  # with on_error="keep": what went wrong
    answer: ChatText | None = field(default=None, repr=False)  # None for a row done earlier

    @property
    def resumed(self) -> bool:
        """Whether an earlier run had answered this row."""
        return self.answer is None and self.error is None


@dataclass(frozen=True)
class Settings:
    """How rows are answered, see Llama.map. What is wrong is said before the first row."""

    workers: int
    resume: Path | None
    on_error: str
    progress: Progress | None
    options: dict[str, Any]  # of the chats

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InvalidArgument(f"workers must be at least 1, not {self.workers}")
        if self.on_error not in ("raise", "keep"):
            raise InvalidArgument(f"on_error must be 'raise' or 'keep', not {self.on_error!r}")
        if "stream" in self.options:
            raise InvalidArgument("map gives whole answers: it takes no stream argument")


def answers(
    llm: Llama, rows: Iterable[Row], prompt: Prompt, settings: Settings
) -> Iterator[Mapped]:
    """Yields what becomes of each row, in order."""
    total = len(rows) if isinstance(rows, Sequence) else None
    stop, workers, resume = Stop(), settings.workers, settings.resume
    watched = stop.watched(settings.options)

    def work(index: int, row: Row, question: Any) -> Mapped:
        stop.check()
        try:
            answer = stop.drain(llm.chat(question, stream=True, **watched))
        except Qwen35Error as error:
            stop.check()
            if settings.on_error == "raise":
                raise
            return Mapped(index, row, error=f"{type(error).__name__}: {error}")
        return Mapped(index, row, str(answer), None, answer)

    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(_Journal(resume, settings.options)) if resume else None
        pool = ThreadPoolExecutor(workers, thread_name_prefix="qwen35cpp-map")
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        stack.callback(stop.ask)  # runs first: leaving early stops the answers in the making
        waiting: deque[tuple[Any, Future[Mapped]]] = deque()

        def first() -> Mapped:
            question, future = waiting.popleft()
            done = future.result()
            if journal and done.answer is not None:
                journal.add(question, done)
            if settings.progress is not None:
                settings.progress(done.index + 1, total)
            return done

        for index, row in enumerate(rows):
            question = _question(prompt, row, index)
            known = journal.find(question) if journal else None
            future: Future[Mapped]
            if known is not None:
                future = Future()
                future.set_result(Mapped(index, row, known))
            else:
                future = pool.submit(work, index, row, question)
            waiting.append((question, future))
            # Some rows ahead, so that an answer that takes long does not idle the other workers.
            while len(waiting) >= 4 * workers:
                yield first()
        while waiting:
            yield first()


def _question(prompt: Prompt, row: Row, index: int) -> Any:
    """The prompt of a row: what `chat` takes."""
    if callable(prompt):
        return prompt(row)
    if prompt is None:
        return row
    try:
        if isinstance(row, Mapping):
            return prompt.format_map(row)
        return prompt.format(row, text=row)
    except (KeyError, IndexError) as error:
        raise InvalidArgument(f"row {index} has no field {error} that the prompt names") from error


_LINE = b'{"key": "'  # how every line of a journal begins


class _Journal:
    """Answers on disk, a line of JSON each; a run that is broken off goes on behind them.

    An answer belongs to its question and options, not to a row's number: rows may be added, moved
    and dropped between two runs.
    """

    def __init__(self, path: Path, options: Mapping[str, Any]) -> None:
        self._path = path
        self._options = repr(sorted((k, repr(v)) for k, v in options.items() if k != "progress"))
        self._known: dict[str, str] = {}
        self._file: TextIO | None = None

    def __enter__(self) -> _Journal:
        try:
            data = self._path.read_bytes() if self._path.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            self._take_up(whole, data[len(whole) :])
            self._file = self._path.open("a", encoding="utf-8")
            self._file.truncate(len(whole))
        except OSError as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"cannot use {self._path}: {error.strerror or error}") from error
        return self

    def _take_up(self, lines: bytes, rest: bytes) -> None:
        """Reads the answers there are. `rest` is a last line that a kill cut off."""
        number = 1
        try:
            for line in lines.splitlines():
                entry = json.loads(line)
                self._known[entry["key"]] = entry["text"]
                number += 1
            if rest and not rest.startswith(_LINE[: len(rest)]):
                raise ValueError
        except (ValueError, KeyError, TypeError) as error:
            raise FileError(
                f"{self._path}, line {number}: not an answer that map wrote",
                hint="name another file for resume, or delete this one",
            ) from error

    def __exit__(self, *_reason: object) -> None:
        if self._file is not None:
            self._file.close()

    def _key(self, question: Any) -> str:
        return hashlib.sha256(f"{question!r}\0{self._options}".encode()).hexdigest()

    def find(self, question: Any) -> str | None:
        """The answer to a question, when there is one."""
        return self._known.get(self._key(question))

    def add(self, question: Any, done: Mapped) -> None:
        """Writes an answer down."""
        assert self._file is not None
        reason = done.answer.finish_reason if done.answer is not None else None
        entry = {
            "key": self._key(question), "index": done.index, "text": done.text,
            "finish_reason": reason,
        }  # fmt: skip
        self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._file.flush()
