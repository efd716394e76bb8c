"""Owns Google's event stream on its way to the client: `streamGenerateContent?alt=sse` to OpenAI's chunks. Pure.

It has no last event: a clean end of the body after a finishReason completes it (`flush`). A finishReason can come
before the answer's rest, so finish, usage and end are held until then.
"""

import msgspec

from proxy import sse
from proxy.errors import UpstreamBroken
from proxy.wire import UNREADABLE, Call, Usage
from proxy.wire.google_answer import (
    BLOCKED,
    Answer,
    Candidate,
    Delta,
    Identity,
    Json,
    decode_answer,
    extra_content,
    finish_of,
    gather,
    identity_of,
    logprobs_of,
    numbers_from,
    usage_object,
)
from proxy.wire.google_error import failure_of
from proxy.wire.stream import StreamDecoder

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.encode


class _Choice:
    """What is known of one candidate so far."""

    __slots__ = ("calls", "finish", "signature", "started")

    def __init__(self) -> None:
        self.started = False
        self.calls = 0
        self.signature = ""
        self.finish: str | None = None


class Decoder(StreamDecoder):
    __slots__ = ("_call", "_choices", "_counted", "_head", "_identity", "_tail")

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call
        self._choices: dict[int, _Choice] = {}
        self._identity: Identity | None = None
        self._counted: Usage | None = None  # as Google said last
        self._head = b""  # of every chunk
        self._tail = b',"usage":null}\n\n' if call.include_usage else b"}\n\n"

    def flush(self) -> None:
        """The body has ended: with every candidate finished the answer is whole."""
        held = self._take(self._blocks.rest) if self._blocks.rest.strip() else b""  # its last blank line was left out
        if self.failure is not None or not self._choices or any(one.finish is None for one in self._choices.values()):
            return
        self.usage = self._counted
        parts = [held, *(self._finish(number, one) for number, one in sorted(self._choices.items()))]
        if self._call.include_usage:
            parts.append(self._usage_chunk())
        self.final = b"".join((*parts, DONE))
        self.complete = True

    def _take(self, block: bytes) -> bytes:
        parts: list[bytes] = []
        for event in sse.events(block):
            data = sse.data_of(event)
            if not data:
                continue
            try:
                answer = decode_answer(data)
            except UNREADABLE:
                self.failure = UpstreamBroken("The provider sent an event that cannot be read.")
                break
            if bytes(answer.error) not in {b"", b"null"}:
                self.failure = failure_of(502, data)
                break
            self._answer(answer, parts)
        if self._counted is not None:
            self.usage = self._counted.so_far(self.chunks)
        return b"".join(parts)

    def _answer(self, answer: Answer, parts: list[bytes]) -> None:
        if self._identity is None:
            self._identify(answer)
        if answer.usage_metadata is not None:
            self._counted = answer.usage_metadata.plain()  # cumulative: the last one holds
        if answer.is_blocked:
            parts.append(self._blocked())
        for candidate in answer.candidates or ():
            if passed := self._candidate(candidate):
                parts.append(passed)

    def _identify(self, answer: Answer) -> None:
        self._identity = identity = identity_of(answer, self._call)
        head = {
            "id": f"chatcmpl-{identity.response_id}",
            "object": "chat.completion.chunk",
            "created": identity.created,
            "model": identity.model,
        }
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['

    def _blocked(self) -> bytes:
        choice = self._choices.setdefault(0, _Choice())
        choice.finish = BLOCKED
        return self._chunk(0, self._delta(choice, Delta(), 0))

    def _candidate(self, candidate: Candidate) -> bytes:
        assert self._identity is not None
        choice = self._choices.setdefault(candidate.index, _Choice())
        numbers = numbers_from(choice.calls, self._call)
        found = gather(candidate.parts, self._identity, candidate.index, numbers)
        first_call = choice.calls
        choice.calls += len(found.calls)
        choice.signature = found.signature or choice.signature
        if candidate.finish_reason is not None:
            choice.finish = candidate.finish_reason
        delta = self._delta(choice, found, first_call)
        if not delta:
            return b""
        self.chunks += 1
        logprobs = logprobs_of(candidate) if candidate.logprobs_result else None
        return self._chunk(candidate.index, delta, logprobs=logprobs)

    @staticmethod
    def _delta(choice: _Choice, found: Delta, first_call: int) -> Json:
        delta: Json = {}
        if not choice.started:
            choice.started = True
            delta = {"role": "assistant", "content": None if found.calls else "", "refusal": None}
        if found.text:
            delta["content"] = found.text
        if found.reasoning:
            delta["reasoning_content"] = found.reasoning
        if found.calls:
            delta["tool_calls"] = [{"index": first_call + n, **call} for n, call in enumerate(found.calls)]
        if found.images:
            delta["images"] = found.images
        return delta

    def _finish(self, number: int, choice: _Choice) -> bytes:
        finish = choice.finish if choice.finish == BLOCKED else finish_of(choice.finish, called=choice.calls > 0)
        if not choice.signature:
            return self._chunk(number, {}, finish)
        # Of a text's parts the last signature stands for the message; clients would join several.
        return self._chunk(number, {"extra_content": extra_content(choice.signature)}) + self._chunk(number, {}, finish)

    def _chunk(self, number: int, delta: Json, finish: str | None = None, *, logprobs: Json | None = None) -> bytes:
        choice = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return b"".join((self._head, _encode(choice), b"]", self._tail))

    def _usage_chunk(self) -> bytes:
        usage = usage_object(self.usage) if self.usage else None
        return b"".join((self._head, b'],"usage":', _encode(usage), b"}\n\n"))
