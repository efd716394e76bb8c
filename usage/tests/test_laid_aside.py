"""One record that is to blame holds up no other, and is kept."""

import errno
import os
from decimal import Decimal

import pytest
from django.db import DataError, connection

from accounts.ids import uuid7
from usage.records import encode, frame
from usage.shipper import Shipper
from usage.tests.conftest import an_end, exchange, rows, sums_match_rows

pytestmark = pytest.mark.django_db


def test_it_lays_aside_only_the_row_that_is_to_blame(journal, directory):
    good = {exchange(journal) for _ in range(20)}
    bad = exchange(journal, model="cursed")
    good |= {exchange(journal) for _ in range(20)}

    def picky(execute, sql, params, many, context):
        if "INSERT INTO proxy_requests" in sql and "cursed" in str(params):
            raise DataError("value out of range")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(picky):
        assert Shipper(directory).run_once() == 40
    assert set(rows()) == good
    assert [path.name for path in (directory / "dead").iterdir()] == [f"{bad.hex}-00000000.sealed"]
    assert sums_match_rows()


@pytest.mark.parametrize("cost", ["NaN", "Infinity", "-1", "1e9", "9999.999999995"])
def test_it_lays_aside_a_cost_that_cannot_be(journal, directory, cost):
    id = exchange(journal, cost=Decimal(cost))

    assert Shipper(directory).run_once() == 0
    assert [path.name for path in (directory / "dead").iterdir()] == [f"{id.hex}-00000000.sealed"]


def test_it_lays_aside_a_record_whose_time_cannot_be(directory):
    late, good = an_end(uuid7(2**48 - 1)), an_end()
    directory.mkdir()
    (directory / f"{'ab' * 8}-00000000.sealed").write_bytes(encode(late) + encode(good))

    assert Shipper(directory).run_once() == 1
    assert [path.name for path in (directory / "dead").iterdir()] == [f"{late.id.hex}-00000000.sealed"]


def test_it_ships_a_record_that_was_laid_aside_and_moved_back(directory):
    end = an_end()
    directory.mkdir()
    (directory / f"{end.id.hex}-00000000.sealed").write_bytes(encode(end))

    assert Shipper(directory).run_once() == 1
    assert end.id in rows()


def test_it_lays_aside_every_record_of_a_newer_version(directory):
    directory.mkdir()
    records = {frame(f'["newer","{uuid7()}"]'.encode()) for _ in range(6)}
    for number, record in enumerate(records):
        (directory / f"{'ab' * 8}-{number:08d}.sealed").write_bytes(record)

    for _ in range(2):  # and again, when they were moved back too early
        Shipper(directory).run_once()
        laid_aside = list((directory / "dead").iterdir())
        assert {path.read_bytes() for path in laid_aside} == records
        for path in laid_aside:
            path.rename(directory / path.name)


def test_it_keeps_what_a_full_disk_does_not_let_it_lay_aside_and_ships_the_rest(directory, monkeypatch):
    newer, good = frame(f'["newer","{uuid7()}"]'.encode()), [an_end() for _ in range(2)]
    directory.mkdir()
    first, second = (directory / f"{writer * 16}-00000000.sealed" for writer in "ab")
    first.write_bytes(encode(good[0]) + newer)
    second.write_bytes(encode(good[1]))

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", no_space)
        with pytest.raises(OSError, match="1 records"):
            Shipper(directory).run_once()
    assert set(rows()) == {end.id for end in good}
    assert first.exists() and not second.exists()

    Shipper(directory).run_once()
    assert [path.read_bytes() for path in (directory / "dead").iterdir()] == [newer]
    assert not first.exists()


def no_space(fd):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_it_lays_aside_whole_records_also_when_the_disk_takes_them_in_pieces(directory, monkeypatch):
    record = frame(f'["newer","{uuid7()}"]'.encode())
    directory.mkdir()
    (directory / f"{'ab' * 8}-00000000.sealed").write_bytes(record)

    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
    Shipper(directory).run_once()
    assert [path.read_bytes() for path in (directory / "dead").iterdir()] == [record]
