"""What `compose.yaml` would start, started on this machine without an engine.

Each service gets the environment and runs the command that the file gives it. Only names of hosts
and paths inside containers are replaced, by those of a test's own servers and folders.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from bankproject.demo.processes import clean_environment

ROOT: Final = Path(__file__).resolve().parent.parent.parent
COMMAND_SECONDS_MAX: Final = 60.0
_VARIABLE: Final = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


class Composition:
    """The services of `compose.yaml`, with names and places of this machine.

    :param names: what an operator writes into `.env`.
    :param places: texts of the file, and what stands for them here; the first that fits counts.
    :param image: what the image sets in the environment of each of our services.
    """

    def __init__(
        self, names: Mapping[str, str], places: Mapping[str, str], image: Mapping[str, str]
    ) -> None:
        self._names = names
        self._places = places
        self._image = image
        loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
        self._services: dict[str, Any] = loaded["services"]

    def one_shots(self) -> list[str]:
        """Return the services that run to their end, each after those that it waits for."""
        ordered: list[str] = []
        waiting = [name for name in self._services if self._services[name].get("restart") == "no"]
        while waiting:
            ready = [name for name in waiting if not set(self._needs(name)) & set(waiting)]
            assert ready, f"these wait for each other: {waiting}"
            ordered += ready
            waiting = [name for name in waiting if name not in ready]
        return ordered

    def environment(self, service: str) -> dict[str, str]:
        """Return a service's whole environment."""
        own = self._services[service].get("environment", {})
        set_by_file = {name: self._text(str(value)) for name, value in own.items()}
        image = {name: self.here(value) for name, value in self._image.items()}
        return {**clean_environment(), **image, **set_by_file}

    def command(self, service: str) -> list[str]:
        """Return what a service runs."""
        return [self._text(part) for part in self._services[service]["command"]]

    def run(self, service: str, *command: str) -> str:
        """Run a service, or another command in its place, to its end, and return its output."""
        finished = subprocess.run(
            command or self.command(service),
            check=False,
            env=self.environment(service),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
        )
        assert finished.returncode == 0, f"{service}:\n{finished.stdout}"
        return finished.stdout

    def here(self, text: str) -> str:
        """Return a text with the places of this machine."""
        for there, here in self._places.items():
            text = text.replace(there, here)
        return text

    def _needs(self, service: str) -> list[str]:
        return list(self._services[service].get("depends_on", {}))

    def _text(self, text: str) -> str:
        return self.here(_VARIABLE.sub(self._value, text).replace("$$", "$"))

    def _value(self, match: re.Match[str]) -> str:
        name, mark, rest = match.groups()
        if mark == "?":
            return self._names[name]
        return self._names.get(name, rest or "")
