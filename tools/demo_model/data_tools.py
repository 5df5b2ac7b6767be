"""Tool calls: several schemas in the prompt, one of them right, arguments taken from the question."""

from phrases import dress, load
from places import CITIES, ZONES, city
from schemas import ROLES, made_up, pseudo, real, vocabulary
from words import random_word

_TEXT = load("tools")
ASK, TWO, THOUGHTS, MISSING = (_TEXT[k] for k in ("ask", "two", "thoughts", "missing"))
SYSTEM, LABELS = _TEXT["system"], _TEXT["labels"]
HELD = 3  # the last wordings of every list are for evaluation


def pick(rng, items, unseen):
    return rng.choice(items[-HELD:] if unseen else items[:-HELD])


def url(rng):
    host = rng.choice(
        (
            "localhost",
            "127.0.0.1",
            "example.com",
            "www.example.org",
            "qwenlm.github.io",
            "github.com",
            "en.wikipedia.org",
            "docs.python.org",
            f"192.168.{rng.randint(0, 9)}.{rng.randint(1, 254)}",
            pseudo(rng) + rng.choice((".com", ".org", ".net", ".io", ".dev", ".cn", ".jp", ".co.uk")),
            "www." + pseudo(rng) + ".com",
            "news." + pseudo(rng) + ".org",
        )
    )
    with_port = host[0] in "l1" or rng.random() < 0.1
    port = f":{rng.choice((8000, 8080, 3000, 5000, 80, rng.randint(1024, 65535)))}" if with_port else ""
    parts = [
        rng.choice(
            (
                pseudo(rng),
                pseudo(rng),
                "blog",
                "docs",
                "index",
                "page",
                "news",
                "article",
                "a",
                "wiki",
                "en",
                "qwen3",
                "v1",
                "data",
                str(rng.randint(1, 2026)),
                pseudo(rng) + rng.choice("-_") + pseudo(rng),
            )
        )
        for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 4)))
    ]
    if parts and rng.random() < 0.15:
        parts.insert(rng.randint(0, len(parts)), rng.choice(parts))  # the same part again
    tail = "/".join(parts)
    if tail and rng.random() < 0.35:
        tail += rng.choice((".html", ".txt", ".htm", ".json", "/", ".md"))
    if rng.random() < 0.2:
        key = rng.choice(("q", "id", "page", "lang"))
        tail += f"?{key}={rng.choice((pseudo(rng), str(rng.randint(1, 999))))}"
    slash = "/" if tail or rng.random() < 0.6 else ""
    return rng.choice(("https", "https", "http")) + "://" + host + port + slash + tail


def expression(rng):
    numbers = [str(rng.randint(1, rng.choice((9, 99, 999, 9999)))) for _ in range(rng.choice((2, 2, 3)))]
    space = rng.choice(("", " "))
    text = numbers[0]
    for n in numbers[1:]:
        text += space + rng.choice("+-*/") + space + n
    return text if rng.random() < 0.85 else "(" + text + ")" + space + rng.choice("+-*") + space + "2"


def clock(rng):
    return f"{rng.randint(0, 23):02d}:{rng.choice((0, 0, 15, 30, 30, 45, rng.randint(0, 59))):02d}"


def place(rng, lang):
    """(zone, what the user calls it): a city, or the zone itself."""
    if rng.random() < 0.1:
        zone = rng.choice(ZONES)
        return zone, zone
    return city(rng, lang)


def toolbox(rng, kind, unseen, style):
    """The right tool and the list of all tools. style: made | real | agent."""
    words = vocabulary(rng)
    if style != "made":
        for _ in range(50):
            tools = real(rng, agent=style == "agent")
            if any(t["kind"] == kind for t in tools):
                break
        right = next(t for t in tools if t["kind"] == kind)
        if style == "real" and rng.random() < 0.4:
            tools += [
                made_up(rng, rng.choice([k for k in ROLES if k not in ("now", "convert", "fetch")]), words, unseen)
                for _ in range(rng.randint(1, 2))
            ]
            rng.shuffle(tools)
        return right, tools
    right = made_up(rng, kind, words, unseen)
    kinds = [k for k in ROLES if k != kind] + ["other", "other"]
    others = rng.choice((0, 1, 1, 1, 2, 2, 3, 5) if unseen else (0, 1, 1, 2, 2, 3, 4, 5))  # long lists are harder
    tools = [right] + [made_up(rng, k, words, unseen) for k in rng.sample(kinds, others)]
    rng.shuffle(tools)
    return right, tools


def _call(tool, **values):
    return {"name": tool["function"]["name"], "arguments": {name: values[role] for role, name in tool["roles"].items()}}


def listing(kind, tools):
    """Every tool in order with what it is for, then the first that fits: read before choosing."""
    lines = [f"{i} {t['function']['name']}: {LABELS[t['kind']]}" for i, t in enumerate(tools, 1)]
    fits = (f"{i} {t['function']['name']}" for i, t in enumerate(tools, 1) if t["kind"] == kind)
    return "\n".join([*lines, f"→ {LABELS[kind]}: {next(fits, LABELS['none'])}"])


