"""Anthropic's dialect in, by cases on paper: one directory each under dialect/messages.

request.json  chat.json              a client's body, and the chat completion it means
request.json  refused.json           {"param", "code"} of the 400
answer.json   expected.json          a chat completion, and the client's answer
stream.txt    expected.txt           OpenAI's event stream, and the client's, at every byte split of the provider's
call.json                            beside any of them: fields of the Call
"""

import json
from pathlib import Path

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from proxy import sse
from proxy.dialect import messages
from proxy.errors import BadRequest, RateLimited, Unavailable, UpstreamBroken
from proxy.requests import decode_messages
from proxy.routing import Route, route
from proxy.tests.wire_cases import feed
from proxy.views import MESSAGES
from proxy.wire import Call

CASES = Path(__file__).parent / "dialect" / "messages"
EVENT = TypeAdapter(RawMessageStreamEvent)


def cases(kind: str) -> list[str]:
    return sorted(path.parent.name for path in CASES.glob(f"*/{kind}"))


def read(case: str, name: str):
    return json.loads((CASES / case / name).read_text())


def call_of(case: str) -> Call:
    fields = read(case, "call.json") if (CASES / case / "call.json").exists() else {}
    return Call(model="m-1", include_usage=True, **fields)


def to_chat(case: str) -> dict:
    body = (CASES / case / "request.json").read_bytes()
    call = decode_messages(body)
    return json.loads(messages.TRANSLATION.to_chat(body, call, route(call.model)))


@pytest.mark.parametrize("case", cases("chat.json"))
def test_it_says_a_request_as_a_chat_completion(case):
    assert to_chat(case) == read(case, "chat.json")


@pytest.mark.parametrize("case", cases("refused.json"))
def test_it_names_what_cannot_be_honoured(case):
    with pytest.raises(BadRequest) as refused:
        to_chat(case)
    assert {"param": refused.value.param, "code": refused.value.code} == read(case, "refused.json")
    assert refused.value.param.split(".")[-1] in refused.value.message  # Anthropic's errors have no other place


@pytest.mark.parametrize("case", cases("answer.json"))
def test_it_says_an_answer_as_anthropic_does(case):
    answer = messages.TRANSLATION.answer((CASES / case / "answer.json").read_bytes(), call_of(case))
    assert json.loads(answer) == read(case, "expected.json")
    Message.model_validate_json(answer, strict=True)


@pytest.mark.parametrize("case", cases("stream.txt"))
def test_it_says_a_stream_as_anthropic_does_at_every_byte_split(case):
    stream, expected = (CASES / case / "stream.txt").read_bytes(), (CASES / case / "expected.txt").read_bytes()
    for cut in range(len(stream) + 1):
        out, decoder = feed(MESSAGES.wires["openai"], call_of(case), (stream[:cut], stream[cut:]))
        assert (decoder.complete, decoder.failure) == (True, None)
        assert out + decoder.final == expected
    assert decoder.final.startswith((b"event: content_block_stop", b"event: message_delta"))


@pytest.mark.parametrize("case", cases("expected.txt"))
def test_it_makes_events_that_the_official_client_knows(case):
    for event in sse.events((CASES / case / "expected.txt").read_bytes()):
        name, data = sse.name_of(event), sse.data_of(event)
        if name != b"ping":
            assert EVENT.validate_json(data).type == name.decode()


def test_it_has_no_case_that_nothing_reads():
    known = {"request.json", "chat.json", "refused.json", "answer.json", "expected.json", "stream.txt", "expected.txt"}
    for case in CASES.iterdir():
        names = {path.name for path in case.iterdir()} - {"call.json"}
        assert len(names) == 2 and names <= known, case.name


def test_it_does_not_answer_with_a_call_that_cannot_be_made():
    message = {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "[1]"}}]}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]}).encode()
    with pytest.raises(UpstreamBroken):
        messages.TRANSLATION.answer(body, Call("m"))


def test_it_does_not_go_on_with_a_block_that_has_ended():
    calls = [{"index": number, "id": f"c{number}", "function": {"name": "f", "arguments": "{"}} for number in (0, 1, 0)]
    chunks = [b"data: %b\n\n" % json.dumps({"choices": [{"delta": {"tool_calls": [call]}}]}).encode() for call in calls]
    encoder = messages.TRANSLATION.encoder(Call("m"))
    encoder.feed(chunks[0] + chunks[1])
    with pytest.raises(UpstreamBroken):
        encoder.feed(chunks[2])


def test_it_turns_a_stream_that_came_as_a_whole_into_one():
    stream = (CASES / "stream-text" / "stream.txt").read_bytes()
    out, _ = MESSAGES.wires["openai"].answer(stream, Call("m-1", stream=True, tokens_input=7))
    assert out == (CASES / "stream-text" / "expected.txt").read_bytes()


def test_it_gives_the_answer_of_a_provider_that_does_not_stream():
    body = (CASES / "plain-text" / "answer.json").read_bytes()
    out, _ = MESSAGES.wires["openai"].answer(body, Call("m-1", stream=True))
    assert json.loads(out) == read("plain-text", "expected.json")


