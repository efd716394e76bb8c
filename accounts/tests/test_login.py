from urllib.parse import urlencode

import pytest
from axes.models import AccessAttempt

from accounts import hashers
from accounts.hashers import Turns
from accounts.models import User


def login(client, email, password, **extra):
    return client.post("/auth/login", {"email": email, "password": password}, **extra)


def fail(client, email, times, **extra):
    for _ in range(times):
        answer = login(client, email, "wrong", **extra)
    return answer


@pytest.fixture
def few_failures(settings):
    settings.AXES_FAILURE_LIMIT = 3


def test_it_signs_in(anonymous, owner, password, bearer):
    answer = login(anonymous, "Owner@Example.com", password)
    assert answer.status_code == 200
    assert set(answer.json()) == {"user", "token", "refresh"}
    assert bearer(answer.json()["token"]).get("/auth/me").json()["id"] == str(owner.id)


def test_it_notes_when_somebody_signed_in(anonymous, owner, password):
    login(anonymous, owner.email, password)
    owner.refresh_from_db()
    assert owner.last_login is not None


def test_it_opens_no_session(anonymous, owner, password):
    assert not login(anonymous, owner.email, password).cookies


def test_it_answers_the_same_for_an_unknown_address_and_a_wrong_password(anonymous, owner):
    wrong, unknown = login(anonymous, owner.email, "wrong"), login(anonymous, "nobody@example.com", "wrong")
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.content == unknown.content
    assert wrong["WWW-Authenticate"].startswith("Bearer")


def test_it_answers_the_same_for_a_disabled_account(anonymous, owner, password):
    owner.disable()
    assert login(anonymous, owner.email, password).content == login(anonymous, "nobody@example.com", "x").content


@pytest.mark.parametrize("email", ["owner@example.com", "nobody@example.com"])
def test_it_runs_argon2_once_whether_or_not_the_address_is_known(anonymous, owner, email, monkeypatch):
    counting = CountingTurns(2, 8, patience=10)
    monkeypatch.setattr(hashers, "turns", counting)
    login(anonymous, email, "wrong")
    assert counting.taken == 1


class CountingTurns(Turns):
    taken = 0

    def turn(self):
        self.taken += 1
        return super().turn()


def test_it_locks_an_account_for_an_address_after_too_many_failures(anonymous, owner, password, few_failures):
    assert fail(anonymous, owner.email, 2).status_code == 401
    locked = fail(anonymous, owner.email, 1)
    assert locked.status_code == 429
    assert int(locked["Retry-After"]) == 15 * 60
    assert login(anonymous, owner.email, password).status_code == 429


def test_it_locks_an_account_that_does_not_exist_as_well(anonymous, db, few_failures):
    assert fail(anonymous, "nobody@example.com", 3).status_code == 429


def test_it_does_not_lock_the_owner_out_from_elsewhere(anonymous, owner, password, few_failures):
    fail(anonymous, owner.email, 4, REMOTE_ADDR="203.0.113.1")
    assert login(anonymous, owner.email, password, REMOTE_ADDR="203.0.113.2").status_code == 200


def test_it_counts_every_spelling_browser_and_forwarded_address_as_one(anonymous, owner, password, few_failures):
    fail(anonymous, "Owner@example.com", 1, HTTP_USER_AGENT="a", HTTP_X_FORWARDED_FOR="203.0.113.1")
    fail(anonymous, "OWNER@example.com", 1, HTTP_USER_AGENT="b", HTTP_X_FORWARDED_FOR="203.0.113.2")
    fail(anonymous, " owner@example.com", 1, HTTP_USER_AGENT="c", HTTP_X_FORWARDED_FOR="203.0.113.3")
    assert login(anonymous, owner.email, password).status_code == 429


def test_it_forgets_failures_after_a_success(anonymous, owner, password, few_failures):
    fail(anonymous, owner.email, 2)
    assert login(anonymous, owner.email, password).status_code == 200
    assert fail(anonymous, owner.email, 2).status_code == 401


def test_it_costs_no_argon2_to_be_locked_out(anonymous, owner, few_failures, monkeypatch):
    fail(anonymous, owner.email, 3)
    counting = CountingTurns(2, 8, patience=10)
    monkeypatch.setattr(hashers, "turns", counting)
    assert login(anonymous, owner.email, "wrong").status_code == 429
    assert counting.taken == 0


@pytest.mark.parametrize("path", ["/auth/login", "/auth/login?password=canary&x=canary", "/auth/password"])
@pytest.mark.parametrize("kind", ["json", "application/x-www-form-urlencoded"])
def test_it_writes_no_password_into_the_lockout_table(api, owner, path, kind):
    names = ["current", "new"] if path.endswith("/password") else ["password"]
    body = dict.fromkeys(names, "a wrong canary") | ({} if len(names) == 2 else {"email": owner.email})
    if kind == "json":
        api(owner).post(path, body)
    else:
        api(owner).post(path, urlencode(body), content_type=kind)
    assert "canary" not in str(AccessAttempt.objects.values().get())


def test_it_limits_one_address_that_tries_many_accounts(anonymous, settings, db):
    limit = int(settings.REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"]["login"].partition("/")[0])
    for _ in range(limit):
        assert anonymous.post("/auth/login", {}).status_code == 400
    assert anonymous.post("/auth/login", {}).status_code == 429


def test_it_sheds_a_flood_of_logins(anonymous, owner, password, monkeypatch):
    full = Turns(1, 0, patience=1)
    monkeypatch.setattr(hashers, "turns", full)
    with full.turn():
        answer = login(anonymous, owner.email, password)
    assert answer.status_code == 429
    assert int(answer["Retry-After"]) > 0
    assert login(anonymous, owner.email, password).status_code == 200


def test_it_does_not_run_a_huge_hash_that_somebody_put_into_the_row(anonymous, owner):
    """4 GiB would not fit."""
    User.objects.update(password="argon2$argon2id$v=19$m=4194304,t=2,p=1$c2FsdHNhbHRzYWx0$" + "A" * 43)
    assert login(anonymous, owner.email, "anything").status_code == 401


def test_it_ignores_a_stale_token_that_comes_along(bearer, owner, password):
    assert login(bearer("stale"), owner.email, password).status_code == 200
