"""Staff look and do not touch; nothing a client or provider wrote does anything in the page."""

import pytest
from django.contrib.admin import site
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.ids import uuid7
from accounts.models import User
from usage.admin import BoundedPaginator
from usage.models import ProxyRequest, UsageHour
from usage.rows import Row, store
from usage.tests.conftest import USER, an_end

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff(client):
    user = User.objects.create_superuser(email="staff@example.com")
    client.force_login(user)
    return client


def record(**fields):
    end = an_end(**fields)
    store([Row(end, "test")], lambda step: None)
    return end.id


@pytest.mark.parametrize("model", [ProxyRequest, UsageHour])
def test_it_shows_lists_and_lets_nobody_change_them(staff, model):
    record()
    base = f"/admin/usage/{model._meta.model_name}/"
    pk = model.objects.get().pk

    assert staff.get(base).status_code == 200
    assert staff.get(f"{base}{pk}/change/").status_code == 200
    assert staff.get(f"{base}add/").status_code == 403
    assert staff.post(f"{base}{pk}/change/", {"model": "x"}).status_code == 403
    assert staff.post(f"{base}{pk}/delete/", {"post": "yes"}).status_code == 403


def test_it_never_counts_the_whole_log(staff):
    for _ in range(3):
        record()
    with CaptureQueriesContext(
        connection,
    ) as queries:
        staff.get("/admin/usage/proxyrequest/?last=all")

    counts = [query["sql"] for query in queries if "COUNT(" in query["sql"] and "proxy_requests" in query["sql"]]
    assert counts
    assert all(f"LIMIT {BoundedPaginator.MOST}" in sql for sql in counts)


def test_it_asks_the_same_number_of_queries_for_one_row_and_for_many(staff, django_assert_max_num_queries):
    for _ in range(30):
        record()
    with django_assert_max_num_queries(8):
        staff.get("/admin/usage/proxyrequest/")


def test_it_counts_to_a_thousand_and_no_further(monkeypatch):
    monkeypatch.setattr(BoundedPaginator, "MOST", 2)
    for _ in range(3):
        record()

    assert BoundedPaginator(ProxyRequest.objects.all(), 50).count == 2


def test_it_finds_a_request_by_its_id_and_a_user_by_theirs(staff):
    wanted = record(id=uuid7(1_767_225_600_000)) if connection.vendor == "sqlite" else record()
    record(user_id=uuid7())
    url = "/admin/usage/proxyrequest/"

    assert listed(staff.get(url, {"q": str(wanted)})) == [wanted]
    assert listed(staff.get(url, {"q": str(USER), "last": "all"})) == [wanted]
    assert listed(staff.get(url, {"q": "gpt"})) == []


def listed(response):
    return [row.id for row in response.context["cl"].result_list]


def test_it_filters_by_time_and_provider(staff):
    new = record(provider="google")
    record()
    url = "/admin/usage/proxyrequest/"

    assert listed(staff.get(url, {"provider": "google"})) == [new]
    for last in ("", "7", "30", "all"):
        assert len(listed(staff.get(url, {"last": last}))) == 2
        assert staff.get("/admin/usage/usagehour/", {"last": last}).status_code == 200


@pytest.mark.parametrize(
    "text", ["<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "{{ 7|add:7 }}"]
)
def test_it_shows_hostile_text_as_text(staff, text):
    id = record(model=text, error_message=text, provider_request_id=text)

    for page in ("", f"{id}/change/", "../usagehour/"):
        body = staff.get(f"/admin/usage/proxyrequest/{page}", follow=True).content.decode()
        assert "<img src=x" not in body
        assert "<script>alert" not in body


def test_it_explains_every_field(staff):
    for model in (ProxyRequest, UsageHour):
        assert site.is_registered(model)
        assert all(field.help_text for field in model._meta.concrete_fields if field.name != "id")
