"""What a Responses request becomes as a chat completion, and what a chat completion's answer becomes.

The cases are directories, whose file names say what goes in and what must come out:

request.json     chat.json      a client's body, and the chat completion that is asked for
completion.json  response.json  a chat completion, and what the Response says (besides repeating the request)
chunks.txt       events.jsonl   a wire's stream, and the data of our events; `response` stands for its status
"""

import json
import re
from pathlib import Path

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from proxy import sse
from proxy.dialect import responses
from proxy.dialect.responses_items import Signed
from proxy.dialect.responses_request import to_chat
from proxy.dialect.responses_stream import Encoder
from proxy.errors import BadRequest, UpstreamBroken, UpstreamTimeout
from proxy.routing import Route
from proxy.tests.wire_cases import ROOT as WIRE_CASES
from proxy.tests.wire_cases import feed
from proxy.views import RESPONSES
from proxy.wire import Call

ROOT = Path(__file__).parent / "dialect" / "responses"
ID = re.compile(r"[0-9a-f]{32}")
TIME = re.compile(r'"(completed|created)_at":\d+')
EVENT = TypeAdapter(ResponseStreamEvent)

TOOL = {"type": "function", "name": "time", "parameters": {"type": "object"}, "strict": False}
AGENTS = {"type": "namespace", "name": "agents", "description": "", "tools": [{**TOOL, "name": "close"}]}
ASKED = {"model": "m", "input": "hi", "tools": [TOOL, AGENTS]}


def cases(first: str) -> list:
    return [pytest.param(path.parent, id=path.parent.name) for path in sorted(ROOT.glob(f"*/{first}"))]


def call_of(request: object = ASKED) -> Call:
    return Call("m", stream=True, include_usage=True, body=json.dumps(request).encode())


def chat_of(body: bytes) -> dict:
    return json.loads(to_chat(body, Call("m"), Route("anthropic", "m")))


def neutral(text: bytes) -> str:
    return TIME.sub(r'"\1_at":0', ID.sub("ID", text.decode()))


def datas(stream: bytes) -> list[bytes]:
    """The data of events that are what the official client knows, in the order of their numbers."""
    found = [sse.data_of(event) for event in sse.events(stream)]
    events = [EVENT.validate_json(data) for data in found]
    assert [event.sequence_number for event in events] == list(range(len(found)))
    assert [sse.name_of(event).decode() for event in sse.events(stream)] == [event.type for event in events]
    return found


# --- requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("chat.json"))
def test_it_asks_for_a_chat_completion(case):
    assert chat_of((case / "request.json").read_bytes()) == json.loads((case / "chat.json").read_bytes())


