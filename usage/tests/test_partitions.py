"""The log is a table of months on PostgreSQL, a plain one elsewhere; old months go, sums stay."""

import datetime as dt
import threading
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, OperationalError, connection
from django.utils import timezone

from accounts.ids import uuid7
from usage import partitions
from usage.models import ProxyRequest, UsageHour
from usage.rows import Row, store
from usage.shipper import Shipper
from usage.tests.conftest import an_end, exchange, rows, sums_match_rows

pytestmark = pytest.mark.django_db
on_postgres = pytest.mark.skipif("connection.vendor != 'postgresql'", reason="only PostgreSQL has partitions")


def id_in(year: int, month: int, day: int = 15):
    return uuid7(int(dt.datetime(year, month, day, tzinfo=dt.UTC).timestamp() * 1000))


def catalogue(sql: str, *parameters: object) -> list:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


@on_postgres
@pytest.mark.postgres
class TestMonths:
    def test_it_has_this_month_and_three_more_from_the_first_migration_on(self):
        assert set(partitions.coming_months(timezone.now().date())) <= set(partitions.attached(connection))

    def test_it_is_partitioned_by_created_at_with_that_in_its_primary_key(self):
        ((strategy, key),) = catalogue(
            "SELECT partstrat, pg_get_partkeydef(partrelid) FROM pg_partitioned_table"
            " WHERE partrelid = 'proxy_requests'::regclass AND partdefid = 0"
        )
        assert (strategy, key) == ("r", "RANGE (created_at)")
        indexes = dict(catalogue("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'proxy_requests'"))
        assert "(user_id, created_at DESC)" in indexes["idx_requests_user_date"]
        assert "(id, created_at)" in indexes["proxy_requests_pkey"]

    def test_it_gives_a_partition_all_indexes_and_no_foreign_key(self):
        name = partitions.name_of(partitions.month_of(timezone.now()))
        definitions = [row[0] for row in catalogue("SELECT indexdef FROM pg_indexes WHERE tablename = %s", name)]
        assert len(definitions) == 4
        assert not catalogue("SELECT 1 FROM pg_constraint WHERE contype = 'f' AND conrelid = %s::regclass", name)

    def test_it_has_the_columns_that_django_thinks_it_has(self):
        with connection.cursor() as cursor:
            found = {column.name for column in connection.introspection.get_table_description(cursor, partitions.TABLE)}
        assert found == {field.column for field in ProxyRequest._meta.concrete_fields}

    def test_it_makes_nothing_twice(self, django_assert_num_queries):
        months = partitions.coming_months(dt.date(2031, 11, 30))
        assert [partitions.name_of(month)[-7:] for month in months] == ["2031_11", "2031_12", "2032_01", "2032_02"]
        assert partitions.ensure(connection, months) == months
        with django_assert_num_queries(1):
            assert partitions.ensure(connection, months) == []

    def test_it_makes_the_partition_of_a_row_that_comes_late(self, journal, directory):
        id = id_in(2019, 7)
        journal.end(an_end(id))

        assert Shipper(directory).run_once() == 1
        assert id in rows()
        assert dt.date(2019, 7, 1) in partitions.attached(connection)

    def test_it_makes_a_partition_anew_that_was_dropped_meanwhile(self, journal, directory):
        shipper = Shipper(directory)
        journal.end(an_end(id_in(2019, 7)))
        shipper.run_once()
        partitions.drop(connection, dt.date(2019, 7, 1))
        journal.end(an_end(id_in(2019, 7, 16)))

        assert shipper.run_once() == 1

    def test_it_minds_no_partition_of_somebody_elses(self, journal, directory):
        catalogue_change("CREATE TABLE proxy_requests_others PARTITION OF proxy_requests DEFAULT")
        journal.end(an_end(id_in(2019, 7)))

        assert Shipper(directory).run_once() == 1
        assert dt.date(2019, 7, 1) in partitions.attached(connection)

    def test_it_knows_a_missing_month_in_any_language_of_the_server(self):
        error = refused(an_end(id_in(2019, 7)))
        translated = IntegrityError("keine Partition von Relation »proxy_requests« für die Zeile gefunden")
        translated.__cause__ = error.__cause__
        assert partitions.is_missing(translated)

    def test_it_takes_no_row_that_cannot_be_for_one_of_a_missing_month(self):
        assert not partitions.is_missing(refused(an_end(tokens_input=-1)))

    def test_it_attaches_a_leftover_of_an_interrupted_prune(self):
        partitions.ensure(connection, [dt.date(2019, 7, 1)])
        catalogue_change("ALTER TABLE proxy_requests DETACH PARTITION proxy_requests_2019_07")
        assert dt.date(2019, 7, 1) in partitions.droppable(connection, dt.date(2020, 1, 1))

        assert partitions.ensure(connection, [dt.date(2019, 7, 1)]) == [dt.date(2019, 7, 1)]

    def test_it_looks_into_one_month_only_for_a_row_of_known_id(self):
        id = uuid7()
        plan = ProxyRequest.objects.recorded(id).explain()
        assert plan.count("Scan") == 1

    def test_it_keeps_rows_small(self):
        catalogue_change("TRUNCATE proxy_requests")  # what other tests rolled back is still in its files
        for _ in range(20):  # enough to make little of the pages that an empty index has
            ends = [an_end(provider_request_id=f"req_{uuid7().hex}") for _ in range(500)]
            store([Row(end, "0123456789ab") for end in ends], lambda step: None)

        ((heap, indexes),) = catalogue(
            "SELECT sum(pg_relation_size(inhrelid)),"
            " sum((SELECT sum(pg_relation_size(indexrelid)) FROM pg_index WHERE indrelid = inhrelid))"
            " FROM pg_inherits WHERE inhparent = 'proxy_requests'::regclass"
        )
        size = heap + indexes
        assert size / ProxyRequest.objects.count() < 450


