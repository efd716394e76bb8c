"""Google's wire: every case of proxy/tests/wire/google, and what a case cannot say."""

import json

import pytest

from proxy.errors import BadRequest, UpstreamBroken
from proxy.tests.wire_cases import cases, check, feed
from proxy.views import CHAT, EMBEDDINGS
from proxy.wire import Call, Usage, google
from proxy.wire.fields import HINTS, REFUSED
from proxy.wire.google_answer import finish_of
from proxy.wire.google_capabilities import NEWEST, capabilities, version_of
from proxy.wire.google_messages import NO_SIGNATURE

HI = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("case", cases("google"), ids=lambda path: path.name)
def test_it_keeps_every_case(case):
    check(google.WIRE, case, line_end=b"\r\n")


def encode(model: str = "gemini-2.5-flash", *, cap: int | None = None, **fields) -> dict:
    body = {"model": model, "messages": HI, **fields}
    return json.loads(google.WIRE.encode(json.dumps(body).encode(), Call(model), model, cap))


def refused(model: str = "gemini-2.5-flash", **fields) -> str | None:
    with pytest.raises(BadRequest) as caught:
        encode(model, **fields)
    return caught.value.param


@pytest.mark.parametrize(
    ("endpoint", "model", "stream", "target"),
    [
        ("chat.completions", "gemini-2.5-flash", False, "/v1beta/models/gemini-2.5-flash:generateContent"),
        ("chat.completions", "models/gemini-x", True, "/v1beta/models/gemini-x:streamGenerateContent?alt=sse"),
        ("chat.completions", "tunedModels/mine", False, "/v1beta/tunedModels/mine:generateContent"),
        ("embeddings", "text-embedding-004", False, "/v1beta/models/text-embedding-004:batchEmbedContents"),
        ("models", "", False, "/v1beta/models?pageSize=1000"),
        ("chat.completions", "../x?key=1#é", False, "/v1beta/models/..%2Fx%3Fkey%3D1%23%C3%A9:generateContent"),
    ],
)
def test_it_makes_one_path_segment_of_any_name(endpoint, model, stream, target):
    assert google.WIRE.target(endpoint, model, stream) == target


@pytest.mark.parametrize(
    ("model", "version"),
    [
        ("gemini-2.5-flash", (2, 5)),
        ("models/gemini-3-pro-preview", (3, 0)),
        ("gemini-1.5-pro-002", (1, 5)),
        ("gemini-flash-latest", NEWEST),
        ("gemini-17-ultra", (17, 0)),
        ("something-new", NEWEST),
        ("gemma-3-27b-it", (1, 0)),
    ],
)
def test_it_takes_an_unknown_model_for_the_newest(model, version):
    assert version_of(model) == version


@pytest.mark.parametrize(
    ("model", "effort", "thinking"),
    [
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-pro", "low", {"thinkingBudget": 1024, "includeThoughts": True}),
        ("gemini-3-flash-preview", "minimal", {"thinkingLevel": "minimal", "includeThoughts": True}),
        ("gemini-3.1-pro-preview", "minimal", {"thinkingLevel": "low", "includeThoughts": True}),
        ("gemini-3.7-flash", "minimal", {"thinkingLevel": "low", "includeThoughts": True}),
        ("gemini-9-flash", "max", {"thinkingLevel": "high", "includeThoughts": True}),
    ],
)
def test_it_says_how_much_to_think_as_the_model_takes_it(model, effort, thinking):
    assert encode(model, reasoning_effort=effort)["generationConfig"] == {"thinkingConfig": thinking}


@pytest.mark.parametrize(
    ("model", "effort"),
    [("gemini-2.5-pro", "none"), ("gemini-3-flash", "none"), ("gemini-2.0-flash", "low"), ("gemini-3-flash", "huge")],
)
def test_it_refuses_an_effort_that_the_model_cannot_make(model, effort):
    assert refused(model, reasoning_effort=effort) == "reasoning_effort"


def test_it_has_nothing_to_turn_off_in_a_model_that_does_not_think():
    assert encode("gemini-2.0-flash", reasoning_effort="none") == {"contents": [USER]}


USER = {"role": "user", "parts": [{"text": "hi"}]}


@pytest.mark.parametrize("field", sorted(HINTS))
def test_it_lets_hints_go(field):
    assert encode(**{field: "x"}) == {"contents": [USER]}


