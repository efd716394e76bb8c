import pytest
from django.core.exceptions import ValidationError

from accounts.scope import validate_model_patterns, validate_networks


def test_it_takes_model_names_prefixes_and_providers():
    validate_model_patterns(["gpt-5", "claude-*", "openai/gpt-4.1-mini", "ft:gpt-4o:org::id", "qwen@2"])


@pytest.mark.parametrize("entry", ["", "*", "a*b", "**", "gpt 5", "gpt\n", "é", "-x", "x" * 202])
def test_it_refuses_what_is_no_model_name(entry):
    with pytest.raises(ValidationError, match="Entry 2"):
        validate_model_patterns(["gpt-5", entry])


def test_it_takes_addresses_and_networks_of_both_kinds():
    validate_networks(["203.0.113.7", "203.0.113.0/24", "2001:db8::1", "2001:db8::/32", "0.0.0.0/0"])


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("203.0.113.7/24", "bits set beyond its prefix"),
        ("203.0.113.0/33", "no address or network"),
        ("example.com", "no address or network"),
        ("", "no address or network"),
        ("::ffff:192.0.2.1", "IPv4 network written as IPv6"),
    ],
)
def test_it_says_what_is_wrong_with_a_network(entry, problem):
    with pytest.raises(ValidationError, match=f"Entry 1.*{problem}"):
        validate_networks([entry])


@pytest.mark.parametrize("validate", [validate_model_patterns, validate_networks])
@pytest.mark.parametrize("value", [None, "gpt-5", {"a": 1}, [1], [None], ["a"] * 101])
def test_it_takes_a_short_list_of_strings_only(validate, value):
    with pytest.raises(ValidationError):
        validate(value)
