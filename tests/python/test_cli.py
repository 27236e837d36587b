"""The command line: exit codes, and nothing on standard output but the answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from qwen35cpp.convert import info

import qwen35cpp
import tiny_gguf
from qwen35cpp.cli import main

SETTINGS = ["--raw", "--max-tokens", "12", "--seed", "5"]


def q35(*arguments: str, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "qwen35cpp", *arguments],
        capture_output=True, input=stdin, env={**os.environ, **env},
    )  # fmt: skip


@pytest.fixture(scope="module")
def expected(tiny_path: str) -> str:
    with qwen35cpp.Llama(tiny_path) as llama:
        return llama.generate("Hello world", max_tokens=12, seed=5)


def test_run_prints_the_answer_and_nothing_else(tiny_path: str, expected: str) -> None:
    done = q35("run", tiny_path, *SETTINGS, "Hello world")
    assert done.returncode == 0
    assert done.stderr == b""
    assert done.stdout == q35("run", *SETTINGS, tiny_path, "Hello world").stdout
    assert done.stdout.decode() == expected + ("" if expected.endswith("\n") else "\n")


@pytest.mark.parametrize("argument", [[], ["-"]])
def test_run_reads_the_prompt_from_a_pipe(
    tiny_path: str, expected: str, argument: list[str]
) -> None:
    done = q35("run", tiny_path, *argument, *SETTINGS, stdin=b"Hello world")
    assert done.returncode == 0
    assert done.stdout.decode().rstrip("\n") == expected.rstrip("\n")


def test_run_gives_one_json_object(tiny_path: str, expected: str) -> None:
    done = q35("run", tiny_path, "Hello world", *SETTINGS, "--json", "--logprobs", "2")
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert answer["text"] == expected
    assert answer["seed"] == 5
    assert answer["usage"]["completion_tokens"] == len(answer["tokens"]) == len(answer["logprobs"])
    assert len(answer["logprobs"][0]["top"]) == 2


def test_tiny_is_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["run", "tiny", "Once there was a", "--raw", "--temp", "0", "-n", "12"]
    with qwen35cpp.Llama.tiny(n_ctx=64) as llama:
        expected = llama.generate("Once there was a", temperature=0, max_tokens=12)
    assert q35(*arguments).stdout.decode().rstrip("\n") == expected.rstrip("\n")
    (tmp_path / "tiny").write_bytes(b"a file of that name comes first")
    assert b"GGUF" in q35(*arguments).stderr


def test_a_package_without_the_bundled_model_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwen35cpp import _bundled

    monkeypatch.setattr(_bundled, "TINY_FILE", Path("nowhere.gguf"))
    with pytest.raises(qwen35cpp.ModelNotFound, match=r"nowhere\.gguf is missing"):
        qwen35cpp.Llama.tiny()


def test_run_answers_in_the_chat_format(tiny_path: str) -> None:
    options = ["--max-tokens", "12", "--seed", "5"]
    with qwen35cpp.Llama(tiny_path) as llama:
        expected = llama.chat("Hello world", system="Be brief.", max_tokens=12, seed=5)
    done = q35("run", tiny_path, "Hello world", "--system", "Be brief.", *options)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().rstrip("\n") == expected.rstrip("\n")
    done = q35("run", tiny_path, "hi", "--thinking-budget", "3", "--json", "-n", "12", "--stats")
    answer = json.loads(done.stdout)
    assert answer["reasoning"] is not None
    assert b"seed" in done.stderr
    assert q35("run", tiny_path, stdin=b" \n").returncode == 1


def test_run_prints_figures_on_standard_error(tiny_path: str) -> None:
    done = q35("run", tiny_path, "Hello world", *SETTINGS, "--stats", "--threads", "1")
    assert done.returncode == 0
    assert b"seed 5" in done.stderr


def test_the_output_is_utf8_in_any_locale(tiny_path: str) -> None:
    prompt = "日本 naïve"
    texts = {
        q35("run", tiny_path, prompt, *SETTINGS, LC_ALL=name, PYTHONUTF8="0").stdout
        for name in ("C", "C.UTF-8", "POSIX")
    }
    assert len(texts) == 1
    assert texts.pop().decode("utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "usage"),
        (["frobnicate"], 2, "invalid choice"),
        (["run"], 2, "MODEL"),
        (["run", "x.gguf", "--raw", "one", "two"], 2, "unrecognized arguments"),
        (["run", "x.gguf", "hi", "--max-tokens", "0"], 2, "at least 1"),
        (["run", "x.gguf", "hi", "--seed", "abc"], 2, "invalid int"),
        (["run", "x.gguf", "hi", "--special"], 2, "--special needs --raw"),
        (["run", "x.gguf", "hi", "--raw", "--no-think"], 2, "--raw has no --system"),
        (["run", "x.gguf", "hi"], 1, "x.gguf"),
        (["chat", "x.gguf"], 1, "x.gguf"),
        (["info", "x.gguf"], 1, "x.gguf"),
        (["bench", "x.gguf"], 1, "x.gguf"),
        (["verify", "x.gguf"], 1, "x.gguf"),
        (["convert", "x", "-o", "y.gguf"], 2, "--type"),
    ],
)
def test_mistakes_have_exit_codes_and_messages(
    arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qwen35cpp", *arguments], capture_output=True, cwd=tmp_path
    )
    assert done.returncode == code, done.stderr
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


def test_errors_of_the_engine_are_one_line_and_a_hint(tiny_path: str) -> None:
    done = q35("run", tiny_path, "Hello world", "--ctx", "2")
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("error: the prompt has ")
    assert lines[1].startswith("hint: ")
    wrong = q35("run", tiny_path, "Hello world", QWEN35_ISA="sse9")
    assert wrong.returncode == 1
    assert b"sse9" in wrong.stderr


def test_a_reader_that_leaves_is_no_traceback(tiny_path: str) -> None:
    command = f"{sys.executable} -m qwen35cpp run {tiny_path} Hello --max-tokens 2000 | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True)
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


def test_info_shows_the_file(tiny_path: str) -> None:
    done = q35("info", tiny_path, "--json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["metadata"]["general.architecture"] == "qwen35"
    assert content["metadata"]["qwen35.block_count"] == content["model"]["n_layer"] == 4
    assert list(content["tensors"]) == ["F32"]
    assert content["tensors"]["F32"]["bytes"] == 4 * content["parameters"]
    shown = q35("info", tiny_path)
    assert shown.returncode == 0
    assert b"general.name" in shown.stdout


def test_doctor_knows_this_computer() -> None:
    done = q35("doctor", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["version"] == qwen35cpp.__version__
    assert report["cpu"]["isa"]
    assert report["extras"]["video"] is True  # its package is one of those for the tests
    assert "dev" not in report["extras"]
    assert 0 < report["memory"]["available"] <= report["memory"]["total"]
    # Tensors of files that `convert` makes, and what a context and a process take besides.
    assert 0.53e9 < report["models"]["0.8B"]["Q4_K_M"] < 0.9e9
    assert 17.9e9 < report["models"]["9B"]["BF16"] < 19e9
    for contexts in report["contexts"].values():
        assert 0 <= contexts["f16"] <= contexts["q8_0"] <= contexts["iq4_nl"] <= 262_144
    assert report["contexts"]["0.8B"]["iq4_nl"] >= report["contexts"]["9B"]["iq4_nl"]
    assert b"longest context" in q35("doctor").stdout
    assert json.loads(q35("doctor", "--json", QWEN35_ISA="scalar").stdout)["cpu"]["isa"] == "scalar"


def test_memory_is_bounded_from_the_command_line(tmp_path: Path) -> None:
    cache = tmp_path / "states"
    prompt = "Once there was a girl named Mia. " * 20
    options = ["--raw", "-n", "4", "--json", "--memory-limit", "400MB", "-t", "1"]
    reads = []
    for _ in range(2):
        done = q35("run", "tiny", prompt, *options, "--cache-dir", str(cache))
        assert done.returncode == 0, done.stderr
        reads.append(json.loads(done.stdout)["usage"]["cached_tokens"])
    assert reads[0] == 0
    assert reads[1] > 64  # the state of the first run
    refused = q35("run", "tiny", prompt, *options[:-4], "-c", "262144", "--memory-limit", "90 MB")
    assert refused.returncode == 1
    assert b"there are 0.09 GB" in refused.stderr
    assert q35("run", "tiny", "x", "--memory-limit", "much").returncode == 2


def test_the_context_is_stretched_from_the_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fitted(*options: str) -> dict[str, int]:
        assert main(["fit", "tiny", "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)

    plain, yarn = fitted(), fitted("--rope-scaling", "yarn", "--rope-factor", "2")
    assert (plain["n_ctx"], yarn["n_ctx"]) == (262_144, 524_288)
    assert yarn["kv"] == 2 * plain["kv"]
    assert fitted("--draft", "off")["kv"] == plain["kv"] * 2 // 3  # without the MTP layer
    assert main(["fit", "tiny", "--rope-factor", "2"]) == 1
    assert "needs --rope-scaling" in capsys.readouterr().err
    base = ["run", "tiny", "Once there was", "--raw", "-n", "4", "-c", "64", "--json"]
    chances = []
    for options in ([], ["--rope-scaling", "yarn"]):
        assert main([*base, "--temp", "0", "--logprobs", "0", *options]) == 0
        chances.append(json.loads(capsys.readouterr().out)["logprobs"])
    assert chances[0] != chances[1]


def test_bench_measures(tiny_model: Callable[..., tiny_gguf.TinyModel]) -> None:
    path = str(tiny_model(type="Q8_0").path)
    options = ["--prompt", "64", "--generate", "8", "--repeat", "2"]
    done = q35("bench", path, *options, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [test["test"] for test in report["tests"]] == ["pp64", "tg8"]
    assert all(len(test["repetitions"]) == 2 for test in report["tests"])
    assert all(test["tokens_per_second"] > 0 for test in report["tests"])
    assert report["peak_memory"] > 0
    table = q35("bench", path, *options, "--depth", "32")
    assert b"| tg8@32 |" in table.stdout


def test_the_commands_are_installed() -> None:
    from importlib.metadata import distribution

    entries = {e.name: e.value for e in distribution("qwen35cpp").entry_points}
    command = "qwen35cpp.cli:main"
    assert entries.pop("qwen35cpp") in (command, "qwen35cpp.llm_plugin")  # two groups, one name
    assert entries == {"q35": command}


def test_version() -> None:
    assert q35("--version").stdout.decode().strip() == qwen35cpp.__version__


def test_quantize_writes_a_model_that_runs_and_verifies(tiny_path: str, tmp_path: Path) -> None:
    output = str(tmp_path / "small.gguf")
    done = q35("quantize", tiny_path, output, "Q8_0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == output + "\n"
    assert done.stderr == b""
    assert q35("verify", output).returncode == 0
    assert q35("run", output, "Hello", "--max-tokens", "3").returncode == 0

    data = bytearray(Path(output).read_bytes())
    data[-100] ^= 1
    Path(output).write_bytes(data)
    damaged = q35("verify", output, "--json")
    assert damaged.returncode == 1
    assert json.loads(damaged.stdout)["problems"]

    refused = q35("quantize", tiny_path, output, "Q9")
    assert refused.returncode == 1
    assert b"Q9" in refused.stderr


def test_quantize_changes_an_embedded_tower_when_asked(tmp_path: Path) -> None:
    from qwen35cpp._bundled import tiny_path

    kinds = {}
    for options in ((), ("--vision-type", "q8_0")):
        output = str(tmp_path / "model.gguf")
        done = q35("quantize", str(tiny_path()), output, "q8_0", *options)
        assert done.returncode == 0, done.stderr
        found = {entry.name: entry.type for entry in info(output).tensors}
        kinds[options] = found["v.blk.0.ffn_up.weight"]
    assert list(kinds.values()) == ["F16", "Q8_0"]
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    shown = q35("run", output, "What?", "-i", str(tmp_path / "a.png"), "-n", "1")
    assert shown.returncode == 0, shown.stderr
