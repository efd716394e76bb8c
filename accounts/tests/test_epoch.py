import contextlib

import pytest
from django.db import transaction

from accounts import epoch
from accounts.epoch import EpochNotPublished
from accounts.models import Plan, ProxyKey, User
from proxy.tests.limits_redis import RedisServer
from tests.service import until


@pytest.fixture
def committed(django_capture_on_commit_callbacks):
    """What is in the block is committed at its end, as far as Redis can tell."""
    return lambda: django_capture_on_commit_callbacks(execute=True)


def test_it_counts_and_publishes_a_change_of_a_user(owner, epochs, committed):
    with committed():
        epoch.bump_user(owner)
    assert owner.epoch == 2
    first = epochs.get(f"aiproxy:epoch:user:{owner.id}")
    assert len(first) == 16
    with committed():
        epoch.bump_user(owner)
    assert epochs.get(f"aiproxy:epoch:user:{owner.id}") != first


def test_it_lets_a_token_expire_after_thirty_days(owner, epochs, committed):
    with committed():
        epoch.bump_user(owner)
    assert 0 < epochs.ttl(f"aiproxy:epoch:user:{owner.id}") <= 30 * 24 * 3600


def test_it_publishes_nothing_of_a_transaction_that_is_rolled_back(owner, epochs, committed):
    with committed(), pytest.raises(RuntimeError), transaction.atomic():
        epoch.bump_user(owner)
        raise RuntimeError
    assert epochs.get(f"aiproxy:epoch:user:{owner.id}") is None
    assert User.objects.get(pk=owner.pk).epoch == 1


def test_it_counts_without_redis(owner, settings, committed):
    settings.REDIS_URL = ""
    with committed():
        epoch.bump_user(owner)
    assert User.objects.get(pk=owner.pk).epoch == 2


def test_it_says_so_when_redis_cannot_be_told(owner, redis_away, committed):
    with pytest.raises(EpochNotPublished, match="Saved, but the workers were not told"), committed():
        epoch.bump_user(owner)
    assert User.objects.get(pk=owner.pk).epoch == 2


def test_it_asks_the_address_anew_once_what_answered_there_may_only_be_read(settings):
    with contextlib.closing(RedisServer()) as server, server.client() as client:
        settings.REDIS_URL = server.url
        epoch.publish(["before"])
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(EpochNotPublished):
            epoch.publish(["after"])
        until(lambda: len(client.client_list(_type="normal")) == 1, "nobody but this client is connected")


def test_it_counts_two_changes_made_from_old_copies_as_two(owner, db):
    copy = User.objects.get(pk=owner.pk)
    epoch.bump_user(owner)
    epoch.bump_user(copy)
    assert User.objects.get(pk=owner.pk).epoch == 3


def test_it_never_turns_an_epoch_back_by_saving_an_old_copy(owner, db):
    stale = User.objects.get(pk=owner.pk)
    for _ in range(3):
        epoch.bump_user(owner)
    stale.save()
    assert User.objects.get(pk=owner.pk).epoch == 5


@pytest.mark.parametrize(
    "change", [User.disable, User.enable, lambda user: user.change_plan(Plan.objects.get(code="pro"))]
)
def test_it_publishes_what_changes_for_a_user(owner, epochs, committed, change):
    with committed():
        change(owner)
    assert epochs.exists(f"aiproxy:epoch:user:{owner.id}")


def test_it_publishes_an_edited_plan(epochs, committed, db):
    before = epochs.get("aiproxy:epoch:plan:pro")
    with committed():
        plan = Plan.objects.get(code="pro")
        plan.rpm = 1
        plan.save()
    assert epochs.get("aiproxy:epoch:plan:pro") not in (None, before)
    assert Plan.objects.get(code="pro").epoch == 2


@pytest.mark.parametrize(
    "change", [ProxyKey.revoke, lambda key: key.change(rpm=1), lambda key: key.save(), lambda key: key.delete()]
)
def test_it_publishes_what_changes_for_a_key(owner, make_key, epochs, committed, change):
    key = make_key(owner)
    name = f"aiproxy:epoch:key:{key.id}"
    with committed():
        change(key)
    assert epochs.exists(name)


def test_it_publishes_the_end_of_a_user_and_of_their_keys(owner, make_key, epochs, committed):
    user_id, key_id = owner.id, make_key(owner).id
    with committed():
        User.objects.filter(pk=user_id).delete()
    assert epochs.exists(f"aiproxy:epoch:user:{user_id}", f"aiproxy:epoch:key:{key_id}") == 2


def test_it_publishes_every_key_revoked_at_once(owner, make_key, epochs, committed):
    rows = [make_key(owner) for _ in range(3)]
    with committed():
        assert ProxyKey.objects.filter(user=owner).revoke() == 3
    assert epochs.exists(*(f"aiproxy:epoch:key:{row.id}" for row in rows)) == 3
    assert set(ProxyKey.objects.values_list("epoch", flat=True)) == {2}


def test_it_publishes_again_when_a_revocation_is_repeated(owner, make_key, epochs, committed):
    key = make_key(owner)
    key.revoke()
    with committed():
        key.revoke()
    assert epochs.exists(f"aiproxy:epoch:key:{key.id}")


def test_it_does_not_trouble_the_workers_with_names_and_logins(owner, make_key, epochs, committed):
    key = make_key(owner)
    with committed() as callbacks:
        key.change(name="laptop")
        owner.name = "Olga"
        owner.save(update_fields=["name", "last_login"])
    assert callbacks == []


def test_it_does_not_fail_a_new_key_for_want_of_redis(owner, make_key, redis_away, committed):
    with committed() as callbacks:
        make_key(owner)
    assert callbacks == []
