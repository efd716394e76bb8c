"""Owns a conversation on its way to Google: OpenAI's messages to `systemInstruction` and `contents`. Pure.

Roles are `user` and `model`; one turn's function responses stand together, in a content of their own, in the order of
their calls. Facts: https://ai.google.dev/api/caching#Content, /gemini-api/docs/function-calling, /thought-signatures.
"""

import re
from typing import Any, TypeAlias

import msgspec

from proxy.errors import BadRequest
from proxy.wire.fields import expect, word
from proxy.wire.google_capabilities import Capabilities

Json: TypeAlias = dict[str, Any]

# Stands for a signature that the history does not have: the calls of another model, or of a client that lost it.
# https://ai.google.dev/gemini-api/docs/thought-signatures; base64 of "skip_thought_signature_validator".
NO_SIGNATURE = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="
FILES = "https://generativelanguage.googleapis.com/"

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[^,;]*)*;base64,", re.ASCII)
# Of an address on the web, by its ending. Without one Google is not told.
_KINDS = {
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "bmp": "image/bmp",
    "heic": "image/heic",
    "heif": "image/heif",
    "gif": "image/gif",
    "pdf": "application/pdf",
    "txt": "text/plain",
    "csv": "text/csv",
    "html": "text/html",
    "json": "application/json",
    "mp4": "video/mp4",
    "mov": "video/quicktime",
    "webm": "video/webm",
    "mp3": "audio/mp3",
    "wav": "audio/wav",
}
_AUDIO = {"wav": "audio/wav", "mp3": "audio/mp3"}


def bad(message: str, param: str, code: str = "invalid_value") -> BadRequest:
    return BadRequest(message, param=param, code=code)


def conversation(messages: Any, able: Capabilities) -> Json:
    """`contents`, and `systemInstruction` if there is one. BadRequest names what has no counterpart."""
    builder = _Contents(able)
    for number, message in enumerate(expect(messages, list, "messages")):
        builder.add(expect(message, dict, f"messages[{number}]"), f"messages[{number}]")
    return builder.finish()


class _Contents:
    def __init__(self, able: Capabilities) -> None:
        self._able = able
        self._system: list[Json] = []
        self._contents: list[Json] = []
        self._calls: dict[str, str] = {}  # of the last assistant turn: id -> function name
        self._results: dict[str, Json] = {}
        self._asked_at = ""

    def add(self, message: Json, at: str) -> None:
        role = word(message.get("role"))
        if role == "tool":
            self._result(message, at)
            return
        self._close_turn()
        if role in {"system", "developer"}:
            self._system += parts_of(message.get("content"), f"{at}.content")
        elif role == "user":
            self._append("user", parts_of(message.get("content"), f"{at}.content", media=self._able))
        elif role == "assistant":
            self._assistant(message, at)
        else:
            raise bad(f"{at}.role must be system, developer, user, assistant or tool.", f"{at}.role")

    def finish(self) -> Json:
        self._close_turn()
        found: Json = {}
        if not self._contents:  # instructions alone are not answered
            self._append("user", self._system)
        elif self._system:
            found["systemInstruction"] = {"parts": self._system}
        if not self._contents:
            raise bad("There is no message with any content.", "messages")
        return {"contents": self._contents, **found}

    def _append(self, role: str, parts: list[Json]) -> None:
        if not parts:
            return
        last = self._contents[-1] if self._contents else None
        if last is not None and last["role"] == role and "functionResponse" not in last["parts"][0]:
            last["parts"] += parts
        else:
            self._contents.append({"role": role, "parts": parts})

    def _assistant(self, message: Json, at: str) -> None:
        for name in ("audio", "function_call"):
            if message.get(name) is not None:
                raise bad(f"{name} of an assistant message has no counterpart.", f"{at}.{name}", "unsupported_value")
        parts = parts_of(message.get("content"), f"{at}.content")
        if message.get("refusal"):
            parts.append({"text": expect(message["refusal"], str, f"{at}.refusal")})
        for number, picture in enumerate(expect(message.get("images") or [], list, f"{at}.images")):
            param = f"{at}.images[{number}]"
            parts.append(_image(expect(picture, dict, param).get("image_url"), f"{param}.image_url", self._able))
            if signature := signature_of(picture):
                parts[-1]["thoughtSignature"] = signature
        if signature := signature_of(message):
            if unsigned := [part for part in parts if "thoughtSignature" not in part]:
                unsigned[-1]["thoughtSignature"] = signature
            elif not message.get("tool_calls"):
                parts.append({"text": "", "thoughtSignature": signature})
        for number, call in enumerate(expect(message.get("tool_calls") or [], list, f"{at}.tool_calls")):
            parts.append(self._call(call, f"{at}.tool_calls[{number}]", first=number == 0))
        self._asked_at = at
        self._append("model", parts)

    def _call(self, call: Any, at: str, *, first: bool) -> Json:
        function = expect(expect(call, dict, at).get("function"), dict, f"{at}.function")
        name = expect(function.get("name"), str, f"{at}.function.name")
        call_id = expect(call.get("id"), str, f"{at}.id")
        if call_id in self._calls:
            raise bad(f"{at}.id occurs twice in its message.", f"{at}.id")
        self._calls[call_id] = name
        part: Json = {"functionCall": {"id": call_id, "name": name, "args": _arguments(function, at)}}
        signature = signature_of(call)
        if signature or (first and self._able.needs_signatures):
            part["thoughtSignature"] = signature or NO_SIGNATURE
        return part

    def _result(self, message: Json, at: str) -> None:
        call_id = message.get("tool_call_id")
        if not isinstance(call_id, str) or call_id not in self._calls:
            raise bad(f"{at}.tool_call_id names no call of the assistant message before it.", f"{at}.tool_call_id")
        text, media = "", []
        media_too = self._able if self._able.media_in_results else None
        for part in parts_of(message.get("content"), f"{at}.content", media=media_too):
            text += part.get("text", "")
            media += [] if "text" in part else [part]
        found: Json = {"id": call_id, "name": self._calls[call_id], "response": _response(text)}
        if media:
            found["parts"] = media
        self._results[call_id] = {"functionResponse": found}

    def _close_turn(self) -> None:
        """Every call of a turn has its result, in the order of the calls."""
        if not self._calls:
            return
        for call_id in self._calls:
            if call_id not in self._results:
                raise bad(
                    f"The call {call_id[:64]!r} of {self._asked_at} has no tool message with its result.", "messages"
                )
        self._contents.append({"role": "user", "parts": [self._results[call_id] for call_id in self._calls]})
        self._calls, self._results = {}, {}


