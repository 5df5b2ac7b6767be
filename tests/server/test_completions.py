"""``/v1/completions``: texts, lists, token ids, echo, log-probabilities."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx import Qwen3

from .serving import Running, chunks, error_of

PROMPT = "How many r are in raspberries?"


def complete(server: Running, **fields: Any) -> dict[str, Any]:
    response = server.client.post("/v1/completions", json={"temperature": 0, "max_tokens": 4, **fields})
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


def refused(server: Running, **fields: Any) -> dict[str, Any]:
    return error_of(server.client.post("/v1/completions", json={"max_tokens": 4, **fields}), 400)


def test_a_text_its_tokens_and_lists_of_them_are_one_prompt(server: Running, demo: Qwen3) -> None:
    ids = demo.tokenizer.encode(PROMPT)
    alone = complete(server, prompt=PROMPT)
    assert alone["object"] == "text_completion" and len(alone["choices"]) == 1
    for prompt in (ids, [PROMPT], [ids]):
        assert complete(server, prompt=prompt)["choices"] == alone["choices"]


def test_choices_are_numbered_prompt_by_prompt(server: Running) -> None:
    document = complete(server, prompt=["one two", "three"], n=2, echo=True)
    texts = [choice["text"] for choice in document["choices"]]
    assert [choice["index"] for choice in document["choices"]] == [0, 1, 2, 3]
    assert [text.startswith("one two") for text in texts] == [True, True, False, False]
    lengths = [complete(server, prompt=prompt)["usage"]["prompt_tokens"] for prompt in ("one two", "three")]
    assert document["usage"]["prompt_tokens"] == sum(lengths)


def test_the_default_is_sixteen_tokens(server: Running, demo: Qwen3) -> None:
    bias = {str(token): -1e9 for token in demo.tokenizer.eos_ids}
    body = {"prompt": "How many", "temperature": 0, "logit_bias": bias}
    document = server.client.post("/v1/completions", json=body).json()
    assert document["usage"]["completion_tokens"] == 16 and document["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("silent", [False, True])
def test_log_probabilities_of_an_echoed_prompt(server: Running, demo: Qwen3, silent: bool) -> None:
    document = complete(server, prompt=PROMPT, echo=True, logprobs=2, max_tokens=0 if silent else 3)
    (choice,) = document["choices"]
    told = choice["logprobs"]
    ids = demo.tokenizer.encode(PROMPT)
    logits = demo.model([ids])[0].astype(mx.float32)
    wanted: Any = (logits - mx.logsumexp(logits, axis=-1, keepdims=True)).tolist()
    assert told["token_logprobs"][0] is None and told["top_logprobs"][0] is None
    for i in range(1, len(ids)):
        assert math.isclose(told["token_logprobs"][i], wanted[i - 1][ids[i]], abs_tol=1e-3)
        best = max(told["top_logprobs"][i].values())
        assert math.isclose(best, max(wanted[i - 1]), abs_tol=1e-3) and len(told["top_logprobs"][i]) in (2, 3)
    assert "".join(told["tokens"]) == choice["text"] and choice["text"].startswith(PROMPT)
    for offset, token in zip(told["text_offset"], told["tokens"], strict=True):
        assert choice["text"][offset:].startswith(token)
    if silent:
        assert choice["text"] == PROMPT and choice["finish_reason"] == "length"
        assert document["usage"]["completion_tokens"] == 0 and len(told["tokens"]) == len(ids)


def test_a_long_prompt_is_scored_in_chunks(server: Running, demo: Qwen3) -> None:
    ids = (demo.tokenizer.encode("one two three four ") * 200)[:700]
    told = complete(server, prompt=ids, echo=True, logprobs=0, max_tokens=0)["choices"][0]["logprobs"]
    assert len(told["token_logprobs"]) == 700 and told["token_logprobs"].count(None) == 1


@pytest.mark.parametrize("fields", [{}, {"echo": True}, {"logprobs": 1}, {"echo": True, "logprobs": 0}])
def test_streamed_is_the_same(server: Running, fields: Any) -> None:
    whole = complete(server, prompt=[PROMPT, "x"], max_tokens=8, **fields)["choices"]
    body = {"prompt": [PROMPT, "x"], "temperature": 0, "max_tokens": 8, "stream": True, **fields}
    parts = chunks(server.client.post("/v1/completions", json=body))
    for choice in whole:
        mine = [part["choices"][0] for part in parts if part["choices"][0]["index"] == choice["index"]]
        assert "".join(part["text"] for part in mine) == choice["text"]
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        if "logprobs" in fields:
            for name, values in choice["logprobs"].items():
                joined = [value for part in mine if part["logprobs"] for value in part["logprobs"][name]]
                if name == "tokens":
                    assert joined == values
                else:
                    assert len(joined) == len(values)


def test_stop_and_seed(server: Running) -> None:
    text = complete(server, prompt="The letter r appears", max_tokens=12)["choices"][0]["text"]
    stop = text[3:6]
    cut = complete(server, prompt="The letter r appears", max_tokens=12, stop=stop)["choices"][0]
    assert cut["text"] == text[: text.index(stop)] and cut["finish_reason"] == "stop"
    drawn = [complete(server, prompt="x", temperature=2, seed=7, max_tokens=12)["choices"][0]["text"] for _ in "ab"]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [""]}, "prompt[0]"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [10**9]}, "prompt[0]"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
        ({"prompt": ["a"] * 60, "n": 8}, "n"),
        ({"prompt": "a", "messages": []}, "messages"),
        ({"prompt": "a" * 40000}, "prompt"),
        ({"prompt": [1] * 40000}, "prompt"),
        ({"prompt": [[1], [1] * 40000]}, "prompt[1]"),
        ({"prompt": "a", "max_tokens": 1e300}, "max_tokens"),
    ],
)
def test_what_cannot_be_served_is_named(server: Running, fields: Any, param: str) -> None:
    assert refused(server, **fields)["param"] == param
