import json
import logging
import sys

import pytest
from django.conf import settings

from aiproxy import logs
from aiproxy.logs import scrub


@pytest.fixture(autouse=True)
def no_request():
    token = logs.request_id.set("")
    yield
    logs.request_id.reset(token)


BODY = "CANARY" + "x9" * 10
JWT = f"eyJhbGciOiJIUzI1NiJ9.eyJ{BODY}.{BODY}"

SECRETS = [
    f"sk-proxy-{BODY}",
    f"sk-ant-api03-{BODY}",
    f"sk-{BODY}",
    f"the key AIza{BODY} was refused",
    f"AQ.{BODY}",
    f"token {JWT} is expired",
    f"Authorization: Bearer {BODY}",
    f"authorization: bearer\t{BODY}",
    f"Proxy-Authorization: Basic {BODY}",
    f"(b'authorization', b'Bearer {BODY}')",
    f"(b'x-api-key', b'{BODY}')",
    f"x-goog-api-key: {BODY}",
    f"{{'api-key': '{BODY}'}}",
    f'{{"api_key": "{BODY}"}}',
    f"GET /v1beta/models?key={BODY}&alt=sse",
    f"GET /v1beta/models?alt=sse&key={BODY}",
    f'{{"email": "a@example.org", "password": "with blanks {BODY}"}}',
    f"{{'old_password': 'with \" quote {BODY}'}}",
    f"email=a%40example.org&password={BODY}",
    f'"refresh_token":"{BODY}"',
    f"Cookie: sessionid={BODY}; csrftoken={BODY}",
    f"Set-Cookie: sessionid={BODY}; HttpOnly",
    f"postgres://aiproxy:{BODY}@db.example.org:5432/aiproxy",
    f"redis://:{BODY}@127.0.0.1:6379/0",
    f"argon2$argon2id$v=19$m=19456,t=2,p=1${BODY}${BODY}",
    f"SECRET_KEY={BODY}",
]


@pytest.mark.parametrize("line", SECRETS)
def test_it_masks_what_looks_like_a_secret(line):
    assert "CANARY" not in scrub(line)
    assert "***" in scrub(line)


def test_it_keeps_what_stands_around_a_secret():
    line = f"GET /models?key={BODY}&alt=sse for postgres://me:{BODY}@db.example.org/x"
    assert scrub(line) == "GET /models?key=***&alt=sse for postgres://me:***@db.example.org/x"


@pytest.mark.parametrize(
    "line",
    [
        "POST /api-keys 201",
        "the master key 3 is missing",
        "https://api.openai.com/v1/models answered 401",
        "tokens_input=12 tokens_output=40",
        "a proxy key sk-proxy-… was revoked",
        "[01987a3e-0000-7000-8000-000000000000] monkey business",
        "no authorization header",
    ],
)
def test_it_leaves_plain_lines_alone(line):
    assert scrub(line) == line


def test_it_ends_on_what_only_begins_like_a_secret():
    """Quadratic work on these would hold the suite up for minutes."""
    hostile = "password " * 50_000 + "://" * 50_000 + "sk-" * 50_000 + "a_" * 50_000
    assert scrub(hostile).startswith("password password ")


def record(message, *args, exc_info=None):
    return logging.LogRecord("aiproxy.test", logging.ERROR, __file__, 1, message, args, exc_info)


def failure(message):
    try:
        raise ValueError(message)
    except ValueError:
        return sys.exc_info()


@pytest.mark.parametrize("formatter", [logs.Line(), logs.Json()])
def test_it_masks_arguments_and_tracebacks(formatter):
    text = formatter.format(record("sent %s", f"sk-{BODY}", exc_info=failure(f"refused sk-{BODY}")))
    assert "CANARY" not in text
    assert "ValueError: refused ***" in text


def test_it_keeps_a_message_on_one_line():
    text = logs.Line().format(record("model %s", "x\n2026-01-01 INFO forged\x1b[31m"))
    assert "\n" not in text
    assert r"x\n2026-01-01 INFO forged\x1b[31m" in text


def test_it_names_the_request():
    token = logs.request_id.set("01987a3e")
    try:
        line, fields = logs.Line().format(record("hello")), json.loads(logs.Json().format(record("hello")))
    finally:
        logs.request_id.reset(token)
    assert line.endswith("ERROR aiproxy.test [01987a3e]: hello")
    assert fields["request_id"] == "01987a3e"


def test_it_writes_json_without_empty_fields():
    fields = json.loads(logs.Json().format(record('say "%s"', "é\n")))
    assert fields["message"] == 'say "é\n"'
    assert set(fields) == {"time", "level", "logger", "message"}


def test_it_is_what_the_settings_put_before_stderr():
    formatter = settings.LOGGING["handlers"]["stderr"]["formatter"]
    assert settings.LOGGING["formatters"][formatter]["()"] in ("aiproxy.logs.Line", "aiproxy.logs.Json")
