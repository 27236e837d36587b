"""Scores a checkpoint on the held-out sets with `transformers`, and the drafts of its MTP layer.

    python tests/tiny/evaluate.py --out tests/tiny/scores.json   # everything, and the model card
    python tests/tiny/evaluate.py --sets click video --count 100

Greedy decoding, float32 arithmetic on the values of the bf16 checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tiny import card, cases, eyes, model, vocabulary
from tiny.cases import END, reply_text
from tiny.chat_format import Encoded, Renderer
from tiny.sample import Sample

CHECKPOINT = HERE / "qwen35-tiny"
IMAGE = vocabulary.SPECIAL_IDS["<|image_pad|>"]
VIDEO = vocabulary.SPECIAL_IDS["<|video_pad|>"]
_BATCH_TOKENS = 16_384


# ---- answering with transformers -----------------------------------------------------------------


def inputs(prompts: list[Encoded]) -> dict[str, Tensor]:
    """Left-padded arguments of `generate` for prompts, images and videos included."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), END[1])
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt.ids)
        mask[row, longest - len(prompt) :] = 1
    result = {"input_ids": ids, "attention_mask": mask}
    pictures = [
        (p, g, v) for e in prompts for p, g, v in zip(e.patches, e.grids, e.video, strict=True)
    ]
    if pictures:
        result["mm_token_type_ids"] = (ids == IMAGE).long() + 2 * (ids == VIDEO).long()
    for is_video, pixels, grids in (
        (False, "pixel_values", "image_grid_thw"),
        (True, "pixel_values_videos", "video_grid_thw"),
    ):
        chosen = [(p, g) for p, g, v in pictures if v is is_video]
        if chosen:
            rows = torch.cat([torch.from_numpy(p) for p, _ in chosen])
            result[pixels] = eyes.normalised(rows)
            result[grids] = torch.tensor([[1, *g] for _, g in chosen])
    return result


