import re
import socket
from uuid import uuid4

import pytest
from django.core.cache import cache
from redis import Redis

from accounts import epoch
from accounts.models import Plan, User
from vault.crypto import Unsealable
from vault.models import ApiKey
from vault.tests.conftest import make_key

pytestmark = pytest.mark.django_db


@pytest.fixture
def client(api, owner):
    cache.clear()
    return api(owner)


def post(client, **fields):
    return client.post("/api-keys", {"provider": "openai", "label": "main", "key": make_key()} | fields)


def test_a_stored_key_comes_back_as_a_mask(client) -> None:
    answer = post(client, provider="anthropic", key="sk-ant-" + "x" * 20 + "abcd")
    assert answer.status_code == 201
    assert answer.json()["masked"] == "sk-ant-***…abcd"
    assert (
        answer.json() | {"provider": "anthropic", "label": "main", "priority": 100, "is_valid": True} == answer.json()
    )
    assert set(answer.json()) == {
        *("id", "provider", "label", "masked", "base_url", "priority", "is_valid"),
        *("created_at", "last_used_at", "last_tested_at", "last_error"),
    }


def test_it_is_sealed_and_opens_again(client) -> None:
    key = make_key()
    row = ApiKey.objects.get(pk=post(client, key=key).json()["id"])
    assert key not in row.encrypted_key
    assert row.unseal().reveal() == key


def test_no_endpoint_gives_the_key_back(client) -> None:
    key = make_key()
    url = f"/api-keys/{post(client, key=key).json()['id']}"
    pages = [
        getattr(client, method)(path, HTTP_ACCEPT=accept)
        for accept in ("application/json", "text/html")
        for path in ("/api-keys", url, url + "/test")
        for method in ("get", "options", "head")
    ]
    shown = "".join(page.content.decode() for page in pages)
    row = ApiKey.objects.get()
    assert row.masked in shown
    assert key[:-4] not in shown
    assert row.encrypted_key not in shown
    assert row.fingerprint.hex() not in shown


def test_a_refused_form_is_not_shown_again_with_the_key_in_it(client) -> None:
    key = make_key()
    for body in ({"provider": "no-such", "key": key}, {"provider": "anthropic", "key": key + "\u00e9"}):
        answer = client.post("/api-keys", body, format="json", HTTP_ACCEPT="text/html")
        assert answer.status_code == 400
        assert key not in answer.content.decode()


def test_the_form_hides_what_is_typed(client) -> None:
    page = client.get("/api-keys", HTTP_ACCEPT="text/html").content.decode()
    assert re.search(r'<input name="key"[^>]*type="password"', page)


def test_a_list_decrypts_nothing(client, stored, settings) -> None:
    stored()
    settings.AIPROXY_MASTER_KEYS = ""  # any use of the keyring would fail now
    assert len(client.get("/api-keys").json()["results"]) == 1


def test_a_list_has_pages(client, stored) -> None:
    for _ in range(3):
        stored()
    first = client.get("/api-keys?limit=2").json()
    second = client.get(first["next"]).json()
    assert len(first["results"]) == 2
    assert len(second["results"]) == 1
    assert second["next"] is None


def test_a_list_costs_one_query(client, stored, django_assert_num_queries) -> None:
    for _ in range(3):
        stored()
    with django_assert_num_queries(1):
        client.get("/api-keys")


@pytest.mark.parametrize("bad", ["\r\nx-evil: 1", "\n", " ", "\t", "é", "\u200b", "\x7f"])
def test_a_key_that_would_break_a_header_is_refused(client, bad) -> None:
    for key in (bad + make_key(), make_key() + bad, make_key() + bad + make_key()):
        answer = post(client, key=key)
        assert answer.status_code == 400
        assert list(answer.json()) == ["key"]
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("key", ["", "short", "x" * 513, None, 7, ["x" * 20], {"x": 1}, "a\0" + "x" * 20])
def test_what_is_no_key_is_refused(client, key) -> None:
    answer = client.post("/api-keys", {"provider": "openai", "key": key}, format="json")
    assert answer.status_code == 400
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"base_url": "https://elsewhere.example.com"}, "base_url"),
        ({"user": str(uuid4())}, "user"),
        ({"is_valid": False}, "is_valid"),
        ({"encrypted_key": "AAAA"}, "encrypted_key"),
        ({"fingerprint": "AAAA"}, "fingerprint"),
        ({"created_at": "2020-01-01T00:00:00Z"}, "created_at"),
        ({"nonsense": 1}, "nonsense"),
        ({"provider": "mistral"}, "provider"),
        ({"label": "x" * 81}, "label"),
        ({"label": "two\nlines"}, "label"),
        ({"priority": -1}, "priority"),
        ({"priority": 40_000}, "priority"),
    ],
)
def test_a_field_that_is_wrong_or_not_theirs_is_refused_by_name(client, fields, named) -> None:
    answer = post(client, **fields)
    assert answer.status_code == 400
    assert list(answer.json()) == [named]


