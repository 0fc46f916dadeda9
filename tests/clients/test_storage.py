"""State on disk: whole files or none, private, shared by programs, and named when damaged."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from clients import durable_writer
from clients.durable_writer import DurableWriter
from clients.errors import PeerKeyChangedError, RefusedError, StorageError
from clients.files import Put, put_all, put_private
from clients.memory import PinsOnDisk
from clients.peers import Peers, Pin
from clients.records import Ending, OrderRecord
from clients.storage import StateDirectory
from protocol.encoding import b64u
from protocol.errors import Code
from protocol.identifiers import uuid7
from tests.clients.test_messages import other_identity
from tests.clients.world import ADA, BANK, BEN

NOW = 1_800_000_000_000


def record(number: int = 1) -> OrderRecord:
    return OrderRecord(
        order_id=uuid7(NOW, number.to_bytes(10, "big")),
        person="ada",
        person_fingerprint="00" * 16,
        person_key=b64u(bytes(32)),
        bank="bank",
        bank_fingerprint="11" * 16,
        operation="transfer",
        meaning="transfer 1 from a to b",
        evidence=b64u(bytes(100)),
        reply_key=b64u(bytes(32)),
        issued_at=NOW,
        expires_at=NOW + 1,
    )


def ended(number: int = 1) -> OrderRecord:
    return msgspec.structs.replace(record(number), ending=Ending(Code.ORDER_EXPIRED, "", NOW))


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path / "state")


def test_everything_is_private(state: StateDirectory) -> None:
    state.outbox.add([record()])
    for path in (state.path, state.outbox.folder, state.receipts.folder, state.inbox):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    [file] = state.outbox.folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_folder_that_was_open_to_others_is_closed(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    StateDirectory(tmp_path / "state")
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StorageError, match="state can't be used as a folder"):
        StateDirectory(tmp_path / "state")


def test_an_order_moves_to_the_receipts(state: StateDirectory) -> None:
    state.outbox.add([record(1), record(2)])
    assert state.unfinished() == [record(1), record(2)]
    state.archive([ended(1)])
    assert state.unfinished() == [record(2)]
    assert state.finished() == [ended(1)]
    assert state.order(record(1).order_id) == ended(1)
    assert state.order(record(2).order_id) == record(2)
    assert state.order(record(3).order_id) is None
    assert state.file_of(record(1).order_id).parent == state.receipts.folder
    assert state.file_of(record(2).order_id).parent == state.outbox.folder
    with pytest.raises(ValueError, match="has not ended"):
        state.archive([record(2)])


def test_a_damaged_receipt_hides_no_other(state: StateDirectory) -> None:
    state.archive([ended(1), ended(2)])
    path = state.receipts.own_file(record(1).order_id)
    path.write_bytes(path.read_bytes()[:-40])
    assert state.finished() == [ended(2)]
    _, [damage] = state.receipts.read()
    assert str(path) in str(damage)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    put_private(path, b"before")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="can't be written"):
        put_all([Put(path.with_name("other"), b"other"), Put(tmp_path / "folder", b"after")])
    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir() if each.name.endswith(".tmp")] == []


async def test_writer_writes_together_what_gathers() -> None:
    batches: list[int] = []
    gate = threading.Event()

    def write(things: list[int]) -> None:
        batches.append(len(things))
        gate.wait(5)

    writer = DurableWriter(write)
    puts = [writer.put(number) for number in range(5)]
    gate.set()
    await writer.flush()
    assert all(put.done() for put in puts)
    assert batches == [1, 4]


async def test_writer_lets_things_gather_and_flush_doesnt_wait() -> None:
    batches: list[int] = []
    writer: DurableWriter[int] = DurableWriter(lambda things: batches.append(len(things)), 60.0)
    puts = [writer.put(number) for number in range(5)]
    await asyncio.sleep(0.01)
    assert batches == []
    await asyncio.wait_for(writer.flush(), 5)
    assert batches == [5]
    assert all(put.done() for put in puts)


async def test_writer_tells_everybody_of_a_failure_and_lives_on() -> None:
    failures = [StorageError("full")]

    def write(things: list[int]) -> None:
        if failures:
            raise failures.pop()

    writer = DurableWriter(write)
    with pytest.raises(StorageError, match="full"):
        await writer.put(1)
    await writer.put(2)


async def test_writer_says_that_nothing_is_written_when_the_loop_ends() -> None:
    written: list[int] = []
    writer = DurableWriter(written.extend)
    await writer.put(1)
    await asyncio.get_running_loop().shutdown_default_executor()
    with pytest.raises(StorageError, match="the program ends"):
        await writer.put(2)
    assert written == [1]


async def test_writer_writes_in_place_what_nobody_else_waits_with() -> None:
    written: list[list[int]] = []
    writer: DurableWriter[int] = DurableWriter(written.append, 60.0)
    assert writer.put_now(1)
    assert written == [[1]]
    put = writer.put(2)
    assert not writer.put_now(3)
    await writer.flush()
    assert put.done()
    assert written == [[1], [2]]
    assert writer.put_now(3)


async def test_writer_makes_nobody_wait_twice_for_a_slow_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(durable_writer, "IN_PLACE_SECONDS_MAX", -1.0)
    written: list[list[int]] = []
    writer: DurableWriter[int] = DurableWriter(written.append)
    assert writer.put_now(1)
    assert not writer.put_now(2)
    await writer.put(2)
    assert writer.put_now(3)
    assert written == [[1], [2], [3]]


async def test_what_the_disk_refuses_in_place_is_told() -> None:
    def write(things: list[int]) -> None:
        raise StorageError("full")

    writer: DurableWriter[int] = DurableWriter(write)
    with pytest.raises(StorageError, match="full"):
        writer.put_now(1)


# --- Pins ---


def test_pins_survive_and_are_shared(state: StateDirectory) -> None:
    one, other = PinsOnDisk(state), PinsOnDisk(state)
    one.put_pin("ada", Pin(ADA.bundle))
    other.put_pin("ben", Pin(BEN.bundle, blocked=True))
    other.put_relay_name("ws://x", "relay")
    for pins in (one, other, PinsOnDisk(state)):
        assert [pin.bundle.id for pin in pins.all_pins()] == ["ada", "ben"]
        assert pins.relay_name("ws://x") == "relay"
        ben = pins.pin("ben")
        assert ben is not None
        assert ben.blocked
    assert one.forget_relay("ws://x")
    assert other.relay_name("ws://x") is None
    assert not one.forget_relay("ws://x")


def test_damaged_pins_are_named_and_not_forgotten(state: StateDirectory) -> None:
    PinsOnDisk(state).put_pin("ada", Pin(ADA.bundle))
    damaged = state.pins_file.read_bytes().replace(b'"signature": "', b'"signature": "A')
    state.pins_file.write_bytes(damaged)
    with pytest.raises(StorageError, match=r"pins\.json is damaged"):
        PinsOnDisk(state)
    assert state.pins_file.read_bytes() == damaged


def test_programs_that_pin_at_the_same_time_lose_nothing(
    state: StateDirectory, tmp_path: Path
) -> None:
    program = tmp_path / "pin.py"
    program.write_text(
        "import sys; from pathlib import Path\n"
        "from clients.memory import PinsOnDisk\n"
        "from clients.storage import StateDirectory\n"
        "pins = PinsOnDisk(StateDirectory(Path(sys.argv[1])))\n"
        "for number in range(25):\n"
        "    pins.put_relay_name(f'ws://{sys.argv[2]}/{number}', 'name')\n"
    )
    root = Path(__file__).parents[2]
    started = [
        subprocess.Popen(
            [sys.executable, program, state.path, str(number)], env={"PYTHONPATH": str(root)}
        )
        for number in range(3)
    ]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    pins = PinsOnDisk(state)
    kept = [pins.relay_name(f"ws://{who}/{number}") for who in range(3) for number in range(25)]
    assert kept == ["name"] * 75


# --- Whose key is whose ---


def test_configured_fingerprint_wins_over_everything(state: StateDirectory) -> None:
    """Even a successor that the known key signed is not the configured bank."""
    successor = other_identity(BANK, signed_by=BANK.identity)
    peers = Peers(PinsOnDisk(state), {"bank": BANK.fingerprint})
    assert peers.known("bank", NOW) is None
    peers.admit(BANK.bundle)
    known = peers.known("bank", BANK.bundle.valid_from)
    assert known is not None
    assert known.signed == BANK.signed_bundle
    with pytest.raises(PeerKeyChangedError, match="configured"):
        peers.admit(successor.bundle)
    assert peers.known("bank", BANK.bundle.valid_from) == known
    elsewhere = Peers(PinsOnDisk(state), {"bank": successor.fingerprint})
    assert elsewhere.known("bank", NOW) is None
    assert elsewhere.admit(successor.bundle) == successor.bundle


def test_expired_bundle_is_not_known(state: StateDirectory) -> None:
    peers = Peers(PinsOnDisk(state))
    peers.admit(ADA.bundle)
    assert peers.known("ada", ADA.bundle.valid_to - 1) is not None
    assert peers.known("ada", ADA.bundle.valid_to) is None


def test_nobody_unknown_can_be_blocked(state: StateDirectory) -> None:
    with pytest.raises(RefusedError, match="not known here"):
        Peers(PinsOnDisk(state)).block("ada", blocked=True)
