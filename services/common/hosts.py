"""Which hosts a request may be for: a service answers to no name that somebody else gave it.

A page in a browser may have its own name point here once it is loaded (DNS rebinding). To the
browser, what it then asks of this service is its own site's, so neither CORS nor ``Origin`` stops
it; but the Host header still has that page's name, which is none of those allowed. An IP address
in Host was never looked up, so no such page stands behind it.

Starlette's ``TrustedHostMiddleware`` can allow no address but listed ones, takes the first of two
Host headers, and answers 400 as plain text.
"""

import re
from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

MAX_HOST_BYTES: Final = 260
"""Of a Host header: DNS has names of up to 253 characters, and a port follows."""

_SHOWN_CHARACTERS: Final = 80

_NAME: Final = r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*"
_HOST: Final = re.compile(rf"({_NAME}\.?|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?", re.ASCII)
_PATTERN: Final = re.compile(rf"(?:\*\.)?{_NAME}", re.ASCII)


class AllowedHosts:
    """IP addresses, ``localhost``, names below it, and the ``listed`` ones.

    ``listed`` is separated by commas; of a name that begins with ``*.`` those below it are meant.
    Case does not matter, nor does a port.

    Raises ``ValueError`` for what is no name.
    """

    def __init__(self, listed: str) -> None:
        patterns = {"localhost", "*.localhost"}
        patterns |= {_pattern(entry) for entry in listed.split(",") if entry.strip()}
        self._names = {one for one in patterns if not one.startswith("*")}
        self._suffixes = tuple(one[1:] for one in patterns if one.startswith("*"))

    def refusal(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Return why a request with these headers (names in lower case) is refused, if it is."""
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1:
            return (
                f"a request is for one host, and this one names {len(hosts)}: send one Host header"
            )
        text = hosts[0].decode("latin-1").strip(" \t").lower()
        found = _HOST.fullmatch(text) if len(text) <= MAX_HOST_BYTES else None
        if found is None:
            return f"the Host header holds no host: {_shown(text)}"
        host = found[1]
        if _is_address(host) or self._is_name(host.removesuffix(".")):
            return None
        return (
            f"this service does not answer to the name {_shown(host)}: use its IP address or a name"
            " that it knows, or have this one added to ALLOWED_HOSTS"
        )

    def _is_name(self, host: str) -> bool:
        return host in self._names or host.endswith(self._suffixes)


def _pattern(entry: str) -> str:
    """Return an entry of the list without its port."""
    pattern = re.sub(r":[0-9]{1,5}$", "", entry.strip().lower())
    if not _PATTERN.fullmatch(pattern):
        raise ValueError(f"{entry.strip()!r} is no name of a host, nor *. and a name")
    return pattern


def _is_address(host: str) -> bool:
    """Tell whether this is an IP address as URLs have it.

    None of the other ways to write one, such as 0x7f.1, which browsers turn into this one before
    they send it, or an IPv4 address mapped into IPv6, of which others may think differently.
    """
    try:
        if host.startswith("["):
            return IPv6Address(host[1:-1]).ipv4_mapped is None
        IPv4Address(host)
    except AddressValueError:
        return False
    return True


def _shown(text: str) -> str:
    more = " ..." if len(text) > _SHOWN_CHARACTERS else ""
    return f"{text[:_SHOWN_CHARACTERS]!r}{more}"