REFUSED = {
    "unknown": ({"brand_new": 1}, "brand_new", "unknown_parameter"),
    "store": ({"store": True}, "store", "unsupported_parameter"),
    "previous": ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter"),
    "conversation": ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
    "background": ({"background": True}, "background", "unsupported_parameter"),
    "prompt": ({"prompt": {"id": "pmpt_1"}}, "prompt", "unsupported_parameter"),
    "truncation": ({"truncation": "auto"}, "truncation", "unsupported_parameter"),
    "logprobs": ({"top_logprobs": 2}, "top_logprobs", "unsupported_parameter"),
    "include": ({"include": ["message.output_text.logprobs"]}, "include[0]", "unsupported_value"),
    "pro mode": ({"reasoning": {"mode": "pro"}}, "reasoning.mode", "unsupported_parameter"),
    "reasoning": ({"reasoning": {"depth": 1}}, "reasoning.depth", "unknown_parameter"),
    "format": ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "invalid_value"),
    "no input": ({"input": None}, "input", "missing_required_parameter"),
    "web search": ({"tools": [TOOL, {"type": "web_search"}]}, "tools[1].type", "unsupported_value"),
    "file search": ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, "tools[0].type", "unsupported_value"),
    "computer": ({"tools": [{"type": "computer_use_preview"}]}, "tools[0].type", "unsupported_value"),
    "deferred": ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading", "unsupported_parameter"),
    "in namespace": ({"tools": [{**AGENTS, "tools": [AGENTS]}]}, "tools[0].tools[0].type", "unsupported_value"),
    "twice": ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
    "choice": ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice.type", "unsupported_value"),
    "include of another type": ({"include": [{}]}, "include[0]", "unsupported_value"),
    "item": ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "unsupported_value"),
    "role": ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "invalid_value"),
    "part": ({"input": [{"role": "user", "content": [{"type": "text"}]}]}, "input[0].content[0].type", None),
    "image by id": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}]},
        *("input[0].content[0].image_url", "invalid_type"),
    ),
    "output": ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output", "invalid_type"),
    "broken reasoning": (
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "aiproxy-1.?"}]},
        *("input[0].encrypted_content", "invalid_value"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_names_what_it_cannot_honour(name):
    fields, param, code = REFUSED[name]
    with pytest.raises(BadRequest) as caught:
        chat_of(json.dumps({"model": "m", "input": "hi", **fields}).encode())
    assert caught.value.param == param and code in {None, caught.value.code}


def test_it_leaves_out_the_search_that_codex_offers_unasked():
    codex = {"client_metadata": {"x-codex-window-id": "1"}, "tools": [TOOL, {"type": "web_search"}]}
    chat = chat_of(json.dumps({"model": "m", "input": "hi", **codex}).encode())
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["time"]


def test_it_names_what_a_wire_refuses_in_the_clients_words():
    asked = {"model": "claude-3-haiku", "input": "hi", "reasoning": {"effort": "high"}}
    with pytest.raises(BadRequest) as caught:
        wire = RESPONSES.wires["anthropic"]
        wire.encode(json.dumps(asked).encode(), call_of(asked), "claude-3-haiku", None)
    error = json.loads(responses.render(caught.value, ""))["error"]
    assert error["param"] == "reasoning.effort" and "reasoning_effort" not in error["message"]


# --- answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("completion.json"))
def test_it_answers_with_a_response(case):
    found = neutral(responses.answer((case / "completion.json").read_bytes(), call_of()))
    Response.model_validate_json(found)
    expected = json.loads((case / "response.json").read_bytes())
    assert {name: json.loads(found)[name] for name in expected} == expected


def test_its_response_repeats_the_request():
    asked = {
        **ASKED,
        "instructions": "Be brief.",
        "max_output_tokens": 9,
        "temperature": 0.5,
        "user": "u",
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "tool_choice": "required",
        "top_p": None,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_object"}},
        "prompt_cache_key": "k",
    }
    body = (ROOT / "answer-text" / "completion.json").read_bytes()
    found = json.loads(responses.answer(body, call_of(asked)))
    same = asked.keys() - {"model", "input", "tools", "top_p"}
    assert {name: found[name] for name in same} == {name: asked[name] for name in same}
    assert found["tools"][0] == {**TOOL, "description": None}
    assert (found["top_p"], found["store"], found["previous_response_id"]) == (1.0, False, None)


def test_its_response_repeats_what_other_providers_take_no_notice_of():
    body = (ROOT / "answer-text" / "completion.json").read_bytes()
    found = json.loads(responses.answer(body, call_of({**ASKED, "user": 7, "prompt_cache_key": ["k"]})))
    assert (found["user"], found["prompt_cache_key"]) == (7, ["k"])


@pytest.mark.parametrize("body", [b"", b"[]", b'{"model":"m","choices":[]}', b'{"model":"m","choices":[{}]}'])
def test_it_takes_nothing_else_for_an_answer(body):
    with pytest.raises(UpstreamBroken):
        responses.answer(body, call_of())


# --- streams -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("chunks.txt"))
def test_it_streams_events(case):
    events = sse.events((case / "chunks.txt").read_bytes())
    encoder = Encoder(call_of())
    stream = b"".join(map(encoder.feed, events[:-1])) + encoder.finish(events[-1])
    found = [json.loads(neutral(data)) for data in datas(stream)]
    shown = [{**one, "response": one["response"]["status"]} if "response" in one else one for one in found]
    assert shown == [json.loads(line) for line in (case / "events.jsonl").read_bytes().splitlines()]
    done = [one["item"] for one in found if one["type"] == "response.output_item.done"]
    assert found[-1]["response"]["output"] == done


def test_its_events_hold_a_request_that_was_laid_out_on_many_lines():
    asked = {**ASKED, "metadata": {"a": "b"}, "text": {"format": {"type": "text"}}}
    encoder = Encoder(Call("m", body=json.dumps(asked, indent=2).encode()))
    created, _ = datas(encoder.feed(b'data: {"model":"m","choices":[]}\n\n'))
    assert json.loads(created)["response"]["metadata"] == {"a": "b"}


@pytest.mark.parametrize("provider", ["anthropic", "google", "alibaba"])
def test_it_makes_the_same_of_a_providers_stream_in_any_pieces(provider):
    """What the wire's own cases stream: that one is tested at every byte split, and gives whole events."""
    seen = 0
    for case in sorted((WIRE_CASES / provider).glob("*/stream.*")):
        stream = case.read_bytes()
        if (case.parent / "failure.json").exists():
            continue
        sizes = (1, 7, len(stream))
        outs = {whole(provider, [stream[at : at + n] for at in range(0, len(stream), n)]) for n in sizes}
        assert len(outs) == 1, case.parent.name
        seen += 1
    assert seen > 1


def whole(provider: str, parts: list[bytes]) -> str:
    out, decoder = feed(RESPONSES.wires[provider], call_of(), parts)
    assert decoder.complete
    assert b"response.completed" not in out and b"response.incomplete" not in out
    return neutral(out + decoder.final)


def started() -> tuple[Encoder, bytes]:
    first, *_ = sse.events((ROOT / "stream-text" / "chunks.txt").read_bytes())
    encoder = Encoder(call_of())
    return encoder, encoder.feed(first)


def test_it_ends_a_broken_stream_with_an_error_and_a_failed_response():
    encoder, said = started()
    *_, error, failed = datas(said + encoder.fail(UpstreamTimeout("Too slow.")))
    assert json.loads(error)["message"] == json.loads(error)["error"]["message"] == "Too slow."
    assert json.loads(failed)["response"]["error"] == {"code": "server_error", "message": "Too slow."}


def test_it_says_an_error_alone_where_nothing_has_begun():
    (error,) = datas(Encoder(call_of()).fail(UpstreamTimeout("Too slow.")))
    assert json.loads(error)["type"] == "error"


@pytest.mark.parametrize("chunk", [b'data: {"choices":1}\n\n', b"data: {\n\n"])
def test_it_fails_at_a_chunk_that_it_cannot_read(chunk):
    with pytest.raises(UpstreamBroken):
        started()[0].feed(chunk)


@pytest.mark.parametrize(
    "odd",
    [
        {"annotations": [{"type": "url_citation", "url_citation": {"start_index": None, "end_index": 2}}]},
        {"images": [{"type": "image_url", "image_url": "data:image/png;base64,AA=="}]},
    ],
)
def test_it_fails_at_a_message_that_it_cannot_read(odd):
    said = {"content": "Hi", **odd}
    with pytest.raises(UpstreamBroken):
        started()[0].feed(b"data: %b\n\n" % json.dumps({"choices": [{"delta": said}]}).encode())
    with pytest.raises(UpstreamBroken):
        responses.answer(json.dumps({"model": "m", "choices": [{"message": said}]}).encode(), call_of())


@pytest.mark.parametrize("usage", [{"prompt_tokens": None}, {"prompt_tokens": -1}, [1]])
def test_it_keeps_an_answer_whose_usage_is_none(usage):
    completion = {"model": "m", "choices": [{"message": {"content": "Hi"}}], "usage": usage}
    assert json.loads(responses.answer(json.dumps(completion).encode(), call_of()))["usage"] is None
    encoder, said = started()
    said += encoder.finish(b"data: %b\n\n" % json.dumps({"choices": [], "usage": usage}).encode())
    assert json.loads(datas(said)[-1])["response"]["usage"] is None


def test_it_fails_where_a_closed_call_goes_on():
    encoder, _ = started()

    def chunk(number: int) -> bytes:
        call = {"index": number, "id": "c", "function": {"name": "time", "arguments": "{"}}
        return b"data: " + json.dumps({"choices": [{"delta": {"tool_calls": [call]}}]}).encode() + b"\n\n"

    encoder.feed(chunk(0) + chunk(1))
    with pytest.raises(UpstreamBroken):
        encoder.feed(chunk(0))


def test_it_gets_back_what_it_gave_out():
    blocks = [{"type": "thinking", "thinking": "Hm.", "signature": "s=="}]
    picture = {"type": "image_url", "image_url": {"url": "data:image/webp;base64,AA=="}}
    signed = [{**picture, "extra_content": {"google": {"thought_signature": text}}} for text in ("c2ln", "bWVk")]
    pictures = [picture, *signed, picture]
    message = {"content": "Hi", "thinking_blocks": blocks, "reasoning_content": "Hm.", "images": pictures}
    completion = {"model": "m", "choices": [{"message": message, "finish_reason": "stop"}]}
    output = json.loads(responses.answer(json.dumps(completion).encode(), call_of()))["output"]
    chat = chat_of(json.dumps({"model": "m", "input": output}).encode())
    said = {"role": "assistant", "content": "Hi", "thinking_blocks": blocks, "images": pictures}
    assert chat["messages"] == [said]
    assert Signed(thinking_blocks=blocks).sealed() == output[0]["encrypted_content"]
