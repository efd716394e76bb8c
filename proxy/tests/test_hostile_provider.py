"""A provider that redirects, injects, stalls, babbles or miscounts: what reaches the client, and what the row says."""

import asyncio
import itertools
import json

import pytest

from accounts.models import Plan
from proxy.tests.provider import DONE, HELLO, STREAM_HEAD, USAGE, answer, chunk, framed, head, plain, stream

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
STREAMED = {**CHAT, "stream": True}
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]


@pytest.fixture(autouse=True)
def no_limits(user):
    """Whatever plan the database begins with: here nobody is over a limit."""
    Plan.objects.update(rpm=None, tpm=None, max_parallel=None)


async def ask(client, **fields):
    return await client.post("/v1/chat/completions", json={**CHAT, **fields})


def raw(*parts: bytes, close: bool = True):
    """Exactly these bytes, then the end of the connection, or silence."""

    async def play(request, writer):
        for part in parts:
            writer.write(part)
            await writer.drain()
        if not close:
            await asyncio.Event().wait()
        writer.close()

    return play


async def read_stream(client) -> tuple[int, bytes, bool]:
    """Status, what came, and whether the answer had a clean end."""
    received = b""
    async with client.stream("POST", "/v1/chat/completions", json=STREAMED) as response:
        try:
            async for part in response.aiter_raw():
                received += part
        except Exception:
            return response.status_code, received, False
    return response.status_code, received, True


# --- Redirects --------------------------------------------------------------------------------------------------------


ELSEWHERE = ["http://127.0.0.1:{port}/v1/internal", "/v1/internal", "//127.0.0.1:{port}/x"]


async def test_it_follows_no_redirect(client, provider, rows):
    cases = list(itertools.product((300, 301, 302, 303, 304, 305, 307, 308), ELSEWHERE))
    for status, where in cases:
        provider.default = answer(status, b"", f"location: {where.format(port=provider.port)}")
        response = await ask(client)
        assert (response.status_code, response.json()["error"]["code"]) == (502, "provider_broken")
        assert "location" not in response.headers
    assert [request.target for request in provider.requests] == ["/v1/chat/completions"] * len(cases)
    told = {(row.outcome, row.status_code, row.tokens_total) for row in await rows()}
    assert told == {("provider_error", 502, 0)}


async def test_it_obeys_no_refresh_and_no_alternative_service(client, provider):
    provider.default = answer(200, None, 'alt-svc: h2="127.0.0.1:9"; ma=86400', "refresh: 0;url=http://127.0.0.1:9/")
    for _ in range(2):
        assert not {"alt-svc", "refresh"} & set((await ask(client)).headers)
    assert len(provider.requests) == 2


# --- Fields in both directions ----------------------------------------------------------------------------------------

NAMES = """
cookie accept-language te trailer range if-match if-none-match if-range cache-control pragma date from referer origin
dnt depth max-forwards digest content-md5 forwarded x-forwarded-for x-forwarded-host x-forwarded-proto
x-forwarded-port x-real-ip cf-connecting-ip true-client-ip x-client-ip x-client-cert proxy-authorization
proxy-connection x-user x-goog-api-key x_api_key api_key x-auth-token openai-admin-key x-openai-actor-authorization
anthropic-version x-http-method-override x-method-override x-original-url x-rewrite-url x-request-id traceparent
tracestate baggage x-amzn-trace-id x-b3-traceid x-stainless-lang x-stainless-retry-count x-aiproxy-user
x-aiproxy-error-source upgrade-insecure-requests sec-fetch-site sec-ch-ua sec-websocket-key priority save-data
via-proxy x-should-retry
"""
ODD = dict.fromkeys(NAMES.split(), "odd")
REPLACED = {"host": "127.0.0.1", "user-agent": "odd", "accept": "text/odd", "accept-encoding": "gzip, br, zstd"}
REPLACED |= {"content-type": "text/odd; charset=utf-7"}
FORWARDED = {"openai-beta": "a", "openai-organization": "org", "openai-project": "proj", "idempotency-key": "i"}
OURS = {"host", "authorization", "accept", "accept-encoding", "user-agent", "via", "content-type", "content-length"}


async def test_it_tells_the_provider_only_what_is_listed(client, provider):
    assert len(ODD) > 60
    named = "keep-alive, authorization, x-request-id, host, content-length"
    response = await client.post(
        "/v1/chat/completions", json=CHAT, headers={**ODD, **REPLACED, **FORWARDED, "connection": named}
    )
    assert response.status_code == 200
    sent = provider.requests[0].headers
    assert set(sent) == OURS | set(FORWARDED)
    assert not [value for value in sent.values() if "odd" in value]
    assert (sent["host"], sent["user-agent"]) == (f"127.0.0.1:{provider.port}", "aiproxy")
    assert (sent["content-type"], sent["accept-encoding"]) == ("application/json", "identity")
    assert sent["authorization"].startswith("Bearer demo-")
    assert {name: sent[name] for name in FORWARDED} == FORWARDED


