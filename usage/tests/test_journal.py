"""What was admitted can be recorded; what was recorded is still there when the process is not."""

import errno
import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from accounts.ids import uuid7
from usage import disk, segments
from usage.journal import Journal, JournalFull
from usage.records import HEAD, RECORD_MAX, Attempt, Begin, End, Ending, Template, cut, decode, encode
from usage.segments import Tail
from usage.shipper import Shipper
from usage.tests.conftest import a_begin, an_end, exchange, rows, seal, sums_match_rows, wait_until


def read(path: Path) -> tuple[list, int]:
    """All records of a segment whose writer is dead, and how many were damaged."""
    tail = Tail(path, sealed=True)
    return [decode(payload) for payload in tail.payloads(final=True)], tail.torn


@pytest.fixture
def three(tmp_path):
    """A segment of three records, as bytes."""
    ends = [an_end(error_message=f"number {number}") for number in range(3)]
    return tmp_path / "segment", [encode(end) for end in ends], [end.id for end in ends]


def test_it_reads_back_what_was_written(three):
    path, records, ids = three
    path.write_bytes(b"".join(records) + bytes(1000))

    found, torn = read(path)
    assert ([record.id for record in found], torn) == (ids, 0)


def test_it_keeps_whole_records_before_a_torn_tail(three):
    path, records, ids = three
    whole = b"".join(records)
    assert len(records[2]) >= 300
    for lost in range(1, 401):
        path.write_bytes(whole[:-lost])
        found, torn = read(path)
        gone, at_all = divmod(lost, len(records[2]))
        assert ([record.id for record in found], torn) == (ids[: 3 - gone - bool(at_all)], bool(at_all))


def test_it_reads_records_after_one_that_was_written_in_part(three):
    path, records, ids = three
    for kept in range(1, len(records[1])):
        path.write_bytes(records[0] + records[1][:kept] + bytes(len(records[1]) - kept) + records[2] + bytes(99))
        found, torn = read(path)
        assert ([record.id for record in found], torn) == ([ids[0], ids[2]], 1)


def test_it_loses_only_the_record_in_which_a_byte_flips(three):
    path, records, ids = three
    whole = b"".join(records)
    for at in range(len(records[0]), len(records[0]) + len(records[1])):
        for flipped in {whole[at] ^ 0x01, 0x0A, 0x00} - {whole[at]}:
            path.write_bytes(whole[:at] + bytes([flipped]) + whole[at + 1 :])
            found, torn = read(path)
            assert ([record.id for record in found], torn) == ([ids[0], ids[2]], 1)


def test_it_never_takes_what_the_disk_cannot_read_for_the_end(three, monkeypatch):
    path, records, ids = three
    path.write_bytes(b"".join(records))
    unreadable, pread = len(records[0]), os.pread

    def failing(fd, length, offset):
        if offset == unreadable:
            raise OSError(errno.EIO, "Input/output error")
        return pread(fd, min(length, unreadable - offset), offset)  # as the kernel gives what comes before

    with monkeypatch.context() as failure:
        failure.setattr(os, "pread", failing)
        with pytest.raises(OSError, match="Input/output"):
            read(path)
    assert [record.id for record in read(path)[0]] == ids


def test_it_takes_a_gap_in_a_live_segment_for_damage_only_when_it_stays(three):
    path, records, ids = three
    tail = Tail(path, sealed=False)
    gap = bytes(len(records[1]))
    path.write_bytes(records[0] + gap + records[2] + bytes(5000))
    assert [decode(p).id for p in tail.payloads(final=False)] == [ids[0]]

    path.write_bytes(b"".join(records) + bytes(5000))
    assert [decode(p).id for p in tail.payloads(final=False)] == ids[1:]
    assert tail.torn == 0


@pytest.mark.django_db
def test_it_counts_a_damaged_record_and_ships_the_others(directory, new_journal):
    journal = new_journal()
    ids = [exchange(journal) for _ in range(5)]
    journal.close()
    (path,) = directory.glob("*.sealed")
    data = bytearray(path.read_bytes())
    at = data.index(f'"end","{ids[2]}'.encode())
    data[at] ^= 0x20
    path.write_bytes(data)
    before = REGISTRY.get_sample_value("aiproxy_journal_torn_records_total")

    Shipper(directory).run_once()
    assert REGISTRY.get_sample_value("aiproxy_journal_torn_records_total") == before + 1
    assert {id for id, row in rows().items() if row.outcome == "ok"} == set(ids) - {ids[2]}
    assert rows()[ids[2]].outcome == "interrupted"


