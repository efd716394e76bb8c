"""What the Python scripts share: which cases to run, what to say in them, and how to tell what came of it.

It runs in each client's own environment, so it knows the standard library only. The runner (`clients.verdict`) judges.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

URL, KEY = os.environ["CLIENTS_URL"], os.environ["CLIENTS_KEY"]
TALK = json.loads(Path(__file__).with_name("conversation.json").read_text())
TOOL, TOOL_RESULT, SCHEMA = TALK["tool"], TALK["tool_result"], TALK["schema"]
IMAGE = TALK["image"]
IMAGE_URL = f"data:image/png;base64,{IMAGE}"


def run(*functions: Callable[[str, str], dict]) -> None:
    """Runs functions named for their cases: (model, prompt) → what the client was given. `error` is `plain` again."""
    named = {function.__name__: function for function in functions}
    named["error"] = named["plain"]
    for provider, case, model, prompt in json.loads(os.environ["CLIENTS_CASES"]):
        started = time.time()
        try:
            got = named[case](model, prompt)
        except Exception as error:
            got = {"raised": type(error).__name__, "status": getattr(error, "status_code", None), "message": str(error)}
        line = {"provider": provider, "case": case, "got": got, "started": started, "ended": time.time()}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def weather(city: str) -> str:
    """What `get_weather` does; a city that is no text is a mistake."""
    assert isinstance(city, str) and city
    return TOOL_RESULT