@torch.no_grad()
def answer(hf: Any, prompts: list[Encoded], max_tokens: int = cases.MAX_REPLY) -> list[list[int]]:
    """Greedy replies as ids, in the order of the prompts."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    replies: dict[int, list[int]] = {}
    while order:
        size = 1
        while (
            size < min(64, len(order)) and len(prompts[order[size]]) * (size + 1) <= _BATCH_TOKENS
        ):
            size += 1
        batch, order = order[:size], order[size:]
        arguments = inputs([prompts[i] for i in batch])
        out = hf.generate(
            **arguments, max_new_tokens=max_tokens, do_sample=False, eos_token_id=END,
            pad_token_id=END[1],
        )  # fmt: skip
        new = out[:, arguments["input_ids"].shape[1] :].tolist()
        replies |= dict(zip(batch, new, strict=True))
    return [replies[i] for i in range(len(prompts))]


def outcomes(
    hf: Any, test_set: cases.TestSet, samples: list[Sample], *, show: int = 0
) -> list[bool]:
    """Which answers are right; prints `show` of the wrong ones."""
    renderer, tokenizer = Renderer(vocabulary.plain(CHECKPOINT)), vocabulary.full(CHECKPOINT)
    replies = answer(hf, [renderer.prompt(sample) for sample in samples])
    right = []
    for sample, ids in zip(samples, replies, strict=True):
        text = reply_text(tokenizer, ids)
        right.append(test_set.right(sample, text))
        if not right[-1] and show:
            show -= 1
            print(f"  wrong: {text!r}\n  asked: {sample.messages[-2:]}")
    return right


# ---- perplexity and drafts -----------------------------------------------------------------------


@torch.no_grad()
def perplexity(hf: Any, samples: list[Sample]) -> tuple[float, float]:
    """Of plain texts: per token, and bits per byte."""
    renderer = Renderer(vocabulary.plain(CHECKPOINT))
    total, tokens, size = 0.0, 0, 0
    for sample in samples:
        ids = torch.tensor([renderer.text(sample).ids])
        logits = hf(input_ids=ids).logits[0, :-1].float()
        total += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        tokens += ids.shape[1] - 1
        size += len(sample.text.encode())
    return math.exp(total / tokens), total / math.log(2) / size


class Drafts:
    """Chains of greedy drafts of the MTP layer at every place of a sequence at once.

    Draft d at place p follows the drafts before it; it attends to the rows of the true tokens up to
    p + 1 and to the rows of its own chain.
    """

    def __init__(self, tiny: model.TinyModel) -> None:
        self.tiny, self.m = tiny, tiny.mtp.layers[0]

    def _qkv(self, x: Tensor, position: Tensor) -> tuple[Tensor, ...]:
        """Query, gate, key, value [heads, T, dim] of MTP inputs; position: [T]."""
        a, length = self.m.self_attn, x.shape[0]
        h = model._rms(x, self.m.input_layernorm.weight)
        q, gate = F.linear(h, a.q_proj.weight).view(length, -1, 2 * a.head_dim).chunk(2, -1)
        k = F.linear(h, a.k_proj.weight).view(length, -1, a.head_dim)
        v = F.linear(h, a.v_proj.weight).view(length, -1, a.head_dim).transpose(0, 1)
        angle = position[:, None].float() * self.tiny.text.rotary_emb.inv_freq
        angle = torch.cat([angle, angle], -1)[None]
        q, k = (
            model._rotate(model._rms(t, w.weight).transpose(0, 1)[None], angle.cos(), angle.sin())[
                0
            ]
            for t, w in ((q, a.q_norm), (k, a.k_norm))
        )
        groups = len(q) // len(k)
        return q, gate, k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)

    def __call__(self, hidden: Tensor, ids: Tensor, depth: int) -> list[Tensor]:
        """hidden: [T, h] trunk states of ids [T]. Draft d [T - 1] at p predicts token p + 1 + d."""
        text, a = self.tiny.text, self.m.self_attn
        places = torch.arange(len(ids) - 1)
        below = places[None, :] <= places[:, None]
        known: tuple[Tensor, Tensor] | None = None
        own: list[tuple[Tensor, Tensor]] = []
        state, token, drafts = hidden[:-1], ids[1:], []
        for step in range(depth):
            pair = [
                model._rms(text.embed_tokens(token), self.tiny.mtp.pre_fc_norm_embedding.weight),
                model._rms(state, self.tiny.mtp.pre_fc_norm_hidden.weight),
            ]
            x = F.linear(torch.cat(pair, -1), self.tiny.mtp.fc.weight)
            q, gate, k, v = self._qkv(x, places + step)
            if known is None:
                known = (k, v)
            else:
                own.append((k, v))
            scores = (q @ known[0].transpose(-1, -2)).masked_fill(~below, -torch.inf)
            extra = [(q * key).sum(-1, keepdim=True) for key, _ in own]
            weights = (torch.cat([scores, *extra], -1) * a.scaling).softmax(-1)
            o = weights[..., : len(places)] @ known[1]
            for i, (_, value) in enumerate(own):
                o = o + weights[..., len(places) + i, None] * value
            o = o.transpose(0, 1).reshape(len(places), -1) * gate.reshape(len(places), -1).sigmoid()
            x = model.feed_forward(x + F.linear(o, a.o_proj.weight), *model._ffn_weights(self.m))
            state = model._rms(x, self.tiny.mtp.norm.weight)
            token = F.linear(state, text.embed_tokens.weight).argmax(-1)
            drafts.append(token)
        return drafts


@torch.no_grad()
def acceptance(tiny: model.TinyModel, samples: list[Sample], depth: int = 3) -> list[float]:
    """How often drafts 1, 2, .. are what the trunk writes, each given that those before it are.

    Over the greedy continuations of plain texts (from their first 12 tokens) or of prompts.
    """
    renderer = Renderer(vocabulary.plain(CHECKPOINT))
    drafts = Drafts(tiny)
    tried, taken = [0] * depth, [0] * depth
    prompts = []
    for sample in samples:
        if sample.messages:
            prompts.append(renderer.prompt(sample))
        else:
            encoded = renderer.text(sample)
            encoded.ids = encoded.ids[:12]
            prompts.append(encoded)
    for prompt, reply in zip(prompts, answer(tiny.hf, prompts), strict=True):
        ends = [i for i, token in enumerate(reply) if token in END]
        reply = reply[: ends[0] + 1] if ends else reply
        ids = torch.tensor(prompt.ids + reply)
        hidden = tiny.hf.model(input_ids=ids[None]).last_hidden_state[0]
        chain = drafts(hidden, ids, depth)
        # Place p knows tokens up to p + 1: the first draft is for the reply's second token.
        good = torch.ones(len(ids) - 1, dtype=torch.bool)
        for d in range(depth):
            places = torch.arange(len(prompt.ids) - 1, len(ids) - 2 - d)
            hit = chain[d][places] == ids[places + 2 + d]
            tried[d] += int(good[places].sum())
            taken[d] += int((hit & good[places]).sum())
            good[places] &= hit
    return [n / max(1, m) for n, m in zip(taken, tried, strict=True)]


# ---- the report ----------------------------------------------------------------------------------


def main() -> None:
    """Command line; see the file's head."""
    parser = argparse.ArgumentParser(description="Scores the small model with transformers.")
    parser.add_argument("--sets", nargs="*", default=[*cases.SETS, "story", "mtp"])
    parser.add_argument("--count", type=int, help="cases of each set instead of its full size")
    parser.add_argument("--show", type=int, default=0, help="wrong answers to print for each set")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--out", type=Path, help="JSON file to update with the scores")
    args = parser.parse_args()
    tiny = model.load(args.checkpoint).eval()
    scores: dict[str, Any] = {}
    for name in args.sets:
        begin = time.monotonic()
        if name == "story":
            count = args.count or 500
            per_token, bits = perplexity(tiny.hf, cases.stories(count))
            scores["story"] = {"count": count, "perplexity": per_token, "bits_per_byte": bits}
        elif name == "mtp":
            count = args.count or 100
            copies = cases.SETS["copy"].cases(count)
            scores["mtp"] = {
                "count": count,
                "story": acceptance(tiny, cases.stories(count)),
                "copy": acceptance(tiny, copies),
            }
        else:
            test_set = cases.SETS[name]
            count = args.count or test_set.full
            right = outcomes(tiny.hf, test_set, test_set.cases(count), show=args.show)
            marks = "".join("01"[good] for good in right)
            scores[name] = {"count": count, "right": sum(right) / count, "outcomes": marks}
        shown = {key: value for key, value in scores[name].items() if key != "outcomes"}
        print(f"{name}: {shown}  ({time.monotonic() - begin:.0f} s)", flush=True)
        if args.out:
            known = json.loads(args.out.read_text()) if args.out.exists() else {}
            card.save(known | scores, args.out)


if __name__ == "__main__":
    main()
