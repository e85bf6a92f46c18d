"""Where a request came from."""

import pytest

from services.common.addresses import client_address, read_networks

PROXIES = "10.0.0.0/8, fd00::/8,192.0.2.7"


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("198.51.100.1", [], "198.51.100.1"),
        # Whoever is no proxy may say what they like.
        ("198.51.100.1", ["203.0.113.9"], "198.51.100.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1", "203.0.113.9, 192.0.2.7"], "203.0.113.9"),
        ("fd00::1", ["2001:db8::9"], "2001:db8::9"),
        ("::ffff:10.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, 10.0.0.2, 10.0.0.3"], "203.0.113.9"),
        ("10.0.0.1", ["10.0.0.3"], "10.0.0.3"),
        # What is no address was made up, or says nothing.
        ("10.0.0.1", ["203.0.113.9, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9:1234, \xe9, "], "10.0.0.1"),
        ("fe80::1%eth0", [], "fe80::1"),
        (None, ["203.0.113.9"], ""),
    ],
)
def test_it_is_the_first_from_the_right_that_is_no_proxy(
    peer: str | None, forwarded: list[str], address: str
) -> None:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    scope = {"client": (peer, 1) if peer else None, "headers": headers}
    assert client_address(scope, read_networks(PROXIES)) == address


def test_nobody_is_believed_if_nothing_is_said() -> None:
    headers = [(b"x-forwarded-for", b"203.0.113.9")]
    scope = {"client": ("10.0.0.1", 1), "headers": headers}
    assert client_address(scope, read_networks("")) == "10.0.0.1"


def test_what_is_no_network_is_named() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        read_networks("fd00::/8, 10.0.0.1/8")
