"""Owns made-up people and traffic for a service that is to be looked at; nothing of it was asked of any provider.

Rows come about as real ones do: keys are minted and sealed, costs are the price book's, hours are summed by the
rollup, and the audit log says who made them. The same seed gives the same people and the same shapes.
"""

import datetime as dt
import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import cycle
from random import Random
from typing import Any

from django.db import connection, transaction

from accounts import keys
from accounts.ids import made_at, uuid7
from accounts.models import Plan, ProxyKey, User
from aiproxy import demo
from proxy.models import ModelAlias
from proxy.routing import UNKNOWN_MODEL
from proxy.wire import Usage
from usage import partitions, pricing, rollup
from usage.models import Outcome, ProxyRequest, UsageSource
from vault import store
from vault.models import ApiKey
from vault.secret import Secret

WRITER = "seed_demo"
_BATCH = 2_000


@dataclass(frozen=True)
class Model:
    """`share` of all requests; milliseconds to the first byte and for each output token; a usual answer's tokens."""

    provider: str
    name: str
    share: float
    first_ms: float
    token_ms: float
    answer: int


_MODELS = [
    Model("openai", "gpt-4o-mini", 30, 380, 6, 190),
    Model("anthropic", "claude-sonnet-4-5", 20, 900, 14, 420),
    Model("openai", "gpt-4.1", 12, 620, 11, 310),
    Model("google", "gemini-2.5-flash", 11, 420, 5, 260),
    Model("openai", "text-embedding-3-small", 9, 110, 0, 0),
    Model("anthropic", "claude-haiku-4-5", 8, 450, 6, 220),
    Model("openai", "gpt-5-mini", 5, 1_400, 9, 520),
    Model("alibaba", "qwen-plus", 3, 800, 12, 280),
    Model("google", "gemini-2.5-pro", 2, 2_600, 16, 640),
]
# Share of all requests, status, how it ended, and what was written down.
_FAILURES = [
    (0.009, 429, Outcome.REFUSED, "Over your plan's limit of 60 requests a minute. Try again in 1.4s."),
    (0.007, 502, Outcome.PROVIDER_ERROR, "The provider closed the connection before it answered."),
    (0.006, 503, Outcome.PROVIDER_ERROR, "Overloaded"),
    (0.003, 504, Outcome.TIMEOUT, "The provider did not answer in time."),
    (0.002, 424, Outcome.PROVIDER_ERROR, "The provider refused the stored key. Replace it, then try again."),
    (0.006, 499, Outcome.CLIENT_GONE, ""),
]
_GIVEN = "Ada Ben Cleo Dan Eva Finn Gwen Hugo Iris Jon Kai Lea Max Nora Otto Pia Quin Rosa Sam Tara Uma Vera Will Yara"
_FAMILY = "Abbott Brandt Costa Duval Eriksen Fischer Garcia Hansen Ito Jensen Keller Laurent"
_KEYS = ["production", "staging", "notebook"]
_KEY_BEGINNINGS = {"openai": "sk-proj-", "anthropic": "sk-ant-api03-", "google": "AIza", "alibaba": "sk-"}


class InUse(Exception):
    """Real people are here, whom made-up ones must not be mixed with."""


@dataclass
class Person:
    user: User
    weight: float
    proxy_keys: list[ProxyKey]
    api_keys: dict[str, ApiKey]


def seed(*, requests: int, people: int, days: int, now: dt.datetime, number: int = 1) -> None:
    """Raises InUse where anybody but the demo's own person has an account."""
    if User.objects.exclude(email=demo.EMAIL).exists():
        raise InUse
    random = Random(number)  # noqa: S311  shapes, not secrets
    start = now - dt.timedelta(days=days)
    names = [f"{given} {family}" for given, family in zip(_GIVEN.split(), cycle(_FAMILY.split()), strict=False)]
    everybody = [_person(name, place, random, start) for place, name in enumerate(names[:people])]
    if own := User.objects.filter(email=demo.EMAIL).first():
        everybody.insert(0, _with_keys(own, weight=2.0, random=random))
    _unusual(everybody, now)
    months = {partitions.month_of(start + dt.timedelta(days=day)) for day in range(days + 2)}
    partitions.ensure(connection, months)
    rows = _traffic(everybody, requests, start, now, random)
    while batch := [row for row, _ in zip(rows, range(_BATCH), strict=False)]:
        with transaction.atomic():
            ProxyRequest.objects.bulk_create(batch)
            rollup.add(batch)
    _note_last_use(everybody)


# --- People ---------------------------------------------------------------------------------------------------------


def _person(name: str, place: int, random: Random, start: dt.datetime) -> Person:
    joined = start + dt.timedelta(hours=random.uniform(0, 30 * place))
    plan = "enterprise" if place == 1 else "pro" if place % 4 == 0 else "free"
    email = f"{name.lower().replace(' ', '.')}@example.com"
    verified = place % 9 != 8
    user = User.objects.create_user(
        email, name=name, plan=Plan.objects.get(code=plan), email_verified=verified, created_at=joined
    )
    # a few of them make most of the traffic
    return _with_keys(user, weight=1 / (1 + place) ** 0.9, random=random)


