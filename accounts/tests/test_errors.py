import sys

import pytest
from axes.models import AccessAttempt

from accounts import hashers
from accounts.epoch import EpochNotPublished
from accounts.errors import PlainAnswers, exception_handler
from accounts.hashers import HashingBusy, Turns
from accounts.keys import AccountChanged, PlanLimitReached


@pytest.mark.parametrize(
    ("error", "status", "header"),
    [
        (EpochNotPublished(), 503, "Retry-After"),
        (HashingBusy(), 429, "Retry-After"),
        (AccountChanged(), 401, "WWW-Authenticate"),
        (PlanLimitReached(3), 409, None),
        (RecursionError(), 400, None),
    ],
)
def test_it_answers_what_goes_wrong_beneath_a_view(error, status, header, db):
    answer = exception_handler(error, {})
    assert answer.status_code == status
    assert answer.data["detail"]
    assert header is None or answer[header]


@pytest.mark.parametrize(("body", "named"), [(r'{"language": "\ud800"}', "language"), (r'{"\ud800": 1}', r"\ud800")])
def test_it_names_the_field_that_holds_half_of_a_surrogate_pair(api, owner, body, named):
    answer = api(owner).patch("/auth/me", body, content_type="application/json")
    assert answer.status_code == 400
    assert list(answer.json()) == [named]


def test_it_does_not_fail_at_a_form_that_is_not_in_the_charset_it_names(api, owner):
    """Refused, or read as Latin-1, as Django does where the decoder fails as it should: this one does since 3.13."""
    form = "application/x-www-form-urlencoded; charset=punycode"
    answer = api(owner).patch("/auth/me", b"name=_%", content_type=form)
    assert answer.status_code == (200 if sys.version_info >= (3, 13) else 400)


def test_it_leaves_other_exceptions_alone(rf):
    assert exception_handler(KeyError("secret"), {}) is None
    assert PlainAnswers(lambda request: None).process_exception(rf.get("/"), KeyError("secret")) is None


def test_it_answers_a_flood_at_the_admins_login_too(client, owner, password, monkeypatch):
    full = Turns(1, 0, patience=1)
    monkeypatch.setattr(hashers, "turns", full)
    with full.turn():
        answer = client.post("/admin/login/", {"username": owner.email, "password": password})
    assert answer.status_code == 429
    assert int(answer["Retry-After"]) > 0


def test_it_locks_the_admins_login_after_too_many_failures_however_the_address_is_written(client, owner, settings):
    settings.AXES_FAILURE_LIMIT = 3
    spellings = ["owner@example.com", "OWNER@example.com", "Owner@Example.com"]
    answers = [client.post("/admin/login/", {"username": text, "password": "wrong"}).status_code for text in spellings]
    assert answers == [200, 200, 429]


def test_it_writes_no_mistyped_admin_password_into_the_lockout_table(client, owner):
    client.post("/admin/login/", {"username": owner.email, "password": "a wrong canary"})
    assert "canary" not in str(AccessAttempt.objects.values().get())
