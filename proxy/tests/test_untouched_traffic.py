"""Recorded traffic in the provider's own dialect, through the data plane, where AIPROXY_TRAFFIC_DIR names it.

What a client of OpenAI's or Anthropic's asks its own provider passes untouched, and so does what it is answered.
"""

import json
import os
import re
import secrets
from pathlib import Path

import pytest

from accounts.models import Plan
from proxy import sse
from proxy.tests.provider import Provider, framed, head
from proxy.tests.test_wire_anthropic_traffic import blocks_of, events_of
from vault import store
from vault.secret import Secret

TRAFFIC = os.environ.get("AIPROXY_TRAFFIC_DIR", "")
PATHS = {
    ("openai", "chat"): "/v1/chat/completions",
    ("openai", "embeddings"): "/v1/embeddings",
    ("openai", "responses"): "/v1/responses",
    ("anthropic", "messages"): "/v1/messages",
    ("anthropic", "count_tokens"): "/v1/messages/count_tokens",
}
# What we add to the usage that a client of OpenAI's asked for.
COST = re.compile(rb'"cost":[\d.]+,')

pytestmark = [
    pytest.mark.skipif(not TRAFFIC, reason="AIPROXY_TRAFFIC_DIR is not set"),
    pytest.mark.django_db(transaction=True),
]


def recordings(kind: tuple[str, str]) -> list[dict]:
    paths = sorted(Path(TRAFFIC or "none", kind[0]).glob("*.json"))
    return [one for path in paths if (one := json.loads(path.read_bytes()))["endpoint"] == kind[1]]


def is_stream(answer: dict) -> bool:
    return "event-stream" in answer["headers"].get("content-type", "") or answer["body"].startswith(("data:", "event:"))


def asked(recorded: dict) -> dict:
    """The recorded request; of some recordings there is none but for what the answer tells."""
    stands_in = {"model": "gpt-4o" if recorded["provider"] == "openai" else "claude-opus-4-6", "max_tokens": 50}
    stands_in |= {"messages": [{"role": "user", "content": "hi"}], "stream": is_stream(recorded["response"])}
    return recorded["request"]["json"] or stands_in


def script(answer: dict):
    """The recorded answer as it came, streams in pieces that respect no event."""
    body, kind = answer["body"].encode(), answer["headers"].get("content-type", "application/json")
    kind = "text/event-stream" if is_stream(answer) else kind

    async def play(request, writer):
        writer.write(head(answer["status"], f"content-type: {kind}", "transfer-encoding: chunked"))
        for at in range(0, len(body), 700):
            writer.write(framed(body[at : at + 700]))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    return play


@pytest.fixture
def provider(provider: Provider, settings, user) -> Provider:
    settings.AIPROXY_ANTHROPIC_BASE_URL = f"http://127.0.0.1:{provider.port}"
    Plan.objects.update(rpm=None, tpm=None)
    store.add(user.id, "anthropic", "", Secret("demo-" + secrets.token_hex(20)))
    return provider


@pytest.mark.parametrize("kind", PATHS, ids="-".join)
async def test_it_gives_every_recorded_answer_as_it_was(client, provider, rows, kind):
    recorded = recordings(kind)
    assert recorded
    expected = []
    for one in recorded:
        request, answer = asked(one), one["response"]
        provider.scripts = [script(answer)]
        got = await client.post(PATHS[kind], json=request)
        expected.append(check(request, answer, got, kind[0]))
    found = {str(row.id): row for row in await rows()}
    assert len(found) == len(expected)
    for request_id, outcome, total in expected:
        row = found[request_id]
        assert row.outcome == outcome
        assert row.tokens_total == total if total is not None else row.usage_source == "estimated"


def check(request: dict, answer: dict, got, provider: str) -> tuple[str, str, int | None]:
    """The answer is right; what its row must say: request id, outcome, tokens (None: nobody told)."""
    body, request_id = answer["body"].encode(), got.headers["x-request-id"]
    if request.get("background"):
        assert (got.status_code, got.json()["error"]["param"]) == (400, "background")
        return request_id, "refused", 0
    if answer["status"] >= 400:
        ours = got.headers["x-aiproxy-error-source"] == "proxy"  # what we can tell, we need not ask for
        assert got.status_code in {answer["status"], 424} or (ours and got.status_code == 404)
        assert got.json()["error"]["message"]
        return request_id, "refused" if ours else "provider_error", 0
    asks_not = provider == "openai" and not (request.get("stream_options") or {}).get("include_usage")
    assert COST.sub(b"", got.content) == (without_usage(body) if is_stream(answer) and asks_not else body)
    return request_id, "ok", TOTALS[provider](answer)


def without_usage(body: bytes) -> bytes:
    """What a client of OpenAI's is given that did not ask for the usage event."""
    events = list(sse.events(body))
    return b"".join(event for event in events if not (b'"choices":[],' in event and b'"usage":{' in event))


def total_of_openai(answer: dict) -> int | None:
    body = answer["body"].encode()
    if not is_stream(answer):
        return json.loads(body)["usage"]["total_tokens"]
    counted = [json.loads(data) for data in map(sse.data_of, sse.events(body)) if b'"usage":{' in data]
    return counted[-1].get("response", counted[-1])["usage"]["total_tokens"] if counted else None


def total_of_anthropic(answer: dict) -> int:
    """Its classes of tokens are disjoint; a count of tokens uses none."""
    body = answer["body"].encode()
    used = blocks_of(events_of(body))[2] if is_stream(answer) else json.loads(body).get("usage", {})
    classes = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    apart = [one for one in used.get("iterations") or () if one["type"] in {"compaction", "advisor_message"}]
    return sum(one.get(name) or 0 for one in (used, *apart) for name in classes)


TOTALS = {"openai": total_of_openai, "anthropic": total_of_anthropic}
