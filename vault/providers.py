"""Owns who the providers are: where a key may be sent, how it is presented, how it is shown. Opens no connection.

The base URLs are the operator's settings and trusted as such. A key's owner can choose among its vendor's other
addresses, and among these only.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from django.conf import settings

from vault.secret import Secret

MIN_KEY_LENGTH: Final = 8
MAX_KEY_LENGTH: Final = 512
# From this length on, the last four characters may be shown.
_SHOWS_ITS_END: Final = 16

# One label of a host name (RFC 1123), and a region as in `eu-central-1`, `cn-beijing`: nothing that ends the host.
_LABEL: Final = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_REGION: Final = "[a-z]{2}-[a-z]{1,20}(?:-[0-9])?"

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Provider:
    slug: str
    title: str
    setting: str
    official_base_url: str
    list_models_path: str  # after the base URL; answered for any key that works, at no cost
    prefixes: tuple[str, ...]  # public beginnings of its keys, the longest first
    credential_headers: Callable[[Secret], Headers]
    version_headers: Headers = ()  # which version of its API is spoken, unless a request says so itself
    # The vendor's own addresses, which a stored key may name in place of the base URL; {…} stands for a part of a name.
    addresses: tuple[str, ...] = ()

    @property
    def base_url(self) -> str:
        """Where its API is, without a slash at the end: the operator's setting."""
        return str(getattr(settings, self.setting)).rstrip("/")

    @property
    def is_moved(self) -> bool:
        """Whether the operator has put something else in the place of the official API."""
        return self.base_url != self.official_base_url

    def check_address(self, url: str) -> str | None:
        """What is wrong with an address that a key's owner names, and what is allowed; None if nothing is."""
        if not self.addresses or self.is_moved:
            return f"The operator says where {self.title} is: leave this empty."
        if any(_pattern(address).fullmatch(url) for address in self.addresses):
            return None
        return f"This is no address of {self.title}. Allowed: {', '.join(self.addresses)}."

    def mask_prefix(self, key: str) -> str:
        """The public beginning of a key, as in `sk-ant-`; '' if it has none."""
        return next((prefix for prefix in self.prefixes if key.startswith(prefix)), "")

    def check_shape(self, key: str) -> str | None:
        """What is wrong with a key before it is stored, in a sentence that does not quote it; None if nothing is."""
        if re.fullmatch(r"[\x21-\x7e]*", key) is None:
            # It goes into a header as it is: a line break in it would start another header.
            return "A key has no spaces, line breaks, control or non-ASCII characters."
        if not MIN_KEY_LENGTH <= len(key) <= MAX_KEY_LENGTH:
            return f"A key has {MIN_KEY_LENGTH} to {MAX_KEY_LENGTH} characters."
        if not self.is_moved and (stranger := _belongs_to(key)) not in (None, self.slug):
            return f"This looks like a key of {_TITLES[str(stranger)]}, not of {self.title}."
        return None


@lru_cache
def _pattern(address: str) -> re.Pattern[str]:
    return re.compile(re.escape(address).replace(r"\{workspace\}", _LABEL).replace(r"\{region\}", _REGION))


def last4(key: str) -> str:
    """The end of a key that may be shown; '' when the key is so short that it would give too much away."""
    return key[-4:] if len(key) >= _SHOWS_ITS_END else ""


def _bearer(secret: Secret) -> Headers:
    return ((b"authorization", b"Bearer " + secret.reveal().encode("ascii")),)


def _anthropic(secret: Secret) -> Headers:
    return ((b"x-api-key", secret.reveal().encode("ascii")),)


def _google(secret: Secret) -> Headers:
    # The documented `?key=` would put the key into every access log on the way.
    return ((b"x-goog-api-key", secret.reveal().encode("ascii")),)


PROVIDERS: Final[dict[str, Provider]] = {
    provider.slug: provider
    for provider in (
        Provider(
            slug="openai",
            title="OpenAI",
            setting="AIPROXY_OPENAI_BASE_URL",
            official_base_url="https://api.openai.com/v1",
            list_models_path="/models",
            prefixes=("sk-svcacct-", "sk-admin-", "sk-proj-", "sk-"),
            credential_headers=_bearer,
        ),
        Provider(
            slug="anthropic",
            title="Anthropic",
            setting="AIPROXY_ANTHROPIC_BASE_URL",
            official_base_url="https://api.anthropic.com",
            list_models_path="/v1/models",
            prefixes=("sk-ant-", "sk-"),
            credential_headers=_anthropic,
            version_headers=((b"anthropic-version", b"2023-06-01"),),
        ),
        Provider(
            slug="google",
            title="Google",
            setting="AIPROXY_GOOGLE_BASE_URL",
            official_base_url="https://generativelanguage.googleapis.com",
            list_models_path="/v1beta/models",
            prefixes=("AIza",),
            credential_headers=_google,
        ),
        Provider(
            slug="alibaba",
            title="Alibaba",
            setting="AIPROXY_ALIBABA_BASE_URL",
            official_base_url="https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
            list_models_path="/models",
            prefixes=("sk-sp-", "sk-"),
            credential_headers=_bearer,
            # A key works in its own region only: https://www.alibabacloud.com/help/en/model-studio/base-url
            addresses=(
                "https://dashscope.aliyuncs.com/compatible-mode/v1",
                "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
                "https://dashscope-us.aliyuncs.com/compatible-mode/v1",
                "https://cn-hongkong.dashscope.aliyuncs.com/compatible-mode/v1",
                "https://{workspace}.{region}.maas.aliyuncs.com/compatible-mode/v1",
                "https://coding.dashscope.aliyuncs.com/v1",
                "https://coding-intl.dashscope.aliyuncs.com/v1",
            ),
        ),
    )
}

# Beginnings that tell for certain whose key it is. `sk-` alone does not: several providers use it.
_CERTAIN: Final = {"sk-ant-": "anthropic", "sk-proj-": "openai", "AIza": "google", "sk-proxy-": "aiproxy"}
_TITLES: Final = {"aiproxy": "this service", **{slug: provider.title for slug, provider in PROVIDERS.items()}}


def _belongs_to(key: str) -> str | None:
    return next((slug for prefix, slug in _CERTAIN.items() if key.startswith(prefix)), None)
