"""Server, two processes of the bank, and a customer's driver: whoever is killed starts again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bankproject.demo.processes import http_answers
from clients.storage import StateDirectory
from tests.faults.plan import Plan, PlannedOrder, write_plan
from tests.installation import ADA, Installation, RunningProgram

__all__ = ["NAMES", "Cast", "plan_for"]

NAMES: Final = ("driver", "server", "bank-1", "bank-2")
LOOK_SECONDS: Final = 0.001


def plan_for(installation: Installation, orders: list[PlannedOrder]) -> Plan:
    """Return a plan for the demo's first person."""
    return Plan(
        key_file=str(installation.folder / f"{ADA}.key"),
        passphrase=installation.environment["TELLERWIRE_PASSPHRASE"],
        relay_url=installation.relay_url,
        bank_id=installation.bank.id,
        bank_fingerprint=installation.bank.fingerprint.hex(),
        orders=orders,
    )


class Cast:
    """Everybody who can be killed, by name."""

    def __init__(self, installation: Installation, plan: Plan) -> None:
        """Start everybody and wait until all are ready."""
        self.state = StateDirectory(installation.state_of(ADA))
        self._installation = installation
        self._plan_file = installation.folder / "plan.json"
        write_plan(plan, self._plan_file)
        self._starters: dict[str, Callable[[], RunningProgram]] = {
            "server": lambda: installation.start_server(wait=False),
            "bank-1": lambda: installation.start_bank("bank-1", wait=False),
            "bank-2": lambda: installation.start_bank("bank-2", wait=False),
            "driver": self._start_driver,
        }
        self.running = {name: start() for name, start in self._starters.items()}
        for name in self.running:
            self.wait_ready(name)

    def kill(self, *names: str) -> None:
        """Kill some at the same time, then start them again without waiting for them."""
        for name in names:
            self.running[name].process.kill()
        for name in names:
            program = self.running[name]
            program.process.wait()
            if program.process.stdin is not None:
                program.process.stdin.close()
            self.running[name] = self._starters[name]()

    def wait_ready(self, name: str) -> None:
        """Wait until somebody can do his work."""
        program = self.running[name]
        match name:
            case "server":
                port = self._installation.port
                program.wait_for(lambda: http_answers(port, "/healthz"), "answer")
            case "driver":
                program.wait_for_text("ready")
            case _:
                program.wait_for_text("bank ready")

    # --- The driver ---

    def begin(self, count: int) -> RunningProgram:
        """Let the driver place so many orders, and return once the first one is in its outbox."""
        driver = self.running["driver"]
        placed = driver.text().count("placed")
        assert driver.process.stdin is not None
        assert driver.is_alive, driver.text()
        driver.process.stdin.write(b"%d\n" % count)
        driver.process.stdin.flush()
        deadline = time.monotonic() + 10
        while not any(map(_holds_orders, self.state.outbox.folder.glob("*.log"))):
            if driver.text().count("placed") > placed or time.monotonic() > deadline:
                break
            time.sleep(LOOK_SECONDS)
        return driver

    def finish(self) -> None:
        """Let the driver place whatever is left, and wait until it has ended well."""
        self.wait_ready("driver")
        driver = self.running["driver"]
        assert driver.process.stdin is not None
        driver.process.stdin.close()
        assert driver.wait(60.0) == 0, driver.text()

    def _start_driver(self) -> RunningProgram:
        return self._installation.start(
            "driver",
            ["-m", "tests.faults.order_driver", str(self.state.path), str(self._plan_file)],
            stdin=subprocess.PIPE,
        )


def _holds_orders(log: Path) -> bool:
    """Whether orders are in a log; one that has just gone held none that had not ended."""
    try:
        return log.stat().st_size > 0
    except FileNotFoundError:
        return False
