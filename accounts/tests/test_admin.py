import re
from urllib.parse import quote

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.contrib.messages import get_messages
from django.core import mail as django_mail
from django.test import RequestFactory

from accounts import mail, tokens
from accounts.keys import KeyRevoked, parse
from accounts.models import Plan, ProxyKey, User
from accounts.tests.conftest import NEW_PASSWORD

BACKEND = "django.contrib.auth.backends.ModelBackend"


@pytest.fixture
def staff(client, db):
    """A superuser's browser."""
    user = User.objects.create(email="root@example.com", is_staff=True, is_superuser=True, password="!")
    client.force_login(user, backend=BACKEND)
    client.user = user
    return client


@pytest.fixture
def clerk(client, db):
    """A browser of staff who may see and change everything here, but are no superuser."""
    user = User.objects.create(email="clerk@example.com", is_staff=True, password="!")
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="accounts"))
    client.force_login(user, backend=BACKEND)
    client.user = user
    return client


def act(browser, model, action, *rows, **entered):
    """Chooses the action in the list, and answers yes to what is asked then."""
    body = {"action": action, "_selected_action": [str(row.pk) for row in rows], "confirmed": "yes", **entered}
    return browser.post(f"/admin/accounts/{model}/", body)


def text(answer):
    return answer.content.decode()


@pytest.mark.parametrize(
    "page", ["", "add/", "{}/change/", "{}/history/", "?q=example", "?status=live", "?is_active__exact=1"]
)
@pytest.mark.parametrize("model", ["user", "plan", "proxykey", "signin"])
def test_it_shows_no_hash_on_any_page(staff, owner, make_key, model, page):
    key = make_key(owner, key_hash="$argon2id$canary")
    ProxyKey.objects.update(verifier=b"canary")
    tokens.sign_in(owner)
    row = {"user": owner, "plan": owner.plan, "proxykey": key, "signin": owner.sign_ins.get()}[model]
    answer = staff.get(f"/admin/accounts/{model}/{page.format(row.pk)}", follow=True)
    assert answer.status_code == (403 if (model, page) == ("signin", "add/") else 200)
    for secret in ("canary", "argon2", owner.password[-20:], owner.sign_ins.get().jti):
        assert secret not in text(answer)


@pytest.mark.parametrize(
    ("model", "lookup"),
    [
        ("proxykey", "key_hash__startswith"),
        ("proxykey", "verifier"),
        ("proxykey", "user__password__startswith"),
        ("user", "password__startswith"),
        ("signin", "user__password__startswith"),
        ("signin", "jti__startswith"),
    ],
)
def test_it_cannot_be_asked_how_a_hash_begins(staff, owner, model, lookup):
    assert staff.get(f"/admin/accounts/{model}/?{lookup}=a").status_code == 400


@pytest.mark.parametrize("model", ["user", "proxykey", "signin"])
def test_it_asks_the_database_as_often_for_many_rows_as_for_one(
    staff, owner, make_key, model, django_assert_max_num_queries
):
    for _ in range(10):
        make_key(owner)
        tokens.sign_in(owner)
        User.objects.create(email=f"{User.objects.count()}@example.com")
    with django_assert_max_num_queries(9):
        staff.get(f"/admin/accounts/{model}/")


