"""The public class: open a model, generate, embed, evaluate; chat/methods.py has its chat.

Next: _generate.py is the generation loop, _engine.py the model and session behind it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

from ._bundled import tiny_path
from ._compat import TokenSettings, token_sampling, warn_ignored
from ._engine import Engine
from ._generate import Request, TextStream, generate, generate_tokens
from ._handles import DRAFTS, KV_TYPES, Model, Outputs
from ._handles import Session as NativeSession
from ._lazy_tower import find_tower
from ._load import (
    Wanted,
    decided,
    draft_sources,
    kept_pictures,
    plan,
    rope_factor,
    tower_shape,
)
from ._native import version
from ._prefix.fingerprint import fingerprint
from ._request import GenerateOptions, Progress, Prompt, Stop, draw_seed, prepare, utf8
from .chat.methods import ChatMethods
from .decisions.methods import DecisionMethods
from .errors import FileError, InvalidArgument, ModelNotFound, NotEnoughMemory
from .sampling import Sampling, recommended
from .types import Completion, EmbeddingResponse, ModelInfo, Text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from ._completion import CompletionOptions
    from ._load import RopeScaling
    from ._prefix.disk import DiskCache
    from ._tokenizer import Tokenizer
    from .session import Session, Snapshot
    from .vision import Budget, Limits, PicturePrompt, Preset, Source, View

    Floats = NDArray[np.float32]


Draft = Literal["auto", "off", "mtp", "lookup", "both"]


class LoadOptions(TypedDict, total=False):
    """The optional arguments of `Llama`."""

    n_ctx: int | None
    n_threads: int | None
    n_batch: int | None
    n_parallel: int
    seed: int | None
    kv_type: Literal["auto", "f16", "f32", "q8_0", "iq4_nl"]
    use_mmap: bool | None
    vocab_only: bool
    prefix_cache: bool
    prefix_cache_bytes: int | None
    picture_cache_bytes: int | None
    cache_dir: str | os.PathLike[str] | None
    memory_limit: int | None
    rope_scaling: RopeScaling
    draft: Draft
    mmproj: str | os.PathLike[str] | None
    chat_template: str | os.PathLike[str] | None
    limits: Limits | None
    verbose: bool


_END_TOKENS = ("<|im_end|>", "<|endoftext|>")


class Llama(ChatMethods, DecisionMethods):
    """A Qwen 3.5 model opened from a GGUF file.

    One object may be shared by any number of threads. Up to `n_parallel` calls run at once: those
    that generate share the reading of the weights, which makes two nearly as fast as one, and each
    gives what it would give alone. More calls wait in the order of their arrival. The GIL is
    released while the engine works. Ctrl-C stops a call within a fraction of a second, also in a
    long prompt, and the next call works. A stream counts as a call until it is read to its end or
    closed; a call from the thread that reads it raises SessionBusy when it would have to wait.

    What was read before is not read again: states are kept where prompts tend to part (after the
    system prompt with its tools, before and after each turn of the user, after pictures, within
    long text), and a prompt goes on from the last one that it has in common with those before it.
    The results are the same to the last bit as those of a prompt read from its start; only behind
    tokens that were drawn, as in a loop of tools, or where a text goes on at the very end of the
    prompt before, the engine may round differently in the last bits. A call waits for another that
    is just reading 256 tokens or more that it has to read as well, and reads on itself when that
    one fails or is stopped. `prefix_cache=False` reads every prompt from its start.

    Args:
        model_path: the GGUF file; for a sharded model any of its files.
        n_ctx: tokens of context; None is the model's native context, or what fits into the memory.
            Memory is taken as it fills.
        n_threads: None is one per physical core that this process may use; no more of them than
            CPUs work at a time.
        n_batch: tokens evaluated at once in prefill; bounds the scratch memory.
        n_parallel: calls that may run at once. Each takes a context of its own when calls overlap.
        seed: used by every call without a seed of its own; None draws a new one for each call.
        kv_type: how keys and values are stored: "auto", "f16", "f32", "q8_0" (half the memory of
            "f16" and faster in long contexts, slightly less exact) or "iq4_nl" (a quarter of it,
            for contexts that would not fit; the loss shows).
        use_mmap: map the weights instead of reading them; None lets the engine choose.
        vocab_only: read only the tokenizer and the shape of the model.
        prefix_cache: go on from what was read before, see above.
        prefix_cache_bytes: memory for states besides the contexts; what saves least work for its
            size is dropped first. None: 512 MiB, or a sixteenth of the machine's memory if less.
        cache_dir: a folder where states that took long to compute are kept as well, so that system
            prompts and tools are known after a restart. Files of 4 GiB at most, the oldest go.
        picture_cache_bytes: memory for pictures that were encoded. None: 256 MiB, or a sixteenth of
            `memory_limit` if less. The picture at work is kept in any case.
        memory_limit: bytes that this process may take: weights and vision tower, `n_parallel` full
            contexts, drafts, scratch, the prefix cache with the snapshots of sessions, and kept
            pictures. kv_type="auto" and n_ctx=None then choose what fits. What cannot fit is
            refused before weights are read, a picture or a snapshot that would go beyond it before
            it is worked on. Where a tower that was only found beside the model leaves no room,
            pictures are refused instead. Without a limit the memory that the machine has free
            decides: n_ctx=None is the longest context that fits, and refused is what cannot work.
        rope_scaling: "yarn" stretches the context four times, to 1,010,000 tokens and more; a
            mapping such as {"rope_type": "yarn", "factor": 2.0} by another factor. Short texts lose
            a little precision, so that it is off unless asked for.
        draft: where drafts come from: tokens that are guessed, and then checked several at once,
            which changes the speed and never the answer. "mtp" is the model's own layer for it,
            "lookup" what followed the last words earlier in the text; "both"; "auto", what the file
            has; or "off". What does not pay on this machine and in this text is left alone.
        mmproj: the vision tower's file. None looks for `mmproj-NAME.gguf` (or the only mmproj file)
            beside the model, then inside the model's own file, when the first picture comes.
        chat_template: renders conversations instead of the code of this package, for models whose
            format differs (extra `[template]`): the text of a Jinja template, the path of one, or
            "file" for the one in the model's file. MiniJinja runs it apart, with limits on steps,
            memory and length and without files. None, the default, runs no template. See
            chat/custom.py.
        limits: what pictures may cost, a vision.Limits: bytes, pixels, side, and how many in one
            prompt. None: 20 MiB, 64 megapixels, 16,384 pixels, 64 pictures.
        verbose: accepted for compatibility; the engine never prints.
        ignored: arguments of llama-cpp-python without a meaning here; each warns once.

    Raises:
        ModelNotFound: there is no such file.
        ModelInvalid, ModelUnsupported: the file is damaged, or nothing that this engine runs.
        NotEnoughMemory: see `memory_limit`; the hint names what fits.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        n_ctx: int | None = None,
        n_threads: int | None = None,
        n_batch: int | None = None,
        n_parallel: int = 4,
        seed: int | None = None,
        kv_type: Literal["auto", "f16", "f32", "q8_0", "iq4_nl"] = "auto",
        use_mmap: bool | None = None,
        vocab_only: bool = False,
        prefix_cache: bool = True,
        prefix_cache_bytes: int | None = None,
        picture_cache_bytes: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        memory_limit: int | None = None,
        rope_scaling: RopeScaling = None,
        draft: Draft = "auto",
        mmproj: str | os.PathLike[str] | None = None,
        chat_template: str | os.PathLike[str] | None = None,
        limits: Limits | None = None,
        verbose: bool = False,  # noqa: ARG002
        **ignored: object,
    ) -> None:
        warn_ignored("Llama", ignored)
        if kv_type not in KV_TYPES:
            raise InvalidArgument(f"kv_type must be one of {', '.join(KV_TYPES)}, not {kv_type!r}")
        if draft != "auto" and draft not in DRAFTS:
            known = ", ".join(["auto", *DRAFTS])
            raise InvalidArgument(f"draft must be one of {known}, not {draft!r}")
        if n_parallel < 1:
            raise InvalidArgument(f"n_parallel must be at least 1, not {n_parallel}")
        path = _existing(model_path)
        find_file = _tower_finder(model_path, mmproj)
        self.model_path = str(model_path)
        self.seed = seed
        self._limits = limits
        factor = rope_factor(rope_scaling)
        wanted = Wanted(
            n_ctx=n_ctx,
            kv_type=kv_type,
            n_batch=n_batch,
            n_parallel=n_parallel,
            draft=draft,
            n_threads=n_threads,
            prefix_cache_bytes=prefix_cache_bytes,
            picture_cache_bytes=picture_cache_bytes,
            memory_limit=memory_limit,
            mapped=bool(use_mmap),
            tower_named=mmproj is not None,
        )
        tower = None if vocab_only or memory_limit is None else tower_shape(find_file)
        planned = None if vocab_only else plan(path, factor, wanted, tower)
        model = Model(
            path,
            n_threads=n_threads,
            use_mmap=None if use_mmap is None else int(use_mmap),
            vocab_only=int(vocab_only),
            rope_factor=factor,
        )
        try:
            sizes = decided(model, planned, tower, wanted)
        except BaseException:
            model.close()
            raise
        drafts = DRAFTS[draft_sources(draft, model.info)]
        if tower is not None and not sizes.vision:
            find_file = _no_room_for(tower.bytes + sizes.encoding)
        settings = {
            "n_ctx": sizes.n_ctx,
            "n_batch": n_batch,
            "kv_type": KV_TYPES[sizes.kv_type],
            "draft": drafts,
        }
        has_mtp = drafts in (DRAFTS["mtp"], DRAFTS["both"])  # it has a cache of its own
        stored = (sizes.kv_type, has_mtp, rope_scaling, version())
        identity = functools.partial(fingerprint, Path(os.fsdecode(model_path)), *stored)
        self._engine = Engine(
            model,
            None if vocab_only else (lambda: NativeSession(model, **settings)),
            n_parallel=n_parallel,
            prefix_cache=prefix_cache,
            prefix_bytes=sizes.cache,
            fingerprint=identity,
            disk=None if cache_dir is None else _disk_cache(cache_dir, identity()),
            batch=n_batch or 512,
            find_tower=find_file,
            picture_bytes=kept_pictures(wanted),
            most_scratch=None if memory_limit is None else sizes.encoding,
            bounded=memory_limit is not None,
        )
        self._end_tokens = self._find_end_tokens()
        self._chat_template = chat_template
        if chat_template is not None:
            self._compile_template()

    def _compile_template(self) -> None:
        """Says what is wrong with a custom template before the first chat."""
        try:
            self._chat()
        except BaseException:
            self.close()
            raise

    @classmethod
    def tiny(cls, **options: Unpack[LoadOptions]) -> Llama:
        """Opens the small model that comes with the package: first steps without a download.

        It is a toy, trained by this project on a made-up world of short stories, questions about
        passages, tool calls and simple pictures. It knows nothing else; its model card has the
        scores. The options are those of Llama.
        """
        return cls(tiny_path(), **options)

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str | None = None,
        additional_files: Sequence[str] | None = None,
        local_dir: str | os.PathLike[str] | None = None,
        local_dir_use_symlinks: bool | Literal["auto"] = "auto",
        cache_dir: str | os.PathLike[str] | None = None,
        *,
        vision: bool = False,
        **options: Any,
    ) -> Llama:
        """Opens a model of a hub, downloaded when it is not here (extra `[hub]`).

        What is here is used without a look at the network. A download goes on where an earlier one
        broke off, and is checked.

        >>> Llama.from_pretrained("2b")
        >>> Llama.from_pretrained("unsloth/Qwen3.5-2B-GGUF", "*q8_0.gguf", n_ctx=8192)

        Args:
            repo_id: OWNER/NAME, or without `filename` a name as the command line takes it: "2b",
                "2b-q8_0", "OWNER/NAME:TYPE".
            filename: a file of the repository or a pattern of fnmatch that one file matches.
            additional_files: more GGUF files or patterns, such as "mmproj-F16.gguf".
            local_dir: a folder to keep the files in, instead of the cache.
            local_dir_use_symlinks: has no effect, as in the newer versions of huggingface_hub.
            cache_dir: the cache; None is the hub's own, shared with other programs.
            vision: get the vision tower too.
            options: as for Llama.

        Raises:
            MissingExtra: huggingface_hub is not installed and the model is not here.
            ModelNotFound: there is no such repository or file.
            FileError: network or disk; what has arrived is kept for the next try.
        """
        from .hub.pretrained import pretrained

        del local_dir_use_symlinks
        found = pretrained(repo_id, filename, additional_files, local_dir, cache_dir, vision)
        if found.mmproj is not None:
            options.setdefault("mmproj", found.mmproj)
        return cls(found.path, **options)

    # ---- generating -----------------------------------------------------------------------------

    @overload
    def generate(
        self, prompt: Prompt, *, stream: Literal[False] = False, **options: Unpack[GenerateOptions]
    ) -> Text: ...

    @overload
    def generate(
        self, prompt: Prompt, *, stream: Literal[True], **options: Unpack[GenerateOptions]
    ) -> TextStream: ...

    @overload
    def generate(
        self, prompt: Prompt, *, stream: bool, **options: Unpack[GenerateOptions]
    ) -> Text | TextStream: ...

    def generate(
        self,
        prompt: Prompt,
        *,
        stream: bool = False,
        max_tokens: int | None = None,
        sampling: Sampling | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: Stop = None,
        stop_token_ids: Iterable[int] = (),
        ignore_eos: bool = False,
        logprobs: int | None = None,
        logit_bias: Mapping[int, float] | None = None,
        special: bool = False,
        images: Sequence[Source | View] | None = None,
        budget: Budget | Preset = "default",
        limits: Limits | None = None,
        progress: Progress | None = None,
        schema: Any = None,
        regex: str | None = None,
        choice: Sequence[str] | None = None,
    ) -> Text | TextStream:
        """Continues a prompt.

        Sampling starts from what the model's card recommends (or from `sampling`), and every
        setting given here replaces its value. temperature=0 takes the most likely token, without
        the card's penalties.

        Args:
            prompt: text, UTF-8 bytes or token ids.
            stream: return an iterator of chunks instead of the whole text.
            max_tokens: None generates until the model ends its text or the context is full.
            sampling: settings to start from.
            temperature: see Sampling, as the six settings that follow.
            top_k: see Sampling.
            top_p: see Sampling.
            min_p: see Sampling.
            presence_penalty: see Sampling.
            frequency_penalty: see Sampling.
            repetition_penalty: see Sampling.
            seed: the same seed gives the same text; the result's `seed` has the one used.
            stop: strings that end the text; they are not part of it.
            stop_token_ids: token ids that end the text, besides the model's own.
            ignore_eos: go on when the model ends its text.
            logprobs: report every token's log-probability and this many alternatives (0 to 20).
            logit_bias: values to add to the logits of tokens.
            special: recognise control tokens such as <|im_start|> in a text prompt and show them
                in the answer. Leave it off for text that comes from users.
            images: pictures for the <|image_pad|> and <|video_pad|> tokens of the prompt, in order,
                each a path, encoded bytes, a data URL, a PIL.Image or an array (see
                vision.open_picture), or a vision.Picture, which may hold two frames of a video.
            budget: sizes that pictures are stretched to: "fast", "default", "grounding" or a
                vision.Budget, which also bounds videos in a chat.
            limits: what pictures may cost; None: as `Llama` was told.
            progress: called with (tokens done, tokens in total) while a long prompt is evaluated,
                and with 0 done while another call reads what this one goes on from. Half of a
                picture's tokens count as done when the vision tower has encoded it.
            schema: the text must be JSON that follows this schema: a mapping, or a class (pydantic
                model, msgspec.Struct, dataclass, TypedDict) of which `parsed` of the result is an
                instance. Nothing tells the model about it: say in the prompt what you want.
            regex: the text must match this regular expression, in Rust's syntax, from start to end.
            choice: the text must be one of these.

        Raises:
            SchemaError: a schema, regex or choice that cannot be enforced; nothing is generated.
            AnswerInvalid: the text does not follow its schema (a bug in the libraries behind it).
            MissingExtra: schema, regex and choice need the extra "schema".
        """
        tokens = self._prompt_tokens(prompt, special)
        request = self._generation(
            self._with_images(tokens, images, budget, limits) if images else tokens,
            seed=seed,
            max_tokens=max_tokens,
            sampling=sampling,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            repetition_penalty=repetition_penalty,
            stop=stop,
            stop_token_ids=stop_token_ids,
            ignore_eos=ignore_eos,
            logprobs=logprobs,
            logit_bias=logit_bias,
            special=special,
            progress=progress,
            schema=schema,
            regex=regex,
            choice=choice,
        )
        answer = TextStream(generate(self._engine, request))
        return answer if stream else answer.drain()

    def _generation(
        self,
        tokens: list[int] | PicturePrompt,
        *,
        seed: int | None = None,
        **options: Any,
    ) -> Request:
        """A request to continue tokens, with the options of `generate` except for pictures."""
        card, own = recommended(self.info), self.seed if seed is None else seed
        return prepare(self._engine, tokens, card, self._end_tokens, own, **options)

    def generate_tokens(
        self,
        tokens: Sequence[int],
        *,
        seed: int | None = None,
        **settings: Unpack[TokenSettings],
    ) -> Generator[int, Sequence[int] | None, None]:
        """Yields token ids behind `tokens` until the context is full: llama-cpp-python's generate.

        The token that ends a text is yielded as any other: compare with `token_eos()` and leave the
        loop. Tokens that the caller sends into the generator are put behind the last one.
        """
        request = prepare(
            self._engine,
            list(tokens),
            token_sampling(self, settings),
            frozenset(),
            self.seed if seed is None else seed,
        )
        return generate_tokens(self._engine, request)

    @overload
    def create_completion(
        self,
        prompt: Prompt,
        *,
        stream: Literal[False] = False,
        **options: Unpack[CompletionOptions],
    ) -> Completion: ...

    @overload
    def create_completion(
        self, prompt: Prompt, *, stream: Literal[True], **options: Unpack[CompletionOptions]
    ) -> Iterator[Completion]: ...

    @overload
    def create_completion(
        self, prompt: Prompt, *, stream: bool, **options: Unpack[CompletionOptions]
    ) -> Completion | Iterator[Completion]: ...

    def create_completion(
        self, prompt: Prompt, *, stream: bool = False, **options: Unpack[CompletionOptions]
    ) -> Completion | Iterator[Completion]:
        """Continues a prompt; arguments and results as in llama-cpp-python and OpenAI's API.

        Returns a Completion, or with `stream` an iterator of them. Sampling starts from the model
        card's values as in `generate`. Arguments without a meaning here warn once.
        """
        from . import _completion

        return _completion.create(self, prompt, stream, options)

    # The call is the same function, so that its types are the same too.
    __call__ = create_completion

    def cancel(self) -> None:
        """Makes the calls that now run in other threads raise Cancelled."""
        self._engine.cancel()

    # ---- embedding and evaluating ---------------------------------------------------------------

    def embed(
        self,
        texts: str | Sequence[Prompt] | None = None,
        *,
        images: Source | View | Sequence[Source | View] | None = None,
        budget: Budget | Preset = "default",
        pooling: Literal["mean", "last"] = "mean",
        normalize: bool = True,
        truncate: bool = False,
        progress: Progress | None = None,
    ) -> Floats:
        """Vectors of texts or of images, from the states after the last layer.

        Returns float32 [n, hidden size], for a single str or picture float32 [hidden size].

        They are what a generative model knows at the end of its reading: near for near copies and
        for like things, good as features for a classifier of one's own. They are not the output of
        an embedding model: nothing was trained to bring an image and its description together, so
        do not compare vectors of images with those of texts, or of different models.

        Args:
            texts: one text or several. An empty one counts as the end-of-text token.
            images: one picture or several in the forms of `generate`, in place of texts; each is
                read alone between its vision markers.
            budget: of the images, see `generate`.
            pooling: the mean over the tokens or the last token's state.
            normalize: scale the vectors to length 1.
            truncate: cut texts that the context does not hold instead of raising ContextTooLong.
            progress: called with (items done, items in total), and while an image is encoded.

        Raises:
            VisionMissing: the model has no vision tower.
        """
        if (texts is None) == (images is None):
            raise InvalidArgument("embed takes either texts or images")
        prompts: list[list[int] | PicturePrompt]
        if images is not None:
            several: Sequence[Any] = images if isinstance(images, (list, tuple)) else [images]
            marked = self.tokenize("<|vision_start|><|image_pad|><|vision_end|>", special=True)
            prompts = [self._with_images(marked, [image], budget) for image in several]
        else:
            items = [texts] if isinstance(texts, str) else list(texts or ())
            longest = self.n_ctx() if truncate else None
            rows = (self._prompt_tokens(item, False) or [self._empty_token()] for item in items)
            prompts = [tokens[:longest] for tokens in rows]
        from . import _embed

        vectors = _embed.embed(self._engine, prompts, pooling, normalize, progress)
        single = isinstance(texts, str) or (texts is None and not isinstance(images, (list, tuple)))
        return vectors[0] if single else vectors

    def create_embedding(
        self,
        input: str | Sequence[Prompt],  # noqa: A002 - OpenAI's name
        model: str | None = None,
    ) -> EmbeddingResponse:
        """`embed` in the shape of OpenAI's API."""
        from . import _completion

        return _completion.create_embedding(self, input, model)

    def eval(
        self, tokens: Sequence[int], *, all_logits: bool = False, progress: Progress | None = None
    ) -> Floats:
        """Evaluates tokens after those evaluated before and returns logits.

        Returns float32 [n_vocab], the logits that predict the next token, or with `all_logits` one
        row for each token: [len(tokens), n_vocab]. See `reset` and `n_tokens`.
        """
        import numpy as np

        ids = list(tokens)
        if not ids:
            raise InvalidArgument("there are no tokens to evaluate")
        with self._engine.hold_first() as held:
            rows = len(ids) if all_logits else 1
            logits = np.empty((rows, self.info.n_vocab), np.float32)
            want = b"\1" * rows if all_logits else None
            held.slot.eval(ids, Outputs(want=want, logits=logits), progress)
        return logits if all_logits else logits[0]

    def sample(self, *, seed: int | None = None, **settings: Unpack[TokenSettings]) -> int:
        """A token drawn from the logits of the last `eval`; it is not evaluated.

        The penalties count every token evaluated.

        Raises:
            InvalidArgument: nothing was evaluated since the last reset.
        """
        start = draw_seed(self.seed if seed is None else seed)
        sampling = token_sampling(self, settings)
        with self._engine.hold_first() as held:
            return held.slot.sample_once(self._engine.model, sampling, start)

    def reset(self) -> None:
        """Forgets every token evaluated, also those of the prefix cache in memory."""
        with self._engine.hold_first() as held:
            held.slot.reset(forget=True)

    @property
    def n_tokens(self) -> int:
        """Tokens evaluated so far: the position of the next one."""
        with self._engine.hold_first() as held:
            return held.slot.position

    # ---- keeping a state ------------------------------------------------------------------------

    def session(self, *, system: str | None = None) -> Session:
        """A text or conversation of its own that can be kept, branched and saved, see Session.

        `system` are instructions before the conversation.
        """
        from .session import Session

        return Session(self, system=system)

    def save_state(self) -> Snapshot:
        """What `eval` has made of the tokens so far, for `load_state`; also of calls before."""
        from .session import Snapshot

        self._engine.check_pins()
        with self._engine.hold_first() as held, held.slot.alive, held.slot.lock:
            timeline = held.slot.timeline
            return Snapshot(timeline.tokens, (), timeline.keep(pinned=True))

    def load_state(self, state: Snapshot) -> None:
        """Goes to where `save_state`, or a session's snapshot, was taken: `eval` goes on there."""
        self._engine.check_node(state._node)
        with self._engine.hold_first() as held:
            with held.slot.alive, held.slot.lock:
                if state._node is None:
                    held.slot.timeline.reset()
                else:
                    held.slot.timeline.go(state._node)
            ahead = state._tokens[held.slot.position :]
            if ahead:
                held.slot.eval(ahead)

    # ---- text and tokens ------------------------------------------------------------------------

    def tokenize(
        self, text: str | bytes, add_bos: bool = False, special: bool = False
    ) -> list[int]:
        """Token ids of a text.

        `special` recognises control tokens such as <|im_start|>; without it they are ordinary text.
        `add_bos` has no effect: this family has no such token.
        """
        del add_bos
        return self._engine.tokenize(utf8(text), special)

    def detokenize(
        self,
        tokens: Iterable[int],
        prev_tokens: Sequence[int] | None = None,
        special: bool = False,
    ) -> bytes:
        """The bytes of tokens, possibly ending within a character; control tokens if `special`.

        `prev_tokens` has no effect: in this vocabulary no token depends on the one before it.
        """
        del prev_tokens
        pieces = (self._engine.token_bytes(token) for token in tokens)
        return b"".join(data for data, is_control in pieces if special or not is_control)

    def decode(self, tokens: Iterable[int], special: bool = False) -> str:
        """`detokenize` as text; bytes that form no character become U+FFFD."""
        return self.detokenize(tokens, special=special).decode("utf-8", "replace")

    def tokenizer(self) -> Tokenizer:
        """`tokenize` and `decode` as an object with `encode` and `decode`."""
        from ._tokenizer import Tokenizer

        return Tokenizer(self)

    # ---- the model ------------------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo:
        """Shape and size of the model."""
        return self._engine.info

    @property
    def n_threads(self) -> int:
        """Threads that the engine uses, the caller's included."""
        return self._engine.model.n_threads

    @property
    def context_memory(self) -> tuple[int, int]:
        """Bytes of address space reserved for the context and bytes used so far."""
        return self._engine.memory()

    def metadata(self, key: str) -> str | None:
        """A string of the file's metadata such as "general.name"; None when absent."""
        return self._engine.metadata(key)

    def n_ctx(self) -> int:
        """Tokens that the context holds."""
        return self._engine.n_ctx

    def n_vocab(self) -> int:
        """Rows of the vocabulary."""
        return self.info.n_vocab

    def n_embd(self) -> int:
        """The hidden size: the length of an embedding."""
        return self.info.n_embd

    def token_eos(self) -> int:
        """The token that ends a turn, -1 when the file names none."""
        return self.info.eos_token

    def token_bos(self) -> int:
        """-1: this family has no token that begins a text."""
        return -1

    def token_nl(self) -> int:
        """The token of a line break."""
        return self.tokenize("\n")[-1]

    def set_seed(self, seed: int | None) -> None:
        """The seed of every call without one of its own; None draws a new one for each call."""
        self.seed = seed

    def set_cache(self, cache: object) -> None:
        """For code written for llama-cpp-python: what was evaluated is kept anyway."""
        del cache
        warn_ignored("set_cache", {"cache": None})

    def close(self) -> None:
        """Frees the model; calls that run in other threads end with SessionClosed."""
        self._engine.close()

    def __enter__(self) -> Llama:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Llama({self.model_path!r}, n_ctx={self.n_ctx()}, n_threads={self.n_threads})"

    # ---- arguments ------------------------------------------------------------------------------

    def _find_end_tokens(self) -> frozenset[int]:
        found = {self.info.eos_token} if self.info.eos_token >= 0 else set()
        for name in _END_TOKENS:
            ids = self.tokenize(name, special=True)
            if len(ids) == 1:
                found.add(ids[0])
        return frozenset(found)

    def _empty_token(self) -> int:
        ids = self.tokenize("<|endoftext|>", special=True)
        return ids[0] if len(ids) == 1 else max(self.info.eos_token, 0)

    def _with_images(
        self,
        tokens: list[int],
        images: Sequence[Source | View],
        budget: Budget | Preset,
        limits: Limits | None = None,
    ) -> PicturePrompt:
        """The prompt with pictures in place of its <|image_pad|> tokens."""
        from .vision import Picture, PicturePrompt, budget_of
        from .vision.load import DEFAULT_LIMITS

        self._engine.tower()  # a missing tower is said before pictures are decoded
        sizes = budget_of(budget)
        found = [self.tokenize(f"<|{kind}_pad|>", special=True) for kind in ("image", "video")]
        pads = {ids[0] for ids in found if len(ids) == 1}
        allowed = limits or self._limits or DEFAULT_LIMITS
        allowed.check_count(len(images))
        pictures = [Picture.open(image, sizes, allowed) for image in images]
        return PicturePrompt.fill(tokens, pads, pictures)

    def _prompt_tokens(self, prompt: Prompt, special: bool) -> list[int]:
        if isinstance(prompt, (str, bytes)):
            return self._engine.tokenize(utf8(prompt), special)
        return list(prompt)


