"""After a tool has answered: read its result and say it in the user's language."""

import json
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import data_tools
from phrases import load
from render import call_text
from words import random_word

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_TEXT = load("results")
ANSWER, THOUGHT, ERRORS, SENTENCES = (_TEXT[k] for k in ("answer", "thought", "errors", "sentences"))


def instant(rng, zone):
    """A random moment in a zone."""
    start = datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC")) + timedelta(seconds=rng.randint(0, 4 * 365 * 86400))
    return start.astimezone(ZoneInfo(zone))


def _record(moment, zone):
    return {
        "timezone": zone,
        "datetime": moment.isoformat(timespec="seconds"),
        "day_of_week": DAYS[moment.weekday()],
        "is_dst": bool(moment.dst()),
    }


def _time_result(rng, moment, zone):
    """The server's own JSON, or another service's way to say it."""
    x = rng.random()
    if x < 0.6:
        return json.dumps(_record(moment, zone), indent=2 if rng.random() < 0.7 else None)
    if x < 0.75:
        return json.dumps(
            rng.choice(
                (
                    {"time": moment.strftime("%H:%M")},
                    {"zone": zone, "time": moment.strftime("%H:%M:%S")},
                    {"now": moment.isoformat(timespec="seconds")},
                    {"date": moment.strftime("%Y-%m-%d"), "time": moment.strftime("%H:%M"), "tz": zone},
                )
            )
        )
    return moment.strftime(
        rng.choice(
            (
                "%H:%M",
                "%H:%M:%S",
                "%Y-%m-%d %H:%M",
                "%Y-%m-%dT%H:%M:%S",
                "The time is %H:%M.",
                "%A %H:%M",
                "%Y-%m-%d %H:%M:%S " + zone,
            )
        )
    )


def _sentence(rng):
    a, b, c = random_word(rng), random_word(rng), random_word(rng)
    return rng.choice(SENTENCES).format(a=a, b=b, c=c, A=a.capitalize(), n=rng.randint(1, 2026))


TRUNCATED = "\n\n<error>Content truncated. Call the fetch tool with a start_index of 5000 to get more content.</error>"


def _page_result(rng, link):
    """(first line, the text of a page): plain or markdown, in the form of mcp-server-fetch or bare."""
    first = _sentence(rng)
    paragraphs = [
        " ".join(_sentence(rng) for _ in range(rng.choice((1, 1, 2, 3)))) for _ in range(rng.choice((0, 0, 1, 2, 4)))
    ]
    lead = rng.choice((f"Contents of {link}:\n", f"Contents of {link}:\n", "", "")) + rng.choice(
        ("", "", "# ", "# ", "Title: ")
    )
    tail = TRUNCATED if rng.random() < 0.1 else ""
    return first, lead + rng.choice(("\n", "\n\n")).join([first, *paragraphs]) + tail


def _now(rng, s, lang):
    moment = instant(rng, "UTC")
    zones, names = s["facts"]["zones"], s["facts"]["names"]
    local = [moment.astimezone(ZoneInfo(z)) for z in zones]
    results = [_time_result(rng, m, z) for m, z in zip(local, zones, strict=True)]
    t = [m.strftime("%H:%M") for m in local]
    if len(t) == 2:
        return (
            results,
            THOUGHT["two"][lang].format(t=t[0], u=t[1]),
            ANSWER["two"][lang].format(t=t[0], u=t[1], c=names[0], d=names[1]),
            t,
        )
    return results, THOUGHT["time"][lang].format(t=t[0]), ANSWER["now"][lang].format(t=t[0], c=names[0]), t


def _convert(rng, s, lang):
    (a, b), names, clock = s["facts"]["zones"], s["facts"]["names"], s["facts"]["time"]
    hour, minute = map(int, clock.split(":"))
    source = instant(rng, a).replace(hour=hour, minute=minute, second=0)
    moved = source.astimezone(ZoneInfo(b))
    t = moved.strftime("%H:%M")
    hours = (moved.utcoffset() - source.utcoffset()).total_seconds() / 3600
    whole = {"source": _record(source, a), "target": _record(moved, b), "time_difference": f"{hours:+.1f}h"}
    x = rng.random()
    result = (
        json.dumps(whole, indent=2 if x < 0.6 else None)
        if x < 0.8
        else rng.choice((t, json.dumps({"result": t, "timezone": b}), json.dumps({"from": clock, "to": t})))
    )
    return (
        [result],
        THOUGHT["time"][lang].format(t=t),
        ANSWER["convert"][lang].format(s=clock, c=names[0], t=t, d=names[1]),
        [t],
    )


