"""AsyncLlama: the same calls for asyncio. Each runs in a worker thread, and several at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ._generate import Stream
from ._stoppable import Stop
from .llama import Llama
from .types import Chunk, Text

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from ._request import GenerateOptions, Prompt
    from .chat.answer import ChatChunk, ChatText
    from .chat.messages import Message
    from .decisions.decide import Decision
    from .llama import Floats, LoadOptions

R = TypeVar("R")
C = TypeVar("C", bound=Chunk)
T = TypeVar("T", bound=Text)


class AsyncStream(AsyncIterator[C], Generic[C, T]):
    """The chunks of an answer for `async for`. After the end `result` has the whole.

    Leaving early stops the answer when the stream is closed (`await stream.aclose()`, or
    `async with`) or collected.
    """

    def __init__(
        self, pool: ThreadPoolExecutor, open_stream: Callable[[Stop], Stream[C, T]]
    ) -> None:
        self.result: T | None = None
        self._stop = Stop()
        self._chunks: asyncio.Queue[C | None] = asyncio.Queue()
        loop, stop, chunks = asyncio.get_running_loop(), self._stop, self._chunks

        def put(chunk: C | None) -> None:
            loop.call_soon_threadsafe(chunks.put_nowait, chunk)

        def work() -> T:
            try:
                stop.check()
                return stop.drain(open_stream(stop), put)
            finally:
                put(None)

        self._work = loop.run_in_executor(pool, work)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> C:
        chunk = None if self._work.done() and self._chunks.empty() else await self._chunks.get()
        if chunk is not None:
            return chunk
        self.result = await self._work
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stops the answer and waits until its slot is free."""
        self._stop.ask()
        await asyncio.wait([self._work])
        if self._work.exception() is None:
            self.result = self._work.result()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._stop.ask()


class AsyncLlama:
    """Llama for asyncio: `await llm.chat(...)`, `async for chunk in llm.stream_chat(...)`.

    Up to `n_parallel` calls run at once and share the reading of the weights; more wait in order.
    Cancelling the task that awaits a call stops its answer within a token.

    Args:
        model: a Llama, which stays the caller's to close, or the path of a GGUF file.
        options: those of Llama, for a path.
    """

    def __init__(
        self, model: Llama | str | os.PathLike[str], **options: Unpack[LoadOptions]
    ) -> None:
        self._owned = not isinstance(model, Llama)
        self.llama = model if isinstance(model, Llama) else Llama(model, **options)
        # Waiting calls block a thread each, which costs little; their order is the slots' queue.
        self._pool = ThreadPoolExecutor(64, thread_name_prefix="qwen35cpp-async")

    @classmethod
    def tiny(cls, **options: Unpack[LoadOptions]) -> AsyncLlama:
        """The small model that comes with the package, see Llama.tiny."""
        llm = cls(Llama.tiny(**options))
        llm._owned = True
        return llm

    async def chat(self, prompt: str | Sequence[Message], **options: Any) -> ChatText:
        """Llama.chat. Cancelling the awaiting task stops the answer."""
        return await self._whole(self.stream_chat(prompt, **options))

    def stream_chat(
        self, prompt: str | Sequence[Message], **options: Any
    ) -> AsyncStream[ChatChunk, ChatText]:
        """Llama.chat with stream=True."""
        return AsyncStream(
            self._pool,
            lambda stop: self.llama.chat(prompt, stream=True, **stop.watched(options)),
        )

    async def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Text:
        """Llama.generate. Cancelling the awaiting task stops the answer."""
        return await self._whole(self.stream_generate(prompt, **options))

    def stream_generate(
        self, prompt: Prompt, **options: Unpack[GenerateOptions]
    ) -> AsyncStream[Chunk, Text]:
        """Llama.generate with stream=True."""
        given: dict[str, Any] = {**options}
        return AsyncStream(
            self._pool,
            lambda stop: self.llama.generate(prompt, stream=True, **stop.watched(given)),
        )

    async def embed(self, texts: str | Sequence[Prompt] | None = None, **options: Any) -> Floats:
        """Llama.embed."""
        stop = Stop()
        watched = stop.watched(options)
        return await self._run(lambda: self.llama.embed(texts, **watched), stop)

    async def decide(self, prompt: str | Sequence[Message], **fields: Any) -> Decision:
        """Llama.decide, with its options and fields."""
        stop = Stop()
        watched = stop.watched(fields)
        return await self._run(lambda: self.llama.decide(prompt, **watched), stop)

    async def run(self, call: Callable[[Llama], R]) -> R:
        """Any other call: `await llm.run(lambda llama: llama.locate("Save", image))`."""
        return await self._run(lambda: call(self.llama), Stop())

    async def close(self) -> None:
        """Frees the model when this object opened it; calls under way end with SessionClosed."""
        if self._owned:
            self.llama.close()
        await asyncio.to_thread(self._pool.shutdown)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _whole(self, stream: AsyncStream[C, T]) -> T:
        async with stream:
            async for _chunk in stream:
                pass
        assert stream.result is not None
        return stream.result

    async def _run(self, call: Callable[[], R], stop: Stop) -> R:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call)
        except asyncio.CancelledError:
            stop.ask()
            raise
