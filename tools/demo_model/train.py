"""Trains one demo checkpoint on the mix, drawn on the fly.

python train.py --arch dense --tokenizer TOK --output RUN --minutes 120
"""

import argparse
import json
import random
import time
from contextlib import nullcontext
from pathlib import Path

import mix
import torch
import torch.nn.functional as F
from export import load_folder
from model import Config, Qwen3, compile_pieces
from optim import Muon, split_parameters
from rounding import rounded
from tokenizers import Tokenizer

ARCH = {
    "dense": {"hidden_size": 192, "num_hidden_layers": 4, "intermediate_size": 512},
    "moe": {
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_experts": 8,
        "moe_intermediate_size": 128,
        "intermediate_size": 256,
    },
}
AUX = 0.01
ROUNDED = 0.5  # share of the steps that see 4-bit weights


def pad(items, multiple=8):
    """[(ids, weights)] -> inputs, targets, weights, right-padded."""
    n = -(-(max(len(ids) for ids, _ in items) - 1) // multiple) * multiple
    x = torch.zeros(len(items), n, dtype=torch.long)
    y, w = torch.zeros_like(x), torch.zeros(len(items), n)
    for i, (ids, weights) in enumerate(items):
        x[i, : len(ids) - 1] = torch.tensor(ids[:-1])
        y[i, : len(ids) - 1] = torch.tensor(ids[1:])
        w[i, : len(ids) - 1] = torch.tensor(weights[1:])
    return x, y, w


def batches(seed, tok, budget, pool=768, longest=1400):
    """Endless padded batches of about `budget` tokens, alike in length within, mixed in order."""
    rng = random.Random(seed)
    while True:
        items = [mix.encode(rng, mix.draw(rng), tok) for _ in range(pool)]
        items = sorted((i for i in items if len(i[0]) <= longest), key=lambda i: len(i[0]))
        groups, group = [], []
        for item in items:
            if group and len(item[0]) * (len(group) + 1) > budget:
                groups.append(group)
                group = []
            group.append(item)
        rng.shuffle(groups)
        yield from (pad(g) for g in groups)


def weighted_loss(model, x, y, w):
    """Sum of weighted cross-entropies."""
    keep = w > 0
    logits = model.head(model(x)[keep]).float()
    return (F.cross_entropy(logits, y[keep], reduction="none") * w[keep]).sum()


def aux_loss(model):
    return sum(layer.mlp.aux for layer in model.model.layers) / len(model.model.layers)


class Probe:
    """Held-out samples (unseen wordings and words): loss and teacher-forced exact match by task."""

    def __init__(self, tok, per_task=32, seed=99):
        from words import heldout

        rng = random.Random(seed)
        self.sets = {}
        for task in [*mix.TASKS, "count_off"]:
            items = []
            for i in range(per_task):
                name = "count" if task == "count_off" else task
                s = mix.draw(rng, unseen=True, task=name, mode="disabled" if task == "count_off" else "default")
                if name == "count":
                    import data_count

                    s = {**s, **data_count.sample(rng, s["lang"], True, heldout()[i * 7 % 400])}
                items.append(self.encode(s, tok))
            items.sort(key=lambda i: len(i[0]))
            self.sets[task] = [pad(items[: per_task // 2]), pad(items[per_task // 2 :])]

    @staticmethod
    def encode(s, tok):
        from render import render, reply_text

        prompt = tok.encode(render(s["messages"], s["tools"], s["thinking"]), add_special_tokens=False).ids
        reply = tok.encode(reply_text(s) + "<|im_end|>", add_special_tokens=False).ids
        return prompt + reply, [0.0] * len(prompt) + [1.0] * len(reply)

    @torch.no_grad()
    def run(self, model):
        model.eval()
        report = {}
        for task, parts in self.sets.items():
            loss = exact = weight = rows = 0
            for x, y, w in parts:
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    logits = model.head(model(x)).float()
                ce = F.cross_entropy(logits.transpose(1, 2), y, reduction="none")
                loss += (ce * w).sum().item()
                weight += w.sum().item()
                exact += ((logits.argmax(-1) == y) | (w == 0)).all(1).sum().item()
                rows += len(x)
            report[task] = (round(loss / weight, 4), round(exact / rows, 3))
        model.train()
        return report


class Run:
    def __init__(self, args):
        torch.manual_seed(args.seed)
        self.args, self.out = args, args.output
        self.out.mkdir(parents=True, exist_ok=True)
        self.tok = Tokenizer.from_file(str(args.tokenizer / "tokenizer.json"))
        self.config = Config(vocab_size=self.tok.get_vocab_size(), **ARCH[args.arch])
        self.model = Qwen3(self.config)
        if args.init:
            self.model.load_state_dict(load_folder(args.init).state_dict())
        self.ema = {k: v.clone() for k, v in self.model.state_dict().items()}
        matrices, others = split_parameters(self.model)
        self.muon = Muon(matrices, lr=args.muon_lr, momentum=0.95, weight_decay=args.decay)
        self.adam = torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.step, self.elapsed, self.tokens = 0, 0.0, 0
        if args.resume and (self.out / "state.pt").exists():
            self.load()

    def load(self):
        s = torch.load(self.out / "state.pt", weights_only=True)
        self.model.load_state_dict(s["model"])
        self.ema, self.step, self.elapsed, self.tokens = s["ema"], s["step"], s["elapsed"], s["tokens"]
        self.muon.load_state_dict(s["muon"])
        self.adam.load_state_dict(s["adam"])

    def save(self):
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema,
            "step": self.step,
            "elapsed": self.elapsed,
            "tokens": self.tokens,
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
            "config": self.config.to_dict(),
        }
        torch.save(state, self.out / "state.tmp")
        (self.out / "state.tmp").replace(self.out / "state.pt")

    def rate(self):
        """Learning-rate factor: warm-up, constant, then linear to zero (`control.json` may move the end)."""
        a = self.args
        control = self.out / "control.json"
        if self.step % 20 == 0 and control.exists():
            for k, v in json.loads(control.read_text()).items():
                setattr(a, k, v)
            for k, v in getattr(a, "weights", {}).items():
                mix.TASKS[k] = (mix.TASKS[k][0], v)
        done = self.step / a.steps if a.steps else self.elapsed / (a.minutes * 60)
        return min(1.0, (self.step + 1) / 100) * min(1.0, max(0.0, (1 - done) / (1 - a.stable))), done

    def update(self, parts):
        """One optimizer step on several batches; returns the mean weighted loss."""
        with rounded(self.model) if torch.rand(()) < ROUNDED else nullcontext():
            shown = self.backward(parts)
        torch.nn.utils.clip_grad_norm_([p for g in self.adam.param_groups for p in g["params"]], 1.0)
        self.muon.step()
        self.adam.step()
        self.model.zero_grad(set_to_none=True)
        return shown

    def backward(self, parts):
        total = sum(w.sum() for _, _, w in parts)
        shown = 0.0
        for x, y, w in parts:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = weighted_loss(self.model, x, y, w) / total
                if self.config.num_experts:
                    loss = loss + AUX * aux_loss(self.model) / len(parts)
            loss.backward()
            shown += loss.item()
            self.tokens += x.numel()
        return shown

    def average(self):
        keep = min(0.995, (1 + self.step) / (10 + self.step))
        for k, v in self.model.state_dict().items():
            self.ema[k].lerp_(v, 1 - keep)

    def probe(self, probe, log):
        model = Qwen3(self.config)
        model.load_state_dict(self.ema)
        log({"step": self.step, "probe": probe.run(model)})

    def loop(self):
        a = self.args
        probe, source = Probe(self.tok), batches(a.seed + self.step, self.tok, a.batch)
        file = (self.out / "log.jsonl").open("a")

        def log(item):
            file.write(json.dumps(item) + "\n")
            file.flush()

        log(
            {
                "start": self.step,
                "config": self.config.to_dict(),
                "parameters": sum(p.numel() for p in self.model.parameters()),
                "args": {k: str(v) for k, v in vars(a).items()},
            }
        )
        shown, begin = [], time.time() - self.elapsed
        while True:
            factor, done = self.rate()
            if done >= 1:
                break
            for group in self.muon.param_groups + self.adam.param_groups:
                group["lr"] = group.setdefault("base", group["lr"]) * factor
            shown.append(self.update([next(source) for _ in range(a.accumulate)]))
            self.average()
            self.step += 1
            self.elapsed = time.time() - begin
            if self.step % 50 == 0:
                log(
                    {
                        "step": self.step,
                        "loss": round(sum(shown) / len(shown), 4),
                        "lr": round(factor, 3),
                        "minutes": round(self.elapsed / 60, 2),
                        "tokens": self.tokens,
                    }
                )
                shown = []
            if self.step % a.probe_every == 0:
                self.save()
                self.probe(probe, log)
        self.save()
        self.probe(probe, log)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--arch", choices=ARCH, required=True)
    p.add_argument("--tokenizer", type=Path, required=True)
    p.add_argument("--output", type=Path, required=True)
    p.add_argument("--minutes", type=float, default=120)
    p.add_argument("--steps", type=int, default=0, help="end by steps instead of minutes")
    p.add_argument("--stable", type=float, default=0.6, help="share of the run before the decay")
    p.add_argument("--batch", type=int, default=3072)
    p.add_argument("--accumulate", type=int, default=3)
    p.add_argument("--muon-lr", type=float, default=0.02)
    p.add_argument("--adam-lr", type=float, default=4e-3)
    p.add_argument("--decay", type=float, default=0.01)
    p.add_argument("--probe-every", type=int, default=250)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--init", type=Path, help="start from the weights of an exported folder")
    p.add_argument("--compile", action="store_true", help="fuse the element-wise work (a tenth faster)")
    p.add_argument("--resume", action="store_true")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    if args.compile:
        compile_pieces()
    Run(args).loop()


if __name__ == "__main__":
    main()
