"""Fills a database with believable data, and measures what staff wait for on every page of the back-office, and users
for their usage.

python -m benchmarks.backoffice --requests 1000000            a throw-away PostgreSQL database
python -m benchmarks.backoffice --requests 100000 --keep      … that stays, and is named, to be looked at
"""

import argparse
import base64
import datetime as dt
import os
import secrets
import statistics
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg

if TYPE_CHECKING:
    from accounts.models import User

SERVER = os.environ.get("TEST_DATABASE_URL", "postgres://postgres@127.0.0.1:5432/postgres")
DAYS = 60
USERS = 400
EMAIL = "staff@example.com"

# Users are drawn with a square, so that a few of them make most of the traffic; hours follow the sun. The id is a
# UUIDv7 of the row's time, as accounts/ids.py makes them.
_ROWS = """
CREATE UNLOGGED TABLE seed AS
SELECT gen_random_uuid() AS user_id, gen_random_uuid() AS proxy_key_id, n FROM generate_series(0, %(users)s - 1) n;
UPDATE seed SET user_id = u.id, proxy_key_id = k.id
  FROM (SELECT id, row_number() OVER (ORDER BY email) - 1 AS n FROM users WHERE NOT is_staff) u
  JOIN proxy_api_keys k ON k.user_id = u.id
 WHERE u.n = seed.n;
CREATE UNLOGGED TABLE models (n int, provider text, model text, pace float, price float);
INSERT INTO models VALUES
  (0, 'openai', 'gpt-4o-mini', 0.7, 0.4), (1, 'openai', 'gpt-4o', 1.3, 6),
  (2, 'anthropic', 'claude-sonnet-4-5', 2.1, 9),
  (3, 'openai', 'gpt-4o-mini', 0.7, 0.4), (4, 'google', 'gemini-2.5-flash', 0.9, 1),
  (5, 'alibaba', 'qwen-plus', 1.6, 0.8),
  (6, 'anthropic', 'claude-haiku-4-5', 0.8, 3), (7, 'openai', 'text-embedding-3-small', 0.12, 0.02),
  (8, 'google', 'gemini-2.5-pro', 3.4, 6), (9, 'openai', 'o4-mini', 6.5, 3);
CREATE UNLOGGED TABLE drawn AS
SELECT t, s.user_id, s.proxy_key_id, m.*, luck, 20 + (random() * random() * 4000)::int AS input,
       CASE WHEN m.n = 7 THEN 0 ELSE 5 + (random() * random() * 1800)::int END AS output,
       (m.pace * 1000 * (0.35 + 1.6 * random() * random() + 8 * random() ^ 12))::int AS ms
FROM (SELECT timestamptz %(now)s - (%(days)s - %(days)s * sqrt(random())) * interval '1 day'
                  - random() * random() * random() * interval '30 minutes' AS t,
             floor(%(users)s * random() ^ 2.2)::int AS u, floor(10 * random() ^ 1.25)::int AS m, random() AS luck
        FROM generate_series(1, %(requests)s)) draw
JOIN seed s ON s.n = u JOIN models m ON m.n = draw.m;
INSERT INTO proxy_requests
SELECT (lpad(to_hex((extract(epoch FROM ms_t) * 1000)::bigint), 12, '0') || '7'
        || substr(md5(random()::text), 1, 3) || '8' || substr(md5(random()::text), 1, 15))::uuid,
       user_id, proxy_key_id, NULL, ms_t,
       0.2 + random(), CASE WHEN ok THEN input ELSE 0 END, CASE WHEN ok THEN output ELSE 0 END,
       CASE WHEN ok THEN input + output ELSE 0 END, 0, 0, ms, CASE WHEN ok THEN ms / 3 END,
       CASE WHEN ok THEN 200 WHEN luck < 0.008 THEN 429 WHEN luck < 0.02 THEN 502 WHEN luck < 0.024 THEN 504
            ELSE 499 END,
       n %% 3 = 0, CASE WHEN ok THEN (input + output) * price / 1e6 END,
       CASE WHEN luck < 0.008 THEN '' ELSE provider END, model,
       CASE WHEN n = 7 THEN '/v1/embeddings' ELSE '/v1/chat/completions' END,
       CASE WHEN ok THEN 'ok' WHEN luck < 0.008 THEN 'refused' WHEN luck < 0.02 THEN 'provider_error'
            WHEN luck < 0.024 THEN 'timeout' ELSE 'client_gone' END,
       CASE WHEN ok THEN '' WHEN luck < 0.008 THEN 'Rate limit reached: 60 requests a minute for this key.'
            WHEN luck < 0.02 THEN 'The provider answered 500: The server had an error while processing your request.'
            WHEN luck < 0.024 THEN 'The provider did not answer in time.' ELSE '' END,
       CASE WHEN ok THEN 'provider' ELSE 'none' END,
       CASE WHEN luck < 0.008 THEN '' ELSE 'req_' || md5(random()::text) END, '0123456789ab'
FROM (SELECT *, date_trunc('milliseconds', t) AS ms_t, luck >= 0.03 AS ok FROM drawn ORDER BY t) d;
DROP TABLE seed, models, drawn;
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--keep", action="store_true", help="leave the database, and say how to look at it")
    parser.add_argument("--explain", action="store_true", help="show how the slowest query of each page is answered")
    parser.add_argument("--database", help="measure this one, which an earlier run kept")
    parser.add_argument("--only", default="", help="pages with this in their name")
    parser.add_argument("--rounds", type=int, default=9, help="calls of each page")
    options = parser.parse_args()
    if options.database:
        prepare(options.database)
        measure(options.rounds, options.only, explain=options.explain)
        return
    name = f"aiproxy_backoffice_{secrets.token_hex(3)}"
    url = urlunsplit(urlsplit(SERVER)._replace(path=f"/{name}"))
    with psycopg.connect(SERVER, autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{name}"')
        try:
            prepare(url)
            fill(options.requests)
            measure(options.rounds, options.only, explain=options.explain)
        finally:
            from django.db import connections

            connections["default"].close_pool()
            if options.keep:
                print(f"DATABASE_URL={url}")
            else:
                server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def prepare(url: str) -> None:
    """A service of its own around that database: secrets made for it, unless there are some."""
    keys = f"1:{base64.b64encode(secrets.token_bytes(32)).decode()}"
    for key in ("SECRET_KEY", "AIPROXY_JWT_KEY", "AIPROXY_FINGERPRINT_KEY"):
        os.environ.setdefault(key, secrets.token_urlsafe(48))
    os.environ.setdefault("AIPROXY_PEPPERS", keys)
    os.environ.setdefault("AIPROXY_MASTER_KEYS", keys)
    os.environ |= {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "aiproxy.settings", "ALLOWED_HOSTS": "*"}
    os.environ["AIPROXY_ADMIN_SECOND_FACTOR"] = "false"  # the pages are measured, not the door
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def fill(requests: int) -> None:
    from django.db import connection

    from usage.models import UsageHour
    from usage.rollup import TABLES

    started = time.perf_counter()
    now = dt.datetime.now(tz=dt.UTC)
    make_people(now)
    make_requests(requests, now)
    sum_them_up(now)
    with connection.cursor() as cursor:
        for table in ("proxy_requests", *(model._meta.db_table for model in TABLES)):
            cursor.execute(f"VACUUM ANALYZE {table}")
    hours = UsageHour.objects.count()
    print(f"{requests:,} requests, {hours:,} hours of usage, made in {time.perf_counter() - started:.0f} s")


def make_people(now: dt.datetime) -> None:
    """Users of two plans with a proxy key each, some of them with provider keys; and one of staff."""
    from accounts.keys import PREFIX
    from accounts.models import ProxyKey, User
    from vault import store
    from vault.secret import Secret

    plans = ["free", "free", "free", "pro"]
    people = [User(email=f"{word}@example.com", plan_id=plans[n % 4], created_at=now) for n, word in enumerate(names())]
    User.objects.bulk_create(people)
    ProxyKey.objects.bulk_create(
        ProxyKey(
            user=person, name="production", key_prefix=PREFIX + secrets.token_hex(4), verifier=b"", last_used_at=now
        )
        for person in people
    )
    for n, person in enumerate(people[:60]):
        for provider, prefix in [("openai", "sk-proj-"), ("anthropic", "sk-ant-")][: 1 + n % 2]:
            store.add(person.pk, provider, "main", Secret(prefix + secrets.token_hex(24)), priority=10)
    User.objects.create_superuser(EMAIL, None)


def make_requests(count: int, now: dt.datetime) -> None:
    """In the order of time, and the indexes after the rows: ten times as fast."""
    from django.db import connection

    from usage import partitions

    partitions.ensure(connection, {partitions.month_of(now - dt.timedelta(days=back)) for back in range(DAYS + 3)})
    values = {"requests": count, "users": USERS, "days": DAYS, "now": now.isoformat()}
    with connection.cursor() as cursor:
        cursor.execute("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'proxy_requests'")
        indexes = [row for row in cursor.fetchall() if " UNIQUE " not in row[1]]
        for index, _ in indexes:
            cursor.execute(f'DROP INDEX "{index}"')
        cursor.execute(_ROWS, values)
        for _, definition in indexes:
            cursor.execute(definition.replace(" ON ONLY ", " ON "))


def sum_them_up(now: dt.datetime) -> None:
    from usage import rebuild
    from usage.models import UsageHour
    from usage.rollup import DERIVED

    for day in rebuild.between(now - dt.timedelta(days=DAYS + 1), now):
        rebuild.from_log(day)
        rebuild.from_hours(day, UsageHour, DERIVED)


def names() -> list[str]:
    given = ["ada", "ben", "cleo", "dan", "eva", "finn", "gwen", "hugo", "iris", "jon", "kai", "lea", "max", "nora"]
    given += ["otto", "pia", "quin", "rosa", "sam", "tara"]
    families = ["abbott", "brandt", "costa", "duval", "eriksen", "fischer", "garcia", "hansen", "ito", "jensen"]
    return [f"{a}.{b}{n}" for n in range(USERS // 200) for b in families for a in given][:USERS]


def measure(rounds: int, only: str, *, explain: bool) -> None:
    """The median of each page, through all of Django but the socket: by the clock, and of this process's CPU, which is
    what is left where others have the cores too; and the slowest query of each."""
    from django.contrib.auth import get_user_model
    from django.core.cache import cache
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    from accounts.tokens import sign_in

    client = Client(SERVER_NAME="localhost")
    client.force_login(get_user_model().objects.get(email=EMAIL), backend="django.contrib.auth.backends.ModelBackend")
    token = f"Bearer {sign_in(busiest_user()).token}"
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{'page':52} {'ms':>6} {'own CPU':>8} {'queries':>8} {'slowest query, ms':>18}")
    for name, url, is_cached in [page for page in (*pages(), *calls()) if only in page[0]]:
        headers = {} if url.startswith("/admin") else {"Authorization": token}
        times, own = [], []
        for _ in range(rounds + 1):
            if not is_cached:
                cache.clear()
            started, busy = time.perf_counter(), time.process_time()
            answer = client.get(url, headers=headers)
            answer.getvalue() if answer.streaming else answer.content
            times.append((time.perf_counter() - started) * 1000)
            own.append((time.process_time() - busy) * 1000)
            assert answer.status_code == 200, (url, answer.status_code)
        if not is_cached:
            cache.clear()
        with CaptureQueriesContext(connection) as captured:
            client.get(url, headers=headers)
        asked = [query for query in captured.captured_queries if query["sql"].startswith("SELECT")]
        ours = [query for query in asked if '"proxy_requests"' in query["sql"] or '"usage_' in query["sql"]]
        slowest = max(ours or asked, key=lambda query: float(query["time"]))
        median, busy = statistics.median(times[1:]), statistics.median(own[1:])
        print(f"{name:52} {median:6.0f} {busy:8.0f} {len(captured):8} {float(slowest['time']) * 1000:18.0f}")
        if explain:
            with connection.cursor() as cursor:
                cursor.execute("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) " + slowest["sql"].replace("%", "%%"))
                print("\n".join(f"    {line}" for (line,) in cursor.fetchall()))


def pages() -> list[tuple[str, str, bool]]:
    """Name, URL, and whether what was read a moment ago may be shown again."""
    from usage.models import ProxyRequest

    log, hours = "/admin/usage/proxyrequest/", "/admin/usage/usagehour/"
    rows = ProxyRequest.objects.order_by("id")
    middle = rows.filter(created_at__gte=dt.datetime.now(tz=dt.UTC) - dt.timedelta(days=DAYS // 2))[0]
    busiest = busiest_user().pk
    email = f"{names()[0]}@example.com"
    search = [
        ("by request id", str(middle.id)),
        ("by the provider's id", middle.provider_request_id or "req_none"),
        ("by e-mail", email),
    ]
    return [
        ("overview, 24 hours, first time in a minute", "/admin/", False),
        ("overview, 7 days, first time in a minute", "/admin/?period=7d", False),
        ("overview, 30 days, first time in a minute", "/admin/?period=30d", False),
        ("overview, 30 days, again", "/admin/?period=30d", True),
        ("log, last 24 hours", log, True),
        ("log, all", f"{log}?when=all", True),
        ("log, all, a page in the middle", f"{log}?when=all&before={middle.id}", True),
        ("log, one day a month ago", f"{log}?when={middle.created_at:%Y-%m-%d}", True),
        ("log, all, failures", f"{log}?when=all&outcome=failed", True),
        ("log, all, an outcome that never was", f"{log}?when=all&outcome=drained", True),
        ("log, 30 days, one provider", f"{log}?when=30d&provider=alibaba", True),
        ("log, 30 days, a model that never was", f"{log}?when=30d&model=nothing", True),
        ("log, all, the busiest user", f"{log}?when=all&user={busiest}", True),
        *((f"log, all, search {what}", f"{log}?when=all&q={term}", True) for what, term in search),
        ("hours of usage, last 24 hours", hours, True),
        ("hours of usage, all", f"{hours}?when=all", True),
        ("users", "/admin/accounts/user/", True),
        ("a user", f"/admin/accounts/user/{busiest}/change/", True),
        ("provider keys", "/admin/vault/apikey/", True),
        ("export of 24 hours as CSV", f"{log}export/csv", True),
    ]


def busiest_user() -> "User":
    from django.db.models import Sum

    from accounts.models import User
    from usage.models import UsageDay

    most = UsageDay.objects.values("user_id").annotate(all=Sum("requests")).order_by("-all")[0]
    return User.objects.get(pk=most["user_id"])


def calls() -> list[tuple[str, str, bool]]:
    """What the busiest user asks of their own usage."""
    now = dt.datetime.now(tz=dt.UTC)

    def since(days: int) -> str:
        return f"from={now - dt.timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}"

    asked = {
        "summary, 24 hours, by model": f"summary?{since(1)}",
        "summary, 7 days, by hour": f"summary?group_by=hour&{since(7)}",
        "summary, 30 days, by model": f"summary?{since(30)}",
        "summary, 60 days, by key": f"summary?group_by=key&{since(60)}",
        "summary, ten years, by model": f"summary?top=5&rank=cost&{since(3653)}",
        "series, 24 hours, hour": f"series?step=hour&{since(1)}",
        "series, 30 days, hour": f"series?step=hour&{since(30)}",
        "series, 60 days, hour": f"series?step=hour&{since(60)}",
        "series, 13 days, hour, five models and others": f"series?step=hour&group_by=model&{since(13)}",
        "series, 60 days, day, five models and others": f"series?step=day&group_by=model&{since(60)}",
        "series, ten years, month, by provider": f"series?step=month&group_by=provider&{since(3653)}",
    }
    return [(f"usage: {name}", f"/usage/{path}", True) for name, path in asked.items()]


if __name__ == "__main__":
    main()
