"""Which time zone is a city in? Short samples that teach what time tools need."""

from phrases import dress, load, pick
from places import city

_TEXT = load("zones")
ASK, THOUGHT, ANSWER, JOIN = (_TEXT[k] for k in ("ask", "thought", "answer", "join"))


def sample(rng, lang, unseen=False):
    found = {}
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        zone, name = city(rng, lang)
        found[name] = zone
    names = JOIN[lang].join(found)
    text = dress(rng, lang, pick(rng, ASK, lang, unseen).replace("{C}", names))
    answer = "\n".join(ANSWER[lang].format(c=c, z=z) for c, z in found.items())
    target = {"reasoning": THOUGHT[lang].format(c=names), "content": answer}
    expect = {"kind": "text", "value": answer}
    return {
        "task": "zone",
        "messages": [{"role": "user", "content": text}],
        "tools": None,
        "target": target,
        "expect": expect,
    }
