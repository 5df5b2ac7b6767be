"""Writes the evaluation sets under eval/ (JSON lines; see README.md for the format)."""

import json
import random
from pathlib import Path

import data_count
import data_tools
import mix
from render import switched_off
from words import heldout

OUT = Path(__file__).with_name("eval")
SIZES = {
    "add": 300,
    "recount": 200,
    "follow": 150,
    "topics": 150,
    "tool": 300,
    "tool_again": 100,
    "result": 250,
    "no_tool": 120,
    "identity": 90,
    "zone": 120,
}


def row(s, **more):
    off = not s["thinking"] or switched_off(s["messages"])
    return {
        "task": s["task"],
        "lang": s["lang"],
        "messages": s["messages"],
        "tools": s["tools"],
        "thinking": s["thinking"],
        "expect": {**s["expect"], "thought": "off" if off else "on"},
        **more,
    }


def write(name, rows):
    with (OUT / f"{name}.jsonl").open("w") as f:
        for r in rows:
            f.write(json.dumps(r, ensure_ascii=False) + "\n")


def counting(seed):
    """The 400 held-out words, half of them asked in wordings that training never uses."""
    rng, rows = random.Random(seed), []
    for i, word in enumerate(heldout()):
        lang, unseen = rng.choices(*mix.LANGUAGES)[0], i % 2 == 0
        s = {**data_count.sample(rng, lang, unseen, word), "lang": lang}
        rows.append(row(mix.apply_mode(rng, s, "default"), unseen_wording=unseen))
    return rows


def from_mix(task, size, seed, mode="default"):
    rng = random.Random(seed)
    rows = []
    for i in range(size):
        unseen = i % 2 == 0
        s = mix.draw(rng, unseen=unseen, task=task, mode=mode)
        rows.append(row(s, unseen_wording=unseen))
    return rows


def tools(size, seed, style, kind="calls"):
    """Questions for tools; kind "text": the tool they would take is not among those given."""
    rng, rows = random.Random(seed), []
    while len(rows) < size:
        lang = rng.choices(*mix.LANGUAGES)[0]
        s = {**data_tools.sample(rng, lang, True, style), "lang": lang}
        if s["expect"]["kind"] == kind:
            rows.append(row(mix.apply_mode(rng, s, "default"), unseen_wording=True))
    return rows


def switches(seed):
    rng = random.Random(seed)
    rows = []
    for i in range(160):
        mode = ("switch_on", "switch_off", "disabled", "reenabled", "mixed")[i % 5]
        task = rng.choice(("count", "add", "recount", "follow", "tool", "identity"))
        rows.append(row(mix.draw(rng, unseen=i % 2 == 0, task=task, mode=mode), mode=mode))
    return rows


def main():
    count = counting(11)
    write("count", count)
    write("count_off", [{**r, "thinking": False, "expect": {**r["expect"], "thought": "off"}} for r in count])
    for i, (task, size) in enumerate(SIZES.items()):
        if task != "tool":
            write(task, from_mix(task, size, 100 + i))
    write("add_off", from_mix("add", 300, 100, "disabled"))
    write("tool_made", tools(300, 21, "made"))
    write("tool_real", tools(150, 22, "real"))
    write("tool_agent", tools(150, 23, "agent"))
    write("tool_missing", tools(80, 25, None, "text"))
    write("switches", switches(24))


if __name__ == "__main__":
    main()
