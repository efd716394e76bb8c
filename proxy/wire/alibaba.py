"""Alibaba's format: OpenAI's in its compatible mode, with the differences taken out. Pure.

Tool calls go on without empty ids and names, chunks have the keys that strict clients expect, thinking follows
`reasoning_effort`, and a moderation that ends a stream is an error. Facts:
https://www.alibabacloud.com/help/en/model-studio/use-qwen-by-calling-api, /error-code, /deep-thinking.
"""

from typing import Any
from uuid import uuid4

import msgspec

from proxy import sse
from proxy.errors import ProviderAnswer, ProviderKeyRejected, ProxyError, UpstreamBroken
from proxy.wire import UNREADABLE, Call, Usage, Wire
from proxy.wire.alibaba_request import encode
from proxy.wire.fields import word
from proxy.wire.openai import target, usage
from proxy.wire.stream import StreamDecoder

Json = dict[str, Any]

# What a stored key's owner has to settle, and what the content is to blame for; spelt as either API spells them.
_BILLING = frozenset({"Arrearage", "AllocationQuota.FreeTierOnly"})
_FILTERED = frozenset({"data_inspection_failed", "DataInspectionFailed"})
_KEY = frozenset({"invalid_api_key", "InvalidApiKey"})
# A free quota is used up for good; any other is that of a minute: https://www.alibabacloud.com/help/en/model-studio/rate-limit
_FREE_QUOTA = "Free allocated quota"
_STATUS = {
    **dict.fromkeys(("invalid_parameter_error", "InvalidParameter", "Arrearage", *_FILTERED), 400),
    **dict.fromkeys(_KEY, 401),
    **dict.fromkeys(("AccessDenied", "AccessDenied.Unpurchased", "Model.AccessDenied"), 403),
    **dict.fromkeys(("model_not_found", "ModelNotFound"), 404),
    **dict.fromkeys(("limit_requests", "insufficient_quota"), 429),
    **dict.fromkeys(("Throttling", "Throttling.RateQuota", "Throttling.AllocationQuota"), 429),
    **dict.fromkeys(("ModelServingError", "ServiceUnavailable"), 503),
}


# The same of JSON that is gone through by name.
_MISSHAPEN = (*UNREADABLE, AttributeError, LookupError, TypeError)


# --- answers ---------------------------------------------------------------------------------------------------


def answer(body: bytes, call: Call) -> tuple[bytes, Usage | None]:
    """Embeddings and lists are OpenAI's to the byte; a completion gets the keys that it lacks."""
    try:
        found = msgspec.json.decode(body)
        choices = found.get("choices") if isinstance(found, dict) else None
        for choice in choices or ():
            _complete_choice(choice)
    except _MISSHAPEN as error:
        raise UpstreamBroken("The provider's answer cannot be read.") from error
    if _is_error(found):
        raise _failure(found)
    if not choices:
        return body, usage(body)
    _complete_usage(found.get("usage"))
    body = msgspec.json.encode(found)
    return body, usage(body)


def _complete_choice(choice: Json) -> None:
    message = choice["message"]
    choice.setdefault("logprobs", None)
    message.setdefault("content", None)
    message.setdefault("refusal", None)
    calls = message.get("tool_calls")
    if not calls:
        message.pop("tool_calls", None)
    for tool_call in calls or ():
        tool_call["id"] = tool_call.get("id") or _minted()


def _complete_usage(counted: Any) -> None:
    """What was written to the cache, by OpenAI's name too: it has a price of its own.

    https://www.alibabacloud.com/help/en/model-studio/context-cache
    """
    details = counted.get("prompt_tokens_details") if isinstance(counted, dict) else None
    if isinstance(details, dict) and "cache_creation_input_tokens" in details:
        details.setdefault("cache_write_tokens", details["cache_creation_input_tokens"])


def _minted() -> str:
    return f"call_{uuid4().hex[:24]}"


def _is_error(found: Any) -> bool:
    """Either API's shape: {"error": {…}}, or {"code", "message"} at the top."""
    return isinstance(found, dict) and (bool(found.get("error")) or ("code" in found and "choices" not in found))


def _event(chunk: Json) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


