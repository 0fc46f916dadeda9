"""Reads which modules a source file imports, wherever in it and however it says so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
FIRST_PARTY: Final = frozenset({"protocol", "relay", "bank", "clients", "bankproject"})
IMPORTING_CALLS: Final = frozenset({"import_module", "__import__", "import_string"})
UNKNOWN: Final = "<computed>"
"""Stands for a module whose name is computed at run time: nobody can tell what it is."""

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True)
class Import:
    """One module that a file imports; `from a import b` gives `a.b`, which may be a name in `a`."""

    module: str
    line: int
    in_function: bool

    def is_within(self, package: str) -> bool:
        """Whether it is `package` or something in it."""
        return self.module == package or self.module.startswith(f"{package}.")


def python_files(package: str) -> list[Path]:
    """Return the package's source files, relative to the repository."""
    return sorted(path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py"))


def imports_of(path: Path) -> list[Import]:
    """Return what the file at `path`, relative to the repository, imports."""
    return imports_in((ROOT / path).read_text(encoding="utf-8"), path)


def imports_in(source: str, path: Path) -> list[Import]:
    """Return what `source` imports if it stood at `path`, relative to the repository."""
    package = ".".join(path.parent.parts)
    return list(_walk(ast.parse(source, str(path)), package, in_function=False))


def _walk(node: ast.AST, package: str, *, in_function: bool) -> Iterator[Import]:
    for module in _modules(node, package):
        yield Import(module, getattr(node, "lineno", 0), in_function)
    inside = in_function or isinstance(node, Function)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, package, in_function=inside)


def _modules(node: ast.AST, package: str) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            origin = _absolute("." * level + (module or ""), package)
            return [f"{origin}.{alias.name}" for alias in names]
        case ast.Call(func=function) if _name(function) in IMPORTING_CALLS:
            return [_called_with(node)]
        case _:
            return []


def _called_with(call: ast.Call) -> str:
    """Return the literal absolute module that the call imports; anything else isn't told."""
    for argument in (*call.args[:1], *(keyword.value for keyword in call.keywords[:1])):
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            return UNKNOWN if argument.value.startswith(".") else argument.value
        return UNKNOWN
    return UNKNOWN


def _absolute(module: str, package: str) -> str:
    """Resolve leading dots against `package`; one dot is the package itself."""
    bare = module.lstrip(".")
    level = len(module) - len(bare)
    if level == 0:
        return bare
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - level + 1], *([bare] if bare else [])])


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
