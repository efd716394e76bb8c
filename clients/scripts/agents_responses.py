"""openai-agents, the Responses API."""

import asyncio

from agents import Agent, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from case import IMAGE_URL, KEY, URL, run
from case import weather as tell
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)


class Weather(BaseModel):
    city: str
    degrees: int


def agent(model: str, **fields: object) -> Agent:
    client = AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
    return Agent("client", model=OpenAIResponsesModel(model, client), **fields)


def tokens_of(result: object) -> int:
    return result.context_wrapper.usage.total_tokens


def plain(model: str, prompt: str) -> dict:
    result = asyncio.run(Runner.run(agent(model), prompt))
    return {"text": result.final_output, "tokens": tokens_of(result)}


def streamed(model: str, prompt: str) -> dict:
    async def read() -> dict:
        result = Runner.run_streamed(agent(model), prompt)
        raw = [event.data async for event in result.stream_events() if event.type == "raw_response_event"]
        pieces = [event.delta for event in raw if event.type == "response.output_text.delta"]
        return {"text": result.final_output, "pieces": len(pieces), "tokens": tokens_of(result)}

    return asyncio.run(read())


def tools(model: str, prompt: str) -> dict:
    called = []

    @function_tool
    def get_weather(city: str) -> str:
        """The weather in a city, now."""
        called.append("get_weather")
        return tell(city)

    result = asyncio.run(Runner.run(agent(model, tools=[get_weather]), prompt))
    return {"calls": called, "text": result.final_output}


def image(model: str, prompt: str) -> dict:
    parts = [{"type": "input_text", "text": prompt}, {"type": "input_image", "image_url": IMAGE_URL, "detail": "auto"}]
    return {"text": asyncio.run(Runner.run(agent(model), [{"role": "user", "content": parts}])).final_output}


def schema(model: str, prompt: str) -> dict:
    result = asyncio.run(Runner.run(agent(model, output_type=Weather), prompt))
    return {"object": result.final_output.model_dump()}


run(plain, streamed, tools, image, schema)
