"""Condenses a run's log into results/log_NAME.jsonl: every probe, and the loss of every 200th step.

python condense.py RUN NAME
"""

import json
import sys
from pathlib import Path


def main(run, name):
    rows = [json.loads(line) for line in (Path(run) / "log.jsonl").open()]
    kept = []
    for r in rows:
        if "start" in r:
            r["args"] = {k: v for k, v in r["args"].items() if k not in ("tokenizer", "output")}
            kept.append(r)
        elif "probe" in r or r["step"] % 200 == 0 or r is rows[-2]:
            kept.append(r)
    target = Path(__file__).with_name("results") / f"log_{name}.jsonl"
    target.write_text("".join(json.dumps(r) + "\n" for r in kept))


if __name__ == "__main__":
    main(*sys.argv[1:])
