"""Owns the items of a Responses request as chat messages; knows no other field, and nothing of answers.

A turn of the assistant comes as several items (reasoning, message, calls) and is one chat message. Facts:
https://platform.openai.com/docs/api-reference/responses/create (input), /docs/guides/reasoning (reasoning items go back
as they came).
"""

import base64
import binascii
from collections.abc import Callable
from typing import Any

import msgspec

from proxy.errors import BadRequest
from proxy.wire.fields import expect, word

Json = dict[str, Any]

# Begins the encrypted_content of our reasoning items. It holds what a provider signed, so that nothing has to be stored
# here; the provider itself proves it. Reasoning of other origin has no meaning for another model and is left out.
SIGNED = "aiproxy-1."


class Signed(msgspec.Struct, omit_defaults=True):
    """What of a turn's reasoning goes back to its provider, as the chat form has it."""

    thinking_blocks: list[Json] = []
    calls: dict[str, Json] = {}  # by call id: the call's extra_content
    message: Json | None = None  # the message's extra_content
    picture: Json | None = None  # that of the picture that follows

    def sealed(self) -> str:
        return SIGNED + base64.b64encode(msgspec.json.encode(self)).decode()


def _opened(content: Any, at: str) -> Signed | None:
    if not isinstance(content, str) or not content.startswith(SIGNED):
        return None
    try:
        return msgspec.json.decode(base64.b64decode(content[len(SIGNED) :], validate=True), type=Signed)
    except (binascii.Error, msgspec.DecodeError, RecursionError, UnicodeEncodeError, ValueError) as error:
        raise bad(f"{at} is not what this proxy gave out.", at) from error


def bad(message: str, param: str, code: str = "invalid_value") -> BadRequest:
    return BadRequest(message, param=param, code=code)


def function_name(item: Json, at: str) -> str:
    """A function's name, with its namespace's where it has one."""
    name = expect(item.get("name"), str, f"{at}.name")
    namespace = item.get("namespace")
    return name if namespace is None else qualified(expect(namespace, str, f"{at}.namespace"), name)


def qualified(namespace: str, name: str) -> str:
    """Chat completions know no namespaces."""
    return f"{namespace}__{name}"


