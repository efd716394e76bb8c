"""Rows reach the database once, whatever dies on the way."""

import contextlib
import errno
import os
import random
import sqlite3
import threading
from collections import Counter

import pytest
from django.db import OperationalError, connection
from prometheus_client import REGISTRY

from accounts.ids import made_at, uuid7
from accounts.models import User
from usage import delivery, partitions, shipper
from usage.models import Outcome, ProxyRequest, UsageHour
from usage.records import Attempt, encode
from usage.rows import Row, interrupted, store
from usage.shipper import BATCH, Shipper, ShipperBusy
from usage.tests.conftest import PROXY_KEY, USER, a_begin, an_end, exchange, rows, seal, sums_match_rows

pytestmark = pytest.mark.django_db


class Crash(BaseException):
    pass


def test_it_ships_an_ended_exchange_as_one_row(journal, directory):
    User.objects.create(pk=USER, email="owner@example.com", plan_id="free")
    id = exchange(journal, model="gpt-4o", tokens_cached=3)

    assert Shipper(directory).run_once() == 1
    row = rows()[id]
    assert (row.user_id, row.proxy_key_id, row.model, row.outcome) == (USER, PROXY_KEY, "gpt-4o", "ok")
    assert (row.tokens_total, row.tokens_cached, row.cost, row.writer) == (42, 3, None, journal.writer)
    assert int(row.created_at.timestamp() * 1000) == id.int >> 80
    assert sums_match_rows()


def test_it_stores_texts_as_they_are(journal, directory):
    odd = """NULL, {"a": 'b'} \\" \\\\ %s é 例 {},"""
    User.objects.create(pk=USER, email="owner@example.com", plan_id="free")
    tries = [Attempt("openai", odd, None, "ok", 200, 1), Attempt("openai", "NULL", None, "", 200, 1)]
    id = exchange(journal, model=odd, error_message=odd, provider_request_id="null", attempts=tries)
    Shipper(directory).run_once()
    row = rows()[id]
    assert (row.model, row.error_message, row.provider_request_id) == (odd, odd, "null")
    assert [tried["model"] for tried in row.attempts] == [odd, "NULL"]


@pytest.fixture
def sqlite_of_default_limits(db):
    """As it is built unless somebody asks for more, which Debian does."""
    if connection.vendor != "sqlite":
        yield
        return
    before = connection.connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)
    yield
    connection.connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, before)


def test_it_ships_a_batch_of_as_many_models_as_rows(sqlite_of_default_limits, directory, new_journal):
    journal = new_journal(4 << 20)
    for number in range(BATCH):
        journal.end(an_end(model=f"model {number}"))
    stop = threading.Event()
    stop.set()  # at the first refusal, instead of trying for ever

    Shipper(directory).run(stop)
    assert len(rows()) == BATCH
    assert sums_match_rows()


def test_it_leaves_open_exchanges_alone(journal, directory):
    journal.begin(a_begin())

    assert Shipper(directory).run_once() == 0
    assert not rows()


def test_it_ships_what_was_written_since_the_last_pass(journal, directory):
    shipper = Shipper(directory)
    for count in (1, 3, 2):
        for _ in range(count):
            exchange(journal)
        assert shipper.run_once() == count
    assert sums_match_rows()


def test_it_folds_an_end_into_a_begin_of_an_earlier_segment(journal, directory):
    shipper = Shipper(directory)
    long = uuid7()
    journal.begin(a_begin(long))
    short = [exchange(journal) for _ in range(1_100)]
    shipper.run_once()
    journal.end(an_end(long))
    shipper.run_once()

    assert set(rows()) == {long, *short}
    assert {row.outcome for row in rows().values()} == {"ok"}


def test_it_removes_a_segment_once_every_exchange_in_it_has_ended(directory, new_journal):
    journal = new_journal()
    shipper = Shipper(directory)
    journal.begin(long := a_begin())
    exchange(journal)
    seal(journal)
    exchange(journal)
    seal(journal)

    shipper.run_once()
    assert [path.name for path in directory.glob("*.sealed")] == [f"{journal.writer}-00000000.sealed"]
    journal.end(an_end(long.id))
    shipper.run_once()
    assert not list(directory.glob("*.sealed"))


