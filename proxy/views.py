"""Owns the URLs of the data plane: what each takes, who can be asked, and in which dialect. Pure."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from proxy import requests
from proxy.dialect import Dialect, chat, messages, responses
from proxy.errors import BadRequest, MethodNotAllowed, NotFound
from proxy.wire import Call, Wire, anthropic_native, openai_responses
from proxy.wires import MEDIA, WIRES, translated

# Forms pass through in pieces; these are OpenAI's own limits with something to spare (bytes).
MAX_AUDIO = 26 << 20
MAX_IMAGES = 50 << 20


@dataclass(frozen=True, slots=True)
class Endpoint:
    name: str
    method: str
    decode: Callable[[bytes], Call]
    wires: Mapping[str, Wire]  # by provider: who can be asked, and how; none: it is about models, and the proxy's own
    dialect: Dialect = chat.DIALECT
    local: Callable[[bytes], bytes] | None = None  # our own answer to this body, for providers that are not in `wires`
    max_form: int = 0  # bytes; 0: it takes no form
    is_binary: bool = False  # its answer is passed on as it comes
    is_estimated: bool = True  # what its answer says no usage of may have cost what we expected
    is_free: bool = False  # nothing is generated, however it ends


CHAT = Endpoint("chat.completions", "POST", requests.decode_chat, WIRES)
EMBEDDINGS = Endpoint(
    "embeddings",
    "POST",
    requests.decode_embeddings,
    {slug: wire for slug, wire in WIRES.items() if slug != "anthropic"},
)
MESSAGES = Endpoint(
    "messages",
    "POST",
    requests.decode_messages,
    translated(messages.TRANSLATION) | {"anthropic": anthropic_native.WIRE},
    dialect=messages.DIALECT,
)
COUNT_TOKENS = Endpoint(
    "messages.count_tokens",
    "POST",
    requests.decode_count,
    {"anthropic": anthropic_native.COUNT},
    dialect=messages.DIALECT,
    local=requests.estimated_count,
    is_estimated=False,
    is_free=True,
)
MODELS = Endpoint("models", "GET", lambda _: Call(model=""), {})
IMAGES = Endpoint("images.generations", "POST", requests.decode_images, MEDIA, is_estimated=False)
SPEECH = Endpoint("audio.speech", "POST", requests.decode_speech, MEDIA, is_binary=True, is_estimated=False)
TRANSCRIPTIONS = Endpoint(
    "audio.transcriptions", "POST", requests.refuse_json, MEDIA, max_form=MAX_AUDIO, is_estimated=False
)
MODERATIONS = Endpoint("moderations", "POST", requests.decode_moderation, MEDIA, is_estimated=False)
RESPONSES = Endpoint(
    "responses",
    "POST",
    requests.decode_responses,
    translated(responses.TRANSLATION) | {"openai": openai_responses.WIRE},
    dialect=responses.DIALECT,
)

_ENDPOINTS = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": COUNT_TOKENS,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/models": MODELS,
    "/v1/images/generations": IMAGES,
    "/v1/images/edits": replace(IMAGES, name="images.edits", max_form=MAX_IMAGES),
    "/v1/audio/speech": SPEECH,
    "/v1/audio/transcriptions": TRANSCRIPTIONS,
    "/v1/audio/translations": replace(TRANSCRIPTIONS, name="audio.translations"),
    "/v1/moderations": MODERATIONS,
    "/v1/responses": RESPONSES,
}
_MODEL_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:/@+")


def dialect_of(path: str) -> Dialect:
    """How to answer at this URL, whatever is wrong with the request."""
    endpoint = _ENDPOINTS.get(path)
    if endpoint is not None:
        return endpoint.dialect
    if path.startswith("/v1/responses/"):
        return responses.DIALECT
    return messages.DIALECT if path.startswith("/v1/messages/") else chat.DIALECT


def resolve(path: str, method: str, query: bytes = b"") -> Endpoint:
    """The endpoint of a URL; NotFound and MethodNotAllowed as their names say."""
    endpoint = _ENDPOINTS.get(path)
    if endpoint is None and path.startswith("/v1/models/"):
        endpoint = _model(path.removeprefix("/v1/models/"))
    if endpoint is None and path.startswith("/v1/responses/"):
        endpoint = _stored_response(path, method, query)
    if endpoint is None:
        raise NotFound(f"There is nothing at {path[:100]}. See docs/API.md for what is.", code="unknown_url")
    if endpoint.method != method:
        raise MethodNotAllowed(endpoint.method)
    return endpoint


def _model(name: str) -> Endpoint | None:
    """One model's page."""
    if not name or len(name) > requests.MAX_MODEL_LENGTH or not _MODEL_CHARACTERS.issuperset(name) or ".." in name:
        return None
    return Endpoint("model", "GET", lambda _: Call(model=name), {})


# A Response that OpenAI stores: its id, and what is asked of it.
_STORED = re.compile(r"/v1(/responses/resp[A-Za-z0-9_-]{1,200}(/cancel|/input_items)?)", re.ASCII)
_METHODS = {None: ("GET", "DELETE"), "/cancel": ("POST",), "/input_items": ("GET",)}
_QUERY = re.compile(rb"[A-Za-z0-9_.%=&\[\]-]{0,500}")


def _stored_response(path: str, method: str, query: bytes) -> Endpoint | None:
    """Path and query become part of the provider's URL: no more than they need may be in them."""
    found = _STORED.fullmatch(path)
    if found is None:
        return None
    if not _QUERY.fullmatch(query):
        raise BadRequest("The URL's query has characters that no field of it needs.")
    methods = _METHODS[found[2]]
    url = f"{found[1]}?{query.decode()}" if query else found[1]
    call = Call(model="", stream=b"stream=true" in query.split(b"&"))
    wires = {"openai": openai_responses.stored(url)}
    method = method if method in methods else methods[0]
    name, dialect = "responses.stored", responses.DIALECT
    return Endpoint(name, method, lambda _: call, wires, dialect, is_estimated=False, is_free=True)
