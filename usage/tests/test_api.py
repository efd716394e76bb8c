"""Everybody sees their own traffic, and what they asked for of it."""

import datetime as dt
import gc
from decimal import Decimal
from uuid import UUID

import pytest
from django.db import connection
from django.utils import timezone

from accounts.ids import made_at, uuid7
from usage import partitions, rollup
from usage.models import ProxyRequest, UsageHour
from usage.queries import percentile
from usage.rows import Row, store
from usage.tests.conftest import an_end

pytestmark = pytest.mark.django_db

NOW_MS = int(timezone.now().timestamp() * 1000)
UNKNOWN = "019aa000-0000-7000-8000-000000000001"


@pytest.fixture
def record(owner):
    """`record(ago, **fields)`: a stored row of the owner's, that many minutes old; its id."""

    def record(ago=0, **fields):
        id = uuid7(NOW_MS - ago * 60_000)
        partitions.ensure(connection, [partitions.month_of(made_at(id))])
        store([Row(an_end(id, **{"user_id": owner.pk, **fields}), "test")], lambda step: None)
        return str(id)

    return record


@pytest.fixture
def get(api, owner):
    def get(path, **query):
        answer = api(owner).get(path, query)
        return answer.status_code, answer.json()

    return get


def ids(answer):
    status, page = answer
    assert status == 200, page
    return [row["id"] for row in page["results"]]


def test_it_needs_no_collector_to_forget_a_page_of_rows(get, record):
    record()
    get("/usage/requests")
    gc.collect()
    gc.disable()
    try:
        assert len(ids(get("/usage/requests"))) == 1
        assert not [known for known in gc.get_objects() if type(known) is ProxyRequest]
    finally:
        gc.enable()


def test_it_lists_own_rows_newest_first(get, record, teammate):
    old, new = record(5), record(1)
    record(user_id=teammate.pk)

    assert ids(get("/usage/requests")) == [new, old]


def test_it_shows_what_a_row_holds_and_not_who_wrote_it(get, record):
    id = record(cost=Decimal("0.0015"), error_message="<b>")
    status, row = get(f"/usage/requests/{id}")

    assert status == 200
    assert (row["model"], row["tokens_total"], row["cost"]) == ("gpt-4o-mini", 42, "0.00150000")
    assert row["error_message"] == "<b>"
    assert not {"writer", "user_id"} & set(row)


def test_it_finds_no_row_of_somebody_else(api, record, teammate, stranger):
    id = record()

    for other in (teammate, stranger):
        assert api(other).get(f"/usage/requests/{id}").status_code == 404
        assert api(other).get("/usage/requests").json()["results"] == []
        assert api(other).get("/usage/summary").json()["totals"]["requests"] == 0


@pytest.mark.parametrize("path", ["/usage/requests", f"/usage/requests/{UNKNOWN}", "/usage/summary"])
def test_it_asks_everybody_to_sign_in(api, path):
    assert api(None).get(path).status_code == 401


@pytest.mark.parametrize(
    "id", [UNKNOWN, "ffffffff-ffff-ffff-ffff-ffffffffffff", "0" * 8 + "-0000-0000-0000-" + "0" * 12]
)
def test_it_answers_404_to_an_unknown_id(get, id):
    assert get(f"/usage/requests/{id}")[0] == 404


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_it_lets_nobody_change_a_row(api, owner, record, method):
    assert getattr(api(owner), method)(f"/usage/requests/{record()}").status_code == 405


def test_it_pages_through_all_rows_once(api, owner, record):
    expected = [record(ago) for ago in range(7)]
    found, url = [], "/usage/requests?limit=3&model=gpt-4o-mini"
    while url:
        page = api(owner).get(url).json()
        found += [row["id"] for row in page["results"]]
        url = page["next"]

    assert found == expected


@pytest.mark.parametrize(
    ("filters", "differing"),
    [
        ({"model": "gpt-4o"}, {"model": "gpt-4o"}),
        ({"provider": "google"}, {"provider": "google"}),
        ({"outcome": "timeout"}, {"outcome": "timeout"}),
        ({"status": "429"}, {"status_code": 429}),
        (
            {"proxy_key": "6b6e0aa2-8d61-4f5c-a1a8-000000000001"},
            {"proxy_key_id": "6b6e0aa2-8d61-4f5c-a1a8-000000000001"},
        ),
        ({"api_key": "6b6e0aa2-8d61-4f5c-a1a8-000000000002"}, {"api_key_id": "6b6e0aa2-8d61-4f5c-a1a8-000000000002"}),
    ],
)
def test_it_filters(get, record, filters, differing):
    record()
    wanted = record(**{name: UUID(value) if name.endswith("_id") else value for name, value in differing.items()})

    assert ids(get("/usage/requests", **filters)) == [wanted]


def test_it_cuts_out_a_period(get, record):
    old, middle = record(120), record(60)
    record(0)
    bounds = {"from": made_at_text(old), "to": (timezone.now() - dt.timedelta(minutes=30)).isoformat()}

    assert ids(get("/usage/requests", **bounds)) == [middle, old]
    assert ids(get("/usage/requests", **{**bounds, "to": made_at_text(middle)})) == [old]


def made_at_text(id):
    return made_at(UUID(id)).isoformat()


def test_it_includes_the_day_that_a_date_names(get, record):
    id = record()
    day = made_at_text(id)[:10]

    assert ids(get("/usage/requests", **{"from": day, "to": day})) == [id]