@pytest.mark.parametrize("field", sorted(REFUSED))
def test_it_refuses_what_it_cannot_honour_by_name(field):
    assert refused(**{field: {"en": 1}}) == field
    for neutral in (None, *REFUSED[field]):
        assert encode(**{field: neutral}) == {"contents": [USER]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"brand_new": 1}, "brand_new"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"stop": [1]}, "stop"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"extra_body": {"google": {"api_key": "x"}}}, "extra_body.google.api_key"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "1x"}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "x", "parameters": {"type": "array"}}}]},
            "tools[0].function.parameters",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "x"}}],
                "tool_choice": {"type": "function", "function": {"name": "y"}},
            },
            "tool_choice",
        ),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"messages": [{"role": ["user"]}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": {}}]}]}, "messages[0].content[0]"),
        ({"reasoning_effort": ["low"]}, "reasoning_effort"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"format": "ogg"}}]}]},
            "messages[0].content[0].input_audio.format",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]},
            "messages[0].content[0].file.file_id",
        ),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages[0].audio"),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{"}}],
                    }
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_it_names_what_is_wrong(fields, param):
    assert refused(**fields) == param


def test_it_holds_a_keys_cap_where_none_was_asked():
    assert encode(cap=9)["generationConfig"] == {"maxOutputTokens": 9}


def history(model: str, **call) -> dict:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}, **call}]
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [
        *HI,
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "see"}, picture]},
    ]
    return encode(model, messages=messages)


def test_it_gives_pictures_in_results_to_models_that_take_them():
    (response,) = history("gemini-3-flash")["contents"][2]["parts"]
    assert response["functionResponse"]["parts"] == [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]
    with pytest.raises(BadRequest):
        history("gemini-2.5-flash")


@pytest.mark.parametrize(
    ("fields", "signature"),
    [
        ({}, NO_SIGNATURE),
        ({"extra_content": {"google": {"thought_signature": "c2ln"}}}, "c2ln"),
        ({"provider_specific_fields": {"thought_signature": "c2ln"}}, "c2ln"),
        ({"extra_content": {"google": "?"}}, NO_SIGNATURE),
    ],
)
def test_it_sends_a_calls_signature_back(fields, signature):
    assert history("gemini-3-flash", **fields)["contents"][1]["parts"][0]["thoughtSignature"] == signature


SIGNED = [
    {"text": "Two cats.", "thoughtSignature": "dGV4dA=="},
    {"inlineData": {"mimeType": "image/png", "data": "AAAA"}, "thoughtSignature": "b25l"},
    {"inlineData": {"mimeType": "image/png", "data": "BBBB"}, "thoughtSignature": "dHdv"},
]


def test_it_sends_each_pictures_signature_back():
    body = json.dumps({"candidates": [{"content": {"parts": SIGNED}, "finishReason": "STOP"}]}).encode()
    plain = json.loads(google.answer(body, Call("m"))[0])["choices"][0]["message"]
    out, decoder = feed(google.WIRE, Call("m", stream=True), [b"data: " + body + b"\n\n"])
    chunks = (json.loads(event.removeprefix(b"data: ")) for event in (out + decoder.final).split(b"\n\n")[:-2])
    streamed = {name: value for one in chunks for name, value in one["choices"][0]["delta"].items()}
    for said in (plain, streamed):
        assert encode("gemini-3-pro-image", messages=[*HI, said, *HI])["contents"][1]["parts"] == SIGNED


def test_it_needs_no_signature_where_the_model_does_not():
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    results = [{"role": "tool", "tool_call_id": "c1", "content": "1"}]
    sent = encode("gemini-2.5-flash", messages=[*HI, {"role": "assistant", "tool_calls": calls}, *results])
    assert "thoughtSignature" not in sent["contents"][1]["parts"][0]


def test_its_capabilities_are_one_table():
    assert capabilities("gemini-99").needs_signatures and not capabilities("gemini-2.5-pro").can_stop_thinking


def test_it_gives_a_call_another_id_in_another_answer():
    def ids(response: str) -> str:
        part = {"functionCall": {"name": "f", "args": {}}}
        body = {"candidates": [{"content": {"parts": [part]}}], "responseId": response}
        message = json.loads(google.answer(json.dumps(body).encode(), Call("m"))[0])["choices"][0]["message"]
        return message["tool_calls"][0]["id"]

    assert ids("r1") == ids("r1") != ids("r2")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"usageMetadata":{}}', b'{"candidates":[]}', b'{"x":1}'])
def test_it_takes_nothing_else_for_an_answer(body):
    with pytest.raises(UpstreamBroken):
        google.answer(body, Call("m"))


