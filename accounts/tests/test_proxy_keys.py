import base64
import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from accounts import hashers, keys
from accounts.api import ProxyKeyDetail
from accounts.keys import Peppers
from accounts.models import Plan, ProxyKey


def generate(client, **body):
    return client.post("/proxy-api-keys/generate", body)


def path(key):
    return f"/proxy-api-keys/{key.id}"


@pytest.fixture
def roomy(db):
    Plan.objects.filter(code="free").update(max_proxy_keys=1000)


def test_it_shows_a_new_key_once(api, owner):
    answer = generate(api(owner), name="laptop")
    assert answer.status_code == 201
    assert "no-store" in answer["Cache-Control"]
    key = answer.json()["key"]
    assert keys.parse(key)
    assert key not in api(owner).get("/proxy-api-keys").content.decode()
    assert "key" not in api(owner).get(f"/proxy-api-keys/{answer.json()['id']}").json()


def test_it_makes_a_key_that_verifies(api, owner):
    key = generate(api(owner)).json()["key"]
    row = ProxyKey.objects.get(key_prefix=keys.PREFIX + keys.parse(key))
    assert Peppers.from_settings().verify(bytes(row.verifier), row.key_id, owner.id, key)
    assert row.key_hash.startswith("$argon2id$")
    assert hashers.check_key(key, row.key_hash)


def test_it_stores_nothing_of_the_key_but_its_prefix(api, owner):
    key = generate(api(owner)).json()["key"]
    assert key[17:] not in str(ProxyKey.objects.values().get())


def test_it_takes_every_limit(api, owner):
    limits = {
        "name": "ci",
        "expires_at": "2999-01-01T00:00:00Z",
        "allowed_models": ["gpt-5*", "openai/o3"],
        "rpm": 10,
        "tpm": 1000,
        "max_parallel": 2,
        "max_tokens": 100,
        "ip_allowlist": ["203.0.113.0/24", "2001:db8::1"],
    }
    answer = generate(api(owner), **limits)
    assert answer.status_code == 201, answer.json()
    assert {name: answer.json()[name] for name in limits} == limits


def test_it_needs_no_body(api, owner):
    assert api(owner).post("/proxy-api-keys/generate").status_code == 201


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rpm", 0),
        ("rpm", -1),
        ("rpm", 1.5),
        ("rpm", True),
        ("rpm", "many"),
        ("max_tokens", 2**31),
        ("rpm", 10**30),
        ("rpm", 61),  # the free plan has 60
        ("tpm", 100_001),
        ("max_parallel", 11),
        ("expires_at", "2020-01-01T00:00:00Z"),
        ("expires_at", "tomorrow"),
        ("name", "x" * 81),
        ("name", None),
        ("name", "a\x00b"),
        ("allowed_models", ["a b"]),
        ("allowed_models", "gpt-5"),
        ("allowed_models", None),
        ("allowed_models", ["x"] * 101),
        ("ip_allowlist", ["300.0.0.1"]),
        ("ip_allowlist", ["10.0.0.1/8"]),
        ("ip_allowlist", [None]),
        ("ip_allowlist", {"a": 1}),
    ],
)
def test_it_names_the_field_that_is_wrong(api, owner, field, value):
    answer = generate(api(owner), **{field: value})
    assert answer.status_code == 400
    assert list(answer.json()) == [field]
    assert not ProxyKey.objects.exists()


@pytest.mark.parametrize(
    "field", ["id", "user", "user_id", "key", "key_prefix", "key_hash", "verifier", "revoked_at", "epoch", "status"]
)
def test_it_takes_no_other_field(api, owner, make_key, field):
    key, client = make_key(owner), api(owner)
    for answer in (generate(client, **{field: "x"}), client.patch(path(key), {field: "x"})):
        assert answer.status_code == 400
        assert answer.json() == {field: ["Unknown or read-only field."]}


def test_it_lets_a_key_have_limits_where_the_plan_has_none(api, owner):
    Plan.objects.filter(code="free").update(rpm=None)
    assert generate(api(owner), rpm=10**6).status_code == 201


def test_it_holds_the_plans_number_of_keys(api, owner, make_key):
    made = [make_key(owner) for _ in range(owner.plan.max_proxy_keys)]
    refused = generate(api(owner))
    assert refused.status_code == 409
    assert "5 live proxy keys" in refused.json()["detail"]
    made[0].revoke()
    assert generate(api(owner)).status_code == 201


def test_it_does_not_count_expired_keys(api, owner, make_key):
    for _ in range(owner.plan.max_proxy_keys):
        make_key(owner, expires_at=timezone.now() - timedelta(seconds=1))
    assert generate(api(owner)).status_code == 201


def test_it_does_not_bring_an_expired_key_back_beyond_the_plan(api, owner, make_key):
    expired = make_key(owner, expires_at=timezone.now() - timedelta(seconds=1))
    for _ in range(owner.plan.max_proxy_keys):
        make_key(owner)
    assert api(owner).patch(path(expired), {"expires_at": None}).status_code == 409
    ProxyKey.objects.exclude(pk=expired.pk).first().revoke()
    assert api(owner).patch(path(expired), {"expires_at": None}).json()["status"] == "live"


