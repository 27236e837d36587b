"""A model with its slots, shared by threads: who may use which, what is evaluated, when to free.

Every C call on the model or a session runs inside `alive` (_alive.py), which frees nothing while a
call is under way and refuses to work after close() or in a forked child. Whoever evaluates holds a
slot (_slot.py) for the whole request; there are as many as calls may run at once, and callers get
them in the order of their arrival (_turn.py).
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._alive import Alive
from ._handles import Detokenizer, Model, Session
from ._lazy_tower import LazyTower
from ._prefix import Markers, Node, Readings, Tree
from ._slot import PrefixCache, Progress, Slot
from ._turn import Hold, Turn
from .errors import FileError, InvalidArgument, Qwen35Error, SessionClosed, StateInvalid

if TYPE_CHECKING:
    from ._prefix import state_file
    from ._prefix.disk import DiskCache

__all__ = ["Engine", "Progress", "Slot"]


class Engine:
    """Everything that happens to one model and its sessions.

    `open_session` is None for a model without weights. Its first session is opened at once, so that
    what is wrong with the settings is said early, the others when calls overlap.
    """

    def __init__(
        self,
        model: Model,
        open_session: Callable[[], Session] | None,
        *,
        n_parallel: int,
        prefix_cache: bool,
        prefix_bytes: int = 0,
        batch: int = 512,
        fingerprint: Callable[[], str] = str,
        disk: DiskCache | None = None,
        find_tower: Callable[[], Path] | None = None,
        picture_bytes: int = 0,
        most_scratch: int | None = None,
        bounded: bool = False,
    ) -> None:
        self.model = model
        self.table: Any = None  # of the tokens for grammars, see structured/table.py
        self.table_lock = threading.Lock()
        self.info = model.info
        self.alive = Alive(model)
        self.tower = LazyTower(model, self.alive, find_tower, picture_bytes, most_scratch)
        tree = Tree(prefix_bytes, bounded=bounded)
        self._fingerprint = fingerprint
        self.cache = PrefixCache(
            tree, Readings(tree.lock), Markers.find(model.tokenize), batch, prefix_cache, disk
        )
        n_slots = 0 if open_session is None else n_parallel
        self.slots = [
            Slot(self.alive, open_session, self.tower, self.cache)
            for _ in range(n_slots)
            if open_session is not None
        ]
        self.turn = Turn(self.alive.check, self.slots)
        try:
            self.n_ctx = self.slots[0].session.n_ctx if self.slots else 0
        except BaseException:
            self.close()
            raise
        finalizer = weakref.finalize(self, self.alive.close)
        finalizer.atexit = False  # at exit other threads may still be inside; the system frees it

    def close(self) -> None:
        """Cancels what runs and frees model and sessions as soon as no call uses them."""
        if self.cache.disk is not None and not self.alive.closed:
            self.alive.cancel()
            with contextlib.suppress(Qwen35Error), self.hold_first() as held:
                held.slot.settle()
        self.alive.close()

    def hold(self, tokens: Sequence[int] = ()) -> Hold[Slot]:
        """A slot for one request, inside a `with`: the free one that knows most of `tokens`."""

        def best(free: Sequence[Slot]) -> Slot:
            opened = [slot for slot in free if slot.opened]
            if not opened:
                return free[0]
            return max(opened, key=lambda slot: slot.worth(tokens))

        self.need_weights()
        return self.turn.hold(best)

    def hold_first(self) -> Hold[Slot]:
        """The slot that eval, reset and n_tokens are about."""
        self.need_weights()
        return self.turn.hold(only=self.slots[0])

    def need_weights(self) -> None:
        """Raises when only the vocabulary was read."""
        if not self.slots:
            raise SessionClosed(
                "this Llama has no weights", hint="open the model without vocab_only=True"
            )

    def check_node(self, node: Node | None) -> None:
        """Raises unless a node is one of this model's."""
        if node is not None and node.root is not self.cache.tree.root:
            raise InvalidArgument("the snapshot belongs to another Llama")

    def check_pins(self, more: int = 0) -> None:
        """Refuses work after which a session keeps one more state, when there is no room for it.

        `more`: bytes that come with the state. Raises NotEnoughMemory.
        """
        self.need_weights()
        if self.cache.tree.bounded:
            with self.alive:
                more += self.slots[0].session.state_bytes
            self.cache.tree.check_pins(more)

    # ---- states in files -------------------------------------------------------------------------

    def save_node(self, path: Path, node: Node, notes: Mapping[str, Any]) -> int:
        """Writes all that a session needs to go on from a node; returns the size."""
        from ._prefix import state_file

        with self.hold_first() as held, self.alive, held.slot.lock:
            timeline = held.slot.timeline
            entries, snapshot = timeline.copy_node(node)
            try:
                return state_file.write(
                    path,
                    model=self._fingerprint(),
                    start=0,
                    tokens=node.all_tokens(),
                    entries=entries,
                    snapshot=snapshot,
                    logits=node.logits,
                    notes={**notes, "drawn": node.drawn},
                )
            except OSError as error:
                raise FileError(f"cannot write {path}: {error}") from error

    def load_node(self, path: Path) -> tuple[state_file.Header, Node]:
        """The header of a saved state and its node, with a pin."""
        from ._prefix import state_file

        try:
            header = state_file.read_header(path)
            if header.model != self._fingerprint():
                raise StateInvalid(
                    f"{path} was saved with another model, or with another kv_type, rope_scaling "
                    "or version of qwen35cpp"
                )
            tokens = state_file.read_tokens(header)
            entries = state_file.read_section(header, "entries")
            snapshot = state_file.read_section(header, "snapshot")
        except OSError as error:
            raise FileError(f"cannot read {path}: {error}") from error
        self.check_pins(len(entries))
        with self.hold_first() as held, self.alive, held.slot.lock:
            return header, held.slot.timeline.add_node(header, tokens, entries, snapshot)

    # ---- any thread, without a slot -------------------------------------------------------------

    def tokenize(self, data: bytes, special: bool) -> list[int]:
        """Token ids of UTF-8 text."""
        with self.alive:
            return self.model.tokenize(data, special)

    def token_bytes(self, token: int) -> tuple[bytes, bool]:
        """The bytes of a token and whether it is a control token."""
        with self.alive:
            return self.model.token_bytes(token)

    def vocabulary(self) -> tuple[list[bytes], list[int]]:
        """The bytes of every token, and the ids of those that are not ordinary text."""
        with self.alive:
            return self.model.vocabulary()

    def metadata(self, key: str) -> str | None:
        """A string of the file's metadata."""
        with self.alive:
            return self.model.string(key)

    def memory(self) -> tuple[int, int]:
        """Bytes reserved and committed for the contexts of all slots in use."""
        pairs = [slot.memory() for slot in self.slots if slot.opened]
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)

    def cancel(self) -> None:
        """Stops the requests that run now, from any thread."""
        with self.alive:
            self.alive.cancel()

    def text_stream(self, stop: Sequence[bytes] = (), *, special: bool = False) -> Detokenizer:
        """A stream of tokens to text, for push and finish."""
        with self.alive:
            return Detokenizer(self.model, stop, special)

    def push(self, text: Detokenizer, token: int) -> tuple[str, int]:
        """Feeds a token to a text stream, see Detokenizer."""
        with self.alive:
            return text.push(token)

    def finish(self, text: Detokenizer) -> str:
        """Ends a text stream, see Detokenizer."""
        with self.alive:
            return text.finish()
