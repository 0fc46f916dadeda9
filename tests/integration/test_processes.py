"""Real processes from end to end: servers, banks, people, and two servers with Redis between."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bank.models import Account, Order
from bankproject.demo.processes import free_port
from clients.customer import OrderState
from clients.session import Session
from protocol.banking import Transfer
from tests.faults.customers import ada
from tests.faults.frame_proxy import Direction, frame_proxy
from tests.installation import (
    ADA,
    BEN,
    ROOT,
    SERVER_KINDS,
    Installation,
    RunningProgram,
    ServerKind,
    installation,
)

__all__ = ["installation"]

ACCOUNTS = ("account1", "account2", "account3")
DURATION_SECONDS = 90


def balances() -> dict[str, int]:
    return dict(Account.objects.filter(number__in=ACCOUNTS).values_list("number", "balance"))


def orders_of(person: str) -> int:
    return Order.objects.filter(person__client_id=person).count()


def configure(
    installation: Installation,
    person: str,
    actions: list[str] | None = None,
    *,
    port: int | None = None,
) -> str:
    """Give a person more time than the demo does, perhaps other actions and another server."""
    path = installation.place.config(person)
    content = json.loads(path.read_text(encoding="utf-8"))
    if actions is not None:
        content["actions"] = actions
    content["general"]["duration"] = DURATION_SECONDS
    if port is not None:
        content["server"]["port"] = str(port)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return str(path)


def script(installation: Installation, config: str | Path) -> subprocess.CompletedProcess[str]:
    return installation.run("-m", "clients.person", "run", "--once", str(config))


def run_until(installation: Installation, *people: tuple[str, ...]) -> list[str]:
    """Run people's scripts at the same time until each has printed all of some texts.

    They would stay for the duration of their configuration; here they are told to end, and have
    to say that everything went well.
    """
    programs = [
        installation.start(
            person, ["-m", "clients.person", "run", str(installation.place.config(person))]
        )
        for person, *_ in people
    ]
    for program, (_, *texts) in zip(programs, people, strict=True):
        for text in texts:
            program.wait_for_text(text)
    return [ended_well(program) for program in programs]


def ended_well(program: RunningProgram) -> str:
    assert program.stop() == 0, program.text()
    assert "Traceback" not in program.text()
    return program.text()


def transfers(count: int) -> list[str]:
    return ["SEND [bank] ADD [account1] [account2] [1]"] * count


@pytest.mark.parametrize("kind", SERVER_KINDS)
def test_people_and_bank_through_either_server(
    installation: Installation, kind: ServerKind
) -> None:
    """The demo's own configurations, both programs at the same time."""
    server = installation.start_server(kind)
    bank = installation.start_bank()
    for person in (ADA, BEN):
        configure(installation, person)
    ada_said, ben_said = run_until(
        installation,
        (ADA, "message from Beispiel, Ben (demo-ben): Hello Ada, here is Ben.", "action 3/3"),
        (BEN, "message from Ärlig, Ada (demo-ada): Hello Ben, here is Ada.", "action 1/1"),
    )
    assert "action 1/3 ok: answered by demo-ben" in ada_said
    assert "action 2/3 ok: transfer 100 from account1 to account2" in ada_said
    assert "action 3/3 ok: withdraw 100 from account2" in ada_said
    assert "action 1/1 ok: answered by demo-ada" in ben_said
    assert balances() == {"account1": 900, "account2": 1000, "account3": 1000}
    assert server.is_alive
    assert bank.stop() == 0
    assert server.stop() in (0, -15)
    assert "Traceback" not in server.text() + bank.text()
    installation.verify_ledger()


def test_exit_status_and_lines_of_a_script_of_which_some_fails(
    installation: Installation,
) -> None:
    installation.start_server()
    installation.start_bank()
    actions = [
        "SEND [bank] ADD [account1] [account2] [5]",
        "SEND [bank] ADD [account3] [account2] [5]",
        "SEND [nobody-here] hello",
        "SEND [bank] SUB [account2] [5]",
    ]
    config = Path(configure(installation, ADA, actions))
    content = json.loads(config.read_text(encoding="utf-8"))
    content["general"] = {"duration": 30, "retries": 1, "timeout": 2}
    config.write_text(json.dumps(content), encoding="utf-8")
    ran = script(installation, config)
    assert ran.returncode == 1, ran.stdout
    lines = [line for line in ran.stdout.splitlines() if line.startswith("action ")]
    assert len(lines) == len(actions), ran.stdout
    assert lines[0].startswith("action 1/4 ok: transfer 5 from account1 to account2")
    assert lines[1].startswith("action 2/4 refused: account_unavailable")
    assert lines[2].startswith("action 3/4 refused: unknown_recipient")
    assert lines[3].startswith("action 4/4 ok: withdraw 5 from account2")
    assert balances() == {"account1": 995, "account2": 1000, "account3": 1000}


def test_a_relay_that_is_not_there_is_said_so(installation: Installation) -> None:
    config = Path(configure(installation, ADA, transfers(1)))
    content = json.loads(config.read_text(encoding="utf-8"))
    content["general"] = {"duration": 1, "retries": 1, "timeout": 1}
    config.write_text(json.dumps(content), encoding="utf-8")
    ran = script(installation, config)
    assert ran.returncode == 1, ran.stdout
    assert f"no connection to the relay at {installation.relay_url}" in ran.stdout
    assert "Traceback" not in ran.stdout
    assert orders_of(ADA) == 0


