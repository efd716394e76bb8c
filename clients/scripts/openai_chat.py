"""openai for Python, chat completions."""

from case import IMAGE_URL, KEY, TOOL, URL, run, weather
from openai import OpenAI, pydantic_function_tool
from pydantic import BaseModel

client = OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)


class Weather(BaseModel):
    city: str
    degrees: int


class GetWeather(BaseModel):
    city: str


def plain(model: str, prompt: str) -> dict:
    completion = client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}])
    assert completion.usage is not None
    return {"text": completion.choices[0].message.content, "tokens": completion.usage.total_tokens}


def streamed(model: str, prompt: str) -> dict:
    options = {"include_usage": True}
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], stream=True, stream_options=options
    )
    chunks = list(stream)
    assert chunks[-1].usage is not None and not chunks[-1].choices
    pieces = [text for chunk in chunks if chunk.choices and (text := chunk.choices[0].delta.content)]
    return {"text": "".join(pieces), "pieces": len(pieces), "tokens": chunks[-1].usage.total_tokens}


def tools(model: str, prompt: str) -> dict:
    """A strict tool, its call put together from a stream."""
    tool = pydantic_function_tool(GetWeather, name=TOOL["name"], description=TOOL["description"])
    messages: list = [{"role": "user", "content": prompt}]
    with client.chat.completions.stream(model=model, messages=messages, tools=[tool]) as stream:
        message = stream.get_final_completion().choices[0].message
    calls = message.tool_calls or []
    messages.append(message.model_dump(exclude_none=True, exclude={"parsed"}))
    for call in calls:
        result = weather(call.function.parsed_arguments.city)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    answer = client.chat.completions.create(model=model, messages=messages, tools=[tool])
    return {"calls": [call.function.name for call in calls], "text": answer.choices[0].message.content}


def image(model: str, prompt: str) -> dict:
    parts = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": {"url": IMAGE_URL}}]
    completion = client.chat.completions.create(model=model, messages=[{"role": "user", "content": parts}])
    return {"text": completion.choices[0].message.content}


def schema(model: str, prompt: str) -> dict:
    completion = client.chat.completions.parse(
        model=model, messages=[{"role": "user", "content": prompt}], response_format=Weather
    )
    return {"object": completion.choices[0].message.parsed.model_dump()}


run(plain, streamed, tools, image, schema)
