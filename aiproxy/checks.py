"""Owns the system checks on our settings; docs/configuration.md lists them. The vault checks its own (vault/checks.py).

Messages name settings and entries, never a value: they end in logs.
"""

import ast
import base64
import binascii
import difflib
import functools
import ipaddress
import logging
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.http.request import split_domain_port, validate_host

from accounts.addresses import networks, split_url
from accounts.keyset import KeysetError, parse_keyset
from proxy.limits.connection import Address
from usage import disk

TAG = "aiproxy"  # what asgi.py runs before it serves
MIN_SECRET = 32  # characters of a text, bytes of a pepper
TEXT_SECRETS = ("SECRET_KEY", "AIPROXY_JWT_KEY", "AIPROXY_METRICS_TOKEN")
PEPPERS = "AIPROXY_PEPPERS"
# Read by others than settings.py: the start-up itself, the test suite.
OTHER_NAMES = {"AIPROXY_ENV_FILE", "AIPROXY_TEST_DB", "AIPROXY_TRAFFIC_DIR", "AIPROXY_LIVE_OPENAI_KEY"}
_EXAMPLES = (
    "example",
    "changeme",
    "change-me",
    "change_me",
    "change-this",
    "insecure",
    "secret",
    "password",
    "sk-1234",
)
# First parts of other paths.
_TAKEN = (
    "api",
    "api-keys",
    "auth",
    "console",
    "docs",
    "health",
    "language",
    "limits",
    "livez",
    "metrics",
    "model-aliases",
    "prices",
    "proxy-api-keys",
    "readyz",
    "static",
    "usage",
    "v1",
)
_MAKE_TEXT = 'Generate one: `python -c "import secrets; print(secrets.token_urlsafe(48))"`.'
_MAKE_PEPPER = "Generate one with `openssl rand -base64 32`, and write it after its id, as in `1:…`."


