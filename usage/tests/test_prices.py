"""Staff's prices: what may be entered, what becomes of it, and what users read of prices."""

import datetime as dt
from decimal import Decimal

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, OperationalError, transaction
from django.utils import timezone

from accounts.models import User
from audit.models import Event
from usage import pricing
from usage.models import Price, PriceQuerySet, UsageHour
from usage.overrides import Overrides
from usage.rows import Row, store
from usage.tests.conftest import an_end, sums_match_rows

pytestmark = pytest.mark.django_db

DAY = dt.timedelta(days=1)


def price(model: str = "gpt-99", **fields) -> Price:
    return Price(**{"provider": "openai", "model": model, "input": Decimal(1), "output": Decimal(2), **fields})


@pytest.fixture
def get(api, owner):
    def get(**query):
        answer = api(owner).get("/prices", query)
        return answer.status_code, answer.json()

    return get


@pytest.fixture
def staff(client):
    client.force_login(User.objects.create_superuser(email="staff@example.com"))
    return client


# --- what may be entered -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"input": Decimal(-1)},
        {"audio_output": Decimal("-0.000001")},
        {"until": timezone.now() - DAY},
        {"model": "GPT-99"},
        {"model": "*"},
        {"model": "gpt-*-mini"},
        {"provider": "nobody"},
        {"input": Decimal("0.0000001")},
    ],
)
def test_it_refuses_what_is_no_price(fields):
    with pytest.raises(ValidationError):
        price(**fields).full_clean()


@pytest.mark.parametrize("fields", [{"cache_read": -1}, {"until": timezone.now() - DAY}, {}])
def test_the_database_refuses_it_too(fields):
    now = timezone.now()
    price(valid_from=now).save()
    with pytest.raises(IntegrityError), transaction.atomic():
        price(valid_from=now, **fields).save()


def test_it_takes_a_price_of_every_class():
    full = price(**dict.fromkeys(pricing.CLASSES, Decimal("0.000001")))
    full.full_clean()
    full.save()
    (override,) = Price.objects.overrides()
    assert {getattr(override.dollars, name) for name in pricing.CLASSES} == {Decimal("0.000001")}


def test_it_hands_on_what_holds_or_is_to_come():
    now = timezone.now()
    for model, since, until in [
        ("over", -2 * DAY, -DAY),
        ("now", -DAY, DAY),
        ("open", -DAY, None),
        ("soon", DAY, None),
    ]:
        price(model, valid_from=now + since, until=until and now + until).save()
    assert {override.model for override in Price.objects.overrides()} == {"now", "open", "soon"}


def test_an_absent_database_changes_no_price(monkeypatch):
    def away(prices):
        raise OperationalError("away")

    monkeypatch.setattr(PriceQuerySet, "overrides", away)
    pricing.renew([price(valid_from=timezone.now() - DAY).override()])
    reader = Overrides()
    reader.open()
    reader.close()
    assert pricing.price_of("openai", "gpt-99").source == "staff"
    pricing.renew(())


# --- staff -------------------------------------------------------------------------------------------------------


def form(**fields) -> dict:
    now = timezone.now()
    times = {"valid_from_0": f"{now:%Y-%m-%d}", "valid_from_1": f"{now:%H:%M:%S}"}
    return {"provider": "openai", "model": "gpt-99", "input": "1", "output": "2", "note": "agreed", **times, **fields}


def test_staff_enter_a_price_and_the_audit_log_says_who(staff):
    assert staff.post("/admin/usage/price/add/", form()).status_code == 302
    found = Price.objects.get()
    event = Event.objects.get(object_id=str(found.pk))
    assert (event.actor, event.changes["input"]) == ("staff@example.com", [None, "1"])
    assert "gpt-99" in staff.get("/admin/usage/price/").content.decode()


def test_staff_end_a_price_that_has_begun_and_change_nothing_else(staff):
    begun = price(valid_from=timezone.now() - DAY)
    begun.save()
    page = f"/admin/usage/price/{begun.pk}/"
    end = timezone.now() + DAY
    staff.post(f"{page}change/", form(input="9", until_0=f"{end:%Y-%m-%d}", until_1="00:00:00"))
    staff.post(f"{page}delete/", {"post": "yes"})
    begun.refresh_from_db()
    assert (begun.input, begun.until.date(), begun.note) == (Decimal(1), end.date(), "agreed")


def test_staff_take_back_a_price_that_has_not_begun(staff):
    coming = price(valid_from=timezone.now() + DAY)
    coming.save()
    staff.post(f"/admin/usage/price/{coming.pk}/delete/", {"post": "yes"})
    assert not Price.objects.exists()


# --- users -------------------------------------------------------------------------------------------------------


def test_it_lists_what_every_model_costs(get):
    status, answer = get()
    models = {(row["provider"], row["model"]): row for row in answer["results"]}
    assert status == 200 and {provider for provider, _ in models} == {"openai", "anthropic", "google", "alibaba"}
    assert models["openai", "gpt-4o-mini"]["prices"] == [
        {"above": 0, "input": "0.15", "output": "0.6", "cache_read": "0.075"}
    ]
    assert models["google", "gemini-2.5-pro"]["prices"][1]["above"] == 200_000
    assert models["openai", "gpt-5"]["service_tiers"]["flex"][0]["input"] == "0.625"


def test_it_finds_a_model_by_any_of_its_names(get):
    _, answer = get(provider="openai", model="gpt-4o-2024-08-06")
    assert [(row["model"], row["source"], row["context"]) for row in answer["results"]] == [
        ("gpt-4o-2024-08-06", "book", 128_000)
    ]
    assert get(model="gpt-99") == (200, {"results": []})


def test_it_says_whose_price_holds(get):
    now = timezone.now()
    price("gpt-4o-mini", input=Decimal("0.1"), valid_from=now - DAY).save()
    price("gpt-4o", valid_from=now + DAY).save()
    price("gpt-99*", valid_from=now - DAY).save()
    models = {row["model"]: row for row in get(provider="openai")[1]["results"]}
    sources = {name: models[name]["source"] for name in ("gpt-4o-mini", "gpt-4o", "gpt-99*")}
    assert sources == {"gpt-4o-mini": "staff", "gpt-4o": "book", "gpt-99*": "staff"}
    assert models["gpt-4o-mini"]["prices"] == [{"above": 0, "input": "0.100000", "output": "2.000000"}]


def test_it_reads_staffs_prices_once(get, django_assert_max_num_queries):
    price().save()
    with django_assert_max_num_queries(3):
        get()


def test_it_says_what_is_wrong_with_a_question(get):
    assert get(provider="nobody")[0] == 400


def test_it_is_for_users(api):
    assert api(None).get("/prices").status_code == 401


# --- sums --------------------------------------------------------------------------------------------------------


def test_hours_add_up_costs_and_count_what_is_unknown():
    costs = [Decimal("0.00000001"), Decimal("9999.99999999"), Decimal(0), None, None]
    store([Row(an_end(cost=cost), "test") for cost in costs], lambda step: None)
    (hour,) = UsageHour.objects.all()
    assert (hour.cost, hour.unpriced, hour.requests) == (Decimal("10000.00000000"), 2, 5)
    assert sums_match_rows()