WRITER = """
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path
from usage.journal import Journal
from usage.tests.conftest import a_begin, exchange
journal = Journal(Path(sys.argv[1]), segment_bytes=128 << 10)
journal.open()
for _ in range(5):
    journal.begin(begun := a_begin())
    print("begun", begun.id, flush=True)
while True:
    print("ended", exchange(journal), flush=True)
"""


@pytest.mark.django_db
def test_it_loses_nothing_when_its_process_is_killed(directory):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", "import django; django.setup()" + WRITER, str(directory)]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "aiproxy.settings", "PYTHONPATH": str(root)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        confirmed = [process.stdout.readline().split() for _ in range(1000)]
        process.send_signal(signal.SIGKILL)
        confirmed += [line.split() for line in process.stdout.read().splitlines() if len(line) == 42]

    Shipper(directory).run_once()
    outcomes = {str(id): row.outcome for id, row in rows().items()}
    assert all(outcomes[id] == "ok" for what, id in confirmed if what == "ended")
    assert all(outcomes[id] == "interrupted" for what, id in confirmed if what == "begun")
    assert len(outcomes) - len(confirmed) in (0, 1)  # one may have been written and not printed
    assert sums_match_rows()


def test_it_keeps_its_files_to_itself(journal, directory):
    exchange(journal)

    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    kept = [path for path in directory.iterdir() if path.suffix != ".tmp"]  # those are about to get their names
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}


def test_it_holds_its_lock_for_life(directory, new_journal):
    journal = new_journal()
    with (directory / f"{journal.writer}.lock").open("r+") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not segments.is_dead(directory, journal.writer)

    journal.close()
    assert segments.is_dead(directory, journal.writer)


def test_it_admits_no_more_than_it_can_record(directory, new_journal, monkeypatch):
    journal = new_journal(16 * RECORD_MAX)
    monkeypatch.setattr(os, "posix_fallocate", no_space)
    begun = []
    with pytest.raises(JournalFull):
        while True:
            begun.append(journal_begin(journal))
    assert not journal.room()

    for id in begun:  # each at its longest
        journal.end(an_end(id, model="\U0001f600" * 100, error_message="\U0001f600" * 200))
    journal.close()
    found = [record for path in sorted(directory.glob("*.sealed")) for record in read(path)[0]]
    assert [record.id for record in found if isinstance(record, End)] == begun


def journal_begin(journal):
    begin = a_begin()
    journal.begin(begin)
    return begin.id


def no_space(fd, offset, length):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_it_records_no_refusal_on_space_that_is_reserved_for_others(new_journal, monkeypatch):
    journal = new_journal(16 * RECORD_MAX)
    monkeypatch.setattr(os, "posix_fallocate", no_space)
    begun = []
    while journal.room():
        begun.append(journal_begin(journal))

    with pytest.raises(JournalFull):
        journal.end(an_end(uuid7()))
    journal.end(an_end(begun[0]))


@pytest.fixture
def copies_on_write(monkeypatch):
    """Nobody can say of such a file system that reserved space can be written."""
    monkeypatch.setattr(disk, "IN_PLACE", set())


def test_it_goes_on_without_a_refusal_that_the_disk_does_not_take(copies_on_write, new_journal, monkeypatch):
    journal = new_journal()
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", no_space)
        journal.api_key_refused(uuid7(), "401")
        journal.key_resigned(uuid7(), bytes(33))
    journal.begin(a_begin())


def test_it_admits_again_when_there_is_space(new_journal, monkeypatch, directory, caplog):
    with monkeypatch.context() as full:
        full.setattr(os, "posix_fallocate", no_space)
        journal = new_journal()
        assert not journal.room()
        with pytest.raises(JournalFull):
            journal.begin(a_begin())
        wait_until(lambda: not list(directory.glob("*.tmp")))  # the thread may be trying right now

    journal._wake.set()
    wait_until(journal.room)
    exchange(journal)
    wait_until(lambda: [r.levelname for r in caplog.records if r.name == "usage.journal"] == ["ERROR", "WARNING"])


