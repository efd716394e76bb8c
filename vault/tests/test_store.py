import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import IntegrityError, connection, transaction

from accounts.models import Plan, User
from vault import store
from vault.models import ApiKey
from vault.secret import Secret
from vault.tests.conftest import make_key


def at_once(count: int, work) -> list:
    """What each of several threads got, be it an exception; they start together."""
    gate = threading.Barrier(count)

    def run(number: int):
        try:
            gate.wait(10)
            return work(number)
        except store.NotStored as refusal:
            return refusal
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.mark.django_db(transaction=True)
def test_the_plans_limit_holds_under_a_race(owner) -> None:
    Plan.objects.update(max_api_keys=3)
    got = at_once(8, lambda n: store.add(owner.id, "openai", str(n), Secret(make_key())))
    assert sum(isinstance(one, ApiKey) for one in got) == ApiKey.objects.count() == 3
    assert sum(isinstance(one, store.TooManyKeys) for one in got) == 5


@pytest.mark.django_db(transaction=True)
def test_one_of_several_gets_a_label(owner) -> None:
    got = at_once(4, lambda n: store.add(owner.id, "openai", "same", Secret(make_key())))
    assert ApiKey.objects.count() == 1
    assert sum(isinstance(one, store.LabelTaken) for one in got) == 3


@pytest.mark.django_db(transaction=True)
def test_the_same_key_is_stored_once_under_a_race(owner) -> None:
    key = make_key()
    got = at_once(4, lambda n: store.add(owner.id, "openai", str(n), Secret(key)))
    assert ApiKey.objects.count() == 1
    assert sum(isinstance(one, store.KeyTaken) for one in got) == 3


@pytest.mark.django_db(transaction=True)
def test_changes_from_all_sides_never_wait_for_each_other(owner) -> None:
    rows = [store.add(owner.id, "openai", str(n), Secret(make_key())) for n in range(2)]

    def work(number: int) -> None:
        for turn in range(5):
            row = rows[(number + turn) % 2]
            store.change(owner.id, row.pk, Secret(make_key()), priority=turn)
            store.record_test(row, valid=False, error="no")

    at_once(4, work)
    assert all(row.unseal().reveal() for row in ApiKey.objects.all())
    assert User.objects.get(pk=owner.pk).epoch >= 20


def test_what_cannot_be_a_key_is_refused_without_quoting_it(owner) -> None:
    with pytest.raises(ValueError, match="line breaks") as caught:
        store.add(owner.id, "openai", "", Secret("sk-bad\r\nkey-bad"))
    assert "sk-bad" not in str(caught.value)
    assert not ApiKey.objects.exists()


def test_a_broken_rule_that_is_not_the_owners_fault_is_not_hidden(owner, stored) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        store.change(owner.id, stored().pk, provider="mistral")


def test_the_database_refuses_a_second_row_with_the_same_key(stored) -> None:
    row = stored()
    row.pk, row.label = None, "copy"
    row.id = ApiKey._meta.pk.get_default()
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save(force_insert=True)
