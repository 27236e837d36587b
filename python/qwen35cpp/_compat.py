"""What code written for llama-cpp-python passes: arguments without a use here, other names."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

from .errors import InvalidArgument
from .sampling import Sampling, recommended

if TYPE_CHECKING:
    from .llama import Llama

# They ask for what is always the case here: no word about them.
_GRANTED = frozenset({"embedding", "logits_all", "no_perf", "reset", "use_mlock"})

# They tune another engine: one warning each.
_WITHOUT_EFFECT = frozenset({
    "attention_type", "cache", "chat_format", "chat_handler", "flash_attn",
    "last_n_tokens_size", "main_gpu", "metadata", "mirostat_eta", "mirostat_mode",
    "mirostat_tau", "model", "mul_mat_q", "n_gpu_layers", "n_threads_batch", "n_ubatch", "numa",
    "offload_kqv", "op_offload", "penalize_nl", "pooling_type", "rope_freq_base",
    "rope_freq_scale", "rope_scaling_type", "rpc_servers", "service_tier", "split_mode",
    "spm_infill", "store", "swa_full", "tensor_split", "tfs_z", "type_k", "type_v", "typical_p",
    "user", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow", "yarn_ext_factor",
    "yarn_orig_ctx",
})  # fmt: skip

# Without them the answer would be another one: an error.
_MISSING = frozenset({
    "draft_model", "function_call", "functions", "grammar", "kv_overrides", "logits_processor",
    "lora_base", "lora_path", "lora_scale", "stopping_criteria", "suffix", "tokenizer",
})  # fmt: skip

_warned: set[str] = set()


def warn_ignored(where: str, arguments: Mapping[str, object]) -> None:
    """Warns once about each argument without effect; refuses missing and unknown ones."""
    for name, value in arguments.items():
        if name in _GRANTED or (name in _MISSING and value is None):
            continue
        if name in _MISSING:
            raise InvalidArgument(f"{where}: {name} is not supported")
        if name not in _WITHOUT_EFFECT:
            raise TypeError(f"{where} got an unexpected argument {name!r}")
        if name not in _warned:
            _warned.add(name)
            message = f"{where}: {name} has no effect in qwen35cpp"
            warnings.warn(message, stacklevel=_level_of_caller())


def _level_of_caller() -> int:
    """The stack level, as the function before sees it, of the code that called this package."""
    package, level = __name__.partition(".")[0], 1
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    return level


class TokenSettings(TypedDict, total=False):
    """Settings of `Llama.sample` and `Llama.generate_tokens`, by llama-cpp-python's names.

    They replace values of what the model's card recommends; temp=0 takes the most likely token.
    """

    temp: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    frequency_penalty: float
    presence_penalty: float


_TOKEN_NAMES = {"temp": "temperature", "repeat_penalty": "repetition_penalty"}


def token_sampling(llama: Llama, settings: Mapping[str, object]) -> Sampling:
    """The settings for single tokens, greedy ones without the card's penalties."""
    known = TokenSettings.__annotations__
    warn_ignored("sample", {k: v for k, v in settings.items() if k not in known})
    values = {_TOKEN_NAMES.get(k, k): v for k, v in settings.items() if k in known}
    start = Sampling() if values.get("temperature") == 0 else recommended(llama.info)
    return start.updated(**values)  # type: ignore[arg-type]
