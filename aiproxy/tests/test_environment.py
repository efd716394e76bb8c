import os

import pytest
from django.core.exceptions import ImproperlyConfigured

from aiproxy import demo
from aiproxy.environment import Environment

NAME = "AIPROXY_TESTED"


@pytest.fixture
def env():
    return Environment()


@pytest.mark.parametrize("text", ["$ecret", "a$b", r"a\$b", "$", "$HOME"])
def test_it_takes_a_value_literally(env, monkeypatch, text):
    monkeypatch.setenv(NAME, text)
    assert env.str(NAME, "") == text


def test_it_reads_a_file_without_its_final_newline(monkeypatch, tmp_path):
    (tmp_path / "secret").write_text("s3cret$\n")
    monkeypatch.setenv(f"{NAME}_READ_FILE", str(tmp_path / "secret"))
    assert Environment().str(f"{NAME}_READ", "") == "s3cret$"


def test_it_says_which_file_cannot_be_read(env, monkeypatch, tmp_path):
    monkeypatch.setenv(f"{NAME}_FILE", str(tmp_path / "absent"))
    with pytest.raises(ImproperlyConfigured, match=f"{NAME}_FILE cannot be read: No such file"):
        env.str(NAME, "")


@pytest.mark.parametrize(("text", "value"), [("true", True), ("ON", True), ("1", True), ("no", False), ("0", False)])
def test_it_reads_a_switch(env, monkeypatch, text, value):
    monkeypatch.setenv(NAME, text)
    assert env.bool(NAME, not value) is value


@pytest.mark.parametrize("read", ["bool", "int", "float"])
def test_it_takes_an_empty_value_for_none(env, monkeypatch, read):
    monkeypatch.setenv(NAME, "")
    assert getattr(env, read)(NAME, 1) == 1


@pytest.mark.parametrize(
    ("read", "text"),
    [("bool", "treu"), ("int", "5m"), ("int", "1.5"), ("float", "5s"), ("float", "nan"), ("int", "-1")],
)
def test_it_refuses_what_it_would_have_to_guess(env, monkeypatch, read, text):
    monkeypatch.setenv(NAME, text)
    with pytest.raises(ImproperlyConfigured, match=NAME) as caught:
        getattr(env, read)(NAME, 1)
    assert text not in str(caught.value)


def test_it_splits_a_list(env, monkeypatch):
    monkeypatch.setenv(NAME, " a, b,,c ,")
    assert env.list(NAME) == ["a", "b", "c"]
    assert env.list("AIPROXY_NOT_SET") == []


def test_it_fills_from_a_file_what_the_environment_leaves_out(monkeypatch, tmp_path):
    (tmp_path / "file.env").write_text(f"{NAME}_A=file\n{NAME}_B=file\n")
    monkeypatch.setenv(f"{NAME}_A", "process")
    monkeypatch.setenv(f"{NAME}_B", "")
    monkeypatch.delenv(f"{NAME}_B")
    env = Environment.read(tmp_path / "file.env")
    assert (env.str(f"{NAME}_A", ""), env.str(f"{NAME}_B", "")) == ("process", "file")


def test_its_file_never_goes_before_the_environment(monkeypatch, tmp_path):
    (tmp_path / "value").write_text("file")
    (tmp_path / "file.env").write_text(f"{NAME}_C_FILE={tmp_path / 'value'}\n")
    monkeypatch.setenv(f"{NAME}_C", "process")
    assert Environment.read(tmp_path / "file.env").str(f"{NAME}_C", "") == "process"


@pytest.mark.parametrize("line", [f"{NAME} = s3cret", f"  {NAME}=s3cret", f"{NAME}: s3cret", "s3cret"])
def test_it_refuses_a_line_of_its_file_that_would_be_passed_over(tmp_path, line):
    (tmp_path / "file.env").write_text(f" # of the demo\n \n{line}\n")
    with pytest.raises(ImproperlyConfigured, match="AIPROXY_ENV_FILE, line 3") as caught:
        Environment.read(tmp_path / "file.env")
    assert "s3cret" not in str(caught.value)


def test_it_needs_no_file(tmp_path):
    assert Environment.read(tmp_path / "absent.env").str("AIPROXY_NOT_SET", "default") == "default"


@pytest.mark.parametrize("text", ["", "1000/min", "0/hour", "5/d"])
def test_it_reads_a_rate(env, monkeypatch, text):
    monkeypatch.setenv(NAME, text)
    assert env.rate(NAME, "20/hour") == (text or "20/hour")


@pytest.mark.parametrize("text", ["5", "abc/hour", "5/fortnight", "-5/hour", "5/", "/hour"])
def test_it_refuses_what_is_no_rate(env, monkeypatch, text):
    monkeypatch.setenv(NAME, text)
    with pytest.raises(ImproperlyConfigured, match=f"{NAME} is no rate"):
        env.rate(NAME, "20/hour")


@pytest.mark.parametrize(("text", "said"), [("0", "1 or more"), ("70000", "65,535 at the most")])
def test_it_holds_a_number_to_its_bounds(env, monkeypatch, text, said):
    monkeypatch.setenv(NAME, text)
    with pytest.raises(ImproperlyConfigured, match=f"{NAME} must be {said}"):
        env.int(NAME, 10, least=1, most=65_535)


@pytest.mark.parametrize(
    "url",
    ["nonsense", "postgres://", "postgres://host:5432", "postgress://me:s3cret@host/name", "postgres://host:99999/name",
     "postgres://me:s3cret@host:0/name", "mysql://h/n"],
)  # fmt: skip
def test_it_refuses_what_is_no_database_and_shows_no_password(env, recwarn, url):
    with pytest.raises(ImproperlyConfigured, match="DATABASE_URL is no database's address") as caught:
        env.database("DATABASE_URL", url)
    assert "s3cret" not in str(caught.value)
    assert not recwarn.list


@pytest.mark.parametrize(
    "url", ["postgres://me@one:5432,other:5433/name", "postgres://me:a[b@host:5432/name", "sqlite:////data:0/name"]
)
def test_it_takes_every_address_of_a_database_that_its_driver_does(env, url):
    assert env.database("DATABASE_URL", url)["NAME"]


@pytest.mark.parametrize("url", ["nonsense", "pop3://host", "smtp://host:abc", "smtp://host:0"])
def test_it_refuses_what_is_no_mail_server(env, url):
    with pytest.raises(ImproperlyConfigured, match="EMAIL_URL is no mail server's address"):
        env.mail("EMAIL_URL", url)


def test_it_takes_a_text_that_is_set_to_nothing_for_none(env, monkeypatch):
    monkeypatch.setenv(NAME, "")
    assert env.str(NAME, "127.0.0.1") == "127.0.0.1"


def test_its_file_has_a_place_when_none_is_named(monkeypatch, settings):
    monkeypatch.setenv("AIPROXY_ENV_FILE", "")
    assert demo.environment_file() == settings.BASE_DIR / ".env"


def test_it_says_that_its_file_is_not_text(tmp_path):
    (tmp_path / "env").write_bytes(b"SECRET_KEY=\xff\n")
    with pytest.raises(ImproperlyConfigured, match="AIPROXY_ENV_FILE is not UTF-8"):
        Environment.read(tmp_path / "env")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_it_says_that_its_file_may_not_be_read(tmp_path):
    (tmp_path / "env").touch(mode=0o200)
    with pytest.raises(ImproperlyConfigured, match="AIPROXY_ENV_FILE cannot be read: Permission denied"):
        Environment.read(tmp_path / "env")