async def test_it_forwards_no_control_character(address, proxy_key, provider):
    key = proxy_key[1].encode()
    for code in (*range(9), *range(10, 32), 127):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\n" % key)
        writer.write(b"OpenAI-Beta: a%bb\r\n\r\n" % bytes([code]))
        assert (await reader.readline()).split()[1] == b"400", f"{code:#x}"
        writer.close()
    assert provider.requests == []


LEAKS = [
    *("set-cookie: a=b", "server: internal/1.0", "x-powered-by: x", "via: 1.1 internal", "x-internal-host: 10.0.0.1"),
    *("x-api-key: echoed", "authorization: Bearer echoed", "www-authenticate: Basic realm=x", "location: http://a/"),
    *("access-control-allow-origin: *", "access-control-allow-credentials: true", "content-disposition: attachment"),
    *("strict-transport-security: max-age=0", "clear-site-data: *", "content-security-policy: x", "link: <http://a>"),
    *(
        "x-ratelimit-limit-requests: 1",
        "x-aiproxy-error-source: provider",
        "x-aiproxy-provider: echoed",
        "x-should-retry: true",
        "age: 1",
    ),
    *("proxy-authenticate: Basic", "keep-alive: timeout=1", "upgrade: h2c", "openai-organization: victim", "etag: x"),
]
PASSED = {"openai-version: 2020-10-01", "openai-processing-ms: 5"}
TOLD = {"date", "content-type", "content-length", "transfer-encoding", "connection", "cache-control"}
TOLD |= {"x-aiproxy-provider", "x-aiproxy-model", "x-aiproxy-attempts", "x-aiproxy-cost"}
TOLD |= {"x-request-id", "x-provider-request-id", "x-accel-buffering", "openai-version", "openai-processing-ms"}


@pytest.mark.parametrize("streamed", [False, True])
async def test_it_tells_the_client_only_what_is_listed(client, provider, streamed):
    if streamed:
        fields = ["content-type: text/event-stream", "transfer-encoding: chunked", *LEAKS, *PASSED]
        provider.default = raw(head(200, *fields), *map(framed, HELLO), b"0\r\n\r\n")
    else:
        provider.default = answer(200, None, *LEAKS, *PASSED)
    response = await ask(client, stream=streamed)
    assert response.status_code == 200
    limits = {name for name in response.headers if name.startswith("x-ratelimit-")}
    assert set(response.headers) - limits <= TOLD
    assert response.headers.get("x-ratelimit-limit-requests") != "1"
    assert "echoed" not in str(response.headers)


SPLITTING = [b"a\rset-cookie: b=c", b"a\nset-cookie: b=c", b"a\0b", b"a\r\n set-cookie: b=c", b"a\x0bset-cookie: b=c"]


@pytest.mark.data_plane(AIPROXY_BREAKER_FAILURES=0)
async def test_it_lets_no_field_of_the_provider_start_another(client, provider):
    body = json.dumps(plain()).encode()
    length = b"content-length: %d\r\n" % len(body)
    fields = (b"openai-version", b"content-type", b"x-request-id", b"retry-after")
    for status, field, value in itertools.product((200, 429), fields, SPLITTING):
        provider.default = raw(b"HTTP/1.1 %d X\r\n%b: %b\r\n%b\r\n%b" % (status, field, value, length, body))
        response = await ask(client)
        assert response.status_code in {status, 502}, value
        assert "set-cookie" not in response.headers


# --- Streams that end badly -------------------------------------------------------------------------------------------

EVENT = framed(chunk("Hel"))
BROKEN = {
    "FIN after the head": raw(STREAM_HEAD),
    "FIN within an event": raw(STREAM_HEAD, EVENT, framed(b'data: {"id"')),
    "FIN after an event": raw(STREAM_HEAD, EVENT),
    "FIN before the last chunk": raw(STREAM_HEAD, EVENT, framed(chunk())),
    "a chunk of no size": raw(STREAM_HEAD, EVENT, b"zz\r\n", EVENT),
    "a chunk longer than its size": raw(STREAM_HEAD, EVENT, b"3\r\nabcdef\r\n"),
    "a negative chunk": raw(STREAM_HEAD, EVENT, b"-1\r\n"),
    "a huge chunk": raw(STREAM_HEAD, EVENT, b"ffffffffffffffff\r\n"),
    "an end without its event": stream([chunk("Hel")]),
    "an event without an end": raw(STREAM_HEAD, EVENT, *[framed(b"data: " + b"x" * (1 << 20))] * 17, close=False),
    "no event at all": stream([]),
    "garbage": raw(STREAM_HEAD, framed(b"\0\xff\xfe" * 1000), b"0\r\n\r\n"),
    "another answer": raw(STREAM_HEAD, EVENT, b"HTTP/1.1 200 OK\r\n\r\n"),
}


