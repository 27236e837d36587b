"""The command `chat`: a conversation from a pipe, its commands, and Ctrl-C on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from qwen35cpp import Llama

GREEDY = ["--temp", "0", "-n", "12", "-t", "1", "-c", "2048"]


def chat(*lines: str, options: list[str] = GREEDY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qwen35cpp", "chat", "tiny", *options]
    text = "".join(f"{line}\n" for line in lines)
    return subprocess.run(command, input=text, capture_output=True, encoding="utf-8")


@pytest.fixture(scope="module")
def tiny() -> Iterator[Llama]:
    with Llama.tiny(n_ctx=2048, n_threads=1) as llama:
        yield llama


def test_long_conversations_lose_turns_when_asked() -> None:
    lines = [f"Question {i}? " * 40 for i in range(6)]
    small = ["--temp", "0", "-n", "4", "-t", "1", "-c", "512", "--system", "Be brief.", "--json"]
    plain = chat(*lines, options=small)
    assert plain.returncode == 1
    assert "the context holds 512" in plain.stderr
    cut = chat(*lines, options=[*small, "--overflow", "drop"])
    assert cut.returncode == 0, cut.stderr
    assert len(cut.stdout.splitlines()) == len(lines)


def answer(llama: Llama, *said: str, system: str | None = None) -> str:
    """What the model says to the last message, greedily as the command line does."""
    history: list[dict[str, str]] = []
    text = ""
    for message in said:
        history.append({"role": "user", "content": message})
        text = str(llama.chat(history, system=system, temperature=0, max_tokens=12))
        history.append({"role": "assistant", "content": text})
    return text


def test_a_pipe_gives_a_message_per_line(tiny: Llama) -> None:
    done = chat("What is 1 + 2?", "", "What is 2 + 3?")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    first, second = answer(tiny, "What is 1 + 2?"), answer(tiny, "What is 1 + 2?", "What is 2 + 3?")
    assert done.stdout == "".join(text.rstrip("\n") + "\n" for text in (first, second))


def test_a_conversation_is_saved_undone_and_loaded(tiny: Llama, tmp_path: Path) -> None:
    file = tmp_path / "a b.json"
    done = chat("/system Be brief.", "one", "two", "/undo", f"/save {file}", "//slash")
    assert done.returncode == 0, done.stderr
    saved = json.loads(file.read_text(encoding="utf-8"))
    assert [message["role"] for message in saved] == ["system", "user", "assistant"]
    assert saved[0]["content"] == "Be brief."
    assert saved[2]["content"] == answer(tiny, "one", system="Be brief.")
    expected = answer(tiny, "one", "/slash", system="Be brief.")
    assert done.stdout.endswith(expected.rstrip("\n") + "\n")
    assert list(tmp_path.iterdir()) == [file]  # and nothing half written

    done = chat(f"/load {file}", "/retry", "/clear", "/system", f"/save {file}", "/exit", "never")
    assert done.returncode == 0, done.stderr
    assert done.stdout == saved[2]["content"].rstrip("\n") + "\n"
    assert "Be brief." in done.stderr
    assert json.loads(file.read_text(encoding="utf-8")) == saved[:1]


def test_mistakes_are_told_and_the_conversation_goes_on(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('[{"role": "boss"}]', encoding="utf-8")
    done = chat(
        "/dance", "/undo", "/think maybe", "/save", f"/load {broken}",
        f"/load {tmp_path}/none.json", f"/save {tmp_path}/none/x.json", "word " * 3000, "hi",
    )  # fmt: skip
    errors = re.findall("^error: (.*)$", done.stderr, re.MULTILINE)
    assert len(errors) == 8
    assert errors[0] == "there is no command /dance"
    assert "messages[0] has the unexpected role 'boss'" in errors[4]
    assert "the context holds 2048" in errors[7]
    assert "Traceback" not in done.stderr
    assert done.stdout.strip()
    assert done.returncode == 1


def test_thinking_is_switched_and_json_gives_messages() -> None:
    options = [*GREEDY, "--json", "--thinking-budget", "4"]
    done = chat("hi", "/think off", "hi", "/help", options=options)
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["reasoning_content"]
    assert "reasoning_content" not in second
    assert "/retry" in done.stderr


@pytest.fixture(autouse=True)
def _history_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_lines_are_kept_and_completed(tmp_path: Path) -> None:
    (tmp_path / "photo.png").touch()
    for keys, wanted in [
        (b"/think maybe\n", "error: /think is on, off or auto, not 'maybe'"),
        (b"\x1b[A\x1b[A\n", "error: /think is on"),  # up: the session before, up: before its end
        (b"/und\t\n", "error: nothing was asked yet"),
        (f"/image {tmp_path}/pho\tx\n".encode(), f"no file at {tmp_path}/photo.pngx"),
    ]:
        main, terminal = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "qwen35cpp", "chat", "tiny"],
            stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        )  # fmt: skip
        os.close(terminal)
        try:
            _await(main, "> ")
            os.write(main, keys)
            _await(main, wanted)
            os.write(main, b"/exit\n")
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
            process.wait()
            os.close(main)
    history = tmp_path / "state" / "qwen35cpp" / "history"
    assert "/think maybe\n" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_ctrl_c_stops_the_answer_and_no_more(tiny_path: str) -> None:
    main, terminal = pty.openpty()
    # A random model ends when it happens to: an answer that was over before the signal is asked
    # for again.
    options = ["--think", "-t", "1", "--seed", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "qwen35cpp", "chat", tiny_path, *options],
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    try:
        _await(main, "> ")
        shown = ""
        for _ in range(20):
            os.write(main, b"Tell me a story.\n")
            _await(main, "\x1b[2m")  # a thought, dimmed
            process.send_signal(signal.SIGINT)
            shown = _await(main, "> ")
            assert "Traceback" not in shown
            if "[stopped]" in shown:
                break
        assert "[stopped]" in shown
        os.write(main, b"/exit\n")
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(main)


def test_a_terminal_shows_how_far_the_tower_is(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (1280, 1280)).save(path)  # more than half a second on one thread
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "qwen35cpp", "run", "tiny", "x", "-i", str(path), "-t", "1",
            "-n", "1",
        ],
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    try:
        assert re.search(r"reading the prompt [1-9]\d? %", _await(main, "\r\n"))
    finally:
        process.kill()
        process.wait()
        os.close(main)


def _await(main: int, wanted: str) -> str:
    """Reads the terminal until `wanted` appears."""
    shown = ""
    end = time.monotonic() + 30
    while wanted not in shown:
        ready, _, _ = select.select([main], [], [], max(0.0, end - time.monotonic()))
        assert ready, shown
        shown += os.read(main, 4096).decode("utf-8", "replace")
    return shown
