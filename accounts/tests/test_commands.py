"""What operators do with proxy keys from a shell."""

import errno
import io
import os

import pytest
from django.core.management import CommandError, call_command

from accounts.keys import Peppers, parse
from accounts.models import ProxyKey

pytestmark = pytest.mark.django_db


class Gone(io.StringIO):
    """A pipe that nobody reads."""

    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def run(capsys, *arguments):
    call_command(*arguments)
    return capsys.readouterr().out.strip()


def test_it_mints_a_key_that_is_all_of_standard_output(owner, capsys):
    key = run(capsys, "create_proxy_key", owner.email, "--name", "laptop", "--rpm", "5", "--model", "gpt-4o*")
    row = ProxyKey.objects.get(user=owner)
    assert (row.name, row.rpm, row.allowed_models, row.key_id) == ("laptop", 5, ["gpt-4o*"], parse(key))
    assert Peppers.from_settings().verify(row.verifier, row.key_id, owner.pk, key)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("redis", ["", "redis://127.0.0.1:1/0"])
def test_it_leaves_no_live_key_that_nobody_has_seen(owner, settings, stream, redis):
    settings.REDIS_URL = redis
    with pytest.raises(CommandError, match="Nobody has seen sk-proxy-.*, so it is revoked: Broken pipe"):
        call_command("create_proxy_key", owner.email, **{stream: Gone()})
    assert ProxyKey.objects.get().status == "revoked"


def test_it_leaves_no_live_key_when_it_is_interrupted(owner, monkeypatch):
    def interrupted(text):
        raise KeyboardInterrupt

    gone = Gone()
    monkeypatch.setattr(gone, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call_command("create_proxy_key", owner.email, stdout=gone)
    assert ProxyKey.objects.get().status == "revoked"


@pytest.mark.parametrize(("text", "said"), [("2030-12-31", "2030-12-31T00:00:00+00:00"), (None, None),
                                            ("2030-12-31T18:00:00+07:00", "2030-12-31T11:00:00+00:00")])  # fmt: skip
def test_it_takes_a_date_or_a_moment(owner, capsys, text, said):
    run(capsys, "create_proxy_key", owner.email, *(["--expires", text] if text else []))
    expires = ProxyKey.objects.get(user=owner).expires_at
    assert (expires.isoformat() if expires else None) == said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--expires", "tomorrow"], "--expires: 'tomorrow' is no date"),
        (["--expires", "2020-01-01"], "expires_at: Must be in the future"),
        (["--network", "10.0.0.300/8"], "ip_allowlist"),
        (["--rpm", "1000000"], "rpm"),
        (["--rpm", "0"], "rpm"),
    ],
)
def test_it_says_what_is_wrong_and_mints_nothing(owner, arguments, said):
    with pytest.raises(CommandError, match=said):
        call_command("create_proxy_key", owner.email, *arguments)
    assert not ProxyKey.objects.exists()


def test_it_mints_nothing_for_nobody_or_a_disabled_user(owner):
    with pytest.raises(CommandError, match="There is no user nobody@example"):
        call_command("create_proxy_key", "nobody@example.com")
    owner.disable()
    with pytest.raises(CommandError, match="is disabled"):
        call_command("create_proxy_key", owner.email)


def test_it_revokes_a_key_by_any_of_its_beginning(owner, make_key, capsys):
    first, second, kept = make_key(owner), make_key(owner), make_key(owner)
    said = run(capsys, "revoke_proxy_key", first.key_id, f"{second.key_prefix}whateverfollows")
    assert "2 revoked, 0 were already" in said
    assert [row.pk for row in ProxyKey.objects.filter(revoked_at=None)] == [kept.pk]


def test_it_revokes_all_keys_of_a_user_and_of_nobody_else(owner, stranger, make_key, capsys):
    make_key(owner), make_key(owner), make_key(stranger)
    run(capsys, "revoke_proxy_key", "--user", owner.email)
    assert ProxyKey.objects.get(revoked_at=None).user == stranger


def test_it_only_says_what_it_would_revoke(owner, make_key, capsys):
    key = make_key(owner)
    assert "1 would be revoked" in run(capsys, "revoke_proxy_key", key.key_prefix, "--dry-run")
    assert ProxyKey.objects.get().status == "live"


def test_it_revokes_nothing_when_one_of_the_names_is_wrong(owner, make_key):
    key = make_key(owner)
    with pytest.raises(CommandError, match="There is no key sk-proxy-AAAAAAAA"):
        call_command("revoke_proxy_key", key.key_prefix, "AAAAAAAA")
    with pytest.raises(CommandError, match="Name a key"):
        call_command("revoke_proxy_key")
    assert ProxyKey.objects.get().status == "live"


def test_it_has_revoked_before_it_says_so(owner, make_key):
    key = make_key(owner)
    with pytest.raises(BrokenPipeError):
        call_command("revoke_proxy_key", key.key_prefix, stdout=Gone())
    key.refresh_from_db()
    assert key.revoked_at is not None


def test_it_revokes_nothing_of_somebody_without_keys(owner, capsys):
    assert run(capsys, "revoke_proxy_key", "--user", owner.email) == "0 revoked, 0 were already."


@pytest.mark.parametrize("when", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"])
def test_it_refuses_a_moment_beyond_the_calendar(owner, when):
    with pytest.raises(CommandError, match="--expires: .* is no date or moment"):
        call_command("create_proxy_key", owner.email, "--expires", when)
