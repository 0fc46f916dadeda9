"""How every benchmark reports: a table for people, and one line of JSON for each result."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

__all__ = ["Result", "report"]


@dataclass(frozen=True, slots=True)
class Result:
    """One measured value beside what it is compared with.

    :param reference: the name of the other side and its value, in words.
    :param ratio: how many times better than the reference; None where there is none.
    """

    name: str
    value: float
    unit: str
    reference: str
    ratio: float | None


def report(title: str, results: Sequence[Result]) -> None:
    """Print the table, then the lines of JSON."""
    table = Table(title=title, title_justify="left")
    for heading in ("benchmark", "value", "unit", "compared with", "ratio"):
        table.add_column(heading, justify="right" if heading in {"value", "ratio"} else "left")
    for result in results:
        ratio = "" if result.ratio is None else f"{result.ratio:.1f}"
        table.add_row(result.name, f"{result.value:.1f}", result.unit, result.reference, ratio)
    Console(width=110).print(table)
    for result in results:
        print(json.dumps(asdict(result)), flush=True)
