"""What an operator sees when a command cannot go on: a line that says what is wrong, and no traceback."""

import os
import signal
import socket
import subprocess
import sys

import pytest
from django.conf import settings

from tests.environment import fresh_secrets
from tests.servers import free_port


@pytest.fixture
def start(tmp_path):
    def start(*command, stdout=subprocess.PIPE, stdin=None, before=None, **environment):
        base = {"PATH": os.environ["PATH"], "AIPROXY_ENV_FILE": os.devnull, "AIPROXY_DATA_DIR": str(tmp_path)}
        return subprocess.Popen(
            [sys.executable, "manage.py", *command],
            env=base | fresh_secrets() | environment,
            cwd=settings.BASE_DIR,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            preexec_fn=before,
        )

    return start


def test_it_names_the_setting_that_is_wrong(start):
    process = start("doctor", AIPROXY_HTTPS="tru")
    assert process.communicate(timeout=60)[1] == b"A setting is wrong: AIPROXY_HTTPS is neither true nor false.\n"
    assert process.returncode == 1


def test_it_says_that_the_database_has_no_tables_yet(start):
    process = start("usage_report")
    said = process.communicate(timeout=60)[1]
    assert said.startswith(b"The database failed: no such table: ")
    assert said.endswith(b". `manage.py doctor` says what is wrong.\n")
    assert process.returncode == 1


def test_it_says_that_the_database_is_none(start, tmp_path):
    (tmp_path / "aiproxy.sqlite3").write_text("a text that somebody has put there")
    process = start("usage_report")
    assert process.communicate(timeout=60)[1].startswith(b"The database failed: file is not a database. ")


def test_it_makes_a_database_where_nothing_is_yet(start, tmp_path):
    process = start("migrate", "contenttypes", AIPROXY_DATA_DIR=str(tmp_path / "new" / "data"))
    assert process.communicate(timeout=60)[1] == b""
    assert (tmp_path / "new" / "data" / "aiproxy.sqlite3").is_file()


@pytest.mark.parametrize("name", ["file", "/proc"])
def test_it_says_that_no_database_can_be_made_there(start, tmp_path, name):
    (tmp_path / "file").touch()
    said = start("migrate", AIPROXY_DATA_DIR=str(tmp_path / name)).communicate(timeout=60)[1]
    assert said.startswith(b"CommandError: AIPROXY_DATA_DIR cannot be written. ") and said.count(b"\n") == 1


@pytest.mark.parametrize(
    ("name", "number", "said"),
    [
        ("AIPROXY_WORKERS", "-1", "1 or more"),
        ("AIPROXY_WORKERS", "0", "1 or more"),
        ("AIPROXY_WORKERS", "1025", "1,024 at the most"),
        ("AIPROXY_JOURNAL_SEGMENT", "9" * 30, "1,099,511,627,776 at the most"),
    ],
)
def test_it_says_which_numbers_a_setting_takes(start, name, number, said):
    process = start("serve", **{name: number})
    assert process.communicate(timeout=60)[1].decode() == f"A setting is wrong: {name} must be {said}.\n"
    assert process.returncode == 1


def test_it_says_that_nobody_answers(start):
    process = start("flush", stdin=subprocess.DEVNULL)
    assert process.communicate(timeout=60)[1] == b"Standard input ended before there was an answer.\n"
    assert process.returncode == 1


def test_it_shows_where_it_failed_to_who_asks(start):
    process = start("usage_report", "--traceback")
    assert b"Traceback" in process.communicate(timeout=60)[1]


def test_it_says_that_an_argument_is_not_utf_8(start):
    process = start("create_proxy_key", b"\xff@example.com")
    assert process.communicate(timeout=60)[1] == b"An argument is not UTF-8.\n"
    assert process.returncode == 1


def test_it_is_quiet_when_nobody_reads_on(start):
    read, write = os.pipe()
    os.close(read)
    process = start("make_secrets", stdout=write)
    os.close(write)
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 1


@pytest.mark.parametrize("command", ["make_secrets", "doctor"], ids=["done", "failed"])
def test_it_fails_when_what_it_says_is_lost(start, command):
    with open("/dev/full", "w") as full:
        process = start(command, stdout=full)
    said = process.communicate(timeout=60)[1]
    assert b"Traceback" not in said and b"ignored" not in said
    assert process.returncode == 1


@pytest.mark.parametrize("number", [1, 2])
def test_it_puts_nothing_else_where_a_closed_output_was(start, number):
    process = start("make_secrets", before=lambda: os.close(number))
    out, said = process.communicate(timeout=60)
    assert b"Traceback" not in said
    assert (process.returncode, out == b"") == ((1, True) if number == 1 else (0, False))


@pytest.mark.parametrize("name", ["file", "/proc"])
def test_it_says_that_metrics_have_no_directory(start, tmp_path, name):
    (tmp_path / "file").touch()
    process = start("serve", PROMETHEUS_MULTIPROC_DIR=str(tmp_path / name))
    said = process.communicate(timeout=60)[1]
    assert said.startswith(b"Metrics cannot be added up: ") and said.count(b"\n") == 1
    assert process.returncode == 1


def test_it_ends_quietly_on_ctrl_c(start):
    """While it waits for a database that is not there, which its first line tells."""
    process = start("usage_report", DATABASE_URL=f"postgres://somebody@127.0.0.1:{free_port()}/name")
    assert b"error connecting" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert b"Traceback" not in process.communicate(timeout=60)[1]
    assert process.returncode == 130


def test_it_says_that_the_demo_has_nowhere_to_write(start, tmp_path):
    (tmp_path / "file").touch()
    process = start("quickstart", AIPROXY_DATA_DIR=str(tmp_path / "file" / "var"), PORT=str(free_port()))
    assert process.communicate(timeout=60)[1].endswith(b"file/var cannot be written: Not a directory.\n")
    assert process.returncode == 1


def test_it_takes_an_empty_host_for_none(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("quickstart", HOST="", PORT=str(port))
        assert f"Cannot listen on 127.0.0.1:{port}".encode() in process.communicate(timeout=60)[1]
