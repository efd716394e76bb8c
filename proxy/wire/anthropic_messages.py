"""Owns a conversation in Anthropic's form: turns of blocks, made of OpenAI's messages; knows no other field.

Facts: https://docs.anthropic.com/en/api/messages, /build-with-claude/extended-thinking (thinking blocks go back as they
came), /agents-and-tools/tool-use (all results of a turn in one user message, before any text).
"""

import base64
import binascii
import hashlib
import re
from typing import Any, Literal

import msgspec

from proxy.errors import BadRequest

Block = dict[str, Any]

_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w=.-]+)*;base64,", re.ASCII)
# Anthropic's own blocks pass as they are.
_NATIVE = frozenset({"document", "image", "search_result"})
_ID = re.compile(r"[a-zA-Z0-9_-]+")
# What of a thinking block goes back: nothing that a client added.
_THINKING = {"thinking": ("thinking", "signature"), "redacted_thinking": ("data",)}


class Function(msgspec.Struct):
    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct):
    id: str
    function: Function | None = None
    type: str = "function"


class Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    thinking_blocks: list[dict[str, Any]] | None = None
    cache_control: dict[str, Any] | None = None
    is_error: bool | None = None
    audio: Any = None
    function_call: Any = None


class Conversation:
    """Collects the messages of one request; `system` and `turns` are what is sent."""

    def __init__(self) -> None:
        self.system: list[Block] = []
        self.turns: list[dict[str, Any]] = []
        self.tools_used: dict[str, None] = {}  # in the order of their first call
        self._results = 0  # tool results at the head of the last turn

    def add(self, message: Message, path: str) -> None:
        for name in ("audio", "function_call"):
            if getattr(message, name) is not None:
                raise BadRequest(f"{path}.{name} cannot be sent to Anthropic.", param=f"{path}.{name}")
        if message.role in {"system", "developer"}:
            self.system += _cached(_blocks(message.content, path, _TEXT), message)
        elif message.role == "user":
            self._extend("user", _cached(_blocks(message.content, path, _USER), message))
        elif message.role == "assistant":
            self._extend("assistant", self._said(message, path))
        elif message.role == "tool":
            self._add_result(message, path)
        else:
            raise BadRequest(f"{path}: use the role tool, the role function is of the past.", param=f"{path}.role")

    @property
    def thinking_is_lost(self) -> bool:
        """Whether a tool call waits for its answer that came without the thinking before it.

        Anthropic refuses that while thinking is on: "Expected `thinking` or `redacted_thinking`, but found `tool_use`".
        """
        answered = len(self.turns) > 1 and self.turns[-1]["role"] == "user" and self._results > 0
        if not answered or self.turns[-2]["role"] != "assistant":
            return False
        return self.turns[-2]["content"][0]["type"] not in _THINKING

    def _said(self, message: Message, path: str) -> list[Block]:
        blocks = _thinking(message.thinking_blocks)
        blocks += _blocks(message.content, path, _ASSISTANT)
        if message.refusal and message.refusal.strip():
            blocks.append({"type": "text", "text": message.refusal})
        for number, call in enumerate(message.tool_calls or ()):
            blocks.append(_tool_use(call, f"{path}.tool_calls[{number}]"))
            self.tools_used[blocks[-1]["name"]] = None
        return _cached(blocks, message)

    def _add_result(self, message: Message, path: str) -> None:
        if not message.tool_call_id:
            raise BadRequest(
                f"{path}.tool_call_id is missing.", param=f"{path}.tool_call_id", code="missing_required_parameter"
            )
        result: Block = {"type": "tool_result", "tool_use_id": tool_id(message.tool_call_id)}
        if content := _blocks(message.content, path, _USER):
            plain = isinstance(message.content, str)
            result["content"] = content[0]["text"] if plain else content
        if message.is_error:
            result["is_error"] = True
        if not self.turns or self.turns[-1]["role"] != "user":
            self.turns.append({"role": "user", "content": []})
            self._results = 0
        self.turns[-1]["content"].insert(self._results, *_cached([result], message))
        self._results += 1

    def _extend(self, role: str, blocks: list[Block]) -> None:
        """Neighbours of one role are one turn. What has nothing to say is no turn."""
        if not blocks:
            return
        if self.turns and self.turns[-1]["role"] == role:
            self.turns[-1]["content"] += blocks
        else:
            self.turns.append({"role": role, "content": blocks})
            self._results = 0


def tool_id(said: str) -> str:
    """A call's id as Anthropic takes it; another provider's may have other characters."""
    return said if _ID.fullmatch(said) else "toolu_" + hashlib.sha256(said.encode()).hexdigest()[:24]


def _thinking(blocks: list[dict[str, Any]] | None) -> list[Block]:
    """Only what Anthropic signed: a block without its signature is refused there."""
    kept = []
    for block in blocks or ():
        fields = _THINKING.get(str(block.get("type")), ())
        if fields and all(isinstance(block.get(name), str) for name in fields) and block[fields[-1]]:
            kept.append({"type": block["type"], **{name: block[name] for name in fields}})
    return kept


