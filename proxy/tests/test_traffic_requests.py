"""What we send, against recorded requests, where AIPROXY_TRAFFIC_DIR names a directory of them.

A request of Anthropic's or Google's is turned back into the chat completion that it says, encoded by the wire, and has
to be the same again. A recorded chat completion is said to each provider, and has to say the same there.
"""

import json
import os
import re
from pathlib import Path

import pytest

from proxy.errors import BadRequest
from proxy.tests.recorded_requests import Foreign, from_anthropic, from_google, same_anthropic, same_google
from proxy.wire import Call, alibaba, anthropic, google

TRAFFIC = os.environ.get("AIPROXY_TRAFFIC_DIR", "")
OPENAI_SHAPED = {"chat", "compat_chat"}

pytestmark = pytest.mark.skipif(not TRAFFIC, reason="AIPROXY_TRAFFIC_DIR is not set")


def recordings(providers: str, endpoints: set[str]) -> list:
    """Those that were answered; a place holder that fails stands for none."""
    if not TRAFFIC:
        return [pytest.param(None, id="none")]
    paths = [path for provider in providers.split() for path in sorted(Path(TRAFFIC, provider).glob("*.json"))]
    found = [(path, json.loads(path.read_bytes())) for path in paths]
    return [
        pytest.param(one, id=f"{path.parent.name}-{path.stem}")
        for path, one in found
        if one["endpoint"] in endpoints and one["request"]["json"] and one["response"]["status"] < 400
    ] or [None]


def sent(wire, chat: dict, model: str) -> dict:
    limit = chat.get("max_completion_tokens", chat.get("max_tokens"))
    call = Call(model, stream=bool(chat.get("stream")), max_output=limit)
    return json.loads(wire.WIRE.encode(json.dumps(chat).encode(), call, model, None))


@pytest.mark.parametrize("recorded", recordings("anthropic", {"messages"}))
def test_it_sends_anthropic_what_was_recorded(recorded):
    request = recorded["request"]["json"]
    try:
        chat = from_anthropic(request)
    except Foreign as reason:
        pytest.skip(f"no chat completion has {reason}")
    expected = same_anthropic(request)
    if expected.get("thinking", {}).get("type") in {"enabled", "adaptive"}:
        expected.pop("temperature", None)  # thinking models take none but 1, which is the default
    assert same_anthropic(sent(anthropic, chat, request["model"])) == expected


@pytest.mark.parametrize("recorded", recordings("google", {"generate", "stream"}))
def test_it_sends_google_what_was_recorded(recorded):
    request, url = recorded["request"]["json"], recorded["request"]["url"]
    model = url.partition("/models/")[2].partition(":")[0]
    try:
        chat = from_google(request, model)
    except Foreign as reason:
        pytest.skip(f"no chat completion has {reason}")
    assert same_google(sent(google, chat, model)) == same_google(request)


# --- chat completions, said to others ----------------------------------------------------------------------------

MODELS = {"anthropic": "claude-sonnet-4-5", "google": "gemini-2.5-flash", "alibaba": "qwen-plus"}
WIRES = {"anthropic": anthropic, "google": google, "alibaba": alibaba}
BACK = {"anthropic": from_anthropic, "google": lambda found: from_google(found, MODELS["google"]), "alibaba": dict}
# What OpenAI or DeepSeek has alone: fields, and sound and files among the parts.
NO_COUNTERPART = re.compile(
    r"audio|moderation|logprobs|web_search_options|thinking|messages\[\d+\]\.content\[\d+\](\.type)?"
)


def text_of(content: object) -> str:
    parts = [content] if isinstance(content, str) else content or []
    return "".join(part if isinstance(part, str) else part.get("text", "") for part in parts).strip()


def media_of(content: object) -> int:
    return sum(part["type"] != "text" for part in content) if isinstance(content, list) else 0


def gist(messages: list[dict]) -> dict:
    """System text, and turns as (role, text, how much media, calls, results): alike where the conversation is."""
    systems = [text_of(message.get("content")) for message in messages if message["role"] in {"system", "developer"}]
    turns: list[list] = []
    for message in messages:
        role = {"assistant": "assistant", "user": "user", "tool": "user"}.get(message["role"])
        text, media = text_of(message.get("content")), media_of(message.get("content"))
        calls = [
            (call["function"]["name"], json.loads(call["function"]["arguments"] or "{}"))
            for call in message.get("tool_calls") or ()
        ]
        if role is None or not (text or media or calls):
            continue
        if not turns or turns[-1][0] != role:
            turns.append([role, "", 0, [], []])
        if message["role"] == "tool":
            turns[-1][4].append(unwrapped(text))
        else:
            turns[-1][1:4] = [turns[-1][1] + text, turns[-1][2] + media, turns[-1][3] + calls]
    return {"system": "".join(systems), "turns": turns}


def unwrapped(result: str) -> object:
    """A tool's result: Google takes objects only, so another value is put into one."""
    try:
        found = json.loads(result)
    except ValueError:
        return result
    return found["result"] if isinstance(found, dict) and found.keys() == {"result"} else found


@pytest.mark.parametrize("provider", MODELS)
@pytest.mark.parametrize("recorded", recordings("openai alibaba deepseek google", OPENAI_SHAPED))
def test_it_says_the_same_conversation_to_every_provider(recorded, provider):
    chat, model = recorded["request"]["json"], MODELS[provider]
    try:
        found = sent(WIRES[provider], chat, model)
    except BadRequest as refused:
        if not NO_COUNTERPART.fullmatch(str(refused.param)):
            raise
        pytest.skip(f"refused by name: {refused.param}")
    back = BACK[provider](found)
    said, expected = gist(back["messages"]), gist(chat["messages"])
    if chat.get("response_format", {}).get("type") == "json_object" and provider == "anthropic":
        said["system"] = said["system"][: len(expected["system"])]  # it is asked for there
    assert said == expected
    assert names_of(back) == names_of(chat)


def names_of(chat: dict) -> list[str]:
    return [tool["function"]["name"] for tool in chat.get("tools") or () if tool["type"] == "function"]
