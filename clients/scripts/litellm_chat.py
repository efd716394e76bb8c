"""litellm as a client, chat completions."""

import json

import litellm
from case import IMAGE_URL, KEY, TOOL, URL, run, weather
from pydantic import BaseModel

TOOLS = [{"type": "function", "function": TOOL}]


class Weather(BaseModel):
    city: str
    degrees: int


def complete(model: str, content: object, **fields: object):
    messages = [{"role": "user", "content": content}]
    given = {
        "model": f"openai/{model}",
        "messages": messages,
        "api_base": f"{URL}/v1",
        "api_key": KEY,
        "num_retries": 0,
    }
    return litellm.completion(**{**given, "max_retries": 0, **fields})


def plain(model: str, prompt: str) -> dict:
    answer = complete(model, prompt)
    return {"text": answer.choices[0].message.content, "tokens": answer.usage.total_tokens}


def streamed(model: str, prompt: str) -> dict:
    chunks = list(complete(model, prompt, stream=True, stream_options={"include_usage": True}))
    pieces = [text for chunk in chunks if chunk.choices and (text := chunk.choices[0].delta.content)]
    tokens = [chunk.usage.total_tokens for chunk in chunks if getattr(chunk, "usage", None)]
    return {"text": "".join(pieces), "pieces": len(pieces), "tokens": tokens[-1]}


def tools(model: str, prompt: str) -> dict:
    message = complete(model, prompt, tools=TOOLS).choices[0].message
    messages: list = [{"role": "user", "content": prompt}, message.model_dump(exclude_none=True)]
    for call in message.tool_calls:
        result = weather(json.loads(call.function.arguments)["city"])
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    answer = complete(model, prompt, messages=messages, tools=TOOLS)
    return {
        "calls": [call.function.name for call in message.tool_calls],
        "text": answer.choices[0].message.content,
    }


def image(model: str, prompt: str) -> dict:
    parts = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": {"url": IMAGE_URL}}]
    return {"text": complete(model, parts).choices[0].message.content}


def schema(model: str, prompt: str) -> dict:
    return {"json": complete(model, prompt, response_format=Weather).choices[0].message.content}


run(plain, streamed, tools, image, schema)
