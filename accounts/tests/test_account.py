import json

import pytest

from accounts import keys, tokens
from accounts.models import User
from accounts.tests.conftest import NEW_PASSWORD


def change(client, current, new=NEW_PASSWORD):
    return client.post("/auth/password", {"current": current, "new": new})


def test_it_shows_the_own_account_and_no_hash(api, owner):
    shown = api(owner).get("/auth/me").json()
    assert set(shown) == {"id", "email", "name", "language", "limit_mails", "plan", "email_verified", "created_at"}
    assert shown["plan"]["max_proxy_keys"] == owner.plan.max_proxy_keys


def test_it_changes_the_name(api, owner):
    assert api(owner).patch("/auth/me", {"name": "Olga"}).json()["name"] == "Olga"
    assert User.objects.get(pk=owner.pk).name == "Olga"


@pytest.mark.parametrize(
    "field",
    [
        *("id", "email", "plan", "password", "password_hash", "is_staff", "is_superuser", "is_active", "epoch"),
        *("email_verified", "created_at", "last_login", "groups", "user_permissions", "__class__", "unheard_of"),
    ],
)
def test_it_changes_nothing_else(api, owner, field):
    before = User.objects.filter(pk=owner.pk).values().get()
    answer = api(owner).patch("/auth/me", {"name": "Olga", field: "enterprise"})
    assert answer.status_code == 400
    assert answer.json() == {field: ["Unknown or read-only field."]}
    assert User.objects.filter(pk=owner.pk).values().get() == before


@pytest.mark.parametrize("body", [None, [], "x", 7])
def test_it_refuses_a_body_that_is_no_object(api, owner, body):
    answer = api(owner).patch("/auth/me", json.dumps(body), content_type="application/json")
    assert answer.status_code == 400


@pytest.mark.parametrize("method", ["put", "post", "delete"])
def test_it_offers_no_other_method(api, owner, method):
    assert getattr(api(owner), method)("/auth/me", {}).status_code == 405


def test_it_says_that_the_account_is_gone_which_was_deleted_meanwhile(api, owner):
    browser = api(owner)
    User.objects.all().delete()
    assert browser.patch("/auth/me", {"name": "Ann"}).status_code == 401


def test_it_changes_the_password(api, anonymous, owner, password):
    assert change(api(owner), password).status_code == 200
    old, new = ({"email": owner.email, "password": text} for text in (password, NEW_PASSWORD))
    assert anonymous.post("/auth/login", old).status_code == 401
    assert anonymous.post("/auth/login", new).status_code == 200


def test_it_revokes_every_proxy_key_and_says_how_many(api, owner, stranger, make_key, password):
    mine = [make_key(owner) for _ in range(2)]
    make_key(owner).revoke()
    other = make_key(stranger)
    assert change(api(owner), password).json()["proxy_keys_revoked"] == 2
    for key in mine:
        key.refresh_from_db()
        assert key.status == "revoked"
    other.refresh_from_db()
    assert other.status == "live"


def test_it_ends_every_sign_in_and_starts_a_new_one(anonymous, bearer, owner, password):
    here, elsewhere = tokens.sign_in(owner), tokens.sign_in(owner)
    answer = change(bearer(here.token), password)
    for old in (here, elsewhere):
        assert bearer(old.token).get("/auth/me").status_code == 401
        assert anonymous.post("/auth/refresh", {"refresh": old.refresh}).status_code == 401
    assert bearer(answer.json()["token"]).get("/auth/me").status_code == 200
    assert anonymous.post("/auth/refresh", {"refresh": answer.json()["refresh"]}).status_code == 200


def test_it_keeps_the_browser_signed_in_that_changed_the_password(client, owner, password):
    client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    answer = client.post("/auth/password", {"current": password, "new": NEW_PASSWORD}, "application/json")
    assert answer.status_code == 200
    assert client.get("/auth/me").status_code == 200


def test_it_changes_nothing_without_the_current_password(api, owner, make_key):
    key = make_key(owner)
    answer = change(api(owner), "wrong")
    assert answer.status_code == 400
    assert list(answer.json()) == ["current"]
    key.refresh_from_db()
    assert key.status == "live"


def test_it_locks_out_who_guesses_the_current_password(api, owner, settings):
    settings.AXES_FAILURE_LIMIT = 3
    assert [change(api(owner), "wrong").status_code for _ in range(3)] == [400, 400, 429]


@pytest.mark.parametrize("new", ["short", "owner@example.com", "password123", "1234567890123"])
def test_it_refuses_a_weak_new_password(api, owner, password, new):
    answer = change(api(owner), password, new)
    assert answer.status_code == 400
    assert list(answer.json()) == ["new"]


def test_it_gives_no_key_to_who_signed_in_before_a_password_change(owner, password):
    """The thief's request is under way while the owner changes the password."""
    as_the_thief_sees_it = User.objects.get(pk=owner.pk)
    owner.change_password(NEW_PASSWORD)
    with pytest.raises(keys.AccountChanged):
        keys.issue(as_the_thief_sees_it)
    assert not owner.proxy_keys.exists()


@pytest.mark.parametrize("path", ["/auth/me", "/auth/password", "/proxy-api-keys", "/proxy-api-keys/generate"])
def test_it_is_closed_to_nobody(anonymous, path, db):
    for method in ("get", "post", "patch", "delete"):
        assert getattr(anonymous, method)(path).status_code == 401


@pytest.mark.parametrize("path", ["/auth/me", "/auth/login", "/proxy-api-keys", "/proxy-api-keys/generate"])
def test_it_has_no_trailing_slash(api, owner, path):
    assert api(owner).get(path + "/").status_code == 404


@pytest.mark.parametrize("meanwhile", [User.delete, User.disable, lambda user: user.change_password(NEW_PASSWORD)])
def test_it_gives_nothing_to_whose_account_has_changed_meanwhile(owner, meanwhile):
    meanwhile(User.objects.get(pk=owner.pk))
    for ask in (tokens.sign_in, keys.issue):
        with pytest.raises(keys.AccountChanged):
            ask(owner)
