from __future__ import annotations

from qwen3_mlx.types import SamplingParams

from .conftest import CommandLine, Script
from .scripted import Turn


def test_the_release_example_in_three_turns(script: Script, command_line: CommandLine) -> None:
    model = script(Turn("三个。", thinking="s-t-r..."), Turn("一个。"), Turn("两个。", thinking="b-l-u..."))
    ran = command_line("demo")
    assert ran.status == 0
    assert ran.out.split("\n")[:-2] == [
        "> strawberries 这个单词里有多少个 'r'?",
        "s-t-r...",
        "",
        "三个。",
        "",
        "> 那么，blueberries 这个单词里有多少个 'r'? /no_think",
        "一个。",
        "",
        "> 真的吗？请再想想。 /think",
        "b-l-u...",
        "",
        "两个。",
        "",
    ]
    assert "qwen3-mlx chat --model qwen3:0.6b" in ran.out.splitlines()[-1]
    assert [len(asked["messages"]) for asked in model.asked] == [1, 3, 5]
    assert model.asked[2]["messages"][1]["reasoning_content"] == "s-t-r..."
    assert all(asked["thinking"] for asked in model.asked)
    assert [asked["params"].seed for asked in model.asked] == [0, 0, 0]
    assert model.opened[0].model == "demo" and model.closed


def test_another_model_may_play_it(script: Script, command_line: CommandLine) -> None:
    model = script(Turn("a"), Turn("b"), Turn("c"))
    ran = command_line("demo", "--model", "demo-moe", "--seed", "3", "--max-tokens", "50")
    assert ran.out.splitlines()[-1].startswith("That was demo-moe.")
    assert model.opened[0].model == "demo-moe"
    assert {asked["params"] for asked in model.asked} == {SamplingParams(seed=3, max_tokens=50)}
