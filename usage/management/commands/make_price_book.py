"""Makes the price book of a release from the price packages that are pinned for development.

genai-prices has the prices of OpenAI, Anthropic and Google, by kind of token and service tier; model-prices those of
Alibaba's international (Singapore) service. Neither is needed, or imported, by what runs.
"""

import datetime as dt
from decimal import Decimal
from importlib.metadata import version
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError

from usage.pricing import BOOK, Book, Dated, Dollars, Entry

ABOUT = "Made by `manage.py make_price_book`; dollars a million tokens. Do not edit: staff's prices overrule it."
_encode = msgspec.json.Encoder(decimal_format="number").encode

# Their words for a class of tokens, and ours. Searches, hours and characters are no tokens: not in the book.
_CLASSES = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "audio_input",
    "cache_audio_read_mtok": "audio_cached",
    "output_audio_mtok": "audio_output",
    "input_image_mtok": "image_input",
    "output_image_mtok": "image_output",
}
# Where a price of audio that is not said is known to be that of text: https://ai.google.dev/gemini-api/docs/pricing
_AUDIO_AS_TEXT = {"google"}


class Command(BaseCommand):
    help = "Makes usage/prices.json from the price packages in requirements/dev.txt. For developers, at a release."

    def handle(self, *args: Any, **options: Any) -> str:
        BOOK.write_bytes(render(dt.datetime.now(tz=dt.UTC).date()))
        return f"Wrote {BOOK}. Read its diff before you commit it."


def render(made: dt.date) -> bytes:
    """The whole file: a model a line, so that a change of price is a line of its diff."""
    book = make(made)
    providers = []
    for provider, entries in book.models.items():
        lines = b",\n".join(map(_encode, entries))
        providers.append(b"%b: [\n%b\n]" % (_encode(provider), lines))
    head = b'"about": %b,\n"made": %b,\n"sources": %b,\n' % tuple(map(_encode, (book.about, book.made, book.sources)))
    return b'{\n%b"models": {\n%b\n}\n}\n' % (head, b",\n".join(providers))


def make(made: dt.date) -> Book:
    try:
        from genai_prices import data
        from model_prices import _data as model_prices
    except ImportError as error:
        raise CommandError("This needs the packages of requirements/dev.txt.") from error
    providers = {one.id: one for one in data.providers}
    models = {name: _from_genai_prices(providers[name]) for name in ("openai", "anthropic", "google")}
    models["alibaba"] = [
        _from_model_prices(name, of) for name, of in sorted(model_prices()["prices"]["alibaba"].items())
    ]
    sources = {
        "openai, anthropic, google": f"genai-prices {version('genai-prices')}, MIT, © Pydantic Services Inc.",
        "alibaba": f"model-prices {version('model-prices')}, MIT, © 2026 wakamex; models.dev, MIT, © 2025 models.dev",
    }
    return Book(ABOUT, made, sources, models)


# --- genai-prices --------------------------------------------------------------------------------------------------


def _from_genai_prices(provider: Any) -> list[Entry]:
    entries = []
    for model in provider.models:
        conditional = model.prices if isinstance(model.prices, list) else None
        standard = [(one.constraint, one.prices) for one in conditional] if conditional else [(None, model.prices)]
        dated = [_dated(provider.id, model, since, prices) for since, prices in standard]
        if dated[-1] is not None and not (provider.id == "google" and model.id.startswith("claude")):
            found = [one for one in dated if one is not None]
            entries.append(Entry(model.id, _expression(model.match), found, model.context_window))
    return entries


