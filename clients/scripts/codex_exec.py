"""Codex CLI, the Responses API: `codex exec` in a scratch directory. It always streams, and does not show the pieces.

Its shell stands for the tool: the model is scripted to call it with a harmless `echo`.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from case import IMAGE, SCHEMA, TOOL, TOOL_RESULT, URL, run

CODEX = sys.argv[1]
SCRATCH = tempfile.TemporaryDirectory(prefix="aiproxy-codex-")
HOME = Path(SCRATCH.name)
CONFIG = f"""
model_provider = "aiproxy"
web_search = "disabled"
check_for_update_on_startup = false
analytics.enabled = false
features.plugins = false
features.apps = false

[model_providers.aiproxy]
name = "aiproxy"
base_url = "{URL}/v1"
env_key = "CLIENTS_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
"""


class CodexError(Exception):
    @property
    def status_code(self) -> int | None:
        return 429 if "429" in str(self) else None


def execute(model: str, prompt: str, *more: str) -> list[dict]:
    """The events that `codex exec` prints."""
    command = [CODEX, "exec", "--json", "--ephemeral", "--skip-git-repo-check", "--model", model]
    # What it runs is scripted, and a container may refuse a sandbox.
    sandbox = ["--sandbox", "danger-full-access"]
    done = subprocess.run(
        [*command, *sandbox, *more, "--", prompt], env={**os.environ, "CODEX_HOME": str(HOME)}, cwd=HOME, text=True,
        capture_output=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for event in events:
        if event["type"] == "turn.failed":
            raise CodexError(event["error"]["message"])
    if done.returncode:
        raise CodexError(done.stderr[-500:])
    return events


def items(events: list[dict], kind: str) -> list[dict]:
    return [event["item"] for event in events if event["type"] == "item.completed" and event["item"]["type"] == kind]


def text_of(events: list[dict]) -> str:
    return "".join(item["text"] for item in items(events, "agent_message"))


def plain(model: str, prompt: str) -> dict:
    events = execute(model, prompt)
    usage = next(event["usage"] for event in events if event["type"] == "turn.completed")
    return {"text": text_of(events), "tokens": usage["input_tokens"] + usage["output_tokens"]}


def streamed(model: str, prompt: str) -> dict:
    return {"text": text_of(execute(model, prompt))}


def tools(model: str, prompt: str) -> dict:
    events = execute(model, prompt)
    done = [item for item in items(events, "command_execution") if TOOL_RESULT in item["aggregated_output"]]
    return {"text": text_of(events), "calls": [TOOL["name"] for _ in done]}


def image(model: str, prompt: str) -> dict:
    (HOME / "picture.png").write_bytes(base64.b64decode(IMAGE))
    return {"text": text_of(execute(model, prompt, "--image", "picture.png"))}


def schema(model: str, prompt: str) -> dict:
    (HOME / "schema.json").write_text(json.dumps(SCHEMA))
    return {"json": text_of(execute(model, prompt, "--output-schema", "schema.json"))}


(HOME / "config.toml").write_text(CONFIG)
run(plain, streamed, tools, image, schema)