def refused(end) -> IntegrityError:
    with pytest.raises(IntegrityError) as caught:
        store([Row(end, "0123456789ab")], lambda step: None)
    return caught.value


def catalogue_change(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


@on_postgres
@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_it_drops_a_month_beside_running_inserts(journal, directory):
    partitions.ensure(connection, [dt.date(2019, 7, 1)])

    assert "proxy_requests_2019_07" in call_command("prune_requests", "--keep-months=12", stdout=StringIO())
    assert dt.date(2019, 7, 1) not in partitions.attached(connection)
    assert not catalogue("SELECT 1 FROM pg_class WHERE relname = 'proxy_requests_2019_07'")


@on_postgres
@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_it_attaches_a_month_whose_prune_was_interrupted_while_it_waited(journal, directory, monkeypatch):
    monkeypatch.setattr(partitions, "_LOCK_TIMEOUT", "100ms")
    partitions.ensure(connection, [dt.date(2019, 7, 1)])
    with connection.get_new_connection(connection.get_connection_params()) as backup:
        backup.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        backup.execute("SELECT FROM proxy_requests")
        with pytest.raises(OperationalError, match="lock timeout"):
            partitions.drop(connection, dt.date(2019, 7, 1))
    journal.end(late := an_end(id_in(2019, 7)))
    stop = threading.Event()
    stop.set()  # at the first refusal, instead of trying for ever

    Shipper(directory).run(stop)
    assert late.id in rows()
    partitions.drop(connection, dt.date(2019, 7, 1))


@on_postgres
@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_it_ships_on_over_a_new_connection_when_the_old_one_breaks(journal, directory):
    ids = {exchange(journal) for _ in range(3)}
    broken = []

    def cut_the_line(step):
        if step == "inserted" and not broken:
            broken.append(catalogue("SELECT pg_backend_pid()")[0][0])
            with pytest.raises(Exception, match="terminating"):
                catalogue("SELECT pg_terminate_backend(%s)", broken[0])

    assert Shipper(directory, step=cut_the_line).run_once() == 3
    assert set(rows()) == ids
    assert sums_match_rows()


@pytest.fixture
def years(journal, directory):
    """A row each in 2019, 2020, and now."""
    ids = [id_in(2019, 7), id_in(2020, 1), uuid7()]
    for id in ids:
        journal.end(an_end(id))
    Shipper(directory).run_once()
    return ids


def prune(*arguments: str) -> str:
    return call_command("prune_requests", *arguments, stdout=StringIO())


def test_it_deletes_old_rows_and_keeps_their_sums(years):
    answer = prune("--keep-months=3")

    assert answer.startswith(("Deleted 2 rows", "Dropped proxy_requests_2019_07, proxy_requests_2020_01"))
    assert set(rows()) == {years[2]}
    assert UsageHour.objects.count() == 3


def test_it_only_says_what_it_would_delete(years):
    assert prune("--keep-months=3", "--dry-run").startswith(("Would delete 2 rows", "Would drop proxy_requests_2019"))
    assert set(rows()) == set(years)


def test_it_keeps_the_present_month_at_least(years):
    prune("--keep-months=0")

    assert set(rows()) == {years[2]}


def test_it_keeps_a_month_that_is_just_young_enough(years):
    today = timezone.now().date()
    months = (today.year - 2020) * 12 + today.month - 1
    prune(f"--keep-months={months}")

    assert set(rows()) == set(years[1:])


def test_it_asks_for_a_number_of_months_that_makes_sense():
    with pytest.raises(CommandError, match="0 or more"):
        prune("--keep-months=-1")
