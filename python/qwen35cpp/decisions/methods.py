"""The decision methods of Llama: arguments and documentation.

DecisionMethods is a base class of Llama and not of use without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .._engine import Engine
    from .._request import Progress
    from ..chat.messages import Message
    from ..chat.model import ChatModel
    from ..vision import Budget, Preset
    from .decide import Decision


class DecisionMethods:
    """Decisions, classification, likelihoods and ranking."""

    _engine: Engine

    def _chat(self) -> ChatModel:
        raise NotImplementedError

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
        from .decide import Decider, Options
        from .fields import asked

        given = {**(fields or {}), **more_fields}
        options = Options(length_normalize, calibrate)
        model = self._chat()
        questions = [asked(name, field) for name, field in given.items()]
        decider = Decider(self._engine, model, questions, options)
        messages = conversation(prompt, system, images)
        return decider.decide(messages, model.preparation(budget), progress)
