"""The chat page in a real browser, when playwright and Debian's chromium are installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen35cpp import Llama

pytest.importorskip("starlette", reason="needs the extra [server]")
pytest.importorskip("httpx2")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

from qwen35cpp.server import Settings, serving  # noqa: E402
from serving import data_url  # noqa: E402

STORY = "Tell me a story about a dog named Rex."
LONG = "A dog sat on a mat. " * 1200  # read for a while: time enough to stop


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with (
        Llama.tiny(n_ctx=16384, n_threads=1, seed=1) as llama,
        serving(llama, Settings(port=0, grace=1)) as url,
    ):
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, url: str) -> Iterator[Callable[..., Any]]:
    """Opens the page in a fresh profile; fails when the browser reports an error."""
    contexts, problems = [], []

    def open_page(watch: bool = True, **options: Any) -> Any:
        context = browser.new_context(**options)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        if watch:
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda m: m.type == "error" and problems.append(m.text))
        page.goto(url)
        page.wait_for_selector("body.ready")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def ask(page: Any, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def wait_for_answer(page: Any) -> Any:
    page.wait_for_selector("body:not(.running) .answer:last-child .action")
    return page.locator(".answer").last


def test_a_conversation_streams_and_is_kept(open_page: Callable[..., Any]) -> None:
    page = open_page()
    assert page.locator("#model").inner_text() == "qwen35-tiny-q8_0"
    ask(page, STORY)
    answer = wait_for_answer(page)
    said = answer.locator("> .text").inner_text()
    assert "dog" in said
    assert "tokens/s" in answer.locator(".figures").inner_text()
    assert "of 16,384" in page.locator("#used-text").inner_text()
    page.get_by_role("button", name="New chat").click()
    assert page.locator(".answer").count() == 0
    ask(page, "Tell me a story about a cat named Luna.")
    wait_for_answer(page)
    page.reload()
    page.wait_for_selector("body.ready")
    titles = page.locator(".entry .open").all_inner_texts()
    assert titles == ["Tell me a story about a cat named Luna.", STORY]
    page.locator(".entry .open", has_text="dog").click()
    assert page.locator(".answer > .text").inner_text() == said
    page.locator(".entry", has_text="dog").hover()
    page.get_by_label(f"Delete {STORY}").click()
    page.get_by_text("Conversation deleted.").wait_for()
    page.reload()
    page.wait_for_selector("body.ready")
    assert page.locator(".entry").count() == 1


def test_stop_edit_and_retry(open_page: Callable[..., Any]) -> None:
    page = open_page()
    ask(page, LONG)
    page.get_by_text("Reading").wait_for()
    page.get_by_role("button", name="Stop").click()
    answer = wait_for_answer(page)
    assert "Stopped" in answer.inner_text()
    page.get_by_role("button", name="New chat").click()
    ask(page, STORY)
    answer = wait_for_answer(page)
    answer.get_by_role("button", name="Retry").click()
    answer = wait_for_answer(page)
    assert "Stopped" not in answer.inner_text()
    assert page.locator(".answer").count() == 1
    page.locator(".question").hover()
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit message").fill("Tell me a story about a bird named Pip.")
    page.keyboard.press("Enter")
    answer = wait_for_answer(page)
    assert "bird" in answer.inner_text()
    assert page.locator(".question").count() == 1
    # Escape stops too, and the arrow brings back what was asked.
    ask(page, LONG)
    page.get_by_text("Reading").wait_for()
    page.keyboard.press("Escape")
    assert "Stopped" in wait_for_answer(page).inner_text()
    page.keyboard.press("ArrowUp")
    assert page.get_by_label("Edit message").input_value() == LONG.strip()


def test_thoughts_are_folded_and_code_can_be_copied(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.get_by_role("button", name="Think").click()
    ask(page, STORY)
    answer = wait_for_answer(page)
    thought = answer.locator(".thought")
    if thought.is_visible():
        assert thought.get_attribute("open") is None
    page.get_by_role("button", name="Think").click()
    page.evaluate(
        """async () => {
          const { renderInto } = await import('/page/markdown.js');
          const box = document.createElement('div');
          box.className = 'text answer';
          document.body.append(box);
          renderInto(box, '```python\\nprint(1 < 2)\\n```');
        }"""
    )
    page.get_by_role("button", name="Copy", exact=True).last.click()
    assert page.evaluate("navigator.clipboard.readText()") == "print(1 < 2)"


def test_pictures_by_file_paste_and_drop(open_page: Callable[..., Any], tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    page = open_page()
    page.locator("#file").set_input_files(tmp_path / "a.png")
    for kind, target, field in (
        ("paste", "#input", "clipboardData"),
        ("drop", "body", "dataTransfer"),
    ):
        page.evaluate(
            """([kind, target, field, url]) => {
              const bytes = Uint8Array.from(atob(url.split(',')[1]), (c) => c.charCodeAt(0));
              const data = new DataTransfer();
              data.items.add(new File([bytes], 'b.png', { type: 'image/png' }));
              const made = kind === 'paste' ? ClipboardEvent : DragEvent;
              const event = new made(kind, { [field]: data, bubbles: true, cancelable: true });
              document.querySelector(target).dispatchEvent(event);
            }""",
            [kind, target, field, data_url("blue")],
        )
    page.wait_for_function("() => document.querySelectorAll('#pictures img').length === 3")
    page.get_by_label("Remove picture 3").click()
    ask(page, "What colour is it?")
    wait_for_answer(page)
    assert page.locator(".question img").count() == 2
    assert page.locator(".error").count() == 0


def test_markdown_becomes_elements_and_nothing_else(open_page: Callable[..., Any]) -> None:
    page = open_page()

    def html(text: str) -> str:
        rendered: str = page.evaluate(
            """async (text) => {
              const { renderInto } = await import('/page/markdown.js');
              const box = document.createElement('div');
              for (let i = 1; i <= text.length; i += 7) renderInto(box, text.slice(0, i));
              renderInto(box, text);
              return box.innerHTML;
            }""",
            text,
        )
        return rendered

    cases = {
        "one *two* **three _four_** `a*b*c`": "<p>one <em>two</em> <strong>three <em>four</em>"
        "</strong> <code>a*b*c</code></p>",
        "# A\n\ntext\nmore": "<h2>A</h2><p>text<br>more</p>",
        "- a\n- b\n  1. c\n  2. d\n- e": "<ul><li><span>a</span></li><li><span>b</span><ol><li>"
        "<span>c</span></li><li><span>d</span></li></ol></li><li><span>e</span></li></ul>",
        "3. x": '<ol start="3"><li><span>x</span></li></ol>',
        "> q\n\n---": "<blockquote><p>q</p></blockquote><hr>",
        "snake_case_name 2 * 3 * 4 \\*": "<p>snake_case_name 2 * 3 * 4 *</p>",
        "<script>alert(1)</script>": "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>",
        "<img src=x onerror=alert(1)>": "<p>&lt;img src=x onerror=alert(1)&gt;</p>",
        "[x](javascript:alert(1))": "<p>x</p>",
        "[x](data:text/html,hi)": "<p>x</p>",
        "[a](https://b.c/d_(e))": '<p><a href="https://b.c/d_(e)" target="_blank" '
        'rel="noopener noreferrer">a</a></p>',
        '![x](https://evil.example/"onload="a)': "<p>",
    }
    for text, expected in cases.items():
        assert html(text).startswith(expected) if expected == "<p>" else html(text) == expected
        assert "<img" not in html(text)
    table = html("|a|b|\n|-|-:|\n|1|**2**|")
    assert '<td style="text-align: right;"><strong>2</strong></td>' in table
    code = html("```js\nif (a < b) {\n}\n")
    assert "<span>js</span>" in code
    assert "<code>if (a &lt; b) {\n}\n</code>" in code
    assert "language" not in json.dumps(code)
    assert html("*" * 200 + "`" * 200 + "[" * 200 + "_a" * 200 + "\n" + "> " * 50 + "x")


def test_the_policy_forbids_what_the_page_does_not_need(
    open_page: Callable[..., Any], url: str
) -> None:
    import httpx2

    response = httpx2.get(url)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    etag = response.headers["etag"]
    assert httpx2.get(url, headers={"if-none-match": etag}).status_code == 304
    assert "style=" not in response.text
    assert "onclick" not in response.text
    refused = open_page(watch=False).evaluate(
        """async () => {
          const seen = [];
          addEventListener('securitypolicyviolation', (e) => seen.push(e.effectiveDirective));
          await fetch('https://example.org').catch(() => null);
          document.body.append(Object.assign(new Image(), { src: 'https://example.org/a.png' }));
          const script = document.createElement('script');
          script.textContent = 'window.ran = true';
          document.body.append(script);
          await new Promise((done) => setTimeout(done, 200));
          return [...seen, window.ran === undefined];
        }"""
    )
    assert sorted(refused, key=str) == [True, "connect-src", "img-src", "script-src-elem"]


def test_themes_and_phones(open_page: Callable[..., Any]) -> None:
    page = open_page(color_scheme="dark", viewport={"width": 390, "height": 844}, has_touch=True)
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("button", name="Dark or light").click()
    assert page.evaluate(ground) != dark
    page.reload()
    page.wait_for_selector("body.ready")
    assert page.evaluate(ground) != dark
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_label("Message", exact=True).fill(STORY)
    page.get_by_role("button", name="Send").click()
    wait_for_answer(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
