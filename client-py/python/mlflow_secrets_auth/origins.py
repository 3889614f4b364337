"""Which origin a URL leads to: decided on what the HTTP library will really connect to.

There are two ways in which `requests` takes a URL apart to open a connection: `urllib.parse` (since
2.32) and urllib3's own parser (before that, and for proxies). URLs on which the two disagree exist
(`http://evil\\@good/`), and are how allowlists are talked round. So both are asked, and where they
differ there is no origin. Nothing is repaired: the native part accepts the canonical form only.
"""

from __future__ import annotations

import re
import socket
from functools import lru_cache
from urllib.parse import urlsplit

from requests import PreparedRequest
from urllib3.util import parse_url

__all__ = ["is_loopback", "origin_of", "origin_of_uri"]

_PORTS = {"http": 80, "https": 443}
# What every parser of every version reads in the same way. No zone ids of IPv6 addresses: their
# escape is taken off by some and left on by others.
_START = re.compile(
    r"https?://(?:[a-z0-9!$&'()*+,;=:%@._~-]*@)?"
    r"(\[[0-9a-f:.]+\]|[a-z0-9._-]{1,254})(?::[0-9]*)?(?:[/?#]|\Z)",
    re.IGNORECASE | re.ASCII,
)


def origin_of(url: str | None) -> str | None:
    """Return `scheme://host[:port]` for a prepared request's URL; None: it cannot be told for sure."""
    start = _START.match(url) if isinstance(url, str) else None
    if start is None:
        return None
    try:
        one, other = urlsplit(start.string), parse_url(start.string)
        scheme, host, port = one.scheme, one.hostname, one.port
    except Exception:  # parsers refuse in many ways
        return None
    default = _PORTS[scheme]
    port = default if port is None else port
    if scheme != other.scheme or port != (default if other.port is None else other.port):
        return None
    written = start[1].lower()
    if not 0 < port < 65536 or other.host != written or host != written.strip("[]"):
        return None
    if written.startswith("[") and not _is_address(written[1:-1]):
        return None
    return f"{scheme}://{written}" if port == default else f"{scheme}://{written}:{port}"


def _is_address(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, text)
    except OSError:
        return False
    return True


@lru_cache(maxsize=64)
def origin_of_uri(uri: str | None) -> str | None:
    """Return the origin of a tracking or registry URI, as requests below it will have it."""
    if not uri or not uri.strip().lower().startswith(("http:", "https:")):
        return None
    request = PreparedRequest()
    try:
        request.prepare_url(uri, None)
    except Exception:  # no request can be sent there at all
        return None
    return origin_of(request.url)


def is_loopback(origin: str) -> bool:
    """Tell whether an origin is this very machine by its name, whatever a resolver says."""
    host = urlsplit(origin).hostname or ""
    if host == "localhost" or host.endswith(".localhost") or host == "::1":
        return True
    parts = host.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(part.isdigit() for part in parts)
