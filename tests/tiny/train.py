"""Trains the small model. One command starts it, and continues it after any interruption:

    python tests/tiny/train.py --minutes 60 --vision 0.5

State (weights in float32, optimiser, position in the data, time spent) is kept in `--work`, written
every few minutes under a temporary name and when the program is interrupted. Where no state is
found, training starts from the checkpoint in the repository with a fresh optimiser, or with
`--scratch` from random weights. The learning rate is constant after a short warm-up and falls to
zero over the last part of `--minutes`; the result is written to `--out` in bfloat16. train.log in
`--work` has the loss of every skill.

Matrices of the layers are trained with Muon (orthogonalised momentum), everything else with Adam.

With `--device cuda` batches are larger and drawn by a process for each core; a GPU trains a hundred
times as fast as two cores. `--lessons` goes on asking the tower what each token of a picture shows;
`--seek` teaches a head of each attention layer to look at what an answer repeats, shows or counts.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tiny import eyes, model, vocabulary
from tiny.batches import NAMES, Batch, Batches, Stream, Targets
from tiny.chat_format import Renderer
from tiny.skills import SKILLS, mix

CHECKPOINT = HERE / "qwen35-tiny"
WARMUP = 60  # steps
FEWEST = 0.01  # share of a batch's tokens: fewer answered ones count as if they were so many
SEEKING = 512  # tokens of a batch with a lesson of looking back, at most
LONGEST_STEP = 60  # seconds; what is longer was a pause


# ---- optimiser -----------------------------------------------------------------------------------


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """Moves the singular values of matrices [n, rows, cols] towards one (quintic Newton-Schulz)."""
    tall = g.shape[-2] > g.shape[-1]
    x = g.transpose(-1, -2) if tall else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if torch.get_float32_matmul_precision() != "highest":
        x = x.bfloat16()
    for _ in range(steps):
        a = x @ x.transpose(-1, -2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    x = x.to(g.dtype)
    return x.transpose(-1, -2) if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised; matrices of one shape go through it together."""

    def __init__(self, params: list[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": 0.02})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # noqa: ARG002 - torch's signature
        """One update; parameters without a gradient stay."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[p.shape].append(p)
            for shape, params in shapes.items():
                grads = torch.stack([p.grad for p in params])
                zeros = torch.zeros_like(params[0])
                buffers = [self.state[p].setdefault("momentum", zeros.clone()) for p in params]
                momentum = torch.stack(buffers).lerp_(grads, 1 - group["momentum"])
                torch._foreach_copy_(buffers, momentum.unbind())
                moved = orthogonalise(grads.lerp(momentum, group["momentum"]))
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_mul_(params, 1 - group["lr"] * group["decay"])
                torch._foreach_add_(params, moved.unbind(), alpha=-rate)


def optimisers(trained: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, Adam for embeddings, kernels, norms and scalars."""
    matrices, tables, rest = [], [], []
    for name, p in trained.named_parameters():
        if "embed_tokens" in name or "pos_embed" in name:
            tables.append(p)
        elif p.ndim == 2 and min(p.shape) >= 64:
            matrices.append(p)
        else:
            rest.append(p)
    adam = torch.optim.AdamW(
        [{"params": tables, "lr": 0.15 * rate}, {"params": rest, "lr": 0.1 * rate}],
        betas=(0.9, 0.98), weight_decay=0.0, fused=True,
    )  # fmt: skip
    return [Muon(matrices, rate), adam]


# ---- loss ----------------------------------------------------------------------------------------


class Loss:
    """Loss of a batch and, per skill, of its answered tokens."""

    def __init__(
        self, tiny: model.TinyModel, *, mtp: float, seek: float = 0.0, only_mtp: bool = False,
        compiled: bool = True,
    ) -> None:  # fmt: skip
        self.tiny, self.mtp, self.seek, self.only_mtp = tiny, mtp, seek, only_mtp
        self.forward = model.PackedForward(tiny, compiled=compiled)
        device = tiny.text.embed_tokens.weight.device
        self.sums = torch.zeros(2, 2, len(NAMES), device=device)  # [ahead, sum and count, skill]
        self.looked: list[Tensor] = []  # surprise of each attention layer since the last report

    def __call__(self, batch: Batch) -> Tensor:
        """The weighted mean of the next-token loss, plus that of the token after it for MTP."""
        geo = self.forward.geometry(batch.documents, batch.positions, alone=batch.alone)
        with torch.set_grad_enabled(not self.only_mtp):
            x = self.tiny.text.embed_tokens(batch.ids)
            if batch.grids:
                x = eyes.insert(self.tiny.visual, x, batch)
            looked: list[Tensor] = []
            if self.seek and not self.only_mtp and len(batch.seeking):
                geo["lesson"] = (*lessons(batch), looked)
            hidden = self.forward(x, geo)
            loss = self._head(hidden, batch.targets[0], 1)
            if geo.pop("lesson", None):
                surprise = torch.stack(looked)
                self.looked.append(surprise.detach())
                share = min(1.0, len(batch.seeking) / (FEWEST * batch.ids.numel()))
                loss = loss + self.seek * share * surprise.sum()
        if self.mtp:
            # Row p pairs the state of token p with the embedding of token p + 1. The trunk learns
            # nothing from this: drafts should not cost it anything.
            following = F.pad(x[:, 1:], (0, 0, 0, 1)).detach()
            drafted = self.forward.draft(hidden.detach(), following, geo)
            extra = self._head(drafted, batch.targets[1], 2)
            loss = extra if self.only_mtp else loss + self.mtp * extra
        return loss

    def _head(self, hidden: Tensor, targets: Targets, ahead: int) -> Tensor:
        table = self.tiny.text.embed_tokens.weight
        rows = hidden.flatten(0, 1)[targets.places]
        logits = F.linear(rows, table if ahead == 1 else table.detach())
        nll = F.cross_entropy(logits.float(), targets.ids, reduction="none")
        counted = torch.stack([nll.detach(), torch.ones_like(nll)])
        self.sums[ahead - 1].index_add_(1, targets.skills, counted)
        fewest = FEWEST * hidden.shape[0] * hidden.shape[1]  # a mean of very few would be noise
        return (nll * targets.weights).sum() / targets.weights.sum().clamp_min(fewest)

    def report(self) -> str:
        """Mean losses since the last report, as `skill loss` pairs; `+` marks MTP."""
        text = []
        for mark, (sums, counts) in zip(("", "+"), self.sums.tolist(), strict=True):
            met = zip(NAMES, sums, counts, strict=True)
            text += [f"{name}{mark} {s / n:.3f}" for name, s, n in met if n]
        self.sums.zero_()
        if self.looked:
            looked = torch.stack(self.looked).mean(0).tolist()
            text.append("looking " + " ".join(f"{n:.3f}" for n in looked))
            self.looked.clear()
        return "  ".join(text)


def lessons(batch: Batch) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Where to look from where, for the first layer with attention and for the later ones: what
    changed from frame to frame has to be known before it can be asked for.
    """

    def some(tokens: Tensor, others: Tensor, most: int) -> tuple[Tensor, Tensor]:
        drawn = torch.randperm(len(tokens), device=tokens.device)[:most]
        return tokens[drawn], others[drawn]

    answers = some(batch.seeking, batch.sought, SEEKING)
    moments = some(batch.now, batch.before, SEEKING // 4)
    return (torch.cat([answers[0], moments[0]]), torch.cat([answers[1], moments[1]])), answers


# ---- the loop ------------------------------------------------------------------------------------


class Trainer:
    """A run: the model, its optimisers, and what a state file holds of them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.path: Path = args.work / "state.pt"
        self.device = torch.device(args.device)
        on_gpu = self.device.type != "cpu"
        self.bf16 = not args.float32 and (on_gpu or torch.cpu._is_avx512_bf16_supported())
        # On a GPU "high" is TF32; on a CPU "medium" is bf16.
        precision = ("high" if on_gpu else "medium") if self.bf16 else "highest"
        torch.set_float32_matmul_precision(precision)
        self.tiny = model.TinyModel() if args.scratch else model.load(args.start)
        tokenizer = vocabulary.plain(CHECKPOINT)
        if args.scratch:
            model.join_forms(self.tiny.text.embed_tokens.weight, vocabulary.forms(tokenizer))
        self.lessons = eyes.Lessons(self.tiny.visual.config.out_hidden_size)
        # At this length a merged vector is as sure of its word as logits of 8 are.
        table = self.tiny.text.embed_tokens.weight
        self.lessons.speak(table, tokenizer, loudness=8 / eyes.LOUDNESS)
        self.asked: list[Tensor] = []  # losses of the lessons since the last report
        self.trained = nn.ModuleDict({"tiny": self.tiny, "lessons": self.lessons}).to(self.device)
        self.opts = optimisers(self.trained, args.rate)
        self.rates = [[group["lr"] for group in opt.param_groups] for opt in self.opts]
        self.spent, self.step, self.tokens = 0.0, 0, 0
        if self.path.exists() and not args.fresh:
            self._resume()
        if args.eyes:
            self._open_eyes(args.eyes)
        self.tiny.visual.requires_grad_(not args.freeze_eyes)
        self.loss = Loss(
            self.tiny, mtp=args.mtp, seek=args.seek, only_mtp=args.only_mtp,
            compiled=not args.eager,
        )  # fmt: skip

    def _resume(self) -> None:
        state = torch.load(self.path, weights_only=True)
        self.trained.load_state_dict(state["model"])
        for opt, saved in zip(self.opts, state["optimisers"], strict=True):
            opt.load_state_dict(saved)
        self.spent, self.step, self.tokens = state["spent"], state["step"], state["tokens"]

    def _open_eyes(self, path: Path) -> None:
        self.tiny.visual.load_state_dict(torch.load(path, weights_only=True))
        table, tokenizer = self.tiny.text.embed_tokens.weight, vocabulary.plain(CHECKPOINT)
        eyes.teach_words(self.tiny.visual, table, tokenizer, scenes=1600, minutes=2)

    def keep(self) -> None:
        """Writes the state; the old one stays until the new one is whole."""
        state = {
            "model": self.trained.state_dict(),
            "optimisers": [opt.state_dict() for opt in self.opts],
            "spent": self.spent,
            "step": self.step,
            "tokens": self.tokens,
        }
        written = self.path.with_suffix(".part")
        torch.save(state, written)
        written.replace(self.path)

    def _batches(self) -> Iterator[tuple[Batch, eyes.Lesson | None]]:
        args = self.args
        stream = partial(
            Stream, Renderer(vocabulary.plain(CHECKPOINT)),
            mix(args.vision, args.drill, args.look, dict(args.focus)),
            size=args.batch, longest=args.longest, farthest=args.farthest,
        )  # fmt: skip
        data = Batches(stream, self.step + 1, args.scenes if args.lessons else 0)
        on_gpu = self.device.type != "cpu"
        workers = max(1, len(os.sched_getaffinity(0)) - 1) if on_gpu else 0
        return iter(DataLoader(data, batch_size=None, num_workers=workers, pin_memory=on_gpu))

    def _learn(self, batch: Batch, lesson: eyes.Lesson | None, scale: float) -> None:
        for opt, rates in zip(self.opts, self.rates, strict=True):
            for group, rate in zip(opt.param_groups, rates, strict=True):
                group["lr"] = rate * scale
        move = partial(Tensor.to, device=self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.loss(batch.tensors(move))
            if lesson:
                lesson = lesson.tensors(move)
                merged = eyes.see(self.tiny.visual, lesson.patches, lesson.grid).flatten(0, 1)
                asked = self.lessons(merged, lesson.answers)
                self.asked.append(asked.detach())
                loss = loss + self.args.lessons * asked
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained.parameters(), 2.0)
        for opt in self.opts:
            opt.step()
            opt.zero_grad()
        self.step += 1
        self.tokens += batch.tokens

    def run(self, stopped: threading.Event) -> None:
        """Trains until the time is spent or `stopped` is set."""
        args, budget = self.args, self.args.minutes * 60
        batches = self._batches()
        last, saved = time.monotonic(), self.spent
        with (args.work / "train.log").open("a") as log:
            while self.spent < budget and not stopped.is_set():
                scale = _rate(self.spent, budget, args.decay, self.step)
                self._learn(*next(batches), scale)
                now = time.monotonic()
                self.spent, last = self.spent + min(now - last, LONGEST_STEP), now
                if self.step % args.log_every == 0:
                    line = f"step {self.step} min {self.spent / 60:.1f} "
                    line += f"Mtok {self.tokens / 1e6:.2f} lr {scale:.2f}  {self.loss.report()}"
                    if self.asked:
                        line += f"  lessons {torch.stack(self.asked).mean():.3f}"
                        self.asked.clear()
                    print(line, flush=True)
                    print(line, file=log, flush=True)
                if self.spent - saved > args.save_every * 60:
                    saved = self.spent
                    self.keep()
        self.keep()
        if not stopped.is_set():
            model.save(self.tiny, args.out)


def _rate(spent: float, budget: float, decay: float, steps: int) -> float:
    """Share of the full learning rate; `steps` counts from when the optimiser was new."""
    left = max(0.0, 1 - spent / budget)
    return min(1.0, (steps + 1) / WARMUP, left / decay)


def _weight(text: str) -> tuple[str, float]:
    name, _, times = text.partition("=")
    if name not in SKILLS:
        raise argparse.ArgumentTypeError(f"no skill {name!r}: one of {', '.join(SKILLS)}")
    return name, float(times)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains the small model.")
    add = parser.add_argument
    add("--minutes", type=float, required=True, help="training time in all, with earlier runs")
    add("--vision", type=float, default=0.5, help="share of pictures, screens, video")
    add("--drill", type=float, default=0.05, help="share of drills in the text")
    add("--look", type=float, default=0.05, help="share of single tokens in the pictures")
    add(
        "--focus",
        nargs="*",
        type=_weight,
        default=[],
        metavar="SKILL=TIMES",
        help="skills that weigh more (or less) than usual among the text or the vision",
    )
    add("--longest", type=int, default=700, help="words of the longest passages")
    add("--farthest", type=int, default=2500, help="words of the longest texts with a needle")
    add("--lessons", type=float, default=0, help="weight of the tower's lessons beside the rest")
    add("--scenes", type=int, default=48, help="pictures of each lesson")
    add("--seek", type=float, default=0.5, help="weight of lessons of looking back, 0 for none")
    add("--batch", type=int, help="tokens of a batch (default: 4,096, on a GPU 65,536)")
    add("--device", default="cpu", help="cpu or cuda")
    add("--mtp", type=float, default=0.3, help="weight of the MTP loss, 0 to skip it")
    add("--only-mtp", action="store_true", help="train the MTP layer alone")
    add("--rate", type=float, default=0.01, help="learning rate of Muon")
    add("--decay", type=float, default=0.5, help="last share of the time in which the rate falls")
    add("--start", type=Path, default=CHECKPOINT, help="folder of the checkpoint to go on from")
    add("--scratch", action="store_true", help="start from random weights")
    add("--fresh", action="store_true", help="ignore a state in --work")
    add("--eyes", type=Path, help="vision tower written by eyes.py, for a start")
    add("--freeze-eyes", action="store_true", help="leave the vision tower as it is")
    add("--float32", action="store_true", help="no bfloat16 where the processor multiplies it")
    add("--eager", action="store_true", help="no compilation: slower, starts at once")
    add("--work", type=Path, default=HERE.parent.parent / "build" / "tiny")
    add("--out", type=Path, default=CHECKPOINT)
    add("--save-every", type=float, default=3, help="minutes")
    add("--log-every", type=int, default=25, help="steps")
    args = parser.parse_args()
    if args.only_mtp and args.lessons:
        parser.error("--lessons trains the tower, --only-mtp the MTP layer alone: take one")
    args.batch = args.batch or (4096 if args.device == "cpu" else 65_536)
    return args


def main() -> None:
    """Command line; see the file's head."""
    args = _arguments()
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    args.work.mkdir(parents=True, exist_ok=True)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    Trainer(args).run(stopped)


if __name__ == "__main__":
    main()
