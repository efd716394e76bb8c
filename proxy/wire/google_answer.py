"""Owns what Google says: the shapes of its answers, their usage, and a plain answer as a whole for the client. Pure.

Facts: https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse, /api/embeddings, /api/models.
"""

import base64
import hashlib
import struct
import time
from typing import Any
from uuid import uuid4

import msgspec

from proxy.errors import UpstreamBroken
from proxy.wire import UNREADABLE, Call, Usage
from proxy.wire.counts import Count

Json = dict[str, Any]


class _FunctionCall(msgspec.Struct):
    name: str = ""
    args: msgspec.Raw = msgspec.Raw()
    id: str | None = None


class _Blob(msgspec.Struct, rename="camel"):
    mime_type: str = ""
    data: str = ""


class Part(msgspec.Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _FunctionCall | None = None
    inline_data: _Blob | None = None


class _Content(msgspec.Struct):
    parts: list[Part] | None = None


class _Token(msgspec.Struct, rename="camel"):
    token: str = ""
    log_probability: float = 0.0


class _TopTokens(msgspec.Struct):
    candidates: list[_Token] | None = None


class _Logprobs(msgspec.Struct, rename="camel"):
    chosen_candidates: list[_Token] | None = None
    top_candidates: list[_TopTokens] | None = None


class Candidate(msgspec.Struct, rename="camel"):
    index: int = 0
    content: _Content | None = None
    finish_reason: str | None = None
    logprobs_result: _Logprobs | None = None

    @property
    def parts(self) -> list[Part]:
        return (self.content and self.content.parts) or []


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class _Modality(msgspec.Struct, rename="camel"):
    modality: str = ""
    token_count: Count | None = None


def _of_kind(kind: str, counts: list[_Modality] | None) -> int:
    return sum(one.token_count or 0 for one in counts if one.modality == kind) if counts else 0


class _Usage(msgspec.Struct, rename="camel"):
    prompt_token_count: Count | None = None
    candidates_token_count: Count | None = None
    thoughts_token_count: Count | None = None
    tool_use_prompt_token_count: Count | None = None
    cached_content_token_count: Count | None = None
    total_token_count: Count | None = None
    prompt_tokens_details: list[_Modality] | None = None
    cache_tokens_details: list[_Modality] | None = None
    candidates_tokens_details: list[_Modality] | None = None

    def plain(self) -> Usage:
        """Thoughts are output, what tools put into the prompt is input: both add up to the total."""
        input = (self.prompt_token_count or 0) + (self.tool_use_prompt_token_count or 0)
        thoughts = self.thoughts_token_count or 0
        said = self.candidates_token_count
        output = thoughts + said if said is not None else max((self.total_token_count or 0) - input, thoughts)
        cached = min(self.cached_content_token_count or 0, input)
        audio_cached = min(_of_kind("AUDIO", self.cache_tokens_details), cached)
        return Usage(
            input=input,
            output=output,
            total=input + output,
            cached=cached,
            reasoning=thoughts,
            audio_input=max(0, min(_of_kind("AUDIO", self.prompt_tokens_details), input) - audio_cached),
            audio_cached=audio_cached,
            audio_output=min(_of_kind("AUDIO", self.candidates_tokens_details), output),
            image_input=max(
                0, _of_kind("IMAGE", self.prompt_tokens_details) - _of_kind("IMAGE", self.cache_tokens_details)
            ),
            image_output=min(_of_kind("IMAGE", self.candidates_tokens_details), output),
        )


class Answer(msgspec.Struct, rename="camel"):
    candidates: list[Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Usage | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: msgspec.Raw = msgspec.Raw()
    embeddings: msgspec.Raw = msgspec.Raw()

    @property
    def is_blocked(self) -> bool:
        return (
            not self.candidates and self.prompt_feedback is not None and self.prompt_feedback.block_reason is not None
        )


class _Uncounted(Answer, rename="camel"):
    usage_metadata: Any = None


class _Embedding(msgspec.Struct):
    values: list[float]


_decode = msgspec.json.Decoder(Answer).decode
_decode_uncounted = msgspec.json.Decoder(_Uncounted).decode
_decode_embeddings = msgspec.json.Decoder(list[_Embedding]).decode

BLOCKED = "content_filter"
_FILTERED = (
    *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"),
    *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"),
)
_FAILED = ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "NO_IMAGE", "IMAGE_OTHER", "OTHER")
_FINISH = {"MAX_TOKENS": "length", **dict.fromkeys(_FILTERED, BLOCKED), **dict.fromkeys(_FAILED, "stop")}


def decode_answer(data: bytes) -> Answer:
    """Raises UNREADABLE. A usage that is no count spoils no answer: it is left out."""
    try:
        return _decode(data)
    except msgspec.ValidationError:
        answer = _decode_uncounted(data)
        answer.usage_metadata = None
        return answer


def finish_of(reason: str | None, *, called: bool) -> str:
    """OpenAI's finish_reason. With calls a stop, or what is not known, is `tool_calls`; what was cut stays cut."""
    return _FINISH.get(reason or "", "tool_calls" if called else "stop")


class Identity(msgspec.Struct, frozen=True):
    """What all chunks of one answer say alike."""

    response_id: str
    model: str
    created: int

    def call_id(self, choice: int, number: int) -> str:
        """Google seldom names its calls: the same one always gets the same id."""
        seed = f"{self.response_id}/{choice}/{number}".encode()
        return "call_" + hashlib.blake2b(seed, digest_size=12).hexdigest()


def identity_of(answer: Answer, call: Call) -> Identity:
    return Identity(answer.response_id or uuid4().hex, answer.model_version or call.model, int(time.time()))


class Delta(msgspec.Struct):
    """The parts of one candidate, gathered: in a stream those of one event."""

    text: str = ""
    reasoning: str = ""
    signature: str = ""  # of the message; a call and a picture carry their own
    calls: list[Json] = []
    images: list[Json] = []


def gather(parts: list[Part], identity: Identity, choice: int, numbers: range) -> Delta:
    """`numbers` are those that the next calls get; when they are used up, further calls are left out."""
    found = Delta()
    for part in parts:
        if part.function_call is not None:
            number = numbers.start + len(found.calls)
            if number < numbers.stop:
                found.calls.append(_call(part, part.function_call, identity.call_id(choice, number)))
            continue
        if part.inline_data is not None and not part.thought and not part.text:  # drafts are thoughts
            found.images.append(_picture(part, part.inline_data))
            continue
        if part.text:
            if part.thought:
                found.reasoning += part.text
            else:
                found.text += part.text
        if part.thought_signature:
            found.signature = part.thought_signature
    return found


def _call(part: Part, call: _FunctionCall, minted: str) -> Json:
    found: Json = {
        "id": call.id or minted,
        "type": "function",
        "function": {"name": call.name, "arguments": _arguments(call)},
    }
    return _signed(found, part)


def _picture(part: Part, picture: _Blob) -> Json:
    url = f"data:{picture.mime_type};base64,{picture.data}"
    return _signed({"type": "image_url", "image_url": {"url": url}}, part)


def _signed(found: Json, part: Part) -> Json:
    return {**found, "extra_content": extra_content(part.thought_signature)} if part.thought_signature else found


def _arguments(call: _FunctionCall) -> str:
    if bytes(call.args) in {b"", b"null"}:
        return "{}"
    try:
        return msgspec.json.format(call.args, indent=-1).decode()
    except UNREADABLE as error:
        raise UpstreamBroken("The model has called a function with arguments that cannot be read.") from error


def extra_content(signature: str) -> Json:
    """As Google's own compatible API gives a thought signature, and takes it back."""
    return {"google": {"thought_signature": signature}}


def logprobs_of(candidate: Candidate) -> Json | None:
    found = candidate.logprobs_result
    if found is None or not found.chosen_candidates:
        return None
    tops = found.top_candidates or []
    tokens = []
    for number, chosen in enumerate(found.chosen_candidates):
        top = (tops[number].candidates or []) if number < len(tops) else []
        tokens.append({**_token(chosen), "top_logprobs": [_token(one) for one in top]})
    return {"content": tokens, "refusal": None}


def _token(token: _Token) -> Json:
    return {"token": token.token, "logprob": token.log_probability, "bytes": list(token.token.encode())}


def usage_object(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


# --- a plain answer -----------------------------------------------------------------------------------------


def plain(answer: Answer, call: Call) -> tuple[bytes, Usage | None]:
    """A whole answer that is no error, as the client's JSON. UpstreamBroken when it is nothing that we know."""
    if bytes(answer.embeddings):
        return _embeddings(answer, call)
    if not answer.candidates and not answer.is_blocked:
        raise UpstreamBroken("The provider's answer has no candidate.")
    identity = identity_of(answer, call)
    found: Json = {
        "id": f"chatcmpl-{identity.response_id}",
        "object": "chat.completion",
        "created": identity.created,
        "model": identity.model,
        "choices": [_choice(one, identity, call) for one in answer.candidates or [Candidate(finish_reason="SAFETY")]],
    }
    usage = answer.usage_metadata.plain() if answer.usage_metadata else None
    if usage is not None:
        found["usage"] = usage_object(usage)
    return msgspec.json.encode(found), usage


def _choice(candidate: Candidate, identity: Identity, call: Call) -> Json:
    delta = gather(candidate.parts, identity, candidate.index, numbers_from(0, call))
    content = delta.text if delta.text or not delta.calls else None
    message: Json = {"role": "assistant", "content": content, "refusal": None}
    if delta.reasoning:
        message["reasoning_content"] = delta.reasoning
    if delta.calls:
        message["tool_calls"] = delta.calls
    if delta.images:
        message["images"] = delta.images
    if delta.signature:
        message["extra_content"] = extra_content(delta.signature)
    finish = finish_of(candidate.finish_reason, called=bool(delta.calls))
    return {
        "index": candidate.index,
        "message": message,
        "logprobs": logprobs_of(candidate),
        "finish_reason": finish,
    }


def numbers_from(start: int, call: Call) -> range:
    """The numbers that calls may still get: one alone for a client that takes no parallel ones."""
    return range(start, 1 if call.one_tool_call else 1 << 20)


def _embeddings(answer: Answer, call: Call) -> tuple[bytes, Usage | None]:
    try:
        vectors = _decode_embeddings(answer.embeddings)
        values = [_base64(one.values) if call.base64 else one.values for one in vectors]
    except (*UNREADABLE, OverflowError) as error:
        raise UpstreamBroken("The provider's embeddings cannot be read.") from error
    data = [{"object": "embedding", "index": number, "embedding": one} for number, one in enumerate(values)]
    usage = answer.usage_metadata.plain() if answer.usage_metadata else None
    count = usage.input if usage else call.tokens_input  # older models do not say: our estimate stands in
    found = {
        "object": "list",
        "data": data,
        "model": call.model,
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }
    return msgspec.json.encode(found), Usage(input=count, total=count) if usage else None


def _base64(values: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
