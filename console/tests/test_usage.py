"""What a person reads of their traffic: the API's sums and rows, narrowed as they ask."""

import csv
import datetime as dt
import io
from uuid import UUID

import pytest
from django.core.cache import cache
from django.utils import timezone

from accounts.ids import uuid7
from console.tests.conftest import a_proxy_key, a_request
from vault import store
from vault.secret import Secret

pytestmark = pytest.mark.django_db


def id_of(moment):
    return UUID(int=(int(moment.timestamp() * 1000) << 80) | (uuid7().int & ((1 << 80) - 1)))


def test_it_sums_today_and_this_month(page, owner, stranger):
    for _ in range(3):
        a_request(owner)
    a_request(owner, outcome="provider_error", status_code=500)
    a_request(stranger, tokens_total=1_000_000)
    response = page.get("/console/")
    today, month = (sums for _title, sums in response.context["periods"])
    assert (today["requests"], today["tokens_total"], today["error_rate"]) == (4, 168, 0.25)
    assert month["requests"] == 4


def test_it_tells_a_new_person_what_comes_next(page, owner):
    assert [step.is_done for step in page.get("/console/").context["steps"]] == [False, False, False]
    key = a_proxy_key(owner)
    a_request(owner, key)
    assert [step.is_done for step in page.get("/console/").context["steps"]] == [False, True, True]


def test_it_shows_limits_without_their_levels_where_nobody_counts_them(page, owner):
    bars = page.get("/console/").context["bars"]
    assert ("Requests a minute", owner.plan.rpm, None) in [(bar.title, bar.limit, bar.used) for bar in bars]


def test_it_tells_how_requests_ended(page, owner):
    for outcome in ("ok", "ok", "timeout"):
        a_request(owner, outcome=outcome)
    context = page.get("/console/usage?outcome=timeout").context
    assert ([(outcome.value, count) for outcome, count in context["endings"]], len(context["rows"])) == (
        [("ok", 2), ("timeout", 1)],
        1,
    )


def test_it_shows_how_much_of_a_day_is_used(page, owner):
    type(owner.plan).objects.filter(pk=owner.plan_id).update(tpd=420)
    a_request(owner)
    bars = page.get("/console/").context["bars"]
    assert ("Tokens a day", 42, 10) in [(bar.title, bar.used, bar.percent) for bar in bars]


def test_it_narrows_sums_and_rows_alike(page, owner):
    one, other = a_proxy_key(owner, name="one"), a_proxy_key(owner, name="other")
    a_request(owner, one, model="gpt-4o")
    a_request(owner, other, model="claude-haiku-4-5", provider="anthropic")
    for query in (f"proxy_key={one.pk}", "model=gpt-4o", "provider=openai"):
        context = page.get(f"/console/usage?{query}").context
        assert (context["totals"]["requests"], [row.model for row in context["rows"]]) == (1, ["gpt-4o"])
    context = page.get("/console/usage?outcome=timeout").context
    assert (context["totals"]["requests"], context["rows"]) == (2, [])


@pytest.mark.parametrize("query", ["period=ever", "proxy_key=1", f"proxy_key={UUID(int=1)}", "provider=x", "outcome=x"])
def test_it_shows_nothing_for_a_filter_that_is_wrong_and_says_which(query, page, owner):
    a_request(owner)
    response = page.get(f"/console/usage?{query}")
    assert "Select a valid choice" in response.text
    assert (response.context["rows"], "totals" in response.context) == ([], False)


def test_it_turns_pages_by_the_last_row(page, owner, monkeypatch):
    monkeypatch.setattr("console.usage_pages._ROWS", 2)
    rows = [a_request(owner, id=id_of(timezone.now() - dt.timedelta(minutes=n))) for n in range(3)]
    first = page.get("/console/usage").context
    second = page.get(first["next"]).context
    assert [row.pk for row in first["rows"] + second["rows"]] == [row.pk for row in rows]
    assert second["next"] is None


def test_it_refuses_a_cursor_that_is_none(page):
    assert page.get("/console/usage?cursor=nonsense").status_code == 400


def test_it_tells_all_that_the_log_knows_of_a_request(page, owner):
    row = a_request(owner, provider_request_id="req_1", tokens_reasoning=7, error_message="429: slow down")
    text = page.get(f"/console/usage/requests/{row.pk}").text
    for word in ("gpt-4o", "req_1", str(row.pk), "429: slow down", "640 ms", "7 of them reasoning", "not known"):
        assert word in text


def test_it_tells_which_models_and_keys_were_tried(page, owner):
    key = store.add(owner.pk, "openai", "second", Secret("demo-" + "k" * 40))
    tried = {"provider": "openai", "model": "gpt-4o", "result": "http_429", "status": 429, "ms": 12}
    attempts = [{**tried, "api_key_id": str(UUID(int=7))}, {**tried, "result": "ok", "api_key_id": str(key.pk)}]
    text = page.get(f"/console/usage/requests/{a_request(owner, attempts=attempts).pk}").text
    assert all(word in text for word in ("Tried in order", "http_429", "gone", f"{key.pk}", ">second<"))


def test_it_gives_the_rows_that_the_filters_leave_as_a_file(page, owner, stranger):
    cache.clear()
    kept = a_request(owner, model="=1+1")
    a_request(owner, model="other")
    a_request(stranger, model="=1+1")
    response = page.get("/console/usage/requests.csv?model=%3D1%2B1")
    rows = list(csv.DictReader(io.StringIO(response.getvalue().decode())))
    assert [(row["id"], row["model"]) for row in rows] == [(str(kept.pk), "'=1+1")]
    assert not {"user_id", "writer"} & set(rows[0])


def test_its_snippets_name_this_service_and_hold_no_key(page, settings):
    settings.AIPROXY_PUBLIC_URL = "https://ai.example.org/"
    text = page.get("/console/quick-start").text
    assert "https://ai.example.org/v1/chat/completions" in text
    assert "sk-" not in text
    assert "&lt;origin" not in text and "&lt;model" not in text
