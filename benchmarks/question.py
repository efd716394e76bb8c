"""What every target is asked."""

import json

from benchmarks import provider


def question(model: str, **fields: object) -> bytes:
    messages = [{"role": "user", "content": "word " * 40}]
    return json.dumps({"model": model, **fields, "messages": messages}, separators=(",", ":")).encode()


PLAIN = question("gpt-4o-mini")
STREAM = question("gpt-4o-mini", stream=True)
BURST = question(provider.BURST, stream=True)
PACED = question(provider.PACED, stream=True)
SHORT = question(provider.PACED, stream=True, max_tokens=2)
