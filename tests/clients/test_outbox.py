"""The outbox: logs that survive what a power cut leaves, shared by sessions, gone when done."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from clients import outbox as outbox_module
from clients.errors import StorageError
from clients.files import sync_folder, write_at
from clients.storage import StateDirectory
from tests.clients.test_storage import ended, record
from tests.installation import ROOT


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path / "state")


def logs(state: StateDirectory) -> list[Path]:
    return sorted(state.outbox.folder.iterdir())


def another_session(state: StateDirectory) -> StateDirectory:
    return StateDirectory(state.path)


def test_orders_share_a_log_that_goes_with_the_last(state: StateDirectory) -> None:
    state.outbox.add([record(1)])
    state.outbox.add([record(2), record(3)])
    [log] = logs(state)
    assert log.name == f"{record(1).order_id}.log"
    state.archive([ended(1), ended(3)])
    state.outbox.rest()
    assert logs(state) == [log]
    state.archive([ended(2)])
    assert logs(state) == []


def test_a_session_goes_on_in_a_new_log_after_a_rest(state: StateDirectory) -> None:
    state.outbox.add([record(1)])
    state.outbox.rest()
    state.outbox.add([record(2)])
    assert len(logs(state)) == 2
    assert state.unfinished() == [record(1), record(2)]


def test_long_logs_are_left_and_go(state: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "LOG_BYTES_MAX", 1)
    for number in range(3):
        state.outbox.add([record(number)])
    assert len(logs(state)) == 3
    state.archive([ended(0), ended(2)])
    assert [log.stem for log in logs(state)] == [record(1).order_id, record(2).order_id]
    state.outbox.rest()
    assert [log.stem for log in logs(state)] == [record(1).order_id]


def test_what_a_session_left_is_finished_by_another(state: StateDirectory) -> None:
    state.outbox.add([record(1), record(2)])
    state.outbox.rest()
    other = another_session(state)
    assert other.unfinished() == [record(1), record(2)]
    other.archive([ended(1), ended(2)])
    assert other.unfinished() == []
    assert logs(state) == []


def test_nobody_removes_a_log_that_is_appended_to(state: StateDirectory) -> None:
    state.outbox.add([record(1)])
    state.archive([ended(1)])
    other = another_session(state)
    assert other.unfinished() == []
    state.outbox.add([record(2)])
    assert other.unfinished() == [record(2)]


def test_the_log_of_a_session_that_was_killed_is_removed_once_it_is_done(
    state: StateDirectory,
) -> None:
    program = (
        "import os, sys; from pathlib import Path; from clients.storage import StateDirectory\n"
        "from tests.clients.test_storage import record\n"
        "StateDirectory(Path(sys.argv[1])).outbox.add([record(1), record(2)])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, state.path], cwd=ROOT, check=False)
    assert state.unfinished() == [record(1), record(2)]
    state.archive([ended(1)])
    assert state.unfinished() == [record(2)]
    state.archive([ended(2)])
    assert state.unfinished() == []
    assert logs(state) == []


@pytest.mark.parametrize("keep", [0, 1, 8, 9, 10, 200, -1])
def test_a_line_that_a_power_cut_tore_is_no_order(state: StateDirectory, keep: int) -> None:
    state.outbox.add([record(1)])
    [log] = logs(state)
    whole = log.read_bytes().rstrip(b"\0")
    log.write_bytes(whole + whole[:keep])
    assert another_session(state).unfinished() == [record(1)]


def test_a_line_that_the_disk_wrote_in_part_is_no_order(state: StateDirectory) -> None:
    """The file had its new length already, and a page of it was still zeros."""
    state.outbox.add([record(1)])
    [log] = logs(state)
    whole = log.read_bytes().rstrip(b"\0")
    log.write_bytes(whole + bytes(100) + whole[100:])
    assert another_session(state).unfinished() == [record(1)]


@pytest.mark.parametrize("position", [0, 7, 8, 20, -2])
def test_damage_is_named(state: StateDirectory, position: int) -> None:
    state.outbox.add([record(1)])
    state.outbox.add([record(2)])
    [log] = logs(state)
    data = bytearray(log.read_bytes().rstrip(b"\0"))
    data[position] ^= 1
    log.write_bytes(data)
    other = another_session(state)
    for look in (other.unfinished, lambda: other.order(record(1).order_id)):
        with pytest.raises(StorageError, match=rf"{log.name} is damaged in line [12]"):
            look()
    assert logs(state) == [log]


def test_an_order_of_a_later_version_is_named(state: StateDirectory) -> None:
    state.outbox.add([msgspec.structs.replace(record(), version=2)])
    with pytest.raises(StorageError, match="version 2"):
        state.unfinished()


def test_what_could_not_be_kept_is_not_found(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is told that an order was not kept may place it anew."""
    state.outbox.add([record(1)])

    def write(descriptor: int, data: bytes, offset: int) -> None:
        write_at(descriptor, data, offset)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(outbox_module, "write_at", write)
        with pytest.raises(StorageError, match="No space left on device"):
            state.outbox.add([record(2)])
    assert state.unfinished() == [record(1)]
    state.outbox.add([record(3)])
    assert state.unfinished() == [record(1), record(3)]


