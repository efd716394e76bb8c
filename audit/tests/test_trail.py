"""What is written down, of whom, and that nobody unwrites it."""

import pytest
from django.contrib.auth.models import Group, Permission
from django.db import DatabaseError, connection, transaction
from django.test import Client
from rest_framework.test import APIClient

from accounts.models import Plan, ProxyKey, User
from audit.models import Action, Event
from audit.trail import record
from vault import store
from vault.check import check_api_key
from vault.secret import Secret
from vault.tests.conftest import make_key

NEW_PASSWORD = "a staple for the battery"
pytestmark = pytest.mark.django_db


@pytest.fixture
def staff(db) -> Client:
    client = Client()
    user = User.objects.create(email="root@example.com", is_staff=True, is_superuser=True, password="!")
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    client.user = user
    return client


def newest(**fields) -> Event:
    return Event.objects.filter(**fields).latest("id")


# --- Append-only -------------------------------------------------------------------------------------------------


REPLACE = {
    "sqlite": "INSERT OR REPLACE INTO audit_events SELECT * FROM audit_events",
    "postgresql": "INSERT INTO audit_events SELECT * FROM audit_events ON CONFLICT (id) DO UPDATE SET note = 'x'",
}


@pytest.mark.parametrize("statement", ["UPDATE audit_events SET note = 'x'", "DELETE FROM audit_events", REPLACE])
def test_it_is_append_only_for_everybody(statement):
    record(Action.EXPORT, note="kept")
    before = list(Event.objects.values())
    statement = statement if isinstance(statement, str) else statement[connection.vendor]
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert list(Event.objects.values()) == before


@pytest.mark.postgres
def test_it_cannot_be_emptied():
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("TRUNCATE audit_events")


def test_the_orm_can_change_nothing_either():
    record(Action.EXPORT)
    for change in (newest().save, newest().delete, lambda: Event.objects.update(note="x"), Event.objects.all().delete):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            change()


def test_a_change_that_is_undone_leaves_no_event(owner):
    count = Event.objects.count()
    with pytest.raises(RuntimeError), transaction.atomic():
        owner.disable()
        raise RuntimeError
    assert Event.objects.count() == count


# --- Who and from where ------------------------------------------------------------------------------------------


def test_it_says_who_from_where_and_in_which_request(staff, owner, settings):
    settings.AIPROXY_TRUSTED_PROXIES = ["127.0.0.0/8"]
    answer = Client.post(
        *(staff, f"/admin/accounts/user/{owner.pk}/change/"),
        data={"email": owner.email, "plan": "pro", "is_active": "on"},
        headers={"x-forwarded-for": "6.6.6.6, 203.0.113.9"},
    )
    event = newest(object_id=owner.pk)
    assert (event.actor_id, event.actor, event.address) == (staff.user.pk, "root@example.com", "203.0.113.9")
    assert event.request_id == answer["x-request-id"]
    assert event.changes == {"plan": ["free", "pro"]}


def test_it_names_the_user_of_a_token(bearer_of, owner):
    bearer_of(owner).patch("/auth/me", {"name": "Ann"})
    event = newest()
    assert (event.actor_id, event.object_id, event.changes) == (owner.pk, str(owner.pk), {"name": ["", "Ann"]})


def test_it_names_the_command(owner, monkeypatch):
    monkeypatch.setattr("sys.argv", ["manage.py", "shell", "-c", "a secret argument"])
    owner.disable()
    assert (newest().actor, newest().actor_id, newest().address) == ("manage.py shell", None, None)


@pytest.fixture
def bearer_of():
    def client(user: User) -> APIClient:
        token = APIClient().post("/auth/login", {"email": user.email, "password": "correct horse battery"}).json()
        return APIClient(headers={"Authorization": f"Bearer {token['token']}"})

    return client


# --- What --------------------------------------------------------------------------------------------------------


def test_it_records_keys_that_are_made_and_revoked(bearer_of, owner):
    client = bearer_of(owner)
    made = client.post("/proxy-api-keys/generate", {"name": "laptop", "rpm": 5}).json()
    event = newest()
    assert (event.action, event.object_id, event.actor_id) == ("create", made["id"], owner.pk)
    assert event.changes["name"] == [None, "laptop"] and event.changes["rpm"] == [None, 5]
    client.delete(f"/proxy-api-keys/{made['id']}")
    assert (newest().action, newest().object_id) == ("revoke", made["id"])
    client.delete(f"/proxy-api-keys/{made['id']}")
    assert Event.objects.filter(action="revoke").count() == 1


def test_it_records_provider_keys_from_storing_to_deleting(bearer_of, owner):
    client = bearer_of(owner)
    body = {"provider": "openai", "label": "main", "key": make_key()}
    id = client.post("/api-keys", body).json()["id"]
    assert (newest().action, newest().changes["label"]) == ("create", [None, "main"])
    client.patch(f"/api-keys/{id}", {"key": make_key(), "priority": 7})
    assert newest().changes["encrypted_key"] == ["***", "***"]
    assert newest().changes["priority"] == [100, 7]
    client.delete(f"/api-keys/{id}")
    assert (newest().action, newest().object_id, newest().changes["label"]) == ("delete", id, ["main", None])


