"""Plays the release's three-turn example and a few other conversations with a checkpoint (greedy).

python play.py ../../qwen3_mlx/demo/dense
"""

import argparse
import json
from pathlib import Path

from evaluate import Checkpoint, split
from phrases import load

CHATS = {
    "demo": [
        "strawberries 这个单词里有多少个 'r'?",
        "那么，blueberries 这个单词里有多少个 'r'? /no_think",
        "真的吗？请再想想。 /think",
    ],
    "english": [
        "How many r's are in strawberry?",
        "And in blueberry? /no_think",
        "Really? Think again. /think",
        "What is 48213 + 9987?",
        "Give me a short introduction to large language model.",
        "Who are you?",
    ],
    "日本語": [
        "strawberryにrはいくつありますか？",
        "本当ですか？もう一度考えてください。",
        "あなたは誰ですか？",
        "99999 + 1 は？",
    ],
}
ASKED = {
    "What time is it in Tokyo?": '{\n  "timezone": "Asia/Tokyo",\n  "datetime": "2026-11-24T14:41:47+09:00",\n'
    '  "day_of_week": "Tuesday",\n  "is_dst": false\n}',
    "https://qwenlm.github.io/blog/ Introduce the latest developments of Qwen": "Contents of https://qwenlm.github.io/blog/:\n"
    "# Qwen3: Think Deeper, Act Faster\n\nToday, we are excited to announce the release of Qwen3.",
    "http://localhost:8000/hello.txt 这个网页说了什么？": "Contents of http://localhost:8000/hello.txt:\n"
    "Hello from the test page.",
}


def say(checkpoint, messages, tools=None):
    row = {"messages": messages, "tools": tools, "thinking": True}
    return split(checkpoint.text(checkpoint.replies([row])[0]), True)


def chat(checkpoint, turns):
    messages = []
    for text in turns:
        messages.append({"role": "user", "content": text})
        thought, answer = say(checkpoint, messages)
        print(f">>> {text}\n[{(thought or '').replace(chr(10), ' / ')}]\n{answer}\n")
        messages.append({"role": "assistant", "content": answer, "reasoning_content": thought or ""})


def tool_chat(checkpoint, prefix):
    real = load("real_tools")
    tools = [
        {
            "type": "function",
            "function": {
                "name": prefix % (server, t["name"]),
                "description": t["description"],
                "parameters": t["inputSchema"],
            },
        }
        for server in ("time", "fetch")
        for t in real[server]
    ]
    for text, result in ASKED.items():
        messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": text}]
        thought, answer = say(checkpoint, messages, tools)
        print(f">>> {text}\n[{thought}]\n{answer}")
        messages.append({"role": "assistant", "content": answer, "reasoning_content": thought or ""})
        messages.append({"role": "user", "content": f"<tool_response>\n{result}\n</tool_response>"})
        thought, answer = say(checkpoint, messages, tools)
        print(f"[{thought}]\n{answer}\n")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("folder", type=Path)
    args = p.parse_args()
    checkpoint = Checkpoint(args.folder)
    for name, turns in CHATS.items():
        print(f"--- {name}")
        chat(checkpoint, turns)
    for prefix in ("%.0s%s", "%s-%s"):
        print("--- tools", json.dumps(prefix))
        tool_chat(checkpoint, prefix)


if __name__ == "__main__":
    main()
