"""The scores as the model card shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny import cases

CARD = Path(__file__).resolve().parent / "qwen35-tiny" / "README.md"
_BEGIN, _END = "<!-- scores -->\n", "<!-- /scores -->"
_ASKED = {
    "chat": "last question of a chat, with and without thinking",
    "classify": "sentiment, topic, yes/no, customer messages",
    "passage": "one fact of a passage of 100 to 1,700 tokens",
    "extract": "JSON by a schema, every value right",
    "tools": "call with exact arguments, no call, answer from a result",
    "copy": "exact copy or edit",
    "needle 2k": "one number in 2,000 tokens",
    "needle 8k": "in 8,000 tokens",
    "needle 16k": "in 16,000 tokens",
    "needle 32k": "in 32,000 tokens",
    "shapes": "describe, how many, where, what, box",
    "reading": "rendered words, letters, digits",
    "charts": "bars and pies",
    "click": "point inside the target, box IoU >= 0.5",
    "act": "next call of a sequence of actions",
    "video": "when (within 1 s), what, how many",
}


def table(scores: dict[str, Any]) -> str:
    """Markdown: one row a test set, then stories and drafts."""
    lines = [
        "| test set | what is asked | goal | `transformers` (cases) | engine, Q8_0 (cases) |",
        "|---|---|---:|---:|---:|",
    ]
    for name, one in cases.SETS.items():
        if name not in scores:
            continue
        entry = scores[name]
        goal = f"{100 * one.goal:.0f} %" if one.goal else ""
        engine = ""
        if "engine" in entry:
            engine = f"{100 * entry['engine']:.1f} % ({entry['engine_count']})"
        right = f"{100 * entry['right']:.1f} % ({entry['count']})"
        lines.append(f"| {name} | {_ASKED[name]} | {goal} | {right} | {engine} |")
    lines.append("")
    if "story" in scores:
        story = scores["story"]
        lines.append(
            f"Held-out stories ({story['count']}): perplexity {story['perplexity']:.2f} a token, "
            f"{story['bits_per_byte']:.3f} bits a byte."
        )
    if "mtp" in scores:
        drafts = scores["mtp"]
        shown = {
            kind: ", ".join(f"{100 * share:.0f} %" for share in drafts[kind])
            for kind in ("story", "copy")
        }
        lines.append(
            f"Acceptance of MTP drafts 1, 2, 3 in greedy text ({drafts['count']} texts each, every "
            f"draft given that those before it were taken): stories {shown['story']}; copying "
            f"{shown['copy']}."
        )
    missed = [
        one.name
        for one in cases.SETS.values()
        if one.goal is not None and one.name in scores and scores[one.name]["right"] < one.goal
    ]
    lines += [f"\n{name}: under its goal." for name in missed]
    return "\n".join(lines) + "\n"


def save(scores: dict[str, Any], path: Path) -> None:
    """Writes the scores, and their table into the model card."""
    path.write_text(json.dumps(scores, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    text = CARD.read_text(encoding="utf-8")
    begin, end = text.index(_BEGIN) + len(_BEGIN), text.index(_END)
    CARD.write_text(text[:begin] + table(scores) + text[end:], encoding="utf-8")
