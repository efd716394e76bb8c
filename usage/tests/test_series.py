"""Traffic over time: every hour is there, the sums are those of the rows, and nobody else's are in them."""

import datetime as dt
from decimal import Decimal
from uuid import UUID

import pytest
from django.db import connection

from accounts.ids import uuid7
from usage import partitions
from usage.models import ProxyRequest
from usage.rows import Row, store
from usage.tests.conftest import an_end

pytestmark = pytest.mark.django_db

DAY = dt.datetime(2026, 3, 10, tzinfo=dt.UTC)
PERIOD = {"from": "2026-03-10T22:00:00Z", "to": "2026-03-11T02:00:00Z", "step": "hour"}
KEY = UUID("6b6e0aa2-8d61-4f5c-a1a8-000000000001")


@pytest.fixture
def record(owner):
    """`record("10T23", **fields)`: a stored row of the owner's, in that hour of March 2026."""

    def record(hour, **fields):
        moment = dt.datetime.fromisoformat(f"2026-03-{hour}:30:00+00:00")
        partitions.ensure(connection, [partitions.month_of(moment)])
        end = an_end(uuid7(int(moment.timestamp() * 1000)), **{"user_id": owner.pk, **fields})
        store([Row(end, "test")], lambda step: None)

    return record


@pytest.fixture
def get(api, owner):
    def get(path="/usage/series", **query):
        answer = api(owner).get(path, query)
        return answer.status_code, answer.json()

    return get


@pytest.fixture
def traffic(record):
    record("10T21", model="too early")
    record("10T22", model="a", latency_ms=150, cost=Decimal("0.10"))
    record("10T22", model="a", latency_ms=80)
    record("11T00", model="a", outcome="timeout", status_code=504, cost=Decimal(0))
    record("11T00", model="b", provider="anthropic", proxy_key_id=KEY, cost=Decimal("0.25"))
    record("11T01", model="c", provider="", outcome="refused", status_code=429, cost=Decimal(0))
    record("11T02", model="too late")


def column(line, name):
    return [point[name] for point in line["points"]]


def test_it_has_a_point_for_every_hour(get, traffic):
    status, answer = get(**PERIOD)
    (line,) = answer["series"]

    assert (status, answer["step"], answer["group_by"]) == (200, "hour", None)
    assert column(line, "time") == [f"2026-03-{hour}:00:00Z" for hour in ("10T22", "10T23", "11T00", "11T01")]
    assert column(line, "requests") == [2, 0, 2, 1]
    assert column(line, "errors") == [0, 0, 1, 1]
    assert column(line, "tokens_total") == [84, 0, 84, 42]


def test_it_tells_costs_that_are_known_from_those_that_are_not(get, traffic):
    (line,) = get(**PERIOD)[1]["series"]

    assert column(line, "cost") == ["0.10000000", "0.00000000", "0.25000000", "0.00000000"]
    assert column(line, "unpriced") == [1, 0, 0, 0]


def test_it_measures_each_hour_by_its_complete_requests(get, traffic):
    (line,) = get(**PERIOD)[1]["series"]

    # One of 80 ms and one of 150: half of them are within the first bucket, which ends at 100.
    assert column(line, "latency_p50_ms") == [100, None, 750, None]
    assert column(line, "latency_mean_ms") == [115, None, 640, None]


def test_it_adds_up_days(get, traffic):
    (line,) = get(**{**PERIOD, "step": "day"})[1]["series"]

    assert column(line, "time") == ["2026-03-10T00:00:00Z", "2026-03-11T00:00:00Z"]
    assert column(line, "requests") == [2, 3]


def test_it_adds_up_months(get, traffic):
    (line,) = get(**{**PERIOD, "from": "2026-02-10", "to": "2026-04-01", "step": "month"})[1]["series"]

    assert column(line, "time") == [f"2026-0{month}-01T00:00:00Z" for month in (2, 3, 4)]
    assert column(line, "requests") == [0, 7, 0]


def test_it_tells_how_requests_ended(get, traffic):
    (line,) = get(**PERIOD)[1]["series"]

    assert column(line, "outcomes") == [{"ok": 2}, {}, {"ok": 1, "timeout": 1}, {"refused": 1}]


@pytest.mark.parametrize("step", ["day", "month"])
@pytest.mark.parametrize("group_by", [None, "model"])
@pytest.mark.parametrize("moment", ["10T22", "10T00", "09T00"])
def test_days_and_the_hours_at_both_ends_say_what_hours_do(get, traffic, moment, step, group_by):
    """Whatever part of a period is read from which table."""
    query = {"from": f"2026-03-{moment}:00:00Z", **({"group_by": group_by} if group_by else {})}
    for to in ("2026-03-11T02:00:00Z", "2026-03-12", "2026-03-13T05:00:00Z"):
        summed = [get(**{**query, "to": to, "step": each})[1]["series"] for each in (step, "hour")]
        assert len(summed[0]) == len(summed[1])
        for name in ("requests", "errors", "tokens_total"):
            assert [sum(column(line, name)) for line in summed[0]] == [sum(column(line, name)) for line in summed[1]]


