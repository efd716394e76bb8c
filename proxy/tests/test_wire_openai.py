import json

import pytest

from proxy.errors import BadRequest
from proxy.wire import Call
from proxy.wire import openai as wire

USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def event(data: object) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def chunk(text: str) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], "usage": None})


CHUNKS = chunk("Hello") + chunk(" wörld \u2028")
USAGE_EVENT = event({"choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"
STREAM = CHUNKS + USAGE_EVENT + DONE


def run(stream: bytes, cut: int, **call: bool) -> tuple[bytes, wire.Decoder]:
    decoder = wire.Decoder(Call("gpt-4o", stream=True, **call))
    return decoder.feed(stream[:cut]) + decoder.feed(stream[cut:]), decoder


def test_it_counts_an_event_once_whatever_it_says():
    decoder = wire.Decoder(Call("gpt-4o", stream=True))
    decoder.feed(chunk('data: "delta": data:') + chunk("data:"))
    assert decoder.chunks == 2


def test_it_passes_the_bytes_and_keeps_the_end_back_at_every_split():
    for cut in range(len(STREAM)):
        out, decoder = run(STREAM, cut, include_usage=True)
        assert (out, decoder.final, decoder.complete) == (CHUNKS + USAGE_EVENT, DONE, True)
        assert decoder.usage is not None and decoder.usage.total == 15


def test_it_takes_out_the_usage_event_that_nobody_asked_for():
    for cut in range(len(STREAM)):
        out, decoder = run(STREAM, cut)
        assert out == CHUNKS
        assert decoder.usage is not None and (decoder.usage.cached, decoder.usage.reasoning) == (4, 2)


def test_it_keeps_a_last_chunk_that_has_choices_and_usage():
    last = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": USAGE})
    out, decoder = run(last + DONE, 3)
    assert out == last
    assert decoder.usage is not None


def test_it_is_not_complete_without_the_terminal_event():
    _, decoder = run(CHUNKS + USAGE_EVENT, 5)
    assert not decoder.complete


def test_it_stops_at_an_error_event():
    out, decoder = run(CHUNKS + event({"error": {"message": "overloaded", "type": "server_error"}}) + chunk("x"), 9)
    assert out == CHUNKS
    assert decoder.failure is not None and decoder.failure.message == "overloaded"
    assert not decoder.complete


def test_it_does_not_take_an_answer_about_errors_for_one():
    talk = chunk('the "error" field, "usage":{ and [DONE] are words')
    out, decoder = run(talk + DONE, 4)
    assert out == talk
    assert decoder.failure is None and decoder.usage is None and decoder.complete


def test_it_tells_an_explicit_zero_from_no_usage():
    zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert wire.usage(json.dumps({"usage": zero}).encode()) is not None
    assert wire.usage(b'{"choices":[]}') is None
    assert wire.usage(b"<html>") is None


@pytest.mark.parametrize("tail", [b"}", b" }\n", b"\n}\n \t"])
def test_it_asks_for_usage_without_touching_the_rest(tail):
    body = b'{"model":"gpt-4o", "x" : 1e400,"messages":[{"a":1}]' + tail
    sent = wire.encode(body, Call("gpt-4o", stream=True), "gpt-4o", None)
    assert sent.startswith(body.rstrip()[:-1])
    assert sent.endswith(b',"stream_options":{"include_usage":true}}')


def test_it_replaces_stream_options_that_say_no():
    body = b'{"model":"m","stream":true,"stream_options":{"include_usage":false},"seed":12345678901234567890123}'
    sent = wire.encode(body, Call("m", stream=True), "m", None)
    assert b'"stream_options":{"include_usage":true}' in sent and b"false" not in sent
    assert b"12345678901234567890123" in sent


def test_it_asks_for_usage_beside_what_else_the_client_says_of_its_stream():
    body = b'{"model":"m","stream":true,"stream_options":{"include_obfuscation":false}}'
    sent = json.loads(wire.encode(body, Call("m", stream=True), "m", None))
    assert sent["stream_options"] == {"include_obfuscation": False, "include_usage": True}


@pytest.mark.parametrize("field", [b'"\xff":1', b'"stream_options":{"\xff":1}'])
def test_it_refuses_a_body_whose_names_are_not_utf_8(field):
    with pytest.raises(BadRequest):
        wire.encode(b'{"model":"openai/m",%b}' % field, Call("openai/m", stream=True), "m", None)


def test_it_leaves_a_body_alone_that_needs_nothing():
    body = b'{"model":"m"}'
    assert wire.encode(body, Call("m"), "m", None) is body


def test_it_sends_the_providers_name_of_the_model_and_the_keys_cap():
    sent = json.loads(wire.encode(b'{"model":"openai/m"}', Call("openai/m"), "m", 50))
    assert sent == {"model": "m", "max_completion_tokens": 50}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, b'{"error":{"message":"bad key","code":"invalid_api_key"}}', (424, "provider_key_rejected")),
        (403, b"{}", (424, "provider_key_rejected")),
        (429, b'{"error":{"code":"insufficient_quota"}}', (424, "insufficient_quota")),
        (429, b'{"error":{"code":"rate_limit_exceeded","type":"tokens"}}', (429, "rate_limit_exceeded")),
        (400, b'{"error":{"code":"context_length_exceeded","param":"messages"}}', (400, "context_length_exceeded")),
        (500, b"<html>oops</html>", (500, None)),
        (529, b"{}", (503, None)),
        (429, b'{"error":{"message":"\xff"}}', (429, None)),
        (429, b'{"error":{"code":{"of":"another shape"}}}', (429, None)),
    ],
)
def test_it_maps_the_providers_errors(status, body, expected):
    error = wire.error(status, body)
    assert (error.status, error.body()["error"]["code"]) == expected


def test_it_finds_usage_in_the_end_of_a_long_answer():
    end = b'xx \\"usage\\":{}"}], "usage": {"prompt_tokens": 3, "total_tokens": 3}, "model": "m"}'
    assert wire.usage(end).total == 3
    assert wire.usage(b'xx"}], "nested": {"usage": {"total_tokens": 3}}}') is None
