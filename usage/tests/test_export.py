"""Rows as a file: those that the list shows, whole, inert in a spreadsheet, and only for who may."""

import asyncio
import csv
import json
from decimal import Decimal

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Permission
from django.db import connection

import usage.exporter
from accounts import tokens
from accounts.models import User
from audit.models import Event
from usage import export
from usage.models import ProxyRequest
from usage.rows import Row, store
from usage.tests.conftest import an_end

CSV, LINES = "/admin/usage/proxyrequest/export/csv", "/admin/usage/proxyrequest/export/jsonl"
pytestmark = pytest.mark.django_db


@pytest.fixture
def clerk(client):
    """Sees the log, and does not export it."""
    user = User.objects.create(email="clerk@example.com", is_staff=True, password="!")
    user.user_permissions.set(Permission.objects.filter(codename="view_proxyrequest"))
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    client.user = user
    return client


@pytest.fixture
def exporter(clerk):
    clerk.user.user_permissions.add(Permission.objects.get(codename="export_proxyrequest"))
    return clerk


def record(**fields):
    end = an_end(**fields)
    User.objects.get_or_create(pk=end.user_id, defaults={"email": f"{end.user_id}@example.com", "plan_id": "free"})
    store([Row(end, "test")], lambda step: None)
    return str(end.id)


def text(response):
    return response.getvalue().decode()


def test_it_exports_the_rows_that_the_list_shows(exporter, owner):
    wanted = record(provider="google", user_id=owner.pk)
    record()
    rows = list(csv.DictReader(text(exporter.get(CSV, {"provider": "google"})).splitlines()))
    lines = [json.loads(line) for line in text(exporter.get(LINES, {"provider": "google"})).splitlines()]
    assert [row["id"] for row in rows] == [line["id"] for line in lines] == [wanted]
    assert rows[0]["email"] == lines[0]["email"] == owner.email
    assert (rows[0]["tokens_total"], lines[0]["tokens_total"]) == ("42", 42)


@pytest.mark.parametrize("query", [{}, {"q": "clerk@example.com"}])
def test_it_exports_every_page(exporter, monkeypatch, query):
    monkeypatch.setattr(export, "PAGE", 2)
    ids = sorted((record(user_id=exporter.user.pk) for _ in range(5)), reverse=True)
    assert [json.loads(line)["id"] for line in text(exporter.get(LINES, query)).splitlines()] == ids


@pytest.mark.parametrize("cost", ["0.00000000", "0.00000015", "12.50000000"])
def test_it_writes_a_cost_without_an_exponent(exporter, cost):
    record(cost=Decimal(cost))
    (row,) = csv.DictReader(text(exporter.get(CSV)).splitlines())
    assert row["cost"] == json.loads(text(exporter.get(LINES)))["cost"] == cost


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1+1"])
def test_no_spreadsheet_takes_a_cell_for_a_formula(exporter, formula):
    record(model=formula, error_message=formula)
    (row,) = csv.DictReader(text(exporter.get(CSV)).splitlines(keepends=True))
    assert row["model"].startswith("'") and row["error_message"].startswith("'")


def test_it_is_for_who_may_export(clerk):
    record()
    assert "export/csv" not in clerk.get("/admin/usage/proxyrequest/").text
    assert clerk.get(CSV).status_code == clerk.get(LINES).status_code == 403


def test_it_knows_two_formats(exporter):
    assert exporter.get("/admin/usage/proxyrequest/export/xlsx").status_code == 404
    assert exporter.get(CSV, {"when": "never"}).status_code == 302


def test_it_is_written_down(exporter):
    text(exporter.get(CSV, {"when": "7d"}))
    event = Event.objects.latest("id")
    assert (event.action, event.actor, event.note) == ("export", "clerk@example.com", "csv, when=7d")


@pytest.mark.django_db(transaction=True)
def test_an_asynchronous_server_gets_it_piece_by_piece(monkeypatch):
    monkeypatch.setattr(export, "PAGE", 1)
    ids = sorted([record(), record()], reverse=True)
    download = export.Download(export.as_json_lines, ProxyRequest.objects.order_by("-id").query)

    async def read():
        return [json.loads(piece)["id"] async for piece in download]

    assert asyncio.run(read()) == ids


def two_pieces():
    yield b"1"
    yield b"2"


@pytest.mark.django_db(transaction=True)
def test_the_view_s_connection_is_given_back_before_the_client_reads():
    """There are ten for a worker: as many clients that read slowly would keep everybody else from the database."""

    async def read():
        await sync_to_async(lambda: connection.ensure_connection())()
        pieces = aiter(export.Download(two_pieces))
        await anext(pieces)
        await pieces.aclose()
        return await sync_to_async(lambda: connection.connection)()

    assert asyncio.run(read()) is None


@pytest.mark.parametrize("path", [CSV, "/auth/me/export", "/console/usage/requests.csv"])
def test_an_export_that_nobody_can_make_is_503(path, exporter, monkeypatch):
    channel = usage.exporter.Channel()
    channel._orders.close()
    monkeypatch.setattr(usage.exporter, "_channel", channel)
    with channel._ordering:
        answer = exporter.get(path, headers={"Authorization": f"Bearer {tokens.sign_in(exporter.user).token}"})
    assert (answer.status_code, answer["Retry-After"]) == (503, "1")
    assert "Too many exports" in answer.text