def intent(rng, lang, kind, tool, tools, unseen):
    """(question, thought, calls, facts) for a tool of a kind."""
    make = {"now": _now, "convert": _convert}.get(kind, _plain)
    text, name, values, facts, calls = make(rng, lang, kind, tool, unseen)
    return text, THOUGHTS[name][lang].format(LIST=listing(kind, tools), **values), calls, facts


def _now(rng, lang, kind, tool, unseen):
    if "local" in tool and rng.random() < 0.2:
        zone = tool["local"]
        facts = {"zones": [zone], "names": [zone.split("/")[-1].replace("_", " ")]}
        return pick(rng, ASK["local"][lang], unseen), "local", {"Z": zone}, facts, [_call(tool, zone=zone)]
    zone, name = place(rng, lang)
    if rng.random() < 0.12:
        other, second = place(rng, lang)
        if other != zone:
            text = pick(rng, TWO[lang], unseen).format(C=name, D=second)
            values = {"C": name, "D": second, "Z": zone, "Y": other}
            facts = {"zones": [zone, other], "names": [name, second]}
            return text, "two", values, facts, [_call(tool, zone=zone), _call(tool, zone=other)]
    text = pick(rng, ASK["now"][lang], unseen).format(C=name)
    facts = {"zones": [zone], "names": [name]}
    return text, "now", {"C": name, "Z": zone}, facts, [_call(tool, zone=zone)]


def _convert(rng, lang, kind, tool, unseen):
    (zone, name), (other, second) = place(rng, lang), place(rng, lang)
    while other == zone:
        other, second = place(rng, lang)
    t = clock(rng)
    text = pick(rng, ASK["convert"][lang], unseen).format(C=name, D=second, T=t)
    values = {"C": name, "D": second, "T": t, "Z": zone, "Y": other}
    facts = {"zones": [zone, other], "names": [name, second], "time": t}
    return text, "convert", values, facts, [_call(tool, source=zone, time=t, target=other)]


def _plain(rng, lang, kind, tool, unseen):
    role, key, value = {
        "fetch": ("url", "U", url),
        "weather": ("city", "C", lambda r: city(r, lang)[1]),
        "calc": ("expression", "E", expression),
        "search": ("query", "Q", _query),
    }[kind]
    value = value(rng)
    text = pick(rng, ASK[kind][lang], unseen).format(**{key: value})
    return text, kind, {"C": value}, {"value": value}, [_call(tool, **{role: value})]


def _query(rng):
    return (
        " ".join(random_word(rng) for _ in range(rng.randint(1, 3)))
        if rng.random() < 0.8
        else rng.choice(CITIES)[1]["zh"]
    )


def system(rng):
    """A system text or None."""
    if rng.random() < 0.45:
        return None
    return rng.choice(SYSTEM).format(
        Y=rng.randint(2024, 2027), M=f"{rng.randint(1, 12):02d}", D=f"{rng.randint(1, 28):02d}"
    )


def wrap(tools):
    return [{"type": "function", "function": t["function"]} for t in tools]


def opening(rng, text):
    """Messages that end with a user's text."""
    first = system(rng)
    return ([{"role": "system", "content": first}] if first else []) + [{"role": "user", "content": text}]


def scene(rng, lang, unseen=False, style=None, kind=None):
    """Everything about one call: right tool, tools, question, thought, calls, facts."""
    style = style or rng.choices(("made", "real", "agent"), (0.76, 0.12, 0.12))[0]
    kinds = (
        ("now", "now", "now", "convert", "fetch", "fetch")
        if style != "made"
        else ("now", "now", "now", "now", "convert", "convert", "fetch", "fetch", "fetch", "weather", "calc", "search")
    )
    kind = kind or rng.choice(kinds)
    right, tools = toolbox(rng, kind, unseen, style)
    text, thought, calls, facts = intent(rng, lang, kind, right, tools, unseen)
    if kind not in ("fetch", "search") and rng.random() < 0.3:
        text = dress(rng, lang, text)
    return {
        "kind": kind,
        "tools": tools,
        "text": text,
        "thought": thought,
        "calls": calls,
        "facts": facts,
        "right": right,
    }


def sample(rng, lang, unseen=False, style=None):
    s = scene(rng, lang, unseen, style)
    target = {"reasoning": s["thought"], "content": "", "tool_calls": s["calls"]}
    expect = {"kind": "calls", "value": s["calls"]}
    tools = s["tools"]
    others = [t for t in tools if t["kind"] != s["kind"]]
    if others and rng.random() < 0.14:  # the tool it would take is not there
        tools = others
        target = {
            "reasoning": THOUGHTS["missing"][lang].format(LIST=listing(s["kind"], others)),
            "content": MISSING[lang],
        }
        expect = {"kind": "text", "value": target["content"]}
    return {
        "task": "tool",
        "messages": opening(rng, s["text"]),
        "tools": wrap(tools),
        "target": target,
        "expect": expect,
    }