def test_a_label_is_taken_once_per_provider(client) -> None:
    assert post(client).status_code == 201
    answer = post(client)
    assert answer.status_code == 409
    assert "label" in answer.json()["detail"]
    assert post(client, provider="alibaba").status_code == 201


def test_the_same_key_is_stored_once(client) -> None:
    key = make_key()
    assert post(client, key=key).status_code == 201
    answer = post(client, key=key, label="other")
    assert answer.status_code == 409
    assert "already" in answer.json()["detail"]


def test_two_people_may_store_the_same_key(client, api, teammate) -> None:
    key = make_key()
    assert post(client, key=key).status_code == 201
    assert post(api(teammate), key=key).status_code == 201


def test_a_plan_holds_so_many_keys(client) -> None:
    Plan.objects.update(max_api_keys=2)
    assert [post(client, label=str(n)).status_code for n in range(3)] == [201, 201, 409]
    assert "2 API keys" in post(client, label="more").json()["detail"]
    client.delete(f"/api-keys/{ApiKey.objects.first().pk}")
    assert post(client, label="again").status_code == 201


def test_label_and_priority_can_be_changed(client, stored) -> None:
    row = stored()
    answer = client.patch(f"/api-keys/{row.pk}", {"label": "renamed", "priority": 1})
    assert (answer.status_code, answer.json()["label"], answer.json()["priority"]) == (200, "renamed", 1)
    row.refresh_from_db()
    assert row.unseal().reveal()


@pytest.mark.parametrize("field", ["provider", "base_url", "is_valid", "user", "last4", "id", "nonsense"])
def test_nothing_else_can_be_changed(client, stored, field) -> None:
    answer = client.patch(f"/api-keys/{stored().pk}", {field: "openai"})
    assert answer.status_code == 400
    assert list(answer.json()) == [field]


def test_a_key_can_be_replaced_and_is_trusted_again(client, stored) -> None:
    row, key = stored(), make_key()
    ApiKey.objects.update(is_valid=False, last_error="401")
    answer = client.patch(f"/api-keys/{row.pk}", {"key": key})
    assert answer.status_code == 200
    assert (answer.json()["is_valid"], answer.json()["last_error"]) == (True, "")
    assert answer.json()["masked"].endswith(key[-4:])
    assert ApiKey.objects.get().unseal().reveal() == key


def test_a_change_can_collide_too(client, stored) -> None:
    key = make_key()
    first, second = stored(key), stored()
    assert client.patch(f"/api-keys/{second.pk}", {"label": first.label}).status_code == 409
    assert client.patch(f"/api-keys/{second.pk}", {"key": key}).status_code == 409
    assert client.patch(f"/api-keys/{second.pk}", {"key": "sk-ant-" + key}).status_code == 400


def test_a_deleted_key_is_gone(client, stored) -> None:
    row = stored()
    assert client.delete(f"/api-keys/{row.pk}").status_code == 204
    assert client.get(f"/api-keys/{row.pk}").status_code == 404
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("change", ["create", "rename", "replace", "delete"])
def test_every_change_is_told_to_the_workers(client, owner, stored, change) -> None:
    url = f"/api-keys/{stored().pk}"
    before = User.objects.get(pk=owner.pk).epoch
    answer = {
        "create": lambda: post(client),
        "rename": lambda: client.patch(url, {"label": "renamed"}),
        "replace": lambda: client.patch(url, {"key": make_key()}),
        "delete": lambda: client.delete(url),
    }[change]()
    assert answer.status_code < 300
    assert User.objects.get(pk=owner.pk).epoch == before + 1


def test_a_refused_change_is_not(client, owner, stored) -> None:
    row, other = stored(), stored()
    before = User.objects.get(pk=owner.pk).epoch
    assert client.patch(f"/api-keys/{row.pk}", {"label": other.label}).status_code == 409
    assert User.objects.get(pk=owner.pk).epoch == before


