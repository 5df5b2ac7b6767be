"""Rendered prompts against the official templates, rendered plainly and by transformers itself."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_mlx.errors import CheckpointError, InvalidRequest, TemplateError
from qwen3_mlx.text.chat import ChatTemplate, ends_in_thinking
from qwen3_mlx.text.tokenizer import Tokenizer
from qwen3_mlx.types import Message, ToolCall

from .conftest import official
from .corpus import SNIPPETS, conversation
from .oracle import compile_plainly

USER = {"role": "user", "content": "How many r's?"}
PAST = [
    USER,
    {"role": "assistant", "content": "<think>\nI count.\n</think>\n\nThree."},
    {"role": "user", "content": "Really? /no_think"},
]


def test_four_thousand_conversations(hybrid: ChatTemplate) -> None:
    plain = compile_plainly(official("hybrid"))
    for seed in range(4000):
        messages, tools = conversation(seed)
        for thinking in (True, False) if seed % 4 == 0 else (seed % 4 == 1,):
            assert hybrid.render(messages, tools=tools, thinking=thinking) == plain(messages, tools, thinking), seed


def test_the_nonthinking_template(nonthinking: ChatTemplate, hybrid: ChatTemplate) -> None:
    plain = compile_plainly(official("nonthinking"))
    for seed in range(1000):
        messages, tools = conversation(seed)
        expected = plain(messages, tools, False)
        assert nonthinking.render(messages, tools=tools, thinking=False) == expected, seed
        assert hybrid.render(messages, tools=tools, thinking=False) == expected, seed


def test_as_transformers_renders(hybrid: ChatTemplate) -> None:
    utils = pytest.importorskip(
        "transformers.utils.chat_template_utils", reason="compares with transformers, which is not installed"
    )
    for seed in range(5000, 5500):
        messages, tools = conversation(seed)
        rendered, _ = utils.render_jinja_template(
            conversations=[messages],
            tools=tools,
            chat_template=official("hybrid"),
            add_generation_prompt=True,
            enable_thinking=seed % 2 == 0,
        )
        assert hybrid.render(messages, tools=tools, thinking=seed % 2 == 0) == rendered[0], seed


pieces = st.lists(st.sampled_from(SNIPPETS) | st.text(max_size=8), max_size=5).map("".join)
turns = st.one_of(
    st.builds(lambda text: {"role": "user", "content": text + "."}, pieces),
    st.builds(lambda text: {"role": "user", "content": f"<tool_response>{text}</tool_response>"}, pieces),
    st.builds(lambda text: {"role": "tool", "content": text}, pieces),
    st.builds(lambda text: {"role": "system", "content": text}, pieces),
    st.builds(lambda text: {"role": "assistant", "content": text}, pieces),
    st.builds(lambda text, why: {"role": "assistant", "content": text, "reasoning_content": why}, pieces, pieces),
)


@given(st.lists(turns, min_size=1, max_size=6), st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_conversation(hybrid: ChatTemplate, messages: list[dict], thinking: bool) -> None:
    plain = compile_plainly(official("hybrid"))
    assert hybrid.render(messages, thinking=thinking) == plain(messages, None, thinking)


def test_history_loses_its_thinking(hybrid: ChatTemplate) -> None:
    assert hybrid.render(PAST) == (
        "<|im_start|>user\nHow many r's?<|im_end|>\n<|im_start|>assistant\nThree.<|im_end|>\n"
        "<|im_start|>user\nReally? /no_think<|im_end|>\n<|im_start|>assistant\n"
    )
    assert hybrid.render(PAST, thinking=False).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_messages_and_dicts_render_alike(hybrid: ChatTemplate) -> None:
    call = ToolCall("call_1", "f", '{"a": 1}')
    typed = [
        Message("user", "hi"),
        Message("assistant", None, "why", [call]),
        Message("tool", "5", tool_call_id="call_1"),
    ]
    assert hybrid.render(typed) == hybrid.render([message.to_dict() for message in typed])
    assert '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>' in hybrid.render(typed)


def test_what_clients_send_renders_as_the_plain_form(hybrid: ChatTemplate) -> None:
    """Part lists, null and missing content, `developer`, `reasoning`, nulls of SDK objects."""
    sent = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
        {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": None},
        {
            "role": "assistant",
            "content": None,
            "reasoning": "hm",
            "refusal": None,
            "audio": None,
            "function_call": None,
            "tool_calls": [{"function": {"name": "f", "arguments": None}}],
        },
        {"role": "tool", "content": [{"type": "text", "text": "5"}], "tool_call_id": "1"},
        {"role": "assistant", "tool_calls": []},
    ]
    plain = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}],
        },
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": ""},
    ]
    assert hybrid.render(sent) == compile_plainly(official("hybrid"))(plain)


def test_rendering_changes_nothing_it_was_given(hybrid: ChatTemplate) -> None:
    for seed in range(200):
        before, after = conversation(seed), conversation(seed)
        hybrid.render(after[0], tools=after[1])
        assert before == after


def test_where_a_template_comes_from(make_template, tmp_path: Path) -> None:
    assert make_template("file", {"chat_template": "config"}).render([USER]) == "file"
    (tmp_path / "chat_template.jinja").unlink()
    assert ChatTemplate.from_folder(tmp_path).render([USER]) == "config"


def test_named_templates(make_template) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    template = make_template([{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}])
    assert template.render([USER]) == "plain"
    assert template.render([USER], tools=tools) == "tools"
    assert make_template([{"name": "default", "template": "plain"}]).render([USER], tools=tools) == "plain"
    with pytest.raises(TemplateError, match="'default' among rag"):
        make_template([{"name": "rag", "template": "x"}]).render([USER])


def test_additional_templates(make_template, tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    template = make_template("plain")
    assert template.render([USER], tools=[{"type": "function", "function": {"name": "f"}}]) == "tools"
    assert template.render([USER]) == "plain"


@pytest.mark.parametrize("value", [5, {"a": "b"}, [5], [{"name": "default"}]])
def test_a_template_that_is_none(tmp_path: Path, value: object) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: chat_template"):
        ChatTemplate.from_folder(tmp_path)


def test_no_template(tmp_path: Path) -> None:
    template = ChatTemplate.from_folder(tmp_path)
    with pytest.raises(TemplateError, match="no chat template"):
        template.render([USER])


def test_tokens_by_name(make_template) -> None:
    config = {"bos_token": None, "eos_token": {"content": "<|im_end|>"}, "pad_token": "<|endoftext|>"}
    assert make_template("[{{ bos_token }}|{{ eos_token }}|{{ pad_token }}]", config).render([USER]) == (
        "[|<|im_end|>|<|endoftext|>]"
    )


def test_arguments_become_mappings_where_a_template_walks_them(make_template) -> None:
    walking = make_template(
        "{% for m in messages %}{% for c in m.tool_calls %}{% for k, v in c.function.arguments|items %}"
        "{{ k }}={{ v }};{% endfor %}{% endfor %}{% endfor %}"
    )
    calls = [{"function": {"name": "f", "arguments": '{"a": 1, "b": "x"}'}}]
    assert walking.render([USER, {"role": "assistant", "tool_calls": calls}]) == "a=1;b=x;"
    for broken in ("[1]", "nonsense", '"text"'):
        calls = [{"function": {"name": "f", "arguments": broken}}]
        with pytest.raises(InvalidRequest) as caught:
            walking.render([USER, {"role": "assistant", "tool_calls": calls}])
        assert caught.value.param == "messages[1].tool_calls[0].function.arguments"


def test_hybrid_or_not(hybrid: ChatTemplate, nonthinking: ChatTemplate) -> None:
    assert hybrid.hybrid
    assert not nonthinking.hybrid


def test_prompts_that_end_in_thinking(hybrid: ChatTemplate, make_template, tokenizer: Tokenizer) -> None:
    forced = make_template(official("hybrid").replace("assistant\\n' }}", "assistant\\n<think>\\n' }}"))
    hostile = [{"role": "system", "content": "<think>"}, {"role": "user", "content": "open <think> please <think>"}]
    for messages in (PAST, hostile):
        assert not ends_in_thinking(hybrid.encode(messages, tokenizer=tokenizer), tokenizer)
        assert not ends_in_thinking(hybrid.encode(messages, thinking=False, tokenizer=tokenizer), tokenizer)
        assert ends_in_thinking(forced.encode(messages, tokenizer=tokenizer), tokenizer)
    assert not ends_in_thinking([], tokenizer)


def test_threads_do_not_disturb_each_other(hybrid: ChatTemplate) -> None:
    cases = [conversation(seed) for seed in range(60)]
    expected = [hybrid.render(messages, tools=tools) for messages, tools in cases]
    wrong: list[int] = []

    def work() -> None:
        for i, (messages, tools) in enumerate(cases):
            if hybrid.render(messages, tools=tools) != expected[i]:
                wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
