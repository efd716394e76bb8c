"""Anthropic's dialect, by cases on paper: one directory each under wire/anthropic.

in.json is translated to out.json, or refused as refusal.json says; answer.json comes out as expected.json, and
stream.sse as chunks.jsonl (with usage asked for).
"""

import contextlib
import functools
import json
from pathlib import Path

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy import sse
from proxy.dialect.chat import error_event
from proxy.errors import BadRequest, UpstreamBroken
from proxy.wire import Call
from proxy.wire import anthropic as wire
from proxy.wire.anthropic_capabilities import capabilities, family

CASES = Path(__file__).parent / "wire" / "anthropic"
PAIRS = {("in.json", "out.json"), ("in.json", "refusal.json"), ("answer.json", "expected.json")} | {
    ("stream.sse", "chunks.jsonl")
}


def cases(file: str) -> list[str]:
    return sorted(path.parent.name for path in CASES.glob(f"*/{file}"))


def read(case: str, file: str):
    return json.loads((CASES / case / file).read_bytes())


def encode(request: dict, max_output: int | None = None) -> dict:
    call = Call(request["model"], stream=bool(request.get("stream")))
    return json.loads(wire.encode(json.dumps(request).encode(), call, request["model"], max_output))


def decode(parts: list[bytes], *, include_usage: bool = True) -> tuple[bytes, wire.Decoder]:
    decoder = wire.Decoder(Call("claude", stream=True, include_usage=include_usage))
    return b"".join([decoder.feed(part) for part in parts]), decoder


def chunks_of(stream: bytes) -> list[dict]:
    """Without the time of day."""
    said = [sse.data_of(event) for event in sse.events(stream)]
    found = [json.loads(data) for data in said if data != b"[DONE]"]
    assert all(isinstance(chunk.pop("created"), int) for chunk in found)
    return found


@functools.cache
def stream_of(case: str) -> bytes:
    return (CASES / case / "stream.sse").read_bytes()


def test_it_uses_every_file_of_every_case():
    for case in CASES.iterdir():
        files = {path.name for path in case.iterdir()}
        paired = {name for pair in PAIRS if files.issuperset(pair) for name in pair}
        assert files and files == paired, case.name


@pytest.mark.parametrize("case", cases("out.json"))
def test_it_sends_what_anthropic_takes(case):
    assert encode(read(case, "in.json")) == read(case, "out.json")


@pytest.mark.parametrize("case", cases("refusal.json"))
def test_it_names_what_cannot_be_honoured(case):
    with pytest.raises(BadRequest) as refused:
        encode(read(case, "in.json"))
    assert refused.value.param == read(case, "refusal.json")["param"]


@pytest.mark.parametrize("case", cases("answer.json"))
def test_it_gives_a_plain_answer_in_openais_form(case):
    body, usage = wire.answer((CASES / case / "answer.json").read_bytes(), Call("claude"))
    answer = json.loads(body)
    ChatCompletion.model_validate(answer)
    assert isinstance(answer.pop("created"), int)
    assert answer == read(case, "expected.json")
    assert usage == wire.WIRE.usage((CASES / case / "answer.json").read_bytes())
    assert (usage.input, usage.total) == (answer["usage"]["prompt_tokens"], answer["usage"]["total_tokens"])


@pytest.mark.parametrize("case", cases("stream.sse"))
def test_it_gives_a_stream_in_openais_form_at_every_split(case):
    stream = stream_of(case)
    expected = [json.loads(line) for line in (CASES / case / "chunks.jsonl").read_text().split("\n") if line]
    for chunk in chunks_of(b"".join(decode([stream])[0:1])):
        ChatCompletionChunk.model_validate({**chunk, "created": 0})
    for cut in range(len(stream)):
        out, decoder = decode([stream[:cut], stream[cut:]])
        assert decoder.complete and decoder.failure is None
        assert decoder.final.endswith(b"}\n\ndata: [DONE]\n\n")
        assert chunks_of(out + decoder.final) == expected
        assert decoder.usage.total == expected[-1]["usage"]["total_tokens"]


@pytest.mark.parametrize("case", cases("stream.sse"))
def test_it_has_no_usage_in_a_stream_unless_asked(case):
    out, decoder = decode([stream_of(case)], include_usage=False)
    chunks = chunks_of(out + decoder.final)
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)
    assert decoder.usage is not None


