"""Recorded traffic of Anthropic's, where AIPROXY_TRAFFIC_DIR names a directory of it."""

import json
import os
from pathlib import Path

import pytest
from openai.lib.streaming._deltas import accumulate_delta
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy import sse
from proxy.wire import Call
from proxy.wire import anthropic as wire
from proxy.wire.anthropic_answer import FINISH_REASONS
from proxy.wire.listing import models_in

TRAFFIC = os.environ.get("AIPROXY_TRAFFIC_DIR", "")

pytestmark = pytest.mark.skipif(not TRAFFIC, reason="AIPROXY_TRAFFIC_DIR is not set")


def recordings(endpoint: str, kind: str) -> list[Path]:
    """Errors, streamed or plain answers; a place holder that fails when there are none at all."""
    if not TRAFFIC:
        return [Path("none")]
    found = [path for path in sorted(Path(TRAFFIC, "anthropic").glob("*.json")) if sort(path) == (endpoint, kind)]
    return found or [Path(TRAFFIC, "anthropic", "missing")]


def sort(path: Path) -> tuple[str, str]:
    recorded = json.loads(path.read_bytes())
    answer = recorded["response"]
    streamed = "event-stream" in answer["headers"].get("content-type", "")
    return recorded["endpoint"], "error" if answer["status"] >= 400 else "stream" if streamed else "plain"


def answer_of(path: Path) -> tuple[int, bytes]:
    answer = json.loads(path.read_bytes())["response"]
    return answer["status"], answer["body"].encode()


def named(path: Path) -> str:
    return path.stem


def check_usage(shown: dict, usage: wire.Usage, counted: dict) -> None:
    apart = [one for one in counted.get("iterations") or () if one["type"] in {"compaction", "advisor_message"}]

    def sum_of(name: str) -> int:
        return sum(one.get(name) or 0 for one in (counted, *apart))

    cached, written = sum_of("cache_read_input_tokens"), sum_of("cache_creation_input_tokens")
    assert shown["prompt_tokens"] == usage.input == sum_of("input_tokens") + cached + written
    assert shown["completion_tokens"] == usage.output == sum_of("output_tokens")
    assert shown["total_tokens"] == usage.total == usage.input + usage.output
    assert usage.reasoning <= usage.output and cached + written <= usage.input


def check_message(message: dict, finish: str, content: list[dict], stop: str | None) -> None:
    """Against the blocks that Anthropic sent."""
    calls = [block for block in content if block["type"] == "tool_use"]
    said = [(call["id"], call["function"]["name"]) for call in message.get("tool_calls") or ()]
    assert said == [(block["id"], block["name"]) for block in calls]
    for call, block in zip(message.get("tool_calls") or (), calls, strict=True):
        assert json.loads(call["function"]["arguments"]) == block["input"]
    assert (message.get("content") or "") == "".join(block["text"] for block in content if block["type"] == "text")
    thoughts = "".join(block["thinking"] for block in content if block["type"] == "thinking")
    assert message.get("reasoning_content", "") == thoughts
    expected = "stop" if stop == "tool_use" and not calls else FINISH_REASONS[stop]
    assert finish == expected


@pytest.mark.parametrize("path", recordings("messages", "plain"), ids=named)
def test_it_gives_recorded_answers_to_openais_client(path):
    _, body = answer_of(path)
    translated, usage = wire.answer(body, Call("claude"))
    answer, sent = json.loads(translated), json.loads(body)
    ChatCompletion.model_validate(answer, strict=True)
    choice = answer["choices"][0]
    check_message(choice["message"], choice["finish_reason"], sent["content"], sent["stop_reason"])
    check_usage(answer["usage"], usage, sent["usage"])


def events_of(body: bytes) -> list[dict]:
    said = [sse.data_of(event) for event in sse.events(body)]
    return [json.loads(data) for data in said if data]


def blocks_of(events: list[dict]) -> tuple[list[dict], str | None, dict]:
    """What Anthropic's own client would put together: blocks, stop reason, usage."""
    blocks: list[dict] = []
    at, stop, usage = {}, None, {}
    for event in events:
        if event["type"] == "message_start":
            usage |= {name: count for name, count in event["message"]["usage"].items() if count is not None}
        elif event["type"] == "content_block_start":
            at[event["index"]] = block = {"parts": "", **event["content_block"]}
            blocks.append(block)
        elif event["type"] == "content_block_delta":
            block, delta = at[event["index"]], event["delta"]
            block["parts"] += delta.get("partial_json", "")
            for name in ("text", "thinking"):
                if name in delta:
                    block[name] = block.get(name, "") + delta[name]
        elif event["type"] == "message_delta":
            stop = event["delta"]["stop_reason"] or stop
            usage |= {name: count for name, count in event["usage"].items() if count is not None}
    for block in blocks:
        if block["parts"] and block["type"] == "tool_use":
            block["input"] = json.loads(block["parts"])
    return blocks, stop, usage


@pytest.mark.parametrize("path", recordings("messages", "stream"), ids=named)
def test_it_gives_recorded_streams_to_openais_client(path):
    _, body = answer_of(path)
    decoder = wire.Decoder(Call("claude", stream=True, include_usage=True))
    out = b"".join([decoder.feed(body[at : at + 7]) for at in range(0, len(body), 7)])
    assert decoder.complete and decoder.failure is None
    *said, done = [sse.data_of(event) for event in sse.events(out + decoder.final)]
    assert done == b"[DONE]"
    *chunks, last = [json.loads(data) for data in said]
    for chunk in (*chunks, last):
        ChatCompletionChunk.model_validate(chunk, strict=True)
        assert "usage" in chunk
    message: dict = {}
    for chunk in chunks:
        message = accumulate_delta(message, chunk["choices"][0]["delta"])
    finishes = [finish for chunk in chunks if (finish := chunk["choices"][0]["finish_reason"])]
    blocks, stop, counted = blocks_of(events_of(body))
    assert len(finishes) == 1 and last["choices"] == []
    check_message(message, finishes[0], blocks, stop)
    check_usage(last["usage"], decoder.usage, counted)


@pytest.mark.parametrize("path", recordings("messages", "error") + recordings("models", "error"), ids=named)
def test_it_maps_recorded_errors(path):
    status, body = answer_of(path)
    error = wire.error(status, body)
    assert error.status == {401: 424, 529: 503}.get(status, status)
    assert json.loads(body)["error"]["message"] in error.message


@pytest.mark.parametrize("path", recordings("models", "plain"), ids=named)
def test_it_gives_the_recorded_list_of_models(path):
    _, body = answer_of(path)
    assert [model.id for model in models_in("anthropic", body)] == [model["id"] for model in json.loads(body)["data"]]
