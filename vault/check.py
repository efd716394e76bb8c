"""Owns the one call that tells whether a provider takes a stored key. The only user of httpx; knows no view of ours.

It follows no redirect, reads no proxy and no credentials from the environment, and reads at most 64 KiB.
"""

import functools
import json
import re
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import httpx
from django.conf import settings

from vault import store
from vault.crypto import Unsealable
from vault.models import ApiKey
from vault.providers import PROVIDERS, Provider
from vault.secret import Secret

TIMEOUT: Final = 10.0  # seconds, for each step; the whole call takes at most twice that once it is connected
MAX_ANSWER: Final = 64 << 10  # bytes
MAX_ERROR: Final = 200  # characters
# An echo of this many characters of the key in a row is masked.
_TELLING: Final = 6


@dataclass(frozen=True, slots=True)
class Verdict:
    """`valid` is None when the call could not tell; `status` is the provider's, None if it gave none."""

    valid: bool | None
    status: int | None
    latency_ms: int
    error: str = ""


def check_api_key(api_key: ApiKey) -> Verdict:
    """Asks the provider for its list of models with this key, and writes the outcome on the row."""
    try:
        secret = api_key.unseal()
    except Unsealable:
        verdict = Verdict(None, None, 0, "The stored key does not open. Store it again.")
    else:
        verdict = _ask(PROVIDERS[api_key.provider], api_key.base_url, secret)
    store.record_test(api_key, valid=verdict.valid, error=verdict.error)
    return verdict


def _ask(provider: Provider, base_url: str, secret: Secret) -> Verdict:
    url = (base_url.rstrip("/") or provider.base_url) + provider.list_models_path
    started = time.perf_counter()
    status, answer, error = None, b"", ""
    try:
        with _client(url) as client:
            # Built by hand: the client's own would add headers of httpx.
            headers = [*provider.credential_headers(secret), *provider.version_headers]
            request = httpx.Request("GET", url, headers=headers)
            response = client.send(request, stream=True)
            status = response.status_code
            answer = b"" if status == httpx.codes.OK else _read(response, until=time.perf_counter() + TIMEOUT)
            response.close()
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as failure:
        error = _describe(failure)
    latency_ms = round((time.perf_counter() - started) * 1000)
    if status is None:
        return Verdict(None, None, latency_ms, error)
    valid, text = _judge(status, answer)
    return Verdict(valid, status, latency_ms, _scrub(text, secret))


def _client(url: str) -> httpx.Client:
    # The operator's proxy is the way out; a plain URL is on loopback (a system check sees to it).
    proxy = settings.AIPROXY_UPSTREAM_PROXY if url.startswith("https:") else ""
    return httpx.Client(
        trust_env=False,
        follow_redirects=False,
        timeout=TIMEOUT,
        verify=_trust(settings.AIPROXY_UPSTREAM_CA_FILE),
        proxy=proxy or None,
    )


@functools.lru_cache(maxsize=2)
def _trust(ca_file: str) -> ssl.SSLContext:
    """The system's trust roots, and the operator's beside them; loading them takes tens of milliseconds."""
    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(cafile=ca_file)
    return context


def _read(response: httpx.Response, *, until: float) -> bytes:
    """The answer's first 64 KiB, as sent: nothing is decompressed. A cut or dawdling answer ends early."""
    answer = bytearray()
    try:
        for chunk in response.iter_raw():
            answer += chunk
            if len(answer) >= MAX_ANSWER or time.perf_counter() > until:
                break
    except httpx.HTTPError:
        pass  # the status is known, and it is what decides
    return bytes(answer[:MAX_ANSWER])


def _judge(status: int, answer: bytes) -> tuple[bool | None, str]:
    """Whether the key is good, and the provider's words."""
    if status == httpx.codes.OK:
        return True, ""
    error = _error_object(answer)
    message = error.get("message")
    text = f"{status}: {message}" if isinstance(message, str) and message else f"The provider answered {status}."
    if status == httpx.codes.UNAUTHORIZED:
        # OpenAI answers 401 also to a good key that may not list models, and names the scopes it lacks.
        return (None if "Missing scopes" in text else False), text
    if status == httpx.codes.BAD_REQUEST and "API_KEY_INVALID" in _reasons(error):
        return False, text  # Google's word for 401
    return None, text


def _error_object(answer: bytes) -> dict[str, Any]:
    """The `error` of the answer; {} if there is none. Google wraps it in a list at times."""
    try:
        parsed = json.loads(answer)
    except (ValueError, RecursionError):
        return {}
    if isinstance(parsed, list) and parsed:
        parsed = parsed[0]
    error = parsed.get("error") if isinstance(parsed, dict) else None
    return error if isinstance(error, dict) else {}


def _reasons(error: dict[str, Any]) -> Iterable[object]:
    details = error.get("details")
    return [item.get("reason") for item in details if isinstance(item, dict)] if isinstance(details, list) else []


def _describe(failure: Exception) -> str:
    """What went wrong, without the text of the exception: that may hold addresses of the operator's network."""
    if isinstance(failure, httpx.ConnectTimeout):
        return "The provider could not be reached in time."
    if isinstance(failure, httpx.TimeoutException):
        return "The provider did not answer in time."
    if isinstance(failure, httpx.ProxyError):
        return "The way out to the provider is closed: the proxy refused."
    if isinstance(failure, httpx.ConnectError):
        cause = "its certificate is not trusted" if "CERTIFICATE_VERIFY" in str(failure) else "no connection"
        return f"The provider could not be reached: {cause}."
    return f"The call to the provider failed ({type(failure).__name__})."


def _scrub(text: str, secret: Secret) -> str:
    """One line of at most 200 characters in which no part of the key is left that would help to guess it."""
    text = " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split())
    key, lower = secret.reveal().lower(), text.lower()
    if len(lower) != len(text):  # a letter whose lower case is longer: places no longer line up, so nothing is shown
        return "The provider refused in words that cannot be shown."
    masked = list(text)
    for start in range(len(text) - _TELLING + 1):
        if lower[start : start + _TELLING] in key:
            masked[start : start + _TELLING] = "\0" * _TELLING
    return re.sub("\0+", "***", "".join(masked))[:MAX_ERROR]
