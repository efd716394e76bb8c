"""Staff look and do not touch; nothing a client or provider wrote does anything in the page."""

import datetime as dt
import re
import secrets
from html import unescape
from urllib.parse import quote
from uuid import UUID

import pytest
from django.contrib.admin import site
from django.contrib.auth.models import Group
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils.html import escape

from accounts.ids import made_at, uuid7
from accounts.keys import PREFIX
from accounts.models import Plan, ProxyKey, User
from usage import log_pages, partitions
from usage.admin import ProxyRequestAdmin, UsageHourAdmin
from usage.models import ProxyRequest, UsageHour
from usage.records import Attempt
from usage.rows import Row, store
from usage.tests.conftest import PROXY_KEY, an_end
from vault.secret import Secret
from vault.store import add as store_key

LOG = "/admin/usage/proxyrequest/"
pytestmark = pytest.mark.django_db


@pytest.fixture
def staff(client):
    user = User.objects.create_superuser(email="staff@example.com")
    client.force_login(user)
    return client


def record(**fields):
    end = an_end(**fields)
    User.objects.get_or_create(pk=end.user_id, defaults={"email": f"{end.user_id}@example.com", "plan_id": "free"})
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


def test_it_never_counts_the_log(staff):
    for _ in range(3):
        record()
    with CaptureQueriesContext(connection) as queries:
        staff.get(LOG, {"when": "all"})
    assert any("proxy_requests" in query["sql"] for query in queries)
    assert not any("COUNT(" in query["sql"] for query in queries)


def test_it_leads_to_this_month_whatever_clock_the_oldest_row_has(staff):
    partitions.ensure(connection, [dt.date(1970, 1, 1)])
    record(id=uuid7(0))
    assert f"when={dt.datetime.now(dt.UTC):%Y-%m}" in staff.get(LOG).content.decode()


@pytest.mark.parametrize("page", [LOG, "/admin/usage/usagehour/"])
def test_it_asks_as_many_queries_for_one_row_as_for_fifty(staff, page):
    def queries():
        with CaptureQueriesContext(connection) as captured:
            staff.get(page)
        return len(captured)

    record()
    for_one = queries()
    for n in range(49):
        record(model=f"m{n}")
    assert queries() == for_one <= 10


def test_it_pages_through_all_rows_and_back(staff, monkeypatch):
    monkeypatch.setattr(ProxyRequestAdmin, "list_per_page", 2)
    newest, *_, oldest = ids = sorted((record() for _ in range(5)), reverse=True)
    seen, link = [], "?"
    while link:
        pages = staff.get(LOG + link).context["cl"]
        seen.append([row.id for row in pages.result_list])
        link = pages.older
    assert seen == [ids[:2], ids[2:4], [oldest]]
    middle = staff.get(LOG + pages.newer).context["cl"]
    first = staff.get(LOG + middle.newer).context["cl"]
    assert [row.id for row in middle.result_list] == ids[2:4]
    assert [row.id for row in first.result_list] == [newest, ids[1]]
    assert not first.newer


@pytest.mark.parametrize(
    "query",
    [
        *("when=yesterday", "when=0000", "when=1969", "when=9999-12-31"),
        *("before=x", "user=x", "slower_than=x", "proxy_key=1"),
        *("when=0001", "before=ffffffff-ffff-ffff-ffff-ffffffffffff", "model=%00", "provider=%00", "q=%00"),
    ],
)
def test_it_survives_a_query_that_makes_no_sense(staff, query):
    for page in (LOG, f"{LOG}export/csv"):
        assert staff.get(f"{page}?{query}").status_code in (200, 302)


@pytest.mark.parametrize("lookup", ["error_message__regex", "writer", "model__contains", "tokens_total__gte"])
def test_it_takes_no_look_up_that_would_read_the_table(staff, lookup):
    assert staff.get(f"{LOG}?{lookup}=a").status_code == 400


def test_it_finds_a_request_by_its_id_and_by_the_providers(staff):
    wanted = record(provider_request_id="req_wanted")
    record()
    assert listed(staff.get(LOG, {"q": f" {wanted} "})) == [wanted]
    assert listed(staff.get(LOG, {"q": "req_wanted"})) == [wanted]
    assert listed(staff.get(LOG, {"q": "req_want"})) == []


def test_it_finds_what_is_somebodys_by_address_id_and_key(staff, owner):
    key = ProxyKey.objects.create(user=owner, key_prefix=PREFIX + "abcdefgh", verifier=b"")
    wanted = record(user_id=owner.pk, proxy_key_id=key.pk)
    record()
    for term in ("OWNER@example.com", owner.pk, key.pk, key.key_prefix):
        assert listed(staff.get(LOG, {"q": str(term)})) == [wanted], term
    assert listed(staff.get(LOG, {"q": "nobody@example.com"})) == []
    assert "owner@example.com" in staff.get(LOG).text


def listed(response):
    return [row.id for row in response.context["cl"].result_list]


@pytest.mark.parametrize("when", ["", "1h", "24h", "7d", "30d", "all", "%Y", "%Y-%m", "%Y-%m-%d", "%Y-%m-%dT%H"])
def test_it_filters_by_time(staff, when):
    wanted = record()
    when = f"{made_at(wanted):{when}}" if "%" in when else when
    assert listed(staff.get(LOG, {"when": when})) == [wanted]
    assert staff.get("/admin/usage/usagehour/", {"when": when}).context["cl"].result_count == 1


