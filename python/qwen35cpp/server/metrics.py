"""Counters in the text form of Prometheus."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

_KNOWN = frozenset({
    "/", "/health", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/completions",
    "/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/v1/embeddings",
    "/v1/decisions",
})  # fmt: skip


class Metrics:
    """What was asked and done since the start; any thread may add to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._responses: Counter[tuple[str, int]] = Counter()
        self._totals: dict[str, float] = dict.fromkeys(
            ("answers", "prompt_tokens", "cached_tokens", "completion_tokens", "prefill_seconds",
             "decode_seconds"), 0
        )  # fmt: skip

    def responded(self, path: str, status: int) -> None:
        """A response began."""
        with self._lock:
            self._responses[path if path in _KNOWN else "other", status] += 1

    def answered(self, **figures: float) -> None:
        """The model gave an answer; figures are those of `_totals`."""
        with self._lock:
            self._totals["answers"] += 1
            for name, value in figures.items():
                self._totals[name] += value

    def text(self, gauges: Mapping[str, float]) -> str:
        """Everything, and `gauges` of the moment."""
        with self._lock:
            responses, totals = sorted(self._responses.items()), dict(self._totals)
        lines = ["# TYPE qwen35cpp_responses_total counter"]
        for (path, status), count in responses:
            lines.append(f'qwen35cpp_responses_total{{path="{path}",status="{status}"}} {count}')
        for name, value in totals.items():
            lines.append(f"# TYPE qwen35cpp_{name}_total counter")
            lines.append(f"qwen35cpp_{name}_total {value:.10g}")
        for name, value in gauges.items():
            lines += [f"# TYPE qwen35cpp_{name} gauge", f"qwen35cpp_{name} {value:.10g}"]
        return "\n".join(lines) + "\n"
