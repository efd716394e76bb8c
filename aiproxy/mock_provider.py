"""Owns a small OpenAI-compatible server for demos and manual tests: it answers, it does not think. Knows no Django.

Chat completions (plain, streamed), embeddings, models, and OpenAI's errors, over HTTP/1.1 on asyncio streams.
Shapes: https://platform.openai.com/docs/api-reference; what real streams look like is in the recorded traffic.
"""

import asyncio
import base64
import contextlib
import hashlib
import itertools
import json
import math
import random
import re
import struct
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

CHAT_MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-5", "gpt-5-mini", "gpt-5-nano")
EMBEDDING_MODELS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072}
CREATED = 1_735_689_600
MAX_HEAD = 64 << 10
MAX_BODY = 32 << 20
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found"}
REASONS |= {413: "Content Too Large", 431: "Request Header Fields Too Large"}

JSON = dict[str, Any]


@dataclass
class Refused(Exception):
    """An answer that is an error, in OpenAI's shape."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    kind: str = "invalid_request_error"

    def body(self) -> JSON:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> JSON:
        try:
            value = json.loads(self.body)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Refused(400, "We could not parse the JSON body of your request.")
        return value


# --- What it says ------------------------------------------------------------------------------------


def count_tokens(text: str) -> int:
    """About four characters a token, as OpenAI's rule of thumb has it."""
    return math.ceil(len(text) / 4)


def text_of(content: object) -> str:
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


