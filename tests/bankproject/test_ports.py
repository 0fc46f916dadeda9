"""Ports that command lines name."""

from __future__ import annotations

import argparse

import pytest

from bankproject import healthcheck, serve
from bankproject.demo.__main__ import _parser
from bankproject.ports import port_number


def test_a_port_is_taken() -> None:
    assert [port_number(text) for text in ("0", "8000", "65535")] == [0, 8000, 65_535]


@pytest.mark.parametrize(
    "text", ["65536", "99999", "9" * 5000, "099999", "-1", "", "http", "8_0", "²", "8.0"]
)
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no port; a port is 0 to 65535"):
        port_number(text)


def test_every_program_that_takes_a_port_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    for program in (serve.main, healthcheck.main, _parser().parse_args):
        with pytest.raises(SystemExit, match="2"):
            program(["--port", "99999"])
        assert "'99999' is no port; a port is 0 to 65535" in capsys.readouterr().err
