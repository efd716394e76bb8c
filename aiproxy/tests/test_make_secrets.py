"""What a new installation is given to begin with."""

import stat

import pytest
from django.core.management import CommandError, call_command

from aiproxy.demo import SECRETS

DATABASE = "postgres://aiproxy@postgres:5432/aiproxy"


def lines(text):
    return dict(line.split("=", 1) for line in text.splitlines())


def test_it_prints_every_secret_once(capsys):
    call_command("make_secrets")
    made = lines(capsys.readouterr().out)
    assert made.keys() == SECRETS.keys()
    assert len(set(made.values())) == len(made)


def test_it_writes_them_for_their_owner_alone_with_a_password_for_the_database(tmp_path):
    call_command("make_secrets", into=tmp_path, database=DATABASE)
    password = (tmp_path / "database_password").read_text()
    made = lines((tmp_path / "env").read_text())
    assert made["DATABASE_URL"] == f"postgres://aiproxy:{password}@postgres:5432/aiproxy"
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_it_leaves_those_that_are_there_alone(tmp_path, capsys):
    call_command("make_secrets", into=tmp_path, database=DATABASE)
    before = {path: path.read_text() for path in tmp_path.iterdir()}
    call_command("make_secrets", into=tmp_path, database=DATABASE)
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before
    assert "nothing was changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "url",
    ["postgres://postgres:5432/aiproxy", "postgres://aiproxy:known@postgres/aiproxy", "postgres://aiproxy:@postgres/a",
     "aiproxy", "postgres://aiproxy@postgres:port/aiproxy", "postgres://aiproxy@[::1/aiproxy"],
)  # fmt: skip
def test_it_wants_a_user_and_no_password_to_make_one(tmp_path, url):
    with pytest.raises(CommandError, match="a user and no password"):
        call_command("make_secrets", into=tmp_path, database=url)
    assert list(tmp_path.iterdir()) == []


def test_it_takes_no_empty_text_for_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match="names no directory"):
        call_command("make_secrets", "--into", "")
    assert list(tmp_path.iterdir()) == []


def test_it_leaves_nothing_beside_what_it_cannot_write(tmp_path):
    (tmp_path / "database_password").mkdir()
    with pytest.raises(CommandError, match="cannot be written: Is a directory"):
        call_command("make_secrets", into=tmp_path, database=DATABASE)
    assert [path.name for path in tmp_path.iterdir()] == ["database_password"]


def test_it_makes_no_password_that_the_database_would_not_learn():
    with pytest.raises(CommandError, match="needs --into"):
        call_command("make_secrets", database=DATABASE)