@pytest.mark.django_db(transaction=True)
def test_workers_that_could_not_be_told_are_not_kept_quiet(client, settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        settings.REDIS_URL = f"redis://127.0.0.1:{closed.getsockname()[1]}/0"
    answer = post(client)
    assert answer.status_code == 503
    assert "Saved" in answer.json()["detail"]
    assert ApiKey.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_repeating_a_call_tells_workers_that_could_not_be_told(client, owner, stored, settings, redis_url) -> None:
    settings.REDIS_URL = redis_url
    redis, name = Redis.from_url(redis_url), epoch.user_name(owner.id)
    key = make_key()
    row, tokens = stored(key), set()
    for call, status in [
        (lambda: post(client, key=key), 409),
        (lambda: client.delete(f"/api-keys/{row.pk}"), 204),
        (lambda: client.delete(f"/api-keys/{row.pk}"), 404),
    ]:
        assert call().status_code == status
        tokens.add(redis.get(name))
    redis.close()
    assert len(tokens - {None}) == 3


@pytest.mark.parametrize("who", ["teammate", "stranger"])
def test_someone_elses_key_is_not_there(api, stored, who, request) -> None:
    client, url = api(request.getfixturevalue(who)), f"/api-keys/{stored().pk}"
    answers = [client.get(url), client.patch(url, {"label": "mine"}), client.delete(url), client.post(url + "/test")]
    assert [answer.status_code for answer in answers] == [404] * 4
    assert client.get("/api-keys").json()["results"] == []
    assert ApiKey.objects.get().label != "mine"


def test_nobody_gets_in_without_signing_in(api, stored) -> None:
    client, url = api(None), f"/api-keys/{stored().pk}"
    answers = [client.get("/api-keys"), post(client), client.get(url), client.delete(url), client.post(url + "/test")]
    assert {answer.status_code for answer in answers} == {401}


def test_a_test_tells_what_the_provider_said(client, stored, provider) -> None:
    provider.answer(401, b'{"error": {"message": "no such key"}}')
    answer = client.post(f"/api-keys/{stored().pk}/test")
    assert answer.status_code == 200
    assert answer.json() | {"valid": False, "status": 401, "error": "401: no such key"} == answer.json()
    assert isinstance(answer.json()["latency_ms"], int)
    assert client.get("/api-keys").json()["results"][0]["is_valid"] is False


def test_tests_are_throttled_per_user(client, api, teammate, stored, provider) -> None:
    url = f"/api-keys/{stored().pk}/test"
    codes = [client.post(url).status_code for _ in range(12)]
    assert codes == [200] * 10 + [429] * 2
    assert len(provider.requests) == 10
    assert api(teammate).post(f"/api-keys/{stored(user=teammate).pk}/test").status_code == 200


# --- The addresses of its provider -----------------------------------------------------------------

US = "https://dashscope-us.aliyuncs.com/compatible-mode/v1"
WORKSPACE = "https://ws-jb5y0i.ap-southeast-1.maas.aliyuncs.com/compatible-mode/v1"


@pytest.mark.parametrize("url", [US, WORKSPACE, US + "/"])
def test_a_key_is_sealed_for_the_region_that_its_owner_names(client, url) -> None:
    answer = post(client, provider="alibaba", base_url=url)
    assert (answer.status_code, answer.json()["base_url"]) == (201, url.rstrip("/"))
    row = ApiKey.objects.get()
    assert row.unseal().reveal()
    row.base_url = ""
    with pytest.raises(Unsealable):
        row.unseal()


@pytest.mark.parametrize(
    ("provider", "url"),
    [
        ("alibaba", "https://elsewhere.example.com/compatible-mode/v1"),
        ("alibaba", "http://dashscope-us.aliyuncs.com/compatible-mode/v1"),
        ("alibaba", "https://dashscope-us.aliyuncs.com:8443/compatible-mode/v1"),
        ("alibaba", "https://dashscope-us.aliyuncs.com/other"),
        ("alibaba", "https://me@dashscope-us.aliyuncs.com/compatible-mode/v1"),
        ("alibaba", US + "?x=1"),
        ("alibaba", "https://x.cn-beijing.maas.aliyuncs.com.evil.example/compatible-mode/v1"),
        ("alibaba", "https://evil.example/.cn-beijing.maas.aliyuncs.com/compatible-mode/v1"),
        ("alibaba", "https://a.b.cn-beijing.maas.aliyuncs.com/compatible-mode/v1"),
        ("alibaba", "https://{workspace}.{region}.maas.aliyuncs.com/compatible-mode/v1"),
        ("openai", US),
    ],
)
def test_no_other_address_is_taken(client, provider, url) -> None:
    answer = client.post("/api-keys", {"provider": provider, "key": make_key(), "base_url": url}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["base_url"])
    assert provider == "openai" or "https://dashscope.aliyuncs.com/compatible-mode/v1" in answer.json()["base_url"][0]
    assert not ApiKey.objects.exists()


def test_it_says_which_addresses_there_are(client) -> None:
    (field,) = [client.options("/api-keys").json()["actions"]["POST"]["base_url"]]
    assert US in field["help_text"]


def test_no_address_is_taken_where_the_operator_has_set_it(client, settings) -> None:
    settings.AIPROXY_ALIBABA_BASE_URL = "https://models.example.com/v1"
    assert list(post(client, provider="alibaba", base_url=US).json()) == ["base_url"]


def test_a_key_moves_to_another_region_with_the_key_only(client, stored) -> None:
    row = stored(provider="alibaba")
    url = f"/api-keys/{row.pk}"
    assert list(client.patch(url, {"base_url": US}).json()) == ["base_url"]
    assert client.patch(url, {"base_url": US, "key": make_key()}).json()["base_url"] == US
    assert client.patch(url, {"base_url": US, "label": "moved"}).status_code == 200
    row.refresh_from_db()
    assert row.unseal().reveal()


def test_a_key_whose_address_is_no_longer_allowed_is_not_replaced(client, settings) -> None:
    row = post(client, provider="alibaba", base_url=US).json()
    settings.AIPROXY_ALIBABA_BASE_URL = "https://models.example.com/v1"
    answer = client.patch(f"/api-keys/{row['id']}", {"key": make_key()})
    assert (answer.status_code, list(answer.json())) == (400, ["base_url"])
