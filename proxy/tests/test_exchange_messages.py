"""One exchange in Anthropic's dialect, from its client's socket to the row in the log; untouched to Anthropic."""

import json
import secrets

import pytest

from proxy.tests.provider import Provider, answer, stream
from proxy.tests.wire_cases import feed
from proxy.wire import Call, Usage, anthropic_native
from vault import store
from vault.secret import Secret

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]

MODEL = "claude-opus-4-6"
ASKED = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
USAGE = {"input_tokens": 5, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 3}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "content": [{"type": "text", "text": "Hi"}],
    "usage": USAGE,
    "new": {"field": 1},
}


def event(kind: str, **fields: object) -> bytes:
    return b"event: %b\ndata: %b \n\n" % (kind.encode(), json.dumps({"type": kind, **fields}).encode())


EVENTS = [
    event("message_start", message={**MESSAGE, "content": [], "usage": {**USAGE, "output_tokens": 1}}),
    event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    event("ping"),
    event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hi"}),
    event("content_block_stop", index=0),
    event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3}),
    event("message_stop"),
]


@pytest.fixture
def provider(provider: Provider, settings, user) -> Provider:
    settings.AIPROXY_ANTHROPIC_BASE_URL = f"http://127.0.0.1:{provider.port}"
    store.add(user.id, "anthropic", "", Secret("demo-" + secrets.token_hex(20)))
    provider.default = answer(200, MESSAGE)
    return provider


def test_it_counts_the_same_however_a_stream_is_cut():
    """Also one that goes on after its end."""
    sent = b"".join((*EVENTS[:4], EVENTS[-1], EVENTS[3]))

    def used(cut: int) -> Usage | None:
        return feed(anthropic_native.WIRE, Call(MODEL), (sent[:cut], sent[cut:]))[1].usage

    assert {used(cut) for cut in range(len(sent))} == {Usage(input=9, output=1, total=10, cached=4)}


async def test_it_passes_a_request_and_its_answer_untouched(client, provider, rows):
    body = b'{ "model":"claude-opus-4-6", "max_tokens": 50, "messages":[], "unheard_of": [1 , 2] }'
    response = await client.post("/v1/messages?beta=true", content=body)
    (request,) = provider.requests
    assert (request.target, request.body) == ("/v1/messages", body)
    assert response.json() == MESSAGE
    (row,) = await rows()
    assert (row.endpoint, row.provider, row.model, row.outcome) == ("messages", "anthropic", MODEL, "ok")
    assert (row.tokens_input, row.tokens_cached, row.tokens_output, row.usage_source) == (9, 4, 3, "provider")


async def test_it_takes_the_providers_name_off_the_model(client, provider):
    await client.post("/v1/messages", json={**ASKED, "model": f"anthropic/{MODEL}"})
    assert provider.requests[0].json() == ASKED


async def test_it_passes_betas_and_the_version_that_the_client_speaks(client, provider):
    said = {"anthropic-beta": "a-2025-01-01,b-2025-01-01", "anthropic-version": "2026-10-21", "x-app": "cli"}
    await client.post("/v1/messages", json=ASKED, headers=said)
    sent = provider.requests[0].headers
    assert (sent["anthropic-beta"], sent["anthropic-version"]) == (said["anthropic-beta"], "2026-10-21")
    assert "x-app" not in sent and sent["x-api-key"].startswith("demo-")


async def test_it_names_a_version_for_a_client_that_does_not(client, provider):
    await client.post("/v1/messages", json=ASKED)
    assert provider.requests[0].headers["anthropic-version"] == "2023-06-01"


async def test_it_passes_a_stream_untouched(client, provider, rows):
    provider.default = stream(EVENTS)
    response = await client.post("/v1/messages", json={**ASKED, "stream": True})
    assert response.content == b"".join(EVENTS)
    (row,) = await rows()
    assert (row.outcome, row.streamed, row.tokens_input, row.tokens_output) == ("ok", True, 9, 3)


async def test_it_says_its_own_request_id_as_anthropics_clients_look_for_it(client, provider, rows):
    response = await client.post("/v1/messages", json=ASKED)
    (row,) = await rows()
    assert response.headers["request-id"] == response.headers["x-request-id"] == str(row.id)