def _with_keys(user: User, *, weight: float, random: Random) -> Person:
    proxy_keys = list(user.proxy_keys.all().live())
    for name in _KEYS[: random.randint(1, 3)]:
        row, _ = keys.issue(user, name=name, created_at=user.created_at)
        proxy_keys.append(row)
    stored = {key.provider: key for key in user.api_keys.all()}
    for provider, beginning in _KEY_BEGINNINGS.items():
        if provider not in stored and (provider == "openai" or random.random() < 0.7):
            secret = Secret(beginning + keys.mint().key_id * 4 + keys.mint().key_id[:3])
            stored[provider] = store.add(user.pk, provider, "main", secret, created_at=user.created_at)
    return Person(user, weight, proxy_keys, stored)


def _unusual(everybody: list[Person], now: dt.datetime) -> None:
    """What a list should show at least once: limits of a key's own, an alias, what is revoked, ends or is refused."""
    one, last = everybody[len(everybody) // 2], everybody[-1]
    one.proxy_keys[0].change(rpm=30, allowed_models=["gpt-4o-mini", "claude-*"], ip_allowlist=["203.0.113.0/24"])
    ModelAlias.objects.create(user=one.user, name="fast", targets=["gpt-4o-mini", "claude-haiku-4-5"])
    keys.issue(last.user, name="workshop", expires_at=now + dt.timedelta(days=3))
    keys.issue(last.user, name="old laptop")[0].revoke()
    if refused := last.api_keys.get("openai"):
        store.record_test(refused, valid=False, error="Incorrect API key provided.")
    last.user.disable()


def _note_last_use(everybody: list[Person]) -> None:
    for person in everybody:
        for key in person.proxy_keys:
            newest = ProxyRequest.objects.of_user(person.user.pk).filter(proxy_key_id=key.pk).first()
            ProxyKey.objects.filter(pk=key.pk).update(last_used_at=newest and newest.created_at)
        for api_key in person.api_keys.values():
            newest = ProxyRequest.objects.of_user(person.user.pk).filter(api_key_id=api_key.pk).first()
            ApiKey.objects.filter(pk=api_key.pk).update(last_used_at=newest and newest.created_at)


# --- Traffic --------------------------------------------------------------------------------------------------------


def _traffic(
    everybody: list[Person], count: int, start: dt.datetime, now: dt.datetime, random: Random
) -> Iterator[ProxyRequest]:
    weights = [person.weight for person in everybody]
    moments = [_moment(start, now, random) for _ in range(count)]
    for moment, person in zip(sorted(moments), random.choices(everybody, weights, k=count), strict=True):
        yield _request(person, moment, random)


def _moment(start: dt.datetime, now: dt.datetime, random: Random) -> dt.datetime:
    """More from week to week, most of it in the afternoon, little at week-ends."""
    while True:
        moment = start + (now - start) * math.sqrt(random.random())
        hours = moment.hour + moment.minute / 60
        likely = 0.25 + 0.75 * (1 + math.cos((hours - 14) / 24 * 2 * math.pi)) / 2
        if random.random() < likely * (0.45 if moment.weekday() >= 5 else 1):
            return moment


def _request(person: Person, moment: dt.datetime, random: Random) -> ProxyRequest:
    open_to = [model for model in _MODELS if model.provider in person.api_keys]
    model = random.choices(open_to, [model.share for model in open_to])[0]
    id = uuid7(int(moment.timestamp() * 1000))
    luck = random.random()
    if model.provider == "alibaba" and (made_at(id) - dt.timedelta(hours=3)).weekday() == 1:
        luck /= 4  # a bad day a week
    for share, status, outcome, message in _FAILURES:
        luck -= share
        if luck < 0:
            cost = None if outcome in (Outcome.TIMEOUT, Outcome.CLIENT_GONE) else Decimal(0)
            failed = {"status_code": status, "outcome": outcome, "error_message": message, "cost": cost}
            return _row(person, id, model, random, **failed)
    return _row(person, id, model, random, **_answer(model, random))


def _answer(model: Model, random: Random) -> dict[str, Any]:
    output = int(model.answer * random.lognormvariate(0, 0.6))
    input = int(random.lognormvariate(6.6, 0.9))
    used = Usage(input=input, output=output, total=input + output, cached=input // 2 if random.random() < 0.2 else 0)
    first = model.first_ms * random.lognormvariate(0, 0.35)
    cost = pricing.cost(model.provider, model.name, used)
    return {
        "status_code": 200,
        "outcome": Outcome.OK,
        "tokens_input": used.input,
        "tokens_output": used.output,
        "tokens_total": used.total,
        "tokens_cached": used.cached,
        "usage_source": UsageSource.PROVIDER,
        "cost": None if cost is None else Decimal(cost),
        "ttft_ms": int(first),
        "latency_ms": int(first + model.token_ms * output * random.uniform(0.8, 1.3)),
    }


def _row(person: Person, id: Any, model: Model, random: Random, **ended: Any) -> ProxyRequest:
    embeds = model.answer == 0
    asked = ended["outcome"] != Outcome.REFUSED
    return ProxyRequest(
        id=id,
        created_at=made_at(id),
        user_id=person.user.pk,
        proxy_key_id=random.choices(person.proxy_keys, range(len(person.proxy_keys), 0, -1))[0].pk,
        api_key_id=person.api_keys[model.provider].pk if asked else None,
        provider=model.provider if asked else "",
        model=model.name if asked else UNKNOWN_MODEL,
        endpoint="embeddings" if embeds else "messages" if model.provider == "anthropic" else "chat.completions",
        streamed=not embeds and random.random() < 0.6,
        provider_request_id=f"req_{random.getrandbits(96):024x}" if asked else "",
        overhead_ms=random.uniform(0.2, 0.9),
        writer=WRITER,
        **{"latency_ms": int(random.lognormvariate(6, 1)) if asked else 1, **ended},
    )
