"""What a product costs on AArch64, here and in llama.cpp, on a machine that is none.

    python bench/arm_cost.py LLAMA_CPP [--types Q4_0 Q4_K Q8_0] [--tokens 512]

Both engines are cross-built for three CPUs: Raspberry Pi 4, Raspberry Pi 5 and one with smmla. An
emulator runs the product of a matrix and some tokens in each, one thread, rounding the tokens and
packing included, and counts how often every block of instructions runs (arm/count_blocks.c). That
gives instructions; llvm-mca's model of the CPU's pipelines gives the cycles of each block, when it
runs again and again with its data in the first-level cache. Neither knows how a CPU waits for
memory. For the Cortex-A76 the model of the Neoverse N1 is used, which was made from it: llvm-mca
gives the A76 the pipelines of the older A57. Needs cmake, g++-aarch64-linux-gnu, qemu-user and
LLVM's tools; builds go to --work and are kept.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = "aarch64-linux-gnu"
COVERED = 0.995  # share of the instructions whose blocks are given to the model
ITERATIONS = 100


@dataclass(frozen=True)
class Cpu:
    """A processor: for the emulator, for the model of its pipelines, and llama.cpp's flags."""

    emulated: str
    model: str
    flags: str


CPUS = (
    Cpu("cortex-a72", "cortex-a72", "armv8-a"),
    Cpu("cortex-a76", "neoverse-n1", "armv8.2-a+dotprod+fp16"),
    Cpu("max", "neoverse-v1", "armv8.2-a+dotprod+fp16+i8mm"),
)


@dataclass(frozen=True)
class Cost:
    """Of a thousand multiply-adds."""

    instructions: float
    cycles: float


