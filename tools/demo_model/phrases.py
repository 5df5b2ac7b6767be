"""Question wordings, by task and language. The last `HELD` of every list are kept for evaluation only."""

import json
from pathlib import Path

HELD = 4
WORDINGS = Path(__file__).with_name("wordings")


def load(name):
    return json.loads((WORDINGS / f"{name}.json").read_text())


_QUESTIONS = load("questions")
COUNT, ADD, AGAIN, FOLLOW = (_QUESTIONS[k] for k in ("count", "add", "again", "follow"))
OPENERS, CLOSERS, QUOTES = (_QUESTIONS[k] for k in ("openers", "closers", "quotes"))


def pick(rng, table, lang, unseen=False):
    items = table[lang]
    return rng.choice(items[-HELD:] if unseen else items[:-HELD])


def quoted(rng, text, cjk_ok=True):
    left, right = rng.choice(QUOTES if cjk_ok else QUOTES[:9] + QUOTES[11:])
    return left + text + right


def dress(rng, lang, text):
    """Adds a polite opening or closing now and then, and sometimes drops the final mark."""
    text = rng.choice(OPENERS[lang]) + text
    if rng.random() < 0.12:
        return text.rstrip("?？.。")
    return text + rng.choice(CLOSERS[lang])
