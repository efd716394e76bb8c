"""Role × page × action: who sees what, who may do what, and that each thing done is written down."""

from importlib import import_module

import pytest
from axes.models import AccessAttempt
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.db import connection
from django.test import Client

from accounts import tokens
from accounts.ids import made_at, uuid7
from accounts.models import Plan, ProxyKey, SignIn, User
from audit.models import Event
from usage.models import ProxyRequest
from vault import store
from vault.models import ApiKey
from vault.secret import Secret
from vault.tests.conftest import make_key, provider  # noqa: F401

ROLES = ["support", "billing", "auditor", "admin"]
ALL, READERS = {*ROLES}, {"auditor", "admin"}
SEES = {
    "accounts/user": ALL,
    "accounts/plan": ALL,
    "accounts/proxykey": ALL,
    "accounts/signin": {"support", *READERS},
    "vault/apikey": {"support", *READERS},
    "vault/apikey/keyring": {"support", *READERS},
    "usage/proxyrequest": ALL,
    "usage/usagehour": ALL,
    "usage/price": ALL,
    "proxy/modelalias": ALL,
    "audit/event": READERS,
    "staff/authenticator": READERS,
    "auth/group": READERS,
    "axes/accessattempt": {"support", *READERS},
    "axes/accesslog": READERS,
    "axes/accessfailurelog": READERS,
    "usage/proxyrequest/export/csv": {"billing", "admin"},
}
ADDS = {
    "accounts/user": {"admin"},
    "accounts/plan": {"billing", "admin"},
    "accounts/proxykey": {"admin"},
    "usage/price": {"billing", "admin"},
    "proxy/modelalias": {"admin"},
}
CHANGES = {
    "accounts/user": {"admin"},
    "accounts/plan": {"billing", "admin"},
    "accounts/proxykey": {"admin"},
    "vault/apikey": {"admin"},
}
DELETES = {
    "accounts/user": {"admin"},
    "accounts/plan": {"billing", "admin"},
    "accounts/proxykey": {"admin"},
    "accounts/signin": {"admin"},
    "vault/apikey": {"admin"},
    "axes/accessattempt": {"support", "admin"},
}
# Page and action: who may, with what else is entered, and what the audit log then says.
DOES = {
    ("accounts/user", "change_plan"): ({"billing", "admin"}, {"plan": "pro"}, "change"),
    ("accounts/user", "revoke_keys"): ({"support", "admin"}, {}, "revoke"),
    ("accounts/user", "send_reset_mail"): ({"support", "admin"}, {}, "mail"),
    ("accounts/user", "disable"): ({"support", "admin"}, {}, "change"),
    ("accounts/user", "enable"): ({"support", "admin"}, {}, None),  # nothing to do: they are
    ("accounts/proxykey", "revoke"): ({"support", "admin"}, {}, "revoke"),
    ("accounts/signin", "end"): ({"support", "admin"}, {}, "revoke"),
    ("vault/apikey", "test_now"): ({"support", "admin"}, {}, "test"),
    ("vault/apikey", "mark_invalid"): ({"support", "admin"}, {}, "change"),
    ("vault/apikey", "move"): ({"admin"}, {"priority": "7"}, "change"),
}


@pytest.fixture
def browser(db, request) -> Client:
    """Of somebody who has the test's role, and nothing else."""
    user = User.objects.create(email="staff@example.com", is_staff=True, password="!")
    user.groups.add(Group.objects.get(name=request.getfixturevalue("role")))
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    client.user = user
    return client


@pytest.fixture
def sends_mail(settings) -> None:
    settings.EMAIL_URL = "memorymail://"


