import pytest
from django.core.exceptions import ImproperlyConfigured

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


def test_it_needs_no_file(tmp_path):
    assert Environment.read(tmp_path / "absent.env").str("AIPROXY_NOT_SET", "default") == "default"
