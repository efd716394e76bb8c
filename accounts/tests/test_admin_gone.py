"""What staff are told when a row is deleted between the moment it is read for their change and the change itself."""

import pytest
from django.contrib.messages import get_messages
from django.db.models.signals import post_init, post_save

from accounts.models import Plan, User
from accounts.tests.conftest import NEW_PASSWORD
from accounts.tests.test_races import at_once


@pytest.fixture
def staff(client, db):
    user = User.objects.create(email="root@example.com", is_staff=True, is_superuser=True, password="!")
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def deleted_once_read():
    """From now on, whoever reads this row reads it as the last one."""

    def arrange(row):
        model = type(row)

        def delete(instance, **_):
            if instance.pk == row.pk and post_init.disconnect(delete, sender=model):
                at_once(1, model.objects.filter(pk=row.pk).delete)

        post_init.connect(delete, sender=model, weak=False)

    return arrange


def act(staff, action, *rows, **entered):
    body = {"action": action, "_selected_action": [str(row.pk) for row in rows], "confirmed": "yes", **entered}
    return staff.post("/admin/accounts/user/", body)


def messages(answer):
    return " ".join(str(message) for message in get_messages(answer.wsgi_request))


@pytest.mark.parametrize(("action", "is_active", "plan"), [("disable", False, "free"), ("change_plan", True, "pro")])
def test_an_action_says_who_is_gone_and_goes_on(staff, owner, teammate, stranger, action, is_active, plan):
    def delete(instance, **_):
        if instance == stranger:
            User.objects.filter(pk=teammate.pk).delete()

    people = [stranger, teammate, owner]  # in the order of the list
    post_save.connect(delete, sender=User)
    answer = act(staff, action, *people, plan="pro")
    post_save.disconnect(delete, sender=User)
    assert messages(answer) == f"{teammate} was deleted meanwhile: nothing was changed there."
    left = User.objects.filter(pk__in=[user.pk for user in people])
    assert list(left.values_list("email", "is_active", "plan")) == [
        (stranger.email, is_active, plan),
        (owner.email, is_active, plan),
    ]


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "page", ["user/{user}/change/", "user/{user}/password/", "proxykey/{key}/change/", "plan/old/change/"]
)
def test_a_page_says_that_its_row_is_gone(staff, owner, make_key, deleted_once_read, page):
    key, plan = make_key(owner), Plan.objects.create(code="old", name="Old")
    row = {"user": owner, "proxykey": key, "plan": plan}[page.partition("/")[0]]
    body = {"email": owner.email, "plan": "free", "password1": NEW_PASSWORD, "password2": NEW_PASSWORD, "name": "New"}
    body |= {"max_api_keys": 5, "max_proxy_keys": 5}
    deleted_once_read(row)
    answer = staff.post(f"/admin/accounts/{page.format(user=owner.pk, key=key.pk)}", body)
    assert (answer.status_code, answer.headers["Location"]) == (302, f"/admin/accounts/{page.partition('/')[0]}/")
    assert "was deleted meanwhile" in messages(answer)
    assert not type(row).objects.filter(pk=row.pk).exists()
