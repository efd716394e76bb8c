from accounts import tokens
from audit.models import Event


def test_it_lists_sign_ins_newest_first_and_says_which_this_is(bearer, owner, stranger):
    tokens.sign_in(stranger)
    older, newer = tokens.sign_in(owner), tokens.sign_in(owner)
    rows = bearer(older.token).get("/auth/sign-ins").json()["results"]
    assert [row["is_current"] for row in rows] == [False, True]
    assert set(rows[0]) == {"id", "created_at", "address", "expires_at", "ended_at", "is_current"}
    assert bearer(newer.token).get("/auth/sign-ins").json()["results"][0]["is_current"]


def test_it_says_where_a_sign_in_came_from(anonymous, bearer, owner, password):
    answer = anonymous.post("/auth/login", {"email": owner.email, "password": password}, REMOTE_ADDR="192.0.2.7")
    rows = bearer(answer.json()["token"]).get("/auth/sign-ins").json()["results"]
    assert [row["address"] for row in rows] == ["192.0.2.7"]


def test_it_ends_one_sign_in_and_no_other(bearer, owner):
    here, there = tokens.sign_in(owner), tokens.sign_in(owner)
    id = bearer(there.token).get("/auth/sign-ins").json()["results"][0]["id"]
    assert bearer(here.token).delete(f"/auth/sign-ins/{id}").status_code == 204
    assert bearer(there.token).get("/auth/me").status_code == 401
    assert bearer(here.token).get(f"/auth/sign-ins/{id}").json()["ended_at"]
    assert Event.objects.filter(action="revoke", object_id=id).count() == 1


def test_it_ends_nobody_elses(bearer, owner, stranger):
    theirs = tokens.sign_in(owner)
    id = owner.sign_ins.get().pk
    assert bearer(tokens.sign_in(stranger).token).delete(f"/auth/sign-ins/{id}").status_code == 404
    assert bearer(theirs.token).get("/auth/me").status_code == 200
