"""Arguments of llama-cpp-python that code in the wild passes and this engine has no use for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from .errors import InvalidArgument

# They ask for what is always the case here: no word about them.
_GRANTED = frozenset({"embedding", "logits_all", "no_perf", "use_mlock"})

# They tune another engine: one warning each.
_WITHOUT_EFFECT = frozenset({
    "chat_format", "chat_handler", "flash_attn", "last_n_tokens_size", "main_gpu", "metadata",
    "mirostat_eta", "mirostat_mode", "mirostat_tau", "model", "mul_mat_q", "n_gpu_layers",
    "n_threads_batch", "n_ubatch", "numa", "offload_kqv", "op_offload", "pooling_type",
    "rope_freq_base", "rope_freq_scale", "rope_scaling_type", "rpc_servers", "service_tier",
    "split_mode", "spm_infill", "store", "swa_full", "tensor_split", "tfs_z", "type_k",
    "type_v", "typical_p", "user", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow",
    "yarn_ext_factor", "yarn_orig_ctx",
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
            warnings.warn(f"{where}: {name} has no effect in qwen35cpp", stacklevel=4)