@pytest.mark.parametrize("case", cases("stream.sse"))
def test_it_gives_the_same_byte_by_byte(case):
    stream = stream_of(case)
    whole, one = decode([stream])
    single, other = decode([stream[at : at + 1] for at in range(len(stream))])
    assert (chunks_of(single), chunks_of(other.final)) == (chunks_of(whole), chunks_of(one.final))


@pytest.mark.parametrize("case", sorted(set(cases("stream.sse")) & set(cases("answer.json"))))
def test_it_says_the_same_plain_and_streamed(case):
    out, _ = decode([stream_of(case)])
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks_of(out)]
    said = read(case, "expected.json")["choices"][0]["message"]
    assert "".join(delta.get("content", "") for delta in deltas) == (said["content"] or "")
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == said.get("reasoning_content", "")


def event(kind: str, **fields: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **fields}).encode())


def failing(kind: str) -> bytes:
    return event("error", error={"type": kind, "message": "Overloaded"})


START = event(
    "message_start", message={"id": "m", "model": "claude", "usage": {"input_tokens": 10, "output_tokens": 1}}
)
TEXT = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"})


@pytest.mark.parametrize(
    ("kind", "status"), [("overloaded_error", 503), ("rate_limit_error", 429), ("api_error", 500), ("new_error", 502)]
)
def test_it_fails_where_the_stream_says_so(kind, status):
    stream = START + TEXT + failing(kind)
    for cut in range(len(stream)):
        out, decoder = decode([stream[:cut], stream[cut:], TEXT])
        assert (decoder.failure.status, decoder.failure.message, decoder.complete) == (status, "Overloaded", False)
        assert decoder.failure.retryable is False
        assert len(chunks_of(out)) == 2


def test_it_is_complete_at_message_stop_only():
    end = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 1})
    _, decoder = decode([START, TEXT, end])
    assert not decoder.complete and decoder.final == b""
    decoder.flush()
    assert not decoder.complete


def test_it_counts_a_cut_stream_by_its_start_and_what_came():
    _, decoder = decode([START, TEXT, TEXT, TEXT])
    assert (decoder.usage.input, decoder.usage.output, decoder.usage.total, decoder.chunks) == (10, 3, 13, 3)


@pytest.mark.parametrize(
    "broken",
    [
        b"data: {oops\n\n",
        b"data: \xff\xfe\n\n",
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": 5}),
        event("content_block_start", index=0, content_block={"type": "text", "text": []}),
        event("message_start", message={"id": 5}),
    ],
)
def test_it_does_not_pass_over_what_it_cannot_read(broken):
    _, decoder = decode([START, broken, event("message_stop")])
    assert isinstance(decoder.failure, UpstreamBroken) and not decoder.complete


@pytest.mark.parametrize("within", [TEXT, event("message_stop"), event("content_block_stop", index=0)])
def test_it_does_not_take_a_stream_without_a_beginning(within):
    out, decoder = decode([within])
    assert isinstance(decoder.failure, UpstreamBroken) and out == b""


def test_it_takes_a_count_that_is_none_for_no_usage():
    start = event("message_start", message={"id": "m", "model": "c", "usage": {"input_tokens": -4}})
    _, decoder = decode([start, TEXT, event("message_stop")])
    assert decoder.complete and decoder.usage is None


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"type":"message"}', b'{"type":"error"}', b"\xff"])
def test_it_does_not_take_just_anything_for_an_answer(body):
    with pytest.raises(UpstreamBroken):
        wire.answer(body, Call("claude"))


def said(kind: str, message: str) -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, said("invalid_request_error", "max_tokens: too small"), (400, None, "max_tokens")),
        (
            400,
            said("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"),
            (400, "context_length_exceeded", "messages"),
        ),
        (
            400,
            said("invalid_request_error", "Your credit balance is too low to access the API."),
            (424, "insufficient_quota", None),
        ),
        (401, said("authentication_error", "invalid x-api-key"), (424, "provider_key_rejected", None)),
        (402, said("billing_error", "pay"), (424, "insufficient_quota", None)),
        (403, said("permission_error", "no"), (424, "provider_key_rejected", None)),
        (404, said("not_found_error", "model: claude-0"), (404, "model_not_found", "model")),
        (413, said("request_too_large", "big"), (413, "request_too_large", None)),
        (429, said("rate_limit_error", "slow"), (429, "rate_limit_exceeded", None)),
        (500, said("api_error", "oops"), (500, None, None)),
        (504, said("timeout_error", "late"), (504, "timeout", None)),
        (529, said("overloaded_error", "Overloaded"), (503, "overloaded", None)),
        (502, b"<html>", (502, None, None)),
        (400, b'{"error":"text"}', (400, None, None)),
    ],
)
def test_it_maps_the_providers_errors(status, body, expected):
    error = wire.error(status, body)
    shown = error.body()["error"]
    assert (error.status, shown["code"], shown["param"]) == expected


