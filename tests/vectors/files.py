"""Reading the vectors."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any


@functools.cache
def vectors(name: str) -> dict[str, Any]:
    """Return what stands in the file of that name."""
    path = Path(__file__).parent / f"{name}.json"
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def named(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the arguments of ``pytest.mark.parametrize`` that run a test for each case."""
    return {
        "argnames": "case",
        "argvalues": cases,
        "ids": [str(case.get("name", index)) for index, case in enumerate(cases)],
    }
