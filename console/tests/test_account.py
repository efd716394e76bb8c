"""What a person does with their own account."""

import pytest
from django.core.cache import cache

from accounts import tokens
from accounts.models import ProxyKey, SignIn, User
from console.tests.conftest import a_proxy_key

pytestmark = pytest.mark.django_db
NEW = "another horse battery"


@pytest.fixture(autouse=True)
def unthrottled():
    cache.clear()


def test_it_changes_name_language_and_mails(page, owner):
    form = {"name": "Ada", "language": "id", "next": "/console/account"}
    assert '<html lang="id"' in page.post("/console/account", form, follow=True).text
    owner.refresh_from_db()
    assert (owner.name, owner.language, owner.limit_mails) == ("Ada", "id", False)


def test_it_changes_the_password_and_stays_signed_in(page, owner, password):
    a_proxy_key(owner)
    response = page.post("/console/account/password", {"current": password, "new": NEW}, follow=True)
    assert "revoked with it: 1." in response.text
    assert User.objects.get(pk=owner.pk).check_password(NEW)
    assert not ProxyKey.objects.live().exists()
    assert page.get("/console/account").status_code == 200


@pytest.mark.parametrize(
    ("changed", "said"), [({"current": "wrong"}, "Wrong password."), ({"new": "1234567890"}, "entirely numeric")]
)
def test_it_refuses_a_wrong_or_weak_password_and_shows_neither(changed, said, page, password):
    sent = {"current": password, "new": NEW} | changed
    response = page.post("/console/account/password", sent)
    assert (response.status_code, said in response.text) == (400, True)
    assert not [text for text in sent.values() if f'value="{text}"' in response.text]


def test_it_shows_where_the_person_is_signed_in_and_ends_it(page, owner):
    tokens.sign_in(owner)
    row = SignIn.objects.get(user=owner)
    assert f"/console/account/sign-ins/{row.pk}" in page.get("/console/account").text
    page.post(f"/console/account/sign-ins/{row.pk}")
    row.refresh_from_db()
    assert row.ended_at is not None
    assert f"/console/account/sign-ins/{row.pk}" not in page.get("/console/account").text


def test_it_deletes_the_account_of_who_shows_the_password(page, owner, password):
    refused = page.post("/console/account/delete", {"password": "wrong"})
    assert (refused.status_code, User.objects.filter(pk=owner.pk).exists()) == (400, True)
    assert page.post("/console/account/delete", {"password": password}).headers["Location"] == "/"
    assert not User.objects.filter(pk=owner.pk).exists()
    assert page.get("/console/").status_code == 302


def test_it_refuses_to_delete_staff(page, owner, password):
    User.objects.filter(pk=owner.pk).update(is_staff=True)
    response = page.post("/console/account/delete", {"password": password})
    assert (response.status_code, "another member of staff" in response.text) == (409, True)
