"""A plugin of pytest: prints which code each collected test says that it provokes.

    python -m pytest --collect-only -q -p tests.integration.provoked tests/integration

A test that is skipped, or expected to fail, provokes nothing.
"""

from __future__ import annotations

import pytest

LINE = "provokes"
_DOES_NOT_COUNT = ("skip", "skipif", "xfail")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Print a line for each code of each test: the word, the code, the test."""
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    assert reporter is not None
    for item in session.items:
        if any(item.get_closest_marker(name) for name in _DOES_NOT_COUNT):
            continue
        for mark in item.iter_markers(LINE):
            (code,) = mark.args
            reporter.write_line(f"{LINE} {code} {item.nodeid}")
