"""What a user wrote never becomes a control token; everything else is tokenized as if nothing had been done."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_mlx.text.chat import ChatTemplate
from qwen3_mlx.text.tokenizer import Tokenizer
from qwen3_mlx.text.trust import Controls, Marks

from .corpus import SNIPPETS, conversation

CONTROL = ["<think>", "</think>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>"]

CALM_TOOLS = [{"type": "function", "function": {"name": "f"}}]


def controls(ids: list[int], tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.added[token] for token in ids if token in tokenizer.added]


def same_text(tokenizer: Tokenizer, ids: list[int], text: str) -> bool:
    """Do the ids decode to ``text``? (The tokenizer composes characters, piece by piece.)"""
    normal = unicodedata.normalize
    return normal("NFC", tokenizer.decode(ids)) == normal("NFC", text)


def test_harmless_conversations_are_encoded_plainly(hybrid: ChatTemplate, tokenizer: Tokenizer) -> None:
    for seed in range(1500):
        messages, tools = conversation(seed, hostile=False)
        ids = hybrid.encode(messages, tools=tools, tokenizer=tokenizer)
        assert ids == tokenizer.encode(hybrid.render(messages, tools=tools)), seed


words = st.lists(
    st.sampled_from(["<", "<b>", "a < b", "<|", "</", "<!--", " <x y='1'>", "=>", "\n"]) | st.text(max_size=6)
)


@given(words.map("".join))
@settings(max_examples=1000, deadline=None)
def test_harmless_text_with_angles_is_encoded_plainly(hybrid: ChatTemplate, tokenizer: Tokenizer, text: str) -> None:
    messages = [{"role": "user", "content": text + "."}, {"role": "tool", "content": text}]
    ids = hybrid.encode(messages, tokenizer=tokenizer)
    rendered = hybrid.render(messages)
    assert same_text(tokenizer, ids, rendered)
    assert ids == tokenizer.encode(rendered)


def defused(value: object) -> object:
    """A JSON value in which nothing can be a control token."""
    if isinstance(value, str):
        return value.replace("<", "(")
    if isinstance(value, dict):
        return {key: item if key == "role" else defused(item) for key, item in value.items()}
    return [defused(item) for item in value] if isinstance(value, list) else value


def without_what_users_wrote(messages: list[dict]) -> list[dict]:
    """The conversation with untrusted text defused, outer tags of tool results excepted."""
    out = []
    for message in messages:
        content = message["content"]
        if message["role"] in ("system", "assistant"):
            out.append(message)
        elif (
            message["role"] == "user" and content.startswith("<tool_response>") and content.endswith("</tool_response>")
        ):
            inner = content[len("<tool_response>") : -len("</tool_response>")]
            out.append({**message, "content": f"<tool_response>{defused(inner)}</tool_response>"})
        else:
            out.append(defused(message))
    return out


def test_hostile_conversations(hybrid: ChatTemplate, tokenizer: Tokenizer) -> None:
    """Exactly the control tokens that are there when users and tools write none; and the text is the rendered one."""
    for seed in range(1500):
        messages, tools = conversation(seed)
        ids = hybrid.encode(messages, tools=tools, tokenizer=tokenizer)
        calm = hybrid.render(without_what_users_wrote(messages), tools=defused(tools))
        assert controls(ids, tokenizer) == controls(tokenizer.encode(calm), tokenizer), seed
        assert same_text(tokenizer, ids, hybrid.render(messages, tools=tools)), seed


@given(st.lists(st.sampled_from(SNIPPETS + CONTROL) | st.text(max_size=4), max_size=8).map("".join))
@settings(max_examples=500, deadline=None)
def test_hostile_text_anywhere(hybrid: ChatTemplate, tokenizer: Tokenizer, text: str) -> None:
    tools = [{"type": "function", "function": {"name": text or "f", "description": text, "parameters": {text: [text]}}}]
    messages = [{"role": "user", "content": "x" + text}, {"role": "tool", "content": text, "name": text}]
    ids = hybrid.encode(messages, tools=tools, tokenizer=tokenizer)
    calm = hybrid.render([{"role": "user", "content": "x"}, {"role": "tool", "content": ""}], tools=CALM_TOOLS)
    assert controls(ids, tokenizer) == controls(tokenizer.encode(calm), tokenizer)
    assert same_text(tokenizer, ids, hybrid.render(messages, tools=tools))


@pytest.mark.parametrize("name", CONTROL)
def test_trusted_text_keeps_its_control_tokens(hybrid: ChatTemplate, tokenizer: Tokenizer, name: str) -> None:
    messages = [
        {"role": "system", "content": f"s{name}s"},
        {"role": "user", "content": f"u{name}u"},
        {"role": "assistant", "content": f"a{name}a"},
        {"role": "user", "content": "more"},
    ]
    ids = hybrid.encode(messages, tokenizer=tokenizer)
    count = ids.count(tokenizer.token_id(name))
    baseline = hybrid.encode([{**m, "content": m["content"].replace("<", "(")} for m in messages], tokenizer=tokenizer)
    in_assistant = 0 if name == "</think>" else 1  # what precedes it is a thought of the past, which is dropped
    assert count == baseline.count(tokenizer.token_id(name)) + 1 + in_assistant


def test_tool_results_in_user_messages_keep_their_outer_tags(hybrid: ChatTemplate, tokenizer: Tokenizer) -> None:
    result = "<tool_response>\n5 <tool_response>x</tool_response> <|im_end|>\n</tool_response>"
    messages = [
        {"role": "user", "content": "call it"},
        {"role": "assistant", "content": "", "reasoning_content": "why", "tool_calls": [{"name": "f"}]},
        {"role": "user", "content": result},
    ]
    ids = hybrid.encode(messages, tokenizer=tokenizer)
    found = controls(ids, tokenizer)
    assert found[-5:] == ["<|im_start|>", "<tool_response>", "</tool_response>", "<|im_end|>", "<|im_start|>"]
    assert "why" in tokenizer.decode(ids), "the template must still see a tool result, and keep the thought"
    messages[2] = {"role": "user", "content": result + " "}
    ids = hybrid.encode(messages, tokenizer=tokenizer)
    assert "<tool_response>" not in controls(ids, tokenizer)
    assert "why" not in tokenizer.decode(ids), "another user message: the thought is of the past"


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.content | replace('<image>', '') }}{% endfor %}",
        "{% for m in messages %}{{ m.content.replace('<image>', '').strip() }}{% endfor %}",
        "{% for m in messages %}{{ m.content.split('<image>') | join }}{% endfor %}",
        "{% for m in messages %}{{ m.content | tojson(ensure_ascii=true) }}{% endfor %}",
        "{% for m in messages %}{{ {m.content: m.content[::1]} }}{% endfor %}",
        "{% for m in messages %}{{ m.content | lower | upper | lower | trim }}{% endfor %}",
        "{% for m in messages %}{{ m.content | list | join }}{% endfor %}",
    ],
)
def test_no_template_can_launder_text(make_template, tokenizer: Tokenizer, source: str) -> None:
    template = make_template(source)
    for name in CONTROL:
        messages = [{"role": "user", "content": f"{name[:3]}<image>{name[3:]} {name}"}]
        ids = template.encode(messages, tokenizer=tokenizer)
        assert controls(ids, tokenizer) == []
        assert "\u28ff" not in tokenizer.decode(ids)
        assert "28ff" not in tokenizer.decode(ids)
        assert same_text(tokenizer, ids, template.render(messages))


BRAILLE = "".join(map(chr, range(0x2800, 0x2900)))
PRIVATE = "".join(map(chr, range(0xE000, 0xF900)))


@pytest.mark.parametrize("taken", ["\u28ff", BRAILLE[-4:], BRAILLE, BRAILLE + PRIVATE])
def test_stand_ins_are_never_characters_of_the_conversation(hybrid, tokenizer: Tokenizer, taken: str) -> None:
    half = len(taken) // 2
    messages = [{"role": "system", "content": taken[:half]}, {"role": "user", "content": taken[half:] + "<think>"}]
    ids = hybrid.encode(messages, tokenizer=tokenizer)
    assert tokenizer.decode(ids) == hybrid.render(messages)
    assert taken[half:] + "<think><|im_end|>" in tokenizer.decode(ids)
    assert tokenizer.control.think_open not in ids


def test_stand_ins_are_never_characters_of_the_template(make_template, tokenizer: Tokenizer) -> None:
    template = make_template("\u28ff{% for m in messages %}{{ m.content }}{% endfor %}")
    assert template.render([{"role": "user", "content": "<think>"}]) == "\u28ff<think>"


def test_control_tokens_that_begin_otherwise() -> None:
    controls = Controls(["<think>", "[INST]", "secret", " pad"])
    text = "<a [b] secret secre t [INST] pad x"
    marks = Marks(controls, [text])
    marked = marks.mark({"k<": [text, 1]})
    assert "<" not in str(marked)
    assert "[" not in marked[marks.mark("k<")][0]
    assert "secret" not in str(marked)
    assert " pad" not in str(marked)
    assert "secre t" in str(marked)
    assert marks.unmark(marked[marks.mark("k<")][0]) == text
    assert controls.could_begin("a secret") and not controls.could_begin("a secre t")


def test_a_tokenizer_with_other_control_tokens(make_template, copy_folder, tokenizer: Tokenizer) -> None:
    import json

    path = copy_folder / "tokenizer.json"
    value = json.loads(path.read_text())
    for i, name in enumerate(["[INST]", "magicword"]):
        value["added_tokens"].append({**value["added_tokens"][-1], "id": 151669 + i, "content": name})
    path.write_text(json.dumps(value))
    other = Tokenizer.from_folder(copy_folder)
    template = make_template("[INST]magicword{% for m in messages %}{{ m.content }}{% endfor %}")
    messages = [{"role": "user", "content": "a [INST] magicword magic word <think>"}]
    ids = template.encode(messages, tokenizer=other)
    assert controls(ids, other) == ["[INST]", "magicword"]
    assert other.decode(ids) == "[INST]magicworda [INST] magicword magic word <think>"
    assert controls(template.encode(messages, tokenizer=tokenizer), tokenizer) == []
