"""What `make clients` calls right, and what it does not let pass. The clients themselves are not run here."""

from pathlib import Path

import pytest

from clients.matrix import CASES, CLIENTS, Told, who
from clients.mocks import TALK, Mock
from clients.verdict import problems

CLIENT = CLIENTS[0]
LLMOCK = Mock("llmock", {}, "")
RIGHT = {
    "plain": {"text": "Hello! You said: hi", "tokens": 12},
    "streamed": {"text": "Hello! You said: hi", "pieces": 4, "tokens": 12},
    "tools": {"text": "Hello! You said: 21 degrees", "calls": ["get_weather"]},
    "image": {"text": "Hello! You said: hi"},
    "schema": {"json": '{"city": "Paris", "degrees": 21}'},
    "error": {"raised": "RateLimitError", "status": 429, "message": "Slow down."},
}


def judged(case: str, got: dict | None = None, body: str = "", **row: object) -> list[str]:
    told = Told("google", case, RIGHT[case] if got is None else got, started=1.0, ended=2.0)
    sent = body or f"{who(CLIENT, 'google', case)} {TALK['image']} {TALK['tool_result']}"
    written = {
        "created_at": "1970-01-01T00:00:01.500Z",
        "provider": "google",
        "model": CLIENT.model("google", case),
        "endpoint": CLIENT.endpoint,
        "streamed": case == "streamed",
        "outcome": "provider_error" if case == "error" else "ok",
        "usage_source": "provider",
        "tokens_input": 5,
        "tokens_output": 7,
        "tokens_total": 12,
    }
    return problems(CLIENT, told, mock=LLMOCK, bodies=[sent], rows=[written | row])


@pytest.mark.parametrize("case", CASES)
def test_it_calls_a_right_answer_right(case):
    assert judged(case) == []


@pytest.mark.parametrize(
    ("case", "got"),
    [
        ("plain", {"text": ""}),
        ("streamed", {"text": "Hello", "pieces": 1}),
        ("tools", {"text": "Hello", "calls": []}),
        ("schema", {"json": "Hello"}),
        ("schema", {"object": {"city": "Paris", "degrees": "21"}}),
        ("error", {"text": "Hello"}),
        ("error", {"raised": "InternalServerError", "status": 500, "message": "Slow down."}),
        ("image", {"raised": "BadRequestError", "status": 400, "message": "no"}),
    ],
)
def test_it_sees_a_wrong_answer(case, got):
    assert judged(case, got)


@pytest.mark.parametrize(
    "wrong",
    [
        {"provider": "openai"},
        {"model": "(unknown)"},
        {"outcome": "interrupted"},
        {"endpoint": "messages"},
        {"usage_source": "estimated"},
        {"tokens_total": 13},
        {"created_at": "1970-01-01T00:00:02.500Z"},
    ],
)
def test_it_sees_a_wrong_row(wrong):
    assert judged("plain", **wrong)


def test_it_sees_a_stream_that_was_none():
    assert judged("streamed", streamed=False)
    assert judged("streamed", {"text": "Hello", "pieces": 1, "tokens": 12})


@pytest.mark.parametrize("case", ["plain", "image", "tools"])
def test_it_sees_what_did_not_reach_the_provider(case):
    assert judged(case, body=who(CLIENT, "google", case).replace("google", "openai"))


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_its_result_is_written_down_for_every_version(client):
    name, version = client.name.split()[:2]
    shown = [line for line in Path("docs/providers.md").read_text().splitlines() if line.startswith("|")]
    assert any(name in line and version in line for line in shown)
