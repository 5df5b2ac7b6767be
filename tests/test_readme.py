"""The README's examples of structured output, as they stand there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parents[1] / "README.md"


def test_structured_output() -> None:
    section = README.read_text(encoding="utf-8").split("\n## Structured output\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    found: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, str(README), "exec", dont_inherit=True), found)
    assert 1 <= found["trip"].days <= 30 and len(found["trip"].city) <= 20
    assert json.loads(found["norway"])["capital"] in ("Oslo", "Rome")
    assert re.fullmatch(r"20\d\d-[01]\d", found["date"]) and found["sure"] in ("yes", "no")
    assert found["calls"] and all(call.name == "clock" for call in found["calls"])