def test_a_log_grows_in_steps_and_is_cut_to_its_lines_when_it_is_left(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "RESERVED_BYTES", 1000)
    lengths = set()
    for number in range(20):
        state.outbox.add([record(number)])
        lengths.add(logs(state)[0].stat().st_size)
        assert state.unfinished() == [record(each) for each in range(number + 1)]
    assert 5 <= len(lengths) <= 15
    state.outbox.rest()
    assert logs(state)[0].read_bytes().endswith(b"}\n")
    assert another_session(state).unfinished() == [record(each) for each in range(20)]


def test_a_folder_that_is_gone_is_named(state: StateDirectory) -> None:
    state.outbox.folder.rmdir()
    with pytest.raises(StorageError, match="state can't be used"):
        state.outbox.add([record(1)])


def test_a_log_is_on_the_disk_before_its_orders_may_be_sent(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both the log and, for the first order in it, the name of the log."""
    happened: list[str] = []

    def note_folder(folder: Path) -> None:
        happened.append("folder")
        sync_folder(folder)

    def note_write(descriptor: int, data: bytes, offset: int) -> None:
        is_durable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DSYNC == os.O_DSYNC
        happened.append("durable write" if is_durable else "write")
        write_at(descriptor, data, offset)

    monkeypatch.setattr(outbox_module, "sync_folder", note_folder)
    monkeypatch.setattr(outbox_module, "write_at", note_write)
    state.outbox.add([record(1)])
    state.outbox.add([record(2)])
    assert happened == ["folder", "durable write", "durable write"]


def test_sessions_that_come_and_go_at_the_same_time_lose_nothing(state: StateDirectory) -> None:
    """Some add and leave, others look for what is done: what is not ended is always found."""
    program = (
        "import sys; from pathlib import Path; from clients.storage import StateDirectory\n"
        "from tests.clients.test_storage import ended, record\n"
        "first = int(sys.argv[2])\n"
        "state = StateDirectory(Path(sys.argv[1]))\n"
        "for number in range(first, first + 40):\n"
        "    state.outbox.add([record(number)])\n"
        "    if number % 4:\n"
        "        state.archive([ended(number)])\n"
        "    state.outbox.rest()\n"
        "    state.unfinished()\n"
    )
    with contextlib.ExitStack() as stack:
        sessions = [
            stack.enter_context(
                subprocess.Popen([sys.executable, "-c", program, state.path, str(first)], cwd=ROOT)
            )
            for first in (1000, 2000, 3000)
        ]
    assert [session.returncode for session in sessions] == [0, 0, 0]
    waiting = [number for first in (1000, 2000, 3000) for number in range(first, first + 40, 4)]
    assert state.unfinished() == [record(number) for number in waiting]
    assert len(state.finished()) == 90
    assert len(logs(state)) == len(waiting)
