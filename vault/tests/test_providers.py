from pathlib import Path

import pytest
from django.conf import settings

from vault import providers
from vault.models import Provider as Choices
from vault.providers import PROVIDERS
from vault.secret import Secret
from vault.tests.conftest import make_key


def test_the_rows_and_the_registry_know_the_same_providers() -> None:
    assert {(slug, provider.title) for slug, provider in PROVIDERS.items()} == set(Choices.choices)


@pytest.mark.parametrize(
    ("slug", "expected"),
    [
        ("openai", ((b"authorization", b"Bearer KEY"),)),
        ("alibaba", ((b"authorization", b"Bearer KEY"),)),
        ("anthropic", ((b"x-api-key", b"KEY"),)),
        ("google", ((b"x-goog-api-key", b"KEY"),)),
    ],
)
def test_it_presents_a_key_as_its_provider_wants_it(slug, expected) -> None:
    assert PROVIDERS[slug].credential_headers(Secret("KEY")) == expected


@pytest.mark.parametrize("slug", PROVIDERS)
def test_its_base_url_is_the_operators_setting(slug, settings) -> None:
    provider = PROVIDERS[slug]
    assert provider.base_url == provider.official_base_url
    assert not provider.is_moved
    setattr(settings, provider.setting, "https://models.example.com/v1/")
    assert provider.base_url == "https://models.example.com/v1"
    assert provider.is_moved


@pytest.mark.parametrize(
    ("slug", "key", "shown"),
    [
        ("openai", "sk-" + "a" * 20, "sk-"),
        ("openai", "sk-proj-" + "a" * 20, "sk-proj-"),
        ("anthropic", "sk-ant-" + "a" * 20, "sk-ant-"),
        ("google", "AIza" + "a" * 20, "AIza"),
        ("alibaba", "sk-" + "a" * 20, "sk-"),
        ("alibaba", "b" * 20, ""),
    ],
)
def test_its_mask_shows_the_public_beginning_only(slug, key, shown) -> None:
    assert PROVIDERS[slug].mask_prefix(key) == shown


def test_it_shows_the_end_of_long_keys_only() -> None:
    assert providers.last4("x" * 12 + "abcd") == "abcd"
    assert providers.last4("x" * 11 + "abcd") == ""


@pytest.mark.parametrize("bad", ["\r\n", "\n", " ", "\t", "\0", "\x7f", "é", "…", "\u2028", "\x85"])
@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_it_refuses_what_would_break_out_of_a_header(bad, place) -> None:
    key = {"start": bad + make_key(), "middle": make_key() + bad + "x-evil:1", "end": make_key() + bad}[place]
    assert "line breaks" in (PROVIDERS["openai"].check_shape(key) or "")


@pytest.mark.parametrize(("length", "fine"), [(0, False), (7, False), (8, True), (512, True), (513, False)])
def test_it_refuses_keys_too_short_or_too_long(length, fine) -> None:
    assert (PROVIDERS["openai"].check_shape("k" * length) is None) is fine


@pytest.mark.parametrize(
    ("slug", "prefix", "whose"),
    [("openai", "sk-ant-", "Anthropic"), ("google", "sk-proj-", "OpenAI"), ("openai", "sk-proxy-", "this service")],
)
def test_it_says_whose_key_it_looks_like(slug, prefix, whose) -> None:
    assert whose in (PROVIDERS[slug].check_shape(make_key(prefix)) or "")


def test_a_moved_provider_has_keys_of_any_make(settings) -> None:
    settings.AIPROXY_OPENAI_BASE_URL = "https://another-aiproxy.example.com/v1"
    assert PROVIDERS["openai"].check_shape(make_key("sk-proxy-")) is None


def test_what_it_says_never_quotes_the_key() -> None:
    key = make_key("sk-ant-")
    said = PROVIDERS["openai"].check_shape(key)
    assert said is not None
    assert key[8:16] not in said


def test_every_address_of_a_provider_is_documented() -> None:
    page = (Path(settings.BASE_DIR) / "docs" / "providers.md").read_text()
    for provider in PROVIDERS.values():
        assert all(f"| `{address}` |" in page for address in provider.addresses)


def test_its_official_address_is_among_those_to_choose_from() -> None:
    assert all(one.official_base_url in one.addresses for one in PROVIDERS.values() if one.addresses)
