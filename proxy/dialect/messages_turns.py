"""Owns a conversation in OpenAI's form: chat messages, made of Anthropic's turns of blocks; knows no other field.

Facts: https://docs.anthropic.com/en/api/messages; a tool's result is a message of its own for OpenAI, and text only.
"""

from typing import Any

import msgspec

from proxy.errors import BadRequest
from proxy.wire.fields import expect, word

Json = dict[str, Any]

# Google's thought signatures travel as the signature of a thinking block, behind this; what is Anthropic's own is not.
GOOGLE_SIGNATURE = "google:"


def conversation(system: Any, messages: Any, provider: str) -> list[Json]:
    """The chat messages. BadRequest names the block that has no counterpart."""
    chat: list[Json] = []
    if content := _only_text(system, "system"):
        chat.append({"role": "system", "content": content})
    turns = expect(messages, list, "messages")
    for number, turn in enumerate(turns):
        at = f"messages[{number}]"
        role, content = word(expect(turn, dict, at).get("role")), turn.get("content")
        if role == "user":
            chat += _user(content, f"{at}.content")
        elif role == "assistant":
            chat += _assistant(content, f"{at}.content", provider)
        elif role == "system":
            chat.append({"role": "system", "content": _only_text(content, f"{at}.content")})
        else:
            raise BadRequest(f"{at}.role must be user, assistant or system.", param=f"{at}.role")
    if not turns or turns[-1]["role"] == "assistant":
        raise _unsupported("messages: the last one must be the user's; other models continue no answer.", "messages")
    return chat


def _blocks(content: Any, at: str) -> list[tuple[str, Json, str]]:
    """Each block's type, itself, and where it is; a bare text is a block of text."""
    if isinstance(content, str):
        return [("text", {"text": content}, at)]
    found = []
    for number, block in enumerate(expect(content, list, at)):
        where = f"{at}[{number}]"
        found.append((word(expect(block, dict, where).get("type")), block, where))
    return found


def _only_text(content: Any, at: str) -> str | list[Json]:
    if content is None:
        return []
    return _content([_text(block, where) for kind, block, where in _blocks(content, at) if _is_text(kind, where)])


def _is_text(kind: str, at: str) -> bool:
    if kind != "text":
        raise _unsupported(f"{at}: a block of the type {kind[:64]!r} cannot stand here.", f"{at}.type")
    return True


def _text(block: Json, at: str) -> Json:
    return {"type": "text", "text": expect(block.get("text"), str, f"{at}.text")}


def _content(parts: list[Json]) -> str | list[Json]:
    """One text is just that: not everybody takes parts everywhere. Empty ones are left out."""
    kept = [part for part in parts if part["type"] != "text" or part["text"]]
    return kept[0]["text"] if len(kept) == 1 and kept[0]["type"] == "text" else kept


# --- the user's turns: tools' results, then what else there is -----------------------------------------------------


def _user(content: Any, at: str) -> list[Json]:
    results: list[Json] = []
    attached: list[Json] = []
    parts: list[Json] = []
    for kind, block, where in _blocks(content, at):
        if kind == "tool_result":
            result, media = _result(block, where)
            results.append(result)
            attached += media
        else:
            parts += _part(kind, block, where)
    said = _content(attached + parts)
    return [*results, {"role": "user", "content": said}] if said else results


def _result(block: Json, at: str) -> tuple[Json, list[Json]]:
    """The tool message, and the media that it cannot hold: they follow in the user's message."""
    call_id = expect(block.get("tool_use_id"), str, f"{at}.tool_use_id")
    parts = [
        part
        for kind, inner, where in _blocks(block.get("content") or "", f"{at}.content")
        for part in _part(kind, inner, where)
    ]
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    media = [part for part in parts if part["type"] != "text"]
    if media:
        media.insert(0, {"type": "text", "text": f"From the result of the tool call {call_id}:"})
        text = text or "The result is attached to the next message."
    if block.get("is_error"):
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": call_id, "content": text}, media


