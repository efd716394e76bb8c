"""What a person may take with them, and what is left when they go."""

import json
from decimal import Decimal

import pytest
from axes.models import AccessAttempt
from rest_framework.test import APIClient

from accounts import keys, tokens
from accounts.ids import made_at, uuid7
from accounts.models import ProxyKey, User
from audit.models import Event
from proxy.policy import read_policy
from usage import export, rebuild
from usage.models import ProxyRequest, UsageDay, UsageHour
from usage.rollup import DERIVED, TABLES
from usage.rows import Row
from usage.rows import store as store_rows
from usage.tests.conftest import an_end
from vault import store
from vault.models import ApiKey
from vault.secret import Secret

SECRET = "sk-" + "o" * 36 + "Qz7X"


def request_of(user, key):
    id = uuid7()
    ids = {"user_id": user.pk, "proxy_key_id": key.pk, "model": "gpt-4o"}
    hour = made_at(id).replace(minute=0, second=0, microsecond=0)
    UsageHour.objects.get_or_create(user_id=user.pk, defaults={"hour": hour, "requests": 1, **ids})
    rebuild.from_hours(hour.replace(hour=0), UsageHour, DERIVED)
    ended = {"outcome": "ok", "status_code": 200, "error_message": "of theirs", "provider_request_id": "req_1"}
    return ProxyRequest.objects.create(id=id, created_at=made_at(id), api_key_id=uuid7(), **ids, **ended)


@pytest.fixture
def key(owner) -> ProxyKey:
    return keys.issue(owner)[0]


@pytest.fixture
def rows(owner, key) -> list[ProxyRequest]:
    store.add(owner.pk, "openai", "main", Secret(SECRET))
    return [request_of(owner, key) for _ in range(3)]


def delete(client, password):
    return client.post("/auth/me/delete", {"password": password})


def test_it_deletes_the_account_and_every_key(owner, key, rows, password):
    client = APIClient(headers={"Authorization": f"Bearer {tokens.sign_in(owner).token}"})
    assert delete(client, password).status_code == 204
    assert not User.objects.filter(pk=owner.pk).exists()
    assert not ApiKey.objects.exists() and not ProxyKey.objects.exists()
    assert read_policy(key.key_id) is None
    assert client.get("/auth/me").status_code == 401


def test_it_keeps_the_requests_with_nothing_that_leads_to_anybody(api, owner, stranger, key, rows, password):
    other = request_of(stranger, keys.issue(stranger)[0])
    known = {str(owner.pk), str(key.pk), *(str(row.api_key_id) for row in rows)}
    assert delete(api(owner), password).status_code == 204
    left = ProxyRequest.objects.exclude(pk=other.pk)
    assert left.count() == 3 and UsageHour.objects.count() == UsageDay.objects.count() == 2
    said = str([*left.values(), *UsageHour.objects.values(), *UsageDay.objects.values()])
    assert not [word for word in (*known, "of theirs", "req_1") if word in said]
    assert len({(row.user_id, row.proxy_key_id) for row in left}) == 1
    other.refresh_from_db()
    assert (other.user_id, other.error_message) == (stranger.pk, "of theirs")


@pytest.mark.parametrize("page", ["{pk}/delete/", ""])
def test_staff_leave_no_more_of_it(client, owner, key, rows, page):
    staff = User.objects.create_superuser("staff@example.com", "a long pass phrase")
    client.force_login(staff, backend="django.contrib.auth.backends.ModelBackend")
    chosen = {"action": "delete_selected", "_selected_action": str(owner.pk), "post": "yes"}
    client.post("/auth/login", {"email": owner.email, "password": "wrong"})
    client.post(f"/admin/accounts/user/{page.format(pk=owner.pk)}", chosen)
    assert not User.objects.filter(pk=owner.pk).exists() and not AccessAttempt.objects.exists()
    said = str([[*table.objects.values()] for table in (ProxyRequest, *TABLES)])
    assert not [word for word in (str(owner.pk), str(key.pk), "of theirs", "req_1") if word in said]
    assert ProxyRequest.objects.count() == 3


def test_it_finds_a_request_whose_key_and_sums_are_gone(api, owner, key, rows, password):
    ProxyRequest.objects.filter(pk=rows[0].pk).update(proxy_key_id=uuid7())
    theirs = owner.pk
    assert delete(api(owner), password).status_code == 204
    assert ProxyRequest.objects.count() == 3 and not ProxyRequest.objects.filter(user_id=theirs).exists()
    assert len(set(ProxyRequest.objects.values_list("proxy_key_id"))) == 2