def _plain(rng, s, lang):
    value = s["facts"]["value"]
    if s["kind"] in ("fetch", "search"):
        first, result = _page_result(rng, value)
        return [result], THOUGHT["page"][lang], ANSWER[s["kind"]][lang].format(p=first), [first]
    n = str(rng.randint(-20, 45) if s["kind"] == "weather" else rng.randint(0, 99999))
    if s["kind"] == "calc":
        result = rng.choice(
            (n, json.dumps({"result": int(n)}), f"= {n}", json.dumps({"expression": value, "value": int(n)}))
        )
        return [result], THOUGHT["time"][lang].format(t=n), ANSWER["calc"][lang].format(n=n), [n]
    w = rng.choice(("sunny", "cloudy", "rainy", "windy", "snowy", "clear", "foggy"))
    result = rng.choice(
        (
            json.dumps({"city": value, "temperature": int(n), "condition": w}, ensure_ascii=False),
            json.dumps({"temperature": int(n), "condition": w, "humidity": rng.randint(10, 99)}),
            f"{n}°C, {w}",
            f"{w} {n}",
        )
    )
    return (
        [result],
        THOUGHT["time"][lang].format(t=f"{n}, {w}"),
        ANSWER["weather"][lang].format(n=n, w=w, c=value),
        [n, w],
    )


def _history(rng, s, results):
    """The call and its results as the official tool role or as a user-role wrapper."""
    calls = [{"type": "function", "function": c} for c in s["calls"]]
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    if rng.random() < 0.75:
        message["reasoning_content"] = s["thought"]
    if rng.random() < 0.6:
        return [message, *({"role": "tool", "content": r} for r in results)]
    message = {
        "role": "assistant",
        "content": call_text(s["calls"]),
        **({"reasoning_content": s["thought"]} if "reasoning_content" in message else {}),
    }
    return [message, {"role": "user", "content": "\n".join(f"<tool_response>\n{r}\n</tool_response>" for r in results)}]


def sample(rng, lang, unseen=False, style=None):
    s = data_tools.scene(rng, lang, unseen, style)
    make = {"now": _now, "convert": _convert}.get(s["kind"], _plain)
    results, thought, answer, parts = make(rng, s, lang)
    expect = {"kind": "contains", "value": parts}
    if rng.random() < 0.08:
        results = [
            rng.choice(ERRORS).format(z=rng.choice(data_tools.ZONES), n=rng.randint(1000, 9999)) for _ in results
        ]
        thought, answer = THOUGHT["error"][lang], ANSWER["error"][lang]
        expect = {"kind": "text", "value": answer}
    messages = data_tools.opening(rng, s["text"])
    return {
        "task": "result",
        "messages": messages,
        "after": _history(rng, s, results),
        "tools": data_tools.wrap(s["tools"]),
        "target": {"reasoning": thought, "content": answer},
        "expect": expect,
    }


def again(rng, lang, unseen=False):
    """A second question after a finished tool turn."""
    first = data_tools.scene(rng, lang, unseen)
    make = {"now": _now, "convert": _convert}.get(first["kind"], _plain)
    results, _, answer, _ = make(rng, first, lang)
    right = first["right"]
    text, thought, calls, _ = data_tools.intent(rng, lang, first["kind"], right, first["tools"], unseen)
    messages = data_tools.opening(rng, first["text"])
    messages += [
        *_history(rng, first, results),
        {"role": "assistant", "content": answer},
        {"role": "user", "content": text},
    ]
    return {
        "task": "tool",
        "messages": messages,
        "tools": data_tools.wrap(first["tools"]),
        "target": {"reasoning": thought, "content": "", "tool_calls": calls},
        "expect": {"kind": "calls", "value": calls},
    }