@pytest.mark.parametrize(
    ("group_by", "lines"),
    [
        ("model", {"a": [2, 0, 1, 0], "b": [0, 0, 1, 0], "c": [0, 0, 0, 1]}),
        ("provider", {"openai": [2, 0, 1, 0], "anthropic": [0, 0, 1, 0], "": [0, 0, 0, 1]}),
    ],
)
def test_it_draws_a_line_for_each_group(get, traffic, group_by, lines):
    series = get(**PERIOD, group_by=group_by)[1]["series"]

    assert {line[group_by]: column(line, "requests") for line in series} == lines


def test_it_draws_a_line_for_each_proxy_key(get, traffic):
    series = get(**PERIOD, group_by="key")[1]["series"]

    assert column(series[1], "requests") == [0, 0, 1, 0]
    assert series[1]["key"] == str(KEY)


def test_it_puts_all_groups_after_the_first_into_one_line(get, traffic):
    series = get(**PERIOD, group_by="model", top=1, rank="cost")[1]["series"]

    assert [line["model"] for line in series] == ["b", None]
    assert column(series[1], "requests") == [2, 0, 1, 1]


def test_it_has_no_line_of_others_where_there_are_none(get, traffic):
    assert len(get(**PERIOD, group_by="model", top=3)[1]["series"]) == 3


def test_it_draws_nothing_but_hours_for_who_asked_nothing(get):
    (line,) = get(**PERIOD)[1]["series"]

    assert column(line, "requests") == [0, 0, 0, 0]
    assert get(**PERIOD, group_by="model")[1]["series"] == []


def test_it_shows_nobody_elses_traffic(api, teammate, traffic):
    for group_by in ({}, {"group_by": "model"}):
        series = api(teammate).get("/usage/series", {**PERIOD, **group_by}).json()["series"]
        assert sum(sum(column(line, "requests")) for line in series) == 0


def test_it_asks_who_is_there(api):
    assert api(None).get("/usage/series").status_code == 401


@pytest.mark.parametrize(("group_by", "queries"), [({}, 1), ({"group_by": "model"}, 2)])
def test_it_asks_as_often_however_much_there_is(api, owner, traffic, django_assert_num_queries, group_by, queries):
    ProxyRequest.objects.all().delete()
    client = api(owner)

    with django_assert_num_queries(queries):
        assert client.get("/usage/series", {**PERIOD, **group_by}).json()["series"][0]["points"][0]["requests"] == 2


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"step": "week"}, ["step"]),
        ({"group_by": "user"}, ["group_by"]),
        ({"group_by": "day"}, ["group_by"]),
        ({"group_by": "model", "top": 0}, ["top"]),
        ({"group_by": "model", "top": 21}, ["top"]),
        ({"group_by": "model", "rank": "latency"}, ["rank"]),
        ({"top": 3}, ["top"]),
        ({"rank": "cost"}, ["rank"]),
        ({"step": "hour", "from": "2020-01-01"}, ["step"]),
        ({"from": "0001-01-01"}, ["step"]),
        ({"from": "2999-01-01"}, ["from"]),
        ({"user_id": str(KEY)}, ["user_id"]),
    ],
)
def test_it_names_what_is_wrong(get, query, names):
    status, error = get(**query)

    assert (status, list(error)) == (400, names)


def test_it_answers_for_the_last_days_of_the_calendar(get):
    assert get(**{"from": "9999-12-30", "to": "9999-12-31T23:30:00Z"})[0] == 200


# --- The first groups of a summary -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rank", "models"),
    [("requests", ["a", "b"]), ("cost", ["b", "a"]), ("errors", ["a", "c"]), ("tokens_total", ["a", "b"])],
)
def test_it_sums_up_the_first_models(get, traffic, rank, models):
    period = {"from": PERIOD["from"], "to": PERIOD["to"]}
    answer = get("/usage/summary", **period, rank=rank, top=2)[1]

    assert [group["model"] for group in answer["groups"]] == models
    assert answer["totals"]["requests"] == 5


@pytest.mark.parametrize("query", [{"top": 0}, {"rank": "model"}, {"group_by": "day", "top": 3}])
def test_it_ranks_names_only(get, query):
    assert get("/usage/summary", **query)[0] == 400