@pytest.fixture
def rows(owner) -> dict[str, object]:
    """One row of each kind, all of them a customer's."""
    tokens.sign_in(owner)
    id = uuid7()
    ids = {"user_id": owner.pk, "proxy_key_id": uuid7(), "model": "m", "outcome": "ok", "status_code": 200}
    return {
        "accounts/user": owner,
        "accounts/plan": Plan.objects.create(code="tiny", name="Tiny"),
        "accounts/proxykey": ProxyKey.objects.create(user=owner, key_prefix="sk-proxy-abcdefgh", verifier=b""),
        "accounts/signin": SignIn.objects.get(user=owner),
        "vault/apikey": store.add(owner.pk, "openai", "main", Secret(make_key())),
        "usage/proxyrequest": ProxyRequest.objects.create(id=id, created_at=made_at(id), endpoint="/v1/x", **ids),
        "axes/accessattempt": AccessAttempt.objects.create(
            username=owner.email, ip_address="192.0.2.1", failures_since_start=3
        ),
    }


def outcome(allowed: bool) -> set[int]:
    return {200, 302} if allowed else {403}


@pytest.mark.parametrize("role", ROLES)
def test_it_shows_a_role_its_pages(browser, rows, role):
    for page, roles in SEES.items():
        ending = "" if "/export/" in page else "/"
        assert browser.get(f"/admin/{page}{ending}").status_code in outcome(role in roles), page


@pytest.mark.parametrize("role", ROLES)
def test_it_leads_a_role_to_its_pages_only(browser, rows, role):
    index = browser.get("/admin/").content.decode()
    for page, roles in SEES.items():
        if page.count("/") == 1:
            assert (f"/admin/{page}/" in index) == (role in roles), page


@pytest.mark.parametrize("role", ROLES)
def test_it_lets_a_role_add_what_it_may(browser, role):
    for page in (page for page in SEES if page.count("/") == 1):
        assert browser.get(f"/admin/{page}/add/").status_code in outcome(role in ADDS.get(page, ())), page


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("page", [*CHANGES, "accounts/signin", "usage/proxyrequest"])
def test_it_lets_a_role_change_what_it_may(browser, rows, role, page):
    count = Event.objects.count()
    answer = browser.post(f"/admin/{page}/{rows[page].pk}/change/", {"name": "x", "label": "x"})
    if role not in CHANGES.get(page, {"admin"} if page == "accounts/signin" else ()):
        assert answer.status_code == 403
        assert Event.objects.count() == count
    else:
        assert answer.status_code in outcome(True)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("page", DELETES)
def test_it_lets_a_role_delete_what_it_may(browser, rows, role, page):
    row, may = rows[page], role in DELETES[page]
    answer = browser.post(f"/admin/{page}/{row.pk}/delete/", {"post": "yes"})
    assert answer.status_code in outcome(may)
    assert type(row).objects.filter(pk=row.pk).exists() != may
    written = Event.objects.filter(action="delete", object_id=row.pk, actor_id=browser.user.pk)
    assert written.exists() == may


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("page", "action"), DOES)
@pytest.mark.usefixtures("provider", "sends_mail")
def test_it_lets_a_role_do_what_it_may_and_writes_it_down(browser, rows, role, page, action):
    roles, entered, kind = DOES[page, action]
    body = {"action": action, "_selected_action": [str(rows[page].pk)], "confirmed": "yes", **entered}
    theirs = Event.objects.filter(actor_id=browser.user.pk)
    before = theirs.count()
    answer = browser.post(f"/admin/{page}/", body)
    assert answer.status_code in {302, 403} | ({200} if role not in roles else set())
    done = theirs[: theirs.count() - before]
    assert (kind in {event.action for event in done}) == (role in roles and kind is not None)
    assert role in roles or not done


def test_it_knows_every_page_and_action():
    """A new one must be given to roles here, and in a migration."""
    models = {model._meta.label_lower.replace(".", "/"): site for model, site in admin.site._registry.items()}
    assert set(models) == {page for page in SEES if page.count("/") == 1}
    assert {(page, action) for page, site in models.items() for action in site.actions or ()} == set(DOES)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("action", ["disable", "revoke_keys", "change_plan"])
