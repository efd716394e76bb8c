"""Owns the Response object around an answer: what it repeats of the request, and how it ended; knows no events.

Facts: https://platform.openai.com/docs/api-reference/responses/object. Nothing is stored here: `store` is false.
"""

import time
from typing import Any
from uuid import uuid4

import msgspec

from proxy.dialect.responses_items import Json, qualified
from proxy.wire import UNREADABLE, Call
from proxy.wire.counts import Count

_encode = msgspec.json.encode


class _Request(msgspec.Struct):
    """What an answer repeats, with what it says where the request says nothing.

    Its fields are not judged here any more: the provider has answered.
    """

    instructions: msgspec.Raw = msgspec.Raw(b"null")
    max_output_tokens: msgspec.Raw = msgspec.Raw(b"null")
    metadata: msgspec.Raw = msgspec.Raw(b"{}")
    parallel_tool_calls: msgspec.Raw = msgspec.Raw(b"true")
    prompt_cache_key: msgspec.Raw = msgspec.Raw(b"null")
    reasoning: msgspec.Raw = msgspec.Raw(b'{"effort":null,"summary":null}')
    safety_identifier: msgspec.Raw = msgspec.Raw(b"null")
    temperature: msgspec.Raw = msgspec.Raw(b"1.0")
    text: msgspec.Raw = msgspec.Raw(b'{"format":{"type":"text"}}')
    tool_choice: msgspec.Raw = msgspec.Raw(b'"auto"')
    tools: list[Json] = []
    top_p: msgspec.Raw = msgspec.Raw(b"1.0")
    user: msgspec.Raw = msgspec.Raw(b"null")


# Fields that are alike in every answer: what could ask for something else is refused.
_FIXED = {
    "background": False,
    "max_tool_calls": None,
    "previous_response_id": None,
    "service_tier": "default",
    "store": False,
    "top_logprobs": 0,
    "truncation": "disabled",
}

_decode = msgspec.json.Decoder(_Request).decode


class _Details(msgspec.Struct):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    reasoning_tokens: Count | None = None


class _Usage(msgspec.Struct):
    """Chat completions' usage."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    total_tokens: Count = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None

    def rendered(self) -> bytes:
        input, output = self.prompt_tokens_details or _Details(), self.completion_tokens_details or _Details()
        return _encode(
            {
                "input_tokens": self.prompt_tokens,
                "input_tokens_details": {
                    "cached_tokens": input.cached_tokens or 0,
                    "cache_write_tokens": input.cache_write_tokens or 0,
                },
                "output_tokens": self.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": output.reasoning_tokens or 0},
                "total_tokens": self.total_tokens,
            }
        )


_decode_usage = msgspec.json.Decoder(_Usage | None).decode


def usage(raw: msgspec.Raw) -> bytes:
    """A Response's usage: null where the provider said nothing, or no counts."""
    try:
        found = _decode_usage(raw) if bytes(raw) else None
    except UNREADABLE:
        found = None
    return found.rendered() if found else b"null"


class Envelope:
    """The Response object of one request; `render` puts an answer into it."""

    def __init__(self, call: Call) -> None:
        # A request that was sent to a provider has been read as a whole before.
        request = _decode(_on_one_line(call.body))
        self.namespaces: dict[str, tuple[str, str]] = {}  # a qualified function name: its namespace and its own
        for tool in request.tools:
            if tool["type"] == "namespace":
                pairs = [(tool["name"], one["name"]) for one in tool["tools"]]
                self.namespaces |= {qualified(*pair): pair for pair in pairs}
        request.tools = [_tool(tool) for tool in request.tools]
        self.id = uuid4().hex
        self._echo = b"," + _encode(msgspec.structs.asdict(request) | _FIXED)[1:]
        self._head = b""

    def begin(self, model: str, created: int) -> None:
        said = {"id": f"resp_{self.id}", "object": "response", "created_at": created, "model": model}
        self._head = _encode(said)[:-1]

    @property
    def begun(self) -> bool:
        return bool(self._head)

    def render(self, status: str, output: bytes = b"", usage: bytes = b"null", **fields: Any) -> bytes:
        """`output`: the items, joined by commas; `fields`: error or incomplete_details."""
        rest = {
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": None,
            "incomplete_details": None,
            **fields,
        }
        parts = (self._head, b',"output":[', output, b'],"usage":', usage, b",", _encode(rest)[1:-1], self._echo)
        return b"".join(parts)


def _on_one_line(body: bytes) -> bytes:
    """As an event can hold it, however the client has laid it out; a null is a default."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    said = {name: raw for name, raw in fields.items() if name != "input" and bytes(raw) != b"null"}
    return msgspec.json.format(_encode(said), indent=-1)


def _tool(tool: Json) -> Json:
    if tool["type"] == "namespace":
        return {**tool, "tools": [_tool(one) for one in tool["tools"]]}
    return {"description": None, "parameters": None, "strict": None, **tool}
