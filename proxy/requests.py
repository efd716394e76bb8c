"""Owns what we read of a request's body, and only that: a `Call` for each kind of request. Pure.

A field that we read and that stands twice is refused: the provider might read the other one.
"""

import json
import re
from typing import Any, Generic, TypeVar

import msgspec

from proxy.errors import BadRequest, ProxyError
from proxy.wire import UNREADABLE, Call
from proxy.wire.fields import decode

T = TypeVar("T", bound=msgspec.Struct)

# Reserved for an answer of unknown length; the real count replaces it at the end.
DEFAULT_OUTPUT = 1024
# Tokens are counted up to here; the limiter adds them up, and has no room for a number without end.
MOST_OUTPUT = (1 << 31) - 1
# What an image, a sound or a file counts until the provider says (tokens).
MEDIA_TOKENS = 1000
# Parts that hold media, in OpenAI's dialects and in Anthropic's.
_MEDIA_TYPES = ("image_url", "input_image", "input_audio", "file", "input_file", "image", "document")
# JSON's white space.
_BLANK = "[ \\t\\r\\n]*"
# One pass: to `find` each takes six times as long in a text of 10 KB.
_may_hold_media = re.compile(f'"type"{_BLANK}:{_BLANK}"(?:{"|".join(_MEDIA_TYPES)})"'.encode()).search
# Bytes; of less it is as quick to look through them.
WORTH_CUTTING = 2_048
MAX_MODEL_LENGTH = 200
MOST_MODELS = 10
# Whom OpenAI asks when a moderation names no model.
DEFAULT_MODERATION = "omni-moderation-latest"
# How a letter, or the underscore, of a field's name could hide.
_ESCAPED_LETTER = re.compile(rb"\\u00(?:5[fF]|[67])")


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Chat(msgspec.Struct):
    messages: msgspec.Raw
    tools: msgspec.Raw = msgspec.Raw()
    response_format: msgspec.Raw = msgspec.Raw()
    model: str | None = None
    models: list[str] | msgspec.UnsetType | None = msgspec.UNSET  # OpenRouter's form of a fallback list
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    parallel_tool_calls: bool | None = None


class _Messages(msgspec.Struct):
    model: str
    messages: msgspec.Raw
    max_tokens: int
    system: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    stream: bool | None = None


class _Count(msgspec.Struct):
    model: str
    messages: msgspec.Raw
    system: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()


class _Embeddings(msgspec.Struct):
    model: str
    input: msgspec.Raw
    encoding_format: str | None = None


class _Responses(msgspec.Struct):
    model: str | None = None
    models: list[str] | msgspec.UnsetType | None = msgspec.UNSET
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    instructions: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    stream: bool | None = None
    max_output_tokens: int | None = None
    parallel_tool_calls: bool | None = None
    background: bool | None = None


class _Images(msgspec.Struct):
    model: str
    prompt: msgspec.Raw
    n: int | None = None
    stream: bool | None = None


class _Speech(msgspec.Struct):
    model: str
    input: msgspec.Raw
    stream_format: str | None = None


class _Moderation(msgspec.Struct):
    input: msgspec.Raw
    model: str | None = None


class _Reader(Generic[T]):
    """Reads a body of one kind. BadRequest says what is wrong with it, and where."""

    def __init__(self, shape: type[T], *long: str) -> None:
        """`long`: the fields that most of a body may be."""
        self._decode = msgspec.json.Decoder(shape).decode
        self._fields = shape.__struct_fields__
        self._names_in = re.compile(f'"(?:{"|".join(self._fields)})"'.encode()).findall
        self._long = [(name, re.compile(f'"{name}"{_BLANK}:{_BLANK}'.encode()).search) for name in long]

    def __call__(self, body: bytes) -> T:
        try:
            request = self._decode(body)
        except msgspec.ValidationError as error:
            raise _wrong_field(error) from error
        except UNREADABLE as error:
            raise _not_json(error) from error
        if self._may_be_twice(body if len(body) < WORTH_CUTTING else self._shortened(body, request)):
            self._refuse_twice(body)
        return request

    def _shortened(self, body: bytes, request: T) -> bytes:
        """The body less its long values, which hold no key of the top level, wherever each is found first."""
        for name, find in self._long:
            value = bytes(getattr(request, name))
            found = find(body)
            if found is not None and body.startswith(value, found.end()):
                body = body[: found.end()] + body[found.end() + len(value) :]
        return body

    def _may_be_twice(self, body: bytes) -> bool:
        """Whether a name stands more than once in the body, or might in escapes of ASCII letters."""
        if body.find(b"\\u00") >= 0 and _ESCAPED_LETTER.search(body) is not None:
            return True
        found = self._names_in(body)
        return len(set(found)) < len(found)

    def _refuse_twice(self, body: bytes) -> None:
        """A key that we read must occur once at the top level: the provider might read the other one."""
        seen: list[str] = []

        def note(pairs: list[tuple[str, Any]]) -> None:
            seen[:] = [name for name, _ in pairs]  # the outermost object comes last

        try:
            json.loads(body, object_pairs_hook=note)
        except (ValueError, RecursionError) as error:
            raise _not_json(error) from error
        for field in self._fields:
            if seen.count(field) > 1:
                raise BadRequest(f"{field} occurs twice in the body.", param=field, code="duplicate_parameter")


