import base64
import json
import logging
from datetime import timedelta

import jwt
import pytest
from django.conf import settings as django_settings

from accounts import tokens
from accounts.keys import mint
from accounts.models import SignIn


@pytest.fixture
def pair(owner):
    return tokens.sign_in(owner)


@pytest.fixture
def claims(pair):
    return jwt.decode(pair.token, options={"verify_signature": False})


def sign(claims, key=None, algorithm="HS256", headers=None):
    return jwt.encode(claims, key or django_settings.AIPROXY_JWT_KEY, algorithm=algorithm, headers=headers)


def status(bearer, token):
    return bearer(token).get("/auth/me").status_code


def refresh(client, token):
    return client.post("/auth/refresh", {"refresh": token})


def test_it_lets_the_holder_of_an_access_token_in(bearer, pair, claims):
    assert status(bearer, pair.token) == 200
    assert status(bearer, sign(claims)) == 200  # so that the forgeries below differ in one thing each


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "another"},
        {"iss": "another"},
        {"aud": None},
        {"token_type": "refresh"},
        {"token_type": None},
        {"exp": 1},
        {"jti": None},
        {"user_id": "not a uuid"},
        {"user_id": None},
        {"user_id": "01900000-0000-7000-8000-000000000000"},
        {"hash_password": "0" * 32},
        {"hash_password": None},
        {"sid": "not a uuid"},
        {"sid": None},
        {"sid": 7},
        {"sid": "01900000-0000-7000-8000-000000000000"},
    ],
)
def test_it_refuses_a_token_with_a_wrong_claim(bearer, claims, change):
    changed = {name: value for name, value in {**claims, **change}.items() if value is not None}
    assert status(bearer, sign(changed)) == 401


def test_it_refuses_a_token_without_a_signature(bearer, claims):
    unsigned = jwt.encode(claims, None, algorithm="none")
    assert status(bearer, unsigned) == 401


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_it_refuses_another_algorithm_even_under_the_right_key(bearer, claims, algorithm):
    assert status(bearer, sign(claims, algorithm=algorithm)) == 401


def test_it_refuses_another_key(bearer, claims):
    assert status(bearer, sign(claims, key=django_settings.SECRET_KEY)) == 401


def test_it_refuses_a_critical_header_it_does_not_know(bearer, claims):
    assert status(bearer, sign(claims, headers={"crit": ["b64"], "b64": True})) == 401
    assert status(bearer, sign(claims, headers={"crit": ["x"], "x": 1})) == 401


@pytest.mark.parametrize("kid", ["../../../../dev/null", "http://127.0.0.1:1/keys", "' OR 1=1"])
def test_it_looks_no_key_up_by_what_the_token_says(bearer, claims, kid):
    assert status(bearer, sign(claims, key="x" * 64, headers={"kid": kid, "jku": kid})) == 401


def test_it_refuses_a_token_with_its_claims_exchanged(bearer, pair):
    head, body, signature = pair.token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    forged = base64.urlsafe_b64encode(json.dumps({**claims, "exp": claims["exp"] + 1}).encode()).decode().rstrip("=")
    assert status(bearer, f"{head}.{forged}.{signature}") == 401


def test_it_refuses_a_refresh_token_for_access_and_the_reverse(bearer, anonymous, pair):
    assert status(bearer, pair.refresh) == 401
    assert refresh(anonymous, pair.token).status_code == 401


def test_it_names_the_scheme_when_it_refuses(anonymous, bearer, db):
    for client in (anonymous, bearer("garbage")):
        answer = client.get("/auth/me")
        assert answer.status_code == 401
        assert answer["WWW-Authenticate"] == 'Bearer realm="aiproxy"'


def test_it_tells_the_holder_of_a_proxy_key_where_it_belongs(bearer, db):
    answer = bearer(mint().key).get("/auth/me")
    assert answer.status_code == 401
    assert "/auth/login" in answer.json()["detail"]


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer a b", "bearer  "])
def test_it_refuses_half_a_header(anonymous, header, db):
    assert anonymous.get("/auth/me", HTTP_AUTHORIZATION=header).status_code == 401