@dataclass
class Completion:
    """One answer, told whole or in pieces."""

    model: str
    pieces: list[str]
    finish_reason: str
    prompt_tokens: int
    choices: int
    id: str
    created: int

    @classmethod
    def to(cls, request: JSON) -> "Completion":
        messages = request.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Refused(
                400, "Missing required parameter: 'messages'.", code="missing_required_parameter", param="messages"
            )
        said = [text_of(message.get("content")) for message in messages if isinstance(message, dict)]
        asked = [text_of(m.get("content")) for m in messages if isinstance(m, dict) and m.get("role") == "user"]
        question = asked[-1].strip() if asked else ""
        answer = (
            f"You said: “{question}” " if question else ""
        ) + "I am the demo provider: I only echo, but every word came through the proxy. Nice to meet you!"
        pieces = re.findall(r"\s*\S+", answer)
        limit = request.get("max_completion_tokens") or request.get("max_tokens")
        cut = isinstance(limit, int) and 0 < limit < len(pieces)
        return cls(
            model=request["model"],
            pieces=pieces[:limit] if cut else pieces,
            finish_reason="length" if cut else "stop",
            prompt_tokens=sum(count_tokens(text) + 4 for text in said),
            choices=min(max(int(request.get("n") or 1), 1), 8),
            id=f"chatcmpl-{uuid.uuid4().hex[:29]}",
            created=int(time.time()),
        )

    def usage(self) -> JSON:
        completion = len(self.pieces) * self.choices
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def _frame(self, kind: str, choices: list[JSON]) -> JSON:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": None,
            "choices": choices,
        }

    def whole(self) -> JSON:
        message: JSON = {"role": "assistant", "content": "".join(self.pieces), "refusal": None, "annotations": []}
        choices = [
            {"index": index, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
            for index in range(self.choices)
        ]
        return self._frame("chat.completion", choices) | {"usage": self.usage()}

    def chunks(self, *, include_usage: bool) -> Iterator[JSON]:
        """With usage asked for, every chunk has `usage: null` and one more, without choices, has the figures."""
        extra: JSON = {"usage": None} if include_usage else {}
        first: JSON = {"role": "assistant", "content": "", "refusal": None}
        deltas = [(first, None), *(({"content": piece}, None) for piece in self.pieces), ({}, self.finish_reason)]
        for (delta, finish), index in itertools.product(deltas, range(self.choices)):
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
            yield self._frame("chat.completion.chunk", [choice]) | extra
        if include_usage:
            yield self._frame("chat.completion.chunk", []) | {"usage": self.usage()}


def embed(text: str, dimensions: int) -> list[float]:
    """A unit vector that depends on the text alone."""
    dice = random.Random(hashlib.sha256(text.encode()).digest())  # noqa: S311 - repeatable, not secret
    vector = [dice.gauss(0, 1) for _ in range(dimensions)]
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def embeddings(request: JSON) -> JSON:
    given = request.get("input")
    if not given or not isinstance(given, str | list):
        raise Refused(400, "Missing required parameter: 'input'.", code="missing_required_parameter", param="input")
    one = isinstance(given, str) or isinstance(given[0], int)
    inputs = [given] if one else given
    asked = request.get("dimensions")
    dimensions = asked if isinstance(asked, int) and 0 < asked <= 3072 else EMBEDDING_MODELS[request["model"]]
    data = []
    for index, item in enumerate(inputs):
        vector: list[float] | str = embed(item if isinstance(item, str) else json.dumps(item), dimensions)
        if request.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    tokens = sum(count_tokens(item) if isinstance(item, str) else len(item) for item in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": request["model"], "usage": usage}


def model_record(name: str) -> JSON:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "system"}


def model_of(request: JSON, known: tuple[str, ...]) -> None:
    name = request.get("model")
    if not isinstance(name, str) or not name:
        raise Refused(400, "you must provide a model parameter")
    if name not in known:
        raise Refused(
            404, f"The model `{name}` does not exist or you do not have access to it.", code="model_not_found"
        )


# --- How it says it ----------------------------------------------------------------------------------


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        raise Refused(431, "The request's head is too large.") from None
    lines = head.decode("latin-1").split("\r\n")
    try:
        method, target, _ = lines[0].split(" ")
    except ValueError:
        raise Refused(400, "This is not an HTTP/1.1 request.") from None
    fields = (line.partition(":") for line in lines[1:] if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return Request(method, target.partition("?")[0], headers, await _read_body(reader, headers))


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            if len(body) + size > MAX_BODY:
                raise Refused(413, "The request's body is too large.")
            body += await reader.readexactly(size)
            await reader.readline()
        while (await reader.readline()).strip():
            pass  # trailers
        return body
    length = int(headers.get("content-length") or 0)
    if length > MAX_BODY:
        raise Refused(413, "The request's body is too large.")
    return await reader.readexactly(length)


def response_head(status: int, content_type: str, framing: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {REASONS[status]}",
        f"Content-Type: {content_type}",
        framing,
        f"x-request-id: req_{uuid.uuid4().hex}",
        "openai-version: 2020-10-01",
        "openai-processing-ms: 1",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class MockProvider:
    """The server. `pace` is the pause between streamed chunks, in seconds."""

    def __init__(self, *, pace: float = 0.03) -> None:
        self.pace = pace
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listens; returns the port (useful when 0 was asked for)."""
        self._server = await asyncio.start_server(self._connected, host, port, limit=MAX_HEAD)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ValueError):
                while await self._exchange(reader, writer):
                    pass
        except asyncio.CancelledError:
            pass  # stop(): asyncio would report a cancelled connection as an error
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection may carry another."""
        try:
            request = await read_request(reader, writer)
            if request is None:
                return False
        except Refused as refused:
            await self._send_json(writer, refused.status, refused.body())
            return False
        try:
            answer = self.answer(request)
        except Refused as refused:
            await self._send_json(writer, refused.status, refused.body())
        else:
            if isinstance(answer, dict):
                await self._send_json(writer, 200, answer)
            else:
                await self._send_events(writer, answer)
        return request.headers.get("connection", "").lower() != "close"

    def answer(self, request: Request) -> JSON | Iterator[JSON]:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Refused(401, "You didn't provide an API key.", code="invalid_api_key")
        known = (*CHAT_MODELS, *EMBEDDING_MODELS)
        match (request.method, request.path):
            case ("GET", "/v1/models"):
                return {"object": "list", "data": [model_record(name) for name in known]}
            case ("GET", path) if path.startswith("/v1/models/"):
                name = path.removeprefix("/v1/models/")
                model_of({"model": name}, known)
                return model_record(name)
            case ("POST", "/v1/chat/completions"):
                body = request.json()
                model_of(body, CHAT_MODELS)
                completion = Completion.to(body)
                if not body.get("stream"):
                    return completion.whole()
                options = body.get("stream_options") or {}
                return completion.chunks(include_usage=bool(options.get("include_usage")))
            case ("POST", "/v1/embeddings"):
                body = request.json()
                model_of(body, tuple(EMBEDDING_MODELS))
                return embeddings(body)
            case _:
                raise Refused(404, f"Invalid URL ({request.method} {request.path})")

    async def _send_json(self, writer: asyncio.StreamWriter, status: int, value: JSON) -> None:
        body = json.dumps(value, ensure_ascii=False).encode()
        writer.write(response_head(status, "application/json", f"Content-Length: {len(body)}") + body)
        await writer.drain()

    async def _send_events(self, writer: asyncio.StreamWriter, chunks: Iterator[JSON]) -> None:
        writer.write(response_head(200, "text/event-stream; charset=utf-8", "Transfer-Encoding: chunked"))
        async for event in self._paced(chunks):
            writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _paced(self, chunks: Iterator[JSON]) -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
            await asyncio.sleep(self.pace)
        yield b"data: [DONE]\n\n"
