"""Sums that are made anew are those that the shipper had added up."""

import datetime as dt
from decimal import Decimal
from importlib import import_module
from io import StringIO
from random import Random
from uuid import UUID

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connection

from accounts.ids import uuid7
from usage import partitions, rebuild
from usage.models import Outcome, ProxyRequest, TotalDay, TotalHour, UsageDay
from usage.rollup import DERIVED, SUMS, TABLES
from usage.rows import Row, store
from usage.tests.conftest import an_end

pytestmark = pytest.mark.django_db
FIRST, LATENCIES = dt.datetime(2026, 3, 10, tzinfo=dt.UTC), (0, 100, 101, 250, 7_999, 120_000, 120_001)


@pytest.fixture(autouse=True)
def traffic():
    """Two users, three days, every outcome, both sides of bucket bounds, costs known and unknown."""
    partitions.ensure(connection, [partitions.month_of(FIRST)])
    users, ends = [uuid7(), uuid7()], []
    for number, outcome in enumerate([*Outcome, *[Outcome.OK] * len(LATENCIES)]):
        moment = FIRST + dt.timedelta(hours=5 * number, minutes=number)
        fields = {
            "outcome": outcome.value,
            "latency_ms": LATENCIES[number % len(LATENCIES)],
            "user_id": users[number % 2],
        }
        cost = Decimal(f"0.{number + 1:08}") if number % 3 else None
        ends.append(an_end(uuid7(int(moment.timestamp() * 1000)), model=f"m{number % 3}", cost=cost, **fields))
    store([Row(end, "test") for end in ends], lambda step: None)


def contents(tables=TABLES):
    return {
        table: sorted(table._default_manager.values_list(*TABLES[table], *SUMS), key=str) for table in tables
    }  # fmt: skip


def command(**options):
    out = StringIO()
    call_command("rebuild_usage", stdout=out, **options)
    return out.getvalue().strip()


def test_it_tells_errors_apart(traffic):
    (row,) = TotalDay.objects.filter(errors_timeout__gt=0).values("errors", "errors_timeout", "model")
    assert row == {"errors": row["errors"], "errors_timeout": 1, "model": "m0"}
    assert UsageDay.objects.count() > TotalDay.objects.count() < TotalHour.objects.count()


@pytest.mark.parametrize("from_log", [False, True])
def test_it_makes_the_sums_that_the_shipper_made(from_log):
    before = contents()
    for table in TABLES if from_log else DERIVED:
        table._default_manager.update(errors=99, errors_timeout=7, latency_100=3)
    TotalHour.objects.all().delete()
    assert command(since="2026-03-10", until="2026-03-13", from_log=from_log) == "Made the sums of 4 days anew."
    assert contents() == before


def test_it_makes_nothing_of_a_log_that_has_lost_rows():
    before = contents()
    ProxyRequest.objects.before(dt.date(2026, 3, 11)).delete()
    with pytest.raises(CommandError, match="2026-03-10: 0 requests in the log, 5 in the sums"):
        command(since="2026-03-10", until="2026-03-10", from_log=True)
    assert contents() == before


def test_it_says_which_days_do_not_add_up():
    assert command(check=True) == "The sums of 3 days agree."
    UsageDay.objects.filter(day=FIRST + rebuild.DAY).update(requests=99)
    with pytest.raises(CommandError, match="2026-03-11: usage_days"):
        command(check=True)
    command(since="2026-03-11", until="2026-03-11")
    assert command(check=True) == "The sums of 3 days agree."


def test_it_looks_at_no_day_between_those_that_have_sums():
    """A clock was wrong once; of its day a table holds more than there are hours of."""
    TotalDay.objects.create(day=dt.datetime(2099, 12, 31, tzinfo=dt.UTC), provider="openai", model="m0", requests=1)
    with pytest.raises(CommandError, match="2099-12-31: usage_total_days"):
        command(check=True)
    assert command() == "Made the sums of 4 days anew."
    assert command(check=True) == "The sums of 3 days agree."


def test_costs_agree_in_whichever_order_they_were_added_up():
    day, random = FIRST - rebuild.DAY, Random(1)
    ids, moment = [UUID(int=number) for number in range(3)], int(day.timestamp() * 1000)
    for _ in range(100):
        of = [{"user_id": random.choice(ids), "proxy_key_id": random.choice(ids)} for _ in range(20)]
        costs = [Decimal(random.randrange(10**11)).scaleb(-8) for _ in of]
        ends = [an_end(uuid7(moment), **ids, cost=cost) for ids, cost in zip(of, costs, strict=True)]
        store([Row(end, "test") for end in ends], lambda step: None)
        assert rebuild.differing(day, day + rebuild.DAY) == []


def test_the_migrations_fill_the_new_tables():
    before = contents()
    for table in DERIVED:
        table._default_manager.all().delete()
    for name in ("0006_fill_days_and_totals", "0008_fill_sums_of_users"):
        import_module(f"usage.migrations.{name}").fill(apps, None)
    assert contents() == before


def test_it_refuses_what_is_no_day():
    with pytest.raises(CommandError, match="ISO 8601"):
        command(since="yesterday")