@register(TAG, Tags.security)
def check_text_secrets(**_: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for name in TEXT_SECRETS:
        value = getattr(settings, name)
        if not value:
            continue  # the one that may be left out; settings.py puts a mark where others are
        if value.startswith("missing-"):
            found.append(Error(f"{name} is not set.", _MAKE_TEXT, id="aiproxy.E001"))
        elif len(value) < MIN_SECRET:
            message = f"{name} has {len(value)} characters; it needs at least {MIN_SECRET}."
            found.append(Error(message, _MAKE_TEXT, id="aiproxy.E002"))
        elif _is_example(value.encode()):
            found.append(Error(f"{name} is an example, not a random key.", _MAKE_TEXT, id="aiproxy.E003"))
    return found


@register(TAG, Tags.security)
def check_peppers(**_: Any) -> list[CheckMessage]:
    text = settings.AIPROXY_PEPPERS
    if not text:
        return [Error(f"{PEPPERS} is not set: proxy keys cannot be verified.", _MAKE_PEPPER, id="aiproxy.E001")]
    try:
        peppers = parse_keyset(text)
    except KeysetError as error:
        return [Error(f"{PEPPERS} cannot be read: {error}.", "It is `id:base64,id:base64`.", id="aiproxy.E005")]
    found: list[CheckMessage] = []
    for pepper_id, pepper in peppers.items():
        if len(pepper) < MIN_SECRET:
            message = f"{PEPPERS}: pepper {pepper_id} has {len(pepper)} bytes; it needs at least {MIN_SECRET}."
            found.append(Error(message, _MAKE_PEPPER, id="aiproxy.E002"))
        elif _is_example(pepper):
            message = f"{PEPPERS}: pepper {pepper_id} is an example, not a random key."
            found.append(Error(message, _MAKE_PEPPER, id="aiproxy.E003"))
    return found


@register(TAG, Tags.security)
def check_secrets_differ(**_: Any) -> list[CheckMessage]:
    """One key, one purpose. The vault's checks compare its secrets with these."""
    secrets = dict(_secrets())
    return [
        Error(f"{one} and {other} are the same secret.", "Generate one for each purpose.", id="aiproxy.E004")
        for (one, first), (other, second) in combinations(secrets.items(), 2)
        if first & second
    ]


def _secrets() -> Iterator[tuple[str, set[bytes]]]:
    """Each secret in the notations that it could be repeated in."""
    for name in TEXT_SECRETS:
        if value := getattr(settings, name):
            yield name, {value.encode(), *_decoded(value)}
    try:
        for pepper_id, pepper in parse_keyset(settings.AIPROXY_PEPPERS).items():
            text = base64.b64encode(pepper)
            yield f"{PEPPERS}[{pepper_id}]", {pepper, text, text.rstrip(b"=")}
    except KeysetError:
        return


def _decoded(text: str) -> Iterator[bytes]:
    padded = text + "=" * (-len(text) % 4)
    for alphabet in (None, b"-_"):
        try:
            yield base64.b64decode(padded, altchars=alphabet, validate=True)
        except (binascii.Error, ValueError):
            continue


def _is_example(value: bytes) -> bool:
    """Placeholders, and what no random generator gives: few different characters, or one piece repeated."""
    few = len(set(value)) < 8
    repeated = value in (value + value)[1:-1]
    return few or repeated or any(word in value.decode("latin1").lower() for word in _EXAMPLES)


@register(TAG, Tags.security)
def check_hosts(**_: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if settings.AIPROXY_HTTPS and "*" in settings.ALLOWED_HOSTS:
        message = "ALLOWED_HOSTS holds `*`: any Host header is believed."
        found.append(Warning(message, "List the names that clients use.", id="aiproxy.W006"))
    for number, host in enumerate(settings.ALLOWED_HOSTS, 1):
        if host != "*" and split_domain_port(host) != (host.lower(), ""):
            message = f"ALLOWED_HOSTS: entry {number} is no host: no request could ever name it."
            found.append(Error(message, "Names alone, as in `aiproxy.example.org`.", id="aiproxy.E026"))
    outside = [host for host in settings.ALLOWED_HOSTS if not _is_loopback(host)]
    if settings.DEBUG and outside:
        message = "DEBUG is on, and ALLOWED_HOSTS names hosts beyond this machine: error pages show settings and code."
        found.append(Warning(message, "Set DEBUG=false.", id="aiproxy.W009"))
    return found


@register(TAG, Tags.security)
def check_back_office(**_: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    path, host = settings.AIPROXY_ADMIN_PATH, settings.AIPROXY_ADMIN_HOST
    if not re.fullmatch(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", path) or path.partition("/")[0] in _TAKEN:
        message = "AIPROXY_ADMIN_PATH is no path of its own."
        hint = f"Letters, digits, `-` and `_`, as in `back-office`; not below {', '.join(_TAKEN)}."
        found.append(Error(message, hint, id="aiproxy.E017"))
    if host and not validate_host(host, settings.ALLOWED_HOSTS):
        message = "AIPROXY_ADMIN_HOST is not among ALLOWED_HOSTS: nobody could reach the back-office."
        found.append(Error(message, "Add its name, without a port, to both.", id="aiproxy.E018"))
    if settings.AIPROXY_HTTPS and not settings.AIPROXY_ADMIN_SECOND_FACTOR:
        message = "AIPROXY_ADMIN_SECOND_FACTOR is off: a password alone opens the back-office."
        found.append(Warning(message, "Leave it on in production.", id="aiproxy.W019"))
    if min(settings.AIPROXY_ADMIN_SESSION_HOURS * 60, settings.AIPROXY_ADMIN_IDLE_MINUTES) < 1:
        message = "Sessions of staff last less than a minute: nobody could work."
        hint = "AIPROXY_ADMIN_SESSION_HOURS and AIPROXY_ADMIN_IDLE_MINUTES."
        found.append(Error(message, hint, id="aiproxy.E020"))
    return found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


@register(TAG)
def check_own_names(**_: Any) -> list[CheckMessage]:
    """How others are told of this installation: in links of mails, and in `Via`."""
    found: list[CheckMessage] = []
    if (url := settings.AIPROXY_PUBLIC_URL) and not _is_public(url):
        hint = "Like https://aiproxy.example.org, as people type it."
        found.append(
            Error("AIPROXY_PUBLIC_URL is no address: links in mails would lead nowhere.", hint, id="aiproxy.E023")
        )
    if (name := settings.AIPROXY_INSTANCE_ID) and not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        hint = "Letters, digits, `.`, `-` and `_`, as in `aiproxy-eu`."
        found.append(Error("AIPROXY_INSTANCE_ID cannot stand in `Via`.", hint, id="aiproxy.E024"))
    return found


def _is_public(url: str) -> bool:
    try:
        return bool(split_url(url).hostname and re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", url))
    except ValueError:
        return False


@register(TAG, Tags.security)
def check_networks(**_: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for entry in settings.AIPROXY_TRUSTED_PROXIES:
        try:
            (network,) = networks([entry])
        except ValueError as error:
            hint = "An address or a network each, as in `10.0.0.0/8,192.0.2.1`."
            found.append(Error(f"AIPROXY_TRUSTED_PROXIES: {error}.", hint, id="aiproxy.E007"))
            continue
        if network.prefixlen == 0:
            message = f"AIPROXY_TRUSTED_PROXIES holds {network}: every client may claim any address."
            found.append(Error(message, "List the networks of your own proxies.", id="aiproxy.E007"))
    return found


@register(TAG, Tags.security)
def check_origins(**_: Any) -> list[CheckMessage]:
    hint = "Write them as browsers send them: `https://app.example.org`, lower case, without a path; no wildcard."
    named = {"AIPROXY_CORS_ORIGINS": settings.AIPROXY_CORS_ORIGINS}
    # Django takes `https://*.example.org` there.
    named["CSRF_TRUSTED_ORIGINS"] = [one.replace("://*.", "://", 1) for one in settings.CSRF_TRUSTED_ORIGINS]
    return [
        Error(f"{name}: `{origin}` is no origin.", hint, id="aiproxy.E008")
        for name, origins in named.items()
        for origin in origins
        if not _is_origin(origin)
    ]


def _is_origin(text: str) -> bool:
    """scheme://host[:port], RFC 6454 §6.2."""
    try:
        parts = split_url(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not host or "*" in host:
        return False
    name = f"[{host}]" if ":" in host else host
    return text == f"{parts.scheme}://{name}" + (f":{port}" if port is not None else "")


@functools.cache
def setting_names() -> frozenset[str]:
    """Every variable that settings.py reads, by its own text: some are read only in some configurations."""
    tree = ast.parse((Path(__file__).parent / "settings.py").read_text())
    return frozenset(
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "env"
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    )


@register(TAG)
def check_names(**_: Any) -> list[CheckMessage]:
    """A setting with a typing mistake in its name is silently the default."""
    known = setting_names() | OTHER_NAMES
    found: list[CheckMessage] = []
    for name in sorted(os.environ):
        if not name.startswith("AIPROXY_") or name in known or name.removesuffix("_FILE") in known:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else "docs/configuration.md lists the settings."
        found.append(Warning(f"{name} is no setting.", hint, id="aiproxy.W010"))
    return found


@register(TAG)
def check_data_directory(**_: Any) -> list[CheckMessage]:
    directory = settings.AIPROXY_DATA_DIR
    if not (disk.is_writable(directory) and disk.is_writable(Path(directory, "journal"))):
        hint = "Give this user a directory to write in, on a local disk; the journal lives there."
        return [Error("AIPROXY_DATA_DIR cannot be written.", hint, id="aiproxy.E011")]
    kind = disk.file_system(directory)
    if kind in disk.NETWORK:
        message = f"AIPROXY_DATA_DIR is on a network file system ({kind}): the journal's locks do not hold there."
        return [Error(message, "Use a local disk.", id="aiproxy.E012")]
    return []


@register(TAG)
def check_workers(**_: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if settings.AIPROXY_WORKERS > 1 and not settings.REDIS_URL:
        message = "Several workers and no REDIS_URL: each would enforce the limits by itself."
        found.append(Warning(message, "Set REDIS_URL, or run one worker.", id="aiproxy.W014"))
    if settings.AIPROXY_WORKERS > 1 and settings.DATABASES["default"]["ENGINE"].endswith("sqlite3"):
        message = "Several workers on SQLite: their writes wait for each other."
        found.append(Warning(message, "Use PostgreSQL: set DATABASE_URL.", id="aiproxy.W015"))
    return found


@register(TAG)
def check_redis(**_: Any) -> list[CheckMessage]:
    try:
        if settings.REDIS_URL:
            Address.parse(settings.REDIS_URL)
    except ValueError as error:
        hint = "Like redis://redis.example.org:6379/0, or rediss:// for TLS, or unix://."
        return [Error(f"REDIS_URL cannot be used. {error}.", hint, id="aiproxy.E025")]
    return []


@register(TAG)
def check_telemetry(**_: Any) -> list[CheckMessage]:
    endpoint = settings.AIPROXY_OTLP_ENDPOINT
    if not endpoint:
        return []
    try:
        parts = split_url(endpoint)
        good = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
    except ValueError:
        good = False
    if not good:
        hint = "Like http://collector:4318, without /v1/traces."
        return [Error("AIPROXY_OTLP_ENDPOINT is no address.", hint, id="aiproxy.E021")]
    if find_spec("opentelemetry") is None:
        hint = "pip install --require-hashes -r requirements/otel.txt, or build the image with REQUIREMENTS=otel."
        return [Error("AIPROXY_OTLP_ENDPOINT is set, but OpenTelemetry is not installed.", hint, id="aiproxy.E022")]
    return []


@register(TAG)
def check_logs(**_: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if settings.AIPROXY_LOG_FORMAT not in ("line", "json"):
        found.append(Error("AIPROXY_LOG_FORMAT is neither `line` nor `json`.", id="aiproxy.E016"))
    if settings.AIPROXY_LOG_LEVEL not in logging.getLevelNamesMapping():
        hint = "DEBUG, INFO, WARNING, ERROR or CRITICAL."
        found.append(Error("AIPROXY_LOG_LEVEL is no level.", hint, id="aiproxy.E016"))
    return found
