"""What the pages say about commands, files and settings is so."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from django.core.management import get_commands
from typer.main import get_command

from bank.conf import DEFAULTS as BANK_DEFAULTS
from clients import person
from relay.conf import DEFAULTS as RELAY_DEFAULTS

HOME = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in (*HOME.glob("*.md"), *HOME.glob("docs/**/*.md"), *HOME.glob("benchmarks/*.md"))
    if path.is_file()
)
READERS = {"text", "required", "secret", "listing", "mapping", "flag"}
CODE_FOLDERS = ("bankproject", "bank", "relay", "clients", "protocol")

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_SETTING = re.compile(r"TELLERWIRE_[A-Z0-9_]*[A-Z0-9]")


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _pages() -> list[str]:
    return [str(page.relative_to(HOME)) for page in PAGES]


def _commands(pattern: str) -> set[str]:
    return {name for page in PAGES for name in re.findall(pattern, _text(page))}


def _anchor(heading: str) -> str:
    """Return the anchor that forges give a heading."""
    words = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return words.replace(" ", "-")


def _links(page: Path) -> Iterator[str]:
    yield from _LINK.findall(_FENCE.sub("", _text(page)))


@pytest.mark.parametrize("name", _pages())
def test_every_link_leads_somewhere(name: str) -> None:
    page = HOME / name
    broken = []
    for link in _links(page):
        if link.startswith(("https://", "http://")):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / unquote(target)).resolve() if target else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(link)
    assert broken == []


def _anchors(page: Path) -> set[str]:
    return {_anchor(heading) for heading in _HEADING.findall(_FENCE.sub("", _text(page)))}


@pytest.mark.parametrize("name", _pages())
def test_pictures_come_from_this_repository(name: str) -> None:
    pictures = re.findall(
        r"!\[[^\]]*\]\(([^()\s]+)\)|<img[^>]*src=\"([^\"]+)\"", _text(HOME / name)
    )
    outside = [source for pair in pictures for source in pair if source.startswith("http")]
    assert outside == []


def test_decisions_are_numbered_once_and_listed() -> None:
    folder = HOME / "docs" / "decisions"
    pages = sorted(path.name for path in folder.glob("[0-9]*.md"))
    numbers = [name[:4] for name in pages]
    assert len(set(numbers)) == len(numbers)
    assert [link for link in _links(folder / "README.md") if link[:4].isdigit()] == pages


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", _text(HOME / "Makefile"), re.MULTILINE))
    named = _commands(r"(?:`|^ *\$? *)make ([a-z][a-z-]+)(?=[`\s])")
    assert named
    assert named <= targets


def test_management_commands_exist() -> None:
    named = _commands(r"manage\.py ([a-z_]+)")
    assert {"runbank", "verify_ledger"} <= named
    assert named <= set(get_commands())


def test_commands_of_the_person_exist() -> None:
    known = set(getattr(get_command(person.app), "commands", {}))
    named = _commands(r"clients[./]person(?:\.py)? +([a-z][a-z-]*)")
    assert {"run", "transfer", "verify"} <= known
    assert named
    assert named <= known


def test_named_tests_and_files_exist() -> None:
    """A claim that names its test must name one that is there."""
    named = _commands(
        r"`((?:tests|bank|relay|clients|protocol|bankproject|fixtures|benchmarks)/[\w./-]+)`"
    )
    missing = sorted(name for name in named if not (HOME / name).exists())
    assert missing == []


def test_named_test_functions_exist() -> None:
    defined = {
        node.name
        for path in (HOME / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(_text(path)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    named = _commands(r"`(test_[a-z0-9_]+)`")
    assert sorted(named - defined) == []


def _settings_in_code() -> set[str]:
    found: set[str] = set()
    for folder in CODE_FOLDERS:
        for path in (HOME / folder).rglob("*.py"):
            found |= set(_SETTING.findall(_text(path)))
    for path in (HOME / "bankproject").rglob("*.py"):
        for node in ast.walk(ast.parse(_text(path))):
            found |= set(_read_by(node))
    return found


def _read_by(node: ast.AST) -> Iterator[str]:
    """Yield what a call such as `environment.text("LOG_LEVEL")` reads."""
    if not isinstance(node, ast.Call) or not node.args:
        return
    function = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    if isinstance(node.func, ast.Name):
        function = node.func.id
    name = node.args[0]
    if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
        return
    if function in READERS and name.value.isupper():
        yield f"TELLERWIRE_{name.value}"
    elif function == "required_database":
        yield from (f"TELLERWIRE_{name.value}_{part}" for part in ("URL", "PASSWORD_FILE"))


def _without_files(settings: set[str]) -> set[str]:
    """Return the names without `_FILE`: every secret may be given as a file."""
    return {setting.removesuffix("_FILE") for setting in settings}


def test_every_setting_is_explained() -> None:
    explained = set(_SETTING.findall(_text(HOME / "docs" / "operations.md")))
    assert sorted(_without_files(_settings_in_code()) - _without_files(explained)) == []


@pytest.mark.parametrize("defaults", [BANK_DEFAULTS, RELAY_DEFAULTS], ids=["bank", "relay"])
def test_every_bound_is_explained(defaults: Mapping[str, Any]) -> None:
    explained = set(re.findall(r"`([A-Z][A-Z_]+)`", _text(HOME / "docs" / "operations.md")))
    bounds = {name for name, value in defaults.items() if isinstance(value, int | float)}
    assert sorted(bounds - explained) == []


def test_no_setting_is_explained_that_nothing_reads() -> None:
    named = set().union(*(set(_SETTING.findall(_text(page))) for page in PAGES))
    known = _settings_in_code() | set(_SETTING.findall(_text(HOME / "compose.yaml")))
    assert sorted(_without_files(named) - _without_files(known)) == []