_chat = _Reader(_Chat, "messages", "tools", "response_format")
_messages = _Reader(_Messages, "messages", "tools", "system")
_count = _Reader(_Count, "messages", "tools", "system")
_responses = _Reader(_Responses, "input", "tools", "instructions")
_embeddings = _Reader(_Embeddings, "input")
_images = _Reader(_Images, "prompt")
_speech = _Reader(_Speech, "input")
_moderation = _Reader(_Moderation, "input")


def decode_chat(body: bytes) -> Call:
    """https://platform.openai.com/docs/api-reference/chat/create"""
    request = _chat(body)
    model, fallbacks = _models(request.model, request.models)
    max_output = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
    copies = request.n if request.n is not None else 1
    if max_output is not None and not 0 <= max_output <= MOST_OUTPUT:
        raise _bad_limit("max_tokens" if request.max_completion_tokens is None else "max_completion_tokens")
    if not 1 <= copies <= 128:
        raise BadRequest("n must be 1 to 128.", param="n", code="invalid_value")
    output = max_output if max_output is not None else DEFAULT_OUTPUT
    return Call(  # in the order of its fields: to name them costs seven times as much
        model,
        fallbacks,
        bool(request.stream),
        bool(request.stream_options and request.stream_options.include_usage),
        max_output,
        input_tokens(bytes(request.messages)),
        output * copies,
        request.parallel_tool_calls is False,
    )


def decode_messages(body: bytes) -> Call:
    """https://docs.anthropic.com/en/api/messages"""
    request = _messages(body)
    _check_model(request.model)
    if not 1 <= request.max_tokens <= MOST_OUTPUT:
        raise _bad_limit("max_tokens", least=1)
    return Call(
        model=request.model,
        stream=bool(request.stream),
        include_usage=True,
        max_output=request.max_tokens,
        tokens_input=input_tokens(body),
        tokens_output=request.max_tokens,
    )


def decode_count(body: bytes) -> Call:
    """https://docs.anthropic.com/en/api/messages-count-tokens; a count takes no tokens itself."""
    request = _count(body)
    _check_model(request.model)
    return Call(model=request.model)


def estimated_count(body: bytes) -> bytes:
    return msgspec.json.encode({"input_tokens": input_tokens(body)})


