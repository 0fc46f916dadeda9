"""Transfers a second through the whole chain: client, relay, bank, database, signed receipt.

    python -m benchmarks.chain [--orders N] [--runs N] [--database sqlite|postgresql]

Real processes: a server, a bank, this client. Every order is written to the client's outbox with
an fsync before it is sent, booked in a durable transaction, and counted when its signed receipt was
checked. Each number is the median of several runs, each on its own time; see README.md.
"""

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bankproject.demo import installation as setup
from bankproject.demo.processes import Programs
from benchmarks.bare import bare_postgresql, bare_sqlite
from benchmarks.results import Result, report
from clients.client import Client
from clients.customer import BankPin, Customer, OrderState
from clients.event_loop import run as run_loop
from clients.peers import Peers
from clients.retry import RetryPolicy
from clients.storage import StateDirectory
from protocol.banking import Transfer
from protocol.encoding import unb64u
from protocol.keyfile import decrypt_key_file, read_key_file_header
from tests.servers import PostgresServer

ORIGINAL_SEQUENTIAL: Final = 24.0
"""Transfers a second of the system that this one grew from, one after the other, on two cores."""
ORIGINAL_PIPELINED: Final = 48.0
"""The same with 32 in flight."""
IN_FLIGHT: Final = 32
PATIENT: Final = RetryPolicy(tries=3, try_ms=20_000)


@dataclass(frozen=True, slots=True)
class Run:
    """One run's rate, in transfers a second, and its latencies in milliseconds."""

    rate: float
    latencies: list[float]


class Orders:
    """Places transfers between two accounts of one customer's, to and fro."""

    def __init__(self, customer: Customer) -> None:
        self._customer = customer
        self._placed = 0

    async def place(self) -> float:
        """Place one order and return how long it took, in milliseconds.

        :raises RuntimeError: it was not accepted; then there is nothing to measure.
        """
        self._placed += 1
        pair = ("account1", "account2") if self._placed % 2 else ("account2", "account1")
        began = time.perf_counter()
        result = await self._customer.submit(Transfer(*pair, "1"))
        if result.state is not OrderState.ACCEPTED:
            raise RuntimeError(f"{result.meaning}: {result.state} {result.code} {result.detail}")
        return (time.perf_counter() - began) * 1_000

    async def sequential(self, count: int) -> Run:
        """One after the other."""
        began = time.perf_counter()
        latencies = [await self.place() for _ in range(count)]
        return Run(count / (time.perf_counter() - began), latencies)

    async def pipelined(self, count: int) -> Run:
        """Thirty-two in flight until all are answered."""
        places = asyncio.Semaphore(IN_FLIGHT)

        async def place() -> float:
            async with places:
                return await self.place()

        began = time.perf_counter()
        latencies = await asyncio.gather(*(place() for _ in range(count)))
        return Run(count / (time.perf_counter() - began), latencies)


async def measure(place: setup.Installation, orders: int, runs: int) -> dict[str, list[Run]]:
    """Measure both ways of sending, alternating, after a warm-up."""
    key_file = decrypt_key_file((place.folder / "demo-ada.key").read_bytes(), setup.PASSPHRASE)
    header = read_key_file_header((place.folder / "bank.key").read_bytes())
    bank = BankPin("bank", unb64u(header.fingerprint))
    peers = Peers(configured={bank.id: bank.fingerprint})
    measured: dict[str, list[Run]] = {"sequential": [], "pipelined": []}
    async with Client(key_file, place.relay, peers=peers) as client:
        await client.wait_ready(30)
        customer = Customer(client, bank, StateDirectory(place.folder / "state"), PATIENT)
        placing = Orders(customer)
        await placing.pipelined(orders // 4)
        for _ in range(runs):
            measured["sequential"].append(await placing.sequential(orders // 2))
            measured["pipelined"].append(await placing.pipelined(orders))
        await customer.flush()
    return measured


@dataclass(frozen=True, slots=True)
class Ready:
    """A relay and a bank that run.

    :param bare_rate: durable transfers a second that the database's driver alone manages here.
    """

    place: setup.Installation
    bare_rate: float


@contextlib.contextmanager
def installation(database: str) -> Iterator[Ready]:
    """A relay and a bank on fresh demo data, with their databases on SQLite or PostgreSQL."""
    with contextlib.ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="tellerwire-benchmark-"))
        )
        place = setup.prepare(folder)
        environment = place.environment()
        if database == "postgresql":
            server = stack.enter_context(PostgresServer(durable=True))
            for variable, name in (("DATABASE_URL", "bank"), ("RELAY_DATABASE_URL", "relay")):
                environment[f"TELLERWIRE_{variable}"] = server.create_database(name)
            bare_rate = bare_postgresql(server.create_database("bare"))
        else:
            bare_rate = bare_sqlite(folder / "bare.sqlite3")
        programs = stack.enter_context(Programs(folder, environment, setup.HOME))
        setup.fill_databases(programs)
        setup.start_relay(programs, place)
        setup.start_bank(programs)
        yield Ready(place, bare_rate)


def results(database: str, bare_rate: float, measured: dict[str, list[Run]]) -> Iterator[Result]:
    """Rate and latency of each way of sending: the median of the runs."""
    yield Result(
        name=f"bare-sequential-{database}",
        value=round(bare_rate, 1),
        unit="transfers/s",
        reference="none: what this machine's driver and disk give in this hour",
        ratio=None,
    )
    originals = {"sequential": ORIGINAL_SEQUENTIAL, "pipelined": ORIGINAL_PIPELINED}
    for way, runs in measured.items():
        rate = statistics.median(run.rate for run in runs)
        latency = statistics.median(statistics.median(run.latencies) for run in runs)
        original = originals[way]
        yield Result(
            name=f"chain-{way}-{database}",
            value=round(rate, 1),
            unit="transfers/s",
            reference=f"the original: {original:.0f}/s",
            ratio=round(rate / original, 2),
        )
        before = IN_FLIGHT / original if way == "pipelined" else 1 / original
        yield Result(
            name=f"chain-{way}-latency-{database}",
            value=round(latency, 2),
            unit="ms, median",
            reference=f"the original: {before * 1_000:.0f} ms",
            ratio=round(before * 1_000 / latency, 2),
        )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--orders", type=int, default=1_000, help="orders in a pipelined run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    options = parser.parse_args()
    found: list[Result] = []
    for database in options.database or ("sqlite", "postgresql"):
        with installation(database) as ready:
            measured = run_loop(measure(ready.place, options.orders, options.runs))
        found.extend(results(database, ready.bare_rate, measured))
    report("Through the whole chain, against the original system", found)


if __name__ == "__main__":
    main()