def _arguments(function: Json, at: str) -> Json:
    param = f"{at}.function.arguments"
    text = expect(function.get("arguments") or "{}", str, param)
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise bad(f"{param} is not JSON.", param) from error
    if not isinstance(found, dict):
        raise bad(f"{param} must be a JSON object.", param)
    return found


def _response(text: str) -> Json:
    """Google takes objects only: what is none is wrapped."""
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        found = text
    return found if isinstance(found, dict) else {"result": found}


def signature_of(holder: Json) -> str:
    """A message's, call's or picture's thought signature, where Google's own compatible API puts it; '' if none."""
    for outer, inner in (("extra_content", "google"), ("provider_specific_fields", "")):
        found = holder.get(outer)
        if inner and isinstance(found, dict):
            found = found.get(inner)
        if isinstance(found, dict) and isinstance(signature := found.get("thought_signature"), str):
            return signature
    return ""


def parts_of(content: Any, at: str, *, media: Capabilities | None = None) -> list[Json]:
    """A message's content; empty texts are left out, Google refuses them. `media`: whose, None for text alone."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"text": content}] if content else []
    found = []
    for number, part in enumerate(expect(content, list, at)):
        param = f"{at}[{number}]"
        kind = word(expect(part, dict, param).get("type"))
        if kind in {"text", "refusal"}:
            if text := expect(part.get(kind), str, f"{param}.{kind}"):
                found.append({"text": text})
        elif media is None or kind not in _MEDIA:
            raise bad(f"A part of the type {kind[:32]!r} cannot be honoured here.", param, "unsupported_value")
        else:
            found.append(_MEDIA[kind](part.get(kind), f"{param}.{kind}", media))
    return found


def _image(image: Any, at: str, able: Capabilities) -> Json:
    if isinstance(image, str):  # OpenAI takes the bare address, too
        return _by_url(image, at, able)
    return _by_url(expect(expect(image, dict, at).get("url"), str, f"{at}.url"), f"{at}.url", able)


def _audio(audio: Any, at: str, able: Capabilities) -> Json:
    kind = _AUDIO.get(word(expect(audio, dict, at).get("format")))
    if kind is None:
        raise bad(f"{at}.format must be wav or mp3.", f"{at}.format")
    return {"inlineData": {"mimeType": kind, "data": expect(audio.get("data"), str, f"{at}.data")}}


def _file(file: Any, at: str, able: Capabilities) -> Json:
    if expect(file, dict, at).get("file_data") is not None:
        return _by_url(expect(file["file_data"], str, f"{at}.file_data"), f"{at}.file_data", able)
    file_id = expect(file.get("file_id"), str, f"{at}.file_id")
    if file_id.startswith("files/"):
        file_id = f"{FILES}v1beta/{file_id}"
    if not file_id.startswith(FILES):
        raise bad(f"{at}.file_id must be a file of Google's Files API (files/…).", f"{at}.file_id")
    return {"fileData": {"fileUri": file_id}}


def _by_url(url: str, param: str, able: Capabilities) -> Json:
    """Data goes along. What an address holds is fetched by Google, never by us; older models take its own files only.

    https://ai.google.dev/gemini-api/docs/file-input-methods
    """
    if found := _DATA_URL.match(url):
        return {"inlineData": {"mimeType": found[1], "data": url[found.end() :]}}
    if url.startswith(FILES):
        return {"fileData": {"fileUri": url}}
    if able.web_addresses and url.startswith("https://"):
        kind = _KINDS.get(url.partition("?")[0].partition("#")[0].rpartition(".")[2].lower())
        return {"fileData": {"fileUri": url} | ({"mimeType": kind} if kind else {})}
    also = " or an https address" if able.web_addresses else ": this model does not fetch from the web"
    raise bad(f"{param} must be a data: URL with base64 data{also}.", param, "unsupported_value")


_MEDIA = {"image_url": _image, "input_audio": _audio, "file": _file}