def decode_embeddings(body: bytes) -> Call:
    """https://platform.openai.com/docs/api-reference/embeddings/create"""
    request = _embeddings(body)
    _check_model(request.model)
    return Call(
        model=request.model,
        tokens_input=max(1, len(bytes(request.input)) // 4),
        base64=request.encoding_format == "base64",
    )


def decode_responses(body: bytes) -> Call:
    """https://platform.openai.com/docs/api-reference/responses/create. A prompt template may name the model."""
    request = _responses(body)
    nameless = request.model is None and request.models is msgspec.UNSET and bytes(request.prompt)
    model, fallbacks = ("", None) if nameless else _models(request.model, request.models)
    if request.max_output_tokens is not None and not 0 <= request.max_output_tokens <= MOST_OUTPUT:
        raise _bad_limit("max_output_tokens")
    if request.background:  # what is answered before the work is done says nothing of its tokens, nor does what is next
        raise BadRequest(
            "background: tokens are counted as an answer says them, and one in the background is given before it has "
            "any. Leave it out, and stream what takes long.",
            param="background",
            code="unsupported_parameter",
        )
    asked = bytes(request.input)
    return Call(
        model=model,
        fallbacks=fallbacks,
        stream=bool(request.stream),
        include_usage=True,
        max_output=request.max_output_tokens,
        tokens_input=(input_tokens(asked) if asked else 0) + len(bytes(request.instructions)) // 4,
        tokens_output=request.max_output_tokens if request.max_output_tokens is not None else DEFAULT_OUTPUT,
        one_tool_call=request.parallel_tool_calls is False,
    )


def decode_images(body: bytes) -> Call:
    """https://platform.openai.com/docs/api-reference/images/create"""
    request = _images(body)
    _check_model(request.model)
    copies = request.n if request.n is not None else 1
    if not 1 <= copies <= 128:
        raise BadRequest("n must be 1 to 128.", param="n", code="invalid_value")
    return Call(
        model=request.model,
        stream=bool(request.stream),
        tokens_input=input_tokens(bytes(request.prompt)),
        tokens_output=copies * MEDIA_TOKENS,
    )


def decode_speech(body: bytes) -> Call:
    """https://platform.openai.com/docs/api-reference/audio/createSpeech"""
    request = _speech(body)
    _check_model(request.model)
    return Call(
        model=request.model,
        stream=request.stream_format == "sse",
        tokens_input=input_tokens(bytes(request.input)),
        tokens_output=MEDIA_TOKENS,
    )


def decode_moderation(body: bytes) -> Call:
    """https://platform.openai.com/docs/api-reference/moderations/create"""
    request = _moderation(body)
    model = request.model if request.model is not None else DEFAULT_MODERATION
    _check_model(model)
    return Call(model=model, tokens_input=input_tokens(bytes(request.input)))


def decode_form(model: str) -> Call:
    """Of a form only the model is read: what it holds is not known until the provider says."""
    _check_model(model)
    return Call(model=model, tokens_input=MEDIA_TOKENS, tokens_output=MEDIA_TOKENS)


def refuse_json(body: bytes) -> Call:
    raise BadRequest("This URL takes a form: send multipart/form-data.", code="invalid_content_type")


def input_tokens(value: bytes) -> int:
    """Estimated tokens of a JSON value: text bytes / 4, each image, sound or file as MEDIA_TOKENS."""
    if _may_hold_media(value) is None:
        return len(value) // 4 + 1
    text, media = 0, 0
    waiting: list[Any] = [decode(value)]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            text += len(item.encode("utf-8", "surrogatepass"))
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            is_media = item.get("type") in _MEDIA_TYPES
            media += is_media
            waiting += [] if is_media else item.values()
    return text // 4 + media * MEDIA_TOKENS + 1


def _not_json(error: Exception) -> BadRequest:
    return BadRequest(f"The body is not JSON that can be read: {error}", code="invalid_json")


def _wrong_field(error: msgspec.ValidationError) -> ProxyError:
    """msgspec says "Expected `bool`, got `str` - at `$.stream`": the path is OpenAI's `param`."""
    said, _, path = str(error).partition(" - at `$")
    param = path.strip("`.") or None
    if said.startswith("Object missing required field"):
        field = said.split("`")[1]
        param = f"{param}.{field}" if param else field
        return BadRequest(f"{param} is missing.", param=param, code="missing_required_parameter")
    return BadRequest(f"{param or 'The body'}: {said}.", param=param, code="invalid_type")


def _bad_limit(param: str, *, least: int = 0) -> BadRequest:
    return BadRequest(f"{param} must be {least} to {MOST_OUTPUT}.", param=param, code="invalid_value")


def _models(model: str | None, models: list[str] | msgspec.UnsetType | None) -> tuple[str, tuple[str, ...] | None]:
    """The model, and those to be asked when it is not served; `model` comes before `models`."""
    if models is msgspec.UNSET and model is not None:
        _check_model(model)
        return model, None
    listed = models if isinstance(models, list) else []
    if models == [] or len(listed) > MOST_MODELS:
        raise BadRequest(f"models must hold 1 to {MOST_MODELS} names.", param="models", code="invalid_value")
    for name in listed:
        _check_model(name, "models")
    if model is not None:
        _check_model(model)
        listed = [model, *listed]
    elif not listed:
        raise BadRequest("model is missing.", param="model", code="missing_required_parameter")
    return listed[0], None if models is msgspec.UNSET else tuple(listed[1:])


def with_one_model(body: bytes, model: str) -> bytes:
    """The body as if it had asked for this model alone: `models` is ours, no provider knows it."""
    fields: dict[str, msgspec.Raw] = decode(body, dict[str, msgspec.Raw])
    del fields["models"]
    return msgspec.json.encode(fields | {"model": msgspec.Raw(msgspec.json.encode(model))})


def _check_model(model: str, param: str = "model") -> None:
    if not model or len(model) > MAX_MODEL_LENGTH or not model.isprintable():
        raise BadRequest(
            f"{param} must be a name of 1 to {MAX_MODEL_LENGTH} printable characters.",
            param=param,
            code="invalid_value",
        )
