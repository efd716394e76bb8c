"""The loss finder itself: a short run of it keeps every promise (`make faults` is the long one)."""

import json
import tempfile
from pathlib import Path

import pytest

from faults.report import summary
from faults.run import Run

SEED, SECONDS = 7, 3.0


@pytest.mark.postgres
async def test_it_loses_nothing_while_processes_servers_and_clients_fail():
    # Not in pytest's own directory: PostgreSQL does not run as root, and `nobody` must find its files.
    with tempfile.TemporaryDirectory(prefix="aiproxy-faults-") as directory:
        result = await Run(Path(directory), seed=SEED, seconds=SECONDS).perform()
    assert not result.violations, json.dumps(summary(result), indent=1)
    assert result.verdict.counts["complete"] > 30
    assert len({fault.kind for fault in result.ledger.faults}) >= 2
