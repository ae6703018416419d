"""The hosts that a server without a token answers for: protection against web pages.

A page that a user of this machine visits can send requests to every address that the machine can reach. By DNS
rebinding, its own host name comes to stand for such an address, and then it may read the answers, too; but its
requests still name that host. So a server without a token refuses requests whose `Host` is not one of its own names:

- `localhost` and the loopback addresses,
- the address that it is bound to; if that is every address of the machine (0.0.0.0 or ::), the machine's host name and
  all addresses, since only names can be rebound,
- `ServerOptions.hosts`, where "*" turns the check off.

Without rebinding, a page can send requests but not read the answers. Browsers name the page as their `Origin`; such
requests are refused unless the page is on one of these hosts, where "all addresses" does not count.

A server with a token needs none of this, since no page has the token.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import socket
from collections.abc import Iterable

from raggym_env.errors import check_option

__all__ = ["AllowedHosts"]

_HEADER = re.compile(r"(?:https?://)?(\[[^\[\]]*\]|[^\[\]/:@\s]+)(?::[0-9]{0,5})?")
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class AllowedHosts:
    """The names and addresses of a server, in any spelling and with any port.

    Args:
        bound: The address that the server is bound to.
        names: Further names and addresses; "*" for any.

    Raises:
        OptionError: One of them is neither a host name nor an address.
    """

    def __init__(self, bound: str, names: Iterable[str] = ()) -> None:
        names = tuple(names)
        for name in names:
            if name != "*" and isinstance(host := _host(name), str) and not _NAME.fullmatch(host):
                expected = "a name or an address, without scheme and port"
                check_option("A host that the server answers for", name, False, expected)
        self._any = "*" in names
        self._hosts = {_host(name) for name in ("localhost", bound, *names)}
        address = _host(bound)
        self._any_address = not isinstance(address, str) and address.is_unspecified
        if self._any_address:
            self._hosts.add(_host(socket.gethostname()))

    def allow_host(self, header: str) -> bool:
        """True if a request with that `Host` is for this server."""
        host = _named(header)
        return self._allow(host) or (self._any_address and isinstance(host, _Address))

    def allow_origin(self, header: str) -> bool:
        """True if a page with that `Origin` may use this server."""
        return self._allow(_named(header))

    def _allow(self, host: str | _Address) -> bool:
        return self._any or host in self._hosts or (isinstance(host, _Address) and host.is_loopback)


@functools.lru_cache(maxsize=64)  # nearly all requests have the same
def _named(header: str) -> str | _Address:
    """Return the host in a header; "" if there is none."""
    match = _HEADER.fullmatch(header.strip())
    return _host(match[1]) if match else ""


def _host(text: str) -> str | _Address:
    """Return an address, so that all spellings of it are equal, or a name in lower case."""
    try:
        address = ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return text.lower().removesuffix(".")
    return getattr(address, "ipv4_mapped", None) or address
