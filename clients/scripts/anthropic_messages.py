"""anthropic for Python, its own Messages API."""

import anthropic
from case import IMAGE, KEY, SCHEMA, TOOL, URL, run, weather

client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
TOOLS = [{"name": TOOL["name"], "description": TOOL["description"], "input_schema": TOOL["parameters"]}]


def asked(prompt: object) -> list:
    return [{"role": "user", "content": prompt}]


def text_of(message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def plain(model: str, prompt: str) -> dict:
    message = client.messages.create(model=model, max_tokens=500, messages=asked(prompt))
    return {"text": text_of(message), "tokens": message.usage.input_tokens + message.usage.output_tokens}


def streamed(model: str, prompt: str) -> dict:
    with client.messages.stream(model=model, max_tokens=500, messages=asked(prompt)) as stream:
        pieces = list(stream.text_stream)
        usage = stream.get_final_message().usage
    tokens = usage.input_tokens + usage.output_tokens
    return {"text": "".join(pieces), "pieces": len(pieces), "tokens": tokens}


def tools(model: str, prompt: str) -> dict:
    messages = asked(prompt)
    with client.messages.stream(model=model, max_tokens=500, messages=messages, tools=TOOLS) as stream:
        message = stream.get_final_message()
    calls = [block for block in message.content if block.type == "tool_use"]
    assert message.stop_reason == "tool_use"
    results = [
        {"type": "tool_result", "tool_use_id": call.id, "content": weather(call.input["city"])} for call in calls
    ]
    messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
    answer = client.messages.create(model=model, max_tokens=500, messages=messages, tools=TOOLS)
    return {"calls": [call.name for call in calls], "text": text_of(answer)}


def image(model: str, prompt: str) -> dict:
    source = {"type": "base64", "media_type": "image/png", "data": IMAGE}
    content = [{"type": "image", "source": source}, {"type": "text", "text": prompt}]
    return {"text": text_of(client.messages.create(model=model, max_tokens=500, messages=asked(content)))}


def schema(model: str, prompt: str) -> dict:
    wanted = {"format": {"type": "json_schema", "schema": SCHEMA}}
    message = client.messages.create(model=model, max_tokens=500, messages=asked(prompt), output_config=wanted)
    return {"json": text_of(message)}


run(plain, streamed, tools, image, schema)
