"""A user's own names for models: `/model-aliases`, its rules, and the back-office."""

import pytest
from django.core.cache import cache
from django.db import IntegrityError, transaction
from django.test import Client

from accounts.keys import issue
from accounts.models import ProxyKey, User
from audit.models import Event
from proxy import models
from proxy.models import AliasRefused, ModelAlias

pytestmark = pytest.mark.django_db

LIST = "/model-aliases"
BEST = {"name": "best", "models": ["claude-opus-4-6", "gpt-4o"]}


@pytest.fixture
def client(api, owner):
    cache.clear()
    return api(owner)


@pytest.fixture
def key(owner):
    return issue(owner)[0]


@pytest.fixture
def best(client):
    return client.post(LIST, BEST).json()


def epoch_of(user):
    return User.objects.get(pk=user.pk).epoch


def test_it_keeps_a_list_of_models_under_a_name(client):
    answer = client.post(LIST, BEST)
    assert answer.status_code == 201
    assert answer.json() == client.get(f"{LIST}/{answer.json()['id']}").json()
    assert client.get(LIST).json()["results"] == [answer.json()]
    assert answer.json() | BEST | {"proxy_key": None} == answer.json()


def test_it_keeps_one_for_a_key_beside_one_for_all(client, key, best):
    answer = client.post(LIST, BEST | {"proxy_key": str(key.id), "models": ["gpt-4o"]})
    assert (answer.status_code, answer.json()["proxy_key"]) == (201, str(key.id))
    assert ModelAlias.objects.seen_by(key) == {"best": ("gpt-4o",)}
    assert ModelAlias.objects.seen_by(issue(key.user)[0]) == {"best": tuple(BEST["models"])}


def test_it_takes_a_name_once_for_all_and_once_a_key(client, key, best):
    bound = BEST | {"proxy_key": str(key.id)}
    assert client.post(LIST, bound).status_code == 201
    for again in (BEST, bound):
        answer = client.post(LIST, again)
        assert (answer.status_code, "already" in answer.json()["detail"]) == (409, True)
    other = client.post(LIST, BEST | {"name": "other"}).json()
    assert client.patch(f"{LIST}/{other['id']}", {"name": "best"}).status_code == 409


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"models": []}, "models"),
        ({"models": "gpt-4o"}, "models"),
        ({"models": ["nobodys"]}, "models"),
        ({"models": ["best"]}, "models"),  # no alias of an alias
        ({"models": ["gpt-4o", "gpt-4o"]}, "models"),
        ({"models": ["gpt-4o\r\nx: y"]}, "models"),
        ({"models": [f"gpt-{n}" for n in range(11)]}, "models"),
        ({"models": [7, None]}, "models"),
        ({"name": ""}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "openai/gpt-4o"}, "name"),
        ({"user": "x"}, "user"),
        ({"proxy_key": "00000000-0000-4000-8000-000000000000"}, "proxy_key"),
    ],
)
def test_it_says_what_is_wrong(client, fields, wrong):
    answer = client.post(LIST, BEST | fields)
    assert (answer.status_code, list(answer.json())) == (400, [wrong])
    assert not ModelAlias.objects.exists()


def test_it_tells_how_to_name_a_model_that_is_not_known(client):
    answer = client.post(LIST, BEST | {"models": ["gpt-4o", "nobodys"]})
    assert "Entry 2" in answer.json()["models"][0] and "openai/nobodys" in answer.json()["models"][0]


def test_it_takes_no_key_of_somebody_else(client, stranger):
    answer = client.post(LIST, BEST | {"proxy_key": str(issue(stranger)[0].id)})
    assert (answer.status_code, list(answer.json())) == (400, ["proxy_key"])


def test_it_belongs_to_its_owner_alone(api, stranger, best):
    url = f"{LIST}/{best['id']}"
    assert api(stranger).get(LIST).json()["results"] == []
    assert {getattr(api(stranger), method)(url).status_code for method in ("get", "patch", "delete")} == {404}
    assert ModelAlias.objects.count() == 1


def test_it_tells_the_workers_of_every_change(client, owner, best):
    url, counts = f"{LIST}/{best['id']}", [epoch_of(owner)]
    for call in (lambda: client.patch(url, {"models": ["gpt-4o"]}), lambda: client.delete(url)):
        assert call().status_code < 300
        counts.append(epoch_of(owner))
    assert counts == [2, 3, 4]


def test_it_tells_them_again_when_a_call_is_repeated(client, owner, best):
    """The first call may have been saved without reaching them."""
    url, before = f"{LIST}/{best['id']}", epoch_of(owner)
    assert client.post(LIST, BEST).status_code == 409
    assert [client.delete(url).status_code for _ in range(2)] == [204, 404]
    assert epoch_of(owner) == before + 3