async def test_it_never_passes_a_broken_stream_off_as_a_whole_one(client, provider, rows):
    for name, script in BROKEN.items():
        provider.default = script
        status, received, clean = await asyncio.wait_for(read_stream(client), 20)
        assert b"[DONE]" not in received, name
        assert (status, clean) in {(200, False), (502, True)}, name
        error = received.rpartition(b"data: ")[2] if status == 200 else received
        assert json.loads(error)["error"]["code"] == "provider_broken", name
    assert [row.outcome for row in await rows()] == ["provider_error"] * len(BROKEN)


STALLS = {
    "before the head": raw(close=False),
    "within the head": raw(b"HTTP/1.1 200 OK\r\ncontent-", close=False),
    "after the head": raw(STREAM_HEAD, close=False),
    "after an event": raw(STREAM_HEAD, EVENT, close=False),
    "within an event": raw(STREAM_HEAD, EVENT, framed(b'data: {"id"'), close=False),
    "within a chunk": raw(STREAM_HEAD, EVENT, b"ff\r\nda", close=False),
}


@pytest.mark.data_plane(AIPROXY_FIRST_BYTE_TIMEOUT=0.1, AIPROXY_STREAM_IDLE_TIMEOUT=0.1)
async def test_it_ends_a_stream_that_stalls(client, provider, rows):
    for name, script in STALLS.items():
        provider.default = script
        status, received, clean = await asyncio.wait_for(read_stream(client), 20)
        assert (status, clean) in {(200, False), (504, True)}, name
        error = received.rpartition(b"data: ")[2] if status == 200 else received
        assert json.loads(error)["error"]["code"] == "provider_timeout", name
    assert [row.outcome for row in await rows()] == ["timeout"] * len(STALLS)


async def test_it_passes_a_long_line_and_comments(client, provider, rows):
    events = [b": ping\n\n", chunk("x" * (1 << 20)), b"event: x\nid: 1\nretry: 5\n\n", chunk(), DONE]
    provider.default = stream(events)
    assert await read_stream(client) == (200, b"".join(events), True)
    assert [row.outcome for row in await rows()] == ["ok"]


# --- Usage ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def usage_event() -> bytes:
    return chunk(choices=[], usage=USAGE)


async def test_it_counts_the_same_wherever_the_usage_is_cut(client, provider, rows, usage_event):
    for split in range(1, len(usage_event)):
        parts = [*HELLO[:3], usage_event[:split], usage_event[split:] + DONE]
        provider.scripts.append(stream(parts))
    for _ in range(1, len(usage_event)):
        assert await read_stream(client) == (200, b"".join(HELLO[:3]) + DONE, True)
    assert {(row.tokens_input, row.tokens_output, row.usage_source) for row in await rows()} == {(9, 3, "provider")}


ZERO = dict.fromkeys(USAGE, 0)
COUNTS = {
    "zero": ([chunk("a"), chunk(choices=[], usage=ZERO), DONE], (0, 0)),
    "twice": ([chunk(usage=ZERO), chunk(choices=[], usage=USAGE), DONE], (9, 3)),
    "total left out": ([chunk(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 2}), DONE], (5, 2)),
}
NO_COUNTS = {
    "none": [],
    "null": [chunk(choices=[], usage=None)],
    "negative": [chunk(choices=[], usage={**USAGE, "completion_tokens": -5})],
    "huge": [chunk(choices=[], usage={**USAGE, "total_tokens": 10**30})],
    "beyond the column": [chunk(choices=[], usage={**USAGE, "prompt_tokens": 2**40})],
    "text": [chunk(choices=[], usage={**USAGE, "completion_tokens": "3"})],
    "half": [chunk(choices=[], usage={**USAGE, "completion_tokens": 0.5})],
    "a list": [chunk(choices=[], usage=[USAGE])],
}


async def test_it_believes_a_count_that_is_zero_too(client, provider, rows):
    for events, _ in COUNTS.values():
        provider.default = stream(events)
        assert (await read_stream(client))[::2] == (200, True)
    found = [((row.tokens_input, row.tokens_output), row.usage_source) for row in await rows()]
    assert found == [(counted, "provider") for _, counted in COUNTS.values()]


async def test_it_estimates_where_there_is_no_count(client, provider, rows):
    for name, events in NO_COUNTS.items():
        provider.default = stream([chunk("a"), chunk("b"), *events, DONE])
        assert (await read_stream(client))[::2] == (200, True), name
    found = await rows()
    assert len(found) == len(NO_COUNTS)
    for row in found:
        assert (row.outcome, row.usage_source) == ("ok", "estimated")
        assert 1 <= row.tokens_input <= 50 and 2 <= row.tokens_output <= 4


async def test_it_estimates_where_a_plain_answer_has_no_count(client, provider, rows):
    for wrong in ({"prompt_tokens": -9}, {"total_tokens": 10**30}, {"completion_tokens": "3"}, {"prompt_tokens": 1.5}):
        provider.default = answer(200, {**plain(), "usage": {**USAGE, **wrong}})
        assert (await ask(client)).status_code == 200
    found = [(row.outcome, row.usage_source, row.tokens_output) for row in await rows()]
    assert found == [("ok", "estimated", 0)] * 4
