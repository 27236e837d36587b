"""The commands `embed`, `map` and `completion`, and the page that describes all commands."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qwen35cpp import FileError, InvalidArgument, Llama
from qwen35cpp.cli import _rows
from qwen35cpp.cli._files import replacing

GREEDY = ["--temp", "0", "-n", "8", "-t", "1", "-c", "256"]


def q35(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qwen35cpp", *arguments],
        capture_output=True, input=stdin, encoding="utf-8",
    )  # fmt: skip


# ---- embed --------------------------------------------------------------------------------------


def test_embed_writes_a_vector_for_each_line(tiny_path: str, tmp_path: Path) -> None:
    notes, more, output = tmp_path / "notes.txt", tmp_path / "more.txt", tmp_path / "notes.npy"
    notes.write_bytes("first\r\n\nnaïve\n".encode("utf-8-sig"))
    more.write_text("third")
    done = q35("embed", tiny_path, str(notes), str(more), "-o", str(output), "--json")
    assert done.returncode == 0, done.stderr
    vectors = np.load(output)
    assert json.loads(done.stdout) == {"file": str(output), "shape": list(vectors.shape)}
    with Llama(tiny_path) as llama:
        expected = llama.embed(["first", "naïve", "third"])
    assert vectors.dtype == np.float32
    assert vectors == pytest.approx(expected, abs=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["more.txt", "notes.npy", "notes.txt"]

    shown = q35("embed", tiny_path, "-t", "1", stdin="first\nnaïve\nthird\n")
    lines = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [line["text"] for line in lines] == ["first", "naïve", "third"]
    assert np.array([line["embedding"] for line in lines]) == pytest.approx(expected, abs=1e-5)

    whole = q35("embed", tiny_path, str(notes), "--whole", "--json", "--no-normalize")
    (entry,) = json.loads(whole.stdout)["data"]
    assert entry["text"] == "first\r\n\nnaïve\n"
    assert np.linalg.norm(entry["embedding"]) != pytest.approx(1, abs=1e-3)


def test_embed_says_what_is_wrong(tiny_path: str, tmp_path: Path) -> None:
    for arguments, message in [
        (["embed", tiny_path, "none.txt"], "cannot read none.txt"),
        (["embed", tiny_path, "-"], "no text to embed"),
        (["embed", tiny_path, "-c", "4", "-"], "context"),
        (["embed", tiny_path, "-", "-o", f"{tmp_path}/none/x.npy"], "cannot write"),
    ]:
        stdin = "" if "no text" in message else "a text of some more tokens than four\n"
        done = q35(*arguments, stdin=stdin)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


# ---- map ----------------------------------------------------------------------------------------

HEADER = ["id", "text"]
ROWS = [["1", 'a "quoted", field'], ["2", "two\nlines"], ["3", "naïve 日本"]]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *ROWS])
    return path


def test_map_adds_a_column_to_every_row(table: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    options = ["--prompt", "Repeat: {text}", *GREEDY]
    done = q35("map", "tiny", str(table), "-o", str(output), *options, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "output": str(output), "rows": 3, "resumed": 0, "failed": 0
    }  # fmt: skip
    with output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with Llama.tiny(n_ctx=256, n_threads=1) as llama:
        for row, (number, text) in zip(rows, ROWS, strict=True):
            answer = llama.chat(f"Repeat: {text}", temperature=0, max_tokens=8)
            assert row == {"id": number, "text": text, "answer": str(answer)}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.csv", "out.csv"]

    lines = q35("map", "tiny", str(table), *options, "--as", "reply").stdout.splitlines()
    assert [json.loads(line)["reply"] for line in lines] == [row["answer"] for row in rows]


def test_map_goes_on_after_a_kill(tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("".join(f"number {n}\n" for n in range(300)))
    command = ["map", "tiny", str(source), "-o", str(output), "-p", "Say {text}.", *GREEDY]
    journal = tmp_path / "out.jsonl.resume"
    process = subprocess.Popen(
        [sys.executable, "-m", "qwen35cpp", *command, "--workers", "1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not output.exists()
    done = q35(*command, "--json", "--workers", "4")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["rows"] == 300
    assert 3 <= report["resumed"] < 300
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["text"] for row in rows] == [f"number {n}" for n in range(300)]
    assert not journal.exists()


def test_map_keeps_rows_that_fail_when_it_is_told_to(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"text": "short"}) + '\n"' + "long " * 300 + '"\n')
    command = ["map", "tiny", str(source), "-p", "{text}", *GREEDY]
    assert "context holds" in q35(*command).stderr
    done = q35(*command, "--keep-going")
    assert done.returncode == 1
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["error"] == ""
    assert second["answer"] == ""
    assert "ContextTooLong" in second["error"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"a,b\n1\n", "line 2: the row has 1 cells, the header 2"),
        ("x.csv", b"a,b\n\n1,2,3\n", "line 3: the row has 3 cells, the header 2"),
        ("x.tsv", b"", "expected a header"),
        ("x.csv", b'a\n"open\n', "unexpected end of data"),
        ("x.jsonl", b'{"a": 1}\nnot\n', "line 2: no JSON"),
        ("x.jsonl", b"[1]\n", "line 1: neither an object nor a string"),
        ("x.txt", b"\xff", "not UTF-8"),
    ],
)
def test_tables_that_are_wrong(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidArgument, match=message):
        _rows.read(str(path), _rows.format_of(name, None))
    with pytest.raises(FileError, match="cannot read"):
        _rows.read(str(tmp_path / "none"), "txt")


def test_arguments_of_map(table: Path) -> None:
    for more, code, message in [
        (["-p", "{nothing}"], 1, "no field 'nothing'"),
        (["-p", "{text}", "--as", "text"], 1, "column 'text' already"),
        (["-p", "{text}", "-o", "x.txt"], 2, "--output is .csv"),
        ([], 2, "--prompt"),
    ]:
        done = q35("map", "tiny", str(table), *more)
        assert done.returncode == code
        assert message in done.stderr


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as file:
            file.write("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    with replacing(path) as file:
        file.write("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


# ---- completion and the docs --------------------------------------------------------------------


def completed(script: str, folder: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    code = (
        f'{script}\nCOMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _qwen35cpp\n'
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", code, "bash", *words], capture_output=True, text=True, cwd=folder
    )
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


def test_completion_in_bash(tmp_path: Path) -> None:
    script = q35("completion", "bash").stdout
    (tmp_path / "a model.gguf").touch()
    assert {"run", "chat", "map", "embed", "get"} <= set(completed(script, tmp_path, "q35", ""))
    assert completed(script, tmp_path, "qwen35cpp", "run", "t") == ["tiny"]
    assert completed(script, tmp_path, "qwen35cpp", "chat", "a") == ["a model.gguf"]
    assert completed(script, tmp_path, "q35", "run", "tiny", "--im") == ["--image"]
    kinds = ["auto", "f16", "f32", "q8_0"]
    assert set(kinds) <= set(completed(script, tmp_path, "q35", "run", "tiny", "--kv", ""))
    assert completed(script, tmp_path, "q35", "completion", "") == ["bash", "zsh", "fish"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_in_other_shells(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    script = q35("completion", shell).stdout
    assert subprocess.run([shell, "-n"], input=script, text=True).returncode == 0
    if shell == "fish":
        code = f'{script}\ncomplete -C "q35 run --kv q"; complete -C "q35 get 0"'
        done = subprocess.run(["fish", "-c", code], capture_output=True, text=True)
        assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["q8_0", "0.8b"]


def test_the_page_of_commands_is_up_to_date(repository: Path) -> None:
    path = repository / "python" / "docs" / "write_commands.py"
    spec = importlib.util.spec_from_file_location("write_commands", path)
    assert spec is not None
    assert spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert writer.PAGE.read_text(encoding="utf-8") == writer.page(), f"run python {path}"


def test_every_command_takes_json_and_quiet() -> None:
    from qwen35cpp.cli import build_parser
    from qwen35cpp.cli._describe import commands

    for command in commands(build_parser()):
        flags = {flag for option in command.options for flag in option.flags}
        if command.name != "completion":
            assert {"--json", "--quiet"} <= flags, command.name
        assert command.help
