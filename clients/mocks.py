"""Owns the providers' servers that we did not write: how each is started, told what to say, and asked what it was sent.

llmock (PyPI)            echoes the prompt, calls tools and fills schemas as they are described. It keeps every body.
@copilotkit/aimock (npm) says what aimock.mjs tells it. It keeps bodies as OpenAI's, without their images.
"""

import contextlib
import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients import environments
from tests.servers import free_port
from tests.service import PATIENCE, until

LLMOCK = "llmock==0.2.2"
TALK = json.loads((environments.SCRIPTS / "conversation.json").read_text())
MODELS = {
    "openai": "gpt-4o-mini",
    "anthropic": "claude-sonnet-4-5",
    "google": "gemini-2.5-flash",
    "alibaba": "qwen-plus",
}


@dataclass(frozen=True)
class Mock:
    name: str
    base_urls: dict[str, str]
    journal: str  # where its requests are listed
    keeps_images: bool = True

    def bodies(self) -> list[str]:
        """Everything it was sent, one JSON text a request."""
        said = json.loads(_fetch(self.journal))
        requests = said["requests"] if isinstance(said, dict) else said
        return [json.dumps(one["body"], ensure_ascii=False) for one in requests]


@contextlib.contextmanager
def llmock() -> Iterator[Mock]:
    port, program = free_port(), environments.python(LLMOCK).with_name("llmock")
    url = f"http://127.0.0.1:{port}"
    base_urls = {
        "openai": f"{url}/v1",
        "anthropic": f"{url}/anthropic",
        "google": f"{url}/gemini",
        "alibaba": f"{url}/v1",
    }
    with _running(str(program), "serve", "--port", str(port), "--response-style", "echo"):
        until(lambda: _answers(f"{url}/health"), "llmock listens")
        _fetch(f"{url}/_llmock/scenario", {"behaviors": _script()})
        yield Mock("llmock", base_urls, f"{url}/_llmock/requests")


def _script() -> list[dict[str, Any]]:
    """What llmock would get wrong by itself. It is given the rest by the prompt, the tools and the schema."""
    fail = {"type": "fail", "status": 429, "message": "Slow down.", "times": None, "match": {"model": "*-limited"}}
    answer = json.dumps({"city": "Paris", "degrees": 21})
    # Anthropic's schema it reads from the former `output_format` only.
    schema = [
        {"type": "reply", "text": answer, "times": None, "match": {"model": name}}
        for name in ("claude-*-json", "*-codex-json")
    ]
    # Of Codex's tools it would choose one, and Codex would do it.
    shell = {"name": "exec_command", "arguments": {"cmd": f"echo {TALK['tool_result']}"}}
    calls = [
        {"type": "reply", "tool_calls": [shell], "match": {"model": f"{name}-codex-tools"}} for name in MODELS.values()
    ]
    text = {"type": "reply", "text": "Hello, you said something.", "times": None, "match": {"model": "*-codex*"}}
    return [fail, *schema, *calls, text]


@contextlib.contextmanager
def aimock() -> Iterator[Mock]:
    port, home = free_port(), environments.node()
    url = f"http://127.0.0.1:{port}"
    base_urls = {"openai": f"{url}/v1", "anthropic": url, "google": url, "alibaba": f"{url}/v1"}
    with _running("node", str(home / "scripts" / "aimock.mjs"), str(port)):
        until(lambda: _answers(f"{url}/health"), "aimock listens")
        yield Mock("aimock", base_urls, f"{url}/__aimock/journal", keeps_images=False)


STARTERS: dict[str, Callable[[], contextlib.AbstractContextManager[Mock]]] = {"llmock": llmock, "aimock": aimock}


@contextlib.contextmanager
def _running(*command: str) -> Iterator[None]:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=Path("/")
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        _fetch(url)
        return True
    return False


def _fetch(url: str, body: Any = None) -> bytes:
    data = json.dumps(body).encode() if body is not None else None
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=PATIENCE) as answer:
        return bytes(answer.read())
