"""What staff see first: right sums against the period before, links to the rows behind, only what they may see."""

import datetime as dt
import re
from decimal import Decimal

import pytest
from django.contrib.auth.models import Permission
from django.core.cache import cache
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.ids import uuid7
from accounts.models import User
from usage import charts, figures, rebuild
from usage.models import UsageHour
from usage.rollup import DERIVED

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _nothing_remembered():
    cache.clear()


@pytest.fixture
def enter(client):
    """A browser of staff with these permissions, or of a superuser."""

    def login(*permissions):
        user = User.objects.create(email="staff@example.com", is_staff=True, is_superuser=not permissions, password="!")
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return login


def spend(user, hours_ago, **sums):
    hour = timezone.now().replace(minute=0, second=0, microsecond=0) - dt.timedelta(hours=hours_ago)
    known = {"provider": "openai", "model": "gpt-4o-mini", "requests": 100, "errors": 5, "tokens_total": 1000}
    known |= {"cost": Decimal("2.5"), "latency_500": 60, "latency_1000": 35}
    UsageHour.objects.create(user_id=user.pk, proxy_key_id=uuid7(), hour=hour, **(known | sums))
    rebuild.from_hours(hour.replace(hour=0), UsageHour, DERIVED)


def tiles(answer):
    return {tile.title: tile for tile in answer.context["tiles"]}


def test_it_compares_now_with_the_period_before(enter, owner, teammate):
    spend(owner, 1)
    spend(teammate, 23)
    spend(owner, 24)
    shown = {title: (tile.value, tile.change) for title, tile in tiles(enter().get("/admin/")).items()}
    assert shown["Requests"] == ("200", "+100%")
    assert shown["Error rate"] == ("5.0%", "as before")
    assert shown["Tokens"] == ("2k", "+100%")
    assert shown["Cost"] == ("$5.00", "+100%")
    assert shown["Active users"] == ("2", "+100%")
    assert shown["Latency, p95"][1] == "as before"


def test_it_tells_worse_from_better(enter, owner):
    spend(owner, 1, errors=50, latency_500=0, latency_8000=100)
    spend(owner, 30)
    shown = tiles(enter().get("/admin/"))
    assert shown["Error rate"].is_worse and shown["Latency, median"].is_worse
    assert shown["Requests"].is_worse is None


@pytest.mark.parametrize("period", ["24h", "7d", "30d", "nonsense"])
@pytest.mark.parametrize("by", ["requests", "cost", "errors", "tokens_total", "nonsense"])
def test_its_charts_add_up(enter, owner, period, by):
    spend(owner, 1)
    spend(owner, 2, provider="google", model="gemini-2.5-pro", requests=7)
    answer = enter().get("/admin/", {"period": period, "by": by})
    field = by if by != "nonsense" else "requests"
    whole = float(sum(getattr(row, field) for row in UsageHour.objects.all()))
    for chart in answer.context["charts"].values():
        assert sum(chart.totals) == whole
        assert sum(value for column in chart.columns for value in column.values) == whole


def test_every_number_leads_to_the_rows_behind_it(enter, owner):
    spend(owner, 1)
    browser = enter()
    links = set(re.findall(r'href="(/admin/[^"]*\?[^"]*)"', browser.get("/admin/").text))
    assert any("outcome=failed" in link for link in links)
    assert any("model=gpt-4o-mini" in link for link in links)
    assert len(links) > 24  # the hours of the charts
    for link in sorted(links)[::5]:
        assert browser.get(link.replace("&amp;", "&")).status_code == 200


def asked(queries):
    return " ".join(query["sql"] for query in queries)


def test_it_reads_sums_and_never_the_log(enter, owner):
    spend(owner, 1)
    browser = enter()
    with CaptureQueriesContext(connection) as queries:
        browser.get("/admin/", {"period": "30d"})
    assert "usage_total_days" in asked(queries)
    assert "proxy_requests" not in asked(queries)


def test_it_remembers_for_a_minute(enter, owner):
    spend(owner, 1)
    browser = enter()
    browser.get("/admin/")
    with CaptureQueriesContext(connection) as queries:
        browser.get("/admin/")
    assert "usage_" not in asked(queries)


def test_it_shows_no_figures_to_who_may_not_see_them(enter, owner):
    spend(owner, 1)
    answer = enter("view_plan").get("/admin/")
    assert answer.status_code == 200
    assert "tiles" not in answer.context and owner.email not in answer.text
    assert "Your role does not include the figures." in answer.text


def test_it_shows_no_people_and_links_to_no_log_without_the_right(enter, owner):
    spend(owner, 1)
    page = enter("view_usagehour").get("/admin/").text
    assert "gpt-4o-mini" in page
    assert owner.email not in page and "Top users" not in page
    assert "/admin/usage/proxyrequest/" not in page


def test_it_says_what_waits_in_the_journal(enter, settings, tmp_path):
    settings.AIPROXY_DATA_DIR = str(tmp_path)
    (tmp_path / "journal" / "dead").mkdir(parents=True)
    (tmp_path / "journal" / "abc-00000001.sealed").write_bytes(b"x" * 2048)
    (tmp_path / "journal" / "dead" / "abc-00000000.sealed").write_bytes(b"x")
    page = " ".join(enter().get("/admin/").text.split())
    assert "1 segment (2.0 KB) waits" in page
    assert "1 record laid aside" in page


def test_what_a_client_wrote_is_inert(enter, owner):
    spend(owner, 1, model="<img src=x onerror=alert(1)>")
    page = enter().get("/admin/").text
    assert "<img src=x" not in page and "&lt;img src=x" in page


def test_no_page_needs_an_inline_style_or_script(enter, owner):
    spend(owner, 1)
    browser = enter()
    for path in ("/admin/", "/admin/usage/proxyrequest/", f"/admin/accounts/user/{owner.pk}/change/"):
        answer = browser.get(path)
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", answer.text), path


def test_a_users_page_shows_their_own_month(enter, owner, teammate):
    spend(owner, 1, requests=7)
    spend(teammate, 1, requests=50)
    page = enter().get(f"/admin/accounts/user/{owner.pk}/change/")
    assert page.context["usage"]["totals"]["requests"] == sum(page.context["usage"]["daily"]) == 7


def test_a_chart_adds_up_the_smallest_of_many_series():
    moments = [charts.Moment("now", "", {f"m{n}": 10.0 + n for n in range(12)})]
    chart = charts.stacked(moments)
    assert chart.names == ["m11", "m10", "m9", "m8", "m7", "m6", "m5", "others"]
    assert chart.totals[-1] == sum(10 + n for n in range(5))
    assert sum(bar.height for bar in chart.columns[0].bars) == pytest.approx(
        100 * sum(chart.totals) / chart.top, abs=0.1
    )


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (0.03, 0.03), (1, 1), (1.2, 1.5), (2, 2), (3.1, 4), (7, 8), (10, 10), (1372, 1500)]
)
def test_an_axis_ends_at_a_number_that_reads_well(value, top):
    assert charts.ceiling(value) == pytest.approx(top)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (950, "950"), (0.256, "0.26"), (1000, "1k"), (12_345, "12.3k"), (4_560_000, "4.56M")],
)
def test_numbers_are_short(value, text):
    assert figures.compact(value) == text
