"""Accuracy of an exported checkpoint on the sets under eval/.

python evaluate.py ../../qwen3_mlx/demo/dense --output results/dense.json
"""

import argparse
import json
import re
import time
from pathlib import Path

import torch
from export import load_folder
from generate import generate_all
from render import EARLY_STOP, render
from tokenizers import Tokenizer

EVAL = Path(__file__).with_name("eval")
SETS = [
    "count",
    "count_off",
    "add",
    "add_off",
    "recount",
    "follow",
    "topics",
    "tool_made",
    "tool_real",
    "tool_agent",
    "tool_missing",
    "tool_again",
    "result",
    "no_tool",
    "identity",
    "zone",
    "switches",
]
DEFAULT_SAMPLING = (0.6, 0.95, 20)
BUDGETS = (0, 0.25, 0.5, 0.75, 1)
CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)


def read(name):
    return [json.loads(line) for line in (EVAL / f"{name}.jsonl").open()]


def split(text, thinking):
    """(thought or None, answer) of a reply."""
    if not thinking:
        return "", text
    head, mark, tail = text.partition("</think>")
    if not mark or not head.startswith("<think>\n"):
        return None, text
    return head.removeprefix("<think>").strip("\n"), tail.removeprefix("\n\n")


def right(answer, expect):
    kind, value = expect["kind"], expect["value"]
    if kind == "number":
        return re.findall(r"\d+", answer) == [str(value)]
    if kind == "contains":
        return "<tool_call>" not in answer and all(v in answer for v in value)
    if kind == "text":
        return answer == value
    try:
        calls = [json.loads(c) for c in CALL.findall(answer)]
    except ValueError:
        return False
    return calls == value


def score(row, text):
    """Right answer, and thinking on or off as asked."""
    thought, answer = split(text, row["thinking"])
    obeyed = thought is not None and (thought != "") == (row["expect"]["thought"] == "on")
    return obeyed and right(answer, row["expect"])


class Checkpoint:
    def __init__(self, path):
        self.model = load_folder(path)
        self.tok = Tokenizer.from_file(str(path / "tokenizer.json"))
        self.stop = self.tok.token_to_id("<|im_end|>")

    def ids(self, text):
        return self.tok.encode(text, add_special_tokens=False).ids

    def text(self, ids):
        return self.tok.decode(ids, skip_special_tokens=False)

    def replies(self, rows, sampling=None, seed=0, limit=320):
        prompts = [self.ids(render(r["messages"], r["tools"], r["thinking"])) for r in rows]
        return generate_all(self.model, prompts, self.stop, limit, sampling, seed)

    def budgets(self, rows):
        """Accuracy when the thought is cut at shares of the length it takes by itself."""
        natural, close = self.replies(rows), self.tok.token_to_id("</think>")
        forced, curve = self.ids(EARLY_STOP), {}
        for share in BUDGETS:
            prompts = []
            for r, ids in zip(rows, natural, strict=True):
                end = ids.index(close) if close in ids else len(ids)
                keep = 2 + round((end - 2) * share)
                prompts.append(
                    self.ids(render(r["messages"], r["tools"], True))
                    + (ids[:keep] + forced if share < 1 else ids[: end + 2])
                )
            answers = [self.text(a) for a in generate_all(self.model, prompts, self.stop, 60)]
            good = [right(a, r["expect"]) and "</think>" not in a for a, r in zip(answers, rows, strict=True)]
            curve[str(share)] = round(100 * sum(good) / len(good), 1)
        return curve


def percent(flags):
    return round(100 * sum(flags) / max(1, len(flags)), 1)


def measure(checkpoint, name, args):
    """Accuracy on one set, whole and by language, wording and mode."""
    rows, begin = read(name)[: args.size], time.time()
    sampling = DEFAULT_SAMPLING if args.sampled else None
    texts = [checkpoint.text(i) for i in checkpoint.replies(rows, sampling, args.seed)]
    flags = [score(r, t) for r, t in zip(rows, texts, strict=True)]
    result = {"accuracy": percent(flags), "samples": len(rows), "seconds": round(time.time() - begin, 1)}
    for key in ("lang", "unseen_wording", "mode"):
        for value in sorted({str(r[key]) for r in rows if key in r}):
            result[f"{key}={value}"] = percent(
                [f for r, f in zip(rows, flags, strict=True) if str(r.get(key)) == value]
            )
    print(name, json.dumps(result), flush=True)
    wrong = [(r, t) for r, t, f in zip(rows, texts, flags, strict=True) if not f]
    for r, t in wrong[: args.show]:
        expected = json.dumps(r["expect"], ensure_ascii=False)[:200]
        print("   ", repr(r["messages"][-1]["content"][-150:]), expected, "\n      ->", repr(t[-260:]))
    return result


def main():
    p = argparse.ArgumentParser()
    p.add_argument("folder", type=Path)
    p.add_argument("--sets", nargs="*", default=SETS)
    p.add_argument("--sampled", action="store_true", help="temperature 0.6, top_p 0.95, top_k 20 instead of greedy")
    p.add_argument("--budgets", action="store_true", help="also the accuracy of counting at shares of the thought")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--size", type=int, default=None, help="only the first samples of every set")
    p.add_argument("--show", type=int, default=0, help="wrong replies to print for every set")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--output", type=Path)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    checkpoint = Checkpoint(args.folder)
    report = json.loads(args.output.read_text()) if args.output and args.output.exists() else {"sets": {}}
    report["decoding"] = "sampled 0.6/0.95/20" if args.sampled else "greedy"

    def keep():
        if args.output:
            args.output.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")

    for name in args.sets:
        report["sets"][name] = measure(checkpoint, name, args)
        keep()
    if args.budgets:
        report["budgets"] = {s: checkpoint.budgets(read(s)[: args.size]) for s in ("count", "add")}
        print("budgets", report["budgets"])
        keep()


if __name__ == "__main__":
    main()
