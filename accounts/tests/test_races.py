"""Several requests at once, on connections of their own."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.db import connection, connections

from accounts import tokens
from accounts.keys import PREFIX, AccountChanged, PlanLimitReached, mint
from accounts.models import Plan, ProxyKey, User
from console.personal_data import delete_account

pytestmark = pytest.mark.django_db(transaction=True)


def at_once(count, work):
    """What each of `count` calls, started together, returned."""
    start = Barrier(count)

    def run(_):
        connection.ensure_connection()
        start.wait(30)
        try:
            return work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_it_refreshes_a_token_exactly_once(anonymous, owner):
    refresh = tokens.sign_in(owner).refresh
    answers = at_once(8, lambda: anonymous.post("/auth/refresh", {"refresh": refresh}).status_code)
    assert sorted(answers) == [200] + [401] * 7


def test_it_never_makes_more_keys_than_the_plan_allows(owner):
    Plan.objects.filter(code="free").update(max_proxy_keys=2)

    def add():
        row = ProxyKey(user=owner, key_prefix=PREFIX + mint().key_id)
        try:
            User.objects.get(pk=owner.pk).add_proxy_key(row)
        except PlanLimitReached:
            return "refused"
        return "made"

    assert sorted(at_once(8, add)) == ["made"] * 2 + ["refused"] * 6
    assert ProxyKey.objects.count() == 2


def test_it_answers_who_comes_too_late_for_the_last_key(api, owner):
    Plan.objects.filter(code="free").update(max_proxy_keys=1)
    answers = at_once(3, lambda: api(owner).post("/proxy-api-keys/generate", {}).status_code)
    assert sorted(answers) == [201, 409, 409]


def test_it_makes_one_account_of_two_sign_ups_at_once(anonymous, transactional_db):
    body = {"email": "ann@example.com", "password": "a staple for the battery"}
    answers = at_once(3, lambda: anonymous.post("/auth/signup", body).status_code)
    assert sorted(answers) == [201, 409, 409]


def test_it_deletes_an_account_once_and_tells_the_others_that_it_is_gone(api, owner, password):
    answers = at_once(3, lambda: api(owner).post("/auth/me/delete", {"password": password}).status_code)
    assert answers.count(204) == 1 and set(answers) <= {204, 400, 401}
    assert not User.objects.exists()


@pytest.mark.parametrize("meanwhile", [User.delete, User.disable, lambda user: user.change_password("the owner's new")])
def test_who_has_shown_a_password_that_is_not_the_accounts_any_more_changes_nothing(owner, meanwhile):
    """As when a thief's request is under way while its owner acts."""
    as_the_thief_sees_it = User.objects.get(pk=owner.pk)
    meanwhile(owner)
    left = list(User.objects.values_list("password", "is_active"))
    for act in (delete_account, lambda user: user.change_password("the thief's new")):
        with pytest.raises(AccountChanged):
            act(as_the_thief_sees_it)
    assert list(User.objects.values_list("password", "is_active")) == left
