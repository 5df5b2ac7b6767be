"""Conversations of several turns: recount when asked again, the same letter in another word, topics that change."""

import data_add
import data_count
import data_identity
from phrases import AGAIN, FOLLOW, HELD, pick, quoted
from words import pick_letter, random_word


def switch(rng, text, word):
    """Adds a soft switch to a user text."""
    return rng.choice((f"{text} {word}", f"{text} {word}", f"{text}{word}", f"{word} {text}", f"{text}\n{word}"))


def _user(text):
    return {"role": "user", "content": text}


def _assistant(rng, target, keep_thought=0.3):
    message = {"role": "assistant", "content": target["content"]}
    if rng.random() < keep_thought:
        message["reasoning_content"] = target["reasoning"]
    return message


def _said(rng, lang, word, letter):
    """An earlier answer to a count: right more often than wrong."""
    n = word.lower().count(letter.lower())
    if rng.random() < 0.4:
        n = max(0, n + rng.choice((-1, 1, 1, 2)))
    return {"reasoning": "", "content": data_count.answer(lang, word, letter, n)}


def _count_turns(rng, lang, unseen):
    """One or two count questions; returns the messages so far and the newest word and letter."""
    word, letter = data_count.subject(rng)
    demo = lang == "zh" and not unseen and rng.random() < 0.35
    ask = data_count.demo_question if demo else lambda r, w, c: data_count.question(r, lang, w, c, unseen)
    messages = [_user(ask(rng, word, letter))]
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        messages.append(_assistant(rng, _said(rng, lang, word, letter), 0))
        word = random_word(rng)
        if demo or rng.random() < 0.35:
            letter = letter if rng.random() < 0.5 else pick_letter(rng, word)
            text = ask(rng, word, letter)
            messages.append(_user("那么，" + text.removeprefix("那么，") if demo else text))
        else:
            text = pick(rng, FOLLOW, lang, unseen).replace("{W}", quoted(rng, word, lang != "en"))
            messages.append(_user(text))
    return messages, word, letter


def recount(rng, lang, unseen=False):
    """`Really? Think again.` after one or more counts."""
    messages, word, letter = _count_turns(rng, lang, unseen)
    messages.append(_assistant(rng, _said(rng, lang, word, letter), 0))
    if rng.random() < 0.15:
        messages += [_user(pick(rng, AGAIN, lang, unseen)), _assistant(rng, _said(rng, lang, word, letter), 0)]
    messages.append(_user(pick(rng, AGAIN, lang, unseen)))
    return {
        "task": "recount",
        "messages": messages,
        "tools": None,
        "target": data_count.target(lang, word, letter, again=True),
        "expect": data_count.expect(word, letter),
    }


def follow(rng, lang, unseen=False):
    """`And in blueberries?`: the last turn is a further count."""
    while True:
        messages, word, letter = _count_turns(rng, lang, unseen)
        if len(messages) > 1:
            return {
                "task": "follow",
                "messages": messages,
                "tools": None,
                "target": data_count.target(lang, word, letter),
                "expect": data_count.expect(word, letter),
            }


def readd(rng, lang, unseen=False):
    """A sum, an answer that may be wrong, and a request to check it."""
    a, b = data_add.subject(rng)
    n = a + b + (rng.choice((-10, -1, 1, 10, 100)) if rng.random() < 0.4 else 0)
    messages = [
        _user(data_add.question(rng, lang, a, b, unseen)),
        {"role": "assistant", "content": data_add.answer(lang, n)},
    ]
    again = [
        t for t in (AGAIN[lang][-HELD:] if unseen else AGAIN[lang][:-HELD]) if not any(x in t for x in ("ount", "数"))
    ]
    messages.append(_user(rng.choice(again)))
    return {
        "task": "recount",
        "messages": messages,
        "tools": None,
        "target": data_add.target(lang, a, b, again=True),
        "expect": data_add.expect(a, b),
    }


def _any_turn(rng, lang, unseen):
    kind = rng.choice(("count", "count", "add", "add", "identity"))
    if kind == "count":
        word, letter = data_count.subject(rng)
        return (
            kind,
            data_count.question(rng, lang, word, letter, unseen),
            data_count.target(lang, word, letter),
            data_count.expect(word, letter),
        )
    if kind == "add":
        a, b = data_add.subject(rng)
        return kind, data_add.question(rng, lang, a, b, unseen), data_add.target(lang, a, b), data_add.expect(a, b)
    _, text, target = data_identity.turn(rng, lang, unseen)
    return kind, text, target, {"kind": "text", "value": target["content"]}


def topics(rng, lang, unseen=False):
    """Two or three unrelated questions in one conversation, sometimes in different languages."""
    messages = []
    for _ in range(rng.choice((1, 1, 2))):
        other = lang if rng.random() < 0.8 else rng.choice(("en", "zh", "ja"))
        _, text, target, _ = _any_turn(rng, other, unseen)
        messages += [_user(text), _assistant(rng, target)]
    _, text, target, expect = _any_turn(rng, lang, unseen)
    messages.append(_user(text))
    return {"task": "topics", "messages": messages, "tools": None, "target": target, "expect": expect}