@pytest.mark.parametrize("provider", ["openai", "google", "alibaba"])
def test_it_asks_for_one_tool_at_a_time(provider):
    model = {"openai": "gpt-4o", "google": "gemini-2.5-flash", "alibaba": "qwen-max"}[provider]
    tools = [{"name": "f", "input_schema": {"type": "object"}}]
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    asked = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    call = Call(model, max_output=9)
    MESSAGES.wires[provider].encode(
        json.dumps({**asked, "tools": tools, "tool_choice": choice}).encode(), call, model, None
    )
    assert call.one_tool_call


# --- thinking -------------------------------------------------------------------------------------------------------

BUDGET = {"type": "enabled", "budget_tokens": 8000}
ADAPTIVE = {"type": "adaptive"}
DISABLED = {"type": "disabled"}
TOOLS = [{"name": "f", "input_schema": {"type": "object"}}]


@pytest.mark.parametrize(
    ("model", "fields", "effort"),
    [
        ("gpt-5", {}, None),
        ("gpt-5", {"thinking": BUDGET}, "medium"),
        ("gpt-5", {"thinking": {**BUDGET, "budget_tokens": 1024}}, "low"),
        ("gpt-5", {"thinking": {**BUDGET, "budget_tokens": 32000}}, "high"),
        ("gpt-5", {"thinking": ADAPTIVE}, "high"),
        ("gpt-5", {"thinking": ADAPTIVE, "output_config": {"effort": "low"}}, "low"),
        ("gpt-5", {"output_config": {"effort": "max"}}, "high"),
        ("gpt-5", {"thinking": DISABLED}, None),
        ("o4-mini", {"thinking": DISABLED}, None),
        ("o4-mini", {"output_config": {"effort": "xhigh"}}, "high"),
        ("gpt-5.2", {"output_config": {"effort": "max"}}, "xhigh"),
        ("gpt-5.2", {"thinking": DISABLED}, "none"),
        ("gpt-5.6", {"thinking": ADAPTIVE}, "high"),
        ("gpt-5.6", {"thinking": ADAPTIVE, "tools": TOOLS}, "none"),
        ("gpt-7", {"thinking": ADAPTIVE, "output_config": {"effort": "xhigh"}}, "xhigh"),
        ("gpt-4o", {"thinking": ADAPTIVE, "output_config": {"effort": "high"}}, None),
        ("gpt-5-chat-latest", {"thinking": ADAPTIVE}, None),
        ("gemini-2.0-flash", {"thinking": ADAPTIVE}, None),
        ("gemini-2.5-flash", {"thinking": DISABLED}, "none"),
        ("gemini-2.5-pro", {"thinking": DISABLED}, None),
        ("gemini-3-pro", {"output_config": {"effort": "max"}}, "max"),
        ("qwen-max", {"thinking": ADAPTIVE}, None),
        ("qwen-plus", {"thinking": BUDGET}, "medium"),
        ("qwen3-32b", {"thinking": ADAPTIVE}, None),
        ("qwen3-32b", {"thinking": ADAPTIVE, "stream": True}, "high"),
        ("qwen3-32b", {"thinking": DISABLED}, "none"),
        ("qwq-plus", {"thinking": ADAPTIVE, "stream": True}, None),
    ],
)
def test_it_has_a_model_think_as_hard_as_it_can_be_told(model, fields, effort):
    asked = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **fields}
    call = Call(model, stream=bool(fields.get("stream")), max_output=9)
    chat = messages.TRANSLATION.to_chat(json.dumps(asked).encode(), call, route(model))
    assert json.loads(chat).get("reasoning_effort") == effort
    MESSAGES.wires[route(model).provider].encode(json.dumps(asked).encode(), call, model, None)  # and the wire takes it


@pytest.mark.parametrize(
    ("thinking", "shown"),
    [(BUDGET, True), (ADAPTIVE, True), (DISABLED, False), ({**ADAPTIVE, "display": "omitted"}, False), (None, False)],
)
def test_it_shows_thoughts_to_who_asked(thinking, shown):
    asked = {"model": "gpt-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "thinking": thinking}
    call = Call("gpt-5", max_output=9)
    messages.TRANSLATION.to_chat(json.dumps(asked).encode(), call, Route("openai", "gpt-5"))
    assert call.shows_reasoning is shown


@pytest.mark.parametrize("count", [-5, 1 << 31])
def test_it_tells_no_count_that_can_be_none(count):
    usage = {"prompt_tokens": 9, "completion_tokens": count}
    said = {"id": "c", "model": "m", "choices": [{"message": {"content": "Hi"}}], "usage": usage}
    told = json.loads(messages.TRANSLATION.answer(json.dumps(said).encode(), Call("m")))["usage"]
    assert (told["input_tokens"], told["output_tokens"]) == (0, 0)


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadRequest("no"), "invalid_request_error"),
        (RateLimited("no"), "rate_limit_error"),
        (Unavailable("no"), "overloaded_error"),
        (UpstreamBroken("no"), "api_error"),
    ],
)
def test_it_says_an_error_as_anthropic_does(error, kind):
    expected = {"type": "error", "error": {"type": kind, "message": "no"}, "request_id": "r1"}
    assert json.loads(messages.render(error, "r1")) == expected
    event = messages.error_event(error, "r1", MESSAGES.wires["google"].decoder(Call("m")))
    assert (sse.name_of(event), json.loads(sse.data_of(event))) == (b"error", expected)
