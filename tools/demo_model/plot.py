"""Draws results/budgets.png (accuracy by share of the thought) from results/*.json."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).with_name("results")


def main():
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), sharey=True)
    for name, mark in (("dense", "o-"), ("moe", "s--")):
        budgets = json.loads((RESULTS / f"{name}.json").read_text())["budgets"]
        for axis, task in zip(axes, ("count", "add"), strict=True):
            curve = budgets[task]
            axis.plot(
                [float(k) for k in curve], list(curve.values()), mark, label=f"demo{'-moe' if name == 'moe' else ''}"
            )
    for axis, title in zip(axes, ("letter counting", "addition"), strict=True):
        axis.set(title=title, xlabel="thinking budget / length needed", ylim=(0, 103), xticks=(0, 0.25, 0.5, 0.75, 1))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("right answers, %")
    axes[0].legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(RESULTS / "budgets.png", dpi=90)


if __name__ == "__main__":
    main()
