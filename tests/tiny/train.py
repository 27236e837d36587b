"""Trains the small model. One command starts it, and continues it after any interruption:

    python tests/tiny/train.py --minutes 60 --vision 0.5

State (weights in float32, optimiser, position in the data, time spent) is kept in `--work`, written
every few minutes under a temporary name and when the program is interrupted. Where no state is
found, training starts from the checkpoint in the repository with a fresh optimiser, or with
`--scratch` from random weights. The learning rate is constant after a short warm-up and falls to
zero over the last part of `--minutes`; the result is written to `--out` in bfloat16. train.log in
`--work` has the loss of every skill.

Matrices of the layers are trained with Muon (orthogonalised momentum), everything else with Adam.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tiny import eyes, model, vocabulary
from tiny.batches import NAMES, PADDING, Batch, Stream
from tiny.chat_format import Renderer
from tiny.skills import mix

CHECKPOINT = HERE / "qwen35-tiny"
WARMUP = 60  # steps
LOG_EVERY = 25  # steps
LONGEST_STEP = 60  # seconds; what is longer was a pause


# ---- optimiser -----------------------------------------------------------------------------------


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """Moves the singular values of matrices [n, rows, cols] towards one (quintic Newton-Schulz)."""
    tall = g.shape[-2] > g.shape[-1]
    x = g.transpose(-1, -2) if tall else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.transpose(-1, -2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
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
                updates = []
                for p in params:
                    state = self.state[p]
                    buffer = state.setdefault("momentum", torch.zeros_like(p))
                    buffer.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(buffer, group["momentum"]))
                moved = orthogonalise(torch.stack(updates))
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, update in zip(params, moved, strict=True):
                    p.mul_(1 - group["lr"] * group["decay"]).add_(update, alpha=-rate)


def optimisers(tiny: model.TinyModel, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, Adam for embeddings, kernels, norms and scalars."""
    matrices, tables, rest = [], [], []
    for name, p in tiny.named_parameters():
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
        self, tiny: model.TinyModel, *, mtp: float, only_mtp: bool = False, compiled: bool = True
    ) -> None:
        self.tiny, self.mtp, self.only_mtp = tiny, mtp, only_mtp
        self.forward = model.PackedForward(tiny, compiled=compiled)
        self.sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def __call__(self, batch: Batch) -> Tensor:
        """The weighted mean of the next-token loss, plus that of the token after it for MTP."""
        geo = self.forward.geometry(batch.documents, batch.positions)
        with torch.set_grad_enabled(not self.only_mtp):
            x = self.tiny.text.embed_tokens(batch.ids)
            if batch.patches:
                x = eyes.insert(self.tiny.visual, x, batch)
            hidden = self.forward(x, geo)
            loss, nll = self._head(hidden, batch, 1)
        self._count(nll, batch, 1, "")
        if self.mtp:
            # Row p pairs the state of token p with the embedding of token p + 1. The trunk learns
            # nothing from this: drafts should not cost it anything.
            following = F.pad(x[:, 1:], (0, 0, 0, 1)).detach()
            drafted = self.forward.draft(hidden.detach(), following, geo)
            extra, nll = self._head(drafted, batch, 2)
            self._count(nll, batch, 2, "+")
            loss = extra if self.only_mtp else loss + self.mtp * extra
        return loss

    def _target(self, batch: Batch, ahead: int) -> tuple[Tensor, Tensor]:
        """Flat places whose token `ahead` of them is in the same document, and its weight."""
        same = batch.documents[:, :-ahead] == batch.documents[:, ahead:]
        weight = batch.weights[:, ahead:] * same
        return weight > 0, weight

    def _head(self, hidden: Tensor, batch: Batch, ahead: int) -> tuple[Tensor, Tensor]:
        chosen, weight = self._target(batch, ahead)
        table = self.tiny.text.embed_tokens.weight
        logits = F.linear(hidden[:, :-ahead][chosen], table if ahead == 1 else table.detach())
        nll = F.cross_entropy(logits, batch.ids[:, ahead:][chosen], reduction="none")
        weight = weight[chosen]
        return (nll * weight).sum() / weight.sum().clamp_min(1), nll.detach()

    def _count(self, nll: Tensor, batch: Batch, ahead: int, mark: str) -> None:
        chosen, _ = self._target(batch, ahead)
        answered = batch.trained[:, ahead:][chosen]
        skills = batch.skills[:, ahead:][chosen][answered]
        sums = torch.zeros(len(NAMES)).index_add_(0, skills, nll[answered])
        counts = torch.bincount(skills, minlength=len(NAMES))
        for i in counts.nonzero()[:, 0].tolist():
            total = self.sums[NAMES[i] + mark]
            total[0] += float(sums[i])
            total[1] += float(counts[i])

    def report(self) -> str:
        """Mean losses since the last report, as `skill loss` pairs; `+` marks MTP."""
        text = "  ".join(f"{name} {s / n:.3f}" for name, (s, n) in sorted(self.sums.items()))
        self.sums.clear()
        return text