@pytest.mark.parametrize(
    ("headers", "fields", "status", "kind"),
    [
        ({"authorization": "", "x-api-key": "sk-proxy-no"}, {}, 401, "authentication_error"),
        ({}, {"max_tokens": 0}, 400, "invalid_request_error"),
        ({}, {"model": "unheard-of"}, 404, "not_found_error"),
        ({"via": "{via}"}, {}, 508, "api_error"),
    ],
)
async def test_it_refuses_in_anthropics_words(plane, client, provider, headers, fields, status, kind):
    headers = {name: value.format(via=plane.runtime.via.decode()) for name, value in headers.items()}
    headers = {"authorization": client.headers["authorization"], **headers}
    headers = {name: value for name, value in headers.items() if value}
    client.headers.pop("authorization")
    response = await client.post("/v1/messages", json={**ASKED, **fields}, headers=headers)
    assert response.status_code == status
    said = response.json()
    assert (said["type"], said["error"]["type"]) == ("error", kind)
    assert said["request_id"] == response.headers["request-id"]


async def test_it_says_of_a_wrong_key_that_another_try_is_in_vain(client, provider):
    response = await client.post("/v1/messages", json=ASKED, headers={"authorization": "Bearer sk-proxy-no"})
    assert (response.status_code, response.headers["x-should-retry"]) == (401, "false")
    assert "invalid x-api-key" in response.json()["error"]["message"]


async def test_it_passes_an_overloaded_provider_on_as_anthropic_says_it(client, provider):
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    provider.default = answer(529, overloaded, "retry-after: 7")
    response = await client.post("/v1/messages", json=ASKED)
    assert (response.status_code, response.headers["retry-after"]) == (529, "7")
    assert response.json()["error"] == overloaded["error"]


async def test_it_ends_a_failed_stream_with_anthropics_error_event_and_no_end(client, provider, rows):
    failure = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    provider.default = stream([*EVENTS[:4], failure])
    received = b""
    with pytest.raises(Exception, match="incomplete chunked read|closed"):
        async with client.stream("POST", "/v1/messages", json={**ASKED, "stream": True}) as response:
            async for part in response.aiter_raw():
                received += part
    assert received.startswith(b"".join(EVENTS[:4])) and b"message_stop" not in received
    (last,) = received.removeprefix(b"".join(EVENTS[:4])).strip().splitlines()[1:]
    assert json.loads(last[6:])["error"] == {"type": "overloaded_error", "message": "Overloaded"}
    (row,) = await rows()
    assert (row.outcome, row.tokens_input, row.tokens_output) == ("provider_error", 9, 1)


async def test_it_does_not_take_a_stream_without_its_end_for_a_whole_one(client, provider, rows):
    provider.default = stream(EVENTS[:-1])
    with pytest.raises(Exception, match="incomplete chunked read|closed"):
        await client.post("/v1/messages", json={**ASKED, "stream": True})
    assert [row.outcome for row in await rows()] == ["provider_error"]


async def test_it_holds_to_the_keys_limit_of_output(client, provider, proxy_key):
    await proxy_key[0].__class__.objects.filter(pk=proxy_key[0].pk).aupdate(max_tokens=49)
    response = await client.post("/v1/messages", json=ASKED)
    assert (response.status_code, provider.requests) == (400, [])


# --- counting -------------------------------------------------------------------------------------------------------

COUNTED = {"model": MODEL, "messages": ASKED["messages"], "system": "s" * 400}


async def test_it_has_anthropic_count_its_models_tokens_and_bills_none(client, provider, rows):
    provider.default = answer(200, {"input_tokens": 2095})
    response = await client.post("/v1/messages/count_tokens?beta=true", json=COUNTED)
    assert (response.json(), provider.requests[0].target) == ({"input_tokens": 2095}, "/v1/messages/count_tokens")
    (row,) = await rows()
    assert (row.endpoint, row.outcome, row.tokens_total) == ("messages.count_tokens", "ok", 0)


async def test_it_estimates_the_tokens_of_other_models_and_asks_nobody(client, provider, rows):
    response = await client.post("/v1/messages/count_tokens", json={**COUNTED, "model": "gpt-4o"})
    assert 100 < response.json()["input_tokens"] < 140
    assert provider.requests == []
    (row,) = await rows()
    assert (row.provider, row.outcome, row.tokens_total, row.usage_source) == ("openai", "ok", 0, "none")
