"""What every target is asked."""

import json

from benchmarks import provider


def question(model: str, **fields: object) -> bytes:
    messages = [{"role": "user", "content": "word " * 40}]
    return json.dumps({"model": model, **fields, "messages": messages}, separators=(",", ":")).encode()


def tool(number: int) -> dict[str, object]:
    named = {name: {"type": "string", "description": "word " * 10} for name in ("path", "model", "n", "input")}
    parameters = {"type": "object", "properties": named}
    return {"type": "function", "function": {"name": f"tool_{number}", "parameters": parameters}}


def agents(size: int) -> bytes:
    """As an agent asks: its tools, and so many bytes of files that it has read."""
    text = '    return "a line of a file"\n' * (size // 30)
    messages = [{"role": "user", "content": text}]
    asked = {"model": "gpt-4o-mini", "tools": [tool(number) for number in range(20)], "messages": messages}
    return json.dumps(asked).encode()


PLAIN = question("gpt-4o-mini")
LONG = agents(81_000)  # 100 KB in all
STREAM = question("gpt-4o-mini", stream=True)
BURST = question(provider.BURST, stream=True)
PACED = question(provider.PACED, stream=True)
SHORT = question(provider.PACED, stream=True, max_tokens=2)
