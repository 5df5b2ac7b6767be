"""Tool schemas: the real ones of two MCP servers, and made-up ones with any function and parameter names."""

import json

from phrases import load
from words import random_word

REAL = load("real_tools")
_TEXT = load("schemas")
VERBS, NOUNS, TEXT = (_TEXT[k] for k in ("verbs", "nouns", "descriptions"))
PARAMS, EXTRA, SYLLABLES = (_TEXT[k] for k in ("parameters", "extra", "syllables"))
HELD_WORDS = _TEXT["held_words"]  # evaluation only
GENERIC = ["time", "web", "data", "info", "tool", "city", "page"]  # say nothing about what a tool does
ROLES = {
    "now": ["zone"],
    "convert": ["source", "time", "target"],
    "fetch": ["url"],
    "weather": ["city"],
    "calc": ["expression"],
    "search": ["query"],
    "other": ["any"],
}


def pseudo(rng):
    return "".join(rng.choices(SYLLABLES, k=rng.randint(2, 4))) + rng.choice(("", "", "n", "r", "s", "x"))


def spelled(rng):
    """An English word or an invented one."""
    return random_word(rng)[:9] if rng.random() < 0.6 else pseudo(rng)


def vocabulary(rng):
    """Words for all the names of one prompt: few of them half of the time, so that names begin alike."""
    return [spelled(rng) for _ in range(rng.choice((2, 3, 5, 30)))]


def style(rng, words):
    """Words joined as snake_case, camelCase, kebab-case ..."""
    form = rng.choice(("_", "_", "_", "_", "camel", "camel", "-", ".", "Pascal", "__"))
    if form == "camel":
        return words[0] + "".join(w.capitalize() for w in words[1:])
    return "".join(w.capitalize() for w in words) if form == "Pascal" else form.join(words)


def function_name(rng, kind, words, unseen=False):
    """Real-looking, composed, or invented; `unseen` always holds a word that training never uses."""
    if unseen:
        parts = [
            rng.choice(HELD_WORDS),
            *rng.sample(GENERIC, rng.randint(0, 1)),
            pseudo(rng),
        ]
        rng.shuffle(parts)
        return style(rng, parts)
    x = rng.random()
    noun = rng.choice(NOUNS[kind])
    if x < 0.5:  # a name that says nothing, or something else
        parts = [rng.choice(words), *rng.sample(GENERIC, rng.choice((0, 1, 1))), pseudo(rng)]
        rng.shuffle(parts)
        return style(rng, parts[: rng.choice((2, 3, 3))])
    x = (x - 0.5) / 0.5
    if x < 0.15:
        return style(rng, noun.split("_"))
    if x < 0.25:
        return style(rng, [rng.choice(VERBS), *noun.split("_")])
    if x < 0.32:
        return (
            rng.choice(("time", "clock", "web", "util", "srv", "my_server", "fetch", pseudo(rng)))
            + rng.choice(("-", "__", "."))
            + noun
        )
    if x < 0.42:
        return style(rng, [pseudo(rng), *noun.split("_")])
    if x < 0.50:
        return style(rng, [rng.choice(VERBS), pseudo(rng)])
    return style(rng, [pseudo(rng) for _ in range(rng.randint(1, 3))]) + rng.choice(
        ("", "", "", "_v2", "3", f"_{rng.randint(1, 99)}")
    )


def parameter_name(rng, role, taken, words, unseen=False):
    while True:
        if unseen and rng.random() < 0.5:
            name = style(rng, [rng.choice(HELD_WORDS), rng.choice(PARAMS[role][0])])
        else:
            name = (
                rng.choice(PARAMS[role][0])
                if rng.random() < 0.55
                else style(rng, [rng.choice(words), rng.choice(PARAMS[role][0])])
            )
        if name not in taken:
            return name


def _property(rng, role, name):
    fields = {"type": "string"}
    if rng.random() < 0.85 or not name.isalpha():
        fields["description"] = rng.choice(PARAMS[role][1])
    if rng.random() < 0.12:
        fields["title"] = name.replace("_", " ").title()
    if rng.random() < 0.2:
        fields = dict(rng.sample(list(fields.items()), len(fields)))
    return fields


def made_up(rng, kind, words, unseen=False):
    """A tool of a kind, named with some of the words: {"kind", "roles": {role: parameter name}, "function"}."""
    roles, properties = {}, {}
    order = ROLES[kind] if rng.random() < 0.6 else rng.sample(ROLES[kind], len(ROLES[kind]))
    for role in order:
        name = parameter_name(rng, role, properties, words, unseen)
        roles[role], properties[name] = name, _property(rng, role, name)
    if rng.random() < 0.25:
        for name, field in rng.sample(EXTRA, rng.randint(1, 2)):
            properties.setdefault(name, dict(field))
    parameters = {"type": "object", "properties": properties}
    if rng.random() < 0.85:
        parameters["required"] = [roles[r] for r in order]
    if rng.random() < 0.12:
        parameters["additionalProperties"] = False
    if rng.random() < 0.1:
        parameters["title"] = "Input"
    if rng.random() < 0.2:
        parameters = dict(rng.sample(list(parameters.items()), len(parameters)))
    function = {
        "name": function_name(rng, kind, words, unseen),
        "description": rng.choice(TEXT[kind]),
        "parameters": parameters,
    }
    if rng.random() < 0.12:
        function = dict(rng.sample(list(function.items()), 3))
    if rng.random() < 0.05:
        function["strict"] = rng.choice((True, False))
    return {"kind": kind, "roles": roles, "function": function}


def real(rng, agent=False):
    """The tools of mcp-server-time, of mcp-server-fetch, or both. `agent`: as Qwen-Agent 0.0.34 renders them."""
    zone = rng.choice(
        (
            "Etc/UTC",
            "Etc/UTC",
            "Asia/Shanghai",
            "Asia/Shanghai",
            "Asia/Tokyo",
            "Europe/London",
            "America/New_York",
            "Europe/Paris",
        )
    )
    servers = rng.choice((("time",), ("time",), ("fetch",), ("time", "fetch"), ("time", "fetch"), ("fetch", "time")))
    prefix = rng.choice(("%s-%s", "%s-%s", "%s__%s", "mcp__%s__%s")) if agent or rng.random() < 0.3 else "%.0s%s"
    tools = []
    for server in servers:
        for item in REAL[server]:
            schema = json.loads(json.dumps(item["inputSchema"]).replace("Etc/UTC", zone))
            if agent:
                schema = {k: schema[k] for k in ("type", "properties", "required")}
            kind = {"get_current_time": "now", "convert_time": "convert", "fetch": "fetch"}[item["name"]]
            names = {
                "now": {"zone": "timezone"},
                "convert": {"source": "source_timezone", "time": "time", "target": "target_timezone"},
                "fetch": {"url": "url"},
            }[kind]
            function = {
                "name": prefix % (server, item["name"]),
                "description": item["description"],
                "parameters": schema,
            }
            tools.append({"kind": kind, "roles": names, "function": function, "local": zone})
    if agent and rng.random() < 0.4:
        tools.append({"kind": "other", "roles": {}, "function": REAL["code_interpreter"]})
    return tools
