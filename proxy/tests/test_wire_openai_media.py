"""OpenAI's images, sounds and moderations: usage in all its spellings, and streams at every byte split."""

import json

import pytest

from proxy.wire import Call, Usage
from proxy.wire.openai_media import WIRE

CALL = Call("gpt-image-1", stream=True)
COUNTS = {"input_tokens": 50, "output_tokens": 100, "total_tokens": 150}


def event(kind: str, **fields) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def feed(body: bytes, size: int = 1 << 20):
    decoder = WIRE.decoder(CALL)
    passed = b"".join(decoder.feed(body[start : start + size]) for start in range(0, len(body), size))
    decoder.flush()
    return passed, decoder


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        (COUNTS, Usage(50, 100, 150)),
        (
            {**COUNTS, "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}},
            Usage(50, 100, 150, image_input=40, image_output=100),
        ),
        (
            {
                **COUNTS,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 40, "cached_tokens": 20},
                "output_tokens_details": {"text_tokens": 5, "image_tokens": 95},
            },
            Usage(50, 100, 150, cached=20, image_input=30, image_output=95),
        ),
        ({**COUNTS, "input_token_details": {"audio_tokens": 50}}, Usage(50, 100, 150, audio_input=50)),
        ({"type": "duration", "seconds": 7}, None),
        ({**COUNTS, "input_tokens": -1}, None),
        (None, None),
    ],
)
def test_it_reads_usage(usage, found):
    assert WIRE.usage(json.dumps({"data": [], "usage": usage}).encode()) == found


def test_it_reads_usage_at_the_end_of_what_it_has_not_seen_whole():
    assert WIRE.usage(b'xxx"}],"usage":' + json.dumps(COUNTS).encode() + b',"size":"1024x1024"}') == Usage(50, 100, 150)


@pytest.mark.parametrize("body", [b"", b"\xff\xfb\x00", b'1\n00:00 "usage":{}', b"[]", b"[" * 100_000])
def test_it_takes_no_sound_or_text_for_usage(body):
    assert WIRE.usage(body) is None


IMAGES = [
    event("image_generation.partial_image", b64_json="aQ=="),
    event("image_generation.completed", b64_json="aW1n", usage=COUNTS),
]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("end", [b"", b"data: [DONE]\n\n"], ids=["plain", "done"])
def test_it_holds_the_last_event_at_every_byte_split(size, end):
    passed, decoder = feed(b"".join(IMAGES) + end, size)
    assert (passed, decoder.final, decoder.complete) == (IMAGES[0], IMAGES[1] + end, True)
    assert decoder.usage == Usage(50, 100, 150)


def test_it_takes_the_first_of_several_images_for_no_end():
    passed, decoder = feed(b"".join(IMAGES * 2))
    assert (passed, decoder.final) == (b"".join([*IMAGES, IMAGES[0]]), IMAGES[1])


def test_it_misses_the_end_of_what_has_none():
    assert not feed(IMAGES[0])[1].complete


@pytest.mark.parametrize("error", [{"error": {"message": "no"}}, {"type": "error", "error": {"message": "no"}}])
def test_it_sees_an_error(error):
    passed, decoder = feed(IMAGES[0] + b"data: " + json.dumps(error).encode() + b"\n\n" + IMAGES[1])
    assert (passed, decoder.complete, decoder.failure.message) == (IMAGES[0], False, "no")
