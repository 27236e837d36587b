"""The chat methods of Llama: arguments and documentation; the work is done by the modules beside.

ChatMethods is a base class of Llama and not of use without it. The methods import what they need:
see chat/__init__.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._engine import Engine
    from .._map import Mapped
    from .._request import ChatOptions
    from ..llama import Llama
    from ..vision import Limits, Place
    from .answer import ChatText
    from .conversation import ChatStream
    from .messages import Message
    from .model import ChatModel
    from .openai import ChatCompletion, ChatCompletionChunk, ChatCompletionOptions
    from .render import Rendered
    from .run_tools import Confirm, Function
    from .tools import Tool


T = TypeVar("T")


class ChatMethods:
    """Chat, tools and OpenAI's chat completions."""

    model_path: str
    seed: int | None
    _engine: Engine
    _end_tokens: frozenset[int]
    _chat_template: str | os.PathLike[str] | None
    _limits: Limits | None
    _chat_model: ChatModel | None = None

    @overload
    def chat(
        self,
        prompt: str | Sequence[Message],
        *,
        system: str | None = None,
        tools: Sequence[Tool] | None = None,
        think: bool | None = None,
        thinking_budget: int | None = None,
        images: Any = (),
        stream: Literal[False] = False,
        **options: Unpack[ChatOptions],
    ) -> ChatText: ...

    @overload
    def chat(
        self,
        prompt: str | Sequence[Message],
        *,
        system: str | None = None,
        tools: Sequence[Tool] | None = None,
        think: bool | None = None,
        thinking_budget: int | None = None,
        images: Any = (),
        stream: Literal[True],
        **options: Unpack[ChatOptions],
    ) -> ChatStream: ...

    @overload
    def chat(
        self,
        prompt: str | Sequence[Message],
        *,
        system: str | None = None,
        tools: Sequence[Tool] | None = None,
        think: bool | None = None,
        thinking_budget: int | None = None,
        images: Any = (),
        stream: bool,
        **options: Unpack[ChatOptions],
    ) -> ChatText | ChatStream: ...

    def chat(
        self,
        prompt: str | Sequence[Message],
        *,
        system: str | None = None,
        tools: Sequence[Tool] | None = None,
        think: bool | None = None,
        thinking_budget: int | None = None,
        images: Any = (),
        stream: bool = False,
        **options: Unpack[ChatOptions],
    ) -> ChatText | ChatStream:
        """Answers a question or a conversation.

        The answer is a str that also has `reasoning`, `tool_calls`, `usage`, `finish_reason` and
        `messages`, the conversation with this answer: add a message to it and ask again. With
        `stream` it comes in chunks; printing every chunk prints the answer and no thought.

        Text in messages is never taken for control tokens. A thought always ends so that the answer
        has room: when its budget is spent, when it repeats itself without end, and at the latest
        when a quarter of the tokens to generate, at most 1024, is left.

        Of a conversation that was read before, only what is new is read. A new question drops the
        thoughts before it, also empty ones, as the models were trained, so that the answer before
        it is read once more.

        Args:
            prompt: a question, or messages in OpenAI's shape: {"role": ..., "content": ...}.
            system: instructions that go before the messages.
            tools: functions or JSON schemas that the model may call. Nothing is run here: see
                `tool_calls` of the answer, and `run_tools`.
            think: whether the model thinks before it answers; None is the model's own default (0.8B
                and 2B do not, 4B and 9B do).
            thinking_budget: tokens of thought at most, to the token; 0 is no thought.
            images: one picture or several that go before the text of the last message, each a path,
                encoded bytes, a data URL, a PIL.Image or an array. Messages may hold pictures and
                videos of their own, as parts of their content. Such a part may say how to look at
                it: `min_pixels` and `max_pixels` (of a picture, or of each frame), for videos
                `total_pixels` (of all frames) and `fps`, for pictures OpenAI's `detail` ("low" is
                the budget "fast").
            stream: return an iterator of chunks instead of the whole answer.
            options: as in `generate`, see ChatOptions.

        Raises:
            InvalidArgument: a message or tool cannot be rendered; the text says which.
            ContextTooLong: the conversation does not fit into the context.
            ModelUnsupported: the vocabulary is not that of a chat model.
            ImageInvalid: a picture or video cannot be read, or exceeds a limit.
            VisionMissing: the model has no vision tower.
        """
        from .model import conversation

        model = self._chat()
        request = model.request(
            conversation(prompt, system, images),
            options,
            seed=self.seed,
            tools=tools,
            think=think,
            thinking_budget=thinking_budget,
        )
        answer = model.answer(request)
        return answer if stream else answer.drain()

    def locate(
        self,
        what: str,
        image: Any,
        *,
        kind: Literal["box", "point"] = "box",
        **options: Unpack[ChatOptions],
    ) -> list[Place]:
        """Where a thing is in a picture, in pixels of the picture as it was given.

        Greedy and without a thought unless the options say otherwise. An empty list: the model
        named no place. A model is often wrong; check before you click.

        Args:
            what: the thing, e.g. "the Save button".
            image: a picture in any form that `chat` takes.
            kind: ask for a box or for a point.
            options: as in `generate`, see ChatOptions; `budget` is "grounding" by default.
        """
        from ..vision.load import DEFAULT_LIMITS, open_picture
        from ..vision.locate import question, read_places

        limits = options.get("limits") or self._limits or DEFAULT_LIMITS
        pixels = open_picture(image, limits)
        height, width, _ = pixels.shape
        chosen: dict[str, Any] = {"temperature": 0, "budget": "grounding", **options}
        answer = self.chat(question(what, kind), images=[pixels], think=False, **chosen)
        return read_places(answer, width, height)

    def map(
        self,
        rows: Iterable[Any],
        prompt: str | Callable[[Any], Any] | None = None,
        *,
        workers: int | None = None,
        resume: str | os.PathLike[str] | None = None,
        on_error: Literal["raise", "keep"] = "raise",
        progress: Callable[[int, int | None], None] | None = None,
        **options: Any,
    ) -> Iterator[Mapped]:
        """Asks one question of many rows, several at once, and yields the answers in order.

        >>> for done in llm.map(rows, "Translate to French: {text}", resume="out.jsonl"):
        ...     print(done.text)

        Leaving the loop early stops what is under way within a token.

        Args:
            rows: strings, or mappings such as those of csv.DictReader; read as they are needed.
            prompt: a template for str.format with the fields of a mapping, or {text} for a string;
                or a function from a row to what `chat` takes. None: rows are prompts themselves.
            workers: answers in the making at once; None is `n_parallel`.
            resume: a file that keeps the answers, a line of JSON each. A later run with the same
                options takes them from there: nothing is asked twice.
            on_error: "keep" goes on with the next row and says in `error` what was wrong.
            progress: called with (rows done, rows in total or None).
            options: as in `chat`.
        """
        from .._map import Settings, answers

        settings = Settings(
            workers=len(self._engine.slots) if workers is None else workers,
            resume=None if resume is None else Path(os.fsdecode(resume)),
            on_error=on_error,
            progress=progress,
            options=options,
        )
        return answers(cast("Llama", self), rows, prompt, settings)

    @overload
    def extract(
        self, kind: type[T], prompt: str, *, images: Any = (), **options: Unpack[ChatOptions]
    ) -> T: ...

    @overload
    def extract(
        self, kind: Any, prompt: str, *, images: Any = (), **options: Unpack[ChatOptions]
    ) -> Any: ...

    def extract(
        self, kind: Any, prompt: str, *, images: Any = (), **options: Unpack[ChatOptions]
    ) -> Any:
        """The data in a text or picture, as an instance of a class.

        The model is shown the schema; greedy and without a thought unless the options say
        otherwise.

        Args:
            kind: a class or a JSON schema, as `schema` of `chat`.
            prompt: the text, or what to read from the pictures.
            images: as in `chat`.
            options: as in `chat`.

        Raises:
            SchemaError: the schema cannot be enforced.
            AnswerInvalid: the answer was cut off, or the class refuses it.
        """
        from ..structured.formats import schema_of

        schema = json.dumps(schema_of(kind), ensure_ascii=False)
        ask = f"{prompt}\n\nExtract the data as JSON. Schema: {schema}"
        chosen: dict[str, Any] = {"temperature": 0, "think": False, **options}
        return self.chat(ask, images=images, schema=kind, **chosen).parsed

    def run_tools(
        self,
        prompt: str | Sequence[Message],
        functions: Sequence[Function],
        *,
        confirm: Confirm | None = None,
        max_steps: int = 8,
        system: str | None = None,
        think: bool | None = None,
        thinking_budget: int | None = None,
        **options: Unpack[ChatOptions],
    ) -> ChatText:
        """Chats, runs the functions that the model calls and tells it their results.

        Ends with the first answer without calls; its `messages` hold everything that was said. An
        exception of a function, a wrong argument or an unknown name becomes a result that the model
        reads; only what `confirm` raises, and Ctrl-C, reach the caller.

        Args:
            prompt: as in `chat`.
            functions: with type hints and a docstring, see function_schema. They run in this
                process with the arguments that the model wrote: give none that must not be run.
            confirm: called with each ToolCall before it is run; False declines it.
            max_steps: answers at most. The last may end with calls that were not run:
                `finish_reason` is "tool_calls" then.
            system: as in `chat`.
            think: as in `chat`.
            thinking_budget: as in `chat`.
            options: as in `chat`.
        """
        from .model import conversation
        from .run_tools import Toolbox, run_tools

        schemas = Toolbox(functions).schemas

        def ask(messages: list[dict[str, Any]]) -> ChatText:
            return self.chat(
                messages, tools=schemas, think=think, thinking_budget=thinking_budget, **options
            )

        messages = conversation(prompt, system, ())
        return run_tools(ask, messages, functions, confirm, max_steps)

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        think: bool | None = None,
        add_generation_prompt: bool = True,
        add_vision_id: bool = False,
        chat_template: str | os.PathLike[str] | None = None,
    ) -> Rendered:
        """The token ids that a conversation stands for, with the places of its pictures.

        What `chat` reads, for those who want to look at it or generate from it themselves.
        """
        return self._chat().render(
            messages,
            tools=tools,
            thinking=think,
            add_generation_prompt=add_generation_prompt,
            add_vision_id=add_vision_id,
            chat_template=chat_template,
        )

    @overload
    def create_chat_completion(
        self,
        messages: Sequence[Message],
        *,
        stream: Literal[False] = False,
        **options: Unpack[ChatCompletionOptions],
    ) -> ChatCompletion: ...

    @overload
    def create_chat_completion(
        self,
        messages: Sequence[Message],
        *,
        stream: Literal[True],
        **options: Unpack[ChatCompletionOptions],
    ) -> Iterator[ChatCompletionChunk]: ...

    @overload
    def create_chat_completion(
        self,
        messages: Sequence[Message],
        *,
        stream: bool,
        **options: Unpack[ChatCompletionOptions],
    ) -> ChatCompletion | Iterator[ChatCompletionChunk]: ...

    def create_chat_completion(
        self,
        messages: Sequence[Message],
        *,
        stream: bool = False,
        **options: Unpack[ChatCompletionOptions],
    ) -> ChatCompletion | Iterator[ChatCompletionChunk]:
        """Answers a conversation; arguments and results as in OpenAI's API and llama-cpp-python.

        Returns a ChatCompletion, or with `stream` an iterator of its chunks. Sampling starts from
        the model card's values as in `chat`. The thought is in `reasoning_content` beside
        `content`. Arguments without a meaning here warn once.
        """
        from . import openai

        return openai.create(self, messages, stream, options)

    def create_chat_completion_openai_v1(
        self,
        messages: Sequence[Message],
        *,
        stream: bool = False,
        **options: Unpack[ChatCompletionOptions],
    ) -> Any:
        """`create_chat_completion` with the classes of the package `openai` as results.

        Raises:
            MissingExtra: that package is not installed.
        """
        from . import openai

        return openai.create_v1(self, messages, stream, options)

    def _chat(self) -> ChatModel:
        from .model import ChatModel

        if self._chat_model is None:
            self._chat_model = ChatModel(
                self._engine, self._end_tokens, self._limits, self._chat_template
            )
        return self._chat_model
