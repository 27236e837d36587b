"""Conversations and texts that can be kept, branched and saved: `Llama.session`."""

from __future__ import annotations

import copy
import json
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._prefix import Node
from .errors import InvalidArgument, StateInvalid

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._generate import Request
    from ._request import ChatOptions, GenerateOptions, Prompt
    from ._slot import Slot
    from .chat.answer import ChatText
    from .chat.messages import Message
    from .chat.tools import Tool
    from .llama import Llama
    from .types import Text


def _give_back(node: Node) -> None:
    node.pins -= 1


class Snapshot:
    """Where a session stood. As long as it is referred to, going back costs no reading.

    Snapshots share the cache entries of what they have in common; each holds a copy of the
    recurrent state (19 MB for 0.8B and 2B, 50 MB for 4B and 9B). With `memory_limit` they count
    against the part of the prefix cache: a session that could not keep one more raises
    NotEnoughMemory before it works.
    """

    def __init__(
        self, tokens: Sequence[int], messages: Sequence[Mapping[str, Any]], node: Node | None
    ) -> None:
        """`node` has a pin, which the snapshot gives back in the end."""
        self._tokens, self._messages, self._node = list(tokens), list(messages), node
        if node is not None:
            weakref.finalize(self, _give_back, node)

    @property
    def n_tokens(self) -> int:
        """Tokens of the text so far."""
        return len(self._tokens)

    @property
    def input_ids(self) -> list[int]:
        """The tokens; pictures have negative ones."""
        return list(self._tokens)


class Session:
    """A text or a conversation that stays ready to go on, however much else its Llama does.

    Made by `Llama.session()`. `generate` continues the text, `chat` the conversation; both may be
    mixed with other calls of the Llama from any thread, but one session belongs to one thread at a
    time. An answer that is streamed changes the session when it has been read to its end.
    """

    def __init__(self, llama: Llama, *, system: str | None = None) -> None:
        self._llama = llama
        messages: list[dict[str, Any]] = []
        if system is not None:
            messages.append({"role": "system", "content": system})
        self._at = Snapshot((), messages, None)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation so far."""
        return [dict(message) for message in self._at._messages]

    @property
    def tokens(self) -> list[int]:
        """Every token so far; pictures have negative ones."""
        return self._at.input_ids

    # ---- going on --------------------------------------------------------------------------------

    def generate(self, prompt: Prompt = "", **options: Unpack[GenerateOptions]) -> Text:
        """Continues the text with `prompt` and then with what the model makes of it.

        The options are those of `Llama.generate`, except images.
        """
        from ._generate import TextStream, generate

        rest: dict[str, Any] = dict(options)
        rest.pop("budget", None)
        rest.pop("limits", None)
        if rest.pop("images", None):
            raise InvalidArgument("a session continues text: show pictures with chat()")
        llama = self._llama
        fresh = llama._prompt_tokens(prompt, bool(rest.get("special")))
        request = llama._generation([*self._at._tokens, *fresh], **rest)
        text = TextStream(generate(llama._engine, self._resuming(request))).drain()
        self._moved(request, text, self._at._messages)
        return text

    def chat(
        self,
        prompt: str | Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        think: bool | None = None,
        thinking_budget: int | None = None,
        images: Any = (),
        **options: Unpack[ChatOptions],
    ) -> ChatText:
        """Adds a question, or messages, to the conversation and answers.

        The arguments are those of `Llama.chat`.
        """
        from .chat.model import conversation

        llama = self._llama
        added = conversation(prompt, None, images)
        model = llama._chat()
        made = model.request(
            [*self._at._messages, *added],
            options,
            seed=llama.seed,
            tools=tools,
            think=think,
            thinking_budget=thinking_budget,
        )
        made = replace(made, request=self._resuming(made.request))
        answer = model.answer(made).drain()
        self._moved(made.request, answer, answer.messages)
        return answer

    def _resuming(self, request: Request) -> Request:
        self._llama._engine.check_pins()
        self._reached: Node | None = None

        def pin(slot: Slot) -> None:
            with slot.alive, slot.lock:
                self._reached = slot.timeline.keep(pinned=True)

        return replace(request, resume=True, at_end=pin)

    def _moved(self, request: Request, text: Text, messages: Sequence[Mapping[str, Any]]) -> None:
        node, self._reached = self._reached, None
        self._at = Snapshot([*request.tokens, *text.tokens], messages, node)

    # ---- keeping ---------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Where the session stands now, for `restore`."""
        return self._at

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back, or over, to where a snapshot of the same Llama was taken."""
        self._llama._engine.check_node(snapshot._node)
        self._at = snapshot

    def fork(self) -> Session:
        """A second session that stands where this one does; nothing is copied."""
        return copy.copy(self)

    def save(self, path: str | os.PathLike[str]) -> int:
        """Writes the session to a file, atomically, and returns its size.

        Pictures in messages must be in a form that JSON can hold (paths, data URLs).

        Raises:
            InvalidArgument: there is nothing to save, or a message cannot be saved.
            FileError: the file cannot be written.
        """
        if self._at._node is None:
            raise InvalidArgument("the session has not read anything yet")
        try:
            json.dumps(self._at._messages)
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"a message cannot be saved: {error}") from None
        notes = {"messages": self._at._messages, "ahead": self._ahead()}
        return self._llama._engine.save_node(Path(path), self._at._node, notes)

    def _ahead(self) -> list[int]:
        """Tokens that were drawn but not evaluated: the last one, as a rule."""
        assert self._at._node is not None
        return self._at._tokens[self._at._node.end :]

    def load(self, path: str | os.PathLike[str]) -> None:
        """Goes to where a saved session of the same model and settings stood.

        Raises:
            StateInvalid: the file is damaged, or belongs to another model (told by its metadata and
                samples of every tensor), kv_type, rope_scaling or version.
            NotEnoughMemory: `memory_limit` leaves no room for it.
            FileError: it cannot be read.
        """
        header, node = self._llama._engine.load_node(Path(path))
        try:
            ahead = [int(token) for token in header.notes["ahead"]]
            messages = [dict(message) for message in header.notes["messages"]]
        except (KeyError, TypeError, ValueError):
            node.pins -= 1
            raise StateInvalid(f"{path} holds a state of the prefix cache, no session") from None
        self._at = Snapshot([*node.all_tokens(), *ahead], messages, node)


__all__ = ["Session", "Snapshot"]