def run(*command: str | Path, **options: str | None) -> str:
    """The output of a command that must succeed."""
    stdin = options.pop("stdin", None)
    done = subprocess.run(list(map(str, command)), input=stdin, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def tool(name: str) -> str:
    """One of LLVM's tools, the newest: version 14 has no model of the Neoverses."""
    for version in (*(f"-{n}" for n in range(25, 15, -1)), ""):
        if shutil.which(name + version):
            return name + version
    sys.exit(f"{name} is not installed")


def cross_build(source: Path, build: Path, target: str, *options: str) -> None:
    """A target of a CMake project, for AArch64."""
    compilers = (f"-DCMAKE_C_COMPILER={TARGET}-gcc", f"-DCMAKE_CXX_COMPILER={TARGET}-g++")
    system = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")
    release = "-DCMAKE_BUILD_TYPE=Release"
    run("cmake", "-S", source, "-B", build, release, *compilers, *system, *options)
    run("cmake", "--build", build, "--target", target, "--parallel", str(os.cpu_count()))


def build_ours(work: Path) -> Path:
    """The program that makes our product."""
    cross_build(ROOT, work / "ours", "one_product", "-DQWEN35_BUILD_TESTS=ON")
    return work / "ours" / "tests" / "one_product"


def build_peer(work: Path, source: Path, cpu: Cpu) -> Path:
    """The program that makes llama.cpp's, with its kernels for this CPU."""
    build = work / f"llama-{cpu.emulated}"
    off = ("GGML_NATIVE", "GGML_OPENMP", "BUILD_SHARED_LIBS", "LLAMA_BUILD_COMMON",
           "LLAMA_BUILD_TESTS", "LLAMA_BUILD_TOOLS", "LLAMA_BUILD_EXAMPLES")  # fmt: skip
    options = (f"-DGGML_CPU_ARM_ARCH={cpu.flags}", *(f"-D{name}=OFF" for name in off))
    cross_build(source, build, "ggml-cpu", *options)
    program = build / "peer_product"
    libraries = [build / "ggml" / "src" / f"lib{name}.a" for name in ("ggml-cpu", "ggml-base")]
    run(
        f"{TARGET}-g++", "-std=c++17", "-O2", "-I", source / "ggml" / "include",
        ROOT / "bench" / "arm" / "peer_product.cpp", *libraries, *libraries, "-lpthread", "-lm",
        "-ldl", "-o", program,
    )  # fmt: skip
    return program


def build_plugin(work: Path) -> Path:
    """The emulator's plugin."""
    plugin = work / "libcount_blocks.so"
    source = ROOT / "bench" / "arm" / "count_blocks.c"
    run("gcc", "-O2", "-Wall", "-shared", "-fPIC", source, "-o", plugin)
    return plugin


def blocks_of(program: Path, plugin: Path, cpu: Cpu, arguments: list[str]) -> Counter[str]:
    """How often each block of a run was executed, by its code."""
    out = plugin.with_suffix(".out")
    sysroot = f"/usr/{TARGET}"
    plug = f"{plugin},out={out}"
    print(run("qemu-aarch64", "-L", sysroot, "-cpu", cpu.emulated, "-plugin", plug, program,
              *arguments).strip(), file=sys.stderr)  # fmt: skip
    found: dict[int, tuple[int, str]] = {}
    for address, count, code in map(str.split, out.read_text().splitlines()):
        before, _ = found.get(int(address, 16), (0, ""))
        found[int(address, 16)] = before + int(count), code
    counts: Counter[str] = Counter()
    for address, (count, code) in sorted(found.items()):
        # The emulator ends blocks at pages too: there the next one goes on.
        end = address + len(code) // 2
        while not ends_in_branch(code) and found.get(end, (0, ""))[0] >= count:
            rest, more = found[end]
            found[end] = rest - count, more
            code, end = code + more, end + len(more) // 2
        counts[code] += found[address][0]
    return counts


def ends_in_branch(code: str) -> bool:
    """Whether the last instruction of a block may go elsewhere than behind it."""
    word = int.from_bytes(bytes.fromhex(code[-8:]), "little")
    return (
        word >> 26 & 31 == 5  # b, bl
        or word >> 25 & 63 in (0x1A, 0x1B)  # cbz, tbz
        or word >> 25 in (0x2A, 0x6A, 0x6B)  # b.cond, svc, br
    )


@functools.cache
def block_cycles(code: str, model: str) -> float:
    """Cycles of a block of instructions that runs again and again, by llvm-mca."""
    spaced = " ".join(f"0x{code[i : i + 2]}" for i in range(0, len(code), 2))
    text = run(tool("llvm-mc"), "--disassemble", "-triple=aarch64", "-mattr=+all", stdin=spaced)
    given = ("-mtriple=aarch64", f"-mcpu={model}", f"-iterations={ITERATIONS}")
    report = run(tool("llvm-mca"), *given, "-mattr=+all", stdin=text)
    known, cycles = (
        int(re.findall(rf"{what}:\s+(\d+)", report)[0]) for what in ("Instructions", "Total Cycles")
    )
    if known != len(code) // 8 * ITERATIONS:
        sys.exit(f"LLVM's tools do not know all of the {len(code) // 8} instructions in\n{text}")
    return cycles / ITERATIONS


def cost(program: Path, plugin: Path, cpu: Cpu, product: list[str], macs: int) -> Cost:
    """Of one product: a run of two less a run of one."""
    once = blocks_of(program, plugin, cpu, [*product, "1"])
    counts = blocks_of(program, plugin, cpu, [*product, "2"])
    counts.subtract(once)
    size = {code: len(code) // 8 for code in counts}
    total = sum(counts[code] * size[code] for code in counts)
    covered, cycles = 0, 0.0
    for code in sorted(counts, key=lambda code: -counts[code] * size[code]):
        if covered >= COVERED * total:
            break
        covered += counts[code] * size[code]
        cycles += counts[code] * block_cycles(code, cpu.model)
    return Cost(1e3 * total / macs, 1e3 * cycles * total / covered / macs)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of llama.cpp's source")
    parser.add_argument("--types", nargs="+", default=["Q4_0", "Q4_K", "Q8_0"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 4, 1])
    parser.add_argument("--cpus", nargs="+", default=[cpu.emulated for cpu in CPUS])
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--cols", type=int, default=2048)
    parser.add_argument("--work", type=Path, default=Path("build") / "arm_cost")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    plugin, ours = build_plugin(work), build_ours(work)
    cpus = [cpu for cpu in CPUS if cpu.emulated in arguments.cpus]
    peers = {cpu: build_peer(work, arguments.source.resolve(), cpu) for cpu in cpus}
    print("| CPU | type | tokens | instructions | llama.cpp | ratio | cycles | llama.cpp | ratio |")
    print("|---|---|" + "---:|" * 7)
    for cpu in cpus:
        for name in arguments.types:
            for tokens in arguments.tokens:
                shape = [str(arguments.rows), str(arguments.cols), str(tokens)]
                macs = arguments.rows * arguments.cols * tokens
                a = cost(ours, plugin, cpu, [name, *shape], macs)
                b = cost(peers[cpu], plugin, cpu, [name, *shape], macs)
                cells = (
                    f"{a.instructions:.1f}", f"{b.instructions:.1f}",
                    f"{b.instructions / a.instructions:.2f}",
                    f"{a.cycles:.1f}", f"{b.cycles:.1f}", f"{b.cycles / a.cycles:.2f}",
                )  # fmt: skip
                print(f"| {cpu.emulated} | {name} | {tokens} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
