"""LangChain's client, as people use it; run by test_langchain.py in LangChain's environment."""

import json
import sys
from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

asked = json.loads(sys.argv[1])
llm = ChatOpenAI(model="demo", base_url=asked["url"] + "/v1", api_key="EMPTY", temperature=0, max_retries=0)
told = {}


@tool
def get_current_time(timezone: str) -> str:
    """Get current time in a specific timezone"""
    return json.dumps(
        {"timezone": timezone, "datetime": datetime.now(ZoneInfo(timezone)).isoformat(timespec="seconds")}
    )


class Count(BaseModel):
    """How often a letter is in a word."""

    letter: Literal["b", "e", "r"]
    count: int = Field(ge=0, le=9)


def added(chunks):
    whole = None
    for chunk in chunks:
        whole = chunk if whole is None else whole + chunk
    return whole


def conversation(ask) -> list[BaseMessage]:
    """Question, calls, results, answer."""
    messages = [HumanMessage("What time is it in Tokyo?")]
    messages.append(ask(messages))
    messages += [get_current_time.invoke(call) for call in messages[-1].tool_calls]
    return [*messages, ask(messages)]


answer = llm.invoke(asked["question"])
told["invoke"] = {"content": answer.content, "usage": answer.usage_metadata, **answer.response_metadata}

chunks = list(llm.stream(asked["question"], stream_usage=True))
whole = added(chunks)
told["stream"] = {"chunks": len(chunks), "content": whole.content, "usage": whole.usage_metadata}
told["batch"] = [message.content for message in llm.batch([asked["question"]] * 4)]

bound = llm.bind_tools([get_current_time])
told["tools"] = {
    "invoke": [message.model_dump(mode="json") for message in conversation(bound.invoke)],
    "stream": [
        message.model_dump(mode="json") for message in conversation(lambda messages: added(bound.stream(messages)))
    ],
}
told["structured"] = {
    method: llm.with_structured_output(Count, method=method).invoke(asked["question"]).model_dump()
    for method in ("json_schema", "function_calling")
}
print(json.dumps(told))
