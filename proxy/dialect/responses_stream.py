"""Owns a chat answer as the events of a Response, incrementally: items, their parts, and what each came to.

One item is open at a time; what starts another one closes it. What is said is kept as the JSON it was sent in, so that
nothing is read twice. Facts: https://platform.openai.com/docs/api-reference/responses-streaming.
"""

from typing import Any

import msgspec

from proxy import sse
from proxy.dialect.responses_answer import Envelope, usage
from proxy.dialect.responses_items import Json, Signed
from proxy.errors import ProxyError, UpstreamBroken
from proxy.wire import UNREADABLE, Call
from proxy.wire.openai_responses import error_event

_encode = msgspec.json.encode


# --- OpenAI's chunks ---------------------------------------------------------------------------------------------


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None
    extra_content: Json | None = None


class _Citation(msgspec.Struct):
    start_index: int = 0
    end_index: int = 0
    title: str | None = None
    url: str = ""


class _Annotation(msgspec.Struct):
    url_citation: _Citation | None = None


class _Address(msgspec.Struct):
    url: str = ""


class _Image(msgspec.Struct):
    image_url: _Address
    extra_content: Json | None = None


class Message(msgspec.Struct):
    """A delta of a chunk, or the message of a plain answer."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    thinking_blocks: list[Json] | None = None
    annotations: list[_Annotation] | None = None
    images: list[_Image] | None = None
    tool_calls: list[_ToolCall] | None = None
    extra_content: Json | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: Message = msgspec.field(default_factory=Message)
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    model: str = ""
    created: int = 0
    choices: list[_Choice] = []
    usage: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Chunk).decode


# --- the items ---------------------------------------------------------------------------------------------------


class _Part(msgspec.Struct, frozen=True):
    """What a part of an item is called, in its item and in events."""

    item: str
    prefix: str  # of the item's id
    kind: bytes
    field: bytes  # where its text stands
    index: bytes
    frame: bytes  # its own events: added, done
    events: bytes  # those of its text: delta, done
    logprobs: bytes = b""


_TEXT = _Part(
    *("message", "msg", b"output_text", b"text", b"content_index", b"response.content_part", b"response.output_text"),
    logprobs=b',"logprobs":[]',
)
_REFUSAL = _Part(
    *("message", "msg", b"refusal", b"refusal", b"content_index", b"response.content_part", b"response.refusal")
)
_SUMMARY = _Part(
    *("reasoning", "rs", b"summary_text", b"text", b"summary_index"),
    *(b"response.reasoning_summary_part", b"response.reasoning_summary_text"),
)


class _Item(msgspec.Struct):
    """The item that is being said. A message's or a reasoning's has parts, a call's has arguments."""

    kind: str
    at: bytes  # its place, as all its events name it
    fields: Json
    part: _Part | None = None
    part_at: bytes = b""
    said: list[str] = msgspec.field(default_factory=list)  # of the open part, or of the arguments
    annotations: list[bytes] = msgspec.field(default_factory=list)
    parts: list[bytes] = msgspec.field(default_factory=list)  # that are done


