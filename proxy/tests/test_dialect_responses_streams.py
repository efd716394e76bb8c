"""Recorded streams of every provider for clients of Responses, where AIPROXY_TRAFFIC_DIR names a directory of them.

Each event is valid for the official client, and all of them say what the chat completion of the same answer says.
"""

import json
import os
from pathlib import Path

import pytest
from openai.lib.streaming._deltas import accumulate_delta
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from proxy import sse
from proxy.tests.test_wire_traffic import framed
from proxy.tests.wire_cases import feed
from proxy.views import RESPONSES
from proxy.wire import Call
from proxy.wires import WIRES

TRAFFIC = os.environ.get("AIPROXY_TRAFFIC_DIR", "")
PROVIDERS = {"anthropic": "anthropic", "google": "google", "alibaba": "alibaba", "deepseek": "alibaba"}
EVENT = TypeAdapter(ResponseStreamEvent)
ENDPOINTS = {"messages", "chat", "generate", "stream"}

pytestmark = pytest.mark.skipif(not TRAFFIC, reason="AIPROXY_TRAFFIC_DIR is not set")


def streams() -> list:
    """A place holder that fails stands for a directory without any."""
    if not TRAFFIC:
        return [pytest.param(None, id="none")]
    paths = [path for provider in PROVIDERS for path in sorted(Path(TRAFFIC, provider).glob("*.json"))]
    found = [(path, json.loads(path.read_bytes())) for path in paths]
    return [
        pytest.param(one, id=f"{path.parent.name}-{path.stem}")
        for path, one in found
        if one["endpoint"] in ENDPOINTS and one["response"]["status"] == 200
        if one["response"]["body"].lstrip().startswith(("data:", "event:", "[", "id:", ":"))
    ] or [None]


def spoken(recorded: dict, wires: dict) -> tuple[list[dict], object]:
    """The events that a client of these wires is given, and the decoder."""
    body = framed(recorded["response"]["body"])
    call = Call("m", stream=True, include_usage=True, body=b'{"model": "m", "input": "hi", "stream": true}')
    out, decoder = feed(
        wires[PROVIDERS[recorded["provider"]]], call, [body[at : at + 97] for at in range(0, len(body), 97)]
    )
    assert decoder.complete and decoder.failure is None
    said = [sse.data_of(event) for event in sse.events(out + decoder.final)]
    return [json.loads(data) for data in said if data and data != b"[DONE]"], decoder


def completion(recorded: dict) -> tuple[dict, str]:
    """The message and the finish reason of the same stream as a chat completion."""
    chunks, _ = spoken(recorded, WIRES)
    message: dict = {}
    for chunk in chunks:
        if chunk["choices"]:
            message = accumulate_delta(message, chunk["choices"][0]["delta"])
    return message, next(one["choices"][0]["finish_reason"] for one in reversed(chunks) if one["choices"])


def calls_of(message: dict) -> list[tuple[str, object]]:
    called = [call["function"] for call in message.get("tool_calls") or ()]
    return [(one["name"], read(one["arguments"])) for one in called]


def read(arguments: str) -> object:
    """A call that was cut off has no JSON, or nothing at all."""
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return arguments


@pytest.mark.parametrize("recorded", streams())
def test_its_events_say_what_the_chat_completion_says(recorded):
    events, decoder = spoken(recorded, RESPONSES.wires)
    for event in events:
        EVENT.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    final = Response.model_validate(events[-1]["response"])
    message, finish = completion(recorded)
    assert final.output_text == (message.get("content") or "")
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == final.output_text
    made = [(item.name, read(item.arguments)) for item in final.output if item.type == "function_call"]
    assert made == calls_of(message)
    cut = finish == "length" or (finish == "content_filter" and not message.get("refusal"))  # a refusal is an answer
    assert final.status == ("incomplete" if cut else "completed")
    assert decoder.usage is None or final.usage.total_tokens == decoder.usage.total
