"""The cache of what the data plane knows: filled from the database only, never used once it is old."""

import asyncio
import gc
import threading
import time

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError

from accounts.keys import issue
from proxy import policy
from proxy.policy import Policies, read_policy
from proxy.tests.test_hostile_cancel import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def key(user):
    return issue(user)[0]


@pytest.fixture
async def policies(key):
    policies = Policies(read_epochs=None, max_age=900, patience=30)
    yield policies
    policies.close()


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Every read of a policy, as it happens."""
    seen = []

    def counted(key_id):
        seen.append(key_id)
        return read_policy(key_id)

    monkeypatch.setattr(policy, "read_policy", counted)
    return seen


async def test_it_reads_once_for_a_thousand_first_uses(policies, key, reads):
    found = await asyncio.gather(*(policies.load(key.key_id) for _ in range(1000)))
    assert {one.proxy_key_id for one in found} == {key.id}
    assert len(reads) <= 2


async def test_it_remembers_for_a_while_that_a_key_does_not_exist(policies, reads):
    assert [await policies.load("nobodys0") for _ in range(50)] == [None] * 50
    assert len(reads) == 1


async def test_it_asks_for_the_epochs_before_it_reads_the_row(key, reads):
    order = []

    async def epochs(names):
        order.append(len(reads))
        return ("1", "2", "3")

    policies = Policies(read_epochs=epochs, max_age=900, patience=30)
    loaded = await policies.load(key.key_id)
    assert (loaded.epochs, order, len(reads)) == (("1", "2", "3"), [1], 2)
    policies.close()


async def test_it_labels_a_policy_with_the_plan_it_ends_up_with(key, user, reads):
    """The plan changes between the first look, which says whose epochs to ask for, and the read."""
    from accounts.models import Plan

    plan = await Plan.objects.acreate(code="other", name="Other")

    async def epochs(names):
        if not asked:
            await sync_to_async(user.change_plan)(plan)
        asked.append(names[-1])
        return names

    asked = []
    policies = Policies(read_epochs=epochs, max_age=900, patience=30)
    loaded = await policies.load(key.key_id)
    assert (loaded.plan, loaded.epochs[-1]) == ("other", "aiproxy:epoch:plan:other")
    policies.close()


async def test_it_says_that_a_policy_is_old_once_the_row_has_changed(policies, key):
    loaded = await policies.load(key.key_id)
    assert await policies.is_current(loaded)
    await sync_to_async(key.revoke)()
    assert not await policies.is_current(loaded)
    assert (await policies.load(key.key_id)).usable is False


async def test_it_answers_all_questions_of_a_moment_with_one_read(policies, key, monkeypatch):
    loaded, read, calls = await policies.load(key.key_id), policy.read_row_epochs, []
    monkeypatch.setattr(policy, "read_row_epochs", lambda ids: (calls.append(ids), read(ids))[1])
    assert all(await asyncio.gather(*(policies.is_current(loaded) for _ in range(100))))
    assert len(calls) == 1


async def test_it_notices_a_deleted_key(policies, key):
    loaded = await policies.load(key.key_id)
    await key.adelete()
    assert not await policies.is_current(loaded)
    assert await policies.load(key.key_id) is None
    assert policies.known(key.key_id) is None


async def test_it_refreshes_what_has_been_used_for_long_behind_the_request(policies, key, monkeypatch):
    loaded = await policies.load(key.key_id)
    monkeypatch.setattr(policy, "REFRESH_AFTER", -1.0)
    assert policies.known(key.key_id) is loaded
    fresh = await policies.load(key.key_id)
    assert fresh.loaded_at > loaded.loaded_at
    assert policies.known(key.key_id) is fresh


async def test_it_makes_no_noise_of_a_read_that_fails_when_who_asked_has_left(policies, monkeypatch):
    unseen, left = [], threading.Event()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unseen.append(context["message"]))

    def fail(key_id):
        left.wait(10)
        raise OperationalError("connection refused")

    monkeypatch.setattr(policy, "read_policy", fail)
    asked = asyncio.create_task(policies.load("somebody"))
    await until(lambda: policies._loading)
    asked.cancel()
    await asyncio.wait([asked])
    left.set()
    await until(lambda: not policies._loading)
    gc.collect()
    assert unseen == []


async def test_it_forgets_its_labels_but_not_its_policies(key):
    async def epochs(names):
        return ("1", "2", "3")

    policies = Policies(read_epochs=epochs, max_age=900, patience=30)
    policy = await policies.load(key.key_id)
    policies.flush()
    assert policies.known(key.key_id) is policy  # to copy them all would take a second
    assert policy.epochs is None
    policies.close()


async def test_it_labels_nothing_that_was_read_across_a_flush(key):
    """The epochs may be those of a Redis that has been replaced by then."""

    async def epochs(names):
        policies.flush()
        return ("1", "2", "3")

    policies = Policies(read_epochs=epochs, max_age=900, patience=30)
    assert (await policies.load(key.key_id)).epochs is None
    policies.close()


def test_it_takes_three_reads_a_policy(key, django_assert_num_queries):
    with django_assert_num_queries(3):
        assert read_policy(key.key_id).loaded_at <= time.monotonic()


async def test_it_lets_who_is_not_verified_proxy_only_where_that_is_allowed(key, settings):
    settings.AIPROXY_UNVERIFIED_MAY_PROXY = False
    assert (await sync_to_async(read_policy)(key.key_id)).may_proxy is False
    settings.AIPROXY_UNVERIFIED_MAY_PROXY = True
    assert (await sync_to_async(read_policy)(key.key_id)).may_proxy is True


async def test_it_sees_at_once_that_an_address_is_verified(policies, key, user, settings):
    settings.AIPROXY_UNVERIFIED_MAY_PROXY = False
    before = await policies.load(key.key_id)
    user.email_verified = True
    await sync_to_async(user.save)(update_fields=["email_verified"])
    assert await policies.is_current(before) is False
    assert (await policies.load(key.key_id)).may_proxy is True
