"""OpenAI's own Responses pass untouched; what the proxy reads of them."""

import json

import pytest

from proxy import sse
from proxy.tests.wire_cases import feed
from proxy.wire import Call, Usage
from proxy.wire import openai_responses as wire

USAGE = {
    "input_tokens": 9,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 14,
}
COUNTED = Usage(input=9, output=5, total=14, cached=4, reasoning=2)
# Text that looks like an end, and is none.
TRAP = 'event: response.completed\ndata: {"type":"response.completed"} "error"'


def event(kind: str, number: int, line_end: str = "\n", **fields: object) -> bytes:
    data = json.dumps({"type": kind, "sequence_number": number, **fields})
    return f"event: {kind}{line_end}data: {data}{line_end}{line_end}".encode()


def response(status: str, **fields: object) -> dict:
    return {"response": {"id": "resp_1", "status": status, "error": None, "usage": None, **fields}}


def begin(line_end: str = "\n") -> bytes:
    created = event("response.created", 0, line_end, **response("in_progress"))
    delta = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return created + b"".join(
        event("response.output_text.delta", number, line_end, **delta, delta=text)
        for number, text in enumerate(["Hel", TRAP], 1)
    )


def splits(stream: bytes):
    return ((stream[:cut], stream[cut:]) for cut in range(len(stream) + 1))


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_it_passes_a_stream_and_holds_its_end_back(status, line_end):
    end = event(f"response.{status}", 3, line_end, **response(status, usage=USAGE))
    for parts in splits(begin(line_end) + end):
        out, decoder = feed(wire.WIRE, Call("m", stream=True), parts)
        assert (out + decoder.final).rstrip() == (begin(line_end) + end).rstrip()  # a lone CR may end a line, too
        assert decoder.final.strip() == end.strip()
        assert (decoder.complete, decoder.failure, decoder.usage, decoder.chunks) == (True, None, COUNTED, 2)


def test_it_gives_a_failed_response_as_it_is_and_takes_it_for_a_failure():
    error = {"code": "server_error", "message": "Sorry."}
    end = event("response.failed", 3, **response("failed", error=error))
    for parts in splits(begin() + end):
        out, decoder = feed(wire.WIRE, Call("m", stream=True), parts)
        assert (out, decoder.complete) == (begin(), False)
        assert (decoder.failure.message, decoder.failure.code) == ("Sorry.", "server_error")
        assert decoder.fail(decoder.failure) == end


@pytest.mark.parametrize("nested", [True, False])
def test_it_says_an_error_event_again_without_secrets(nested):
    said = {"code": "server_error", "message": "Bad key sk-abcdefgh", "param": None}
    stream = begin() + event("error", 3, **({"error": said} if nested else said))
    for parts in splits(stream):
        out, decoder = feed(wire.WIRE, Call("m", stream=True), parts)
        assert (out, decoder.complete) == (begin(), False)
        told = json.loads(sse.data_of(decoder.fail(decoder.failure)))
        assert (told["type"], told["sequence_number"], told["message"]) == ("error", 3, "Bad key ***")
        assert told["error"]["code"] == told["code"] == "server_error"


def test_it_does_not_take_a_stream_without_its_end_for_a_whole_one():
    _, decoder = feed(wire.WIRE, Call("m", stream=True), [begin()])
    assert (decoder.complete, decoder.failure) == (False, None)


@pytest.mark.parametrize(
    "usage",
    [None, {"input_tokens": "many"}, 7, {"input_tokens": 9, "input_tokens_details": {"cached_tokens": -(10**9)}}],
)
def test_it_ends_without_a_usage_that_can_be_read(usage):
    end = event("response.completed", 3, **response("completed", usage=usage))
    _, decoder = feed(wire.WIRE, Call("m", stream=True), [begin() + end])
    assert (decoder.complete, decoder.usage) == (True, None)


def test_it_counts_the_tokens_of_a_plain_response():
    body = json.dumps({"output": [{"text": '"usage":{"input_tokens":1}'}], "usage": USAGE, "user": None}).encode()
    assert wire.usage(body) == COUNTED
    assert wire.usage(b"{}") is None


def large(*, tools: int = 0, **metadata: str) -> bytes:
    """The end of a large one, as OpenAI orders its fields."""
    said = {"output": [TRAP], "service_tier": "flex", "store": True, "tools": ["x" * tools], "usage": USAGE}
    return json.dumps({**said, "user": None, "metadata": metadata}).encode()[-16_384:]


def test_it_knows_the_tier_of_a_large_response():
    assert wire.usage(large()[20:]).service_tier == "flex"
    assert wire.usage(json.dumps({"usage": USAGE, "service_tier": "flex"}).encode()[1:]).service_tier == "flex"


@pytest.mark.parametrize("body", [large(tools=20_000), large(service_tier="priority")[20:]])
def test_it_takes_no_tier_that_it_has_not_seen_for_the_standard_one(body):
    usage = wire.usage(body)
    assert (usage.total, usage.service_tier) == (14, "unknown")


def test_it_changes_only_what_it_has_to():
    body = b'{"model": "openai/gpt-5.6",  "input": "hi"}'
    assert wire.encode(body.replace(b"openai/", b""), Call("gpt-5.6"), "gpt-5.6", None) == body.replace(b"openai/", b"")
    sent = wire.encode(body, Call("openai/gpt-5.6"), "gpt-5.6", 99)
    assert json.loads(sent) == {"model": "gpt-5.6", "input": "hi", "max_output_tokens": 99}
    asked = wire.encode(b'{"model":"m","max_output_tokens":5}', Call("m", max_output=5), "m", 99)
    assert json.loads(asked)["max_output_tokens"] == 5


def test_it_counts_no_tokens_of_a_stored_response():
    stored = wire.stored("/responses/resp_1")
    assert stored.target("responses.stored", "", False) == "/responses/resp_1"
    assert stored.usage(json.dumps({"usage": USAGE}).encode()) == Usage()
    end = event("response.completed", 3, **response("completed", usage=USAGE))
    assert feed(stored, Call(""), [begin() + end])[1].usage == Usage()
