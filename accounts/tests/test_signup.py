import pytest

from accounts.models import User
from accounts.tests.conftest import NEW_PASSWORD


def signup(client, **body):
    return client.post("/auth/signup", {"email": "ann@example.com", "password": NEW_PASSWORD, **body})


def test_it_signs_a_person_up_and_in(anonymous, bearer, db):
    answer = signup(anonymous)
    assert answer.status_code == 201
    assert answer.json()["user"]["email"] == "ann@example.com"
    assert answer.json()["user"]["plan"]["code"] == "free"
    assert bearer(answer.json()["token"]).get("/auth/me").status_code == 200


def test_it_hashes_the_password_with_argon2id(anonymous, db):
    signup(anonymous)
    assert User.objects.get().password.startswith("argon2$argon2id$")


def test_it_lets_nothing_on_the_way_keep_the_tokens(anonymous, db):
    assert "no-store" in signup(anonymous)["Cache-Control"]


@pytest.mark.parametrize("email", ["ann@example.com", "ANN@Example.com", "Ann@EXAMPLE.com"])
def test_it_refuses_an_address_that_has_an_account_however_written(anonymous, email, db):
    User.objects.create(email="ann@example.com")
    answer = signup(anonymous, email=email)
    assert answer.status_code == 409
    assert "Sign in instead" in answer.json()["email"][0]


@pytest.mark.parametrize("password", ["short", "1234567890123", "password123", "ann@example.com", "x" * 257, "", None])
def test_it_refuses_a_password_that_is_easily_guessed_or_absurd(anonymous, password, db):
    answer = signup(anonymous, password=password)
    assert answer.status_code == 400
    assert list(answer.json()) == ["password"]


@pytest.mark.parametrize("email", ["", None, "ann", "ann@", "a b@example.com", "x" * 250 + "@example.com", ["a@b.co"]])
def test_it_refuses_what_is_no_address(anonymous, email, db):
    answer = signup(anonymous, email=email)
    assert answer.status_code == 400
    assert list(answer.json()) == ["email"]


@pytest.mark.parametrize("domain", ["ü." * 100 + "example.com", "℀.example.com"])
def test_it_refuses_an_address_that_is_too_long_or_none_as_it_is_stored(anonymous, domain, db):
    answer = signup(anonymous, email=f"ann@{domain}")
    assert answer.status_code == 400
    assert list(answer.json()) == ["email"]


@pytest.mark.parametrize("email", ["\u017fam@example.com", "\u0131d@example.com", f"ann@{'ü' * 60}.com"])
def test_it_refuses_an_address_that_no_mail_can_be_sent_to(anonymous, email, db):
    answer = signup(anonymous, email=email)
    assert (answer.status_code, list(answer.json())) == (400, ["email"])


@pytest.mark.parametrize("field", ["is_staff", "is_superuser", "plan", "id", "email_verified", "password_hash", "name"])
def test_it_takes_no_other_field(anonymous, field, db):
    answer = signup(anonymous, **{field: "enterprise"})
    assert answer.status_code == 400
    assert answer.json() == {field: ["Unknown or read-only field."]}
    assert not User.objects.exists()


@pytest.mark.parametrize("body", ["null", "[]", "7", '"x"', "{", "", '{"email": "\\ud800"}', "[" * 100_000])
def test_it_refuses_a_body_that_is_no_object(anonymous, body, db):
    assert anonymous.post("/auth/signup", body, content_type="application/json").status_code == 400


def test_it_limits_how_many_accounts_one_address_makes(anonymous, settings, db):
    limit = int(settings.REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"]["signup"].partition("/")[0])
    for _ in range(limit):
        assert signup(anonymous, email="not an address").status_code == 400
    refused = signup(anonymous)
    assert refused.status_code == 429
    assert int(refused["Retry-After"]) > 0
    assert signup(anonymous, email="not an address").status_code == 429


def test_it_does_not_believe_a_forwarded_address(anonymous, settings, db):
    limit = int(settings.REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"]["signup"].partition("/")[0])
    for n in range(limit + 1):
        answer = anonymous.post("/auth/signup", {}, HTTP_X_FORWARDED_FOR=f"203.0.113.{n}")
    assert answer.status_code == 429


def test_it_counts_an_ipv6_household_as_one(anonymous, settings, db):
    limit = int(settings.REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"]["signup"].partition("/")[0])
    for n in range(limit + 1):
        answer = anonymous.post("/auth/signup", {}, REMOTE_ADDR=f"2001:db8::{n:x}")
    assert answer.status_code == 429
    assert anonymous.post("/auth/signup", {}, REMOTE_ADDR="2001:db8:0:1::1").status_code == 400
