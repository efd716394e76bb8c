"""Alibaba's wire: every case of proxy/tests/wire/alibaba, and what a case cannot say."""

import json

import pytest

from proxy.errors import BadRequest, UpstreamBroken
from proxy.tests.wire_cases import cases, check, feed
from proxy.wire import Call, alibaba
from proxy.wire.alibaba_request import REFUSED_HERE, thinking_of

HI = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("case", cases("alibaba"), ids=lambda path: path.name)
def test_it_keeps_every_case(case):
    check(alibaba.WIRE, case)


def encode(model: str = "qwen-plus", *, cap: int | None = None, **fields) -> dict:
    body = {"model": model, "messages": HI, **fields}
    return json.loads(alibaba.WIRE.encode(json.dumps(body).encode(), Call(model), model, cap))


@pytest.mark.parametrize(
    ("model", "thinking"),
    [
        ("qwen-plus", "asked"),
        ("qwen3-max", "asked"),
        ("qwen3-235b-a22b", "stream"),
        ("qwen3.5-35b-a3b", "stream"),
        ("qwen3-30b-a3b-instruct-2507", "never"),
        ("qwen3-235b-a22b-thinking-2507", "always"),
        ("qwen3.6-plus", "default"),
        ("qwen3.8-max", "effort"),
        ("qwen12-max", "effort"),
        ("qwen2.5-72b-instruct", "never"),
        ("qwen-vl-max", "never"),
        ("qwq-plus", "always"),
        ("deepseek-v3.2", "unknown"),
    ],
)
def test_it_knows_when_a_model_thinks(model, thinking):
    assert thinking_of(model) == thinking


@pytest.mark.parametrize("field", sorted(REFUSED_HERE))
def test_it_refuses_what_it_cannot_honour_by_name(field):
    with pytest.raises(BadRequest) as caught:
        encode(**{field: {"en": 1}})
    assert caught.value.param == field
    for neutral in (None, *REFUSED_HERE[field]):
        encode(**{field: neutral})


def test_it_leaves_the_bytes_alone_that_need_nothing():
    body = b'{"model":"qwen-plus", "messages":[{"a":1e400}],"new_field":12345678901234567890123}'
    assert alibaba.WIRE.encode(body, Call("qwen-plus"), "qwen-plus", None) is body


def test_it_sends_the_providers_name_of_the_model_and_the_keys_cap():
    body = json.dumps({"model": "qwen/qwen-plus", "messages": HI}).encode()
    sent = json.loads(alibaba.WIRE.encode(body, Call("qwen/qwen-plus"), "qwen-plus", 50))
    assert sent == {"model": "qwen-plus", "messages": HI, "max_tokens": 50}


def test_it_lets_a_plain_call_think_when_that_was_asked_for():
    sent = encode("qwen3.5-plus", reasoning_effort="high")
    assert (sent["enable_thinking"], sent["thinking_budget"]) == (True, 16_384)


def test_it_gives_a_call_without_id_one():
    call = {"index": 0, "id": "", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    chunk = {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}
    out, _ = feed(alibaba.WIRE, Call("m", stream=True), [b"data: " + json.dumps(chunk).encode() + b"\n\n"])
    assert json.loads(out[6:])["choices"][0]["delta"]["tool_calls"][0]["id"].startswith("call_")


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"choices":[1]}', b'{"choices":[{"message":{"tool_calls":[1]}}]}'])
def test_it_takes_nothing_else_for_an_answer(body):
    with pytest.raises(UpstreamBroken):
        alibaba.answer(body, Call("m"))


@pytest.mark.parametrize("path", [("chat.completions", "/chat/completions"), ("embeddings", "/embeddings")])
def test_it_asks_at_openais_paths(path):
    assert alibaba.WIRE.target(path[0], "qwen-plus", False) == path[1]


@pytest.mark.parametrize("streamed", [False, True])
def test_it_counts_what_was_written_to_the_cache(streamed):
    details = {"cached_tokens": 2, "cache_creation_input_tokens": 10, "cache_type": "ephemeral"}
    usage = {"prompt_tokens": 15, "completion_tokens": 1, "total_tokens": 16, "prompt_tokens_details": details}
    said = json.dumps({"choices": [{"message": {}, "delta": {}}], "usage": usage}).encode()
    if streamed:
        stream = b"data: " + said + b"\n\ndata: [DONE]\n\n"
        _, decoder = feed(alibaba.WIRE, Call("m", stream=True, include_usage=True), [stream])
        told, counted = decoder.final, decoder.usage
    else:
        told, counted = alibaba.answer(said, Call("m"))
    assert counted is not None and (counted.cached, counted.cache_write) == (2, 10)
    assert b'"cache_write_tokens":10' in told