def test_it_does_not_mind_how_the_scheme_is_written(anonymous, pair):
    assert anonymous.get("/auth/me", HTTP_AUTHORIZATION=f"bEARER {pair.token}").status_code == 200


def test_it_is_short_lived(claims, settings):
    assert settings.SIMPLE_JWT["ACCESS_TOKEN_LIFETIME"] <= timedelta(minutes=15)
    assert claims["exp"] - claims["iat"] == settings.SIMPLE_JWT["ACCESS_TOKEN_LIFETIME"].total_seconds()


def test_it_trades_a_refresh_token_for_a_new_pair(anonymous, bearer, pair):
    answer = refresh(anonymous, pair.refresh)
    assert answer.status_code == 200
    assert set(answer.json()) == {"token", "refresh"}
    assert status(bearer, answer.json()["token"]) == 200
    assert refresh(anonymous, answer.json()["refresh"]).status_code == 200


def test_it_ends_the_whole_family_when_a_used_refresh_token_comes_again(anonymous, bearer, pair, caplog):
    following = refresh(anonymous, pair.refresh).json()
    with caplog.at_level(logging.WARNING, "accounts.tokens"):
        assert refresh(anonymous, pair.refresh).status_code == 401
    assert refresh(anonymous, following["refresh"]).status_code == 401
    assert status(bearer, following["token"]) == status(bearer, pair.token) == 401
    assert "came again" in caplog.text
    assert pair.refresh not in caplog.text


def test_it_leaves_other_sign_ins_alone_when_one_ends(anonymous, owner, pair):
    other = tokens.sign_in(owner)
    refresh(anonymous, pair.refresh)
    refresh(anonymous, pair.refresh)
    assert refresh(anonymous, other.refresh).status_code == 200


def test_it_refuses_an_expired_refresh_token(anonymous, pair):
    claims = jwt.decode(pair.refresh, options={"verify_signature": False})
    assert refresh(anonymous, sign({**claims, "exp": 1})).status_code == 401


@pytest.mark.parametrize("token", ["", "x", "x" * 5000, None, 7, [], "a.b.c"])
def test_it_refuses_what_is_no_refresh_token(anonymous, token, db):
    assert refresh(anonymous, token).status_code in (400, 401)


def test_it_refuses_every_token_of_a_disabled_user(anonymous, bearer, owner, pair):
    owner.disable()
    assert status(bearer, pair.token) == 401
    assert refresh(anonymous, pair.refresh).status_code == 401


def test_it_does_not_bring_tokens_back_with_the_user(anonymous, bearer, owner, pair):
    owner.disable()
    owner.enable()
    assert status(bearer, pair.token) == 401
    assert refresh(anonymous, pair.refresh).status_code == 401


def test_it_refuses_the_tokens_of_a_deleted_user(bearer, owner, pair):
    owner.delete()
    assert status(bearer, pair.token) == 401


def test_it_keeps_no_token_in_the_database(pair):
    row = str(SignIn.objects.values().get())
    for token in (pair.token, pair.refresh):
        assert token.split(".")[2] not in row


def test_it_forgets_sign_ins_that_ended_long_ago(owner, pair):
    SignIn.objects.update(expires_at="2020-01-01T00:00:00Z")
    tokens.sign_in(owner)
    assert SignIn.objects.count() == 1


def test_it_shows_no_token_in_a_repr(pair):
    assert pair.token not in repr(pair)


def test_it_signs_out_by_the_access_token(anonymous, bearer, pair):
    assert bearer(pair.token).post("/auth/logout").status_code == 204
    assert status(bearer, pair.token) == 401
    assert refresh(anonymous, pair.refresh).status_code == 401


def test_it_signs_out_by_the_refresh_token_alone(anonymous, bearer, pair):
    assert anonymous.post("/auth/logout", {"refresh": pair.refresh}).status_code == 204
    assert status(bearer, pair.token) == 401


def test_it_does_not_sign_out_a_nobody(anonymous, db):
    assert anonymous.post("/auth/logout").status_code == 401
    assert anonymous.post("/auth/logout", {"refresh": "x"}).status_code == 401
