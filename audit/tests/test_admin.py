import pytest

from accounts.models import User
from audit.models import Event

LIST = "/admin/audit/event/"


@pytest.fixture
def staff(client, owner):
    User.objects.filter(pk=owner.pk).update(is_staff=True, is_superuser=True)
    client.force_login(User.objects.get(pk=owner.pk), backend="django.contrib.auth.backends.ModelBackend")
    return client


def found(staff, **query):
    return [event.pk for event in staff.get(LIST, query).context["cl"].result_list]


def test_it_shows_old_and_new_values(staff, stranger):
    stranger.change_plan(type(stranger.plan).objects.get(code="pro"))
    page = staff.get(LIST).content.decode()
    assert "<b>plan</b>: free → pro" in page
    assert f"/admin/accounts/user/{stranger.pk}/change/" in page


def test_what_others_wrote_is_inert(staff, stranger):
    stranger.name = "<img src=x onerror=alert(1)>"
    stranger.save()
    for page in (LIST, f"{LIST}{Event.objects.latest('id').pk}/change/"):
        text = staff.get(page).content.decode()
        assert "<img src=x" not in text and "&lt;img src=x" in text


@pytest.mark.parametrize("page", ["add/", "{}/delete/"])
def test_nobody_writes_there(staff, stranger, page):
    event = Event.objects.latest("id")
    assert staff.get(LIST + page.format(event.pk)).status_code == 403
    assert staff.post(f"{LIST}{event.pk}/change/", {"note": "x"}).status_code == 403


def test_it_finds_by_whole_names_and_ids_only(staff, owner, stranger):
    stranger.disable()
    event = Event.objects.latest("id")
    assert event.pk in found(staff, q=str(stranger.pk))
    assert event.pk in found(staff, q=stranger.email)
    assert event.pk in found(staff, object_type="accounts.user", object_id=str(stranger.pk))
    assert event.pk not in found(staff, q=str(owner.pk))
    assert not found(staff, q="stranger") and not found(staff, q="%") and not found(staff, q="192.0.2.1")


def test_it_finds_what_one_request_did(staff):
    page = staff.post("/admin/accounts/plan/add/", {"code": "x", "name": "X", "max_api_keys": 1, "max_proxy_keys": 1})
    event = Event.objects.filter(action="create", object_type="accounts.plan").latest("id")
    assert event.request_id == page["x-request-id"]
    assert found(staff, q=event.request_id) == [event.pk]
    assert found(staff, q="ffffffff-ffff-4fff-bfff-ffffffffffff") == []


def test_the_list_costs_the_same_for_one_event_and_for_many(staff, stranger, django_assert_max_num_queries):
    for name in range(50):
        stranger.name = str(name)
        stranger.save()
    with django_assert_max_num_queries(8):
        assert staff.get(LIST).status_code == 200
