"""A provider's JSON with a text in it that is not UTF-8: that shows only where the text is read."""

import pytest

from proxy.errors import UpstreamBroken
from proxy.views import CHAT, MESSAGES
from proxy.wire import Call, google
from proxy.wires import WIRES

PLAIN = {
    "alibaba": b'{"choices":[{"message":{"content":"\xff"}}]}',
    "anthropic": b'{"id":"1","model":"m","content":[{"type":"text","text":"\xff"}]}',
    "google": b'{"candidates":[{"content":{"parts":[{"text":"\xff"}]}}]}',
}
TRANSLATED = {
    "alibaba": b'{"choices":[{"delta":{"content":"\xff"}}]}',
    "anthropic": b'{"type":"message_start","message":{"id":"\xff"}}',
    "google": b'{"responseId":"\xff"}',
}
UNTOUCHED = {
    "openai": (CHAT, b'{"choices":[],"usage":{},"service_tier":"\xff"}'),
    "anthropic": (MESSAGES, b'{"type":"message_delta","usage":{"service_tier":"\xff"}}'),
}


@pytest.mark.parametrize("provider", WIRES)
def test_an_error_keeps_its_status(provider):
    assert WIRES[provider].error(429, b'{"error":{"message":"\xff"}}').status == 429


def test_a_plain_answer_is_broken_by_its_arguments():
    body = b'{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{"a":"\xff"}}}]}}]}'
    with pytest.raises(UpstreamBroken):
        google.answer(body, Call("m"))


@pytest.mark.parametrize("provider", PLAIN)
def test_a_plain_answer_is_broken(provider):
    answer = WIRES[provider].answer
    assert answer is not None
    with pytest.raises(UpstreamBroken):
        answer(PLAIN[provider], Call("m"))


@pytest.mark.parametrize("provider", TRANSLATED)
def test_a_translated_stream_fails(provider):
    decoder = WIRES[provider].decoder(Call("m", stream=True))
    decoder.feed(b"data: " + TRANSLATED[provider] + b"\n\n")
    assert isinstance(decoder.failure, UpstreamBroken)


@pytest.mark.parametrize("provider", UNTOUCHED)
def test_a_stream_that_passes_untouched_goes_on(provider):
    endpoint, data = UNTOUCHED[provider]
    decoder = endpoint.wires[provider].decoder(Call("m", stream=True, include_usage=True))
    event = b"data: " + data + b"\n\n"
    assert (decoder.feed(event), decoder.failure, decoder.usage) == (event, None, None)