def test_requests_that_are_shipped_later_lead_to_nobody_either(api, owner, stranger, key, password):
    ids = {"user_id": owner.pk, "proxy_key_id": key.pk, "api_key_id": uuid7()}
    ends = [an_end(**ids, error_message="of theirs", provider_request_id="req_1") for _ in range(2)]
    other = an_end(user_id=stranger.pk, error_message="of mine")
    known = [*map(str, ids.values()), "of theirs", "req_1"]
    assert delete(api(owner), password).status_code == 204
    for _ in range(2):  # as when a shipper dies before it has removed the segment
        store_rows([Row(end, "w") for end in (*ends, other)], lambda step: None)
    said = str([[*table.objects.values()] for table in (ProxyRequest, *TABLES)])
    assert not [word for word in known if word in said] and "of mine" in said
    assert UsageDay.objects.exclude(user_id=stranger.pk).get().requests == 2
    assert ProxyRequest.objects.get(pk=other.id).user_id == stranger.pk


def test_it_forgets_failed_sign_ins_too(api, owner, password):
    api(owner).post("/auth/login", {"email": owner.email, "password": "wrong"})
    assert AccessAttempt.objects.filter(username=owner.email).exists()
    delete(api(owner), password)
    assert not AccessAttempt.objects.exists()


def test_it_writes_down_that_the_account_was_deleted(api, owner, key, password):
    delete(api(owner), password)
    assert Event.objects.filter(action="delete", object_id=str(owner.pk)).count() == 1
    assert Event.objects.filter(action="revoke", object_id=str(key.pk)).count() == 1


@pytest.mark.parametrize("body", [{}, {"password": "wrong"}, {"password": "wrong", "user": "x"}])
def test_it_deletes_nothing_without_the_password(api, owner, rows, body):
    assert api(owner).post("/auth/me/delete", body).status_code == 400
    assert ApiKey.objects.count() == 1
    assert ProxyRequest.objects.filter(user_id=owner.pk).count() == 3


@pytest.mark.parametrize("field", ["is_staff", "is_superuser"])
def test_it_does_not_delete_staff(api, owner, password, field):
    User.objects.filter(pk=owner.pk).update(**{field: True})
    assert delete(api(owner), password).status_code == 409
    assert User.objects.filter(pk=owner.pk).exists()


def test_it_ends_the_browsers_session(client, owner, password):
    client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    assert client.post("/auth/me/delete", {"password": password}, "application/json").status_code == 204
    assert "_auth_user_id" not in client.session


def test_it_exports_all_of_ones_own_and_no_key(api, owner, stranger, key, rows, monkeypatch):
    monkeypatch.setattr(export, "PAGE", 2)
    request_of(stranger, key)
    tokens.sign_in(owner)
    answer = api(owner).get("/auth/me/export")
    text = answer.getvalue().decode()
    document = json.loads(text)
    assert [row["id"] for row in document["requests"]] == [str(row.pk) for row in reversed(rows)]
    counts = {name: len(document[name]) for name in ("sign_ins", "api_keys", "proxy_keys", "model_aliases")}
    assert counts == {"sign_ins": 1, "api_keys": 1, "proxy_keys": 1, "model_aliases": 0}
    assert (document["account"]["email"], document["usage"]["totals"]["requests"]) == (owner.email, 1)
    assert not [word for word in (SECRET, key.key_hash, owner.password, str(stranger.pk)) if word in text]
    assert "attachment" in answer["Content-Disposition"]


@pytest.mark.parametrize("cost", [None, "0.00000000", "0.00000015", "12.50000000"])
def test_it_exports_what_the_api_says(api, owner, cost):
    store_rows([Row(an_end(user_id=owner.pk, model="gemini-é", cost=cost and Decimal(cost)), "w")], lambda step: None)
    document = json.loads(api(owner).get("/auth/me/export").getvalue())
    assert document["requests"] == api(owner).get("/usage/requests").json()["results"]
    assert document["usage"]["totals"] == api(owner).get("/usage/summary").json()["totals"]
    assert document["requests"][0]["cost"] == document["usage"]["days"][0]["cost"] == cost


def test_it_exports_an_account_that_has_done_nothing(api, owner):
    assert json.loads(api(owner).get("/auth/me/export").getvalue())["requests"] == []


def test_it_writes_an_export_down_and_limits_how_many(api, owner):
    assert [api(owner).get("/auth/me/export").status_code for _ in range(11)] == [200] * 10 + [429]
    assert Event.objects.filter(action="export").count() == 10