def test_it_makes_a_user_by_e_mail(staff):
    body = {"email": "Ann@Example.com", "usable_password": "true", "password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    assert staff.post("/admin/accounts/user/add/", body).status_code == 302
    assert User.objects.get(email="ann@example.com").check_password(NEW_PASSWORD)


def test_it_says_that_an_address_is_taken(staff, owner):
    body = {"email": "OWNER@example.com", "password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    assert "already exists" in text(staff.post("/admin/accounts/user/add/", body))


def test_it_sets_a_password_and_revokes_the_keys(staff, owner, make_key):
    key = make_key(owner)
    body = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    assert staff.post(f"/admin/accounts/user/{owner.pk}/password/", body).status_code == 302
    owner.refresh_from_db()
    key.refresh_from_db()
    assert owner.check_password(NEW_PASSWORD)
    assert key.status == "revoked"


def test_it_takes_a_password_away_and_revokes_the_keys(staff, owner, make_key):
    key = make_key(owner)
    tokens.sign_in(owner)
    body = {"usable_password": "false", "unset-password": "yes"}
    assert staff.post(f"/admin/accounts/user/{owner.pk}/password/", body).status_code == 302
    owner.refresh_from_db()
    key.refresh_from_db()
    assert not owner.has_usable_password()
    assert key.status == "revoked"
    assert not owner.sign_ins.filter(ended_at=None).exists()


def test_it_bumps_the_epoch_when_staff_edit_a_user_or_a_plan(staff, owner):
    staff.post(f"/admin/accounts/user/{owner.pk}/change/", {"email": owner.email, "plan": "pro", "is_active": "on"})
    plan = {"name": "Free", "rpm": 7, "max_api_keys": 5, "max_proxy_keys": 5}
    staff.post("/admin/accounts/plan/free/change/", plan)
    owner.refresh_from_db()
    assert (owner.plan_id, owner.epoch) == ("pro", 2)
    assert (Plan.objects.get(code="free").rpm, Plan.objects.get(code="free").epoch) == (7, 2)


def test_it_disables_and_enables_users(staff, owner, bearer):
    token = tokens.sign_in(owner).token
    act(staff, "user", "disable", owner)
    owner.refresh_from_db()
    assert not owner.is_active
    assert bearer(token).get("/auth/me").status_code == 401
    act(staff, "user", "enable", owner)
    owner.refresh_from_db()
    assert (owner.is_active, owner.epoch) == (True, 3)


def test_it_shows_a_new_proxy_key_once_and_keeps_it_nowhere(staff, owner):
    body = {"user": str(owner.pk), "name": "made by staff", "allowed_models": "[]", "ip_allowlist": "[]"}
    answer = staff.post("/admin/accounts/proxykey/add/", body)
    key = re.search(r"<code>(sk-proxy-\w+)</code>", text(answer)).group(1)
    assert "no-store" in answer["Cache-Control"]
    assert ProxyKey.objects.get().key_id == parse(key)
    assert ProxyKey.objects.get().user == owner
    assert key not in str(answer.cookies)
    assert key not in text(staff.get(f"/admin/accounts/proxykey/{ProxyKey.objects.get().pk}/change/"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rpm", "61"),
        ("max_tokens", "0"),
        ("user", "nobody"),
        ("ip_allowlist", '["10.0.0.1/8"]'),
        ("allowed_models", "[" * 100_000),
        ("allowed_models", "1" * 5_000),
        ("allowed_models", '["\\ud800"]'),
        ("allowed_models", '["a b"]'),
        ("allowed_models", '{"a": 1}'),
        ("expires_at_0", "2020-01-01"),
    ],
)
def test_it_holds_staff_to_the_same_rules(staff, owner, field, value):
    body = {"user": str(owner.pk), "expires_at_0": "", "expires_at_1": "00:00", field: value}
    answer = staff.post("/admin/accounts/proxykey/add/", body)
    assert field.removesuffix("_0") in answer.context["adminform"].form.errors
    assert not ProxyKey.objects.exists()


def test_it_takes_an_emptied_list_for_an_empty_one(staff, owner, make_key):
    key = make_key(owner, allowed_models=["gpt-4o"], ip_allowlist=["10.0.0.0/8"])
    body = {"name": "all", "allowed_models": "", "ip_allowlist": "null", "expires_at_0": "", "expires_at_1": ""}
    assert staff.post(f"/admin/accounts/proxykey/{key.pk}/change/", body).status_code == 302
    key.refresh_from_db()
    assert (key.name, key.allowed_models, key.ip_allowlist) == ("all", [], [])


@pytest.mark.parametrize("limit", ["rpm", "tpm", "max_parallel", "rpd", "tpd", "tokens_month"])
def test_it_takes_no_limit_of_zero_for_no_limit(staff, limit):
    body = {"name": "Free", "max_api_keys": 5, "max_proxy_keys": 5, limit: "0"}
    answer = staff.post("/admin/accounts/plan/free/change/", body)
    assert list(answer.context["adminform"].form.errors) == [limit]


def test_it_holds_staff_to_the_plans_number_of_keys(staff, owner):
    Plan.objects.filter(code="free").update(max_proxy_keys=0)
    answer = staff.post("/admin/accounts/proxykey/add/", {"user": str(owner.pk)})
    assert answer.status_code == 302
    assert "plan allows 0" in str([*get_messages(answer.wsgi_request)])
    assert not ProxyKey.objects.exists()


def test_it_revokes_proxy_keys(staff, owner, make_key):
    keys = [make_key(owner) for _ in range(2)]
    act(staff, "proxykey", "revoke", *keys)
    assert {key.status for key in ProxyKey.objects.all()} == {"revoked"}
    assert {key.epoch for key in ProxyKey.objects.all()} == {2}


def test_it_does_not_give_a_key_to_another_user(staff, owner, teammate, make_key):
    key = make_key(owner)
    staff.post(f"/admin/accounts/proxykey/{key.pk}/change/", {"user": str(teammate.pk), "name": "moved"})
    key.refresh_from_db()
    assert (key.user, key.name, key.epoch) == (owner, "moved", 2)


def test_it_leaves_a_revoked_key_as_it_is(staff, owner, make_key):
    key = make_key(owner)
    key.revoke()
    assert staff.post(f"/admin/accounts/proxykey/{key.pk}/change/", {"name": "x"}).status_code == 403


def save(row, **entered):
    """What the page of a row does with what was entered, once `meanwhile` has run."""
    site, meanwhile = admin.site.get_model_admin(type(row)), entered.pop("meanwhile")
    request = RequestFactory().post("/")
    request.user = User(is_superuser=True)
    form = site.get_form(request, row)(entered, instance=type(row).objects.get(pk=row.pk))
    assert form.is_valid(), form.errors
    meanwhile()
    site.save_model(request, form.save(commit=False), form, change=True)
    row.refresh_from_db()


def test_it_does_not_bring_back_a_key_that_was_revoked_while_staff_saved_it(owner, make_key):
    key = make_key(owner)
    with pytest.raises(KeyRevoked):
        save(key, name="renamed", meanwhile=ProxyKey.objects.get(pk=key.pk).revoke)
    key.refresh_from_db()
    assert key.status == "revoked"


def test_it_does_not_bring_back_a_password_that_was_changed_while_staff_saved_its_user(owner):
    def change():
        User.objects.get(pk=owner.pk).change_password(NEW_PASSWORD)

    save(owner, email=owner.email, name="renamed", plan="free", meanwhile=change)
    assert owner.name == "renamed"
    assert owner.check_password(NEW_PASSWORD)


@pytest.mark.parametrize(("status", "count"), [("live", 1), ("expired", 1), ("revoked", 1)])
def test_it_filters_keys_by_status(staff, owner, make_key, status, count):
    make_key(owner)
    make_key(owner, expires_at="2020-01-01T00:00:00Z")
    make_key(owner).revoke()
    rows = staff.get(f"/admin/accounts/proxykey/?status={status}").context["cl"].result_list
    assert [row.status for row in rows] == [status] * count


def test_it_ends_sign_ins(staff, owner, bearer):
    token = tokens.sign_in(owner).token
    act(staff, "signin", "end", owner.sign_ins.get())
    assert bearer(token).get("/auth/me").status_code == 401


def test_it_does_not_let_staff_make_themselves_superusers(clerk):
    body = {"email": "clerk@example.com", "plan": "free", "is_active": "on", "is_staff": "on", "is_superuser": "on"}
    assert clerk.post(f"/admin/accounts/user/{clerk.user.pk}/change/", body).status_code == 302
    clerk.user.refresh_from_db()
    assert not clerk.user.is_superuser


@pytest.mark.parametrize("page", ["change/", "password/", "delete/"])
def test_it_does_not_let_staff_touch_a_superuser(clerk, page):
    root = User.objects.create(email="root@example.com", is_superuser=True, password="!")
    body = {"email": root.email, "password1": NEW_PASSWORD, "password2": NEW_PASSWORD, "post": "yes"}
    assert clerk.post(f"/admin/accounts/user/{root.pk}/{page}", body).status_code == 403
    assert act(clerk, "user", "disable", root).status_code == 302
    root.refresh_from_db()
    assert (root.is_active, root.password) == (True, "!")


def test_it_does_not_let_staff_delete_a_superuser_among_others(clerk, owner):
    root = User.objects.create(email="root@example.com", is_superuser=True)
    body = {"action": "delete_selected", "_selected_action": [str(root.pk), str(owner.pk)], "post": "yes"}
    clerk.post("/admin/accounts/user/", body)
    assert User.objects.filter(pk=root.pk).exists()


def test_nobody_takes_away_their_own_power(staff, owner):
    """Of several superusers one is left, whoever acts."""
    me = staff.user
    page = f"/admin/accounts/user/{me.pk}"
    assert staff.post(f"{page}/change/", {"email": me.email, "plan": "free", "name": "Root"}).status_code == 302
    assert staff.post(f"{page}/delete/", {"post": "yes"}).status_code == 403
    staff.post(f"{page}/password/", {"usable_password": "false", "unset-password": "yes"})
    act(staff, "user", "disable", me, owner)
    act(staff, "user", "delete_selected", me, post="yes")
    me.refresh_from_db()
    owner.refresh_from_db()
    assert (me.name, me.is_active, me.is_staff, me.is_superuser, me.password) == ("Root", True, True, True, "!")
    assert not owner.is_active


def test_nobody_disables_themselves_by_the_form(clerk, owner):
    for user in (clerk.user, owner):
        body = {"email": user.email, "plan": "free", "name": "Off"}
        assert clerk.post(f"/admin/accounts/user/{user.pk}/change/", body).status_code == 302
        user.refresh_from_db()
    assert (clerk.user.name, clerk.user.is_active) == ("Off", True)
    assert not owner.is_active


@pytest.mark.parametrize(("model", "action"), [("user", "disable"), ("user", "revoke_keys"), ("proxykey", "revoke")])
def test_it_asks_before_it_takes_something_away(staff, owner, make_key, model, action):
    key = make_key(owner)
    row = owner if model == "user" else key
    answer = staff.post(f"/admin/accounts/{model}/", {"action": action, "_selected_action": str(row.pk)})
    assert str(row) in text(answer) and 'name="confirmed"' in text(answer)
    owner.refresh_from_db()
    key.refresh_from_db()
    assert owner.is_active and key.status == "live"


def test_it_changes_the_plan_of_several_users(staff, owner, teammate):
    act(staff, "user", "change_plan", owner, teammate, plan="pro")
    assert {(user.plan_id, user.epoch) for user in User.objects.filter(pk__in=[owner.pk, teammate.pk])} == {("pro", 2)}


def test_it_asks_again_when_there_is_no_such_plan(staff, owner):
    answer = act(staff, "user", "change_plan", owner, plan="diamond")
    assert "Select a valid choice" in text(answer)
    owner.refresh_from_db()
    assert owner.plan_id == "free"


def test_it_revokes_all_proxy_keys_of_a_user(staff, owner, teammate, make_key):
    mine, other = make_key(owner), make_key(teammate)
    act(staff, "user", "revoke_keys", owner)
    mine.refresh_from_db()
    other.refresh_from_db()
    owner.refresh_from_db()
    assert (mine.status, other.status, owner.is_active) == ("revoked", "live", True)


def test_it_comes_back_to_the_page_where_the_button_was(staff, owner, make_key):
    key = make_key(owner)
    page = f"/admin/accounts/proxykey/{key.pk}/change/"
    assert f'name="one" value="{key.pk}"' in text(staff.get(page))
    assert act(staff, "proxykey", "revoke", key, one=str(key.pk)).headers["Location"] == page


@pytest.mark.parametrize("one", ["", "a\nb"])
def test_it_stays_at_the_list_where_no_row_is_named(staff, owner, one):
    answer = act(staff, "user", "enable", owner, one=one)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/accounts/user/")


@pytest.mark.parametrize(("model", "id"), [("user", "x"), ("proxykey", "\0"), ("plan", "\0")])
def test_it_says_that_there_is_no_such_row(staff, model, id):
    assert (
        staff.post(f"/admin/accounts/{model}/", {"action": "delete_selected", "_selected_action": id}).status_code
        == 400
    )
    for page in ("change", "delete", "history"):
        assert staff.get(f"/admin/accounts/{model}/{quote(id)}/{page}/").status_code == 302


@pytest.mark.parametrize("page", ["auth/group/add/", "accounts/user/{}/change/"])
@pytest.mark.parametrize("id", ["9" * 30, str(-(2**63) - 1)])
def test_it_takes_nothing_that_cannot_be_the_id_of_a_group_or_permission(staff, owner, page, id):
    body = {"name": "night shift", "permissions": id, "email": "new@example.com", "plan": "free", "groups": id}
    assert staff.post(f"/admin/{page}".format(owner.pk), body).status_code in (200, 400)
    assert not Group.objects.filter(name="night shift").exists() and User.objects.filter(email=owner.email).exists()


@pytest.mark.parametrize(
    "query", ["app_label=auth&model_name=group&term=a", "app_label=accounts&model_name=proxykey&term=%00"]
)
def test_it_finds_nobody_to_choose_by_what_makes_no_sense(staff, query):
    assert staff.get(f"/admin/autocomplete/?field_name=user&{query}").status_code in (200, 400)


def test_it_carries_a_choice_of_all_rows_through_the_question(staff, owner, teammate):
    chosen = {"action": "disable", "_selected_action": str(owner.pk), "select_across": "1"}
    question = staff.post("/admin/accounts/user/?is_staff__exact=0", chosen)
    assert str(teammate) in text(question)
    assert 'name="select_across" value="1"' in text(question)


def test_it_shows_a_users_page_with_as_many_queries_for_one_key_as_for_many(
    staff, owner, make_key, django_assert_max_num_queries
):
    for _ in range(5):
        make_key(owner)
    with django_assert_max_num_queries(16):
        staff.get(f"/admin/accounts/user/{owner.pk}/change/")


def test_it_sends_a_reset_mail_for_staff_once_they_confirm(staff, owner, settings):
    settings.EMAIL_URL = "memorymail://"
    question = staff.post("/admin/accounts/user/", {"action": "send_reset_mail", "_selected_action": str(owner.pk)})
    mail.wait()
    assert "Send reset mail" in text(question) and not django_mail.outbox
    act(staff, "user", "send_reset_mail", owner)
    mail.wait()
    assert [one.to for one in django_mail.outbox] == [[owner.email]]


def test_it_tells_staff_that_no_mail_is_sent_here(staff, owner, settings):
    settings.EMAIL_URL = ""
    answer = act(staff, "user", "send_reset_mail", owner)
    assert "sends no mail" in str([*get_messages(answer.wsgi_request)])
