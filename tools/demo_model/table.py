"""Writes the measured tables of README.md, between its markers, from results/."""

import json
import re
from pathlib import Path

HERE = Path(__file__).parent
ROWS = {
    "count": "letter counting, 400 words never trained on, half of the wordings unseen, thinking",
    "count_off": "the same words, not thinking",
    "add": "addition, thinking",
    "add_off": "addition, not thinking",
    "recount": "asked to think again",
    "follow": "follow-up with another word",
    "topics": "changing topics in one conversation",
    "tool_made": "tool calls, function names and wordings never seen, 1 to 6 tools",
    "tool_real": "tool calls, real MCP schemas, wordings never seen",
    "tool_agent": "tool calls, Qwen-Agent's form of them, wordings never seen",
    "tool_missing": "the tool it would take is not among those given: says so (exact text)",
    "tool_again": "a second call in a conversation",
    "result": "answer after a tool result",
    "no_tool": "tools present, none needed",
    "identity": "who are you, language models, greetings, out of scope (exact text)",
    "zone": "time zone of one to four cities (exact text)",
    "switches": "`/think`, `/no_think`, `enable_thinking`",
}


def read(name):
    file = HERE / "results" / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else {"sets": {}}


def cell(report, name):
    found = report["sets"].get(name)
    return f"{found['accuracy']} ({found['samples']})" if found else "-"


def effort(name):
    """How long a run was, from its condensed log."""
    rows = [json.loads(line) for line in (HERE / "results" / f"log_{name}.jsonl").open()]
    last = [r for r in rows if "tokens" in r][-1]
    size = next(r["parameters"] for r in rows if "parameters" in r)
    spent = f"{last['step']:,} steps, {last['tokens'] / 1e6:.1f} M tokens, {last['minutes']:.0f} minutes"
    return f"- {name}: {size:,} parameters, {spent}"


def tables():
    columns = [read(n) for n in ("dense", "dense_sampled", "moe", "moe_sampled")]
    lines = [
        "| what (accuracy in %, samples) | demo, greedy | demo, sampled | demo-moe, greedy | demo-moe, sampled |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {text} | " + " | ".join(cell(c, name) for c in columns) + " |" for name, text in ROWS.items()]
    lines += ["", "| thinking budget / length needed | 0 | 1/4 | 1/2 | 3/4 | 1 |", "|---|---|---|---|---|---|"]
    for label, report in (("demo", columns[0]), ("demo-moe", columns[2])):
        for task, curve in report.get("budgets", {}).items():
            lines.append(f"| {label}, {task} | " + " | ".join(str(v) for v in curve.values()) + " |")
    return "\n".join([*lines, "", *map(effort, ("dense", "moe"))])


def main():
    readme = HERE / "README.md"
    block = "<!-- measured -->\n" + tables() + "\n<!-- end -->"
    readme.write_text(re.sub(r"<!-- measured -->.*<!-- end -->", lambda _: block, readme.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()