def _part(kind: str, block: Json, at: str) -> list[Json]:
    if kind == "text":
        return [_text(block, at)]
    if kind == "image":
        return [_image(_source(block, at), f"{at}.source")]
    if expect(block.get("citations") or {}, dict, f"{at}.citations").get("enabled"):
        raise _unsupported(f"{at}.citations: only Anthropic's models cite documents.", f"{at}.citations")
    if kind == "document":
        return _document(block, at)
    if kind == "search_result":
        heads = [{"type": "text", "text": str(block[name])} for name in ("title", "source") if block.get(name)]
        return heads + [part for one in _blocks(block.get("content"), f"{at}.content") for part in _part(*one)]
    raise _foreign(kind, at)


def _source(block: Json, at: str) -> Json:
    source: Json = expect(block.get("source"), dict, f"{at}.source")
    return source


def _image(source: Json, at: str) -> Json:
    if source.get("type") == "url":
        url = expect(source.get("url"), str, f"{at}.url")
    elif source.get("type") == "base64":
        url = _data_url(source, at)
    else:
        raise _unsupported(f"{at}.type must be base64 or url.", f"{at}.type")
    return {"type": "image_url", "image_url": {"url": url}}


def _data_url(source: Json, at: str) -> str:
    kind = expect(source.get("media_type"), str, f"{at}.media_type")
    return f"data:{kind};base64,{expect(source.get('data'), str, f'{at}.data')}"


def _document(block: Json, at: str) -> list[Json]:
    source, title = _source(block, at), block.get("title")
    heads = [{"type": "text", "text": str(block[name])} for name in ("title", "context") if block.get(name)]
    kind = source.get("type")
    if kind == "base64":
        file = {"filename": str(title or "document.pdf"), "file_data": _data_url(source, f"{at}.source")}
        return [*heads[bool(title) :], {"type": "file", "file": file}]
    if kind == "text":
        return [*heads, {"type": "text", "text": expect(source.get("data"), str, f"{at}.source.data")}]
    if kind == "content":
        inner = _blocks(source.get("content"), f"{at}.source.content")
        return heads + [part for one in inner for part in _part(*one)]
    raise _unsupported(f"{at}.source.type must be base64, text or content.", f"{at}.source.type")


# --- the assistant's turns -----------------------------------------------------------------------------------------


def _assistant(content: Any, at: str, provider: str) -> list[Json]:
    """Thoughts stay behind: no other provider takes them back, but for Google's signature of the call that follows."""
    text, calls, signature = "", [], ""
    for kind, block, where in _blocks(content, at):
        if kind == "text":
            text += _text(block, where)["text"]
        elif kind == "tool_use":
            calls.append(_call(block, where))
            if signature and provider == "google":
                calls[-1]["extra_content"] = {"google": {"thought_signature": signature}}
            signature = ""
        elif kind in {"thinking", "redacted_thinking"}:
            signature = _signature(block.get("signature" if kind == "thinking" else "data")) or signature
        else:
            raise _foreign(kind, where)
    if not text and not calls:
        return []
    said: Json = {"role": "assistant", "content": text or None}
    return [{**said, "tool_calls": calls} if calls else said]


def _signature(value: Any) -> str:
    return value.removeprefix(GOOGLE_SIGNATURE) if word(value).startswith(GOOGLE_SIGNATURE) else ""


def _call(block: Json, at: str) -> Json:
    arguments = expect(block.get("input"), dict, f"{at}.input")
    function = {
        "name": expect(block.get("name"), str, f"{at}.name"),
        "arguments": msgspec.json.encode(arguments).decode(),
    }
    return {"id": expect(block.get("id"), str, f"{at}.id"), "type": "function", "function": function}


def _foreign(kind: str, at: str) -> BadRequest:
    return _unsupported(f"{at}: a block of the type {kind[:64]!r} is for Anthropic's models only.", f"{at}.type")


def _unsupported(message: str, param: str) -> BadRequest:
    return BadRequest(message, param=param, code="unsupported_value")
