"""Addresses of relays: checked where they are configured, so that a mistake is told at once."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import SplitResult, urlsplit

__all__ = ["check_relay_url"]

_HOST: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def check_relay_url(url: object) -> str:
    """Return the address of a relay if a WebSocket could be opened to it.

    There is no user and no password in one: who a client is, its key proves (RFC 6455, section 3,
    says what else a WebSocket's address is made of).

    :raises ValueError: with words that say what one looks like.
    """
    if isinstance(url, str) and url.isprintable() and not set(url) & {" ", "#"}:
        try:
            if _can_work(urlsplit(url)):
                return url
        except ValueError:
            pass  # the host or the port is none
    raise ValueError(
        f"{url!r} is no relay's address; one looks like ws://host:port/relay, "
        "or wss://relay.example/relay"
    )


def _can_work(parts: SplitResult) -> bool:
    """Whether a WebSocket could be opened to it.

    :raises ValueError: no, it couldn't: the host or the port is none.
    """
    if parts.scheme not in ("ws", "wss") or parts.port == 0 or "@" in parts.netloc:
        return False
    # The name as it is looked up: with the labels that are too long or empty refused (RFC 3490).
    host = (parts.hostname or "").encode("idna").decode("ascii")
    if ":" in host:
        IPv6Address(host)
        return True
    return _HOST.fullmatch(host) is not None
