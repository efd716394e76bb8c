"""Recorded traffic of Google's, Alibaba's and DeepSeek's, where AIPROXY_TRAFFIC_DIR names a directory of it.

Alibaba has DeepSeek's models, too.
"""

import base64
import json
import os
from array import array
from pathlib import Path

import pytest
from openai.lib.streaming._deltas import accumulate_delta
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy import sse
from proxy.tests.wire_cases import feed
from proxy.wire import Call, alibaba, google

TRAFFIC = os.environ.get("AIPROXY_TRAFFIC_DIR", "")
WIRES = {"google": google.WIRE, "alibaba": alibaba.WIRE, "deepseek": alibaba.WIRE}
# Endpoints that the recordings name and these wires speak.
CHAT = {"chat", "generate", "stream"}
EMBEDDINGS = {"embed", "embeddings"}

pytestmark = pytest.mark.skipif(not TRAFFIC, reason="AIPROXY_TRAFFIC_DIR is not set")


def kind_of(recorded: dict) -> str:
    answer = recorded["response"]
    if answer["status"] >= 400:
        return "error"
    if recorded["endpoint"] in EMBEDDINGS:
        return "embeddings"
    if recorded["endpoint"] not in CHAT:
        return "other"
    return "stream" if answer["body"].lstrip().startswith(("data:", "[", "id:", ":")) else "plain"


def recordings(kind: str) -> list:
    """A place holder that fails stands for a directory without any."""
    if not TRAFFIC:
        return [pytest.param(None, id="none")]
    paths = [path for provider in WIRES for path in sorted(Path(TRAFFIC, provider).glob("*.json"))]
    found = [(path, recorded) for path in paths if kind_of(recorded := json.loads(path.read_bytes())) == kind]
    return [pytest.param(one, id=f"{path.parent.name}-{path.stem}") for path, one in found] or [None]


def framed(body: str) -> bytes:
    """An answer recorded without `alt=sse` is an array: the same events otherwise."""
    if not body.startswith("["):
        return body.encode()
    return b"".join(b"data: " + json.dumps(event).encode() + b"\r\n\r\n" for event in json.loads(body))


def gathered(stream: bytes) -> bytes:
    """Google's events as the plain answer that they make: every part in order, the last word on all else."""
    events = [json.loads(data) for event in sse.events(stream) if (data := sse.data_of(event))]
    whole: dict = {}
    for event in events:
        whole |= {name: value for name, value in event.items() if name != "candidates"}
    candidates = [one for event in events for one in event.get("candidates", ())]
    if candidates:
        parts = [part for one in candidates for part in one.get("content", {}).get("parts", ())]
        finish = [one["finishReason"] for one in candidates if "finishReason" in one][-1]
        whole["candidates"] = [{"content": {"parts": parts}, "finishReason": finish}]
    return json.dumps(whole).encode()


def chunks_of(stream: bytes) -> list[dict]:
    *events, done = [sse.data_of(event) for event in sse.events(stream)]
    assert done == b"[DONE]"
    return [ChatCompletionChunk.model_validate_json(event).to_dict() for event in events]


def said(message: dict) -> tuple:
    """What a client reads of a message; an empty text is as good as none."""
    calls = [
        (call["id"], call["function"]["name"], call["function"]["arguments"], call.get("extra_content"))
        for call in message.get("tool_calls") or ()
    ]
    names = ("content", "reasoning_content", "extra_content")
    return (*(message.get(name) or None for name in names), calls)


def check_usage(shown: dict, usage) -> None:
    assert shown["prompt_tokens"] + shown["completion_tokens"] == shown["total_tokens"] == usage.total
    assert usage.reasoning <= usage.output and usage.cached <= usage.input


@pytest.mark.parametrize("recorded", recordings("plain"))
def test_it_gives_every_plain_answer_to_the_official_client(recorded):
    found, usage = WIRES[recorded["provider"]].answer(recorded["response"]["body"].encode(), Call("m"))
    completion = ChatCompletion.model_validate_json(found)
    assert completion.choices and completion.choices[0].finish_reason
    check_usage(json.loads(found)["usage"], usage)


@pytest.mark.parametrize("recorded", recordings("stream"))
def test_its_chunks_add_up_to_the_plain_answer(recorded):
    stream = framed(recorded["response"]["body"])
    out, decoder = feed(WIRES[recorded["provider"]], Call("m", stream=True, include_usage=True), [stream])
    assert decoder.complete and decoder.failure is None
    *chunks, last = chunks_of(out + decoder.final)
    check_usage(last["usage"], decoder.usage)
    message: dict = {}
    for chunk in chunks:
        assert chunk["usage"] is None
        accumulate_delta(message, chunk["choices"][0]["delta"])
    finishes = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert [finish for finish in finishes if finish] == finishes[-1:]
    ids = [call["id"] for call in message.get("tool_calls") or ()]
    assert len(set(ids)) == len(ids) and all(ids)
    if recorded["provider"] == "google":
        plain = json.loads(google.answer(gathered(stream), Call("m"))[0])["choices"][0]
        assert (said(message), finishes[-1]) == (said(plain["message"]), plain["finish_reason"])


@pytest.mark.parametrize("recorded", recordings("stream"))
def test_it_makes_the_same_of_a_stream_in_any_pieces(recorded):
    stream = framed(recorded["response"]["body"])
    outs = set()
    for size in (1, 7, 1000, len(stream)):
        call = Call("m", stream=True, include_usage=True)
        out, decoder = feed(
            WIRES[recorded["provider"]], call, [stream[at : at + size] for at in range(0, len(stream), size)]
        )
        whole = [chunk["choices"] for chunk in chunks_of(out + decoder.final)]
        outs.add(json.dumps(whole))
    assert len(outs) == 1


@pytest.mark.parametrize("recorded", recordings("error"))
def test_it_maps_every_error(recorded):
    answer = recorded["response"]
    error = WIRES[recorded["provider"]].error(answer["status"], answer["body"].encode())
    assert error.status == (424 if answer["status"] in {401, 402, 403} or error.key_refused else answer["status"])
    assert error.code and error.type and not error.message.startswith("The provider answered")


@pytest.mark.parametrize("recorded", recordings("embeddings"))
def test_it_gives_every_embedding_to_the_official_client(recorded):
    found, _ = WIRES[recorded["provider"]].answer(recorded["response"]["body"].encode(), Call("m"))
    answer = json.loads(found)
    for one in answer["data"]:
        if isinstance(one["embedding"], str):  # as the client does
            one["embedding"] = array("f", base64.b64decode(one["embedding"])).tolist()
    assert CreateEmbeddingResponse.model_validate(answer).data


def requests_of_alibaba() -> list:
    found = [one for kind in ("plain", "stream", "embeddings") for one in recordings(kind) if one is not None]
    return [
        one
        for one in found
        if one.values[0] and one.values[0]["provider"] == "alibaba"
        if one.values[0]["request"]["json"]
    ]


@pytest.mark.parametrize("recorded", requests_of_alibaba() or [None])
def test_it_sends_alibaba_what_was_recorded(recorded):
    """The recorded requests are OpenAI's own: nothing of theirs may be lost or changed."""
    request = recorded["request"]["json"]
    call = Call(request["model"], stream=request.get("stream", False), max_output=request.get("max_tokens"))
    call.include_usage = request.get("stream_options", {}).get("include_usage", False)
    assert json.loads(alibaba.WIRE.encode(json.dumps(request).encode(), call, call.model, None)) == request
