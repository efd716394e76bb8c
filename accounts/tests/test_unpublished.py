"""With real commits: what a client is told when Redis cannot be."""

import pytest

from accounts.models import ProxyKey
from accounts.tests.conftest import NEW_PASSWORD

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def key(transactional_db, owner, make_key):
    return make_key(owner)


def test_it_answers_503_and_has_revoked_the_key(api, owner, key, redis_away):
    answer = api(owner).delete(f"/proxy-api-keys/{key.id}")
    assert answer.status_code == 503
    assert int(answer["Retry-After"]) > 0
    assert "Saved, but the workers were not told" in answer.json()["detail"]
    key.refresh_from_db()
    assert key.status == "revoked"


def test_it_tells_the_workers_when_the_call_is_repeated(api, owner, key, redis_away, settings, redis_url, epochs):
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert api(owner).patch(f"/proxy-api-keys/{key.id}", {"rpm": 1}).status_code == 503
    settings.REDIS_URL = redis_url
    assert api(owner).patch(f"/proxy-api-keys/{key.id}", {"rpm": 1}).status_code == 200
    assert epochs.exists(f"aiproxy:epoch:key:{key.id}")


def test_it_answers_503_to_a_password_change_that_is_saved(api, owner, password, redis_away):
    answer = api(owner).post("/auth/password", {"current": password, "new": NEW_PASSWORD})
    assert answer.status_code == 503
    owner.refresh_from_db()
    assert owner.check_password(NEW_PASSWORD)


def test_it_hands_out_a_new_key_all_the_same(api, owner, redis_away, transactional_db):
    assert api(owner).post("/proxy-api-keys/generate", {}).status_code == 201
    assert ProxyKey.objects.count() == 1


def test_it_tells_staff_on_the_page(client, admin_user, owner, redis_away):
    client.force_login(admin_user, backend="django.contrib.auth.backends.ModelBackend")
    body = {"email": owner.email, "name": "Olga", "plan": "pro", "is_active": "on"}
    answer = client.post(f"/admin/accounts/user/{owner.pk}/change/", body, follow=True)
    assert "the workers were not told" in answer.content.decode()
    owner.refresh_from_db()
    assert owner.plan_id == "pro"
