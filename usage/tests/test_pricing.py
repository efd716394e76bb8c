"""What requests cost, reckoned by hand from the vendors' price lists; dollars a million tokens stand beside each.

OpenAI: https://platform.openai.com/docs/pricing; Anthropic: https://docs.anthropic.com/en/docs/about-claude/pricing;
Google: https://ai.google.dev/gemini-api/docs/pricing; Alibaba (Singapore):
https://www.alibabacloud.com/help/en/model-studio/model-pricing and /context-cache.
"""

import datetime as dt
from decimal import Decimal

import msgspec
import pytest

from proxy.wire import Usage
from usage import pricing
from usage.management.commands.make_price_book import render
from usage.pricing import Dollars, Override, Prices

NOW = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
M = 1_000_000


def used(input: int = 0, output: int = 0, **parts) -> Usage:
    return Usage(input=input, output=output, total=input + output, **parts)


def cost(provider: str, model: str, tokens: Usage, *overrides: Override, at: dt.datetime = NOW) -> str | None:
    price = Prices(overrides, at).of(provider, model)
    return price.cost(tokens) if price else None


@pytest.mark.parametrize(
    ("model", "tokens", "dollars"),
    [
        ("gpt-4o-mini", used(9), "0.00000135"),  # 0.15
        ("gpt-4o-mini", used(0, 3), "0.00000180"),  # 0.60
        ("gpt-4o-mini", used(1500, 100, cached=1024), "0.00020820"),  # 476 at 0.15, 1024 at 0.075, 100 at 0.60
        ("gpt-5", used(100, 500, reasoning=448), "0.00512500"),  # 1.25, 10; reasoning is output
        ("gpt-5.6-sol", used(6000, 10, cached=1000, cache_write=4000), "0.02460000"),  # 4, 0.40, 5, 20
        ("gpt-audio", used(120, 200, audio_input=100, audio_output=150), "0.01335000"),  # 2.50, 10; audio 32, 64
        ("gpt-image-1", used(50, 1000, image_input=40), "0.04045000"),  # 5; image 10; out 40
        ("gpt-5", used(1000, 100, service_tier="flex"), "0.00112500"),  # half
        ("gpt-5", used(1000, 100, service_tier="priority"), "0.00450000"),  # 2.50, 20
        ("text-embedding-3-small", used(5), "0.00000010"),  # 0.02
        ("gpt-4.1-2025-04-14", used(M, M), "10.00000000"),  # 2, 8; a snapshot
        ("ft:gpt-4o-mini-2024-07-18:org::id", used(M), "0.30000000"),  # 0.30
        ("omni-moderation-latest", used(M), "0.00000000"),  # free
    ],
)
def test_it_bills_openai_by_class_of_token(model, tokens, dollars):
    assert cost("openai", model, tokens) == dollars


def test_it_bills_a_long_prompt_of_openai_by_its_own_price():
    assert cost("openai", "gpt-5.6-sol", used(272_000, 1000)) == "1.10800000"  # 4, 20
    assert cost("openai", "gpt-5.6-sol", used(272_001, 1000)) == "2.20600800"  # 8, 30


@pytest.mark.parametrize(
    ("tokens", "dollars"),
    [
        (used(100), "0.00030000"),  # 3
        (used(0, 100), "0.00150000"),  # 15
        (used(1000, 0, cached=900), "0.00057000"),  # 100 at 3, 900 at 0.30
        (used(1000, 0, cache_write=900), "0.00367500"),  # 100 at 3, 900 at 3.75: for five minutes
        (used(1000, 0, cache_write=900, cache_write_1h=900), "0.00570000"),  # 900 at 6: for an hour
        (used(1000, 0, cache_write=900, cache_write_1h=400), "0.00457500"),  # 100 at 3, 500 at 3.75, 400 at 6
        (used(1800, 10, cached=1000, cache_write=500), "0.00322500"),  # 300 at 3, 1000 at 0.30, 500 at 3.75, 10 at 15
    ],
)
def test_it_bills_anthropic_by_class_of_token(tokens, dollars):
    assert cost("anthropic", "claude-sonnet-4-6", tokens) == dollars
    assert cost("anthropic", "claude-sonnet-4-5-20250929", tokens) == dollars


@pytest.mark.parametrize(
    ("model", "tokens", "dollars"),
    [
        ("gemini-2.5-flash", used(1000, 100, reasoning=60), "0.00055000"),  # 0.30, 2.50; thoughts are output
        ("gemini-2.5-flash", used(1000, 0, cached=800), "0.00008400"),  # 200 at 0.30, 800 at 0.03
        ("gemini-2.5-flash", used(1000, 0, audio_input=900), "0.00093000"),  # 100 at 0.30, audio at 1
        ("gemini-2.5-flash", used(1000, 0, cached=500, audio_cached=500), "0.00020000"),  # 500 at 0.30, audio at 0.10
        ("gemini-2.5-pro", used(200_000, 10), "0.25010000"),  # 1.25, 10
        ("gemini-2.5-pro", used(200_001, 10), "0.50015250"),  # 2.50, 15
        ("gemini-2.5-pro", used(300_000, 0, cached=100_000), "0.52500000"),  # 200,000 at 2.50, 100,000 at 0.25
        ("gemini-2.5-pro", used(100, 0, audio_input=100), "0.00012500"),  # audio as text
        ("models/gemini-embedding-001", used(10), "0.00000150"),  # 0.15
    ],
)
def test_it_bills_google_by_class_of_token(model, tokens, dollars):
    assert cost("google", model, tokens) == dollars


