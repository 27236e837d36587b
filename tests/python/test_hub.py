"""Downloads and names of models, against a hub on this machine."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fake_hub
from qwen35cpp import FileError, Llama, MissingExtra, ModelNotFound, hub
from qwen35cpp.hub import download
from qwen35cpp.hub.names import parts

pytest.importorskip("huggingface_hub")

REPO = "unsloth/Qwen3.5-2B-GGUF"
FILE = "Qwen3.5-2B-Q4_K_M.gguf"


@pytest.fixture
def server(
    tiny_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[fake_hub.Hub]:
    """A hub with a model that runs, in the place of a published one, and an empty cache."""
    model = Path(tiny_path).read_bytes()
    files = {
        "README.md": b"hello",
        FILE: model,
        "Qwen3.5-2B-Q8_0.gguf": model[::-1],
        "BF16/Qwen3.5-2B-BF16-00001-of-00002.gguf": b"one",
        "BF16/Qwen3.5-2B-BF16-00002-of-00002.gguf": b"two",
        "mmproj-F16.gguf": b"tower",
        "mmproj-BF16.gguf": b"tower too",
    }
    with fake_hub.serving(fake_hub.Hub({REPO: files})) as running:
        for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def q35(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own: huggingface_hub reads its settings at import."""
    return subprocess.run(
        [sys.executable, "-m", "qwen35cpp", *arguments],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, **env},
    )  # fmt: skip


def script(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "repo", "file"),
    [
        ("2b", REPO, FILE),
        ("2B-q8_0", REPO, "Qwen3.5-2B-Q8_0.gguf"),
        ("0.8b:ud-q4_k_xl", "unsloth/Qwen3.5-0.8B-GGUF", "Qwen3.5-0.8B-UD-Q4_K_XL.gguf"),
        ("a/b/c.gguf", "a/b", "c.gguf"),
        ("a/b/c/d.gguf", "a/b", "c/d.gguf"),
        ("a/b:Q8_0", "a/b", None),
    ],
)
def test_names_of_models(name: str, repo: str, file: str | None) -> None:
    reference = hub.parse(name)
    assert reference is not None
    assert (reference.repo, reference.file) == (repo, file)


@pytest.mark.parametrize(
    "name",
    ["", "3b", "model.gguf", "./a/b.gguf", "../a/b.gguf", "a/../b.gguf", "/a/b/c.gguf", "a/b",
     "a:b", "a/b/c.txt", "a/b/../../c.gguf", "a/.b/c.gguf", "C:\\a\\b.gguf", "a/b/c\0.gguf", "2b "],
)  # fmt: skip
def test_paths_are_no_names(name: str) -> None:
    assert hub.parse(name) is None


def test_every_short_name_has_a_repository_and_files() -> None:
    for name in hub.short_names():
        reference = hub.parse(name)
        assert reference is not None
        assert re.fullmatch(r"[\w-]+/[\w.-]+", reference.repo)
        assert reference.choose([reference.file or "", "mmproj-F16.gguf"]) == reference.file
        assert reference.choose_mmproj(["mmproj-F16.gguf"]) == "mmproj-F16.gguf"


def test_a_type_picks_one_file_of_a_repository() -> None:
    files = [
        "x-Q4_K_M.gguf", "x-UD-Q4_K_XL.gguf", "x-f16.gguf", "mmproj-F16.gguf", "y.Q8_0.gguf",
        "z-Q8_0.gguf", "BF16/x-BF16-00001-of-00002.gguf", "BF16/x-BF16-00002-of-00002.gguf",
    ]  # fmt: skip

    def chosen(kind: str) -> str:
        reference = hub.parse(f"a/b:{kind}")
        assert reference is not None
        return reference.choose(files)

    assert chosen("q4_k_m") == "x-Q4_K_M.gguf"
    assert chosen("UD-Q4_K_XL") == "x-UD-Q4_K_XL.gguf"
    assert chosen("F16") == "x-f16.gguf"
    assert parts(chosen("bf16")) == files[-2:]
    with pytest.raises(ModelNotFound, match="more than one"):
        chosen("q8_0")
    with pytest.raises(ModelNotFound, match="no model") as caught:
        chosen("q4")
    assert "x-Q4_K_M.gguf" in caught.value.hint


# ---- downloads ----------------------------------------------------------------------------------


