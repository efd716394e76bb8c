"""What is told of prices that are missing or old."""

import datetime as dt
from decimal import Decimal

import pytest
from django.core.management import CommandError, call_command

from usage import pricing
from usage.models import Price
from usage.rows import Row, store
from usage.tests.conftest import an_end

pytestmark = pytest.mark.django_db


def asked(model, **fields):
    store([Row(an_end(model=model, **fields), "test")], lambda step: None)


def test_it_finds_nothing_wrong_with_priced_requests(capsys):
    asked("gpt-4o", cost=Decimal("0.5"))
    call_command("check_prices", max_age=3650)
    assert "Every model asked for in 7 days has a price." in capsys.readouterr().out


def test_it_names_a_model_without_a_price():
    asked("gpt-99")
    with pytest.raises(CommandError, match="openai/gpt-99 has no price: 1 requests in 7 days"):
        call_command("check_prices", max_age=3650)


def test_a_price_of_staffs_is_one(capsys):
    asked("gpt-99")
    Price.objects.create(provider="openai", model="gpt-99", input=1, output=1)
    call_command("check_prices", max_age=3650)
    assert "openai/gpt-99: 1 requests are without a cost, though its price is known now" in capsys.readouterr().out


def test_it_says_that_the_book_is_old(monkeypatch):
    book = pricing.Book.read()
    book.made -= dt.timedelta(days=91)
    monkeypatch.setattr(pricing.Book, "read", lambda: book)
    with pytest.raises(CommandError, match="The price book is .* days old: upgrade"):
        call_command("check_prices")


@pytest.mark.parametrize("days", [0, -1, 10**9])
def test_it_wants_a_number_of_days(days):
    with pytest.raises(CommandError, match="1 to 3650"):
        call_command("check_prices", days=days)
