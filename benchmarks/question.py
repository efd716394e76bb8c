"""What every target is asked."""

import json

from benchmarks.provider import PACED as PACED_MODEL


def question(model: str, **fields: object) -> bytes:
    messages = [{"role": "user", "content": "word " * 40}]
    return json.dumps({"model": model, **fields, "messages": messages}, separators=(",", ":")).encode()


PLAIN = question("gpt-4o-mini")
STREAM = question("gpt-4o-mini", stream=True)
PACED = question(PACED_MODEL, stream=True)
