"""Owns the landing page, and what is at fixed addresses beside it for those who look for it: robots, sitemap, icon.

What it says of speed is what docs/performance.json has, of models what holds of the price book, of plans their rows.
"""

import datetime as dt
import json
from decimal import Decimal
from functools import cache
from typing import NamedTuple
from xml.sax.saxutils import escape

from django.conf import settings
from django.contrib.staticfiles.storage import staticfiles_storage
from django.core.cache import cache as shared
from django.db.models import F
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from accounts.models import Plan
from usage.models import Price as StaffPrice
from usage.pricing import Prices
from vault.providers import PROVIDERS

# Pages that are found by looking for them; all else wants an account.
_PAGES = ("landing", "docs", "redoc")
_CLOSED = ("/api", "/auth/", "/v1/")
_KEPT = 60  # seconds that prices and plans are remembered


class Model(NamedTuple):
    name: str
    context: int | None
    input: str  # dollars a million tokens
    output: str


class Offer(NamedTuple):
    """A provider, and its models that have a price."""

    title: str
    models: list[Model]


class Measured(NamedTuple):
    """Of the last published run: one worker on one core, everything on."""

    added_ms: float
    first_chunk_ms: float
    requests_per_second: float
    memory_mb: float
    exchanges: int
    rows_missing: int
    cpu: str
    date: dt.datetime


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    origin = _origin(request)
    offers, plans = shared.get_or_set("landing", _offers_and_plans, _KEPT) or _offers_and_plans()
    # one that was moved is not for everybody to find
    is_open = settings.AIPROXY_ADMIN_PATH == "admin" and not settings.AIPROXY_ADMIN_HOST
    context = {
        "description": _(
            "Keep your provider keys encrypted, give each program a key of its own, and see what every request cost."
            " For any OpenAI or Anthropic client."
        ),
        "origin": origin,
        "measured": measured(),
        "offers": offers,
        "model_count": sum(len(offer.models) for offer in offers),
        "plans": plans,
        "back_office": is_open,
    }
    return render(request, "landing.html", context)


def _offers_and_plans() -> tuple[list[Offer], list[Plan]]:
    prices = Prices(StaffPrice.objects.overrides())
    offers = [Offer(provider.title, _models(prices, slug)) for slug, provider in PROVIDERS.items()]
    return offers, list(Plan.objects.order_by(F("price").asc(nulls_last=True), "rpm"))


def _models(prices: Prices, provider: str) -> list[Model]:
    found = []
    for name, price in prices.listed(provider).items():
        dollars = price.dollars[""][0]
        found.append(Model(name, price.context, _plain(dollars.input), _plain(dollars.output)))
    return found


def _plain(dollars: Decimal) -> str:
    return f"{dollars.normalize():f}"


@cache
def measured() -> Measured | None:
    """None where the file did not come along, or a run had no figure for something."""
    try:
        report = json.loads((settings.BASE_DIR / "docs" / "performance.json").read_text())
        machine, ours, direct = report["machine"], report["targets"]["aiproxy"], report["targets"]["direct"]
        return Measured(
            added_ms=(ours["p50_1_us"] - direct["p50_1_us"]) / 1000,
            first_chunk_ms=(ours["first_chunk_p50_us"] - direct["first_chunk_p50_us"]) / 1000,
            requests_per_second=ours["requests_per_second"],
            memory_mb=ours["worker_after_soak_mb"],
            exchanges=int(ours["answered"]),
            rows_missing=max(0, int(ours["answered"] - ours["rows"])),
            cpu=f"{machine['cpu']}, {machine['system']}",
            date=dt.datetime.fromisoformat(machine["date"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


@require_safe
def robots(request: HttpRequest) -> HttpResponse:
    lines = ["User-agent: *", *(f"Disallow: {path}" for path in _CLOSED), f"Sitemap: {_origin(request)}/sitemap.xml"]
    return HttpResponse("\n".join(lines) + "\n", content_type="text/plain")


@require_safe
def sitemap(request: HttpRequest) -> HttpResponse:
    places = "".join(f"<url><loc>{escape(_origin(request) + reverse(name))}</loc></url>" for name in _PAGES)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
    return HttpResponse(f"{head}{places}</urlset>\n", content_type="application/xml")


@require_safe
def favicon(request: HttpRequest) -> HttpResponse:
    """For those who ask without having read a page."""
    return HttpResponseRedirect(staticfiles_storage.url("aiproxy/icon.ico"))


def _origin(request: HttpRequest) -> str:
    return (settings.AIPROXY_PUBLIC_URL or request.build_absolute_uri("/")).rstrip("/")
