"""What is a relay's address, and what never could be connected to."""

from __future__ import annotations

import pytest

from protocol.addresses import check_relay_url


@pytest.mark.parametrize(
    "url",
    [
        "ws://127.0.0.1:8765/relay",
        "wss://relay.example/relay",
        "wss://[::1]/relay",
        "wss://[fe80::1%eth0]:99/",
        "wss://bücher.example:443/relay?x=1",
        "wss://bücher.example./",
        "ws://host_1.example./relay",
    ],
)
def test_an_address_that_may_work_is_returned_as_it_is(url: str) -> None:
    assert check_relay_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "junk",
        "host/relay",
        "http://host/relay",
        "ws://",
        "ws://:80/relay",
        "ws://host:0/relay",
        "ws://host:65536/relay",
        "ws://host:port/relay",
        "ws://a..example/relay",
        "ws://" + "ä" * 64 + ".example/relay",
        "ws://\u2024/relay",
        "ws://a%2fb/relay",
        "ws://host/relay#",
        "ws://host/relay#top",
        "ws://user@host/relay",
        "ws://user:secret@host/relay",
        "ws://@host/relay",
        "ws://host/re lay",
        "ws://host/re\x00lay",
        "ws://[::1/relay",
        "ws://[bad",
        "ws://[host]/relay",
        None,
        5,
    ],
)
def test_one_that_never_can_work_is_refused(url: object) -> None:
    with pytest.raises(ValueError, match="is no relay's address; one looks like ws://host:port/"):
        check_relay_url(url)