def test_it_counts_no_backlog_once_all_is_shipped(directory, new_journal, monkeypatch):
    monkeypatch.setattr("usage.shipper.BATCH", 2)
    journal = new_journal()
    journal.begin(a_begin())  # so that the segment is kept
    for _ in range(3):
        exchange(journal)
    seal(journal)

    Shipper(directory).run_once()
    assert REGISTRY.get_sample_value("aiproxy_journal_backlog_bytes") == 0


def test_it_marks_open_exchanges_of_a_closed_writer_interrupted_and_leaves_nothing_behind(directory, new_journal):
    journal = new_journal()
    begun = a_begin(streamed=True)
    journal.begin(begun)
    ended = exchange(journal)
    journal.close()

    assert Shipper(directory).run_once() == 2
    row = rows()[begun.id]
    assert (row.outcome, row.status_code, row.usage_source, row.streamed) == ("interrupted", 500, "none", True)
    assert rows()[ended].outcome == "ok"
    assert sorted(path.name for path in directory.iterdir()) == ["shipper.lock"]
    assert sums_match_rows()


def test_it_lets_a_real_end_replace_an_interrupted_one(directory, new_journal):
    journal = new_journal()
    begun = a_begin()
    journal.begin(begun)
    (directory / f"{journal.writer}.lock").rename(directory / "elsewhere")
    Shipper(directory).run_once()
    assert rows()[begun.id].outcome == "interrupted"

    late = new_journal()
    late.end(an_end(begun.id, model="gpt-4o", latency_ms=90))
    assert Shipper(directory).run_once() == 0
    row = rows()[begun.id]
    assert (row.outcome, row.model, row.tokens_total, row.writer) == ("ok", "gpt-4o", 42, late.writer)
    assert sums_match_rows()
    assert UsageHour.objects.get(model="gpt-4o").latency_100 == 1


def test_it_never_lets_an_interrupted_row_replace_a_real_one(directory, new_journal):
    id = uuid7()
    first = new_journal()
    first.begin(a_begin(id))
    first.end(an_end(id))
    second = new_journal()
    second.begin(a_begin(id))
    first.close()
    second.close()

    Shipper(directory).run_once()
    assert rows()[id].outcome == "ok"
    assert sums_match_rows()


@pytest.mark.parametrize("order", [1, -1])
def test_it_stores_the_real_one_of_two_ends_whichever_comes_first(order):
    begun = a_begin()
    partitions.ensure(connection, [partitions.month_of(made_at(begun.id))])
    store([Row(an_end(begun.id), "one"), Row(interrupted(begun), "other")][::order], lambda step: None)

    assert (rows()[begun.id].outcome, rows()[begun.id].writer) == ("ok", "one")
    assert sums_match_rows()


def test_it_counts_a_row_once_that_is_in_the_journal_twice(journal, directory):
    end = an_end()
    journal.end(end)
    journal.end(end)

    assert Shipper(directory).run_once() == 1
    assert Shipper(directory).run_once() == 0
    assert UsageHour.objects.get().requests == 1


STEPS = ("read", "inserted", "added", "committed", "deleted")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("time", range(1, 5))
def test_it_survives_a_crash_at_any_step(directory, new_journal, step, time):
    journal = new_journal()
    ids = {exchange(journal) for _ in range(700)}
    open_one = a_begin()
    journal.begin(open_one)
    journal.close()
    reached = Counter()

    def die(name):
        reached[name] += 1
        if name == step and reached[name] == time:
            raise Crash

    while True:
        try:
            Shipper(directory, step=die).run_once()
            break
        except Crash:
            assert sums_match_rows()
    assert set(rows()) == ids | {open_one.id}
    assert sums_match_rows()
    assert not list(directory.glob("*.sealed"))


