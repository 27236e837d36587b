"""The public class on a small random model: text, streams, seeds, stops, log-probabilities."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qwen35cpp import (
    Chunk,
    ContextTooLong,
    InvalidArgument,
    Llama,
    ModelInvalid,
    ModelNotFound,
    Qwen35Error,
    Sampling,
    SessionBusy,
    SessionClosed,
    Text,
    recommended,
)

PROMPT = "Hello world, this is a test of the new engine."


def sampled(llama: Llama, seed: int, **options: object) -> Text:
    options = {"max_tokens": 24, "ignore_eos": True, "seed": seed, **options}
    return llama.generate(PROMPT, **options)  # type: ignore[no-any-return, call-overload]


# ---- text and streams ---------------------------------------------------------------------------


def test_generate_returns_text_with_its_figures(llama: Llama) -> None:
    text = llama.generate(PROMPT, max_tokens=10, temperature=0, ignore_eos=True)
    assert isinstance(text, str)
    assert len(text.tokens) == 10
    assert text.finish_reason == "length"
    assert text.usage.prompt_tokens == len(llama.tokenize(PROMPT))
    assert text.usage.completion_tokens == 10
    assert text.usage.total_tokens == text.usage.prompt_tokens + 10
    assert text.timings.prefill_per_second > 0
    assert text.timings.decode_per_second > 0
    assert text.logprobs is None
    assert str(text) == llama.decode(text.tokens)


def test_stream_gives_the_same_text_in_pieces(llama: Llama) -> None:
    whole = sampled(llama, 3, max_tokens=60)
    llama.reset()
    stream = llama.generate(PROMPT, stream=True, max_tokens=60, ignore_eos=True, seed=3)
    chunks = list(stream)
    assert all(isinstance(chunk, Chunk) for chunk in chunks)
    assert "".join(chunks) == whole
    assert [token for chunk in chunks for token in chunk.tokens] == whole.tokens
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == "length"
    assert stream.result == whole
    assert stream.result is not None
    assert stream.result.tokens == whole.tokens


def test_prompts_may_be_text_bytes_or_tokens(llama: Llama) -> None:
    texts = []
    for prompt in (PROMPT, PROMPT.encode(), llama.tokenize(PROMPT)):
        llama.reset()
        texts.append(llama.generate(prompt, max_tokens=8, temperature=0, ignore_eos=True))
    assert texts[0].tokens == texts[1].tokens == texts[2].tokens


def test_chunks_are_valid_text_when_characters_span_tokens(llama: Llama) -> None:
    # Every byte is a token of its own, so a bias can force a character of four bytes.
    wanted = "\N{GRINNING FACE}"
    ids = [llama.tokenize(bytes([b]) if b < 128 else b"x")[0] for b in b"x"]
    assert llama.decode(ids) == "x"
    tokens = llama.tokenize(wanted)
    assert llama.detokenize(tokens) == wanted.encode()
    pieces = list(llama.generate(PROMPT, stream=True, max_tokens=80, ignore_eos=True, seed=1))
    assert "".join(pieces).encode("utf-8").decode("utf-8") == "".join(pieces)


# ---- seeds and settings -------------------------------------------------------------------------


def test_the_seed_decides_the_text(llama: Llama) -> None:
    first, other = sampled(llama, 1), sampled(llama, 2)
    llama.reset()
    again = sampled(llama, 1)
    assert first.tokens == again.tokens
    assert first.tokens != other.tokens
    assert first.seed == 1


def test_a_seed_drawn_by_the_engine_is_reported(llama: Llama) -> None:
    first = llama.generate(PROMPT, max_tokens=16, ignore_eos=True)
    llama.reset()
    assert sampled(llama, first.seed, max_tokens=16).tokens == first.tokens


def test_temperature_zero_takes_the_largest_logit(llama: Llama) -> None:
    text = llama.generate(PROMPT, max_tokens=24, temperature=0, ignore_eos=True)
    llama.reset()
    logits = llama.eval(llama.tokenize(PROMPT))
    for token in text.tokens:
        used = [t for t in range(llama.n_vocab()) if llama.detokenize([t], special=True)]
        assert token == used[int(np.argmax(logits[used]))]
        logits = llama.eval([token])


def test_logit_bias_forces_and_forbids(llama: Llama) -> None:
    forced = llama.tokenize("x")[0]
    text = llama.generate(PROMPT, max_tokens=5, temperature=0, logit_bias={forced: 1e4})
    assert text.tokens == [forced] * 5
    free = llama.generate(PROMPT, max_tokens=1, temperature=0, ignore_eos=True).tokens[0]
    other = llama.generate(
        PROMPT, max_tokens=1, temperature=0, ignore_eos=True, logit_bias={free: -1e4}
    )
    assert other.tokens[0] != free


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
def test_penalties_lower_the_logits_of_generated_tokens(llama: Llama, name: str) -> None:
    options = {name: 2.0}
    text = llama.generate(PROMPT, max_tokens=24, temperature=0, ignore_eos=True, **options)  # type: ignore[call-overload]
    llama.reset()
    used = [t for t in range(llama.n_vocab()) if llama.detokenize([t], special=True)]
    logits = llama.eval(llama.tokenize(PROMPT))
    counts = np.zeros(llama.n_vocab(), np.float32)
    for token in text.tokens:
        lowered = logits - 2 * (counts if name == "frequency_penalty" else np.minimum(counts, 1))
        assert token == used[int(np.argmax(lowered[used]))]
        counts[token] += 1
        logits = llama.eval([token])


def test_settings_start_from_the_model_card(llama: Llama) -> None:
    sizes = {n: recommended(replace(llama.info, n_embd=n)) for n in (1024, 2048, 2560, 4096)}
    assert sizes[1024] == sizes[2048] == Sampling(presence_penalty=2.0)
    assert sizes[2560] == sizes[4096]
    assert sizes[4096] == Sampling(temperature=0.7, top_p=0.8, presence_penalty=1.5)
    assert recommended(llama.info, thinking=True).top_p == 0.95
    assert Sampling().updated(top_k=None, temperature=0.0) == Sampling(temperature=0.0)


# ---- stops --------------------------------------------------------------------------------------


def test_a_stop_string_across_pieces_ends_the_text_before_it(llama: Llama) -> None:
    whole = sampled(llama, 5, max_tokens=60)
    # Most tokens of the model are single characters. A replacement character stands for bytes that
    # no stop string can hold.
    windows = (whole[i : i + 3] for i in range(8, len(whole) - 3))
    stop = next(w for w in windows if "\ufffd" not in w)
    expected = whole[: whole.index(stop)]
    llama.reset()
    text = sampled(llama, 5, max_tokens=60, stop=[stop, "never to be seen"])
    assert text == expected
    assert text.finish_reason == "stop"
    assert text.stop_reason == stop
    llama.reset()
    chunks = llama.generate(PROMPT, stream=True, max_tokens=60, ignore_eos=True, seed=5, stop=stop)
    assert "".join(chunks) == expected


def test_a_stop_token_ends_the_text(llama: Llama) -> None:
    whole = sampled(llama, 6)
    stop = next(t for i, t in enumerate(whole.tokens) if i > 3 and t not in whole.tokens[:i])
    llama.reset()
    text = sampled(llama, 6, stop_token_ids=[stop])
    assert text.tokens == whole.tokens[: whole.tokens.index(stop)]
    assert text.stop_reason == stop
    assert text.finish_reason == "stop"


@pytest.mark.parametrize("name", ["<|im_end|>", "<|endoftext|>"])
def test_the_tokens_of_the_model_end_the_text(llama: Llama, name: str) -> None:
    (token,) = llama.tokenize(name, special=True)
    text = llama.generate(PROMPT, max_tokens=5, temperature=0, logit_bias={token: 1e4})
    assert text == ""
    assert (text.finish_reason, text.stop_reason) == ("stop", token)
    going_on = llama.generate(
        PROMPT, max_tokens=5, temperature=0, logit_bias={token: 1e4}, ignore_eos=True
    )
    assert going_on.tokens == [token] * 5
    assert going_on == ""  # control tokens are not text


def test_an_empty_stop_string_is_refused(llama: Llama) -> None:
    with pytest.raises(InvalidArgument, match="stop string is empty"):
        llama.generate(PROMPT, stop=["a", ""])


# ---- log-probabilities --------------------------------------------------------------------------


def test_logprobs_are_those_of_the_logits(llama: Llama) -> None:
    text = llama.generate(
        PROMPT, max_tokens=4, temperature=0, logprobs=20, ignore_eos=True, presence_penalty=0
    )
    assert text.logprobs is not None
    llama.reset()
    logits = llama.eval(llama.tokenize(PROMPT)).astype(np.float64)
    used = [t for t in range(llama.n_vocab()) if llama.detokenize([t], special=True)]
    for entry, token in zip(text.logprobs, text.tokens, strict=True):
        assert entry.token == token
        assert entry.piece == llama.detokenize([token], special=True)
        normal = logits - np.logaddexp.reduce(logits[used])
        assert entry.logprob == pytest.approx(normal[token], abs=1e-3)
        assert entry.top[0].token == token
        assert len(entry.top) == 20
        values = [t.logprob for t in entry.top]
        assert values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) <= 1 + 1e-5
        assert values == pytest.approx([normal[t.token] for t in entry.top], abs=1e-3)
        logits = llama.eval([token]).astype(np.float64)


def test_asking_for_logprobs_changes_nothing(llama: Llama) -> None:
    plain = sampled(llama, 9)
    llama.reset()
    assert sampled(llama, 9, logprobs=0).tokens == plain.tokens


# ---- prefix reuse -------------------------------------------------------------------------------


def test_a_longer_prompt_goes_on_from_the_tokens_evaluated(llama: Llama) -> None:
    first = llama.generate(PROMPT, max_tokens=8, temperature=0, ignore_eos=True)
    known = llama.tokenize(PROMPT) + first.tokens[:-1]
    assert llama.n_tokens == len(known)
    longer = [*known, *llama.tokenize(" and more")]
    second = llama.generate(longer, max_tokens=4, temperature=0, ignore_eos=True)
    assert second.usage.cached_tokens == len(known)
    assert second.timings.prefill_tokens == len(longer) - len(known)
    llama.reset()
    fresh = llama.generate(longer, max_tokens=4, temperature=0, ignore_eos=True)
    assert fresh.usage.cached_tokens == 0
    assert fresh.tokens == second.tokens


def test_another_prompt_starts_anew(llama: Llama) -> None:
    llama.generate(PROMPT, max_tokens=4, ignore_eos=True)
    other = llama.generate("Hello there", max_tokens=4, temperature=0, ignore_eos=True)
    assert other.usage.cached_tokens == 0
    llama.reset()
    assert llama.generate(
        "Hello there", max_tokens=4, temperature=0, ignore_eos=True
    ).tokens == other.tokens  # fmt: skip


def test_an_evaluated_prompt_is_not_evaluated_again(llama: Llama) -> None:
    tokens = llama.tokenize(PROMPT)
    one = llama.generate(tokens, max_tokens=1, temperature=0, ignore_eos=True)
    two = llama.generate(tokens, max_tokens=1, temperature=0, ignore_eos=True)
    assert two.usage.cached_tokens == len(tokens)
    assert one.tokens == two.tokens


def test_prefix_cache_can_be_turned_off(tiny_path: str) -> None:
    with Llama(tiny_path, prefix_cache=False) as llama:
        llama.generate(PROMPT, max_tokens=1, ignore_eos=True)
        assert llama.generate(PROMPT, max_tokens=1).usage.cached_tokens == 0


# ---- limits and errors --------------------------------------------------------------------------


def test_a_prompt_beyond_the_context_is_refused_and_the_next_call_works(tiny_path: str) -> None:
    with Llama(tiny_path, n_ctx=32) as llama:
        assert llama.n_ctx() == 32
        for n in (32, 33, 1000):
            with pytest.raises(ContextTooLong, match=f"{n} tokens.*holds 32"):
                llama.generate([65] * n)
        text = llama.generate([65] * 20, ignore_eos=True)
        assert len(text.tokens) == 12
        assert text.finish_reason == "length"
        llama.reset()
        with pytest.raises(ContextTooLong):
            llama.eval([65] * 33)
        assert llama.eval([65] * 32).shape == (llama.n_vocab(),)


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 1.5},
        {"logprobs": 21},
        {"logit_bias": {10**6: 1.0}},
        {"top_k": 2**40},
    ],
)
def test_settings_out_of_range_are_refused(llama: Llama, options: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        llama.generate(PROMPT, **{"max_tokens": 2, **options})  # type: ignore[call-overload]
    assert llama.generate(PROMPT, max_tokens=2, ignore_eos=True).tokens


@pytest.mark.parametrize("tokens", [[], [-1], [10**6], [2**40], ["a"]])
def test_wrong_prompts_are_refused(llama: Llama, tokens: list[int]) -> None:
    with pytest.raises(InvalidArgument):
        llama.generate(tokens, max_tokens=2)
    assert llama.generate(PROMPT, max_tokens=2, ignore_eos=True).tokens


def test_opening_says_what_is_wrong(tmp_path: Path, tiny_path: str) -> None:
    with pytest.raises(ModelNotFound, match=r"nothing\.gguf"):
        Llama(tmp_path / "nothing.gguf")
    with pytest.raises(FileNotFoundError):
        Llama(tmp_path / "nothing.gguf")
    with pytest.raises(ModelNotFound) as caught:
        Llama(Path(tiny_path).with_name("nothing.gguf"))
    assert Path(tiny_path).name in caught.value.hint
    with pytest.raises(Qwen35Error):
        Llama(tmp_path)
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"not a model at all" * 100)
    with pytest.raises(ModelInvalid):
        Llama(garbage)
    cut = tmp_path / "cut.gguf"
    data = Path(tiny_path).read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelInvalid):
        Llama(cut)


def test_paths_may_hold_any_character(tmp_path: Path, tiny_path: str) -> None:
    path = tmp_path / "naïve \N{GRINNING FACE} model.gguf"
    path.write_bytes(Path(tiny_path).read_bytes())
    with Llama(path) as llama:
        assert llama.metadata("general.name") == "tiny"
        assert llama.metadata("general.nothing") is None


def test_arguments_of_other_engines_warn_once_and_unknown_ones_fail(tiny_path: str) -> None:
    with pytest.warns(UserWarning, match="n_gpu_layers has no effect"):
        Llama(tiny_path, n_gpu_layers=-1).close()
    Llama(tiny_path, n_gpu_layers=-1, embedding=True).close()
    with pytest.raises(TypeError, match="n_gpu_layer'"):
        Llama(tiny_path, n_gpu_layer=1)
    with pytest.raises(InvalidArgument, match="lora_path is not supported"):
        Llama(tiny_path, lora_path="adapter.gguf")
    with pytest.raises(InvalidArgument, match="kv_type"):
        Llama(tiny_path, kv_type="q4_0")  # type: ignore[arg-type]


# ---- closing ------------------------------------------------------------------------------------


def test_a_closed_llama_says_so(tiny_path: str) -> None:
    llama = Llama(tiny_path)
    stream = llama.generate(PROMPT, stream=True, max_tokens=20, ignore_eos=True)
    next(stream)
    llama.close()
    llama.close()
    with pytest.raises(SessionClosed):
        next(stream)
    for call in (lambda: llama.generate(PROMPT), lambda: llama.tokenize("a"), llama.reset):
        with pytest.raises(SessionClosed):
            call()


def test_a_vocabulary_alone_tokenizes_and_does_not_generate(tiny_path: str) -> None:
    with Llama(tiny_path, vocab_only=True) as llama:
        assert llama.detokenize(llama.tokenize(PROMPT)) == PROMPT.encode()
        with pytest.raises(SessionClosed, match="no weights"):
            llama.eval([1])
        with pytest.raises(SessionClosed, match="no weights"):
            llama.generate(PROMPT)


def test_this_threads_own_streams_are_an_error_and_not_a_deadlock(tiny_path: str) -> None:
    with Llama(tiny_path, n_parallel=2) as llama:
        streams = [
            llama.generate(PROMPT, stream=True, max_tokens=20, ignore_eos=True, seed=i)
            for i in range(2)
        ]
        for stream in streams:
            next(stream)
        with pytest.raises(SessionBusy):
            llama.generate(PROMPT)
        assert next(streams[1]) is not None
        streams[0].close()
        assert llama.generate(PROMPT, max_tokens=2, ignore_eos=True).tokens
        assert next(streams[1]) is not None


def test_an_abandoned_stream_frees_the_llama(llama: Llama) -> None:
    for _piece in llama.generate(PROMPT, stream=True, max_tokens=20, ignore_eos=True):
        break
    holder: list[object] = [llama.generate(PROMPT, stream=True, max_tokens=20, ignore_eos=True)]
    next(holder[0])  # type: ignore[call-overload]
    holder.append(holder)  # only the garbage collector can find this one
    del holder
    gc.collect()
    assert llama.generate(PROMPT, max_tokens=2, ignore_eos=True).tokens


def test_garbage_collection_frees_models_in_any_order(tiny_path: str) -> None:
    for _ in range(10):
        llama = Llama(tiny_path)
        stream = llama.generate(PROMPT, stream=True, max_tokens=20, ignore_eos=True)
        next(stream)
        cycle: list[object] = [llama, stream]
        cycle.append(cycle)
        del llama, stream, cycle
    gc.collect()


# ---- tokens and low level -----------------------------------------------------------------------


def test_control_tokens_in_text_are_text_unless_asked_for(llama: Llama) -> None:
    text = "A<|im_end|>B"
    plain, special = llama.tokenize(text), llama.tokenize(text, special=True)
    assert len(plain) > len(special) == 3
    assert llama.detokenize(plain) == text.encode()
    assert llama.detokenize(special) == b"AB"
    assert llama.detokenize(special, special=True) == text.encode()


def test_text_of_any_kind_comes_back(llama: Llama) -> None:
    for text in ("", " ", "\n\n", "naïve 日本 \N{GRINNING FACE}", "a\0b", "x" * 5000):
        assert llama.decode(llama.tokenize(text)) == text
    assert llama.decode(llama.tokenize(b"\xff\xfe")) == "\ufffd\ufffd"
    assert "\ufffd" in llama.decode(llama.tokenize("\ud800"))


def test_eval_gives_the_logits_of_every_position(llama: Llama) -> None:
    tokens = llama.tokenize(PROMPT)
    rows = llama.eval(tokens, all_logits=True)
    assert rows.shape == (len(tokens), llama.n_vocab())
    assert rows.dtype == np.float32
    assert llama.n_tokens == len(tokens)
    llama.reset()
    assert llama.n_tokens == 0
    single = np.stack([llama.eval([token]) for token in tokens])
    assert np.abs(rows - single).max() <= 1e-2 * np.abs(single).max()


def test_progress_counts_up_to_the_prompt(tiny_path: str) -> None:
    seen: list[tuple[int, int]] = []
    with Llama(tiny_path, n_batch=32) as llama:
        llama.generate([70] * 200, max_tokens=1, progress=lambda *args: seen.append(args))
    assert seen
    assert [total for _, total in seen] == [200] * len(seen)
    done = [count for count, _ in seen]
    assert done == sorted(done)
    assert done[-1] <= 200


def test_an_error_in_progress_reaches_the_caller_and_the_next_call_works(tiny_path: str) -> None:
    def stop(_done: int, _total: int) -> None:
        raise LookupError("enough")

    with Llama(tiny_path, n_batch=32) as llama:
        with pytest.raises(LookupError, match="enough"):
            llama.generate([70] * 2000, max_tokens=1, progress=stop)
        assert llama.n_tokens < 2000
        text = llama.generate(PROMPT, max_tokens=4, temperature=0, ignore_eos=True)
    with Llama(tiny_path) as fresh:
        assert fresh.generate(PROMPT, max_tokens=4, temperature=0, ignore_eos=True) == text


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_library_outlives_every_reference_to_it() -> None:
    """When the interpreter ends, what the library made may be freed after the library object."""
    program = (
        "from qwen35cpp import _native\n"
        "_native.ffi.dlclose(_native.lib)\n"
        "assert _native.library_path() in open('/proc/self/maps').read()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
