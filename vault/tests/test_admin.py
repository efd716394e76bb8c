import re

import pytest
from django.contrib.admin import site
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.test import Client

from accounts.models import User
from audit.models import Event
from vault import store
from vault.models import ApiKey
from vault.secret import Secret
from vault.tests.conftest import keyset_entry, make_key

LIST = "/admin/vault/apikey/"


@pytest.fixture
def staff(db) -> Client:
    client = Client()
    client.force_login(
        User.objects.create(email="staff@example.com", is_staff=True, is_superuser=True),
        backend="django.contrib.auth.backends.ModelBackend",
    )
    return client


def page(row: ApiKey) -> str:
    return f"{LIST}{row.pk}/change/"


def act(staff, action, *rows, **entered):
    """Chooses the action in the list, and answers yes to what is asked then."""
    body = {"action": action, "_selected_action": [str(row.pk) for row in rows], "confirmed": "yes", **entered}
    return staff.post(LIST, body, follow=True)


def test_no_page_shows_a_secret(staff, stored) -> None:
    key = make_key()
    row = stored(key)
    urls = [LIST, page(row), f"{LIST}{row.pk}/history/", f"{LIST}{row.pk}/delete/", f"{LIST}?q={row.label}"]
    shown = "".join(staff.get(url).content.decode() for url in urls)
    assert row.masked in shown
    for secret in (key[:-4], row.encrypted_key, bytes(row.iv).hex(), bytes(row.fingerprint).hex()):
        assert secret not in shown


@pytest.mark.parametrize("lookup", ["encrypted_key__startswith", "encrypted_key__gte", "iv", "fingerprint__contains"])
def test_it_cannot_be_asked_how_a_ciphertext_begins(staff, stored, lookup) -> None:
    stored()
    assert staff.get(f"{LIST}?{lookup}=a").status_code == 400


def test_nothing_but_label_priority_and_validity_can_be_edited(staff, stored) -> None:
    html = staff.get(page(stored())).content.decode()
    form = html[html.index('id="apikey_form"') :]
    fields = set(re.findall(r'<(?:input|select|textarea)[^>]* name="([a-z_]+)"', form))
    assert {name for name in fields if not name.startswith(("_", "csrf"))} == {"label", "priority", "is_valid"}


def test_staff_can_take_a_key_out_of_use(staff, owner, stored) -> None:
    row = stored()
    before = User.objects.get(pk=owner.pk).epoch
    answer = staff.post(page(row), {"label": "renamed", "priority": 5, "provider": "google", "encrypted_key": "AAAA"})
    assert answer.status_code == 302
    changed = ApiKey.objects.get()
    assert (changed.label, changed.priority, changed.is_valid, changed.provider) == ("renamed", 5, False, "openai")
    assert changed.encrypted_key == row.encrypted_key
    assert User.objects.get(pk=owner.pk).epoch == before + 1


def test_a_page_opened_long_ago_does_not_bring_an_old_key_back(staff, owner, stored) -> None:
    row, fresh = stored(), make_key()
    store.change(owner.id, row.pk, Secret(fresh))
    staff.post(page(row), {"label": "renamed", "priority": 5, "is_valid": "on"})
    assert ApiKey.objects.get().unseal().reveal() == fresh


def test_a_taken_label_is_a_message(staff, stored) -> None:
    row, other = stored(), stored()
    answer = staff.post(page(row), {"label": other.label, "priority": 5, "is_valid": "on"})
    assert answer.status_code == 200
    assert "has a key with this label" in answer.content.decode()


def test_nobody_stores_a_key_for_somebody_else(staff) -> None:
    assert staff.get(LIST + "add/").status_code == 403
    assert staff.post(LIST + "add/", {"label": "x"}).status_code == 403


@pytest.mark.parametrize("way", ["one", "several"])
def test_a_deleted_key_is_told_to_the_workers(staff, owner, stored, way) -> None:
    row = stored()
    before = User.objects.get(pk=owner.pk).epoch
    if way == "one":
        staff.post(f"{LIST}{row.pk}/delete/", {"post": "yes"})
    else:
        staff.post(LIST, {"action": "delete_selected", "_selected_action": [str(row.pk)], "post": "yes"})
    assert not ApiKey.objects.exists()
    assert User.objects.get(pk=owner.pk).epoch == before + 1
    assert LogEntry.objects.filter(object_id=str(row.pk)).exists()


