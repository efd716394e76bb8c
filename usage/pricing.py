"""Owns what a request costs: prices by class of token, which of them hold now, and the sum.

Prices come from the book that ships with the release (prices.json, made by `manage.py make_price_book`) and from staff,
who overrule it (usage/overrides.py reads theirs and calls `renew`). Knows no database and no provider's format.

Money is whole pico-dollars until it is shown: a price of six decimals in dollars a million tokens is a whole number of
them a token, so that nothing is ever rounded before the sum.
"""

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import msgspec

BOOK = Path(__file__).with_name("prices.json")
# What the columns of a cost hold: dollars with eight decimals, below this many dollars.
COST_LIMIT = 10_000
_STEP = 10**4  # pico-dollars in the last decimal of a cost
_PICO_LIMIT = COST_LIMIT * 10**12 - _STEP // 2  # from here on it is rounded up to what a column cannot hold
NOTHING = "0.00000000"
# Where the book's prices hold, of a provider with several addresses: Alibaba's are those of Singapore.
_LISTED_AT = re.compile(r"//dashscope-intl\.|\.ap-southeast-1\.")
# Model names come from clients: no more than this many are remembered.
_REMEMBERED = 4096


class Tokens(Protocol):
    """What was used. `cached` and `cache_write` are part of `input`, `cache_write_1h` of `cache_write`, `reasoning` of
    `output`, `audio_cached` of `cached`; the other kinds of audio and image are part of what was not cached.
    """

    @property
    def input(self) -> int: ...
    @property
    def output(self) -> int: ...
    @property
    def cached(self) -> int: ...
    @property
    def reasoning(self) -> int: ...
    @property
    def cache_write(self) -> int: ...
    @property
    def cache_write_1h(self) -> int: ...
    @property
    def audio_input(self) -> int: ...
    @property
    def audio_cached(self) -> int: ...
    @property
    def audio_output(self) -> int: ...
    @property
    def image_input(self) -> int: ...
    @property
    def image_output(self) -> int: ...
    @property
    def service_tier(self) -> str: ...


class Dollars(msgspec.Struct, frozen=True, omit_defaults=True):
    """Dollars a million tokens of each class. None: billed as what it is part of; of audio: not known.

    `reasoned` is the output of an answer with reasoning in it. `above`: holds for more input tokens than this.
    """

    input: Decimal
    output: Decimal = Decimal(0)
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    reasoned: Decimal | None = None
    audio_input: Decimal | None = None
    audio_cached: Decimal | None = None
    audio_output: Decimal | None = None
    image_input: Decimal | None = None
    image_output: Decimal | None = None
    above: int = 0


CLASSES = tuple(name for name in Dollars.__struct_fields__ if name != "above")


class _Rates(msgspec.Struct, frozen=True, gc=False):
    """Pico-dollars a token."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    cache_write_1h: int
    reasoned: int
    audio_input: int | None
    audio_cached: int | None
    audio_output: int | None
    image_input: int
    image_output: int
    above: int

    @classmethod
    def of(cls, dollars: Dollars) -> "_Rates":
        def pico(name: str) -> int | None:
            price = getattr(dollars, name)
            return None if price is None else int(price.scaleb(6))

        def known(name: str, other: int) -> int:
            price = pico(name)
            return other if price is None else price

        input, output = known("input", 0), known("output", 0)
        write = known("cache_write", input)
        audio_input = pico("audio_input")
        return cls(
            input=input,
            output=output,
            cache_read=known("cache_read", input),
            cache_write=write,
            cache_write_1h=known("cache_write_1h", write),
            reasoned=known("reasoned", output),
            audio_input=audio_input,
            audio_cached=audio_input if dollars.audio_cached is None else pico("audio_cached"),
            audio_output=pico("audio_output"),
            image_input=known("image_input", input),
            image_output=known("image_output", output),
            above=dollars.above,
        )

    def pico(self, tokens: Tokens) -> int | None:
        cached, written = tokens.cached, tokens.cache_write
        text = tokens.input - cached - written
        sum = text * self.input if text > 0 else 0
        sum += tokens.output * (self.reasoned if tokens.reasoning else self.output)
        if cached or written:
            sum += cached * self.cache_read + written * self.cache_write
            sum += tokens.cache_write_1h * (self.cache_write_1h - self.cache_write)
        # What is no text was counted as text above: here the difference.
        if tokens.image_input or tokens.image_output:
            sum += tokens.image_input * (self.image_input - self.input)
            sum += tokens.image_output * (self.image_output - self.output)
        if tokens.audio_input or tokens.audio_cached or tokens.audio_output:
            audio = self._audio(tokens)
            return None if audio is None else sum + audio
        return sum

    def _audio(self, tokens: Tokens) -> int | None:
        """What audio costs more than text; None when its price is not known."""
        more = 0
        for count, price, text in (
            (tokens.audio_input, self.audio_input, self.input),
            (tokens.audio_cached, self.audio_cached, self.cache_read),
            (tokens.audio_output, self.audio_output, self.output),
        ):
            if count and price is None:
                return None
            more += count * ((price or 0) - text)
        return more


class Price(msgspec.Struct, frozen=True):
    """What one model costs at present."""

    id: str  # of the model in the book, or staff's pattern
    source: str  # "book" or "staff"
    since: dt.datetime | None  # None: as long as it is known
    context: int | None  # the most input tokens, where known
    dollars: dict[str, list[Dollars]]  # of each service tier ("" is the standard one), by rising `above`
    rates: dict[str, list[_Rates]]  # the same

    def cost(self, tokens: Tokens) -> str | None:
        """US dollars to eight decimals; None when the price of what was used is not known, or it cannot be true."""
        steps = self.rates.get(tokens.service_tier)
        if steps is None:
            return None
        rates = steps[0]
        if len(steps) > 1:
            for step in steps[1:]:
                if tokens.input > step.above:
                    rates = step
        pico = rates.pico(tokens)
        if pico is None or not 0 <= pico < _PICO_LIMIT:
            return None
        digits = str((pico + _STEP // 2) // _STEP).zfill(9)
        return f"{digits[:-8]}.{digits[-8:]}"

    def unless_billed(self) -> str | None:
        """Nothing, if that is what every token costs; else None."""
        return NOTHING if self.dollars[""] == [Dollars(Decimal(0))] else None


class Override(msgspec.Struct, frozen=True):
    """A price of staff's; `model` is a name, or with a `*` at its end the beginning of names."""

    provider: str
    model: str
    since: dt.datetime
    until: dt.datetime | None
    dollars: Dollars

    def matches(self, model: str) -> bool:
        return model.startswith(self.model[:-1]) if self.model.endswith("*") else model == self.model