@pytest.mark.parametrize(
    ("endpoint", "fields", "param"),
    [
        (CHAT, {"messages": None}, "messages"),
        (CHAT, {"messages": None, "input": "hi"}, "input"),
        (EMBEDDINGS, {"input": "hi", "messages": HI}, "messages"),
        (EMBEDDINGS, {"input": None}, "input"),
    ],
)
def test_it_names_the_field_that_its_endpoint_does_not_have(endpoint, fields, param):
    body = json.dumps({"model": "m", **fields}).encode()
    with pytest.raises(BadRequest) as caught:
        google.WIRE.encode(body, endpoint.decode(body), "m", None)
    assert caught.value.param == param


def test_it_counts_what_was_seen_of_a_stream_that_is_cut():
    counts = {"promptTokenCount": 9, "totalTokenCount": 9}
    event = {"candidates": [{"content": {"parts": [{"text": "Hel"}]}}], "usageMetadata": counts}
    decoder = google.WIRE.decoder(Call("m", stream=True))
    decoder.feed(2 * (b"data: %b\r\n\r\n" % json.dumps(event).encode()))
    assert decoder.usage == Usage(input=9, output=2, total=11)


@pytest.mark.parametrize("texts", [[1, 2], [[1]], [], 5])
def test_it_embeds_text_only(texts):
    with pytest.raises(BadRequest) as caught:
        google.WIRE.encode(json.dumps({"model": "m", "input": texts}).encode(), Call("m"), "m", None)
    assert caught.value.param == "input"


EVENTS = [
    {"candidates": [{"content": {"parts": [{"text": text}]}, **finish}], "responseId": "r1"}
    for text, finish in (("Hel", {}), ("lo", {"finishReason": "STOP"}))
]


def test_it_reads_a_stream_that_came_as_one_answer():
    framed = b"".join(b"data: " + json.dumps(one).encode() + b"\r\n\r\n" for one in EVENTS)
    call = Call("m", stream=True)
    as_events, _ = google.answer(framed, call)
    as_array, _ = google.answer(json.dumps(EVENTS, indent=2).encode(), call)
    assert as_array == as_events and as_events.endswith(b"data: [DONE]\n\n") and as_events.count(b"data: ") == 4
    alone, _ = google.answer(json.dumps(EVENTS[1], indent=2).encode(), call)
    assert b'"content":"lo"' in alone and alone.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("body", [b"[", b"[1]", b"{}", b"data: {", json.dumps(EVENTS[:1]).encode()])
def test_it_takes_no_part_of_a_stream_for_a_whole_one(body):
    with pytest.raises(UpstreamBroken):
        google.answer(body, Call("m", stream=True))


@pytest.mark.parametrize("count", [-1, 10**30, 0.5, "3", []])
def test_it_keeps_an_answer_whose_usage_is_none(count):
    said = json.dumps({**EVENTS[1], "usageMetadata": {"promptTokenCount": count}}).encode()
    plain, usage = google.answer(said, Call("m"))
    assert (json.loads(plain)["choices"][0]["message"]["content"], usage) == ("lo", None)
    _, decoder = feed(google.WIRE, Call("m", stream=True), [b"data: " + said + b"\n\n"])
    assert (decoder.complete, decoder.failure, decoder.usage) == (True, None, None)


@pytest.mark.parametrize("body", [b'{"embeddings":5}', b'{"embeddings":[{"values":[1e300]}]}'])
def test_it_takes_no_nonsense_for_an_embedding(body):
    with pytest.raises(UpstreamBroken):
        google.answer(body, Call("m", base64=True))


@pytest.mark.parametrize(
    "error", [5, [], "no", {"message": {}, "details": 5}, {"status": [1], "details": [1, {"reason": []}]}]
)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_it_renders_an_error_of_any_shape(error, status):
    found = google.WIRE.error(status, json.dumps({"error": error}).encode())
    assert json.loads(found.render())["error"]["message"]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        *(("STOP", "tool_calls"), (None, "tool_calls"), ("SOMETHING_NEW", "tool_calls")),
        *(
            ("MAX_TOKENS", "length"),
            ("SAFETY", "content_filter"),
            ("MALFORMED_FUNCTION_CALL", "stop"),
            ("OTHER", "stop"),
        ),
    ],
)
def test_it_ends_with_calls_unless_google_says_that_they_are_not_whole(reason, finish):
    assert finish_of(reason, called=True) == finish