@pytest.mark.parametrize("gone", [lambda row: row.delete(), lambda row: row.user.delete()])
def test_a_key_that_its_owner_deleted_meanwhile_is_deleted(stored, rf, gone) -> None:
    row = stored()
    gone(ApiKey.objects.get(pk=row.pk))
    site._registry[ApiKey].delete_model(rf.get(LIST), row)
    assert not ApiKey.objects.exists()


def test_staff_can_test_keys(staff, stored, provider) -> None:
    rows = [stored(), stored()]
    provider.answer(401, b"")
    answer = act(staff, "test_now", *rows)
    assert "2 keys tested: 0 good, 2 refused, 0 not to be told." in answer.content.decode()
    assert not ApiKey.objects.filter(is_valid=True).exists()


def test_the_list_costs_the_same_for_one_key_and_for_many(staff, stored, django_assert_max_num_queries) -> None:
    for _ in range(4):
        stored()
    with django_assert_max_num_queries(10):
        assert staff.get(LIST).status_code == 200


@pytest.mark.parametrize("action", ["test_now", "mark_invalid", "move"])
def test_every_action_asks_first(staff, stored, provider, action) -> None:
    row = stored()
    answer = staff.post(LIST, {"action": action, "_selected_action": str(row.pk)})
    assert row.masked in answer.text and 'name="confirmed"' in answer.text
    assert ApiKey.objects.filter(pk=row.pk, is_valid=True, priority=100, last_tested_at=None).exists()
    assert not provider.requests


def test_staff_mark_keys_invalid_and_the_workers_are_told(staff, owner, stored) -> None:
    rows = [stored(), stored()]
    before = User.objects.get(pk=owner.pk).epoch
    assert "2 marked invalid." in act(staff, "mark_invalid", *rows).text
    assert not ApiKey.objects.filter(is_valid=True).exists()
    assert User.objects.get(pk=owner.pk).epoch == before + 2


def test_staff_move_a_key(staff, stored) -> None:
    row = stored()
    act(staff, "move", row, priority="7")
    assert ApiKey.objects.get().priority == 7
    assert "less than or equal to 32767" in act(staff, "move", row, priority="70000").text
    assert ApiKey.objects.get().priority == 7


KEYRING = LIST + "keyring/"


def test_the_keyring_says_how_many_rows_each_master_key_has_and_rewraps_them(staff, stored, settings) -> None:
    stored(), stored()
    settings.AIPROXY_MASTER_KEYS = f"{keyset_entry(9)},{settings.AIPROXY_MASTER_KEYS}"
    before = staff.get(KEYRING)
    assert {(key["id"], key["rows"], key["is_primary"]) for key in before.context["master_keys"]} >= {(9, 0, True)}
    assert before.context["left"] == 2
    assert "2 stored keys re-wrapped under master key 9." in staff.post(KEYRING, follow=True).text
    assert set(ApiKey.objects.values_list("master_key_id", flat=True)) == {9}
    assert Event.objects.latest("id").action == "rewrap"


def test_the_keyring_shows_no_master_key(staff, stored, settings) -> None:
    stored()
    page = staff.get(KEYRING).text
    assert all(entry.partition(":")[2] not in page for entry in settings.AIPROXY_MASTER_KEYS.split(","))


def test_the_keyring_names_a_master_key_that_is_missing(staff, stored, settings) -> None:
    stored()
    settings.AIPROXY_MASTER_KEYS = keyset_entry(9)
    assert "missing: its rows do not open" in staff.get(KEYRING).text
    assert "1 do not open and stay as they are." in staff.post(KEYRING, follow=True).text


def test_only_who_may_starts_a_re_wrap(client, owner, stored) -> None:
    stored()
    clerk = User.objects.create(email="clerk@example.com", is_staff=True, password="!")
    client.force_login(clerk, backend="django.contrib.auth.backends.ModelBackend")
    assert client.get(KEYRING).status_code == 403
    clerk.user_permissions.add(Permission.objects.get(codename="view_apikey"))
    assert client.get(KEYRING).status_code == 200
    assert client.post(KEYRING).status_code == 403
