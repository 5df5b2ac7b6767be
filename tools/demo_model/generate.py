"""Batched generation in torch: left-padded prompts, a growing key-value cache, greedy or sampled."""

import torch


class Cache:
    """Keys and values of every attention module, grown by concatenation."""

    def __init__(self):
        self.kept = {}

    def update(self, module, k, v):
        if module in self.kept:
            old_k, old_v = self.kept[module]
            k, v = torch.cat((old_k, k), 2), torch.cat((old_v, v), 2)
        self.kept[module] = k, v
        return k, v

    def select(self, rows):
        self.kept = {m: (k[rows], v[rows]) for m, (k, v) in self.kept.items()}


def choose(logits, sampling, generator):
    """Next tokens [batch]; sampling None is greedy, else (temperature, top_p, top_k)."""
    if sampling is None:
        return logits.argmax(-1)
    temperature, top_p, top_k = sampling
    values, index = (logits / temperature).topk(top_k, dim=-1)
    probs = values.softmax(-1)
    probs = probs.masked_fill(probs.cumsum(-1) - probs >= top_p, 0)
    return index.gather(1, torch.multinomial(probs, 1, generator=generator))[:, 0]


@torch.no_grad()
def generate(model, prompts, stop, limit, sampling=None, seed=0):
    """New token ids of each prompt, without the stop token. All prompts run as one batch."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(map(len, prompts))
    tokens = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    start = torch.tensor([longest - len(p) for p in prompts])
    at = torch.arange(longest)
    mask = (at[None, None, :] <= at[None, :, None]) & (at[None, None, :] >= start[:, None, None])
    mask = mask | torch.eye(longest, dtype=torch.bool)  # padding rows see themselves, so that no softmax is empty
    cache, rows = Cache(), torch.arange(len(prompts))
    hidden = model(tokens, (at[None] - start[:, None]).clamp(min=0), cache, mask[:, None])
    out = [[] for _ in prompts]
    for step in range(limit):
        token = choose(model.head(hidden[:, -1]).float(), sampling, generator)
        live = token != stop
        for r, t in zip(rows[live].tolist(), token[live].tolist(), strict=True):
            out[r].append(t)
        if not live.any() or step + 1 == limit:
            break
        if not live.all():
            cache.select(live)
            rows, token, start = rows[live], token[live], start[live]
        now = longest + step
        mask = torch.arange(now + 1)[None] >= start[:, None]
        hidden = model(token[:, None], (now - start)[:, None], cache, mask[:, None, None])
    return out


def generate_all(model, prompts, stop, limit, sampling=None, seed=0, budget=24000):
    """`generate` over any number of prompts, alike in length within a batch of at most `budget` tokens."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    out, group = [None] * len(prompts), []
    for i in [*order, None]:
        full = group and (i is None or len(prompts[i]) * (len(group) + 1) > budget)
        if full:
            for j, ids in zip(
                group,
                generate(model, [prompts[j] for j in group], stop, limit, sampling, seed + len(group)),
                strict=True,
            ):
                out[j] = ids
            group = []
        group.append(i)
    return out