class Decoder(StreamDecoder):
    __slots__ = ("_called", "_counted", "_include_usage")

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._include_usage = call.include_usage
        self._called: set[tuple[int, int]] = set()  # choice and tool call that have their id already
        self._counted = b""  # the usage event: it is the last, whichever chunk the usage came with

    def _take(self, block: bytes) -> bytes:
        parts: list[bytes] = []
        for event in sse.events(block):
            self._event(sse.data_of(event), parts)
            if self.complete or self.failure is not None:
                break
        return b"".join(parts)

    def _event(self, data: bytes, parts: list[bytes]) -> None:
        if not data:
            return
        if data.startswith(b"[DONE]"):
            self.complete, self.final = True, self._counted + b"data: [DONE]\n\n"
            return
        try:
            chunk = msgspec.json.decode(data)
            if _is_error(chunk):
                self.failure = _failure(chunk)
            elif self._normalise(chunk):
                parts.append(_event(chunk))
        except _MISSHAPEN:
            self.failure = UpstreamBroken("The provider sent an event that cannot be read.")

    def _normalise(self, chunk: Json) -> bool:
        """Whether the chunk is for the client."""
        choices, counted = chunk.get("choices"), chunk.pop("usage", None)
        if counted:
            _complete_usage(counted)
            last = msgspec.json.encode({**chunk, "choices": [], "usage": counted})
            self.usage = usage(last)
            self._counted = b"data: " + last + b"\n\n" if self._include_usage else b""
        if self._include_usage:
            chunk["usage"] = None
        for choice in choices or ():
            self._choice(choice)
        self.chunks += bool(choices)
        return bool(choices)

    def _choice(self, choice: Json) -> None:
        choice.setdefault("finish_reason", None)
        choice.setdefault("logprobs", None)
        delta = choice["delta"]
        if delta.get("role", "") is None:
            del delta["role"]
        calls = delta.get("tool_calls")
        if calls:
            for position, call in enumerate(calls):
                call.setdefault("index", position)
                self._tool_call(call, choice.get("index", 0))
        elif "tool_calls" in delta:
            del delta["tool_calls"]
        elif choice["finish_reason"] and not delta.get("content") and "role" not in delta:
            delta.pop("content", None)

    def _tool_call(self, call: Json, choice: int) -> None:
        """A continuation has an index and arguments only: an empty id or name would overwrite the first ones."""
        key = (choice, call["index"])
        function = call.get("function")
        if key not in self._called:
            self._called.add(key)
            call["id"] = call.get("id") or _minted()
            return
        call.pop("id", None)
        call.pop("type", None)
        if function and not function.get("name"):
            function.pop("name", None)


# --- errors ----------------------------------------------------------------------------------------------------


def error(status: int, body: bytes) -> ProxyError:
    """Of a complete error answer; the caller scrubs it of secrets."""
    try:
        found = msgspec.json.decode(body)
    except UNREADABLE:
        found = {}
    return _mapped(status, _error_object(found))


def _failure(found: Json) -> ProxyError:
    """Of an error inside an answer that began as a success."""
    said = _error_object(found)
    failure = _mapped(_STATUS.get(word(said.get("code")), 502), said)
    failure.retryable = False
    return failure


def _error_object(found: Any) -> Json:
    if not isinstance(found, dict):
        return {}
    said = found.get("error", found)
    return said if isinstance(said, dict) else {"message": str(said)}


def _mapped(status: int, found: Json) -> ProxyError:
    said = str(found.get("message") or f"The provider answered {status}.")
    code = word(found.get("code")) or None
    if status == 401 or code in _KEY:
        refused = ProviderKeyRejected(f"The provider refuses the stored key: {said}")
        refused.key_refused = True
        return refused
    if status in {402, 403} or code in _BILLING or said.startswith(_FREE_QUOTA):
        return ProviderKeyRejected(f"The provider does not serve the stored key: {said}", code=code)
    kind = "invalid_request_error" if status < 500 else "server_error"
    param = found.get("param")
    if code in _FILTERED:
        code = "content_filter"
    elif status == 404:
        param, code = "model", "model_not_found"
    elif status == 429:
        kind, code = "rate_limit_error", "rate_limit_exceeded"
    elif status == 400 and "Range of input length should be" in said:
        param, code = "messages", "context_length_exceeded"
    return ProviderAnswer(status, {"message": said, "type": kind, "param": param, "code": code})


WIRE = Wire(
    target=target,
    encode=encode,
    answer=answer,
    usage=usage,
    decoder=Decoder,
    error=error,
    request_headers=frozenset(),
    response_headers=frozenset({b"content-type"}),
)
