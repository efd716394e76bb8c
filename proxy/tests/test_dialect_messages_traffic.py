"""Recorded answers in Anthropic's dialect, where AIPROXY_TRAFFIC_DIR names a directory of them.

An answer of another provider comes out as its official client reads it; one of Anthropic's own, taken through OpenAI's
format and back, says what it said.
"""

import json
import os
from pathlib import Path

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.lib.streaming._deltas import accumulate_delta
from pydantic import TypeAdapter

from proxy import sse
from proxy.dialect import messages
from proxy.errors import BadRequest
from proxy.routing import Route
from proxy.tests.test_wire_anthropic_traffic import blocks_of, events_of
from proxy.tests.test_wire_traffic import framed
from proxy.tests.wire_cases import feed
from proxy.wire import Call
from proxy.wires import WIRES, translated

TRAFFIC = os.environ.get("AIPROXY_TRAFFIC_DIR", "")
CHAT = {"chat", "generate", "stream", "messages"}
SPOKEN = translated(messages.TRANSLATION)
ROUTES = (Route("openai", "gpt-5"), Route("google", "gemini-3-pro"), Route("alibaba", "qwen-plus"))
EVENT = TypeAdapter(RawMessageStreamEvent)

pytestmark = pytest.mark.skipif(not TRAFFIC, reason="AIPROXY_TRAFFIC_DIR is not set")


def kind_of(recorded: dict) -> str:
    body = recorded["response"]["body"].lstrip()
    if recorded["endpoint"] not in CHAT or recorded["response"]["status"] >= 400:
        return "other"
    return "stream" if body.startswith(("data:", "event:", "[", "id:", ":")) else "plain"


def recordings(kind: str) -> list:
    """A place holder that fails stands for a directory without any."""
    if not TRAFFIC:
        return [pytest.param(None, id="none")]
    paths = [path for provider in SPOKEN for path in sorted(Path(TRAFFIC, provider).glob("*.json"))]
    found = [(path, recorded) for path in paths if kind_of(recorded := json.loads(path.read_bytes())) == kind]
    return [pytest.param(one, id=f"{path.parent.name}-{path.stem}") for path, one in found] or [None]


def call(*, stream: bool) -> Call:
    return Call("m", stream=stream, include_usage=True, shows_reasoning=True)


def check(content: list[dict], usage: dict, message: dict, counted: dict | None) -> None:
    """Against the chat completion that the same answer is for OpenAI's clients."""
    uses = [(one["id"], one["name"], one["input"]) for one in content if one["type"] == "tool_use"]
    calls = [
        (one["id"], one["function"]["name"], json.loads(one["function"]["arguments"] or "{}"))
        for one in message.get("tool_calls") or ()
    ]
    assert uses == calls
    text = "".join(one["text"] for one in content if one["type"] == "text")
    assert text == (message.get("content") or "") + (message.get("refusal") or "")
    thoughts = "".join(one["thinking"] for one in content if one["type"] == "thinking")
    assert thoughts == (message.get("reasoning_content") or "")
    if counted is not None:
        input = sum(usage[name] for name in usage if name.endswith("input_tokens"))
        assert (input, usage["output_tokens"]) == (counted["prompt_tokens"], counted["completion_tokens"])


@pytest.mark.parametrize("recorded", recordings("plain"))
def test_it_gives_every_plain_answer_to_anthropics_client(recorded):
    body, provider = recorded["response"]["body"].encode(), recorded["provider"]
    answer, _ = SPOKEN[provider].answer(body, call(stream=False))
    message = Message.model_validate_json(answer)
    assert message.stop_reason in {"end_turn", "tool_use", "max_tokens", "refusal"}
    wire = WIRES[provider]
    chat = json.loads(wire.answer(body, call(stream=False))[0] if wire.answer else body)
    found = json.loads(answer)
    check(found["content"], found["usage"], chat["choices"][0]["message"], chat.get("usage"))


@pytest.mark.parametrize("recorded", recordings("stream"))
def test_it_gives_every_stream_to_anthropics_client(recorded):
    stream, provider = framed(recorded["response"]["body"]), recorded["provider"]
    out, decoder = feed(SPOKEN[provider], call(stream=True), [stream[at : at + 50] for at in range(0, len(stream), 50)])
    assert decoder.complete and decoder.failure is None
    events = events_of(out + decoder.final)
    for event in events:
        if event["type"] != "ping":
            EVENT.validate_python(event)
    check_order([(event["type"], event.get("index")) for event in events])
    content, _, usage = blocks_of(events)
    chunks, chat = feed(WIRES[provider], call(stream=True), [stream])
    said = [json.loads(data) for one in sse.events(chunks + chat.final) if (data := sse.data_of(one)) != b"[DONE]"]
    message: dict = {}
    for chunk in said:
        for choice in chunk["choices"]:
            accumulate_delta(message, {**choice["delta"]})
    counted = next((chunk["usage"] for chunk in reversed(said) if chunk.get("usage")), None)
    check(content, usage, message, counted)


def check_order(events: list[tuple[str, int | None]]) -> None:
    """One block after the other, numbered from 0, between a start and an end."""
    kinds = [kind for kind, _ in events]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    begun = [index for kind, index in events if kind == "content_block_start"]
    assert begun == list(range(len(begun)))
    open_block = None
    for kind, index in events:
        if kind == "content_block_start":
            assert open_block is None
            open_block = index
        elif kind.startswith("content_block"):
            assert index == open_block
            open_block = None if kind == "content_block_stop" else open_block


def requests() -> list:
    """Those that start from Anthropic's dialect."""
    paths = sorted(Path(TRAFFIC or "none", "anthropic").glob("messages__*.json"))
    found = {path.stem: json.loads(path.read_bytes())["request"].get("json") for path in paths}
    return [pytest.param(one, id=name) for name, one in found.items() if one] or [pytest.param(None, id="none")]


@pytest.mark.parametrize("request_", requests())
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.provider)
def test_it_takes_every_recorded_request_or_names_what_it_cannot_honour(request_, route):
    asked = Call(request_["model"], stream=bool(request_.get("stream")), max_output=request_["max_tokens"])
    try:
        chat = json.loads(messages.TRANSLATION.to_chat(json.dumps(request_).encode(), asked, route))
    except BadRequest as error:
        refused = error
    else:
        names = [tool["function"]["name"] for tool in chat.get("tools", ())]
        assert (chat["model"], names) == (route.model, [tool["name"] for tool in request_.get("tools", ())])
        return
    assert refused.param and refused.param.split("[")[0].split(".")[0] in request_
