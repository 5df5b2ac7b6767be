"""Words to count in: real English words, split so that the evaluation words are never trained on."""

import random
from functools import lru_cache
from pathlib import Path

HELDOUT = Path(__file__).with_name("eval") / "heldout_words.txt"
RESERVED = {"strawberry", "strawberries", "blueberry", "blueberries"}
DICTIONARY = Path("/usr/share/dict/words")  # Debian's wamerican


@lru_cache
def english():
    """Lower-case dictionary words, most frequent first."""
    from wordfreq import top_n_list

    known = {w for w in DICTIONARY.read_text().split() if w.isascii() and w.isalpha() and w.islower()}
    return [w for w in top_n_list("en", 120000) if w in known and 3 <= len(w) <= 16]


@lru_cache
def heldout():
    return HELDOUT.read_text().split()


@lru_cache
def training():
    banned = RESERVED | set(heldout())
    return [w for w in english() if w not in banned]


def write_heldout(count=400, seed=20261124):
    pool = [w for w in english()[800:] if len(w) >= 4 and w not in RESERVED]
    HELDOUT.write_text("\n".join(sorted(random.Random(seed).sample(pool, count))) + "\n")


def random_word(rng):
    """A training word: mostly real, sometimes letters at random."""
    banned = RESERVED | set(heldout())
    if rng.random() < 0.82:
        pool = training()
        word = pool[int(len(pool) * rng.random() ** 1.3)]
        if len(word) < 6 and rng.random() < 0.5:
            word = rng.choice(pool)
        return word
    letters = rng.choice(("abcdefghijklmnopqrstuvwxyz", "aeioulnrst", "etaoinshrdlucmfwypvbgk", "rsebluytaw"))
    while True:
        word = "".join(rng.choices(letters, k=rng.randint(3, rng.choice((10, 16, 16, 20)))))
        if word not in banned:
            return word


def pick_letter(rng, word):
    """A letter to count; repeated letters are preferred so that the answers 1, 2, 3 ... are all common."""
    word = word.lower()
    if rng.random() < 0.14:
        absent = [c for c in "abcdefghijklmnopqrstuvwxyz" if c not in word]
        return rng.choice(absent)
    want = rng.choice((1, 2, 2, 3, 3, 4))
    near = min((abs(word.count(c) - want), c) for c in set(word))[0]
    return rng.choice(sorted(c for c in set(word) if abs(word.count(c) - want) == near))


if __name__ == "__main__":
    write_heldout()
