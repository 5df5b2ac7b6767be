"""Tool calls in both formats: every edge case in one piece, character by character, and cut in two everywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwen3_mlx.control.parser import OutputParser
from qwen3_mlx.control.tools import new_call_id
from qwen3_mlx.types import ToolCallDelta

from .toys import WEATHER, parse, request

Pieces = list[tuple[str, str]]


def text(content: str) -> Pieces:
    return [("text", content)]


def call(name: str, arguments: str) -> Pieces:
    return [("call", name), ("args", arguments)]


def block(payload: str) -> str:
    return f"<tool_call>\n{payload}\n</tool_call>"


F = '{"name": "f", "arguments": {"a": 1}}'
CALL_F = call("f", '{"a": 1}')

# name: output, what comes of it, and the number of calls that count.
JSON_CASES: dict[str, tuple[str, Pieces, int]] = {
    "newlines": (block(F), CALL_F, 1),
    "no newlines": (f"<tool_call>{F}</tool_call>", CALL_F, 1),
    "text around": (f"Let me see.\n\n{block(F)}\n\nDone.", [*text("Let me see."), *CALL_F, *text("\n\nDone.")], 1),
    "whitespace around": (f"\n\n{block(F)}\n", CALL_F, 1),
    "trailing whitespace without a call": ("so\n\n", text("so\n\n"), 0),
    "parallel": (block(F) + "\n" + block('{"name": "g", "arguments": {}}'), CALL_F + call("g", "{}"), 2),
    "text between": (block(F) + "and" + block(F), [*CALL_F, *text("and"), *CALL_F], 2),
    "two in a block": (block(F + "\n" + F), CALL_F + CALL_F, 2),
    "empty arguments": (block('{"name": "f", "arguments": {}}'), call("f", "{}"), 1),
    "no arguments": (block('{"name": "f"}'), call("f", "{}"), 1),
    "null arguments": (block('{"name": "f", "arguments": null}'), call("f", "{}"), 1),
    "arguments first": (block('{"arguments": {"a": 1}, "name": "f"}'), CALL_F, 1),
    "other keys": (
        block('{"id": 7, "x": [{"name": "}"}], "y": "z\\"", "name": "f", "w": -1.5, "arguments": {"a": 1}, "v": 0}'),
        CALL_F,
        1,
    ),
    "keys again": (block('{"name": "f", "name": "g", "arguments": {"a": 1}, "arguments": {"b": 2}}'), CALL_F, 1),
    "string arguments": (block('{"name": "f", "arguments": "{\\"a\\": 1}"}'), CALL_F, 1),
    "string arguments first": (block('{"arguments": "{\\"a\\": 1}", "name": "f"}'), CALL_F, 1),
    "string arguments, nested escapes": (
        block(json.dumps({"name": "f", "arguments": json.dumps({"a": 'q"\\\n\u00e9😀'})})),
        call("f", json.dumps({"a": 'q"\\\n\u00e9😀'})),
        1,
    ),
    "string arguments, surrogates": (
        block('{"name": "f", "arguments": "{\\"a\\": \\"\\ud83d\\ude00 \\ud83d \\ude00\\ud83dx\\"}"}'),
        call("f", '{"a": "😀 \ufffd \ufffd\ufffdx"}'),
        1,
    ),
    "empty string arguments": (block('{"name": "f", "arguments": " "}'), call("f", "{}"), 1),
    "string arguments, unfinished": (block('{"name": "f", "arguments": "{\\"a\\": "}'), call("f", '{"a": '), 0),
    "layout kept": (
        block('{"name": "f", "arguments":\n  {\n    "a" :[ 1, {"b": {}} ]\n  }\n}'),
        call("f", '{\n    "a" :[ 1, {"b": {}} ]\n  }'),
        1,
    ),
    "markers in strings": (
        block('{"name": "f", "arguments": {"a": "</tool_call> <tool_call>{ }}] <think> \\" \\\\"}}'),
        call("f", '{"a": "</tool_call> <tool_call>{ }}] <think> \\" \\\\"}'),
        1,
    ),
    "unicode": (
        block('{"name": "查询", "arguments": {"城市": "京都🏯\\u00e9"}}'),
        call("查询", '{"城市": "京都🏯\\u00e9"}'),
        1,
    ),
    "name in escapes": (block('{"na\\u006de": "\\u0066", "arguments": {"a": 1}}'), CALL_F, 1),
    "raw control characters": (
        block('{"name": "f", "arguments": {"a": "x\n\ty"}}'),
        call("f", '{"a": "x\\n\\ty"}'),
        1,
    ),
    "wrong escapes": (
        block(r'{"name": "f", "arguments": {"a": "\d+ \u12 \u12fx \ud8 it\'s C:\\x \é"}}'),
        call("f", r'{"a": "\\d+ \\u12 \\u12fx \\ud8 it' + r"'s C:\\x \\é" + '"}'),
        1,
    ),
    "brace too many": (block(F + "}"), CALL_F, 1),
    "outer brace missing": (block('{"name": "f", "arguments": {"a": 1}'), CALL_F, 1),
    "all braces missing": (block('{"name": "f", "arguments": {"a": [1'), call("f", '{"a": [1\n]}'), 1),
    "no closing tag": (f"<tool_call>\n{F}\n", CALL_F, 1),
    "no closing tag, text": (f"<tool_call>\n{F}\nDone.", [*CALL_F, *text("Done.")], 1),
    "no closing tag, another": (f"<tool_call>\n{F}\n{block(F)}", CALL_F + CALL_F, 2),
    "closing tag begun": (f"<tool_call>{F}\n</tool_c", CALL_F, 1),
    "cut behind the arguments": ('<tool_call>{"name": "f", "arguments": {"a": 1}', CALL_F, 1),
    "cut behind the name": ('so <tool_call>{"arguments": {"a": 1}, "name": "f"', [*text("so"), *CALL_F], 1),
    "cut in the arguments": (
        'so <tool_call>{"name": "f", "arguments": {"a": 1',
        [*text("so"), *call("f", '{"a": 1')],
        0,
    ),
    "cut before the arguments": ('so <tool_call>{"name": "f", ', text("so"), 0),
    "cut in the name": ('so\n<tool_call>\n{"name": "f', text("so"), 0),
    "cut behind the tag": ("so\n<tool_call>\n", text("so"), 0),
    "cut in the tag": ("so\n<tool_cal", text("so\n<tool_cal"), 0),
    "array": ("so " + block("[1,2]"), text("so " + block("[1,2]")), 0),
    "array of null": (block("[null]"), text(block("[null]")), 0),
    "null": (block("null"), text(block("null")), 0),
    "string": (block('"f"'), text(block('"f"')), 0),
    "empty object": (block("{}"), text(block("{}")), 0),
    "no name": (block('{"arguments": {"a": 1}}'), text(block('{"arguments": {"a": 1}}')), 0),
    "null name": (block('{"name": null, "arguments": {}}'), text(block('{"name": null, "arguments": {}}')), 0),
    "empty name": (block('{"name": "", "arguments": {}}'), text(block('{"name": "", "arguments": {}}')), 0),
    "array arguments": (
        "so\n" + block('{"name": "f", "arguments": [1]}'),
        text("so\n" + block('{"name": "f", "arguments": [1]}')),
        0,
    ),
    "number arguments": (block('{"name": "f", "arguments": 5}'), text(block('{"name": "f", "arguments": 5}')), 0),
    "prose arguments": (
        block('{"name": "f", "arguments": "Paris"}'),
        text(block('{"name": "f", "arguments": "Paris"}')),
        0,
    ),
    "not JSON": (block("{name: f}"), text(block("{name: f}")), 0),
    "a call behind nonsense": (block("{") + block(F), [*text(block("{")), *CALL_F], 1),
    "invalid arguments": (block('{"name": "f", "arguments": {"a": }}') + block(F), [*call("f", '{"a": }'), *CALL_F], 1),
    "junk behind arguments": (
        block('{"name": "f", "arguments": {"a": 1} "x"]} <tool') + block(F),
        CALL_F + CALL_F,
        2,
    ),
    "junk without an end": ('<tool_call>{"name": "f", "arguments": {"a": 1} ] junk', CALL_F, 1),
    "junk, then another": ('<tool_call>{"name": "f", "arguments": {"a": 1} ] <b> <tool_call>' + F, CALL_F + CALL_F, 2),
    "mention": ("The <tool_call> tag and <tool_call>s", text("The <tool_call> tag and <tool_call>s"), 0),
    "mention, then a call": ("A <tool_call>: " + block(F), [*text("A <tool_call>:"), *CALL_F], 1),
    "closing tag alone": ("a </tool_call> b", text("a </tool_call> b"), 0),
    "answer about tags": ("<<tool_call <tool_calls> <tool_call", text("<<tool_call <tool_calls> <tool_call"), 0),
    "function not offered": (block('{"name": "nowhere", "arguments": {}}'), call("nowhere", "{}"), 1),
}


def merged(pieces: Pieces, calls: int) -> Pieces:
    return [p for p in pieces if p[1]] + [("calls", str(calls))]


def check(output: str, want: Pieces, **options: Any) -> None:
    options.setdefault("tools", [WEATHER])
    assert parse(request(**options), [output]) == want
    assert parse(request(**options), list(output)) == want
    for cut in range(1, len(output)):
        assert parse(request(**options), [output[:cut], output[cut:]]) == want, cut


@pytest.mark.parametrize("case", JSON_CASES)
def test_json(case: str) -> None:
    output, pieces, calls = JSON_CASES[case]
    check(output, merged(pieces, calls))


@pytest.mark.parametrize("case", JSON_CASES)
def test_without_tools_markup_passes_untouched(case: str) -> None:
    output = JSON_CASES[case][0]
    check(output, [("text", output), ("calls", "0")], tools=[])


def deep_schema(depth: int) -> dict[str, Any]:
    return {"anyOf": [deep_schema(depth - 1)]} if depth else {"type": "string"}


CODER = {
    "type": "function",
    "function": {
        "name": "edit",
        "parameters": {
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "line": {"type": "integer"},
                "ratio": {"type": "number"},
                "force": {"type": "boolean"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "options": {"type": "object"},
                "note": {"type": ["string", "null"]},
                "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
                "mixed": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
                "nullable": {"type": "string", "nullable": True},
                "mode": {"enum": ["fast", 2, None]},
                "unit": {"$ref": "#/$defs/Unit"},
                "place": {"allOf": [{"$ref": "#/$defs/Place"}]},
                "fixed": {"const": 3},
                "loop": {"$ref": "#/$defs/Loop"},
                "lost": {"$ref": "#/$defs/Nowhere"},
                "tree": {"$ref": "#/$defs/Tree"},
                "deep": deep_schema(200),
                "both": {"allOf": [{"type": ["string", "integer"]}, {"type": ["integer", "boolean"]}, {}]},
                "any": {},
            },
            "$defs": {
                "Unit": {"type": "string", "enum": ["C", "F"]},
                "Place": {"type": "object", "properties": {}},
                "Loop": {"$ref": "#/$defs/Loop"},
                "Tree": {"oneOf": [{"type": "integer"}, *[{"$ref": "#/$defs/Tree"}] * 8, {"$ref": "#/$defs/Loop"}]},
            },
        },
    },
}

VALUES = [
    ("path", "a/b.py", "a/b.py"),
    ("path", "5", "5"),
    ("path", "null", "null"),
    ("path", '{"a": 1}', '{"a": 1}'),
    ("path", "", ""),
    ("path", "  two  spaces  ", "  two  spaces  "),
    ("path", 'l1\nl2\n\n\tl3\\n "q" \x07 é', 'l1\nl2\n\n\tl3\\n "q" \x07 é'),
    ("path", "\n\nx\n\n", "\n\nx\n\n"),
    (
        "path",
        "if a < b </b> <parameter <param=1> </function </paramete",
        "if a < b </b> <parameter <param=1> </function </paramete",
    ),
    (
        "path",
        "x <parameter=y> z </function> </tool_call> <tool_call>{",
        "x <parameter=y> z </function> </tool_call> <tool_call>{",
    ),
    ("line", "5", 5),
    ("line", " -12 ", -12),
    ("line", "007", 7),
    ("line", "+3", 3),
    ("line", "2.0", 2),
    ("line", "2.5", "2.5"),
    ("line", "five", "five"),
    ("line", "1" * 5000, int("1" * 4000) * 10**1000 + int("1" * 1000)),
    ("ratio", "0.5", 0.5),
    ("ratio", "-1e-3", -1e-3),
    ("ratio", "3", 3),
    ("ratio", "2.0", 2.0),
    ("ratio", "NaN", "NaN"),
    ("ratio", "-", "-"),
    ("force", "true", True),
    ("force", "False", False),
    ("force", "yes", "yes"),
    ("tags", '["a", "b"]', ["a", "b"]),
    ("tags", '[\n  "a"\n]', ["a"]),
    ("tags", "a, b", "a, b"),
    ("tags", '{"a": 1}', '{"a": 1}'),
    ("options", '{"a": {"b": [null]}}', {"a": {"b": [None]}}),
    ("options", '{"a": ', '{"a": '),
    ("note", "null", None),
    ("note", "None", None),
    ("note", "none", "none"),
    ("note", "hello\n", "hello\n"),
    ("line", "None", None),
    ("limit", "10", 10),
    ("limit", "None", None),
    ("mixed", "10", 10),
    ("mixed", "ten", "ten"),
    ("nullable", "null", None),
    ("mode", "fast", "fast"),
    ("mode", "2", 2),
    ("mode", "null", None),
    ("unit", "5", "5"),
    ("place", '{"x": 1}', {"x": 1}),
    ("fixed", "3", 3),
    ("loop", "3", 3),
    ("lost", "[3]", [3]),
    ("tree", "3", 3),
    ("tree", "[3]", "[3]"),
    ("deep", "3", 3),
    ("both", "3", 3),
    ("both", "true", "true"),
    ("any", "true", True),
    ("any", "3.5", 3.5),
    ("any", "text", "text"),
    ("unknown", "5", "5"),
]


def loads(arguments: str) -> Any:
    return json.loads(
        arguments, parse_int=lambda s: int(s) if len(s) < 4000 else int(s[:4000]) * 10**1000 + int(s[4000:])
    )


def arguments_of(pieces: Pieces) -> Any:
    return loads(next(value for kind, value in pieces if kind == "args"))


@pytest.mark.parametrize(("key", "value", "want"), VALUES, ids=[f"{k}-{v[:12]!r}" for k, v, _ in VALUES])
def test_coder_values(key: str, value: str, want: Any) -> None:
    output = block(f"<function=edit>\n<parameter={key}>\n{value}\n</parameter>\n</function>")
    for pieces in ([output], list(output), [output[:60], output[60:]]):
        out = parse(request(tools=[CODER]), pieces)
        assert out[0] == ("call", "edit")
        assert out[-1] == ("calls", "1")
        got = arguments_of(out)
        assert got == {key: want} and type(got[key]) is type(want)


def function(body: str, name: str = "edit") -> str:
    return f"<function={name}>\n{body}\n</function>"


LINE = "<parameter=line>\n5\n</parameter>"
PATH = "<parameter=path>\na\n</parameter>"
EDIT = call("edit", '{"path": "a", "line": 5}')

XML_CASES: dict[str, tuple[str, Pieces, int]] = {
    "plain": (block(function(PATH + "\n" + LINE)), EDIT, 1),
    "text around": (
        "See:\n" + block(function(PATH + "\n" + LINE)) + "\nDone",
        [*text("See:"), *EDIT, *text("\nDone")],
        1,
    ),
    "no newlines": (
        "<tool_call><function=edit><parameter=path>a</parameter><parameter=line>5</parameter></function></tool_call>",
        EDIT,
        1,
    ),
    "no parameters": (block("<function=edit>\n</function>"), call("edit", "{}"), 1),
    "no parameters at all": (block("<function=edit></function>"), call("edit", "{}"), 1),
    "junk between": (block(function(f"first {PATH} < then </x> {LINE} last")), EDIT, 1),
    "parallel": (block(function(LINE)) + "\n" + block(function(LINE)), call("edit", '{"line": 5}') * 2, 2),
    "two in a block": (block(function(LINE) + "\n" + function(LINE)), call("edit", '{"line": 5}') * 2, 2),
    "close missing, next": (block(function("<parameter=path>\na\n" + LINE)), EDIT, 1),
    "close missing, next in the line": (block("<function=edit><parameter=path>a" + LINE + "</function>"), EDIT, 1),
    "close missing, last": (block(function(PATH + "\n<parameter=line>\n5")), EDIT, 1),
    "close missing, indented": (
        block(function("<parameter=path>\na\n  " + LINE)),
        call("edit", '{"path": "a\\n  ", "line": 5}'),
        1,
    ),
    "close missing, typed": (
        block(function("<parameter=line>\n5\n" + PATH)),
        call("edit", '{"line": 5, "path": "a"}'),
        1,
    ),
    "close missing, empty": (block(function("<parameter=path>\n" + LINE)), call("edit", '{"path": "", "line": 5}'), 1),
    "function not closed": (block("<function=edit>\n" + PATH + "\n" + LINE), EDIT, 1),
    "nothing closed": (block("<function=edit>\n" + PATH + "\n<parameter=line>\n5"), EDIT, 1),
    "no closing tag": ("<tool_call>\n" + function(PATH + LINE), EDIT, 1),
    "cut behind a parameter": (
        "a <tool_call>\n<function=edit>\n" + LINE + "\n",
        [*text("a"), *call("edit", '{"line": 5')],
        0,
    ),
    "cut in a value": ("<tool_call>\n<function=edit>\n<parameter=path>\nab\n</par", call("edit", '{"path": "ab'), 0),
    "cut in a typed value": ("<tool_call>\n<function=edit>\n<parameter=line>\n5", call("edit", '{"line": '), 0),
    "cut in the name": ("a <tool_call>\n<function=ed", text("a"), 0),
    "cut in the tag": ("a <tool_call>\n<func", text("a"), 0),
    "empty name": (block("<function=>"), text(block("<function=>")), 0),
    "name over lines": (block("<function=a\nb>"), text(block("<function=a\nb>")), 0),
    "tag in the name": (block("<function=<b>"), text(block("<function=<b>")), 0),
    "no function": (block("<parameter=a>"), text(block("<parameter=a>")), 0),
    "function not offered": (
        block(function("<parameter=line>\n5\n</parameter>", "nowhere")),
        call("nowhere", '{"line": "5"}'),
        1,
    ),
    "names with spaces": (
        block('<function= edit >\n<parameter= a"b >\nx\n</parameter>\n</function>'),
        call("edit", '{"a\\"b": "x"}'),
        1,
    ),
    "both formats": (block(function(LINE)) + block(F), [*call("edit", '{"line": 5}'), *CALL_F], 2),
}


@pytest.mark.parametrize("case", XML_CASES)
def test_coder(case: str) -> None:
    output, pieces, calls = XML_CASES[case]
    check(output, merged(pieces, calls), tools=[CODER])


def test_arguments_stream_as_they_arrive() -> None:
    def deltas(output: list[str]) -> list[ToolCallDelta]:
        parser = OutputParser(request(tools=[CODER]), lambda: "call_x")
        return [d for piece in output for d in parser.feed(piece) if isinstance(d, ToolCallDelta)]

    announced = ToolCallDelta(0, "call_x", "edit")
    pieces = ['<tool_call>{"name": "edit", "arguments": {', '"path": "a', "bc", " d", '"}}']
    assert deltas(pieces) == [
        announced,
        *(ToolCallDelta(0, arguments=a) for a in ("{", '"path": "a', "bc", " d", '"}')),
    ]
    pieces = ["<tool_call><function=edit>", "<parameter=path>\na", "bc", " d", "\n</parameter>"]
    wanted = ['{"path": "a', "bc", " d", '"']
    assert deltas(pieces) == [announced, *(ToolCallDelta(0, arguments=a) for a in wanted)]


def test_calls_are_numbered_and_have_distinct_ids() -> None:
    parser = OutputParser(request(tools=[WEATHER]))
    output = parser.feed(block("[1]") + block(F) + block("{}") + block(F) + block(F))
    first = [d for d in output if isinstance(d, ToolCallDelta) and d.id]
    assert [d.index for d in first] == [0, 1, 2]
    assert len({d.id for d in first}) == 3


def test_ids_look_like_openais() -> None:
    prefix, digits = new_call_id().split("_")
    assert prefix == "call" and len(digits) == 24 and int(digits, 16) >= 0


@pytest.mark.parametrize(
    "tools", [[{"name": "f"}], [{"type": "function"}], [{"function": None}], [{"type": "web_search"}]]
)
def test_any_tools_turn_the_parser_on(tools: list[Any]) -> None:
    check(block(F), merged(CALL_F, 1), tools=tools)