def test_it_records_that_a_provider_refused_a_key(owner, provider):
    row = store.add(owner.pk, "openai", "main", Secret(make_key()))
    provider.answer(401, b"")
    check_api_key(row)
    assert (newest().changes, newest().object_id) == ({"is_valid": [True, False]}, str(row.pk))
    count = Event.objects.count()
    check_api_key(row)
    assert Event.objects.count() == count


def test_it_records_a_password_change_and_what_comes_of_it(bearer_of, owner):
    key = ProxyKey.objects.create(user=owner, key_prefix="sk-proxy-abcdefgh", verifier=b"")
    body = {"current": "correct horse battery", "new": NEW_PASSWORD}
    assert bearer_of(owner).post("/auth/password", body).status_code == 200
    changed = newest(object_id=owner.pk, action="change")
    assert changed.changes == {"password": ["***", "***"]}
    assert newest(object_id=key.pk).action == "revoke"


def test_it_records_what_a_plan_was(staff):
    Plan.objects.create(code="tiny", name="Tiny", rpm=1)
    body = {"name": "Tiny", "rpm": "", "tpm": "9", "max_api_keys": "5", "max_proxy_keys": "5"}
    assert staff.post("/admin/accounts/plan/tiny/change/", body).status_code == 302
    assert newest(object_type="accounts.plan").changes == {"rpm": [1, None], "tpm": [None, 9]}


def test_it_records_who_gets_which_role(owner):
    group = Group.objects.create(name="night shift")
    permission = Permission.objects.get(codename="view_plan")
    group.permissions.add(permission)
    assert newest().changes == {"permissions": [[], [str(permission)]]}
    owner.groups.add(group)
    assert (newest().object_id, newest().changes) == (str(owner.pk), {"groups": [[], ["night shift"]]})
    owner.groups.clear()
    assert newest().changes == {"groups": [["night shift"], []]}
    group.user_set.add(owner)
    assert newest().changes == {"users": [[], [owner.email]]}


def test_it_says_nothing_of_what_did_not_change(owner):
    count = Event.objects.count()
    owner.save()
    owner.save(update_fields=["last_login"])
    assert Event.objects.count() == count


def test_it_keeps_what_is_said_of_a_user_who_is_deleted(owner):
    ProxyKey.objects.create(user=owner, name="laptop", key_prefix="sk-proxy-abcdefgh", verifier=b"")
    id = str(owner.pk)
    owner.delete()
    assert {event.action for event in Event.objects.filter(object_id=id)} == {"create", "delete"}
    assert newest(object_type="accounts.proxykey").action == "delete"


# --- Sign-ins ----------------------------------------------------------------------------------------------------


def test_it_records_sign_ins_and_failures(owner, password):
    APIClient().post("/auth/login", {"email": "OWNER@example.com", "password": "wrong"})
    assert (newest().action, newest().object_name, newest().actor) == ("sign_in_failed", owner.email, "")
    APIClient().post("/auth/login", {"email": owner.email, "password": password})
    assert (newest().action, newest().actor_id, newest().address) == ("sign_in", owner.pk, "127.0.0.1")


def test_it_records_a_lock_out_once(owner, settings):
    settings.AXES_FAILURE_LIMIT = 3
    for _ in range(6):
        APIClient().post("/auth/login", {"email": owner.email, "password": "wrong"})
    assert [event.object_name for event in Event.objects.filter(action="locked_out")] == [owner.email]


def test_it_keeps_no_password_that_was_typed_for_an_address():
    APIClient().post("/auth/login", {"email": "my secret passphrase", "password": "x"})
    assert newest().object_name == "(no e-mail address)"


# --- Secrets -----------------------------------------------------------------------------------------------------


def test_it_holds_no_secret(bearer_of, owner, stored_canaries):
    client, secrets = bearer_of(owner), stored_canaries
    client.patch(f"/api-keys/{secrets['id']}", {"key": secrets["next"]})
    client.delete(f"/api-keys/{secrets['id']}")
    client.post("/auth/password", {"current": "correct horse battery", "new": secrets["password"]})
    User.objects.get(pk=owner.pk).delete()
    text = str(list(Event.objects.values()))
    assert owner.email in text
    assert not [name for name, secret in secrets.items() if name != "id" and secret in text]


@pytest.fixture
def stored_canaries(bearer_of, owner) -> dict[str, str]:
    """Everything of one person's that must never be told, and where it was put."""
    client = bearer_of(owner)
    first, second = make_key(), make_key()
    row = store.add(owner.pk, "openai", "main", Secret(first))
    made = client.post("/proxy-api-keys/generate", {"name": "x"}).json()
    key = ProxyKey.objects.get(pk=made["id"])
    return {
        "id": str(row.pk),
        "stored": first,
        "next": second,
        "ciphertext": row.encrypted_key,
        "fingerprint": bytes(row.fingerprint).hex(),
        "proxy key": made["key"],
        "hash": key.key_hash,
        "verifier": bytes(key.verifier).hex(),
        "password": NEW_PASSWORD,
        "password hash": owner.password,
    }
