"""Owns the matrix: which clients there are, which cases each runs at each provider, and how one client is run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients import environments
from clients.environments import SCRIPTS
from clients.mocks import MODELS, TALK

CASES = ("plain", "streamed", "tools", "image", "schema", "error")
PROVIDERS = ("openai", "anthropic", "google", "alibaba")
CLIENT = 180  # seconds for all of a client's cases; a limit, not an expectation


@dataclass(frozen=True)
class Client:
    name: str
    endpoint: str  # as its rows name it
    command: Callable[[], list[str]]  # raises Missing
    tag: str = ""  # in its models' names, for what has to be scripted for it alone
    shows_message: bool = True  # the provider's, in its errors

    def model(self, provider: str, case: str) -> str:
        """What is refused for its rate, and what is scripted, is told by the model's name."""
        suffix = {"error": "-limited", "schema": "-json", "tools": "-tools"}.get(case, "")
        return MODELS[provider] + self.tag + suffix


def _python(script: str, *packages: str) -> Callable[[], list[str]]:
    return lambda: [str(environments.python(*packages)), str(SCRIPTS / script)]


def _node(script: str, *arguments: str) -> Callable[[], list[str]]:
    return lambda: ["node", str(environments.node() / "scripts" / script), *arguments]


def _codex() -> list[str]:
    return [
        sys.executable,
        str(SCRIPTS / "codex_exec.py"),
        str(environments.node() / "node_modules" / ".bin" / "codex"),
    ]


CLIENTS = (
    Client("openai 3.54.0", "chat.completions", _python("openai_chat.py", "openai==3.54.0")),
    Client("openai 6.49.0 (Node)", "chat.completions", _node("openai_chat.mjs")),
    Client("langchain-openai 1.7.3", "chat.completions", _python("langchain_chat.py", "langchain-openai==1.7.3")),
    Client(
        "pydantic-ai 2.68.0", "chat.completions", _python("pydantic_ai_chat.py", "pydantic-ai-slim[openai]==2.68.0")
    ),
    Client("litellm 1.106.2", "chat.completions", _python("litellm_chat.py", "litellm==1.106.2", "mcp==2.3.0")),
    Client("@ai-sdk/openai-compatible 2.0.91", "chat.completions", _node("ai_sdk.mjs", "chat")),
    Client("anthropic 2.12.0", "messages", _python("anthropic_messages.py", "anthropic==2.12.0")),
    Client("openai-agents 0.24.0", "responses", _python("agents_responses.py", "openai-agents==0.24.0")),
    Client("@ai-sdk/openai 3.0.141", "responses", _node("ai_sdk.mjs", "responses")),
    Client("@openai/codex 0.169.0", "responses", _codex, tag="-codex", shows_message=False),
)


@dataclass(frozen=True)
class Told:
    """What a client's script says of one case."""

    provider: str
    case: str
    got: dict[str, Any]
    started: float  # seconds since 1970
    ended: float


def who(client: Client, provider: str, case: str) -> str:
    """Names the case within its prompt, so that a provider's request can be told from all others."""
    return f"{client.name} {provider} {case}"


def run(client: Client, *, url: str, key: str) -> Iterator[Told]:
    """Every case of one client; what it did not come to is missing. Raises Missing."""
    cases = [
        (provider, case, client.model(provider, case), TALK["prompts"][case].format(who=who(client, provider, case)))
        for provider in PROVIDERS
        for case in CASES
    ]
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),  # nobody is there: they may call us alone
        "NO_PROXY": "127.0.0.1,localhost",
        "LITELLM_LOCAL_MODEL_COST_MAP": "true",
        "CLIENTS_URL": url,
        "CLIENTS_KEY": key,
        "CLIENTS_CASES": json.dumps(cases),
    }
    done = subprocess.run(
        client.command(), env=environment, capture_output=True, text=True, timeout=CLIENT, stdin=subprocess.DEVNULL,
        cwd=Path("/"),
    )  # fmt: skip
    if done.returncode:
        print(done.stderr, file=sys.stderr)
    for line in done.stdout.splitlines():
        if line.startswith('{"provider"'):
            said = json.loads(line)
            yield Told(said["provider"], said["case"], said["got"], said["started"], said["ended"])