class Dated(msgspec.Struct, omit_defaults=True):
    """From a day (UTC) on; the last that has begun holds. `service_tiers`: other than the standard one."""

    prices: list[Dollars]
    since: dt.date | None = None
    service_tiers: dict[str, list[Dollars]] = {}


class Entry(msgspec.Struct, omit_defaults=True):
    """A model in the book; `match` is a regular expression for all of its names, in lower case."""

    id: str
    match: str
    dated: list[Dated]
    context: int | None = None


class Book(msgspec.Struct):
    about: str
    made: dt.date
    sources: dict[str, str]
    models: dict[str, list[Entry]]  # by provider; the first that matches

    @classmethod
    def read(cls) -> "Book":
        return msgspec.json.decode(BOOK.read_bytes(), type=cls)


@lru_cache(maxsize=1)
def book() -> dict[str, list[tuple[re.Pattern[str], Entry]]]:
    """The release's, read once: some milliseconds."""
    models = Book.read().models
    return {provider: [(re.compile(one.match), one) for one in entries] for provider, entries in models.items()}


class Prices:
    """What holds at one moment. Made anew when that may have changed."""

    def __init__(self, overrides: Iterable[Override] = (), at: dt.datetime | None = None) -> None:
        self._at = at or dt.datetime.now(tz=dt.UTC)
        holding = [one for one in overrides if one.since <= self._at and (one.until is None or self._at < one.until)]
        # A whole name before a beginning, the longer beginning first, then the later price.
        self.overrides = sorted(
            holding, key=lambda one: (not one.model.endswith("*"), len(one.model), one.since), reverse=True
        )
        self._found: dict[tuple[str, str], Price | None] = {}

    def of(self, provider: str, model: str) -> Price | None:
        key = provider, model
        try:
            return self._found[key]
        except KeyError:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            price = self._found[key] = self._find(provider, model.removeprefix("models/").lower())
            return price

    def _find(self, provider: str, model: str) -> Price | None:
        for override in self.overrides:
            if override.provider == provider and override.matches(model):
                return _staffs(override)
        for pattern, entry in book().get(provider, ()):
            if pattern.fullmatch(model):
                return self.in_book(entry)
        return None

    def in_book(self, entry: Entry) -> Price | None:
        """What an entry of the book says at this moment."""
        begun = [one for one in entry.dated if one.since is None or one.since <= self._at.date()]
        if not begun:
            return None
        found = begun[-1]
        since = dt.datetime.combine(found.since, dt.time(), dt.UTC) if found.since else None
        return _price(entry.id, "book", since, {"": found.prices, **found.service_tiers}, context=entry.context)

    def listed(self, provider: str) -> dict[str, Price]:
        """What every model costs that has a price, by the book's name of it or by staff's pattern."""
        found = {entry.id: self.of(provider, entry.id) or self.in_book(entry) for _, entry in book().get(provider, ())}
        for override in self.overrides:
            if override.provider == provider:
                found.setdefault(override.model, _staffs(override))
        return {name: price for name, price in sorted(found.items()) if price is not None}


def _staffs(override: Override) -> Price:
    return _price(override.model, "staff", override.since, {"": [override.dollars]})


def _price(
    id: str, source: str, since: dt.datetime | None, dollars: dict[str, list[Dollars]], *, context: int | None = None
) -> Price:
    rates = {tier: [_Rates.of(step) for step in steps] for tier, steps in dollars.items()}
    return Price(id, source, since, context, dollars, rates)


_present = Prices()
_overrides: Sequence[Override] = ()


def renew(overrides: Sequence[Override] | None = None) -> None:
    """What holds from now on in this process; None: staff's prices are as they were."""
    global _present, _overrides
    if overrides is not None:
        _overrides = overrides
    _present = Prices(_overrides)


def price_of(provider: str, model: str) -> Price | None:
    """What this model costs now, asked by any of its names; None: unknown."""
    return _present.of(provider, model)


def cost(provider: str, model: str, tokens: Tokens | None, address: str = "") -> str | None:
    """US dollars to eight decimals; None: unknown. Without its tokens it is known of what is free.

    `address`: another one of the provider than the usual, that was asked.
    """
    price = price_of(provider, model)
    if price is None or (address and price.source == "book" and not _LISTED_AT.search(address)):
        return None
    return price.cost(tokens) if tokens is not None else price.unless_billed()
