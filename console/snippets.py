"""Owns what users paste into other programs to use this service. A key is a name for one, never one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.utils.text import slugify
from django.utils.translation import gettext as _


@dataclass(frozen=True, slots=True)
class Snippet:
    title: str
    text: str
    note: str = ""

    @property
    def id(self) -> str:
        return slugify(self.title)

    @property
    def code_id(self) -> str:
        return f"{self.id}-code"


def snippets(**values: str) -> Iterator[Snippet]:
    """With the service's `origin`, a `model` that the user reaches, and `claude`, one for Claude Code."""
    for title, text, note in _texts():
        for name, value in values.items():
            text = text.replace(f"<{name}>", value)
        yield Snippet(title, text.strip(), str(note))


def _texts() -> list[tuple[str, str, Any]]:
    untested = _("Not among the clients that our tests run.")
    return [
        ("curl", _CURL, ""),
        ("Python: openai", _PYTHON, ""),
        ("JavaScript: openai", _JAVASCRIPT, ""),
        (_("Environment variables"), _ENVIRONMENT, _("Read by the SDKs of OpenAI and Anthropic, and by many tools.")),
        ("LangChain", _LANGCHAIN, ""),
        ("Claude Code", _CLAUDE_CODE, _("Any model that you reach can stand in for Claude.")),
        ("Codex", _CODEX, _("In ~/.codex/config.toml.")),
        ("aider", _AIDER, untested),
        ("Continue", _CONTINUE, _("In ~/.continue/config.yaml.") + " " + untested),
        (
            "Cursor",
            _CURSOR,
            _("In Settings → Models. Cursor asks from its own servers, so they must reach this address.")
            + " "
            + untested,
        ),
    ]


_CURL = """
curl -N <origin>/v1/chat/completions \\
  -H "Authorization: Bearer $AIPROXY_KEY" -H "Content-Type: application/json" \\
  -d '{"model": "<model>", "stream": true, "messages": [{"role": "user", "content": "Hello!"}]}'
"""
_PYTHON = """
import os

from openai import OpenAI

client = OpenAI(base_url="<origin>/v1", api_key=os.environ["AIPROXY_KEY"])
stream = client.chat.completions.create(
    model="<model>", messages=[{"role": "user", "content": "Hello!"}], stream=True
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
"""
_JAVASCRIPT = """
import OpenAI from "openai";

const client = new OpenAI({ baseURL: "<origin>/v1", apiKey: process.env.AIPROXY_KEY });
const stream = await client.chat.completions.create({
  model: "<model>",
  messages: [{ role: "user", content: "Hello!" }],
  stream: true,
});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
"""
_ENVIRONMENT = """
export OPENAI_BASE_URL=<origin>/v1
export OPENAI_API_KEY=$AIPROXY_KEY
export ANTHROPIC_BASE_URL=<origin>
export ANTHROPIC_API_KEY=$AIPROXY_KEY
"""
_LANGCHAIN = """
import os

from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    model="<model>", base_url="<origin>/v1", api_key=os.environ["AIPROXY_KEY"], stream_usage=True
)
print(model.invoke("Hello!").content)
"""
_CLAUDE_CODE = """
export ANTHROPIC_BASE_URL=<origin>
export ANTHROPIC_API_KEY=$AIPROXY_KEY
export ANTHROPIC_MODEL=<claude>
claude
"""
_CODEX = """
model = "<model>"
model_provider = "aiproxy"

[model_providers.aiproxy]
name = "aiproxy"
base_url = "<origin>/v1"
env_key = "AIPROXY_KEY"
wire_api = "responses"
"""
_AIDER = """
export OPENAI_API_BASE=<origin>/v1
export OPENAI_API_KEY=$AIPROXY_KEY
aider --model openai/<model>
"""
_CONTINUE = """
models:
  - name: aiproxy
    provider: openai
    model: <model>
    apiBase: <origin>/v1
    apiKey: ${{ secrets.AIPROXY_KEY }}
"""
_CURSOR = """
OpenAI API Key            $AIPROXY_KEY
Override OpenAI Base URL  <origin>/v1
Model                     <model>
"""
