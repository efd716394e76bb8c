"""The loss finder itself: a short run of it keeps every promise (`make faults` is the long one), and it sees what is
wrong with a record."""

import datetime as dt
import json
import tempfile
import time
from decimal import Decimal
from pathlib import Path

import pytest

from accounts.ids import uuid7
from faults.clients import Sighting, Tenant
from faults.provider import MODEL, Visit, usage_of
from faults.report import summary
from faults.rows import UNKNOWN, Row
from faults.run import Run
from faults.script import Script
from faults.stand import Ledger
from faults.sums import TABLES, add_up
from faults.verdict import Evidence, judge

SEED, SECONDS = 7, 3.0
OWNER, SECOND = (Tenant(name, "", str(uuid7()), str(uuid7()), (f"key of {name}",)) for name in ("owner", "second"))


@pytest.mark.postgres
async def test_it_loses_nothing_while_processes_servers_and_clients_fail():
    # Not in pytest's own directory: PostgreSQL does not run as root, and `nobody` must find its files.
    with tempfile.TemporaryDirectory(prefix="aiproxy-faults-") as directory:
        result = await Run(Path(directory), seed=SEED, seconds=SECONDS).perform()
    assert not result.violations, json.dumps(summary(result), indent=1)
    assert result.verdict.counts["complete"] > 30
    assert len({fault.kind for fault in result.ledger.faults}) >= 2


def asked(nonce: str = "0", tenant: Tenant = OWNER, **saw: object) -> Sighting:
    """One that was sent, and told nothing, but for what it saw."""
    now = time.monotonic()
    sighting = Sighting(tenant, Script(nonce, "ok"), streamed=False, model=MODEL, began=now, ended=now, sent=True)
    for name, value in saw.items():
        setattr(sighting, name, value)
    return sighting


def served(nonce: str = "0") -> tuple[Sighting, Row]:
    """One that has its answer, and the row that is due to it."""
    sighting = asked(nonce, status=200, request_id=str(uuid7()), complete=True)
    sighting.usage = usage_of(sighting.script)
    return sighting, row_of(sighting)


def row_of(sighting: Sighting, **fields: object) -> Row:
    tenant, used, id = sighting.tenant, usage_of(sighting.script) or {}, sighting.request_id or str(uuid7())
    tokens = (used["prompt_tokens"], used["completion_tokens"], used["total_tokens"], 0, 0)
    cost = Decimal("0.00000075")  # a token each, by the book's 0.15 and 0.6 dollars a million
    what = ("openai", MODEL, sighting.streamed, "ok", 200, *tokens, "provider", cost, f"req_{sighting.script.nonce}")
    row = Row(id, tenant.user_id, tenant.key_id, *what, dt.datetime.now(dt.UTC), 40, "", "")
    return row._replace(**fields)


def interrupted(sighting: Sighting) -> Row:
    nothing = {name: 0 for name in Row._fields if name.startswith("tokens_")}
    said = {"outcome": "interrupted", "status_code": 500, "usage_source": "none", "cost": None}
    return row_of(sighting, **nothing, **said, provider_request_id="")


def judged(sightings: list[Sighting], rows: list[Row], **known: object) -> list[str]:
    sums = known.pop("sums", None) or sums_of(rows)
    return judge(Evidence(sightings, known.pop("visits", {}), rows, sums, Ledger(**known))).violations


def sums_of(rows: list[Row]) -> dict[str, list[dict]]:
    return {
        table: [dict(zip(names, key, strict=True)) | counts for key, counts in add_up(rows, names).items()]
        for table, names in TABLES.items()
    }


def test_it_has_nothing_against_a_record_that_is_right():
    sighting, row = served()
    assert not judged([sighting], [row], visits={"0": [Visit(0.0, "key of owner", "ok")]})


def test_it_misses_a_row_although_a_record_of_that_model_was_damaged():
    sighting, _ = served()
    (violation,) = judged([sighting], [], damaged={uuid7(): MODEL})
    assert violation.startswith(f"has no row: request {sighting.request_id}")


