"""pydantic-ai, chat completions."""

import asyncio
import base64

from case import IMAGE, KEY, URL, run
from case import weather as tell
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Weather(BaseModel):
    city: str
    degrees: int


def agent(model: str, **fields: object) -> Agent:
    client = AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
    return Agent(OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client)), **fields)


def plain(model: str, prompt: str) -> dict:
    result = agent(model).run_sync(prompt)
    return {"text": result.output, "tokens": result.usage.total_tokens}


def streamed(model: str, prompt: str) -> dict:
    async def read() -> dict:
        async with agent(model).run_stream(prompt) as result:
            pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
            return {"text": "".join(pieces), "pieces": len(pieces), "tokens": result.usage.total_tokens}

    return asyncio.run(read())


def tools(model: str, prompt: str) -> dict:
    called = []

    def get_weather(city: str) -> str:
        """The weather in a city, now."""
        called.append("get_weather")
        return tell(city)

    result = agent(model, tools=[get_weather]).run_sync(prompt)
    return {"calls": called, "text": result.output}


def image(model: str, prompt: str) -> dict:
    picture = BinaryContent(base64.b64decode(IMAGE), media_type="image/png")
    return {"text": agent(model).run_sync([prompt, picture]).output}


def schema(model: str, prompt: str) -> dict:
    return {"object": agent(model, output_type=NativeOutput(Weather)).run_sync(prompt).output.model_dump()}


run(plain, streamed, tools, image, schema)