def test_get_downloads_once_and_the_name_runs_without_a_network(server: fake_hub.Hub) -> None:
    done = q35("get", "2b", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    path = Path(answer["model"])
    content = server.repositories[REPO][FILE]
    assert path.read_bytes() == content
    assert answer["downloaded"] == len(content)
    assert answer["mmproj"] is None
    assert not list(path.parents[2].rglob("*.part"))
    assert done.stderr == ""  # no progress in a pipe

    asked = len(server.log)
    again = json.loads(q35("get", "2b", "--json").stdout)
    assert again == {**answer, "downloaded": 0}
    options = ["--raw", "-n", "4", "--temp", "0"]
    ran = q35("run", "2b", "Hello", *options)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == q35("run", str(path), "Hello", *options).stdout
    assert q35("info", REPO + ":q4_k_m", "--json").returncode == 0
    assert q35("info", f"{REPO}/{FILE}", "--json").returncode == 0
    assert len(server.log) == asked  # what is here is not asked about


def test_a_broken_download_goes_on_in_the_next_process(server: fake_hub.Hub) -> None:
    content = random.Random(1).randbytes(25 << 20)  # the library hands on 10 MB at a time
    server.repositories[REPO][FILE] = content
    server.stall_after = len(content) - 100
    process = subprocess.Popen(
        [sys.executable, "-m", "qwen35cpp", "get", "2b"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    cache = Path(os.environ["HF_HOME"])
    while not any(part.stat().st_size >= 20 << 20 for part in cache.rglob("*.part")):
        assert process.poll() is None
        time.sleep(0.02)
    second = q35("get", "2b")
    assert second.returncode == 1
    assert "another process" in second.stderr
    process.kill()
    process.wait()
    (part,) = cache.rglob("*.part")
    had = part.stat().st_size

    server.stall_after = None
    server.log.clear()
    done = q35("get", "2b", "--json")
    assert done.returncode == 0, done.stderr
    assert server.bodies() == [f"GET /cdn/{REPO}/{FILE} bytes={had}-"]
    answer = json.loads(done.stdout)
    assert answer["downloaded"] == len(content) - had
    assert Path(answer["model"]).read_bytes() == content


def test_what_arrives_is_checked(server: fake_hub.Hub) -> None:
    server.lie = True
    done = q35("get", "2b")
    assert done.returncode == 1
    assert "not the file that the hub describes" in done.stderr
    assert "Traceback" not in done.stderr
    assert q35("run", "2b", "hi").returncode == 1
    server.lie = False
    assert q35("get", "2b", "-q").returncode == 0


def test_shards_and_the_tower_come_together(server: fake_hub.Hub) -> None:
    done = q35("get", "2b-bf16", "--json")  # not where the table says: said with what there is
    assert done.returncode == 1
    assert "not on the hub" in done.stderr
    done = q35("get", f"{REPO}:bf16", "--vision", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    first = Path(answer["model"])
    assert first.name == "Qwen3.5-2B-BF16-00001-of-00002.gguf"
    assert first.with_name("Qwen3.5-2B-BF16-00002-of-00002.gguf").read_bytes() == b"two"
    assert Path(answer["mmproj"]).name == "mmproj-F16.gguf"
    assert len(server.bodies()) == 3


def test_an_updated_repository(server: fake_hub.Hub) -> None:
    first = Path(json.loads(q35("get", "2b", "--json").stdout)["model"])
    server.commit = "f" * 40
    server.repositories[REPO]["Qwen3.5-2B-Q8_0.gguf"] = b"new"
    second = json.loads(q35("get", "2b-q8_0", "--json").stdout)["model"]
    assert server.commit in second
    asked = len(server.log)
    assert json.loads(q35("get", "2b", "--json").stdout)["model"] == str(first)
    assert len(server.log) == asked  # still here, though at an older commit
    listed = json.loads(q35("get", "--list", "--json").stdout)
    assert listed["names"]["2b"] == f"{REPO}/{FILE}"
    assert listed["here"] == {f"{REPO}/{FILE}": str(first), f"{REPO}/Qwen3.5-2B-Q8_0.gguf": second}
    assert "Q8_0" in q35("get", "--list").stdout.split("also here:")[1]
    assert q35("get").returncode == 2
    updated = json.loads(q35("get", "2b", "--update", "--json").stdout)
    assert server.commit in updated["model"]
    assert updated["downloaded"] == 0  # the same content is not fetched again


def test_errors_say_what_to_do(server: fake_hub.Hub, tmp_path: Path) -> None:
    cases = [
        (["get", "3b"], "names no model", "0.8b, 2b"),
        (["get", "a/b/c.gguf"], "a/b/c.gguf is not on the hub", "HF_TOKEN"),
        (["get", "a/b:q8_0"], "a/b is not on the hub", "HF_TOKEN"),
        (["get", f"{REPO}:q3_k"], "has no model", FILE),
        (["run", "2b", "hi"], "2b is not on this computer", "qwen35cpp get 2b"),
        (["chat", "2b", "-i", "x.png"], "tower", "qwen35cpp get 2b --vision"),
        (["bench", "7b"], "no model has this name", "0.8b"),
    ]
    for arguments, message, hint in cases:
        done = q35(*arguments)
        assert done.returncode == 1, arguments
        assert message in done.stderr.splitlines()[0]
        assert hint in done.stderr.splitlines()[1]
        assert "Traceback" not in done.stderr
    offline = q35("get", "2b", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE" in offline.stderr
    server.gated = True
    assert "terms" in q35("get", "2b").stderr
    gone = q35("get", "2b", HF_ENDPOINT="http://127.0.0.1:9")
    assert gone.returncode == 1
    assert "run the same command again" in gone.stderr
    unwritable = tmp_path / "file"
    unwritable.write_bytes(b"")
    server.gated = False
    refused = q35("get", "2b", HF_HOME=str(unwritable))
    assert refused.returncode == 1
    assert "cannot download" in refused.stderr


def test_a_full_disk_is_noticed_before_the_download(
    server: fake_hub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = download.Remote(REPO, FILE, f"{server.url}/cdn/{REPO}/{FILE}", 1 << 50, "ab", "cd", {})
    with pytest.raises(FileError, match=r"needs 1125899\.91 GB") as caught:
        download.fetch(remote, hub.Store(tmp_path))
    assert "HF_HOME" in caught.value.hint
    assert server.bodies() == []
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra) as missing:
        download.fetch(remote, hub.Store(tmp_path))
    assert "qwen35cpp[hub]" in missing.value.hint


@pytest.mark.parametrize("reply", ["n", ""])
def test_on_a_terminal_it_asks(server: fake_hub.Hub, reply: str) -> None:
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "qwen35cpp", "run", "2b", "Hello", "--raw", "-n", "2"],
        stdin=terminal, stdout=subprocess.PIPE, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    while b"[Y/n]" not in shown:
        shown += os.read(main, 1000)
    assert re.search(rb"2b is not here\. Download \d.* of unsloth/", shown)
    assert server.bodies() == []
    os.write(main, reply.encode() + b"\n")
    output = process.communicate(timeout=60)[0]
    assert process.returncode == (1 if reply == "n" else 0)
    assert bool(output) == bool(server.bodies()) == (reply != "n")
    if reply != "n":
        assert b"100%" in os.read(main, 10_000)  # progress
    os.close(main)


# ---- from Python --------------------------------------------------------------------------------


def from_pretrained(arguments: str) -> list[str]:
    """The files beside the model that the call opens, in a process of its own."""
    lines = script(
        "from pathlib import Path; from qwen35cpp import Llama;"
        f"llm = Llama.from_pretrained({arguments}); path = Path(llm.model_path);"
        "print(path, *sorted(p.name for p in path.parent.iterdir()), sep='\\n')"
    ).splitlines()
    assert lines[0].endswith(FILE)
    return lines[1:]


def test_from_pretrained(server: fake_hub.Hub) -> None:
    assert from_pretrained(f"repo_id={REPO!r}, filename='*q4_k_m.gguf', verbose=False") == [FILE]
    asked = len(server.log)
    assert from_pretrained("'2b', n_ctx=64") == [FILE]
    assert from_pretrained(f"{REPO!r}, {FILE!r}") == [FILE]
    assert len(server.log) == asked
    more = f"{REPO!r}, {FILE!r}, additional_files=['mmproj-F16*'], n_gpu_layers=-1"
    assert from_pretrained(more) == [FILE, "mmproj-F16.gguf"]
    assert from_pretrained("'2b', vision=True") == [FILE, "mmproj-F16.gguf"]


def test_from_pretrained_into_a_folder(server: fake_hub.Hub, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    options = f"local_dir={str(folder)!r}"
    assert FILE in from_pretrained(f"{REPO!r}, '*Q4_K_M.gguf', {options}")
    assert (folder / FILE).read_bytes() == server.repositories[REPO][FILE]
    asked = len(server.log)
    from_pretrained(f"'2b', {options}")
    assert len(server.log) == asked


def test_from_pretrained_names_its_mistakes() -> None:
    with pytest.raises(ModelNotFound) as caught:
        Llama("9b-q8_0")
    assert caught.value.hint == "Llama.from_pretrained('9b-q8_0') opens a model by its name"
    with pytest.raises(ModelNotFound, match="names no model"):
        Llama.from_pretrained("7b")
    with pytest.raises(ValueError, match="is no repository"):
        Llama.from_pretrained("../x", "y.gguf")
    with pytest.raises(ModelNotFound, match="names no model"):
        Llama.from_pretrained("a/b")