def test_it_changes_limits(api, owner, make_key):
    key = make_key(owner, rpm=5)
    answer = api(owner).patch(path(key), {"rpm": None, "name": "new", "allowed_models": ["gpt-5"]})
    assert answer.status_code == 200
    assert (answer.json()["rpm"], answer.json()["name"]) == (None, "new")
    key.refresh_from_db()
    assert (key.rpm, key.allowed_models, key.epoch) == (None, ["gpt-5"], 2)


def test_it_can_be_renamed_though_the_plan_has_shrunk_meanwhile(api, owner, make_key):
    assert api(owner).patch(path(make_key(owner, rpm=10**6)), {"name": "x"}).status_code == 200


def test_it_revokes_and_keeps_the_row(api, owner, make_key):
    key = make_key(owner)
    for _ in range(2):  # repeating it does no harm
        assert api(owner).delete(path(key)).status_code == 204
    key.refresh_from_db()
    assert key.status == "revoked"
    assert key.epoch == 2
    assert api(owner).get(path(key)).json()["revoked_at"]


def test_it_leaves_a_revoked_key_as_it_is(api, owner, make_key):
    key = make_key(owner)
    key.revoke()
    assert api(owner).patch(path(key), {"expires_at": None}).status_code == 409


def test_it_hides_everybody_elses_keys(api, owner, teammate, make_key):
    key = make_key(owner)
    theirs = api(teammate)
    for method in ("get", "patch", "delete"):
        assert getattr(theirs, method)(path(key)).status_code == 404
    assert theirs.get("/proxy-api-keys").json()["results"] == []
    key.refresh_from_db()
    assert key.status == "live"


@pytest.mark.parametrize("id", [uuid.UUID(int=1), "x", "../users", "1' OR '1'='1"])
def test_it_knows_no_such_key(api, owner, id):
    assert api(owner).get(f"/proxy-api-keys/{id}").status_code == 404


@pytest.mark.parametrize(("method", "where"), [("post", ""), ("delete", ""), ("put", "/key"), ("get", "/generate")])
def test_it_offers_no_other_method(api, owner, make_key, method, where):
    where = where.replace("/key", f"/{make_key(owner).id}")
    assert getattr(api(owner), method)("/proxy-api-keys" + where).status_code == 405


def test_it_pages_through_keys_newest_first(api, owner, make_key, roomy):
    made = [make_key(owner, name=str(n)) for n in range(5)]
    first = api(owner).get("/proxy-api-keys?limit=3").json()
    assert [row["name"] for row in first["results"]] == ["4", "3", "2"]
    made[3].delete()
    make_key(owner, name="new")
    second = api(owner).get(first["next"]).json()
    assert [row["name"] for row in second["results"]] == ["1", "0"]
    assert second["next"] is None


def test_it_pages_through_keys_made_at_the_same_moment(api, owner, make_key, roomy):
    now = timezone.now()
    made = {str(make_key(owner, created_at=now).id) for _ in range(5)}
    seen, url = [], "/proxy-api-keys?limit=2"
    while url:
        page = api(owner).get(url).json()
        seen, url = seen + [row["id"] for row in page["results"]], page["next"]
    assert len(seen) == 5
    assert set(seen) == made


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=x", "limit=", "limit=²", "limit=99999", "cursor=x", "cursor=é", "cursor=AAAA"],
)
def test_it_refuses_a_page_it_cannot_make(api, owner, query):
    answer = api(owner).get(f"/proxy-api-keys?{query}")
    assert answer.status_code == 400
    assert list(answer.json()) == [query.partition("=")[0]]


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_it_refuses_a_cursor_beyond_the_calendar(api, owner, moment):
    cursor = base64.urlsafe_b64encode(f"{moment} {owner.pk.hex}".encode()).decode()
    answer = api(owner).get("/proxy-api-keys", {"cursor": cursor})
    assert (answer.status_code, list(answer.json())) == (400, ["cursor"])


def test_it_cannot_be_paged_into_somebody_elses_keys(api, owner, teammate, make_key):
    for _ in range(2):
        make_key(owner)
    following = api(owner).get("/proxy-api-keys?limit=1").json()["next"]
    assert api(teammate).get(following).json()["results"] == []


def test_it_asks_the_database_as_often_for_many_keys_as_for_one(api, owner, make_key, roomy, django_assert_num_queries):
    for _ in range(20):
        make_key(owner)
    client = api(owner)
    with django_assert_num_queries(1):
        client.get("/proxy-api-keys")


@pytest.mark.parametrize("method", ["patch", "delete"])
def test_it_says_that_a_key_is_gone_which_was_deleted_meanwhile(api, owner, make_key, monkeypatch, method):
    found = ProxyKeyDetail.get_object

    def lost(view):
        row = found(view)
        ProxyKey.objects.all().delete()
        return row

    monkeypatch.setattr(ProxyKeyDetail, "get_object", lost)
    call = getattr(api(owner), method)
    assert call(f"/proxy-api-keys/{make_key(owner).pk}", {"name": "laptop"}).status_code == 404