@pytest.mark.parametrize(
    ("tokens", "dollars"),
    [
        (used(1000, 100), "0.00052000"),  # 0.40, 1.20
        (used(1000, 100, cached=500), "0.00036000"),  # 500 at 0.40, 500 at 0.08
        (used(1000, 100, reasoning=80), "0.00080000"),  # an answer with thinking: all of its output at 4
        (used(256_001, 100), "0.30756120"),  # 1.20, 3.60
        (used(256_001, 100, reasoning=80), "0.30840120"),  # 1.20, 12
    ],
)
def test_it_bills_alibaba_by_class_of_token(tokens, dollars):
    assert cost("alibaba", "qwen-plus", tokens) == dollars


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-99"),
        ("anthropic", "claude-opus-5-9"),
        ("alibaba", "text-embedding-v3"),
        ("openai", ""),
        ("", ""),
    ],
)
def test_it_does_not_know_what_an_unknown_model_costs(provider, model):
    assert cost(provider, model, used(10, 10)) is None


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("gpt-4o-audio-preview", used(10, 10, audio_output=5)),
        ("gpt-4o-mini", used(10, 10, service_tier="scale")),
        ("gpt-5-pro", used((1 << 31) - 1, (1 << 31) - 1)),  # a quarter of a million dollars
    ],
)
def test_it_does_not_know_the_cost_of_what_has_no_price(model, tokens):
    assert cost("openai", model, tokens) is None


def test_it_knows_alibabas_prices_in_singapore_only():
    for host in ("dashscope-intl.aliyuncs.com", "ws1.ap-southeast-1.maas.aliyuncs.com"):
        assert pricing.cost("alibaba", "qwen-plus", used(M), f"https://{host}/v1") == "1.20000000"
    for host in ("dashscope.aliyuncs.com", "dashscope-us.aliyuncs.com", "coding-intl.dashscope.aliyuncs.com"):
        assert pricing.cost("alibaba", "qwen-plus", used(M), f"https://{host}/v1") is None


def test_it_takes_a_price_from_its_day_on():
    before = dt.datetime(2026, 12, 31, 23, 59, tzinfo=dt.UTC)
    assert cost("google", "gemini-3.7-flash", used(M), at=before) == "0.75000000"
    assert cost("google", "gemini-3.7-flash", used(M), at=before + DAY) == "1.50000000"


def staffs(model: str, input: str, since: dt.datetime = NOW - DAY, until: dt.datetime | None = None) -> Override:
    return Override("openai", model, since, until, Dollars(Decimal(input), Decimal("4")))


def test_staff_overrule_the_book_while_their_price_holds():
    override = staffs("gpt-4o-mini", "2", NOW, NOW + DAY)
    for at, dollars in [(NOW - DAY, "0.15000000"), (NOW, "2.00000000"), (NOW + DAY, "0.15000000")]:
        assert cost("openai", "gpt-4o-mini", used(M), override, at=at) == dollars
    assert cost("openai", "gpt-4o-mini-2024-07-18", used(M), override) == "0.15000000"
    assert cost("alibaba", "gpt-4o-mini", used(M), override) is None


def test_it_knows_no_cost_that_a_column_cannot_hold():
    pico = staffs("gpt-99", "0.000001")
    assert cost("openai", "gpt-99", used(10**16 - 5001), pico) == "9999.99999999"
    assert cost("openai", "gpt-99", used(10**16 - 5000), pico) is None


def test_the_nearest_price_of_staffs_holds_then_the_latest():
    prices = [
        staffs("gpt-*", "1"),
        staffs("gpt-99*", "2", NOW - 9 * DAY),
        staffs("gpt-99-x", "3", NOW - 9 * DAY),
        staffs("gpt-99-x", "4", NOW - 2 * DAY),
        staffs("gpt-99-x", "5", NOW + DAY),
    ]
    for model, dollars in [("gpt-1", "1"), ("gpt-99", "2"), ("GPT-99-x", "4")]:
        assert cost("openai", model, used(M), *prices) == f"{dollars}.00000000"


def test_it_never_remembers_more_names_than_it_should():
    prices = Prices(at=NOW)
    for number in range(pricing._REMEMBERED + 10):
        prices.of("openai", f"no-such-{number}")
    assert len(prices._found) <= pricing._REMEMBERED


def test_the_book_is_what_the_pinned_packages_say():
    assert render(pricing.Book.read().made) == pricing.BOOK.read_bytes()


def test_the_book_finds_the_same_model_as_its_package_by_every_name():
    from genai_prices import data

    for provider in (one for one in data.providers if one.id in {"openai", "anthropic", "google"}):
        known = {entry.id for _, entry in pricing.book()[provider.id]}
        for name in {name for model in provider.models for name in names_in(model.match)}:
            theirs = next((model for model in provider.models if model.is_match(name)), None)
            ours = next((entry.id for pattern, entry in pricing.book()[provider.id] if pattern.fullmatch(name)), None)
            assert ours == (theirs.id if theirs and theirs.id in known else None), name


def names_in(clause) -> list[str]:
    """The literal names in a tree of clauses, also with a date behind."""
    if hasattr(clause, "or_") or hasattr(clause, "and_"):
        return [name for one in (getattr(clause, "or_", None) or clause.and_) for name in names_in(one)]
    name = next(iter(vars(clause).values())).lower()
    return [] if hasattr(clause, "regex") else [name, f"{name}-20260131", f"{name}-tts", f"x{name}"]


def test_every_price_is_whole_pico_dollars_a_token():
    entries = [entry for entries in pricing.book().values() for _, entry in entries]
    prices = [prices for entry in entries for dated in entry.dated for prices in dated.prices]
    said = [value for one in prices for value in msgspec.structs.asdict(one).values() if isinstance(value, Decimal)]
    assert len(said) > 500
    assert all(value == round(value, 6) for value in said)
