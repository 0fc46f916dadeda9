"""Log lines that a peer can provoke are short, and no errors."""

from __future__ import annotations

import logging

import pytest

from bankproject.peer_lines import OfPeers, WithoutTraceback


def _record(message: str, *arguments: object) -> logging.LogRecord:
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    return logging.LogRecord(
        "tests.peer_lines", logging.ERROR, "", 0, message, arguments, (type(error), error, None)
    )


def test_what_a_peer_did_is_written_for_debugging_alone(caplog: pytest.LogCaptureFixture) -> None:
    words = "Invalid UTF-8 sequence received from client."
    with caplog.at_level(logging.INFO, "tests.peer_lines"):
        assert OfPeers().filter(_record(words)) is False
    record = _record(words)
    with caplog.at_level(logging.DEBUG, "tests.peer_lines"):
        assert OfPeers().filter(record) is True
    assert (record.levelno, record.exc_info) == (logging.DEBUG, None)


def test_the_servers_own_errors_stay_what_they_are() -> None:
    record = _record("Exception in ASGI application\n")
    assert OfPeers().filter(record) is True
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


def test_a_strangers_words_are_one_short_line() -> None:
    record = _record("Invalid HTTP_HOST header: %s", "x" * 10_000)
    assert WithoutTraceback().filter(record) is True
    assert (record.levelno, record.exc_info) == (logging.WARNING, None)
    assert record.getMessage().startswith("Invalid HTTP_HOST header: xxx")
    assert len(record.getMessage()) == 200
