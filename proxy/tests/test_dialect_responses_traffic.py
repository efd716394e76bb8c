"""Recorded traffic in the Responses dialect, where AIPROXY_TRAFFIC_DIR names a directory of it.

What OpenAI was asked, said to the others' models; and what those answered, as a Response.
"""

import json
import os
from pathlib import Path

import pytest
from openai.types.responses import Response

from proxy import sse
from proxy.dialect import responses
from proxy.errors import BadRequest
from proxy.tests.test_dialect_responses import call_of, datas
from proxy.tests.test_wire_traffic import framed
from proxy.tests.wire_cases import feed
from proxy.views import RESPONSES
from proxy.wire import Call

TRAFFIC = os.environ.get("AIPROXY_TRAFFIC_DIR", "")
MODELS = {"anthropic": "claude-sonnet-4-5", "google": "gemini-3-pro", "alibaba": "qwen-plus"}
# What only OpenAI has: fields, tools that it runs itself, and items that tell of those.
OPENAIS = ("background", "conversation", "context_management", "moderation", "previous_response_id", "prompt")
OPENAIS += ("top_logprobs", "include[", "tools[", "tool_choice", "reasoning.", "input[", "input")
CHAT = {"anthropic": {"messages"}, "google": {"generate", "stream"}, "alibaba": {"chat"}}

pytestmark = pytest.mark.skipif(not TRAFFIC, reason="AIPROXY_TRAFFIC_DIR is not set")


def recordings(provider: str, endpoints: set[str]) -> list[tuple[str, dict]]:
    found = [(path.stem, json.loads(path.read_bytes())) for path in sorted(Path(TRAFFIC or "none", provider).iterdir())]
    return [(name, one) for name, one in found if one["endpoint"] in endpoints and one["response"]["status"] < 400]


def said(output: list[dict]) -> list[tuple]:
    """What a client reads of the items; ids differ, and what a call is called when its provider named none."""
    return [
        (item["type"], item.get("content"), item.get("summary"), item.get("name"), item.get("arguments"))
        for item in output
    ]


@pytest.mark.parametrize("provider", MODELS)
def test_it_says_to_others_what_openai_was_asked_or_names_what_only_openai_has(provider):
    sent = 0
    for name, recorded in recordings("openai", {"responses"}):
        asked = {**recorded["request"]["json"], "model": MODELS[provider]}
        call = Call(MODELS[provider], stream=bool(asked.get("stream")), include_usage=True)
        refused: BadRequest | None = None
        try:
            RESPONSES.wires[provider].encode(json.dumps(asked).encode(), call, MODELS[provider], None)
        except BadRequest as error:
            refused = error
        param = json.loads(responses.render(refused, ""))["error"]["param"] if refused else ""
        assert refused is None or param.startswith(OPENAIS), f"{name}: {param}: {refused.message}"
        sent += refused is None
    assert sent > 10


@pytest.mark.parametrize("provider", MODELS)
def test_it_gives_every_answer_as_a_response(provider):
    wire, seen = RESPONSES.wires[provider], 0
    for _, recorded in recordings(provider, CHAT[provider]):
        body = recorded["response"]["body"].lstrip()
        if body.startswith(("data:", "event:", "[", ":", "id:")):
            out, decoder = feed(wire, call_of(), [framed(body)])
            found = [json.loads(data) for data in datas(out + decoder.final)]
            whole = found[-1]["response"]
            assert whole["output"] == [one["item"] for one in found if one["type"] == "response.output_item.done"]
            usage = decoder.usage
        else:
            answered, usage = wire.answer(body.encode(), Call("m", body=call_of().body))
            whole = json.loads(answered)
        shown = Response.model_validate(whole)
        assert shown.status in {"completed", "incomplete"}
        if usage is not None:
            counts = (shown.usage.input_tokens, shown.usage.output_tokens, shown.usage.total_tokens)
            assert counts == (usage.input, usage.output, usage.total)
        seen += 1
    assert seen > 5


@pytest.mark.parametrize("provider", MODELS)
def test_it_says_the_same_in_any_pieces(provider):
    for _, recorded in recordings(provider, CHAT[provider]):
        body = recorded["response"]["body"].lstrip()
        if not body.startswith(("data:", "event:", "[", ":", "id:")):
            continue
        stream, outs = framed(body), []
        for size in (7, 1000, len(stream)):
            _, decoder = feed(
                RESPONSES.wires[provider], call_of(), [stream[at : at + size] for at in range(0, len(stream), size)]
            )
            last = json.loads(sse.data_of(sse.events(decoder.final)[-1]))
            outs.append(said(last["response"]["output"]))
        assert outs[0] == outs[1] == outs[2]
