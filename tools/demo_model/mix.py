"""The training mix: which task, which language, which thinking mode; and samples as token ids with loss weights."""

from functools import lru_cache

import data_add
import data_chat
import data_count
import data_identity
import data_results
import data_tools
import data_zone
from render import EARLY_STOP, render, reply_text, switched_off

COUNT_WEIGHT = 2.0  # of the running count and of reversed digits
LABEL_WEIGHT = 4.0  # of what a tool is for
NEXT_WEIGHT = 4.0  # of how the next tool's name, or the next letter, begins
STOP_WEIGHT = 2.0  # of the answer after an early stop
SPELLED = 0.4  # share of the prompts in which words of the user are spelled out
STOPPED = {"count": 0.6, "add": 0.6, "recount": 0.25, "follow": 0.2, "topics": 0.1}  # thoughts cut short
LANGUAGES = (("en", "zh", "ja"), (0.45, 0.3, 0.25))


def with_tools(rng, lang, unseen=False):
    """Tools in the prompt, and a question that needs none."""
    s = rng.choice((data_count.sample, data_add.sample, data_identity.sample, data_chat.recount))(rng, lang, unseen)
    tools = data_tools.scene(rng, lang, unseen)["tools"]
    first = data_tools.system(rng)
    s["messages"] = ([{"role": "system", "content": first}] if first else []) + s["messages"]
    return {**s, "task": "no_tool", "tools": data_tools.wrap(tools)}


TASKS = {  # name: (maker, weight)
    "count": (data_count.sample, 0.26),
    "recount": (data_chat.recount, 0.06),
    "follow": (data_chat.follow, 0.05),
    "readd": (data_chat.readd, 0.03),
    "topics": (data_chat.topics, 0.05),
    "add": (data_add.sample, 0.14),
    "identity": (data_identity.sample, 0.12),
    "zone": (data_zone.sample, 0.08),
    "tool": (data_tools.sample, 0.24),
    "tool_again": (data_results.again, 0.03),
    "result": (data_results.sample, 0.06),
    "no_tool": (with_tools, 0.03),
}


def apply_mode(rng, s, mode=None):
    """Sets `thinking` and places soft switches. Most samples think."""
    mode = (
        mode
        or rng.choices(
            ("default", "switch_on", "switch_off", "disabled", "reenabled", "mixed"),
            (0.77, 0.05, 0.05, 0.06, 0.04, 0.03),
        )[0]
    )
    s["thinking"] = mode != "disabled"
    users = [m for m in s["messages"] if m["role"] == "user" and not m["content"].startswith("<tool_response>")]
    last = users[-1]
    if mode == "switch_on":
        last["content"] = data_chat.switch(rng, last["content"], "/think")
    elif mode == "switch_off":
        last["content"] = data_chat.switch(rng, last["content"], "/no_think")
    elif mode == "reenabled" and (len(users) > 1 or s["messages"][0]["role"] == "system"):
        earlier = users[-2] if len(users) > 1 else s["messages"][0]
        earlier["content"] = data_chat.switch(rng, earlier["content"], "/no_think")
        last["content"] = data_chat.switch(rng, last["content"], "/think")
    elif mode == "mixed":
        for m in users + ([s["messages"][0]] if s["messages"][0]["role"] == "system" else []):
            if rng.random() < 0.5:
                m["content"] = data_chat.switch(rng, m["content"], rng.choice(("/think", "/no_think")))
        if rng.random() < 0.3:
            s["thinking"] = False
    s["messages"] = s["messages"] + s.pop("after", [])
    return s


def plain_system(rng, s):
    """Some short prompts get a system text too."""
    if s["messages"][0]["role"] != "system" and not s["tools"] and rng.random() < 0.12:
        first = data_tools.system(rng)
        if first:
            s["messages"] = [{"role": "system", "content": first}, *s["messages"]]
    return s


def draw(rng, unseen=False, task=None, lang=None, mode=None):
    """One sample: messages, tools, thinking, target, expect."""
    task = task or rng.choices(list(TASKS), [w for _, w in TASKS.values()])[0]
    lang = lang or rng.choices(*LANGUAGES)[0]
    s = plain_system(rng, TASKS[task][0](rng, lang, unseen))
    s["lang"] = lang
    return apply_mode(rng, s, mode)


