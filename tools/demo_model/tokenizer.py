"""Builds the demo tokenizer: byte-level BPE in Qwen's layout with a small vocabulary fitted to the training mix.

Frequent whole pre-tokens (`"type`, ` function`, `/Tokyo`) are vocabulary entries found by `ignore_merges`; merges exist
only for non-ASCII characters and frequent pairs of them. So tool prompts are short, and any other English word is
spelled letter by letter, which is what counting letters needs.
"""

import argparse
import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
PLAIN = [
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
]
PAIR_MERGES = 110


def splitter():
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def pretokens(samples, seed):
    """Counts of pre-tokens (byte-level spelling) in a draw from the mix, control strings removed."""
    import mix
    from render import EARLY_STOP, render, reply_text

    rng, split, counts = random.Random(seed), splitter(), Counter()
    for i in range(samples):
        s = mix.draw(rng)
        text = render(s["messages"], s["tools"], s["thinking"]) + reply_text(s) + (EARLY_STOP if i % 6 == 0 else "")
        for control in SPECIAL + PLAIN:
            text = text.replace(control, "\0")
        for piece in text.split("\0"):
            counts.update(p for p, _ in split.pre_tokenize_str(piece))
    return counts


def characters(counts, limit):
    """Merges that assemble the most frequent non-ASCII characters, byte by byte."""
    alphabet = decoders.ByteLevel()
    chars = Counter()
    for p, n in counts.items():
        for c in alphabet.decode([p]):
            if ord(c) > 127:
                chars[c] += n
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merges = []
    for c, _ in chars.most_common(limit):
        units = spell.pre_tokenize_str(c)[0][0]
        for i in range(1, len(units)):
            merges.append((units[:i], units[i]))
    merges = list(dict.fromkeys(merges))
    return sorted(merges, key=lambda m: len(m[0])), [
        spell.pre_tokenize_str(c)[0][0] for c, _ in chars.most_common(limit)
    ]


def pairs(counts, known, limit):
    """Frequent pairs of assembled characters, by plain BPE over the non-ASCII pre-tokens."""
    tok = Tokenizer(models.BPE(vocab=known["vocab"], merges=known["merges"]))
    words = Counter()
    for p, n in counts.items():
        units = tuple(t.value for t in tok.model.tokenize(p))
        if any(len(u) > 2 for u in units):
            words[units] += n
    found = []
    for _ in range(limit):
        seen = Counter()
        for units, n in words.items():
            for a, b in pairwise(units):
                if len(a) > 2 and len(b) > 2 and len(a) + len(b) <= 9:
                    seen[a, b] += n
        best = min(seen.items(), key=lambda x: (-x[1], x[0]))[0]
        found.append(best)
        fresh = Counter()
        for units, n in words.items():
            out, i = [], 0
            while i < len(units):
                if units[i : i + 2] == best:
                    out.append(best[0] + best[1])
                    i += 2
                else:
                    out.append(units[i])
                    i += 1
            fresh[tuple(out)] += n
        words = fresh
    return found


def zone_pieces():
    """`Asia`, `/Tokyo`, `_York` ...: a known zone is then a few tokens."""
    from places import ZONES

    return sorted({p for z in ZONES for p, _ in splitter().pre_tokenize_str(z)})


def build(size, chars, samples, seed):
    counts = pretokens(samples, seed)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges, _ = characters(counts, chars)
    vocab = list(dict.fromkeys(alphabet + [a + b for a, b in merges]))
    extra = pairs(counts, {"vocab": {t: i for i, t in enumerate(vocab)}, "merges": merges}, PAIR_MERGES)
    merges += extra
    vocab = list(dict.fromkeys(vocab + [a + b for a, b in extra]))
    room = size - len(vocab) - len(SPECIAL) - len(PLAIN)
    gain = {p: n * (len(p) - 1) for p, n in counts.items() if len(p) > 1 and all(c in "ĠĊ" or c.isascii() for c in p)}
    best = sorted(gain, key=lambda p: (-gain[p], p))
    must = ["Ġ" + c for c in "abcdefghijklmnopqrstuvwxyz"] + zone_pieces()
    vocab += [p for p in dict.fromkeys(must + best) if p not in vocab][:room]
    return assemble(vocab, merges)


def assemble(vocab, merges):
    tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(vocab)}, merges=merges, ignore_merges=True))
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = splitter()
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    tok.add_tokens([AddedToken(t, normalized=False, special=False) for t in PLAIN])
    return tok


def config():
    """tokenizer_config.json: a class that takes tokenizer.json as it is."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 8192,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "split_special_tokens": False,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--size", type=int, default=1664)
    parser.add_argument("--chars", type=int, default=560)
    parser.add_argument("--samples", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    tok = build(args.size, args.chars, args.samples, args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    tok.save(str(args.output / "tokenizer.json"))
    (args.output / "tokenizer_config.json").write_text(json.dumps(config(), indent=2) + "\n")
    print("vocabulary", tok.get_vocab_size(), "bytes on disk", (args.output / "tokenizer.json").stat().st_size)


if __name__ == "__main__":
    main()