def _existing(path: str | os.PathLike[str]) -> bytes:
    """The path for the C API; an error with the models nearby when there is no such file."""
    file = Path(path)
    if not file.exists():
        nearby = sorted(file.parent.glob("*.gguf"))[:5] if file.parent.is_dir() else []
        hint = f"in that folder: {', '.join(f.name for f in nearby)}" if nearby else None
        from .hub.names import parse

        if parse(str(path)) is not None:
            hint = f"Llama.from_pretrained({str(path)!r}) opens a model by its name"
        raise ModelNotFound(f"there is no file {str(file)!r}", hint=hint)
    return os.fsencode(file)


def _disk_cache(folder: str | os.PathLike[str], model: str) -> DiskCache:
    from ._prefix.disk import DiskCache

    try:
        return DiskCache(Path(os.fsdecode(folder)), model)
    except OSError as error:
        raise FileError(f"cache_dir: {error}") from error


def _tower_finder(
    model_path: str | os.PathLike[str], mmproj: str | os.PathLike[str] | None
) -> Callable[[], Path]:
    """Finds the vision file when it is needed; a named one must be there now."""
    named = None if mmproj is None else Path(os.fsdecode(mmproj))
    if named is not None and not named.is_file():
        raise ModelNotFound(f"no vision file at {named}")

    return lambda: find_tower(Path(os.fsdecode(model_path)), named)


def _no_room_for(tower: int) -> Callable[[], Path]:
    """In place of finding a tower that the memory limit leaves out."""

    def refuse() -> Path:
        raise NotEnoughMemory(
            f"the vision tower takes {tower / 1e9:.2f} GB, memory_limit leaves less",
            hint="give a larger memory_limit, or name the tower with mmproj: contexts get less",
        )

    return refuse