def _tool_use(call: ToolCall, path: str) -> Block:
    if call.function is None:
        raise BadRequest(f"{path}: only calls of functions can be sent to Anthropic.", param=f"{path}.type")
    said = call.function.arguments
    try:
        arguments = msgspec.json.decode(said) if said.strip() else {}
    except (msgspec.DecodeError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise BadRequest(f"{path}.function.arguments is not the JSON of an object.", param=f"{path}.function.arguments")
    return {"type": "tool_use", "id": tool_id(call.id), "name": call.function.name, "input": arguments}


def _cached(blocks: list[Block], message: Message) -> list[Block]:
    """A message's own cache_control is that of its last block."""
    if message.cache_control is not None and blocks:
        blocks[-1]["cache_control"] = message.cache_control
    return blocks


# --- content parts -----------------------------------------------------------------------------------------------

_TEXT = frozenset({"text"})
_USER = frozenset({"text", "image_url", "file"}) | _NATIVE
_ASSISTANT = frozenset({"text", "refusal"})


def _blocks(content: str | list[dict[str, Any]] | None, path: str, allowed: frozenset[str]) -> list[Block]:
    """Empty and blank texts are left out: Anthropic refuses them."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content.strip() else []
    made = (_block(part, f"{path}.content[{number}]", allowed) for number, part in enumerate(content))
    return [block for block in made if block is not None]


def _block(part: dict[str, Any], path: str, allowed: frozenset[str]) -> Block | None:
    kind = str(part.get("type"))
    if kind not in allowed:
        raise BadRequest(f"{path}: a part of type {kind!r} cannot be sent to Anthropic here.", param=f"{path}.type")
    if kind in _NATIVE:
        return part
    value = part.get(kind)
    if kind == "image_url" and isinstance(value, str):
        value = {"url": value}  # OpenAI takes the bare address, too
    if kind in {"text", "refusal"}:
        if not isinstance(value, str):
            raise BadRequest(f"{path}.{kind} is not a text.", param=f"{path}.{kind}")
        block: Block = {"type": "text", "text": value}
        if not value.strip():
            return None
    elif not isinstance(value, dict):
        raise BadRequest(f"{path}.{kind} is not an object.", param=f"{path}.{kind}")
    else:
        block = _image(value, f"{path}.image_url.url") if kind == "image_url" else _file(value, f"{path}.file")
    if part.get("cache_control") is not None:
        block["cache_control"] = part["cache_control"]
    return block


def _image(image: dict[str, Any], path: str) -> Block:
    url = image.get("url")
    if not isinstance(url, str):
        raise BadRequest(f"{path} is missing.", param=path)
    if url.startswith(("https://", "http://")):
        return {"type": "image", "source": {"type": "url", "url": url}}
    kind, data = _data(url, path)
    kind = "image/jpeg" if kind == "image/jpg" else kind
    if kind == "application/pdf":
        return {"type": "document", "source": {"type": "base64", "media_type": kind, "data": data}}
    if kind not in _IMAGES:
        raise BadRequest(f"{path}: Anthropic takes JPEG, PNG, GIF and WebP, not {kind}.", param=path)
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}


def _file(file: dict[str, Any], path: str) -> Block:
    stored, data, name = file.get("file_id"), file.get("file_data"), file.get("filename")
    if isinstance(data, str):
        block = _document(data, f"{path}.file_data")
    elif isinstance(stored, str) and stored.startswith("file_"):
        block = {"type": "document", "source": {"type": "file", "file_id": stored}}
    else:
        raise BadRequest(
            f"{path} needs file_data, or the file_id of a file that is stored at Anthropic.", param=f"{path}.file_id"
        )
    if isinstance(name, str) and name and block["type"] == "document":
        block["title"] = name
    return block


def _document(data: str, path: str) -> Block:
    if data.startswith(("https://", "http://")):
        return {"type": "document", "source": {"type": "url", "url": data}}
    kind, encoded = _data(data, path)
    if kind in _IMAGES:
        return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": encoded}}
    if kind == "application/pdf":
        return {"type": "document", "source": {"type": "base64", "media_type": kind, "data": encoded}}
    if not kind.startswith("text/") and kind != "application/json":
        raise BadRequest(f"{path}: Anthropic takes PDF and text files, not {kind}.", param=path)
    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} is not the base64 of a UTF-8 text.", param=path) from error
    return {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": text}}


def _data(url: str, path: str) -> tuple[str, str]:
    """Media type and base64 of a data URL (RFC 2397)."""
    found = _DATA_URL.match(url)
    if found is None:
        raise BadRequest(f"{path} is neither an http(s) URL nor a base64 data URL.", param=path)
    return found[1].lower(), url[found.end() :]
