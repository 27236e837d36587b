"""Takes the screenshots of the chat page: `python tests/page/screenshots.py`, after a change to it.

Needs playwright and Debian's chromium. The answers are the bundled model's own.
"""

from __future__ import annotations

import io
import random
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from qwen35cpp import Llama  # noqa: E402
from qwen35cpp.server import Settings, serving  # noqa: E402
from tiny.skills import SKILLS  # noqa: E402

SIZES = {"desktop": (1200, 760), "phone": (390, 800)}
STORIES = ["Tell me a story about a cat.", "Tell me a story about a bird."]


def ask(page: Page, text: str) -> None:
    page.fill("#input", text)
    page.click("#send")
    page.wait_for_selector("body:not(.running) .answer:last-child .action")


def shoot(page: Page, picture: Path, question: str, file: Path) -> None:
    for story in STORIES:
        ask(page, story)
        page.evaluate("document.getElementById('new').click()")
    page.set_input_files("#file", picture)
    page.wait_for_selector("#pictures img")
    ask(page, question)
    ask(page, "Tell me a story about a dog.")
    page.wait_for_timeout(200)
    shot = Image.open(io.BytesIO(page.screenshot()))
    shot.quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)


def main() -> None:
    sample = SKILLS["shapes"].make(random.Random(5), True)
    question = next(p["text"] for p in sample.prompt[-1]["content"] if p["type"] == "text")
    with (
        tempfile.TemporaryDirectory() as folder,
        Llama.tiny(n_ctx=8192, seed=4) as llama,
        serving(llama, Settings(port=0)) as url,
        sync_playwright() as started,
    ):
        picture = Path(folder) / "picture.png"
        Image.fromarray(sample.images[0]).save(picture)
        browser = started.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        for name, (width, height) in SIZES.items():
            for scheme in ("light", "dark"):
                context = browser.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme=scheme,
                    has_touch=name == "phone",
                    is_mobile=name == "phone",
                )
                page = context.new_page()
                page.goto(url)
                page.wait_for_selector("body.ready")
                shoot(page, picture, question, HERE / f"{name}-{scheme}.png")
                context.close()
        browser.close()


if __name__ == "__main__":
    main()