def read_only(*_):
    raise OSError(errno.EROFS, "Read-only file system")


def test_it_admits_nothing_while_the_disk_does_not_take_what_was_written(new_journal, monkeypatch):
    journal = new_journal(sync_every=0.001)
    with monkeypatch.context() as failing:
        failing.setattr(os, "fdatasync", read_only)
        id = journal_begin(journal)
        wait_until(lambda: not journal.room())
        journal._roll_after = 0.0
        with pytest.raises(JournalFull):
            journal.begin(a_begin())
        journal.end(an_end(id))
        time.sleep(0.02)
    wait_until(journal.room)


def test_it_makes_space_where_a_failed_attempt_could_not_be_removed(new_journal, monkeypatch):
    with monkeypatch.context() as failing:
        failing.setattr(os, "posix_fallocate", no_space)
        failing.setattr(os, "unlink", read_only)
        journal = new_journal()
    journal._wake.set()
    wait_until(journal.room)


def test_it_makes_more_space_ahead_for_more_open_exchanges(new_journal):
    journal = new_journal(16 * RECORD_MAX)
    for _ in range(200):
        wait_until(journal.room)
        journal_begin(journal)

    assert len(journal._open) == 200


def test_it_reuses_the_room_of_exchanges_that_ended(new_journal, directory):
    journal = new_journal(64 << 10)
    for _ in range(2_000):
        exchange(journal)

    journal.close()
    assert len(list(directory.glob("*.sealed"))) > 10
    assert sum(len(read(path)[0]) for path in directory.glob("*.sealed")) == 4_000


def test_it_takes_no_record_for_synced_that_is_being_written(copies_on_write, new_journal, monkeypatch):
    journal, pwrite, found = new_journal(), os.pwrite, []
    syncing = threading.Thread(target=journal._sync)

    def slow(fd, data, at):
        syncing.start()
        syncing.join(0.05)
        return pwrite(fd, data, at)

    monkeypatch.setattr(os, "pwrite", slow)
    monkeypatch.setattr(os, "fdatasync", lambda fd: found.append(journal._current.path.read_bytes().rstrip(b"\0")))
    journal.begin(a_begin())
    syncing.join()
    assert found and all(found)


def test_it_keeps_what_was_written_to_pages_that_it_gave_back(new_journal, directory):
    journal = new_journal(sync_every=0.001)
    wait_until(journal.room)
    ids = [exchange(journal) for _ in range(50)]
    wait_until(lambda: journal._current.synced == journal._current.length)
    ids += [exchange(journal) for _ in range(50)]
    journal.close()

    (path,) = directory.glob("*.sealed")
    assert [record.id for record in read(path)[0] if isinstance(record, End)] == ids


def test_it_seals_a_segment_by_age(new_journal, directory):
    journal = new_journal(roll_after=0.0)
    exchange(journal)

    wait_until(lambda: list(directory.glob("*.sealed")))


@pytest.mark.parametrize("mapped", [True, False])
def test_it_seals_to_the_length_written(mapped, new_journal, directory, monkeypatch):
    monkeypatch.setattr(disk, "IN_PLACE", {disk.file_system(directory)} if mapped else set())
    journal = new_journal()
    assert {spare.memory is not None for spare in journal._spares} == {mapped}
    begin, end = a_begin(), an_end()
    journal.begin(begin)
    journal.end(end)
    journal.close()

    (path,) = directory.glob("*.sealed")
    assert path.read_bytes() == encode(begin) + encode(end)