class Counting:
    """Counts the answers that one process of the bank gives, on its way to the relay."""

    def __init__(self) -> None:
        self.answers = 0

    def __call__(self, direction: Direction, frame: dict[str, Any]) -> bool:
        self.answers += direction is Direction.TO_RELAY and frame["type"] == "send"
        return True


async def submit_many(session: Session, count: int) -> None:
    order = Transfer("account1", "account2", "1")
    results = await asyncio.gather(*(session.customer.submit(order) for _ in range(count)))
    assert {result.state for result in results} == {OrderState.ACCEPTED}


def test_two_banks_share_the_work_and_one_drains(installation: Installation) -> None:
    """Told to end in the middle of a burst, it finishes what it has in hand; the other goes on."""
    installation.start_server()
    ways = Counting(), Counting()
    with (
        frame_proxy(installation.relay_url, ways[0]) as first_way,
        frame_proxy(installation.relay_url, ways[1]) as second_way,
    ):
        first = installation.start_bank("bank-1", relay=first_way)
        second = installation.start_bank("bank-2", relay=second_way)

        async def burst_and_end() -> None:
            async with ada(installation) as session:
                await submit_many(session, 40)
                assert min(way.answers for way in ways) > 0
                task = asyncio.create_task(submit_many(session, 200))
                before = ways[0].answers
                while ways[0].answers == before:
                    await asyncio.sleep(0)
                first.terminate()
                assert await asyncio.to_thread(first.wait) == 0, first.text()
                await task
                at_the_end = ways[0].answers
                await submit_many(session, 10)
                assert ways[0].answers == at_the_end

        asyncio.run(asyncio.wait_for(burst_and_end(), 60))
        assert second.stop() == 0
    # Nothing was asked twice: what the first one had, it answered, and the rest it never took.
    assert orders_of(ADA) == 250
    assert balances() == {"account1": 750, "account2": 1250, "account3": 1000}
    assert "Traceback" not in first.text() + second.text()
    installation.verify_ledger()


def test_orders_go_on_while_one_bank_ends_and_another_is_killed(
    installation: Installation,
) -> None:
    installation.start_server()
    first, second = installation.start_bank("bank-1"), installation.start_bank("bank-2")
    config = configure(installation, ADA, transfers(60))
    person = installation.start("ada", ["-m", "clients.person", "run", "--once", config])
    person.wait_for(lambda: "action 10/60 ok" in person.text(), "tenth action")
    first.terminate()
    person.wait_for(lambda: "action 25/60 ok" in person.text(), "action after that")
    third = installation.start_bank("bank-3")
    second.kill()
    assert person.wait() == 0, person.text()
    assert person.text().count(" ok: transfer 1 from account1 to account2") == 60
    assert first.wait() == 0, first.text()
    assert orders_of(ADA) == 60
    assert balances() == {"account1": 940, "account2": 1060, "account3": 1000}
    assert third.stop() == 0
    installation.verify_ledger()


def test_a_bank_whose_key_file_is_an_older_copy_makes_newer_keys(
    installation: Installation,
) -> None:
    """Restored from a backup; whoever knows newer keys takes no older ones."""
    installation.start_server()
    file = installation.place.folder / "bank.key"
    copy = (ROOT / "fixtures" / "demo" / file.name).read_bytes()
    file.write_bytes(copy)
    bank = installation.start_bank()  # the demo's keys are old: it rotates
    assert file.read_bytes() != copy
    assert "1000" in installation.person(ADA, "balance", "account1")
    assert bank.stop() == 0
    file.write_bytes(copy)
    bank = installation.start_bank("restored")
    assert "1000" in installation.person(ADA, "balance", "account1")
    assert bank.stop() == 0
    assert "Traceback" not in bank.text()


def test_a_person_at_one_server_and_the_bank_at_another(
    installation: Installation, redis_url: str
) -> None:
    """Two servers, one Redis; then the bank's server is killed, and missed until it is back."""
    redis = {"TELLERWIRE_REDIS_URL": redis_url}
    other_port = free_port()
    near = installation.start_server(environment=redis)
    far = installation.start_server(environment=redis, port=other_port)
    bank = installation.start_bank(relay=f"ws://127.0.0.1:{other_port}/relay")
    greeting = "SEND [Beispiel, Ben] Hello from the other server."
    here = configure(installation, ADA, [greeting, *transfers(5)])
    configure(installation, BEN, ["SEND [Ada, Ärlig] Hello."], port=other_port)
    run_until(
        installation,
        (ADA, "message from Beispiel, Ben (demo-ben): Hello.", "action 1/6 ok", "action 6/6 ok"),
        (BEN, "message from Ärlig, Ada (demo-ada): Hello from the other", "action 1/1 ok"),
    )
    assert balances() == {"account1": 995, "account2": 1005, "account3": 1000}
    # The bank knows no other address than that of the server that is killed: the orders wait.
    far.kill()
    waiting = installation.start("ada", ["-m", "clients.person", "run", "--once", here])
    waiting.wait_for_text("connected to")
    installation.start_server(environment=redis, port=other_port)
    assert waiting.wait(DURATION_SECONDS) == 0, waiting.text()
    assert balances() == {"account1": 990, "account2": 1010, "account3": 1000}
    assert near.is_alive
    assert bank.stop() == 0
    installation.verify_ledger()
