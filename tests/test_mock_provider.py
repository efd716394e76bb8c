"""The demo provider speaks OpenAI's dialect as the official client expects it."""

import socket

import openai
import pytest
from django.core.management import CommandError, call_command

from aiproxy.mock_provider import MockProvider

HELLO = [{"role": "user", "content": "Good morning"}]


@pytest.fixture
async def client():
    provider = MockProvider(pace=0)
    port = await provider.start()
    async with openai.AsyncOpenAI(api_key="demo", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0) as connected:
        yield connected
    await provider.stop()


async def test_it_echoes_what_the_user_said(client):
    answer = await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    assert "Good morning" in answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_it_streams_the_same_words(client):
    whole = await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    stream = await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)


async def test_it_sends_usage_last_and_only_when_asked(client):
    stream = await client.chat.completions.create(
        model="gpt-4o-mini", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks)
    assert last.choices == []
    assert last.usage.completion_tokens > 0


async def test_it_stops_at_max_tokens(client):
    answer = await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, max_tokens=2)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 2


async def test_embeddings_are_the_same_in_both_encodings(client):
    as_floats = await client.embeddings.create(
        model="text-embedding-3-small", input=["a", "b"], encoding_format="float", dimensions=8
    )
    as_base64 = await client.embeddings.create(model="text-embedding-3-small", input=["a", "b"], dimensions=8)
    for one, other in zip(as_floats.data, as_base64.data, strict=True):
        assert other.embedding == pytest.approx(one.embedding, abs=1e-6)


async def test_it_lists_models_and_knows_each_one(client):
    names = [model.id async for model in client.models.list()]
    for name in names:
        assert (await client.models.retrieve(name)).id == name


async def test_it_does_not_know_other_models(client):
    with pytest.raises(openai.NotFoundError) as refusal:
        await client.chat.completions.create(model="gpt-nobody", messages=HELLO)
    assert refusal.value.code == "model_not_found"


async def test_it_wants_a_key(client):
    with pytest.raises(openai.AuthenticationError):
        await client.models.list(extra_headers={"Authorization": "Basic ZGVtbw=="})


async def test_it_says_what_is_missing(client):
    with pytest.raises(openai.BadRequestError) as refusal:
        await client.chat.completions.create(model="gpt-4o-mini", messages=[])
    assert refusal.value.param == "messages"


def test_it_says_that_its_host_is_none():
    with pytest.raises(CommandError, match=r"Cannot listen on no\.\.name:8001 \(it is no name\)"):
        call_command("mock_provider", "--host", "no..name")


def test_it_says_that_its_port_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CommandError, match=f"Cannot listen on 127.0.0.1:{port}"):
            call_command("mock_provider", "--port", str(port))


@pytest.mark.parametrize("arguments", [["--port", "99999"], ["--pace", "-5"], ["--pace", "nan"]])
def test_it_refuses_what_is_no_port_and_no_pace(arguments):
    with pytest.raises(CommandError, match="99999|--pace is a number"):
        call_command("mock_provider", *arguments)
