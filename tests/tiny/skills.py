"""Every skill of the small model, and how much of the training each one gets."""

from __future__ import annotations

from tiny import clips, code, extract, labels, passages, pictures, screens, stories, talk, tools
from tiny.sample import Skill

SKILLS: dict[str, Skill] = {
    skill.name: skill
    for module in (
        stories, passages, talk, labels, extract, tools, code, pictures, screens, clips,
    )
    for skill in module.SKILLS
}  # fmt: skip

# Shares of the training tokens.
TEXT = {
    "story": 0.10, "passage": 0.25, "needle": 0.10, "chat": 0.11, "classify": 0.07,
    "extract": 0.13, "tools": 0.12, "copy": 0.12,
}  # fmt: skip
VISION = {
    "shapes": 0.24, "reading": 0.18, "charts": 0.12, "click": 0.26, "act": 0.08, "video": 0.12,
}  # fmt: skip


def mix(
    vision: float, drill: float = 0.0, look: float = 0.0, focus: dict[str, float] | None = None
) -> dict[str, float]:
    """Shares of all skills when `vision` of the tokens go to pictures, screens and video.

    `drill` of the text is random tokens, `look` of the vision single tokens of pictures (see
    batches.py). Skills in `focus` weigh so many times as much among their kind.
    """

    def weighted(usual: dict[str, float], total: float) -> dict[str, float]:
        weights = {name: share * (focus or {}).get(name, 1.0) for name, share in usual.items()}
        return {name: total * weight / sum(weights.values()) for name, weight in weights.items()}

    shares = weighted(TEXT, (1 - vision) * (1 - drill))
    if drill:
        shares["drill"] = (1 - vision) * drill
    if vision:
        shares |= weighted(VISION, vision * (1 - look))
        shares["look"] = vision * look
    return {name: share for name, share in shares.items() if share}