def _dated(provider: str, model: Any, constraint: Any, prices: Any) -> Dated | None:
    """None for what has no price by the token; one that costs nothing has no price of any kind."""
    if not vars(prices):
        return Dated([Dollars(Decimal(0))])
    if getattr(prices, "input_mtok", None) is None:
        return None
    since = _day(constraint)
    names = {variant.when.get("service_tier") or variant.when.get("speed") for variant in model.price_variants or ()}
    tiers = {}
    for name in sorted(names - {None, "default"}):
        variants = [one for one in model.price_variants if set(one.when.values()) == {name}]
        begun = [one for one in variants if _began(one) <= (since or dt.date.min)]
        # Many begin on the day they were first written down: the first is taken to have held before, too.
        variant = max(begun, key=_began) if begun else min(variants, key=_began)
        tiers[name] = _steps(provider, vars(prices) | vars(variant.prices))
    return Dated(_steps(provider, vars(prices)), since, tiers)


def _began(variant: Any) -> dt.date:
    return _day(variant.constraint) or dt.date.min


def _day(constraint: Any) -> dt.date | None:
    if constraint is None:
        return None
    if not hasattr(constraint, "start_date"):
        raise CommandError(f"{constraint!r}: prices by the time of day are not known here.")
    day: dt.date = constraint.start_date
    return day


def _steps(provider: str, prices: dict[str, Any]) -> list[Dollars]:
    found = {_CLASSES[name]: price for name, price in prices.items() if name in _CLASSES and price is not None}
    starts = {0, *(tier.start for price in found.values() for tier in getattr(price, "tiers", ()))}
    steps = []
    for above in sorted(starts):
        classes = {name: _at(price, above) for name, price in found.items()}
        if provider in _AUDIO_AS_TEXT:
            audio = {"audio_input": classes["input"], "audio_output": classes.get("output", Decimal(0))}
            if "audio_input" not in classes and "cache_read" in classes:
                audio["audio_cached"] = classes["cache_read"]
            classes = audio | classes
        steps.append(Dollars(above=above, **classes))
    return steps


def _at(price: Any, above: int) -> Decimal:
    held: Decimal = getattr(price, "base", price)
    for tier in getattr(price, "tiers", ()):
        if above >= tier.start:
            held = tier.price
    return held


def _expression(clause: Any) -> str:
    """One regular expression, for all of a name in lower case, of their tree of clauses."""
    kind = type(clause).__name__
    if kind == "ClauseOr":
        return "|".join(_expression(one) for one in clause.or_)
    if kind == "ClauseAnd":
        return "".join(f"(?=(?:{_expression(one)})$)" for one in clause.and_) + ".*"
    if kind == "ClauseRegex":
        if not clause.regex.startswith("^"):
            raise CommandError(f"{clause.regex!r}: only expressions for a name's beginning are known here.")
        body = clause.regex[1:]
        return str(body[:-1] if body.endswith("$") else body + ".*")
    text = next(iter(vars(clause).values())).lower().replace(".", r"\.")
    shapes = {"ClauseEquals": text, "ClauseStartsWith": f"{text}.*", "ClauseEndsWith": f".*{text}"}
    return shapes.get(kind) or f".*{text}.*"


# --- model-prices --------------------------------------------------------------------------------------------------


def _from_model_prices(name: str, modes: dict[str, Any]) -> Entry:
    """The last price of each; an answer with reasoning in it is billed by the mode `thinking`."""
    rates = modes["standard"][-1]["rates"]
    reasoned = modes["thinking"][-1]["rates"] if "thinking" in modes else {}
    steps = [_dollars(rates, reasoned)]
    above = {tier["above"]: tier for tier in reasoned.get("tiers", ())}
    for tier in rates.get("tiers", ()):
        steps.append(_dollars(rates | tier, above.get(tier["above"], {}), tier["above"]))
    return Entry(name, name.replace(".", r"\."), [Dated(steps)])


def _dollars(rates: dict[str, Any], reasoned: dict[str, Any], above: int = 0) -> Dollars:
    names = {"input", "output", "cache_read", "cache_write"} & rates.keys()
    classes = {name: Decimal(str(rates[name])) for name in names}
    if "output" in reasoned:
        classes["reasoned"] = Decimal(str(reasoned["output"]))
    return Dollars(above=above, **classes)
