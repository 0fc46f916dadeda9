"""Every code of the protocol has a test that provokes it over a real connection."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

from protocol.errors import BANK_CODES, END_TO_END_CODES, RELAY_CODES, Code
from tests.integration import provoked
from tests.integration.processes import ROOT

LATER = {
    Code.STALE_TICKET: "there are no sessions with tickets yet",
    Code.APPROVAL_REQUIRED: "there are no approvals by several people yet",
}
"""Codes of parts that come later: nothing in the product can say them."""

Provoking = Mapping[str, set[str]]


def collect(*paths: Path) -> Provoking:
    """Let pytest collect; return the tests that provoke each code."""
    collected = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0"),
            *("-p", "no:cacheprovider", "-p", provoked.__name__, f"--rootdir={ROOT}"),
            *map(str, paths),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert collected.returncode == 0, collected.stdout + collected.stderr
    tests: dict[str, set[str]] = defaultdict(set)
    for line in collected.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word == provoked.LINE:
            code, _, test = rest.partition(" ")
            tests[code].add(test)
    return tests


def without_a_test(provoking: Provoking) -> set[Code]:
    """The codes that can occur and that no test provokes."""
    return {code for code in Code if code not in LATER and not provoking.get(code.value)}


@pytest.fixture(scope="module")
def provoking() -> Provoking:
    return collect(ROOT / "tests" / "integration")


def test_every_code_is_provoked(provoking: Provoking) -> None:
    assert without_a_test(provoking) == set()


def test_no_test_provokes_what_is_no_code(provoking: Provoking) -> None:
    assert set(provoking) <= {code.value for code in Code}


@pytest.mark.parametrize("code", LATER, ids=str)
def test_what_comes_later_is_said_nowhere(code: Code) -> None:
    """As soon as some part of the product says it, it needs a test like the others."""
    saying = [
        path
        for package in ("relay", "bank", "protocol")
        for path in (ROOT / package).rglob("*.py")
        if f"Code.{code.name}" in path.read_text(encoding="utf-8")
    ]
    assert saying in ([], [ROOT / "protocol" / "errors.py"]), "its retry class, and no more"


@pytest.mark.parametrize(
    ("files", "codes"),
    [
        ("test_relay_codes", set(RELAY_CODES)),
        ("test_end_to_end_codes", set(END_TO_END_CODES)),
        ("test_bank_codes", set(BANK_CODES)),
    ],
)
def test_this_check_notices_when_a_layer_loses_its_tests(
    provoking: Provoking, files: str, codes: set[Code]
) -> None:
    left = {
        code: {test for test in tests if files not in test} for code, tests in provoking.items()
    }
    assert without_a_test(left) == codes - set(LATER)


def test_this_check_notices_when_one_code_loses_its_tests(provoking: Provoking) -> None:
    for code in set(Code) - set(LATER):
        left = {name: tests for name, tests in provoking.items() if name != code.value}
        assert without_a_test(left) == {code}


SKIPPED = """
import pytest

@pytest.mark.provokes("busy")
@pytest.mark.skip
def test_skipped(): ...

@pytest.mark.provokes("internal")
@pytest.mark.xfail
def test_expected_to_fail(): ...

@pytest.mark.provokes("draining")
def test_that_runs(): ...

def test_bad_amount(): ...
"""


def test_what_does_not_run_or_only_bears_the_name_provokes_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_skipped.py").write_text(SKIPPED, encoding="utf-8")
    assert set(collect(tmp_path)) == {Code.DRAINING.value}
