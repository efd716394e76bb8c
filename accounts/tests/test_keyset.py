import base64

import pytest

from accounts.keyset import KeysetError, parse_keyset

ONE, TWO = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))


def test_it_keeps_the_order_so_that_the_first_is_the_primary():
    assert list(parse_keyset(f"7:{ONE}, 2:{TWO}").items()) == [(7, b"\1" * 32), (2, b"\2" * 32)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "entry 1: empty"),
        (f"1:{ONE},", "entry 2: empty"),
        (ONE, "entry 1: no colon"),
        (f"0:{ONE}", "from 1 to 255"),
        (f"256:{ONE}", "from 1 to 255"),
        (f"x:{ONE}", "from 1 to 255"),
        (f"²:{ONE}", "from 1 to 255"),
        (f"1:{ONE},1:{TWO}", "entry 2: id 1 occurs twice"),
        ("1:", "entry 1: the key is empty"),
    ],
)
def test_it_says_which_entry_is_wrong(text, problem):
    with pytest.raises(KeysetError, match=problem):
        parse_keyset(text)


def test_it_never_says_what_is_in_an_entry():
    with pytest.raises(KeysetError) as caught:
        parse_keyset("1:hunter2hunter2!")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
