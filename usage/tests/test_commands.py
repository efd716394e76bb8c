"""What operators type."""

import csv
import fcntl
import io
import json
import os
from decimal import Decimal
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from usage import tables
from usage.journal import Journal
from usage.rows import Row, store
from usage.tests.conftest import an_end, exchange, rows

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    return call_command(*arguments, stdout=io.StringIO())


@pytest.fixture
def data_dir(tmp_path, settings):
    settings.AIPROXY_DATA_DIR = tmp_path
    return tmp_path


def test_it_ships_once_and_says_how_many(data_dir):
    journal = Journal(data_dir / "journal")
    journal.open()
    ids = {exchange(journal) for _ in range(3)}
    journal.close()

    assert run("ship_usage", "--once") == "Shipped 3 rows."
    assert run("ship_usage", "--once") == "Shipped 0 rows."
    assert set(rows()) == ids


def test_it_says_that_another_shipper_is_at_work(data_dir):
    directory = Path(settings.AIPROXY_DATA_DIR) / "journal"
    directory.mkdir()
    fd = os.open(directory / "shipper.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)

    with pytest.raises(CommandError, match="Another shipper"):
        run("ship_usage", "--once")
    os.close(fd)


@pytest.fixture
def traffic(owner):
    for fields in ({}, {"cost": Decimal("0.5")}, {"model": "=cmd|' /C calc'!A0", "user_id": owner.pk}):
        store([Row(an_end(**fields), "test")], lambda step: None)


def test_it_reports_as_a_table_with_totals(traffic):
    lines = run("usage_report").splitlines()

    assert lines[0].split()[:3] == ["model", "requests", "errors"]
    assert lines[1].split()[:2] == ["gpt-4o-mini", "2"]
    assert lines[-1].split()[:2] == ["total", "3"]


def test_it_reports_as_csv_without_formulas(traffic):
    found = list(csv.DictReader(io.StringIO(run("usage_report", "--format=csv"))))

    assert [row["model"] for row in found] == ["gpt-4o-mini", "'=cmd|' /C calc'!A0"]
    assert [(row["requests"], row["cost"]) for row in found] == [("2", "0.50000000"), ("1", "")]


def test_it_reports_as_json(traffic):
    found = json.loads(run("usage_report", "--format=json", "--group-by=day"))

    assert [(row["requests"], row["cost"]) for row in found] == [(3, "0.50000000")]


def test_it_reports_one_user(traffic, owner):
    (row,) = json.loads(run("usage_report", "--format=json", f"--user={owner.email.upper()}"))

    assert row["requests"] == 1


def test_it_reports_an_empty_period(traffic):
    assert run("usage_report", "--from=2020-01-01", "--to=2020-01-31", "--format=csv") == ""
    assert run("usage_report", "--to=2020-01-31").splitlines()[-1].startswith("total")


@pytest.mark.parametrize("argument", ["--from=soon", "--to=2026-13-01", "--user=nobody@example.com"])
def test_it_says_what_is_wrong_with_an_argument(argument):
    with pytest.raises(CommandError):
        run("usage_report", argument)


@pytest.mark.parametrize("lead", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_it_quotes_what_a_spreadsheet_would_run(lead):
    assert tables.cell(f"{lead}1") == f"'{lead}1"


def test_it_leaves_numbers_alone():
    assert [tables.cell(value) for value in (-5, -0.5, Decimal("-1"), None)] == ["-5", "-0.5", "-1.00000000", ""]


@pytest.mark.parametrize("command", ["usage_report", "rebuild_usage"])
@pytest.mark.parametrize("last", ["2026-01-01", "2026-01-31"])
def test_it_refuses_a_period_that_ends_before_it_begins(command, last):
    with pytest.raises(CommandError, match="--from is after --to"):
        run(command, "--from", "2026-02-01", "--to", last)


@pytest.mark.parametrize("command", ["usage_report", "rebuild_usage"])
@pytest.mark.parametrize("option", ["--from=", "--to="])
def test_it_takes_an_empty_day_for_none_of_all(command, option):
    with pytest.raises(CommandError, match="--from or --to: "):
        call_command(command, option)


def test_it_does_not_report_on_everybody_when_the_user_is_empty():
    with pytest.raises(CommandError, match="There is no user"):
        run("usage_report", "--user", "")


def test_it_writes_outcomes_for_people_and_spreadsheets():
    assert tables.as_csv([{"outcomes": {"ok": 2, "timeout": 1}}]) == 'outcomes\r\n"ok 2, timeout 1"\r\n'