# ---- the loop ------------------------------------------------------------------------------------


class Trainer:
    """A run: the model, its optimisers, and what a state file holds of them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.path: Path = args.work / "state.pt"
        self.tiny = model.TinyModel() if args.scratch else model.load(CHECKPOINT)
        if args.scratch:
            forms = vocabulary.forms(vocabulary.plain(CHECKPOINT))
            model.join_forms(self.tiny.text.embed_tokens.weight, forms)
        self.opts = optimisers(self.tiny, args.rate)
        self.rates = [[group["lr"] for group in opt.param_groups] for opt in self.opts]
        self.spent, self.step, self.tokens = 0.0, 0, 0
        self.bf16 = not args.float32 and torch.cpu._is_amx_tile_supported()
        torch.set_float32_matmul_precision("medium" if self.bf16 else "highest")
        if self.path.exists() and not args.fresh:
            self._resume()
        if args.eyes:
            self._open_eyes(args.eyes)
        self.tiny.visual.requires_grad_(not args.freeze_eyes)
        self.loss = Loss(self.tiny, mtp=args.mtp, only_mtp=args.only_mtp, compiled=not args.eager)

    def _resume(self) -> None:
        state = torch.load(self.path, weights_only=True)
        self.tiny.load_state_dict(state["model"])
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
            "model": self.tiny.state_dict(),
            "optimisers": [opt.state_dict() for opt in self.opts],
            "spent": self.spent,
            "step": self.step,
            "tokens": self.tokens,
        }
        partial = self.path.with_suffix(".part")
        torch.save(state, partial)
        partial.replace(self.path)

    def _learn(self, batch: Batch, scale: float) -> None:
        for opt, rates in zip(self.opts, self.rates, strict=True):
            for group, rate in zip(opt.param_groups, rates, strict=True):
                group["lr"] = rate * scale
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.tiny.parameters(), 2.0)
        for opt in self.opts:
            opt.step()
            opt.zero_grad()
        self.step += 1
        self.tokens += int((batch.documents != PADDING).sum())

    def run(self, stopped: threading.Event) -> None:
        """Trains until the time is spent or `stopped` is set."""
        args, budget = self.args, self.args.minutes * 60
        renderer = Renderer(vocabulary.plain(CHECKPOINT))
        shares = mix(args.vision, args.drill, args.look)
        stream = iter(Stream(renderer, shares, self.step + 1, args.longest))
        last, saved = time.monotonic(), self.spent
        with (args.work / "train.log").open("a") as log:
            while self.spent < budget and not stopped.is_set():
                scale = _rate(self.spent, budget, args.decay, self.step)
                self._learn(next(stream), scale)
                now = time.monotonic()
                self.spent, last = self.spent + min(now - last, LONGEST_STEP), now
                if self.step % LOG_EVERY == 0:
                    line = f"step {self.step} min {self.spent / 60:.1f} "
                    line += f"Mtok {self.tokens / 1e6:.2f} lr {scale:.2f}  {self.loss.report()}"
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains the small model.")
    add = parser.add_argument
    add("--minutes", type=float, required=True, help="training time in all, with earlier runs")
    add("--vision", type=float, default=0.5, help="share of pictures, screens, video")
    add("--drill", type=float, default=0.05, help="share of drills in the text")
    add("--look", type=float, default=0.05, help="share of single tokens in the pictures")
    add("--longest", type=int, default=700, help="words of the longest passages")
    add("--mtp", type=float, default=0.3, help="weight of the MTP loss, 0 to skip it")
    add("--only-mtp", action="store_true", help="train the MTP layer alone")
    add("--rate", type=float, default=0.01, help="learning rate of Muon")
    add("--decay", type=float, default=0.5, help="last share of the time in which the rate falls")
    add("--scratch", action="store_true", help="start from random weights")
    add("--fresh", action="store_true", help="ignore a state in --work")
    add("--eyes", type=Path, help="vision tower written by eyes.py, for a start")
    add("--freeze-eyes", action="store_true", help="leave the vision tower as it is")
    add(
        "--float32", action="store_true", help="no bfloat16 where the processor is fast at it (AMX)"
    )
    add("--eager", action="store_true", help="no compilation: slower, starts at once")
    add("--work", type=Path, default=HERE.parent.parent / "build" / "tiny")
    add("--out", type=Path, default=CHECKPOINT)
    add("--save-every", type=float, default=3, help="minutes")
    return parser.parse_args()


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