@pytest.mark.parametrize(
    "wrong",
    [
        {"user_id": SECOND.user_id},
        {"proxy_key_id": SECOND.key_id},
        {"provider": "anthropic"},
        {"model": "gpt-4o"},
        {"model": UNKNOWN, "provider": ""},
        {"streamed": True},
        {"status_code": 502},
        {"outcome": "client_gone"},
        {"provider_request_id": ""},
        {"provider_request_id": "req_of_another"},
        {"tokens_output": 2},
        {"cost": Decimal("0.00000076")},
        {"cost": None},
    ],
    ids=" ".join,
)
def test_it_sees_a_row_that_is_not_what_its_client_saw(wrong):
    sighting, row = served()
    assert judged([sighting], [row._replace(**wrong)])


def test_it_sees_a_cost_that_is_not_what_its_client_was_told():
    sighting, row = served()
    sighting.usage["cost"] = 0.00000076
    (violation,) = judged([sighting], [row])
    assert violation.startswith("its row has a cost of 7.5E-7, the client 7.6e-07")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("column", ["requests", "tokens_output", "cost", "latency_100", "errors_refused"])
def test_it_sees_a_sum_that_is_not_that_of_the_rows(table, column):
    sighting, row = served()
    sums = sums_of([row])
    sums[table][0][column] = sums[table][0].get(column, 0) + 1
    (violation,) = judged([sighting], [row], sums=sums)
    assert violation.startswith(f"{table} has of ") and f": {column} " in violation


def test_it_sees_sums_of_no_rows():
    sighting, row = served()
    (violation,) = judged([sighting], [], sums=sums_of([]) | {"usage_days": sums_of([row])["usage_days"]})[1:]
    assert violation.startswith("usage_days has of ")


def test_it_sees_a_second_row_of_one_request_of_the_common_model():
    sighting, row = served()
    (violation,) = judged([sighting], [row, row._replace(id=str(uuid7()))])
    assert violation.startswith(f"has 2 rows: request {sighting.request_id}")


def test_it_sees_a_row_of_the_common_model_that_nobody_asked_for():
    sighting, row = served()
    (violation,) = judged([sighting], [row, interrupted(sighting)._replace(id=str(uuid7()))])
    assert violation.startswith("a row of no request: ")


def test_it_gives_no_two_rows_to_one_silent_request():
    sighting = asked(left=True, leave="sent")
    gone = {"outcome": "client_gone", "status_code": 499}
    rows = [interrupted(sighting)._replace(**gone, id=str(uuid7())) for _ in range(2)]
    assert not judged([sighting], rows[:1])
    (violation,) = judged([sighting], rows)
    assert violation.startswith("a row of no request: ")


def test_it_gives_what_damage_left_of_a_row_to_a_silent_request():
    sighting = asked(left=True, leave="sent")
    row = interrupted(sighting)
    assert judged([sighting], [row])
    assert not judged([sighting], [row], damaged={row.id: MODEL})


@pytest.mark.parametrize("of", [{"tenant": SECOND}, {"began": 0.0, "ended": 1.0}, {"streamed": True}], ids=" ".join)
def test_it_gives_no_row_to_a_silent_request_of_somebody_else_of_another_time_or_kind(of):
    row = interrupted(asked(left=True, leave="sent"))._replace(outcome="client_gone", status_code=499)
    (violation,) = judged([asked(left=True, leave="sent", **of)], [row])
    assert violation.startswith("a row of no request: ")


def test_it_misses_the_row_of_a_silent_request_that_a_provider_was_asked():
    heard, unheard = (asked(nonce, left=True, leave="sent") for nonce in "01")
    row = row_of(heard, outcome="client_gone", status_code=499)
    visits = {nonce: [Visit(0.0, "key of owner", "ok")] for nonce in "01"}
    (violation,) = judged([heard, unheard], [row], visits=visits)
    assert violation.startswith("reached the provider, and has no row")


def test_it_sees_a_request_that_was_sent_with_the_key_of_somebody_else():
    sighting, row = served()
    (violation,) = judged([sighting], [row], visits={"0": [Visit(0.0, "key of second", "ok")]})
    assert "somebody else's key" in violation
