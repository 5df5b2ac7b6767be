"""Write tests/golden/logits.npz: what transformers computes for every case.

Run from the repository's root with a Python that has torch and transformers (neither is needed to run the tests):

    python -m tests.golden.make_golden
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers

from .cases import CASES
from .oracle import logits

FILE = Path(__file__).with_name("logits.npz")


def main() -> None:
    made = {name: logits(case) for name, case in CASES.items()}
    versions = np.array([f"torch {torch.__version__}", f"transformers {transformers.__version__}"])
    np.savez_compressed(FILE, versions=versions, **made)
    print(f"{FILE.name}: {len(made)} cases, {FILE.stat().st_size / 1e6:.2f} MB, {', '.join(versions)}")


if __name__ == "__main__":
    main()
