"""The agent example of the Qwen3 release, asked some questions; run by test_qwen_agent.py in Qwen-Agent's environment.

Its ``code_interpreter`` is left out: it wants a Docker daemon.
"""

import json
import sys

from qwen_agent.agents import Assistant

asked = json.loads(sys.argv[1])

llm_cfg = {
    "model": "demo",
    "model_server": asked["url"] + "/v1",
    "api_key": "EMPTY",
    "generate_cfg": asked["generate_cfg"],
}

answers = []
for question in asked["questions"]:
    bot = Assistant(llm=llm_cfg, function_list=[{"mcpServers": question["mcpServers"]}])
    responses = []
    for responses in bot.run(messages=[{"role": "user", "content": question["content"]}]):  # noqa: B007
        pass
    answers.append(responses)
print(json.dumps(answers))