def test_it_looks_thirty_days_back_unless_told(get, record):
    recent, old = record(29 * 1440), record(31 * 1440)

    assert ids(get("/usage/requests")) == [recent]
    assert ids(get("/usage/requests", **{"from": "2020-01-01"})) == [recent, old]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("from", "yesterday"),
        ("from", "2999-01-01"),
        ("to", "2026-02-30"),
        ("to", "9999-12-31"),
        ("to", "0001-01-01T00:00:00+14:00"),
        ("model", "a\0b"),
        ("model", "m" * 101),
        ("provider", "acme"),
        ("outcome", "fine"),
        ("status", "4xx"),
        ("proxy_key", "1 OR 1=1"),
        ("api_key", "x"),
        ("limit", "0"),
        ("limit", "201"),
        ("cursor", "!!"),
        ("user_id", "6b6e0aa2-8d61-4f5c-a1a8-000000000001"),
        ("order_by", "id"),
        ("model__startswith", "g"),
    ],
)
def test_it_names_the_filter_that_is_wrong(get, name, value):
    status, error = get("/usage/requests", **{name: value})

    assert (status, list(error)) == (400, [name])


def test_it_refuses_a_filter_given_twice(api, owner):
    answer = api(owner).get("/usage/requests?model=a&model=b")

    assert (answer.status_code, list(answer.json())) == (400, ["model"])


def test_it_reads_a_page_with_one_query(api, owner, record, django_assert_num_queries):
    for ago in range(20):
        record(ago)
    client = api(owner)

    with django_assert_num_queries(1):
        assert len(client.get("/usage/requests").json()["results"]) == 20


# --- Sums ----------------------------------------------------------------------------------------------


@pytest.fixture
def traffic(record):
    record(0, latency_ms=150)
    record(0, latency_ms=3_000)
    record(0, model="claude", provider="anthropic", cost=Decimal("0.25"))
    record(
        0,
        model="claude",
        provider="anthropic",
        outcome="provider_error",
        status_code=502,
        usage_source="none",
        cost=Decimal(0),
    )
    record(0, outcome="client_gone", status_code=499)


def test_it_sums_in_all_and_by_model(get, traffic):
    status, answer = get("/usage/summary")

    assert (status, answer["group_by"]) == (200, "model")
    assert [group["model"] for group in answer["groups"]] == ["gpt-4o-mini", "claude"]
    assert [group["requests"] for group in answer["groups"]] == [3, 2]
    totals = answer["totals"]
    assert (totals["requests"], totals["errors"], totals["tokens_total"]) == (5, 1, 210)
    assert (totals["cost"], totals["unpriced"]) == ("0.25000000", 3)


def test_it_says_when_no_price_is_known(get, traffic):
    groups = {group["model"]: group for group in get("/usage/summary")[1]["groups"]}

    assert (groups["gpt-4o-mini"]["cost"], groups["gpt-4o-mini"]["unpriced"]) == (None, 3)
    assert (groups["claude"]["cost"], groups["claude"]["unpriced"]) == ("0.25000000", 0)


def test_it_measures_the_latency_of_complete_requests_only(get, traffic):
    group = get("/usage/summary")[1]["groups"][0]

    assert group["latency_mean_ms"] == 1575
    assert 100 < group["latency_p50_ms"] <= 250
    assert 2_000 < group["latency_p99_ms"] <= 4_000


@pytest.mark.parametrize(
    ("group_by", "values"),
    [("provider", {"openai", "anthropic"}), ("key", 1), ("day", 1), ("hour", 1)],
)
def test_it_groups(get, traffic, group_by, values):
    groups = get("/usage/summary", group_by=group_by)[1]["groups"]
    found = {group[group_by] for group in groups}

    assert found == values if isinstance(values, set) else len(found) == values
    assert sum(group["requests"] for group in groups) == 5


def test_it_puts_days_in_order(get, record):
    for ago in (0, 2880, 1440):
        record(ago)
    days = [group["day"] for group in get("/usage/summary", group_by="day")[1]["groups"]]

    assert days == sorted(days)
    assert len(days) == 3
    assert all(day.endswith("T00:00:00Z") for day in days)


def test_it_sums_nothing_to_nothing(get):
    totals = get("/usage/summary")[1]["totals"]

    assert (totals["requests"], totals["cost"], totals["latency_p95_ms"]) == (0, "0.00000000", None)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ({"group_by": "user"}, "group_by"),
        ({"group_by": "hour", "from": "2020-01-01"}, "group_by"),
        ({"from": "x"}, "from"),
    ],
)
def test_it_names_what_is_wrong_with_a_summary(get, query, name):
    status, error = get("/usage/summary", **query)

    assert (status, list(error)) == (400, [name])


def test_it_sums_without_reading_the_log(api, owner, traffic, django_assert_num_queries):
    ProxyRequest.objects.all().delete()
    client = api(owner)

    with django_assert_num_queries(2):  # whole days, and the hours at both ends
        assert client.get("/usage/summary").json()["totals"]["requests"] == 5


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ({}, 0.5, None),
        ({0: 10}, 0.5, 50),
        ({0: 1, 1: 1}, 0.5, 100),
        ({1: 4}, 1.0, 250),
        ({11: 3}, 0.5, 120_000),
        ({0: 99, 11: 1}, 0.99, 100),
    ],
)
def test_it_finds_percentiles_within_buckets(counts, share, expected):
    assert percentile([counts.get(index, 0) for index in range(12)], share) == expected


@pytest.mark.parametrize(
    ("latency_ms", "bucket"),
    [(0, "latency_100"), (100, "latency_100"), (101, "latency_250"), (120_001, "latency_more")],
)
def test_it_counts_a_latency_in_one_bucket(record, latency_ms, bucket):
    record(latency_ms=latency_ms)

    hour = UsageHour.objects.values(*rollup.BUCKETS).get()
    assert [name for name, count in hour.items() if count] == [bucket]
