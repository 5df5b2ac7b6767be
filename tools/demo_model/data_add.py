"""Adding whole numbers of up to five digits, digit by digit with the carry written out."""

from phrases import ADD, dress, pick

OPENING = {"en": "Add:", "zh": "相加：", "ja": "足し算："}
REOPENING = {"en": "Add again:", "zh": "再相加：", "ja": "もう一度："}
ANSWER = {"en": "The sum is {n}.", "zh": "和是 {n}。", "ja": "合計は {n} です。"}


def number(rng):
    digits = rng.choice((1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5))
    return rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1)


def subject(rng):
    a, b = number(rng), number(rng)
    if rng.random() < 0.15:  # long carries
        a = int("9" * rng.randint(1, 5)) - rng.randint(0, 9) * (rng.random() < 0.5)
        a = max(a, 0)
    return (a, b) if rng.random() < 0.5 else (b, a)


def thought(lang, a, b, again=False):
    """Reversed digits first, then one line per digit: `5+8+1=14 → 4`, the result growing on the right."""
    width = max(len(str(a)), len(str(b)))
    x, y = str(a).zfill(width)[::-1], str(b).zfill(width)[::-1]
    lines = [(REOPENING if again else OPENING)[lang], " ".join(x), " ".join(y)]
    carry, result = 0, ""
    for i, j in zip(x, y, strict=True):
        total = int(i) + int(j) + carry
        result = str(total % 10) + result
        lines.append(f"{i}+{j}+{carry}={total:02d} → {result}")
        carry = total // 10
    lines.append(f"= {a + b}")
    return "\n".join(lines)


def answer(lang, n):
    return ANSWER[lang].format(n=n)


def target(lang, a, b, again=False):
    return {"reasoning": thought(lang, a, b, again), "content": answer(lang, a + b)}


def question(rng, lang, a, b, unseen=False, plain=False):
    text = pick(rng, ADD, lang, unseen).replace("{A}", str(a)).replace("{B}", str(b))
    return text if plain else dress(rng, lang, text)


def expect(a, b):
    return {"kind": "number", "value": a + b}


def sample(rng, lang, unseen=False):
    a, b = subject(rng)
    return {
        "task": "add",
        "messages": [{"role": "user", "content": question(rng, lang, a, b, unseen)}],
        "tools": None,
        "target": target(lang, a, b),
        "expect": expect(a, b),
    }