def test_it_leaves_out_what_was_at_another_time(staff):
    record()
    assert listed(staff.get(LOG, {"when": "2020"})) == []


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("provider=google", {"provider": "google"}),
        ("outcome=timeout", {"outcome": "timeout", "status_code": 504}),
        ("outcome=failed", {"outcome": "refused", "status_code": 429}),
        ("model=other", {"model": "other"}),
        ("when=all&model=other", {"model": "other"}),
        ("slower_than=5000", {"latency_ms": 5001}),
        ("user=00000000-0000-0000-0000-000000000001", {"user_id": UUID(int=1)}),
        ("proxy_key=00000000-0000-0000-0000-000000000002", {"proxy_key_id": UUID(int=2)}),
        ("api_key=00000000-0000-0000-0000-000000000003", {"api_key_id": UUID(int=3)}),
    ],
)
def test_it_filters_by_what_other_pages_link_to(staff, query, fields):
    wanted = record(**fields)
    record()
    assert listed(staff.get(f"{LOG}?{query}")) == [wanted]


@pytest.mark.parametrize("tries", [2, 16])
def test_it_shows_every_attempt_in_as_many_queries_as_two(staff, owner, django_assert_num_queries, tries):
    Plan.objects.update(max_api_keys=tries)
    keys = [store_key(owner.pk, "openai", f"key {n}", Secret("sk-" + secrets.token_hex(20))) for n in range(tries)]
    attempts = [Attempt("openai", f"m{n}", key.pk, "<b>", 429, n) for n, key in enumerate(keys)]
    id = record(user_id=owner.pk, attempts=attempts)
    staff.get(f"{LOG}{id}/change/")  # what is known from then on is asked here
    with django_assert_num_queries(8):
        page = staff.get(f"{LOG}{id}/change/").text
    assert page.count("<b>&lt;b&gt;</b> (429)") == tries
    assert all(f"/admin/vault/apikey/{key.pk}/change/" in page for key in keys)
    assert f"{tries} attempts" in staff.get(LOG).text


@pytest.mark.parametrize(("role", "sees"), [("support", True), ("billing", False)])
def test_it_shows_a_requests_keys_to_who_may_see_keys(client, owner, role, sees):
    key = store_key(owner.pk, "openai", "main", Secret("sk-" + secrets.token_hex(20)))
    attempts = [Attempt("openai", f"m{n}", key.pk, "ok", 200, n) for n in range(2)]
    id = record(user_id=owner.pk, api_key_id=key.pk, attempts=attempts)
    clerk = User.objects.create(email="clerk@example.com", is_staff=True)
    clerk.groups.add(Group.objects.get(name=role))
    client.force_login(clerk)
    page = client.get(f"{LOG}{id}/change/").text
    assert str(key.pk) in page
    assert (key.masked in page) == (f"/admin/vault/apikey/{key.pk}/change/" in page) == sees


@pytest.mark.parametrize("few", [0, 50])
def test_it_finds_a_model_in_the_hours_in_which_it_was_used(staff, monkeypatch, few):
    monkeypatch.setattr(log_pages.ModelFilter, "FEW", few)
    hours = [made_at(uuid7()) - dt.timedelta(hours=ago) for ago in (1, 2, 30)]
    wanted = [record(id=uuid7(int(hour.timestamp() * 1000)), model="rare") for hour in hours]
    record()
    assert listed(staff.get(f"{LOG}?model=rare&when=all")) == wanted
    assert listed(staff.get(f"{LOG}?model=rare&when=24h")) == wanted[:2]
    assert listed(staff.get(f"{LOG}?model=never&when=all")) == []


@pytest.mark.parametrize(
    "text", ["<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "{{ 7|add:7 }}"]
)
def test_it_shows_hostile_text_as_text(staff, text):
    id = record(model=text, error_message=text, provider_request_id=text)

    for page in (LOG, f"{LOG}{id}/change/", f"{LOG}?model={quote(text)}", "/admin/usage/usagehour/", "/admin/"):
        body = staff.get(page).text
        assert "<img src=x" not in body
        assert "<script>alert" not in body
    assert escape(text) in staff.get(f"{LOG}{id}/change/").text


def test_it_explains_every_field(staff):
    for model in (ProxyRequest, UsageHour):
        assert site.is_registered(model)
        assert all(field.help_text for field in model._meta.concrete_fields if field.name != "id")


def test_an_hours_number_leads_to_the_rows_behind_it(staff):
    user = uuid7()
    wanted = record(id=uuid7(), user_id=user)
    record(id=uuid7(), user_id=user, proxy_key_id=uuid7())
    record(id=uuid7(), user_id=user, provider="")
    (row,) = UsageHour.objects.filter(proxy_key_id=PROXY_KEY, provider="openai")
    link = re.search(r'href="([^"]+)"', UsageHourAdmin(UsageHour, site).log(row))[1]
    assert listed(staff.get(unescape(link))) == [wanted]


@pytest.mark.postgres
def test_it_gives_up_on_what_the_database_cannot_find_soon(staff, monkeypatch):
    record()
    monkeypatch.setattr(log_pages, "PATIENCE_MS", 20)
    slow = ProxyRequest.objects.extra(where=["pg_sleep(5) IS NOT NULL"])
    monkeypatch.setattr(ProxyRequestAdmin, "get_queryset", lambda self, request: slow)
    answer = staff.get(LOG)
    assert log_pages.TOO_SLOW in answer.text
    assert listed(answer) == []