def test_it_lets_an_sdk_see_an_error_event():
    assert (
        json.loads(error_event(wire.error(529, b"{}"), "", wire.Decoder(Call("m")))[6:])["error"]["code"]
        == "overloaded"
    )


def test_it_holds_a_keys_cap_where_none_was_asked():
    asked = {"model": "claude-opus-4-6", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    assert (encode(asked, 99)["max_tokens"], encode({**asked, "max_tokens": 5}, 99)["max_tokens"]) == (99, 5)
    assert encode(asked, 10**9)["max_tokens"] == 128_000
    assert encode(asked)["stream"] is True


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"messages":"no"}', b'{"messages":[{"role":5}]}', b"[" * 100_000])
def test_it_refuses_what_is_no_request(body):
    with pytest.raises(BadRequest):
        wire.encode(body, Call("claude-opus-4-6"), "claude-opus-4-6", None)


JUNK = (None, 5, "", [], {}, True, [[5]], [{}], {"type": {}}, {"type": "text"})


def with_junk(value):
    """The value again and again, each time with something else in the place of one of its parts."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        kept = value[key]
        for junk in JUNK:
            value[key] = junk
            yield
        value[key] = kept
        yield from with_junk(kept)


@pytest.mark.parametrize("case", cases("in.json"))
def test_it_translates_or_refuses_whatever_a_client_sends(case):
    request = read(case, "in.json")
    model = request["model"]
    for _ in with_junk(request):
        with contextlib.suppress(BadRequest):
            wire.encode(json.dumps(request).encode(), Call(model), model, None)


@pytest.mark.parametrize("case", cases("answer.json"))
def test_it_translates_or_refuses_whatever_a_provider_answers(case):
    answer = read(case, "answer.json")
    for _ in with_junk(answer):
        with contextlib.suppress(UpstreamBroken):
            wire.answer(json.dumps(answer).encode(), Call("claude"))


@pytest.mark.parametrize("case", cases("stream.sse"))
def test_it_translates_or_fails_whatever_a_provider_streams(case):
    said = [json.loads(data) for event in sse.events(stream_of(case)) if (data := sse.data_of(event))]
    for _ in with_junk(said):
        sent = b"".join([b"data: " + json.dumps(data).encode() + b"\n\n" for data in said])
        out, decoder = decode([sent])
        chunks_of(out + decoder.final)
        assert not (decoder.complete and decoder.failure)


def test_it_refuses_a_schema_without_end():
    deep: dict = {}
    for _ in range(5000):
        deep = {"anyOf": [deep]}
    body = (
        b'{"messages":[{"role":"user","content":"a"}],"response_format":{"type":"json_schema","json_schema":{"schema":'
    )
    body += b'{"anyOf":[' * 5000 + b"{}" + b"]}" * 5000 + b"}}}"
    with pytest.raises(BadRequest):
        wire.encode(body, Call("claude-opus-4-6"), "claude-opus-4-6", None)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("claude-2.1", ("", (2, 1))),
        ("claude-instant-1.2", ("", (1, 0))),
        ("claude-3-haiku-20240307", ("", (3, 0))),
        ("claude-3-7-sonnet-latest", ("", (3, 7))),
        ("claude-opus-4-20250514", ("opus", (4, 0))),
        ("claude-opus-4-1-20250805", ("opus", (4, 1))),
        ("claude-haiku-4-5@20251001", ("haiku", (4, 5))),
        ("claude-fable-5-1", ("fable", (5, 1))),
        ("claude-novel-7", ("", (99, 0))),
        ("claude", ("", (99, 0))),
    ],
)
def test_it_reads_a_models_family(model, expected):
    assert family(model) == expected


def test_it_gives_an_unknown_model_the_newest_behaviour():
    assert capabilities("claude-novel-1") == capabilities("claude-fable-5") == capabilities("claude-opus-12")
    assert capabilities("claude-sonnet-5-5").forced_tool and not capabilities("claude-mythos-5").forced_tool


def test_it_has_no_embeddings():
    assert wire.target("chat.completions", "claude-x", True) == "/v1/messages"
    with pytest.raises(BadRequest):
        wire.target("embeddings", "claude-x", False)
