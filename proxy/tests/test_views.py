import json

import pytest

from proxy import requests, views
from proxy.errors import BadRequest, MethodNotAllowed, NotFound


def chat(**fields) -> bytes:
    return json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], **fields}).encode()


def refusal(body: bytes, decode=requests.decode_chat) -> BadRequest:
    with pytest.raises(BadRequest) as error:
        decode(body)
    return error.value


def test_it_reads_what_it_needs_and_ignores_the_rest():
    call = requests.decode_chat(chat(stream=True, stream_options={"include_usage": True, "x": 1}, foo={"bar": [1]}))
    assert (call.model, call.stream, call.include_usage, call.max_output) == ("gpt-4o", True, True, None)


def test_it_takes_null_for_absent():
    call = requests.decode_chat(chat(stream=None, stream_options=None, max_tokens=None, n=None))
    assert (call.stream, call.include_usage, call.max_output) == (False, False, None)


def test_it_reserves_the_output_of_all_copies():
    assert requests.decode_chat(chat(max_completion_tokens=10, max_tokens=99, n=3)).tokens_output == 30
    assert requests.decode_chat(chat()).tokens_output == requests.DEFAULT_OUTPUT


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b"", None, "invalid_json"),
        (b"not json", None, "invalid_json"),
        (b"[]", None, "invalid_type"),
        (b'{"messages":[]}', "model", "missing_required_parameter"),
        (b'{"model":"gpt-4o"}', "messages", "missing_required_parameter"),
        (b'{"model":7,"messages":[]}', "model", "invalid_type"),
        (b'{"model":"","messages":[]}', "model", "invalid_value"),
        (b'{"model":"a\\u0000b","messages":[]}', "model", "invalid_value"),
        (b'{"model":"gpt","messages":[],"stream":"yes"}', "stream", "invalid_type"),
        (
            b'{"model":"gpt","messages":[],"stream_options":{"include_usage":1}}',
            "stream_options.include_usage",
            "invalid_type",
        ),
        (b'{"model":"gpt","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, "invalid_json"),
        (b"\xff\xfe", None, "invalid_json"),
    ],
)
def test_it_says_what_is_wrong_and_where(body, param, code):
    error = refusal(body)
    assert (error.param, error.code) == (param, code)


@pytest.mark.parametrize(
    ("decode", "param"),
    [
        (requests.decode_chat, "max_tokens"),
        (requests.decode_chat, "max_completion_tokens"),
        (requests.decode_messages, "max_tokens"),
        (requests.decode_responses, "max_output_tokens"),
    ],
)
@pytest.mark.parametrize("limit", [-1, 1 << 31, 10**400])
def test_it_takes_no_output_limit_that_cannot_be_counted(decode, param, limit):
    error = refusal(chat(**{param: limit}), decode)
    assert (error.param, error.code) == (param, "invalid_value")


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"gpt-4o","messages":[],"model":"gpt-5"}',
        b'{"model":"gpt-4o","messages":[],"\\u006dodel":"gpt-5"}',
        b'{"model":"gpt-4o","messages":[],"stream":false,"stream":true}',
        b'{"messages":[],"metadata":{"messages":[]},"model":"gpt-4o","messages":[]}',
        b'{"metadata":{"messages":[]},"n":1,"messages":[],"model":"gpt-4o","n":2}',
        b'{"metadata":{"messages":[]},"messages":[],"model":"gpt-4o","\\u006dessages":[]}',
        b'{"tools":[],"messages":[],"tools":[],"model":"gpt-4o"}',
        b'{"metadata":{"tools":[]},"n":1,"messages":[],"tools":[],"model":"gpt-4o","n":2}',
    ],
)
@pytest.mark.parametrize("length", [0, 10_000])
def test_it_refuses_a_key_that_occurs_twice(body, length):
    assert refusal(body.replace(b"[]", b'[{"content":"%b"}]' % (length * b"x"))).code == "duplicate_parameter"


def test_it_minds_only_the_top_level():
    nested = {"properties": {"model": {"type": "string"}, "messages": {}}, "stream": [{"stream": 1}]}
    assert requests.decode_chat(chat(tools=[nested, nested])).model == "gpt-4o"


def test_it_counts_media_apart_from_text():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}
    content = [{"type": "text", "text": "x" * 400}, image, image]
    call = requests.decode_chat(chat(messages=[{"role": "user", "content": content}]))
    assert 2100 <= call.tokens_input <= 2120


def test_it_finds_endpoints_by_path_and_method():
    assert views.resolve("/v1/chat/completions", "POST") is views.CHAT
    assert views.resolve("/v1/models/openai/gpt-4o", "GET").decode(b"").model == "openai/gpt-4o"
    with pytest.raises(MethodNotAllowed):
        views.resolve("/v1/chat/completions", "GET")


@pytest.mark.parametrize(
    "path", ["/v1/", "/v1/nothing", "/v1/models/a b", "/v1/models/../x", "/v1/models/a?b", "/v1/models/a%23"]
)
def test_it_knows_no_other_path(path):
    with pytest.raises(NotFound):
        views.resolve(path, "GET")


def test_it_estimates_embeddings():
    body = json.dumps({"model": "text-embedding-3-small", "input": ["x" * 400, "y" * 400]}).encode()
    assert 200 <= requests.decode_embeddings(body).tokens_input <= 205
    assert refusal(b'{"model":"m"}', requests.decode_embeddings).param == "input"


def test_it_refuses_text_that_is_not_utf_8_beside_a_picture():
    body = b'{"model":"gpt-4o","messages":[{"content":[{"type":"image_url"},{"type":"text","text":"\xff"}]}]}'
    assert refusal(body).code == "invalid_json"
