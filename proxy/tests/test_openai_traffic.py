"""Recorded traffic of OpenAI's, replayed through the data plane, where AIPROXY_TRAFFIC_DIR names it."""

import json
import os
from pathlib import Path

import pytest

from proxy import sse
from proxy.tests.provider import framed, head

TRAFFIC = os.environ.get("AIPROXY_TRAFFIC_DIR", "")
PATHS = {"chat": "/v1/chat/completions", "embeddings": "/v1/embeddings"}

pytestmark = [
    pytest.mark.skipif(not TRAFFIC, reason="AIPROXY_TRAFFIC_DIR is not set"),
    pytest.mark.django_db(transaction=True),
]


def recordings() -> list[dict]:
    found = [json.loads(path.read_bytes()) for path in sorted(Path(TRAFFIC or "none", "openai").glob("*.json"))]
    return [recorded for recorded in found if recorded["endpoint"] in PATHS and recorded["request"]["json"]]


def script(answer: dict):
    """The recorded answer as it came, streams in pieces that respect no event."""
    body, kind = answer["body"].encode(), answer["headers"].get("content-type", "application/json")

    async def play(request, writer):
        writer.write(head(answer["status"], f"content-type: {kind}", "transfer-encoding: chunked"))
        for at in range(0, len(body), 700):
            writer.write(framed(body[at : at + 700]))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    return play


def without_usage(body: bytes) -> bytes:
    """What a client is given that did not ask for the usage event."""
    return b"".join(event for event in sse.events(body) if b'"choices":[],' not in event)


async def test_it_gives_every_recorded_answer_as_it_was(client, provider, rows):
    recorded = recordings()
    assert recorded
    expected = []
    for one in recorded:
        asked, answer = json.dumps(one["request"]["json"]), one["response"]
        provider.scripts = [script(answer)]
        got = await client.post(PATHS[one["endpoint"]], content=asked.encode())
        expected.append(check(asked, answer, got))
    found = {str(row.id): row for row in await rows()}
    assert len(found) == len(expected)
    for request_id, outcome, total in expected:
        row = found[request_id]
        assert row.outcome == outcome
        assert row.tokens_total == total if total is not None else row.usage_source == "estimated"


def check(asked: str, answer: dict, got) -> tuple[str, str, int | None]:
    """The answer is right; what its row must say: request id, outcome, tokens (None: nobody told)."""
    body, request_id = answer["body"].encode(), got.headers["x-request-id"]
    if answer["status"] >= 400:
        assert got.status_code in {answer["status"], 424}
        assert got.json()["error"]["message"]
        ours = got.headers["x-aiproxy-error-source"] == "proxy"  # what we can tell, we need not ask for
        return request_id, "refused" if ours else "provider_error", 0
    if "event-stream" in answer["headers"].get("content-type", ""):
        wants = (json.loads(asked).get("stream_options") or {}).get("include_usage")
        assert got.content == (body if wants else without_usage(body))
        counted = [json.loads(data)["usage"] for data in map(sse.data_of, sse.events(body)) if b'"usage":{' in data]
        return request_id, "ok", counted[-1]["total_tokens"] if counted else None
    assert got.content == body
    return request_id, "ok", json.loads(body)["usage"]["total_tokens"]