def test_it_survives_crashes_at_random_steps_while_rows_keep_coming(directory, new_journal):
    chance = random.Random(20261122)
    ids = set()

    def perhaps_die(name):
        if chance.random() < 0.3:
            raise Crash

    for _ in range(40):
        journal = new_journal(64 << 10)
        ids |= {exchange(journal) for _ in range(chance.randrange(1, 40))}
        if chance.random() < 0.7:
            journal.close()
        with contextlib.suppress(Crash):
            Shipper(directory, step=perhaps_die).run_once()
    Shipper(directory).run_once()
    assert set(rows()) == ids
    assert sums_match_rows()


def test_it_refuses_a_second_shipper(journal, directory):
    shipper = Shipper(directory)
    with shipper._exclusively(wait=False), pytest.raises(ShipperBusy):
        Shipper(directory).run_once()
    exchange(journal)
    assert shipper.run_once() == 1


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(delivery, "BACKOFF", (0.001, 0.002))


def test_it_stores_what_many_small_segments_hold_together(directory, monkeypatch):
    monkeypatch.setattr(shipper, "BATCH", 10)
    directory.mkdir()
    for number in range(12):  # two writers, each segment of one exchange and of one that was interrupted
        name = f"{'ab'[number % 2] * 16}-{number:08d}.sealed"
        (directory / name).write_bytes(encode(an_end()) + encode(a_begin()))

    steps = Counter()
    Shipper(directory, step=lambda name: steps.update([name])).run_once()
    assert (ProxyRequest.objects.count(), steps["committed"], steps["deleted"]) == (24, 3, 12)
    assert sums_match_rows() and sorted(os.listdir(directory)) == ["shipper.lock"]


def test_it_waits_for_a_database_that_is_away(journal, directory, quick):
    ids = {exchange(journal) for _ in range(3)}
    failures = iter(range(5))

    def away(execute, sql, params, many, context):
        if "INSERT INTO proxy_requests" in sql and next(failures, None) is not None:
            raise OperationalError("server closed the connection unexpectedly")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(away):
        assert Shipper(directory).run_once() == 3
    assert next(failures, None) is None
    assert set(rows()) == ids
    assert sums_match_rows()


def test_it_says_each_reason_once_for_which_the_database_takes_no_rows(journal, directory, quick, caplog):
    exchange(journal)
    reasons = iter(["connection refused", "the database system is starting up", "cannot execute INSERT"] * 2)

    def away(execute, sql, params, many, context):
        if "INSERT INTO proxy_requests" in sql and (reason := next(reasons, None)):
            raise OperationalError(reason)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(away):
        Shipper(directory).run_once()
    said = [record.args[0] for record in caplog.records if "does not take rows" in record.msg]
    assert said == ["connection refused", "the database system is starting up", "cannot execute INSERT"]


def test_it_keeps_everything_when_it_is_stopped_while_the_database_is_away(journal, directory, quick):
    ids = {exchange(journal) for _ in range(3)}
    stop = threading.Event()

    def away(execute, sql, params, many, context):
        if "INSERT INTO proxy_requests" in sql:
            stop.set()
            raise OperationalError("connection refused")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(away):
        Shipper(directory).run(stop)
    assert not rows()
    assert Shipper(directory).run_once() == 3
    assert set(rows()) == ids


def test_it_fits_what_a_provider_claims_into_the_columns(journal, directory):
    id = exchange(journal, tokens_input=10**30, tokens_output=-5, tokens_total=2**40, overhead_ms=float("nan"))

    assert Shipper(directory).run_once() == 1
    row = rows()[id]
    assert (row.tokens_input, row.tokens_output, row.tokens_total) == (2**31 - 1, 0, 2**31 - 1)
    assert row.overhead_ms is None
    assert sums_match_rows()


def test_it_resolves_begins_whose_end_went_with_a_later_segment(directory, new_journal, monkeypatch):
    monkeypatch.setattr("usage.shipper._FORGOTTEN_AFTER", 0)
    journal = new_journal()
    begun, other = a_begin(), a_begin()
    journal.begin(begun)
    journal.begin(other)
    seal(journal)
    Shipper(directory).run_once()
    # Shipped by another shipper, whose segment is gone already.
    late = new_journal()
    late.end(an_end(begun.id))
    late.close()
    Shipper(directory).run_once()
    assert list(directory.glob("*.sealed"))
    later = new_journal()
    later.end(an_end(other.id))
    later.close()
    Shipper(directory).run_once()
    assert not list(directory.glob("*.sealed"))


