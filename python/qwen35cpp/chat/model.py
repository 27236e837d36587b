"""A model as a partner in a conversation: arguments of a chat -> ChatRequest -> answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .._engine import Engine
from .._request import prepare
from ..errors import InvalidArgument
from ..sampling import recommended
from .call_grammar import CallGrammar, is_strict
from .conversation import ChatRequest, ChatStream, answer
from .messages import Medium, Message, checked_list
from .overflow import drop_turns, room_for_prompt
from .pieces import Expand, as_given
from .render import Rendered, render
from .tools import Tool, parameters_of, tool_schemas
from .vocabulary import THINK, Vocabulary, thinks_by_default

if TYPE_CHECKING:
    from ..vision import Budget, Limits, PicturePrompt, Preset, View
    from .custom import ChatTemplate

_MOST_TEMPLATES = 4  # compiled at once; each has a process


def conversation(
    prompt: str | Sequence[Message], system: str | None, images: Any
) -> list[dict[str, Any]]:
    """The messages that a prompt, a system text and pictures stand for.

    Pictures go before the text of the last message, which must be the user's.
    """
    messages: list[dict[str, Any]]
    if isinstance(prompt, str):
        messages = [{"role": "user", "content": prompt}]
    else:
        messages = [dict(message) for message in checked_list(prompt)]
    if system is not None:
        if messages and messages[0].get("role") in ("system", "developer"):
            raise InvalidArgument("system was given, but the messages begin with a system message")
        messages.insert(0, {"role": "system", "content": system})
    pictures = list(images) if isinstance(images, (list, tuple)) else [images]
    pictures = [picture for picture in pictures if picture is not None]
    if pictures:
        if not messages or messages[-1].get("role") != "user":
            raise InvalidArgument("images belong to a message of the user at the end")
        content = messages[-1].get("content") or []
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
        shown = [{"type": "image", "image": picture} for picture in pictures]
        messages[-1] = {**messages[-1], "content": [*shown, *parts]}
    return messages


class ChatModel:
    """The chat side of an opened model."""

    def __init__(
        self,
        engine: Engine,
        end_tokens: frozenset[int],
        limits: Limits | None = None,
        chat_template: str | os.PathLike[str] | None = None,
    ) -> None:
        """`limits`, `chat_template`: see Llama."""
        self._engine = engine
        self._limits = limits
        self._end_tokens = end_tokens
        self.vocabulary = Vocabulary(engine.tokenize)
        self._templates: dict[str, ChatTemplate] = {}  # the last few, by their text
        self._template = self._compiled(chat_template)
        own = engine.metadata("tokenizer.chat_template")
        text = self._template.source if self._template else own
        self.thinks_by_default = thinks_by_default(text, engine.info)

    def _compiled(self, given: str | os.PathLike[str] | None) -> ChatTemplate | None:
        """The template that a caller wants, None for none."""
        if given is None:
            return None
        from .custom import ChatTemplate, template_text

        text = template_text(given, self._engine)
        found = self._templates.pop(text, None) or ChatTemplate(text, self.vocabulary)
        kept = list(self._templates.items())[-_MOST_TEMPLATES + 1 :]
        self._templates = dict([*kept, (text, found)])
        return found

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        thinking: bool | None = None,
        add_generation_prompt: bool = True,
        add_vision_id: bool = False,
        expand: Expand = as_given,
        check_count: Callable[[int], None] | None = None,
        chat_template: str | os.PathLike[str] | None = None,
    ) -> Rendered:
        """A conversation as token ids, see render.render; `thinking` None: as the model does."""
        template = self._compiled(chat_template) or self._template
        if thinking is None and template is None:
            thinking = self.thinks_by_default
        return render(
            messages,
            self.vocabulary,
            tools=tool_schemas(tools),
            thinking=thinking,
            add_generation_prompt=add_generation_prompt,
            add_vision_id=add_vision_id,
            expand=expand,
            template=template,
            check_count=check_count,
        )

    def _expand(self, budget: Budget | Preset, limits: Limits | None) -> Expand:
        """Decodes pictures and resizes them to the budget when they are rendered."""
        if budget != "default":  # one that does not exist is an error without pictures too
            from ..vision import budget_of

            budget_of(budget)

        def expand(medium: Medium) -> Sequence[tuple[str, View]]:
            from ..vision import budget_of  # not for text: it takes numpy

            self._engine.tower()  # a missing tower is said before pictures are decoded
            return _views(medium, budget_of(budget), self._limits_or(limits))

        return expand

    def _limits_or(self, limits: Limits | None) -> Limits:
        from ..vision.load import DEFAULT_LIMITS

        return limits or self._limits or DEFAULT_LIMITS

    def preparation(
        self, budget: Budget | Preset
    ) -> Callable[[Sequence[Message]], list[int] | PicturePrompt]:
        """Renders conversations for an answer without a thought; a picture is decoded once."""
        expand = self._expand(budget, None)
        opened: dict[tuple[Any, ...], Sequence[tuple[str, View]]] = {}
        kept: list[Any] = []  # so that no id is used again

        def expand_once(medium: Medium) -> Sequence[tuple[str, View]]:
            key = (medium.kind, id(medium.source), medium.options)
            if key not in opened:
                opened[key] = expand(medium)
                kept.append(medium.source)
            return opened[key]

        def prepare(messages: Sequence[Message]) -> list[int] | PicturePrompt:
            rendered = self.render(
                messages,
                thinking=False,
                expand=expand_once,
                check_count=lambda count: self._limits_or(None).check_count(count),
            )
            return _with_pictures(rendered)

        return prepare

    def request(
        self,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        *,
        seed: int | None,
        tools: Sequence[Tool] | None = None,
        think: bool | None = None,
        thinking_budget: int | None = None,
        forced_call: str | None = None,
        one_call: bool = False,
        add_vision_id: bool = False,
    ) -> ChatRequest:
        """Checks everything that can be checked before the model works."""
        if thinking_budget is not None:
            if thinking_budget < 0:
                raise InvalidArgument(f"thinking_budget must be at least 0, not {thinking_budget}")
            # A budget asks for a thought, one of nothing for none.
            think = False if thinking_budget == 0 else True if think is None else think
        schemas = tool_schemas(tools)
        if forced_call is not None:
            _check_forced(forced_call, parameters_of(schemas))
        rest = dict(options)
        limits = rest.pop("limits", None)
        expand = self._expand(rest.pop("budget", "default"), limits)
        template = rest.pop("chat_template", None)

        def rendered_of(some: Sequence[Message]) -> Rendered:
            return self.render(
                some,
                tools=schemas,
                thinking=think,
                add_vision_id=add_vision_id,
                expand=expand,
                chat_template=template,
                check_count=lambda count: self._limits_or(limits).check_count(count),
            )

        rendered = rendered_of(messages)
        overflow = rest.pop("overflow", "error")
        if overflow not in ("error", "drop"):
            raise InvalidArgument(f"overflow must be 'error' or 'drop', not {overflow!r}")
        if overflow == "drop":
            room = room_for_prompt(self._engine.n_ctx, rest.get("max_tokens"))
            messages, rendered = drop_turns(messages, rendered, rendered_of, room)
        bias = dict(rest.pop("logit_bias", None) or {})
        if not rendered.thinking:
            bias[self.vocabulary.id(THINK)] = float("-inf")
        own_seed = rest.pop("seed", None)
        request = prepare(
            self._engine,
            _with_pictures(rendered),
            recommended(self._engine.info, thinking=rendered.thinking),
            self._end_tokens,
            seed if own_seed is None else own_seed,
            logit_bias=bias,
            **rest,
        )
        grammar = None if request.format is None else request.format.grammar
        if schemas and (request.format is not None or any(map(is_strict, schemas))):
            grammar = CallGrammar(self.vocabulary).build(
                schemas, demanded=forced_call, one_call=one_call, answer=grammar
            )
            forced_call = None  # the grammar demands it
        return ChatRequest(
            request=request,
            messages=messages,
            parameters=parameters_of(schemas),
            thinking=rendered.thinking,
            thinking_budget=thinking_budget,
            forced_call=forced_call,
            one_call=one_call,
            grammar=grammar,
        )

    def answer(self, request: ChatRequest) -> ChatStream:
        """The answer, generated while it is read."""
        return ChatStream(answer(self._engine, self.vocabulary, request))


def _views(medium: Medium, budget: Budget, limits: Limits) -> Sequence[tuple[str, View]]:
    """What a picture or video is shown as, with the settings of its part of the message."""
    from ..vision import BUDGETS, Picture, View, as_video, video_parts

    options = dict(medium.options)
    if medium.kind == "video":
        total = options.pop("total_pixels", None)
        if total is not None:
            least = min(total, budget.min_video_pixels)
            budget = replace(budget, min_video_pixels=least, max_video_pixels=total)
        return video_parts(as_video(medium.source, **options), budget, limits)
    if options and isinstance(medium.source, View):
        raise InvalidArgument(f"{', '.join(options)}: a vision.Picture has its size already")
    if options.pop("detail", None) == "low":
        budget = BUDGETS["fast"]
    least, most = options.get("min_pixels"), options.get("max_pixels")
    return [("", Picture.open(medium.source, budget.of_one(least, most), limits))]


def _with_pictures(rendered: Rendered) -> list[int] | PicturePrompt:
    """The ids with the tokens of every picture in place of its placeholder."""
    if not rendered.media:
        return rendered.ids
    from ..vision import PicturePrompt

    return PicturePrompt.build(rendered.ids, [(each.index, each.source) for each in rendered.media])


def _check_forced(name: str, parameters: Mapping[str, Any]) -> None:
    if not parameters:
        raise InvalidArgument("tool_choice asks for a call, but there are no tools")
    if name and name not in parameters:
        raise InvalidArgument(f"tool_choice names {name!r}, which is not among the tools")
