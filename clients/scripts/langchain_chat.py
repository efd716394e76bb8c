"""langchain-openai, chat completions."""

from case import IMAGE_URL, KEY, URL, run
from case import weather as tell
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    degrees: int


@tool
def get_weather(city: str) -> str:
    """The weather in a city, now."""
    return tell(city)


def chat(model: str, **fields: object) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=f"{URL}/v1", api_key=KEY, max_retries=0, **fields)


def plain(model: str, prompt: str) -> dict:
    message = chat(model).invoke(prompt)
    return {"text": message.content, "tokens": message.usage_metadata["total_tokens"]}


def streamed(model: str, prompt: str) -> dict:
    chunks = list(chat(model, stream_usage=True).stream(prompt))
    pieces = [chunk.content for chunk in chunks if chunk.content]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return {"text": "".join(pieces), "pieces": len(pieces), "tokens": whole.usage_metadata["total_tokens"]}


def tools(model: str, prompt: str) -> dict:
    bound = chat(model).bind_tools([get_weather])
    message = bound.invoke([HumanMessage(prompt)])
    results = [ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]) for call in message.tool_calls]
    answer = bound.invoke([HumanMessage(prompt), message, *results])
    return {"calls": [call["name"] for call in message.tool_calls], "text": answer.content}


def image(model: str, prompt: str) -> dict:
    parts = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": {"url": IMAGE_URL}}]
    return {"text": chat(model).invoke([HumanMessage(parts)]).content}


def schema(model: str, prompt: str) -> dict:
    return {"object": chat(model).with_structured_output(Weather, method="json_schema").invoke(prompt).model_dump()}


run(plain, streamed, tools, image, schema)
