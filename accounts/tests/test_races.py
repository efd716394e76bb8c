"""Several requests at once, on connections of their own."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.db import connection, connections, transaction

from accounts import links, tokens
from accounts.keys import PREFIX, AccountChanged, PlanLimitReached, mint
from accounts.models import Plan, ProxyKey, User
from console.personal_data import delete_account
from usage.models import ProxyRequest, UserDay
from usage.rows import Row, store
from usage.tests.conftest import an_end, wait_until

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


@pytest.mark.postgres
@pytest.mark.parametrize(
    "change",
    [
        tokens.sign_in,
        lambda user: user.change_password("a staple for the battery"),
        lambda user: user.add_proxy_key(ProxyKey(user=user, key_prefix=PREFIX + mint().key_id)),
        lambda user: user.proxy_keys.get().change(name="laptop"),
        lambda user: links.verify_email(links.VERIFY.token(user)),
    ],
)
def test_rows_are_stored_while_their_user_changes_something(owner, make_key, change):
    make_key(owner)
    with transaction.atomic():
        change(owner)
        at_once(1, lambda: store_at_once(owner))
    assert ProxyRequest.objects.filter(user_id=owner.pk).count() == 1


@pytest.mark.postgres
def test_an_account_is_deleted_with_the_rows_that_were_being_stored(owner):
    theirs = owner.pk
    with ThreadPoolExecutor(1) as pool, connection.cursor() as cursor:
        with transaction.atomic():
            store_at_once(owner)
            deletion = pool.submit(at_once, 1, lambda: delete_account(owner))
            wait_until(lambda: cursor.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone())
        deletion.result()
    assert theirs not in {ProxyRequest.objects.get().user_id, UserDay.objects.get().user_id}


def store_at_once(user):
    """Raises OperationalError if it has to wait for somebody."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '200ms'")
        store([Row(an_end(user_id=user.pk), "test")], lambda step: None)