def test_it_removes_the_lock_of_a_writer_that_was_killed_as_it_took_it(directory):
    directory.mkdir()
    old, new = (directory / f"{writer * 16}.lock-tmp" for writer in "ab")
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))

    Shipper(directory).run_once()
    assert not old.exists() and new.exists()


@pytest.mark.parametrize("writers", ["ab", "aa"])
def test_it_ships_what_it_can_read_beside_a_segment_that_it_cannot(directory, writers):
    unreadable, readable = (directory / f"{w * 16}-{number:08d}.sealed" for number, w in enumerate(writers))
    ends = [an_end(), an_end()]
    unreadable.mkdir(parents=True)  # it opens and gives nothing, like a file on a disk that fails
    readable.write_bytes(encode(ends[0]))
    shipper = Shipper(directory)

    for _ in range(2):
        with pytest.raises(OSError, match="1 segments"):
            shipper.run_once()
        assert set(rows()) == {ends[0].id}
        assert REGISTRY.get_sample_value("aiproxy_journal_stuck_segments") == 1

    unreadable.rmdir()
    unreadable.write_bytes(encode(ends[1]))
    assert shipper.run_once() == 1
    assert REGISTRY.get_sample_value("aiproxy_journal_stuck_segments") == 0


def test_it_ends_no_request_whose_end_may_stand_in_a_segment_that_it_cannot_read(directory):
    readable, unreadable = (directory / f"{'a' * 16}-{number:08d}.sealed" for number in range(2))
    begun = a_begin()
    unreadable.mkdir(parents=True)
    readable.write_bytes(encode(begun))
    shipper = Shipper(directory)
    with pytest.raises(OSError, match="1 segments"):
        shipper.run_once()
    assert not rows()

    unreadable.rmdir()
    unreadable.write_bytes(encode(an_end(begun.id)))
    shipper.run_once()
    assert rows()[begun.id].outcome == "ok"


def test_it_ships_on_beside_a_segment_that_it_may_not_remove(directory, monkeypatch):
    stays, goes = (directory / f"{writer * 16}-00000000.sealed" for writer in "ab")
    directory.mkdir()
    stays.write_bytes(encode(an_end()))
    goes.write_bytes(encode(an_end()))
    unlink, shipper = os.unlink, Shipper(directory)

    def refuse(path, **options):
        if str(path).endswith(stays.name):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        unlink(path, **options)

    with monkeypatch.context() as immutable:
        immutable.setattr(os, "unlink", refuse)
        with pytest.raises(OSError, match="1 segments"):
            shipper.run_once()
    assert len(rows()) == 2
    assert stays.exists() and not goes.exists()
    assert shipper.run_once() == 0
    assert not stays.exists()


def test_it_minds_no_spare_segment_that_goes_while_it_looks(directory, new_journal):
    idle, busy = new_journal(), new_journal()
    exchange(busy)
    shipper = Shipper(directory)
    shipper.run_once()
    seal(busy)
    exchange(busy)

    def close(step):
        idle.close()
        busy.close()

    shipper._step = close
    assert shipper.run_once() == 1
    assert Shipper(directory).run_once() == 0
    assert sorted(path.name for path in directory.iterdir()) == ["shipper.lock"]


def test_it_runs_until_it_is_told_to_stop_and_ships_what_is_left(directory, new_journal):
    stop = threading.Event()
    journal = new_journal()
    ids = {exchange(journal)}

    def told(name):
        if name == "committed" and not stop.is_set():
            ids.add(exchange(journal))
            journal.close()
            stop.set()

    Shipper(directory, step=told).run(stop)
    assert set(rows()) == ids


@pytest.mark.parametrize("outcome", Outcome.values)
def test_it_stores_every_outcome(journal, directory, outcome):
    exchange(journal, outcome=outcome)

    Shipper(directory).run_once()
    hour = UsageHour.objects.get()
    assert ProxyRequest.objects.get().outcome == outcome
    assert (hour.requests, hour.errors) == (1, int(outcome not in ("ok", "client_gone")))
