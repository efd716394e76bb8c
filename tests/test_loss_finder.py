"""The loss finder itself: a short run of it keeps every promise (`make faults` is the long one)."""

import json
import tempfile
from pathlib import Path

import pytest

from accounts.ids import uuid7
from faults.clients import Sighting
from faults.provider import MODEL
from faults.report import summary
from faults.run import Run
from faults.script import Script
from faults.stand import Ledger
from faults.verdict import Evidence, judge

SEED, SECONDS = 7, 3.0


@pytest.mark.postgres
async def test_it_loses_nothing_while_processes_servers_and_clients_fail():
    # Not in pytest's own directory: PostgreSQL does not run as root, and `nobody` must find its files.
    with tempfile.TemporaryDirectory(prefix="aiproxy-faults-") as directory:
        result = await Run(Path(directory), seed=SEED, seconds=SECONDS).perform()
    assert not result.violations, json.dumps(summary(result), indent=1)
    assert result.verdict.counts["complete"] > 30
    assert len({fault.kind for fault in result.ledger.faults}) >= 2


def test_it_misses_a_row_although_a_record_of_that_model_was_damaged():
    served = Sighting("owner", Script("0", "ok"), streamed=False, model=MODEL, began=0.0)
    served.sent, served.status, served.request_id, served.complete = True, 200, str(uuid7()), True

    (violation,) = judge(Evidence([served], {}, [], [], Ledger(damaged={uuid7(): MODEL}))).violations
    assert violation.startswith(f"has no row: request {served.request_id}")
