"""Owns what a client sent: what its head says of it, whether it has been here before, and its body, within bounds."""

from collections.abc import Awaitable, Callable
from typing import Any

from accounts.addresses import client_address
from accounts.keys import Proof
from proxy import views
from proxy.cycle import ClientGone, Cycle, lines
from proxy.errors import BadRequest, BodyTooLarge, LoopDetected, Unavailable
from proxy.policy import Policy
from proxy.runtime import Runtime

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class Fields(dict[bytes, bytes]):
    """A request's header fields by name; of one that stands several times the last value, and `all` of them."""

    __slots__ = ("_only", "pairs")

    def __init__(self, pairs: Headers) -> None:
        super().__init__(pairs)
        self.pairs = pairs
        self._only: dict[frozenset[bytes], Headers] = {}

    def only(self, names: frozenset[bytes]) -> Headers:
        """The fields of these names; not to be written to."""
        found = self._only.get(names)
        if found is None:
            found = self._only[names] = [pair for pair in self.pairs if pair[0] in names]
        return found

    def all(self, name: bytes) -> list[bytes]:
        if len(self) == len(self.pairs):
            return [self[name]] if name in self else []
        return [value for other, value in self.pairs if other == name]


class Caller:
    """Who asks, from where, and for what, by a request's head. All requests of a connection with the same share it:
    nothing in it may depend on the time, or on what the database says."""

    __slots__ = (
        "_scope",
        "address",
        "cors",
        "dialect",
        "endpoint",
        "fields",
        "id_fields",
        "is_suspect",
        "key",
        "path",
        "proof",
        "proven",
    )

    def __init__(self, runtime: Runtime, scope: Scope) -> None:
        self._scope = scope
        self.fields = fields = Fields(scope["headers"])
        self.path: str = scope["path"]
        self.dialect = views.dialect_of(self.path)
        # The lines of an answer's head with the request's id, for which the * stands.
        self.id_fields = lines([(name, b"*") for name in self.dialect.request_id_headers])
        self.cors = lines(runtime.cors(fields.get(b"origin", b"")))
        self.address = address_of(runtime, scope, fields)
        self.key = ""
        self.proof: Proof | None = None  # whose the key was found to be
        self.proven: Policy | None = None  # the policy that was last found to be of this key
        self.is_suspect = not _SUSPECT.isdisjoint(fields)  # look with `check_head`
        self.endpoint: views.Endpoint | None = None

    def resolve(self) -> views.Endpoint:
        """What is asked for. NotFound, MethodNotAllowed, BadRequest."""
        scope = self._scope
        self.endpoint = endpoint = views.resolve(self.path, scope["method"], scope["query_string"])
        return endpoint


_SUSPECT = frozenset({b"via", b"content-encoding"})


def check_head(runtime: Runtime, fields: Fields) -> None:
    """LoopDetected and BadRequest, before anything is read or asked."""
    if any(runtime.via in value for value in fields.all(b"via")):
        raise LoopDetected("This request has been through this proxy before: a provider's base URL points back at it.")
    if any(value.strip().lower() != b"identity" for value in fields.all(b"content-encoding")):
        raise BadRequest("Compressed request bodies are not taken; send it as it is.", code="content_encoding")


def address_of(runtime: Runtime, scope: Scope, fields: Fields) -> str:
    """The client's address, past our own proxies."""
    client = scope.get("client")
    peer = str(client[0]) if client else ""
    if not runtime.trusted:
        return peer
    forwarded = [value.decode("latin-1") for value in fields.all(b"x-forwarded-for")]
    return client_address(peer, forwarded, runtime.trusted)


def _too_many() -> Unavailable:
    return Unavailable("Too many large requests are under way. Try again.", code="overloaded", retry_after_ms=1000)


class Body:
    """A request's body; counts against the worker's total until it is released."""

    __slots__ = ("_runtime", "_size")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._size = 0

    def take(self, cycle: Cycle) -> bytes | None:
        """The body, if all of it is here; else `read` it. Raises as that does."""
        body = cycle.whole_body()
        if body is not None:
            self._size = size = len(body)
            runtime = self._runtime
            runtime.bodies += size
            if runtime.bodies > runtime.max_bodies:
                raise _too_many()
            if size > runtime.max_body:
                raise self._too_large()
        return body

    async def read(self, cycle: Cycle) -> bytes:
        """The whole body. BodyTooLarge beyond the cap; Unavailable when all bodies together are too much."""
        if cycle.length > self._runtime.max_body:
            raise self._too_large()
        parts = []
        while True:
            message = await cycle.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            parts.append(part)
            self.hold(len(part))
            if self._size > self._runtime.max_body:
                raise self._too_large()
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def hold(self, size: int) -> None:
        """So many bytes more are in memory. Unavailable when all bodies together are too much."""
        self._size += size
        self._runtime.bodies += size
        if self._runtime.bodies > self._runtime.max_bodies:
            raise _too_many()

    def release(self) -> None:
        self._runtime.bodies -= self._size
        self._size = 0

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"The body is larger than {self._runtime.max_body} bytes.")
