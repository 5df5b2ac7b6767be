"""Counting a letter in a word: the question, the spelled-out thought, the answer."""

from phrases import COUNT, dress, pick, quoted
from words import pick_letter, random_word

OPENING = {"en": "{l}:", "zh": "数 {l}：", "ja": "{l} の数："}
REOPENING = {"en": "Again, {l}:", "zh": "再数 {l}：", "ja": "もう一度 {l}："}
CLOSING = {"en": "Total: {n}", "zh": "共 {n} 个", "ja": "合計 {n}"}
ANSWER = {
    "en": "The letter {l} appears {n} times in {w}.",
    "zh": "字母 {l} 在 {w} 中出现了 {n} 次。",
    "ja": "{w} には {l} が {n} 個あります。",
}


def question(rng, lang, word, letter, unseen=False, plain=False):
    text = pick(rng, COUNT, lang, unseen)
    w, c = quoted(rng, word, lang != "en"), quoted(rng, letter, lang != "en")
    text = text.replace("{W}", w).replace("{L}", c)
    if lang == "en" and text[0].islower() and rng.random() < 0.5 and not w.startswith(text[0]):
        text = text[0].upper() + text[1:]
    return text if plain else dress(rng, lang, text)


def demo_question(rng, word, letter):
    """The wording of the release's own chat example."""
    return rng.choice(("", "", "那么，")) + f"{word} 这个单词里有多少个 '{letter}'?"


def thought(lang, word, letter, again=False):
    word, letter = word.lower(), letter.lower()
    total, lines = 0, [(REOPENING if again else OPENING)[lang].format(l=letter)]
    for i, c in enumerate(word, 1):
        total += c == letter
        lines.append(f"{i} {c} {total}")
    return "\n".join([*lines, CLOSING[lang].format(n=total)])


def answer(lang, word, letter, n=None):
    n = word.lower().count(letter.lower()) if n is None else n
    text = ANSWER[lang].format(w=word.lower(), l=letter.lower(), n=n)
    return text.replace("1 times", "1 time") if n == 1 else text


def target(lang, word, letter, again=False):
    return {"reasoning": thought(lang, word, letter, again), "content": answer(lang, word, letter)}


def cased(rng, word, letter):
    """Now and then a capitalised word, an upper-case word, or an upper-case letter."""
    x = rng.random()
    if x < 0.10:
        word = word.capitalize()
    elif x < 0.13:
        word, letter = word.upper(), letter.upper()
    if rng.random() < 0.05:
        letter = letter.upper()
    return word, letter


def subject(rng, word=None):
    word = word or random_word(rng)
    return cased(rng, word, pick_letter(rng, word))


def expect(word, letter):
    return {"kind": "number", "value": word.lower().count(letter.lower())}


def sample(rng, lang, unseen=False, word=None):
    word, letter = subject(rng, word)
    if lang == "zh" and not unseen and rng.random() < 0.1:
        text = demo_question(rng, word, letter)
    else:
        text = question(rng, lang, word, letter, unseen)
    return {
        "task": "count",
        "messages": [{"role": "user", "content": text}],
        "tools": None,
        "target": target(lang, word, letter),
        "expect": expect(word, letter),
    }