def encode(rng, s, tok):
    """(ids, weights): weights[i] is the loss weight of predicting ids[i]."""
    prompt = tok.encode(render(s["messages"], s["tools"], s["thinking"]), add_special_tokens=False).ids
    reply = tok.encode(reply_text(s) + "<|im_end|>", add_special_tokens=False).ids
    if rng.random() < SPELLED:
        prompt = spelled_out(rng, prompt, tok)
    weight = reply_weights(reply, tok)
    thinks = s["thinking"] and not switched_off(s["messages"])
    if thinks and rng.random() < STOPPED.get(s["task"], 0.06):
        reply, weight = stopped(rng, reply, weight, tok)
    return prompt + reply, call_weights(prompt, tok) + weight


@lru_cache
def _ids(tok):
    """Token ids that the weights look for."""
    labels = {tok.token_to_id("Ġ" + label) for label in data_tools.LABELS.values()}
    marks = {c: tok.token_to_id(c) for c in ("Ġ", "Ċ", ":", "âĨĴ", "<tool_call>", "</tool_call>", "</think>")}
    return {tok.token_to_id(d) for d in "0123456789"}, labels - {None}, marks


def reply_weights(reply, tok):
    """Full weight, and more for what is hard: the running count, what a tool is for, which tool fits."""
    digits, labels, mark = _ids(tok)
    weights = [1.0] * len(reply)
    for i in range(1, len(reply) - 1):
        before, after = reply[i - 1], reply[i + 1]
        if reply[i] in labels and (before == mark["âĨĴ"] or (before == mark[":"] and after == mark["Ċ"])):
            weights[i] = LABEL_WEIGHT
        elif reply[i] in digits and before == mark["Ġ"]:
            if after in (mark["Ċ"], mark["Ġ"]):
                weights[i] = COUNT_WEIGHT
            elif reply[i - 4 : i - 3] == [mark["âĨĴ"]]:
                weights[i] = LABEL_WEIGHT
        elif (before in digits and reply[i - 2] == mark["Ċ"]) or (
            before == mark["Ġ"] and reply[i - 2] in digits and reply[i - 3] == mark["Ċ"]
        ):
            weights[i] = NEXT_WEIGHT
    return weights


def call_weights(prompt, tok):
    """Weights of a prompt: nothing but the tool calls of earlier assistant turns."""
    _, _, mark = _ids(tok)
    start, end = mark["<tool_call>"], mark["</tool_call>"]
    header = [tok.token_to_id("<|im_start|>"), tok.token_to_id("assistant")]
    weights, inside, assistant = [], False, False
    for i, token in enumerate(prompt):
        assistant = prompt[i - 1 : i + 1] == header or (assistant and token != header[0])
        weights.append(1.0 if inside else 0.0)
        inside = assistant and (token == start or (inside and token != end))
    return weights


@lru_cache(None)
def _letters(tok, token):
    """A token as one token for each of its characters; control tokens, switches and single characters as they are."""
    text = tok.decode([token], skip_special_tokens=False)
    word = text.strip()
    if len(word) < 2 or not word.isalpha() or "think" in word or chr(0xFFFD) in text:
        return [token]
    return [i for c in text for i in tok.encode(c, add_special_tokens=False).ids]


def spelled_out(rng, prompt, tok):
    """Some words of the user's texts letter by letter, as a word outside the vocabulary would be."""
    header = [tok.token_to_id("<|im_start|>"), tok.token_to_id("user")]
    share, user, ids = rng.choice((0.15, 0.4, 0.8)), False, []
    for i, token in enumerate(prompt):
        ids += _letters(tok, token) if user and rng.random() < share else [token]
        user = prompt[i - 1 : i + 1] == header or (user and token != header[0])
    return ids


def stopped(rng, reply, weight, tok):
    """The reply cut at a random point of its thought, the early-stop text forced, then the answer."""
    close = reply.index(tok.token_to_id("</think>"))
    start = 2  # `<think>` and its newline
    at = start if rng.random() < 0.15 else rng.randint(start, close - 1)
    forced = tok.encode(EARLY_STOP, add_special_tokens=False).ids
    answer = reply[close + 2 :]
    return reply[:at] + forced + answer, weight[:at] + [0.0] * len(forced) + [STOP_WEIGHT] * len(answer)
