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
from faults.columns import ENDPOINT
from faults.provider import ERROR, MODEL, Visit, usage_of
from faults.report import summary
from faults.rows import UNKNOWN, Row
from faults.run import Run
from faults.script import Script
from faults.stand import Ledger
from faults.sums import TABLES, add_up
from faults.verdict import Evidence, judge

SEED, SECONDS = 7, 3.0
OWNER, SECOND = (
    Tenant(
        name,
        "",
        str(uuid7()),
        str(uuid7()),
        {f"key of {name}": f"id of {name}", f"spare of {name}": f"spare id of {name}"},
    )
    for name in ("owner", "second")
)
KEYS = tuple(OWNER.provider_keys.values())
OTHERS = next(iter(SECOND.provider_keys.values()))


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
    sighting = asked(nonce, status=200, request_id=str(uuid7()), complete=True, attempts=1)
    sighting.usage = usage_of(sighting.script)
    return sighting, row_of(sighting)


def row_of(sighting: Sighting, **fields: object) -> Row:
    tenant, used, id = sighting.tenant, usage_of(sighting.script) or {}, sighting.request_id or str(uuid7())
    tokens = (used["prompt_tokens"], used["completion_tokens"], used["total_tokens"], 0, 0)
    cost = Decimal("0.00000075")  # a token each, by the book's 0.15 and 0.6 dollars a million
    key = next(iter(tenant.provider_keys.values()))
    what = (key, "openai", MODEL, ENDPOINT, sighting.streamed, "ok", 200, *tokens, "provider", cost)
    when = (dt.datetime.now(dt.UTC), 40, 30, 0.5)
    row = Row(id, tenant.user_id, tenant.key_id, *what, f"req_{sighting.script.nonce}", *when, None, "", "")
    return row._replace(**fields)


def served_by_spare() -> tuple[Sighting, Row, dict[str, list[Visit]]]:
    """One whose first key was over its limit, its row, and what the provider saw of it."""
    sighting, row = served()
    sighting.script, sighting.attempts = Script("0", "spare"), 2
    results = ((ERROR, 429, 3), ("ok", 200, 30))
    attempts = [attempt(key, *result) for key, result in zip(KEYS, results, strict=True)]
    visits = {"0": [Visit(0.0, key, "spare", billable=key.startswith("spare")) for key in OWNER.provider_keys]}
    return sighting, row._replace(api_key_id=KEYS[1], attempts=attempts), visits


def attempt(key: str, result: str, status: int, ms: int, **fields: object) -> dict[str, object]:
    told = {"provider": "openai", "model": MODEL, "api_key_id": key, "result": result, "status": status, "ms": ms}
    return told | fields


def interrupted(sighting: Sighting) -> Row:
    nothing = {name: 0 for name in Row._fields if name.startswith("tokens_")}
    said = {"outcome": "interrupted", "status_code": 500, "usage_source": "none", "cost": None}
    served = {"api_key_id": None, "provider_request_id": "", "latency_ms": 0, "ttft_ms": None, "overhead_ms": None}
    return row_of(sighting, **nothing, **said, **served)


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


def test_it_has_nothing_against_a_request_that_its_second_key_served():
    sighting, row, visits = served_by_spare()
    assert not judged([sighting], [row], visits=visits)


@pytest.mark.parametrize(
    ("wrong", "blame"),
    [
        ({"endpoint": "embeddings"}, f"a row says that embeddings was called, not {ENDPOINT}"),
        ({"api_key_id": OTHERS}, f"a row names the keys {OTHERS}, its owner has {KEYS[0]}, {KEYS[1]}"),
        ({"api_key_id": None}, "its row says ok, but names no key"),
        ({"api_key_id": KEYS[1]}, f"its row names the keys {KEYS[1]}, the provider was asked with {KEYS[0]}"),
        ({"attempts": []}, "a row has 0 attempts, not null as one that had but one"),
        ({"latency_ms": -1}, "a row has a latency of -1 ms, not within the run of 2000"),
        ({"latency_ms": 2001}, "a row has a latency of 2001 ms, not within the run of 2000"),
        ({"latency_ms": 60}, "its row has a latency of 60 ms, its client waited 0"),
        ({"latency_ms": 4, "ttft_ms": 3}, "its row has a latency of 4 ms, the provider took 5"),
        ({"ttft_ms": 41}, "a row has its first byte after 41 ms, not within its latency of 40"),
        ({"ttft_ms": -1}, "a row has its first byte after -1 ms, not within its latency of 40"),
        ({"ttft_ms": None}, "its row has no ttft_ms, its client a whole answer"),
        ({"overhead_ms": -0.001}, "a row has an overhead of -0.001 ms, not within its latency of 40"),
        ({"overhead_ms": 41.5}, "a row has an overhead of 41.5 ms, not within its latency of 40"),
        ({"overhead_ms": None}, "its row has no overhead_ms, its client a whole answer"),
    ],
    ids=str,
)
def test_it_sees_a_key_and_times_that_cannot_be(wrong, blame):
    sighting, row = served()
    sighting.script = Script("0", "ok", second=5)
    violations = judged([sighting], [row._replace(**wrong)], visits={"0": [Visit(0.0, "key of owner", "ok")]})
    assert any(violation.startswith(f"{blame}: ") for violation in violations), violations