def messages_of(given: Any) -> list[Json]:
    """The chat messages of `input`. BadRequest names what has no counterpart."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    builder = _Messages()
    for number, item in enumerate(expect(given, list, "input")):
        builder.add(expect(item, dict, f"input[{number}]"), f"input[{number}]")
    for message in builder.messages:
        message["content"] = _plain(message["content"])
    return builder.messages


def _plain(content: Any) -> Any:
    """One text alone as the string that every model takes."""
    if content == []:
        return None
    if isinstance(content, list) and len(content) == 1 and content[0].keys() == {"type", "text"}:
        return content[0]["text"]
    return content


class _Messages:
    def __init__(self) -> None:
        self.messages: list[Json] = []
        self._turn: Json | None = None  # the assistant's, as long as its items come
        self._signed: dict[str, Json] = {}  # call id: extra_content, of calls that have not come yet
        self._signed_picture: Json | None = None  # the extra_content of the next one
        self._adders: dict[str, Callable[[Json, str], None]] = {
            "message": self._message,
            "reasoning": self._reasoning,
            "function_call": self._call,
            "function_call_output": self._output,
            "image_generation_call": self._picture,
        }

    def add(self, item: Json, at: str) -> None:
        kind = word(item.get("type", "message"))
        if kind not in self._adders:
            raise bad(
                f"{at}: an item of the type {kind[:64]!r} cannot be honoured by this model: here nothing is stored, "
                "and tools are functions.",
                f"{at}.type",
                "unsupported_value",
            )
        self._adders[kind](item, at)

    def _message(self, item: Json, at: str) -> None:
        role, content = word(item.get("role")), item.get("content")
        if role == "assistant":
            self._assistant()["content"] += parts_of(content, f"{at}.content")
        elif role in {"user", "system", "developer"}:
            self._turn = None
            self.messages.append({"role": role, "content": parts_of(content, f"{at}.content")})
        else:
            raise bad(f"{at}.role must be user, assistant, system or developer.", f"{at}.role")

    def _reasoning(self, item: Json, at: str) -> None:
        signed = _opened(item.get("encrypted_content"), f"{at}.encrypted_content")
        if signed is None:
            return
        turn = self._assistant()
        self._signed |= signed.calls
        if signed.thinking_blocks:
            turn.setdefault("thinking_blocks", []).extend(signed.thinking_blocks)
        if signed.message is not None:
            turn["extra_content"] = signed.message
        self._signed_picture = signed.picture

    def _call(self, item: Json, at: str) -> None:
        call_id = expect(item.get("call_id"), str, f"{at}.call_id")
        function = {
            "name": function_name(item, at),
            "arguments": expect(item.get("arguments", ""), str, f"{at}.arguments"),
        }
        call: Json = {"id": call_id, "type": "function", "function": function}
        if call_id in self._signed:
            call["extra_content"] = self._signed.pop(call_id)
        self._assistant().setdefault("tool_calls", []).append(call)

    def _picture(self, item: Json, at: str) -> None:
        """A picture that the model made: what its own chat message has as `images`."""
        url = f"data:image/{word(item.get('output_format')) or 'png'};base64,{word(item.get('result'))}"
        picture: Json = {"type": "image_url", "image_url": {"url": url}}
        if self._signed_picture is not None:
            picture["extra_content"], self._signed_picture = self._signed_picture, None
        self._assistant().setdefault("images", []).append(picture)

    def _output(self, item: Json, at: str) -> None:
        self._turn = None
        content = parts_of(item.get("output"), f"{at}.output")
        call_id = expect(item.get("call_id"), str, f"{at}.call_id")
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": content})

    def _assistant(self) -> Json:
        if self._turn is None:
            self._turn = {"role": "assistant", "content": []}
            self.messages.append(self._turn)
        return self._turn


# --- content parts -----------------------------------------------------------------------------------------------


def parts_of(content: Any, at: str) -> list[Json]:
    """A message's content, or a function's output."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [
        _part(expect(part, dict, f"{at}[{number}]"), f"{at}[{number}]")
        for number, part in enumerate(expect(content, list, at))
    ]


def _part(part: Json, at: str) -> Json:
    kind = word(part.get("type"))
    if kind not in _PARTS:
        raise bad(f"{at}: a part of the type {kind[:64]!r} cannot be honoured here.", f"{at}.type", "unsupported_value")
    made = _PARTS[kind](part, at)
    if part.get("prompt_cache_breakpoint") is not None:
        made["cache_control"] = {"type": "ephemeral"}
    return made


def _text(part: Json, at: str) -> Json:
    return {"type": "text", "text": expect(part.get("text"), str, f"{at}.text")}


def _refusal(part: Json, at: str) -> Json:
    return {"type": "refusal", "refusal": expect(part.get("refusal"), str, f"{at}.refusal")}


def _image(part: Json, at: str) -> Json:
    image = {"url": expect(part.get("image_url"), str, f"{at}.image_url")}
    if part.get("detail") is not None:
        image["detail"] = part["detail"]
    return {"type": "image_url", "image_url": image}


def _file(part: Json, at: str) -> Json:
    """A file by address goes where its data would: the wire knows whether its provider fetches it."""
    file = {name: part[name] for name in ("file_data", "file_id", "filename") if part.get(name) is not None}
    if part.get("file_url") is not None:
        file["file_data"] = expect(part["file_url"], str, f"{at}.file_url")
    return {"type": "file", "file": file}


def _audio(part: Json, at: str) -> Json:
    return {"type": "input_audio", "input_audio": expect(part.get("input_audio"), dict, f"{at}.input_audio")}


_PARTS: dict[str, Callable[[Json, str], Json]] = {
    "input_text": _text,
    "output_text": _text,
    "refusal": _refusal,
    "input_image": _image,
    "input_file": _file,
    "input_audio": _audio,
}
