"""The decision methods of Llama: arguments and documentation.

DecisionMethods is a base class of Llama and not of use without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from ..errors import InvalidArgument

if TYPE_CHECKING:
    from .._engine import Engine
    from .._request import Progress, Prompt
    from ..chat.messages import Message
    from ..chat.model import ChatModel
    from ..llama import Llama
    from ..vision import Budget, Preset
    from .decide import Decider, Decision, Label
    from .rank import Method, Ranked
    from .score import Score


class DecisionMethods:
    """Decisions, classification, likelihoods and ranking."""

    _engine: Engine

    if TYPE_CHECKING:

        def _chat(self) -> ChatModel: ...

        def _prompt_tokens(self, prompt: Prompt, special: bool) -> list[int]: ...

    def decide(
        self,
        prompt: str | Sequence[Message],
        fields: Mapping[str, Any] | None = None,
        *,
        system: str | None = None,
        images: Any = (),
        budget: Budget | Preset = "default",
        length_normalize: bool = False,
        calibrate: bool = False,
        progress: Progress | None = None,
        **more_fields: Any,
    ) -> Decision:
        """Decides between given answers by how likely the model thinks each, without generating.

        >>> d = llm.decide("The app crashes!", team=["billing", "bug"], urgent=bool)
        >>> d.team, d.urgent, d.probabilities["team"]["bug"]

        The text is read once for all fields, and each field is decided on its own: its
        probabilities are those of its answers alone and sum to 1.

        Args:
            prompt: a text, or messages of which the last is the user's.
            fields: what to decide, by name: a list of answers, a mapping from values to the texts
                that stand for them, `bool`, a `range` of numbers, an Enum, a Literal, or a Field
                with a question of its own.
            system: instructions that go before the messages.
            images: as in `chat`.
            budget: as in `generate`, for the images.
            length_normalize: compare mean log-probabilities of tokens, so that long answers are not
                less likely for their length.
            calibrate: compare with how likely each answer is for a text that says nothing.
            progress: called with (tokens done, tokens in total) while a long text is read.
            more_fields: fields as keyword arguments.

        Raises:
            InvalidArgument: there is nothing to decide between; the text says where.
            ContextTooLong: the text does not fit into the context.
        """
        from ..chat.model import conversation

        decider = self.decider(
            fields,
            system=system,
            budget=budget,
            length_normalize=length_normalize,
            calibrate=calibrate,
            **more_fields,
        )
        return decider(conversation(prompt, None, images), progress=progress)

    def decider(
        self,
        fields: Mapping[str, Any] | None = None,
        *,
        system: str | None = None,
        budget: Budget | Preset = "default",
        length_normalize: bool = False,
        calibrate: bool = False,
        **more_fields: Any,
    ) -> Decider:
        """`decide` prepared for many texts: call the result with a text or with messages.

        The arguments are those of `decide`.
        """
        from .decide import Decider, Options
        from .fields import asked

        given = {**(fields or {}), **more_fields}
        questions = [asked(name, field) for name, field in given.items()]
        options = Options(system, budget, length_normalize, calibrate)
        return Decider(self._engine, self._chat(), questions, options)

    def classify(
        self,
        texts: str | Sequence[str],
        labels: Any,
        *,
        question: str | None = None,
        system: str | None = None,
        length_normalize: bool = False,
        calibrate: bool = False,
        progress: Progress | None = None,
    ) -> list[Label]:
        """The likeliest of a few labels for each text, with the probabilities of all.

        >>> [label] = llm.classify("Where is my parcel?", ["billing", "shipping"])
        >>> label, label.probability

        Args:
            texts: one text or several.
            labels: the answers of a field of `decide`.
            question: what to ask, with the labels named; None: "Which label fits? ...".
            system: instructions that go before every text.
            length_normalize: as in `decide`.
            calibrate: as in `decide`.
            progress: called with (texts done, texts in total).
        """
        from .decide import Label
        from .fields import Field

        decider = self.decider(
            {"label": Field(labels, question)},
            system=system,
            length_normalize=length_normalize,
            calibrate=calibrate,
        )
        items = [texts] if isinstance(texts, str) else list(texts)
        found = []
        for done, text in enumerate(items, 1):
            found.append(Label.of(decider(text), "label"))
            if progress is not None:
                progress(done, len(items))
        return found

    def score(
        self,
        prompt: Prompt | Sequence[Message],
        continuation: Prompt,
        *,
        system: str | None = None,
        progress: Progress | None = None,
    ) -> Score:
        """How likely a continuation is, token by token.

        Prompt and continuation are turned into tokens apart: a word that spans the border is not
        one token as it might be in one text. `tokenize` them yourself to have it otherwise.

        Args:
            prompt: text, bytes or token ids; or messages: then the continuation is an answer
                without a thought.
            continuation: text, bytes or token ids.
            system: with messages only, as in `chat`.
            progress: called with (tokens done, tokens in total) while a long prompt is read.
        """
        from .score import score

        if _is_messages(prompt):
            from ..chat.model import conversation

            messages = conversation(prompt, system, ())
            before = self._chat().render(messages, thinking=False).ids
        elif system is not None:
            raise InvalidArgument("system belongs to messages: the prompt is a text")
        else:
            before = self._prompt_tokens(cast("Prompt", prompt), False)
        after = self._prompt_tokens(continuation, False)
        return score(self._engine, before, after, progress)

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        method: Method = "query",
        progress: Progress | None = None,
    ) -> list[Ranked]:
        """The documents in the order of their use for a query, best first.

        Args:
            query: a question.
            documents: texts; each is read once.
            method: how a document is judged, see decisions/rank.py for measurements: "query", by
                how likely the query is behind it; "yes", by asking the model; or "embedding", by
                the cosine of `embed`'s vectors.
            progress: called with (documents done, documents in total).
        """
        from .rank import rank

        return rank(cast("Llama", self), query, documents, method, progress)


def _is_messages(prompt: Any) -> TypeGuard[Sequence[Message]]:
    return isinstance(prompt, (list, tuple)) and bool(prompt) and isinstance(prompt[0], Mapping)