def test_every_change_is_in_the_audit_log(client, best):
    client.patch(f"{LIST}/{best['id']}", {"models": ["gpt-4o"]})
    client.delete(f"{LIST}/{best['id']}")
    events = Event.objects.filter(object_id=best["id"]).order_by("id")
    assert [event.action for event in events] == ["create", "change", "delete"]
    assert events[1].changes == {"targets": [BEST["models"], ["gpt-4o"]]}


def test_it_goes_with_its_key_and_with_its_user(client, owner, key, best):
    client.post(LIST, BEST | {"proxy_key": str(key.id)})
    before = epoch_of(owner)
    key.delete()
    assert (ModelAlias.objects.count(), epoch_of(owner)) == (1, before + 1)
    owner.delete()
    assert not ModelAlias.objects.exists()


def test_it_is_refused_for_a_key_that_is_deleted_meanwhile(owner, key):
    alias = ModelAlias(user=owner, proxy_key=key, name="best", targets=BEST["models"])
    ProxyKey.objects.filter(pk=key.pk).delete()
    with pytest.raises(AliasRefused, match="gone"):
        alias.add()
    assert not ModelAlias.objects.exists()


def test_it_changes_its_name_and_models_and_nothing_else(client, key, best):
    url = f"{LIST}/{best['id']}"
    assert client.patch(url, {"name": "better"}).json()["name"] == "better"
    assert client.patch(url, {"proxy_key": str(key.id)}).status_code == 400
    assert client.put(url, BEST).status_code == 405


def test_it_keeps_only_so_many(client, monkeypatch):
    monkeypatch.setattr(models, "MOST_ALIASES", 2)
    statuses = [client.post(LIST, BEST | {"name": name}).status_code for name in "abc"]
    assert statuses == [201, 201, 409]


@pytest.mark.parametrize("fields", [{"name": "best"}, {"name": ""}])
def test_the_database_itself_keeps_the_rules(owner, best, fields):
    with pytest.raises(IntegrityError), transaction.atomic():
        ModelAlias.objects.bulk_create([ModelAlias(user=owner, targets=["gpt-4o"], **fields)])


def test_it_can_be_browsed(client, best):
    page = client.get(LIST, HTTP_ACCEPT="text/html").content.decode()
    assert "claude-opus-4-6" in page and 'name="proxy_key"' in page


# --- In the back-office ----------------------------------------------------------------------------------------------

ADMIN = "/admin/proxy/modelalias/"


@pytest.fixture
def staff():
    client = Client()
    user = User.objects.create(email="staff@example.com", is_staff=True, is_superuser=True)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def test_staff_find_an_alias_by_its_owner(staff, best, owner, django_assert_max_num_queries):
    with django_assert_max_num_queries(8):
        page = staff.get(f"{ADMIN}?q={owner.email}").content.decode()
    assert f"{best['id']}/change/" in page


def test_staff_change_an_alias_and_the_workers_learn_of_it(staff, owner, best):
    before = epoch_of(owner)
    staff.post(f"{ADMIN}{best['id']}/change/", {"name": "best", "targets": '["gpt-4.1"]'})
    assert ModelAlias.objects.get().targets == ["gpt-4.1"]
    assert epoch_of(owner) == before + 1


def test_staff_are_told_that_a_name_is_taken(staff, owner, best):
    ModelAlias(user=owner, name="good", targets=["gpt-4o"]).add()
    answer = staff.post(f"{ADMIN}{best['id']}/change/", {"name": "good", "targets": '["gpt-4o"]'})
    assert "There is an alias of this name already." in answer.content.decode()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"targets": '["nobodys"]'}, "Entry 1"),
        ({"name": "best", "targets": '["gpt-4o"]'}, "has an alias of this name"),
        ({"targets": '["gpt-4o"]', "proxy_key": "stranger"}, "belongs to another user"),
    ],
)
def test_staff_are_held_to_the_same_rules(staff, owner, stranger, best, fields, said):
    if fields.get("proxy_key"):
        fields = fields | {"proxy_key": str(issue(stranger)[0].pk)}
    page = staff.post(f"{ADMIN}add/", {"user": str(owner.pk), "name": "new"} | fields)
    assert said in page.content.decode()
    assert ModelAlias.objects.count() == 1


def test_staff_delete_aliases_and_the_workers_learn_of_it(staff, owner, best):
    before = epoch_of(owner)
    staff.post(ADMIN, {"action": "delete_selected", "_selected_action": [best["id"]], "post": "yes"})
    assert not ModelAlias.objects.exists()
    assert epoch_of(owner) == before + 1
