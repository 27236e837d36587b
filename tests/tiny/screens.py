"""Screens of small programs: find an element (skill click), and operate them (skill act)."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from typing import Any

from tiny import draw, world
from tiny.draw import Box, Rgb, Scene, Turn, conversation, said
from tiny.sample import Sample, Skill, assistant, held_out, parts, user

# Multiples of 32 with at least 64 blocks of 32 x 32, so that no resize touches them.
SIZES = [(320, 224), (192, 352)]
PITCH, TITLE_SIZE = 48, draw.SIZES["plain"]
TITLES = ["Notes", "Mail", "Photos", "Files", "Chat", "Maps", "Shop", "Games", "Weather", "Clock"]
MENUS = ["File", "Edit", "View", "Tools", "Window", "Help"]
BUTTONS = [
    "Save", "Open", "Close", "Cancel", "OK", "Send", "Delete", "Edit", "Copy", "Paste", "Print",
    "Search", "Login", "Home", "Back", "Next", "Help", "Settings", "Play", "Stop", "Start", "Add",
    "Remove", "Share", "Reply", "Undo", "Redo", "Cut", "New", "Exit", "Yes", "No", "Buy", "Apply",
    "Reset", "Update",
]  # fmt: skip
FIELDS = {
    "Name": world.NAMES,
    "Email": [f"{name.lower()}@mail.com" for name in world.NAMES],
    "Password": [f"{thing}{digit}" for thing in world.THINGS for digit in range(10)],
    "City": world.CITIES,
    "Date": world.DAYS,
    "Job": world.JOBS,
    "Pet": world.ANIMALS,
    "Food": world.FOODS,
    "Age": [str(age) for age in range(5, 100)],
    "Item": world.THINGS,
}
CHECKS = ["Sound", "Wifi", "Alarm", "Music", "Backup", "Colour", "Private", "Remember", "Night"]


@dataclass(frozen=True)
class Theme:
    """The colours of a screen."""

    page: Rgb
    title: Rgb
    button: Rgb
    field: Rgb
    line: Rgb


THEMES = {
    "light": Theme((250, 250, 250), (215, 220, 228), (255, 255, 255), (255, 255, 255), (90,) * 3),
    "dark": Theme((38, 40, 46), (20, 22, 26), (75, 80, 92), (24, 26, 30), (150, 150, 155)),
    "blue": Theme((244, 247, 252), (30, 70, 160), (45, 100, 215), (255, 255, 255), (90, 110, 150)),
    "grey": Theme((222, 222, 222), (90, 90, 96), (188, 188, 188), (245, 245, 245), (80, 80, 80)),
    "green": Theme((246, 250, 246), (35, 120, 70), (40, 145, 85), (255, 255, 255), (90, 130, 100)),
}
COMPUTER_USE = {
    "type": "function",
    "function": {
        "name": "computer_use",
        "description": "Use the mouse and the keyboard. The screen is 1000 wide and 1000 high.",
        "parameters": {
            "type": "object",
            "properties": {
                "action": {"type": "string", "enum": ["left_click", "type", "terminate"]},
                "coordinate": {"type": "array", "description": "[x, y] for left_click"},
                "text": {"type": "string", "description": "what to type"},
                "status": {"type": "string", "enum": ["success", "failure"]},
            },
            "required": ["action"],
        },
    },
}


@dataclass(frozen=True)
class Screen:
    """A laid-out screen: the title comes first among the boxes, the rest in reading order."""

    width: int
    height: int
    theme: str
    size: int  # of the letters
    inside: bool  # whether fields carry their label inside rather than to the left
    boxes: list[Box]

    @property
    def targets(self) -> list[Box]:
        """What can be clicked."""
        return self.boxes[1:]

    def novel(self, box: Box) -> bool:
        """Whether this element at about this place in this theme is kept from training."""
        x, y = box.centre
        cell = int(3 * y / self.height) * 3 + int(3 * x / self.width)
        return held_out("screens", box.kind, box.label, cell, self.theme)


def _layout(rng: random.Random) -> Screen:
    width, height = rng.choice(SIZES)
    size, inside = rng.choice([draw.SIZES["small"], draw.SIZES["plain"]]), rng.random() < 0.5
    title = rng.choice(TITLES)
    boxes = [Box(8, 4, 8 + draw.text_width(title, TITLE_SIZE), 28, "title", title)]
    top, left, count = 32, 0, rng.randint(3, 7)
    if width > height and rng.random() < 0.5:
        for index in sorted(rng.sample(range(len(MENUS)), rng.randint(2, 4))):
            wide = draw.up(draw.text_width(MENUS[index], draw.SIZES["small"]) + 2 * draw.INSET)
            boxes.append(Box(left, 36, left + wide, 60, "menu", MENUS[index]))
            left += wide
        top, count = 64, max(2, count - 2)
    rows: list[list[tuple[int, int, str, str]]] = [[] for _ in range((height - top - 16) // PITCH)]
    used = {box.label for box in boxes}
    for _ in range(count):
        kind = rng.choices(["button", "field", "check box"], [5, 3, 2])[0]
        pool = {"button": BUTTONS, "field": list(FIELDS), "check box": CHECKS}[kind]
        label = rng.choice([text for text in pool if text not in used])
        text, before = draw.text_width(label, size), 0
        if kind == "field":
            before = 0 if inside else draw.up(text + 2 * draw.INSET)
            wide = draw.up(max(rng.choice([80, 96]), text + 2 * draw.INSET))
        else:
            wide = draw.up(text + 2 * draw.INSET + (0 if kind == "button" else draw.GRID))
        row = rng.choice(rows)
        if sum(item[0] + item[1] + draw.GRID for item in row) + before + wide <= width - draw.GRID:
            row.append((before, wide, kind, label))
            used.add(label)
    for index, row in enumerate(rows):
        y = top + draw.GRID + PITCH * index
        x, free = 0, width - sum(item[0] + item[1] + draw.GRID for item in row)
        for before, wide, kind, label in row:
            gap = draw.GRID * rng.randint(0, max(0, free) // draw.GRID)
            x, free = x + gap + before, free - gap
            boxes.append(Box(x, y, x + wide, y + 32, kind, label))
            x += wide + draw.GRID
    return Screen(width, height, rng.choice(list(THEMES)), size, inside, boxes)


def _screen(rng: random.Random, test: bool, kinds: tuple[str, ...] = ()) -> Screen:
    """A screen with a new element (of one of `kinds`) in tests, and none in training."""
    while True:
        screen = _layout(rng)
        wanted = [b for b in screen.targets if not kinds or b.kind in kinds]
        fresh = any(map(screen.novel, wanted if test else screen.targets))
        if wanted and fresh == test and len(screen.targets) >= 3:
            return screen


def _render(screen: Screen) -> Scene:
    theme, size = THEMES[screen.theme], screen.size
    image, pen = draw.canvas(screen.width, screen.height, theme.page)
    pen.rectangle((0, 0, screen.width, 31), fill=theme.title)
    draw.write(pen, 8, 16, screen.boxes[0].label, TITLE_SIZE, draw.ink(theme.title), "lm")
    text = draw.ink(theme.page)
    for box in screen.targets:
        (_, y), edges = box.centre, (box.x1, box.y1, box.x2 - 1, box.y2 - 1)
        x = box.x1 + draw.INSET
        if box.kind == "button":
            pen.rounded_rectangle(edges, 4, fill=theme.button, outline=theme.line)
            draw.write(pen, x, y, box.label, size, draw.ink(theme.button), "lm")
        elif box.kind == "field":
            pen.rectangle(edges, fill=theme.field, outline=theme.line)
            if screen.inside:
                draw.write(pen, x, y, box.label, size, (130, 130, 135), "lm")
            else:
                before = draw.up(draw.text_width(box.label, size) + 2 * draw.INSET)
                draw.write(pen, x - before, y, box.label, size, text, "lm")
        elif box.kind == "check box":
            square = (box.x1, y - 8, box.x1 + 15, y + 7)
            pen.rectangle(square, fill=theme.field, outline=theme.line, width=2)
            draw.write(pen, x + draw.GRID, y, box.label, size, text, "lm")
        else:
            draw.write(pen, x, y, box.label, draw.SIZES["small"], text, "lm")
    return Scene(draw.pixels(image), screen.boxes)


def scene(rng: random.Random, test: bool) -> Scene:
    """A screen with the boxes of its title, menus, buttons, fields and check boxes."""
    return _render(_screen(rng, test))


def _click_turn(rng: random.Random, screen: Screen, box: Box) -> Turn:
    name = f"{box.label} {box.kind}"
    bounds = draw.relative(box, screen.width, screen.height)
    if rng.random() < 0.6:
        wordings = ["Click the {}.", "Point to the {}.", "Where is the {}? Give a point."]
        point = draw.relative_centre(box, screen.width, screen.height)
        answer, expect = draw.grounding("point_2d", point, name), {"point": bounds, "label": name}
    else:
        wordings = ["Give the box of the {}.", "Where is the {}? Give a box."]
        answer, expect = draw.grounding("bbox_2d", bounds, name), {"bbox": bounds, "label": name}
    return Turn(rng.choice(wordings).format(name), answer, expect)


def make_click(rng: random.Random, test: bool) -> Sample:
    """Find elements of a screen; in tests one, at a place where it never was in that theme."""
    screen = _screen(rng, test)
    fresh = [box for box in screen.targets if screen.novel(box) == test]
    chosen = rng.sample(fresh, 1 if test else rng.randint(1, min(4, len(fresh))))
    turns = [_click_turn(rng, screen, box) for box in chosen]
    if not test and rng.random() < 0.25:
        buttons = [box.label for box in screen.targets if box.kind == "button"]
        extra = said("What is the title?", f"{screen.boxes[0].label}.")
        if buttons and rng.random() < 0.6:
            extra = said("List the buttons.", f"{', '.join(buttons)}.")
        turns.insert(rng.randint(0, len(turns)), extra)
    if not test and rng.random() < 0.6:
        lines = [
            f"{b.label} {b.kind}: {draw.relative_centre(b, screen.width, screen.height)}, "
            f"{draw.relative(b, screen.width, screen.height)}"
            for b in screen.targets
        ]
        turns = [*turns[:2], draw.listed(lines)]
    return conversation("click", turns, _render(screen).image)


def make_act(rng: random.Random, test: bool) -> Sample:
    """Click an element or type into a field by tool calls; in tests up to one of the calls."""
    kinds = ("field",) if rng.random() < 0.6 else ("button", "check box", "menu")
    screen = _screen(rng, test, kinds)
    fresh = [b for b in screen.targets if b.kind in kinds and screen.novel(b) == test]
    box = rng.choice(fresh)
    point = draw.relative_centre(box, screen.width, screen.height)
    bounds = draw.relative(box, screen.width, screen.height)
    click = {"action": "left_click", "coordinate": point}
    steps: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
        (click, "clicked", {"action": "left_click", "box": bounds})
    ]
    task = rng.choice(["Click the {}.", "Press the {}."]).format(f"{box.label} {box.kind}")
    if box.kind == "field":
        text = rng.choice(FIELDS[box.label])
        task = rng.choice(["Type {} into the {} field.", "Write {} in the {} field."])
        task = task.format(text, box.label)
        steps.append(({"action": "type", "text": text}, "typed", {"action": "type", "text": text}))
    end = {"action": "terminate", "status": "success"}
    steps.append((end, "", end))
    if test:
        steps = steps[: 2 if box.kind == "field" and rng.random() < 0.4 else 1]
    messages = [user(parts("<image>", task))]
    for number, (arguments, result, _) in enumerate(steps):
        messages.append(assistant("", calls=[("computer_use", arguments)]))
        if number + 1 < len(steps):
            messages.append({"role": "tool", "content": result})
    image = _render(screen).image
    return Sample("act", messages, [COMPUTER_USE], images=[image], expect=steps[-1][2])


def check_act(example: Sample, reply: str) -> bool:
    """Whether the reply is the one expected tool call, written as XML."""
    calls = re.findall(r"<function=([^>\n]*)>(.*?)</function>", reply, re.DOTALL)
    if len(calls) != 1 or calls[0][0].strip() != "computer_use":
        return False
    found = re.findall(r"<parameter=([^>\n]*)>(.*?)</parameter>", calls[0][1], re.DOTALL)
    got = {name.strip(): value.strip() for name, value in found}
    expect: dict[str, Any] = example.expect
    if any(got.get(key) != value for key, value in expect.items() if key != "box"):
        return False
    if "box" not in expect:
        return True
    try:
        return draw.inside(json.loads(got.get("coordinate", "")), expect["box"])
    except (ValueError, RecursionError):
        return False


SKILLS = [Skill("click", make_click, draw.check), Skill("act", make_act, check_act)]
