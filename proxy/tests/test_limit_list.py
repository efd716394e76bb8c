"""What users see of their limits is what their requests are counted against, and looking costs nothing."""

import asyncio

import pytest
import redis
from django.utils import timezone

from accounts.keys import issue
from accounts.models import ProxyKey
from proxy.limits import Ask, Limit
from proxy.limits.levels import read
from proxy.limits.redis import RedisLimiter
from proxy.policy import key_limit, plan_limit
from proxy.tests.limits_redis import PATIENCE, URL, own_keys, virtual_clock
from usage import rollup
from usage.tests.conftest import an_end

pytestmark = pytest.mark.django_db


@pytest.fixture
def key(owner) -> ProxyKey:
    return issue(owner, name="laptop", rpm=10, tpm=5_000, max_parallel=3)[0]


@pytest.fixture
def shared(settings, redis_url) -> None:
    """The workers count in Redis."""
    settings.REDIS_URL = redis_url


@pytest.fixture
def spend(redis_url, shared):
    """`spend(user, key, tokens)`: a request of these tokens is under way; how it was answered."""

    async def admit(ask):
        limiter = RedisLimiter(redis_url, PATIENCE)
        admission = await limiter.admit(ask)
        await limiter.close()
        return admission

    def spend(user, key, tokens):
        return asyncio.run(admit(Ask(f"{key.pk}:{tokens}", (plan_limit(user), key_limit(key)), tokens)))

    return spend


def get(api, user, **query):
    answer = api(user).get("/limits", query)
    assert answer.status_code == 200, answer.content
    return answer.json()


def remaining(allowed):
    return [allowed[kind]["remaining"] for kind in ("requests", "tokens", "parallel")]


def test_it_shows_full_limits_before_the_first_request(api, owner, key, shared):
    answer = get(api, owner)

    assert (answer["levels"], answer["plan"]["code"], answer["next"]) == ("current", "free", None)
    assert answer["plan"]["requests"] == {"limit": 60, "remaining": 60, "reset_ms": 0}
    assert remaining(answer["plan"]) == [60, 100_000, 10]
    assert answer["results"][0]["name"] == "laptop"
    assert remaining(answer["results"][0]) == [10, 5_000, 3]


def test_it_agrees_with_what_a_request_was_told(api, owner, key, spend):
    spend(owner, key, 900)
    told = spend(owner, key, 1_000)
    answer = get(api, owner)
    (own,) = answer["results"]

    # The key's are the tightest, which is what an answer's header fields say; a little has come back meanwhile.
    assert told.limit_requests == own["requests"]["limit"]
    assert told.remaining_requests == 8 <= own["requests"]["remaining"] <= 9
    assert told.remaining_tokens <= own["tokens"]["remaining"] < 5_000
    assert own["requests"]["reset_ms"] <= told.reset_requests_ms
    assert (own["parallel"]["remaining"], answer["plan"]["parallel"]["remaining"]) == (1, 8)


def test_it_counts_what_all_keys_spend_against_the_plan(api, owner, key, spend):
    other = issue(owner, name="server")[0]
    spend(owner, other, 50_000)
    answer = get(api, owner)

    assert answer["plan"]["tokens"]["remaining"] < 100_000
    assert {key["name"]: key["tokens"] for key in answer["results"]}["server"] is None
    assert {key["name"]: remaining(key) for key in answer["results"] if key["tokens"]} == {"laptop": [10, 5_000, 3]}


def test_it_takes_nothing():
    limits = [plan_of_sixty()]
    with own_keys() as prefix, redis.Redis.from_url(URL) as client:
        clock = virtual_clock(prefix + "now")
        client.set(prefix + "now", 10_000_000)
        asyncio.run(ask_once(prefix, clock, limits))
        before = client.dump(f"{prefix}user:a")
        looks = [read(URL, limits, prefix=prefix, clock=clock)[0] for _ in range(3)]

        # 60 a minute: one is gone, and is back after a second. The estimate of 100 tokens, of 6,000, likewise.
        assert {(look.remaining_requests, look.reset_requests_ms) for look in looks} == {(59, 1_000)}
        assert {(look.remaining_tokens, look.reset_tokens_ms, look.under_way) for look in looks} == {(5_900, 1_000, 1)}
        assert client.dump(f"{prefix}user:a") == before
        client.set(prefix + "now", 10_001_000)
        assert read(URL, limits, prefix=prefix, clock=clock)[0].remaining_requests == 60


def plan_of_sixty():
    return Limit("user:a", rpm=60, tpm=6_000, max_parallel=5)


async def ask_once(prefix, clock, limits):
    limiter = RedisLimiter(URL, PATIENCE, prefix=prefix, clock=clock)
    await limiter.admit(Ask("a", tuple(limits), 100))
    await limiter.close()


def test_it_shows_what_is_left_of_the_day_and_when_it_ends(api, owner, shared):
    owner.plan.rpd, owner.plan.tokens_month = 5, 1_000
    owner.plan.save()
    rollup.add([an_end(user_id=owner.pk, tokens_total=300)])
    day, month = get(api, owner)["plan"]["quotas"]

    assert (day["name"], day["limit"], day["used"], day["remaining"]) == ("rpd", 5, 1, 4)
    assert (month["name"], month["remaining"], month["resets_at"][8:]) == ("tokens_month", 700, "01T00:00:00Z")


def test_it_says_that_levels_are_unknown_where_workers_count_alone(api, owner, key, settings):
    settings.REDIS_URL = ""
    answer = get(api, owner)

    assert answer["levels"] == "unknown"
    assert answer["plan"]["requests"] == {"limit": 60, "remaining": None, "reset_ms": None}
    assert answer["results"][0]["parallel"] == {"limit": 3, "remaining": None}


def test_it_says_that_levels_are_unknown_while_redis_is_away(api, owner, key, settings):
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    answer = get(api, owner)

    assert (answer["levels"], answer["plan"]["tokens"]["limit"]) == ("unknown", 100_000)


def test_it_shows_nobody_elses_keys_and_none_that_is_over(api, owner, teammate, key, spend):
    spend(owner, key, 900)
    issue(owner, name="gone")[0].revoke()
    ProxyKey.objects.filter(pk=issue(owner, name="late")[0].pk).update(expires_at=timezone.now())

    assert [key["name"] for key in get(api, owner)["results"]] == ["laptop"]
    answer = get(api, teammate)
    assert (answer["results"], remaining(answer["plan"])) == ([], [60, 100_000, 10])


def test_it_pages_through_keys(api, owner, key, shared):
    issue(owner, name="server")
    first = get(api, owner, limit=1)
    second = api(owner).get(first["next"]).json()

    assert [page["results"][0]["name"] for page in (first, second)] == ["server", "laptop"]
    assert second["next"] is None


def test_it_asks_who_is_there(api):
    assert api(None).get("/limits").status_code == 401


@pytest.mark.parametrize("keys", [1, 4])
def test_it_asks_the_database_once_however_many_keys_there_are(api, owner, shared, django_assert_num_queries, keys):
    for number in range(keys):
        issue(owner, name=f"{number}", rpm=5)
    client = api(owner)
    owner.plan  # noqa: B018 - signing in reads it

    with django_assert_num_queries(1):
        assert len(client.get("/limits").json()["results"]) == keys