class Encoder:
    def __init__(self, call: Call) -> None:
        self._envelope = Envelope(call)
        self._sequence = 0
        self._item: _Item | None = None
        self._output: list[bytes] = []  # items that are done
        self._calls = -1  # the number of the last one
        self._characters = 0  # of the texts that are done
        self._finish_reason: str | None = None
        self._refused = False
        self._usage = b"null"
        self.response = b""  # the whole of it, once it is finished

    def feed(self, events: bytes) -> bytes:
        try:
            return b"".join([self._read(_decode(data)) for event in sse.events(events) if (data := _json_of(event))])
        except UNREADABLE as error:
            raise UpstreamBroken("The provider sent an event that cannot be read.") from error

    def finish(self, events: bytes) -> bytes:
        said = self.feed(events)
        if not self._envelope.begun:
            raise UpstreamBroken("The provider's stream has no beginning.")
        status, details = self._ending()
        said += self._close(status)
        output = b",".join(self._output)
        self.response = self._envelope.render(status, output, self._usage, incomplete_details=details)
        return said + self._lifecycle(status.encode(), self.response)

    def fail(self, error: ProxyError) -> bytes:
        """What a stream ends with that broke: the event that clients raise, then the one that ends a Response."""
        event, self._sequence = error_event(error, self._sequence), self._sequence + 1
        if not self._envelope.begun:
            return event
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"  # a Response has no other word for it
        failed = {"code": code, "message": error.message}
        return event + self._lifecycle(
            b"failed", self._envelope.render("failed", b",".join(self._output), error=failed)
        )

    def begin(self, model: str, created: int) -> bytes:
        self._envelope.begin(model, created)
        response = self._envelope.render("in_progress")
        return self._lifecycle(b"created", response) + self._lifecycle(b"in_progress", response)

    def _read(self, chunk: _Chunk) -> bytes:
        said = b"" if self._envelope.begun else self.begin(chunk.model, chunk.created)
        if bytes(chunk.usage) not in {b"", b"null"}:
            self._usage = usage(chunk.usage)
        for choice in chunk.choices:
            if choice.index == 0:  # there is no `n`
                said += self.say(choice.delta)
                self._finish_reason = choice.finish_reason or self._finish_reason
        return said

    def end(self, finish_reason: str | None, counted: msgspec.Raw) -> None:
        """What a plain answer says of its end."""
        self._finish_reason = finish_reason
        self._usage = usage(counted)

    def _ending(self) -> tuple[str, Json | None]:
        """Status and incomplete_details. A model that says why it refuses has answered."""
        if self._finish_reason == "length":
            return "incomplete", {"reason": "max_output_tokens"}
        if self._finish_reason == "content_filter" and not self._refused:
            return "incomplete", {"reason": "content_filter"}
        return "completed", None

    # --- what is said --------------------------------------------------------------------------------------------

    def say(self, delta: Message) -> bytes:
        if delta.content and self._is_open(_TEXT):  # what most chunks are
            return self._delta(_TEXT, delta.content) + self._rest(delta)
        said = b""
        if delta.reasoning_content:
            said += self._text(_SUMMARY, delta.reasoning_content)
        if delta.thinking_blocks:
            said += self._sign(Signed(thinking_blocks=[_unnumbered(block) for block in delta.thinking_blocks]))
        if delta.content:
            said += self._text(_TEXT, delta.content)
        return said + self._rest(delta)

    def _rest(self, delta: Message) -> bytes:
        said = b""
        for annotation in delta.annotations or ():
            if annotation.url_citation is not None:
                said += self._annotate(annotation.url_citation)
        if delta.refusal:
            self._refused = True
            said += self._text(_REFUSAL, delta.refusal)
        for image in delta.images or ():
            said += self._image(image)
        for call in delta.tool_calls or ():
            said += self._call(call)
        if delta.extra_content:
            said += self._sign(Signed(message=delta.extra_content))
        return said

    def _is_open(self, part: _Part) -> bool:
        return self._item is not None and self._item.part is part

    def _text(self, part: _Part, text: str) -> bytes:
        return (b"" if self._is_open(part) else self._open_part(part)) + self._delta(part, text)

    def _delta(self, part: _Part, text: str) -> bytes:
        item = self._item
        assert item is not None
        item.said.append(text)
        return self._event(part.events + b".delta", item.part_at + b',"delta":' + _encode(text) + part.logprobs)

    def _open_part(self, part: _Part) -> bytes:
        said = b""
        if self._item is None or self._item.kind != part.item:
            fields: Json = {"role": "assistant"} if part.item == "message" else {}
            said = self._open(part.item, part.prefix, fields)
        else:
            said = self._close_part()
        item = self._item
        assert item is not None
        item.part, item.said, item.annotations = part, [], []
        item.part_at = b'%b,"%b":%d' % (item.at, part.index, len(item.parts))
        return said + self._event(part.frame + b".added", item.part_at + b',"part":' + _part(item, b'""'))

    def _close_part(self) -> bytes:
        item = self._item
        if item is None or item.part is None:
            return b""
        part, text = item.part, "".join(item.said)
        if part is _TEXT:
            self._characters += len(text)
        whole = _encode(text)
        item.parts.append(_part(item, whole))
        item.part = None
        said = b'%b,"%b":%b%b' % (item.part_at, part.field, whole, part.logprobs)
        return self._event(part.events + b".done", said) + self._event(
            part.frame + b".done", item.part_at + b',"part":' + item.parts[-1]
        )

    def _annotate(self, found: _Citation) -> bytes:
        """Chat completions count from the first text on, a Response within its part."""
        item = self._item
        if item is None or item.part is not _TEXT:
            return b""
        start, end = found.start_index - self._characters, found.end_index - self._characters
        said = {"type": "url_citation", "start_index": start, "end_index": end}
        number = len(item.annotations)
        item.annotations.append(_encode({**said, "title": found.title or "", "url": found.url}))
        added = b'%b,"annotation_index":%d,"annotation":%b' % (item.part_at, number, item.annotations[-1])
        return self._event(b"response.output_text.annotation.added", added)

    def _sign(self, signed: Signed) -> bytes:
        """What the client has to send back: with the reasoning that it stands behind, or by itself."""
        said = b"" if self._item and self._item.kind == "reasoning" else self._open("reasoning", "rs", {})
        assert self._item is not None
        self._item.fields["encrypted_content"] = signed.sealed()
        return said + self._close("completed")

    def _image(self, image: _Image) -> bytes:
        head, _, data = image.image_url.url.partition(";base64,")
        fields = {"result": data, "output_format": head.rpartition("/")[2]}
        said = self._sign(Signed(picture=image.extra_content)) if image.extra_content else b""
        return said + self._open("image_generation_call", "ig", fields) + self._close("completed")

    # --- calls ---------------------------------------------------------------------------------------------------

    def _call(self, call: _ToolCall) -> bytes:
        said = b""
        function = call.function or _Function()
        if call.index > self._calls:
            self._calls = call.index
            call_id, name = call.id or "", function.name or ""
            if call.extra_content:
                said += self._sign(Signed(calls={call_id: call.extra_content}))
            fields: Json = {"call_id": call_id, "name": name}
            if name in self._envelope.namespaces:
                fields["namespace"], fields["name"] = self._envelope.namespaces[name]
            said += self._open("function_call", "fc", fields)
        item = self._item
        if item is None or item.kind != "function_call" or call.index != self._calls:
            raise UpstreamBroken("The provider went on with a tool call after its end.")
        if not function.arguments:
            return said
        item.said.append(function.arguments)
        delta = item.at + b',"delta":' + _encode(function.arguments)
        return said + self._event(b"response.function_call_arguments.delta", delta)

    # --- items and events ----------------------------------------------------------------------------------------

    def _open(self, kind: str, prefix: str, fields: Json) -> bytes:
        said = self._close("completed")
        number = len(self._output)
        fields = {"id": f"{prefix}_{self._envelope.id}{number}", "type": kind, **fields}
        at = b'"item_id":"%b","output_index":%d' % (fields["id"].encode(), number)
        self._item = item = _Item(kind, at, fields)
        added = b'"output_index":%d,"item":' % number + _item(item, "in_progress")
        return said + self._event(b"response.output_item.added", added)

    def _close(self, status: str) -> bytes:
        item = self._item
        if item is None:
            return b""
        said = self._close_part()
        if item.kind == "function_call":
            whole = item.at + b',"arguments":' + _encode("".join(item.said))
            said += self._event(b"response.function_call_arguments.done", whole)
        done = _item(item, status)
        number, self._item = len(self._output), None
        self._output.append(done)
        return said + self._event(b"response.output_item.done", b'"output_index":%d,"item":' % number + done)

    def _lifecycle(self, name: bytes, response: bytes) -> bytes:
        return self._event(b"response." + name, b'"response":' + response)

    def _event(self, kind: bytes, fields: bytes) -> bytes:
        number = self._sequence
        self._sequence += 1
        return b'event: %b\ndata: {"type":"%b","sequence_number":%d,%b}\n\n' % (kind, kind, number, fields)


def _json_of(event: bytes) -> bytes:
    """The event's data; nothing for a comment and for [DONE]."""
    data = sse.data_of(event)
    return data if data.startswith(b"{") else b""


def _part(item: _Item, text: bytes) -> bytes:
    assert item.part is not None
    part = item.part
    said = b'{"type":"%b","%b":%b%b' % (part.kind, part.field, text, part.logprobs)
    return said + (b',"annotations":[%b]}' % b",".join(item.annotations) if part is _TEXT else b"}")


def _item(item: _Item, status: str) -> bytes:
    fields = item.fields
    if item.kind == "reasoning":  # has no status
        said: Any = fields
        parts = b',"summary":[%b]}'
    else:
        said = {**fields, "status": status}
        parts = b',"content":[%b]}'
    if item.kind == "function_call":
        return _encode({**said, "arguments": "".join(item.said)})
    if item.kind == "image_generation_call":
        return _encode(said)
    return _encode(said)[:-1] + parts % b",".join(item.parts)


def _unnumbered(block: Json) -> Json:
    return {name: value for name, value in block.items() if name != "index"}
