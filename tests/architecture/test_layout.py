"""How the repository looks: names that say something, files that tell one story, no traces."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.architecture.imports import FIRST_PARTY, ROOT, python_files

SAYS_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "shared"}
LINES_MAX = 500

# Put together here, so that this file doesn't hold what it looks for.
LOCAL_PATHS = re.compile(r"(?<![\w.~$}-])/(?:work|root|home|Users|tmp/tw)/" + r"\w")
REGISTRIES = re.compile(
    "|".join(
        [
            r"pypi\." + "org",
            r"pythonhosted\." + "org",
            r"registry\." + r"(?:npmjs|yarnpkg)",
            r"--(?:extra-)?index" + r"-url\s+\S",
            r"--find" + r"-links\s+\S",
            r"\bfile" + r":///(?:opt|srv|mnt)",
        ]
    )
)


def _product_files() -> list[Path]:
    return [path for package in (*sorted(FIRST_PARTY), "tests") for path in python_files(package)]


def _files_in_git() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def _traces(text: str) -> list[str]:
    found = [*LOCAL_PATHS.finditer(text), *REGISTRIES.finditer(text)]
    return [match.group() for match in found]


def test_every_module_has_a_name_that_says_what_it_is_for() -> None:
    nameless = [path for path in _product_files() if SAYS_NOTHING & set(path.with_suffix("").parts)]

    assert not nameless


def test_no_file_tells_more_than_one_story() -> None:
    written = [path for path in _product_files() if path.parent.name != "migrations"]
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in written}

    assert not {path: length for path, length in lengths.items() if length > LINES_MAX}


def test_only_settings_import_a_star() -> None:
    starred = [
        path
        for path in _product_files()
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]

    settings = Path("bankproject/settings")
    assert not [
        path for path in starred if path.parent != settings and not path.stem.endswith("_settings")
    ]


def test_nothing_in_git_names_a_local_path_or_a_registry() -> None:
    traces = {}
    for path in _files_in_git():
        try:
            found = _traces(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
        if found:
            traces[str(path.relative_to(ROOT))] = found

    assert not traces


@pytest.mark.parametrize(
    "line",
    [
        "see /wor" + "k/main/notes",
        "path = '/ro" + "ot/key'",
        "-f /ho" + "me/ada/key",
        "--extra-index" + "-url https://example",
        "https://pypi" + ".org/simple",
        "--find" + "-links /opt",
    ],
)
def test_a_planted_trace_is_found(line: str) -> None:
    assert _traces(line)


def test_the_requirements_are_pinned_with_hashes() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / name).read_text(encoding="utf-8")
        requirements = [line for line in text.splitlines() if re.match(r"^[A-Za-z0-9]", line)]
        blocks = re.split(r"\n(?=[A-Za-z0-9])", text)
        assert requirements
        assert all("==" in line for line in requirements)
        assert all("--hash=sha256:" in block for block in blocks if "==" in block)