def test_no_role_acts_on_a_superuser_nor_the_small_ones_on_staff(browser, role, action):
    root = User.objects.create(email="root@example.com", is_staff=True, is_superuser=True)
    colleague = User.objects.create(email="colleague@example.com", is_staff=True)
    ids = [str(root.pk), str(colleague.pk)]
    browser.post("/admin/accounts/user/", {"action": action, "_selected_action": ids, "confirmed": "y", "plan": "pro"})
    root.refresh_from_db()
    colleague.refresh_from_db()
    assert (root.is_active, root.plan_id) == (True, "free")
    assert role == "admin" or (colleague.is_active, colleague.plan_id) == (True, "free")


@pytest.mark.parametrize("role", ["admin"])
@pytest.mark.parametrize(
    ("page", "body"),
    [
        ("accounts/proxykey", {"name": "a key", "allowed_models": "[]", "ip_allowlist": "[]"}),
        ("proxy/modelalias", {"name": "best", "targets": '["gpt-4o"]'}),
    ],
)
def test_no_role_adds_to_what_is_a_superusers(browser, owner, role, page, body):
    root = User.objects.create(email="root@example.com", is_staff=True, is_superuser=True)
    for user in (root, owner):
        browser.post(f"/admin/{page}/add/", {**body, "user": user.pk})
    assert [row.user for row in apps.get_model(page.replace("/", "."))._default_manager.all()] == [owner]


@pytest.mark.parametrize("role", ["admin"])
@pytest.mark.parametrize("page", ["accounts/proxykey", "vault/apikey"])
@pytest.mark.parametrize("what", ["change", "delete"])
def test_no_role_changes_or_deletes_what_is_a_superusers(browser, rows, owner, role, page, what):
    User.objects.filter(pk=owner.pk).update(is_superuser=True)
    assert browser.post(f"/admin/{page}/{rows[page].pk}/{what}/", {"post": "yes"}).status_code == 403


@pytest.mark.parametrize("role", ["admin"])
def test_no_role_moves_a_superusers_key_among_others(browser, rows, owner, stranger, role):
    other = store.add(stranger.pk, "openai", "", Secret(make_key()))
    User.objects.filter(pk=owner.pk).update(is_superuser=True)
    chosen = [str(row.pk) for row in (rows["vault/apikey"], other)]
    body = {"action": "move", "_selected_action": chosen, "confirmed": "y", "priority": "7"}
    assert "1 moved" in browser.post("/admin/vault/apikey/", body, follow=True).text
    assert ApiKey.objects.get(priority=7) == other


@pytest.mark.parametrize("role", ["admin"])
def test_no_role_hands_out_power(browser, owner, role):
    body = {"email": owner.email, "plan": "free", "is_active": "on", "is_staff": "on", "groups": ["1", "2", "3", "4"]}
    browser.post(f"/admin/accounts/user/{owner.pk}/change/", body)
    owner.refresh_from_db()
    assert not owner.is_staff and not owner.groups.exists()
    assert browser.post("/admin/auth/group/add/", {"name": "mine"}).status_code == 403


# --- The migration -----------------------------------------------------------------------------------------------


@pytest.fixture
def migrate(db):
    migration = import_module("staff.migrations.0002_roles")
    return lambda: migration.make_roles(apps, connection.schema_editor())


def test_the_auditor_reads_everything_and_changes_nothing(db):
    auditor = Group.objects.get(name="auditor").permissions.values_list("codename", flat=True)
    assert all(codename.startswith("view_") for codename in auditor)
    registered = {f"view_{model._meta.model_name}" for model in admin.site._registry}
    assert set(auditor) == registered


def test_it_keeps_what_staff_made_of_a_role(migrate):
    support = Group.objects.get(name="support")
    support.permissions.set(Permission.objects.filter(codename="view_plan"))
    migrate()
    assert [permission.codename for permission in support.permissions.all()] == ["view_plan"]


def test_it_makes_a_role_that_is_missing_and_the_permissions_for_it(migrate):
    Group.objects.all().delete()
    Permission.objects.filter(codename__in=["disable_user", "test_apikey"]).delete()
    migrate()
    migrate()
    assert set(Group.objects.values_list("name", flat=True)) == ALL
    assert Group.objects.filter(name="support", permissions__codename="test_apikey").exists()
    assert ApiKey._meta.app_config.models_module is not True
