"""Ids sort by the time they were made, and are nobody else's."""

import pickle
import subprocess
import sys
import uuid

from accounts.ids import made_at, text_of, uuid7


def test_it_is_a_uuid_of_version_7():
    id = uuid7()
    assert (id.version, id.variant) == (7, uuid.RFC_4122)
    assert uuid.UUID(str(id)) == id == pickle.loads(pickle.dumps(id))
    assert text_of(id) == str(id)


def test_it_tells_when_it_was_made():
    assert made_at(uuid7(1_750_000_000_123)).isoformat() == "2025-06-15T15:06:40.123000+00:00"
    assert uuid7(1_750_000_000_123) < uuid7(1_750_000_000_124)


def test_it_is_made_once():
    assert len({uuid7(1_750_000_000_123) for _ in range(10_000)}) == 10_000


def test_it_is_another_in_every_process():
    program = "import os; from accounts.ids import uuid7; uuid7(); os.fork(); os.write(1, b'%a\\n' % uuid7(0))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert len(set(printed.split())) == 2