@pytest.fixture
def cramped():
    """A process that may have little more memory mapped than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (24 << 20), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_it_writes_by_calls_where_it_may_map_no_memory_and_says_so_once(cramped, new_journal, caplog):
    journal = new_journal(32 << 20)
    id = exchange(journal)
    seal(journal)
    exchange(journal)
    journal.close()

    sealed = sorted(journal.directory.glob("*.sealed"))
    assert [record.id for record in read(sealed[0])[0]] == [id, id]
    assert [r.levelname for r in caplog.records if r.name == "usage.journal"] == ["WARNING"]


def test_it_seals_on_after_a_segment_that_the_disk_failed_to_close(new_journal, directory, monkeypatch):
    journal, close = new_journal(), os.close
    exchange(journal)
    broken = journal._current.fd

    def failing(fd):
        close(fd)  # what Linux does, whatever it says
        if fd == broken:
            monkeypatch.undo()
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "close", failing)
    seal(journal)
    exchange(journal)
    seal(journal)
    assert len(list(directory.glob("*.sealed"))) == 2


def test_it_refuses_everything_after_it_is_closed(new_journal):
    journal = new_journal()
    journal.close()

    assert not journal.room()
    with pytest.raises(JournalFull):
        journal.begin(a_begin())


def test_it_refuses_segments_that_hold_next_to_nothing(directory):
    with pytest.raises(ValueError, match="at least"):
        Journal(directory, segment_bytes=4096)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("gpt-4o", "gpt-4o"),
        ("a\0b\x1b[31mc\x7f", "ab[31mc"),
        ("one\r\ntwo\u2028three", "one  two three"),
        ("\ud800half", "half"),
        ("é" * 101, "é" * 100),
        ("\U0001f600" * 300, "\U0001f600" * 100),
        ("\0" * 400 + "hidden", ""),
    ],
)
def test_it_cuts_client_text_to_what_a_column_takes(text, kept):
    assert cut(text, 100) == kept


def test_its_longest_record_fits_the_space_kept_for_one():
    wide = "\U0001f600" * 200
    ours = {"endpoint": "e" * 40, "provider": "p" * 20}
    end = an_end(model=wide, error_message=wide, provider_request_id=wide, **ours)
    for name in ("tokens_input", "tokens_output", "tokens_total", "tokens_cached", "tokens_reasoning"):
        setattr(end, name, -(2**63))
    end.cost = Decimal("1234.12345678")
    end.latency_ms = end.ttft_ms = 2**63 - 1
    end.overhead_ms = -1.2345678901234567e-300

    assert len(encode(end)) <= RECORD_MAX


def test_it_tells_of_fewer_attempts_where_all_do_not_fit():
    tries = [Attempt("openai", "\U0001f600" * 100, uuid7(), "rate_limited", 429, number) for number in range(16)]
    end = an_end(error_message="\U0001f600" * 200, attempts=tries)
    record = encode(end)
    kept = decode(record[HEAD:]).attempts
    assert len(record) <= RECORD_MAX and 2 <= len(kept) < 16
    assert [kept[0].ms, kept[-1].ms] == [0, 15]


def test_it_writes_by_a_template_what_it_would_write_of_the_whole():
    begin, end = a_begin(), an_end(cost=Decimal("0.00000123"), attempts=[Attempt("openai", "m", None, "ok", 200, 1)])
    of_both = {name: getattr(end, name) for name in Begin.__struct_fields__}
    ending = {name: getattr(end, name) for name in Ending.__struct_fields__} | {"cost": "0.00000123"}
    assert (*Begin.__struct_fields__, *Ending.__struct_fields__) == End.__struct_fields__

    assert Template(a_begin()).begin(str(begin.id).encode()) == encode(begin)
    found = Template(Begin(**of_both)).end(str(end.id).encode(), Ending(**ending))
    assert decode(found[HEAD:]) == end


def test_it_reads_records_of_before_a_field_was_added():
    old = encode(an_end())[13:].rsplit(b",", 3)[0] + b"]"

    assert decode(old).provider_request_id == ""


def test_it_tells_the_kinds_of_record_apart(journal, directory):
    journal.begin(a_begin())
    journal.end(an_end())
    journal.api_key_refused(uuid7(), "401: wrong\nkey")
    journal.key_resigned(uuid7(), bytes(range(33)))
    journal.close()

    (path,) = directory.glob("*.sealed")
    begin, end, refused, resigned = read(path)[0]
    assert isinstance(begin, Begin)
    assert isinstance(end, End)
    assert (refused.error, resigned.verifier) == ("401: wrong key", bytes(range(33)))