@pytest.mark.parametrize(
    ("number", "wrong", "blame"),
    [
        (0, {"api_key_id": OTHERS}, f"a row names the keys {OTHERS}, its owner has {KEYS[0]}, {KEYS[1]}"),
        (0, {"api_key_id": None}, f"a row names the keys None, its owner has {KEYS[0]}, {KEYS[1]}"),
        (0, {"api_key_id": KEYS[1]}, f"a row says that a key was tried twice: {KEYS[1]}, {KEYS[1]}"),
        (0, {"model": "gpt-4o"}, f"a row has an attempt at ('openai', 'gpt-4o'), not ('openai', '{MODEL}')"),
        (0, {"status": 503}, "its row says that another key was tried after ('scripted', 503), not scripted 429"),
        (0, {"result": "ok"}, "its row says that another key was tried after ('ok', 429), not scripted 429"),
        (0, {"ms": -1}, "a row has attempts of [-1, 30] ms, 40 in all"),
        (0, {"ms": 61}, "a row has attempts of [61, 30] ms, 40 in all"),
        (1, {"api_key_id": KEYS[0]}, f"a row names the key {KEYS[1]}, its last attempt {KEYS[0]}"),
        (1, {"result": "timeout"}, "a row says that its last attempt came to timeout 200, not ok 200"),
        (1, {"status": 504}, "a row says that its last attempt came to ok 504, not ok 200"),
    ],
    ids=str,
)
def test_it_sees_an_attempt_that_cannot_be(number, wrong, blame):
    sighting, row, visits = served_by_spare()
    row.attempts[number] |= wrong
    violations = judged([sighting], [row], visits=visits)
    assert any(violation.startswith(f"{blame}: ") for violation in violations), violations


@pytest.mark.parametrize("attempts", [None, [attempt(KEYS[1], "ok", 200, 30)]], ids=["none", "one"])
def test_it_sees_attempts_that_are_not_as_many_as_its_client_was_told(attempts):
    sighting, row, _ = served_by_spare()
    violations = judged([sighting], [row._replace(attempts=attempts)])
    assert any(v.startswith(f"its row names the keys {KEYS[1]}, its client was told of 2: ") for v in violations)


def test_it_sees_attempts_of_a_request_that_was_served_at_once():
    sighting, row, _ = served_by_spare()
    sighting.script = Script("0", "ok")
    (violation,) = judged([sighting], [row])
    assert violation.startswith("its row says that another key was tried after ('scripted', 429), not scripted none: ")


def refused(sighting: Sighting, **fields: object) -> Row:
    """The row of one that the proxy refused before it knew whom to ask."""
    nothing = {"model": UNKNOWN, "provider": "", "outcome": "refused", "status_code": sighting.status}
    return interrupted(sighting)._replace(**nothing, cost=Decimal(0), **fields)


def test_it_sees_a_key_of_no_provider():
    sighting = asked("0", status=404, request_id=str(uuid7()), source="proxy", code="model_not_found", model="nobody-0")
    assert not judged([sighting], [refused(sighting)])
    (violation,) = judged([sighting], [refused(sighting, api_key_id=KEYS[0])])
    assert violation.startswith(f"a row names the keys {KEYS[0]}, but no provider: ")


def test_it_sees_a_plain_request_in_the_row_of_a_stream_that_was_refused():
    sighting = asked("0", status=404, request_id=str(uuid7()), source="proxy", code="model_not_found", model="nobody-0")
    sighting.streamed = True
    assert not judged([sighting], [refused(sighting, streamed=True)])
    (violation,) = judged([sighting], [refused(sighting, streamed=False)])
    assert violation.startswith("its row is another request's: ")
