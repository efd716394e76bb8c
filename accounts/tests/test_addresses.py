import pytest

from accounts.addresses import client_address, networks, parse_address

PROXIES = networks(["10.0.0.0/8", "fd00::/8"])


def test_it_ignores_the_header_of_a_stranger():
    assert client_address("203.0.113.9", ["198.51.100.1"], PROXIES) == "203.0.113.9"


def test_it_ignores_the_header_when_nobody_is_trusted():
    assert client_address("10.0.0.1", ["198.51.100.1"], ()) == "10.0.0.1"


def test_it_takes_the_right_most_address_that_is_not_ours():
    assert client_address("10.0.0.1", ["192.0.2.66, 198.51.100.1, 10.0.0.2"], PROXIES) == "198.51.100.1"


def test_it_reads_several_fields_as_one_list():
    assert client_address("10.0.0.1", ["192.0.2.66", "198.51.100.1", "10.0.0.2"], PROXIES) == "198.51.100.1"


def test_it_takes_the_left_most_when_all_are_ours():
    assert client_address("10.0.0.1", ["10.0.0.3, 10.0.0.2"], PROXIES) == "10.0.0.3"


@pytest.mark.parametrize("junk", ["", "unknown", "1.2.3.4.5", "_hidden", "fe80::1%eth0", "0x7f.1", "' OR 1=1"])
def test_it_stops_at_what_is_no_address(junk):
    assert client_address("10.0.0.1", [f"198.51.100.1, {junk}"], PROXIES) == "10.0.0.1"


def test_it_treats_a_mapped_peer_as_ipv4():
    assert client_address("::ffff:10.0.0.1", ["198.51.100.1"], PROXIES) == "198.51.100.1"
    assert client_address("10.0.0.1", ["::ffff:198.51.100.1"], PROXIES) == "198.51.100.1"


def test_it_keeps_a_peer_without_an_address():
    assert client_address("", ["198.51.100.1"], PROXIES) == ""


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1:443", "192.0.2.1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        (" 2001:DB8::1 ", "2001:db8::1"),
    ],
)
def test_it_drops_ports_and_brackets(text, address):
    assert str(parse_address(text)) == address


@pytest.mark.parametrize("text", ["10.0.0.1/8", "ten", ""])
def test_it_refuses_what_is_no_network(text):
    with pytest.raises(ValueError, match=r"host bits|does not appear"):
        networks([text])
