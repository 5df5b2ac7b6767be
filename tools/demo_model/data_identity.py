"""Small talk: who the model is, what a language model is, greetings, thanks, and what it cannot do."""

from phrases import load, pick

_TEXT = load("identity")
QUESTIONS, THINGS, ANSWERS, THOUGHTS = (_TEXT[k] for k in ("questions", "things", "answers", "thoughts"))
WEIGHTS = {"who": 5, "llm": 5, "hello": 2, "thanks": 1, "ability": 2, "other": 4}


def turn(rng, lang, unseen=False, kind=None):
    """A question and its target."""
    kind = kind or rng.choices(list(WEIGHTS), WEIGHTS.values())[0]
    text = pick(rng, QUESTIONS[kind], lang, unseen).replace("{X}", rng.choice(THINGS[lang]))
    return kind, text, {"reasoning": THOUGHTS[kind][lang], "content": ANSWERS[kind][lang]}


def sample(rng, lang, unseen=False, kind=None):
    kind, text, target = turn(rng, lang, unseen, kind)
    return {
        "task": "identity",
        "messages": [{"role": "user", "content": text}],
        "tools": None,
        "target": target,
        "expect": {"kind": "text", "value": target["content"]},
    }
