"""Files that are there whole or not at all, and survive a power cut once they are said to be there.

A file is written under another name, flushed to the disk, renamed, and its folder is flushed; a
reader never sees a half. Everything is readable by its owner only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clients.errors import StorageError

__all__ = [
    "FILE_MODE",
    "Put",
    "held",
    "locked",
    "make_private_folder",
    "put_all",
    "put_private",
    "read_at_most",
    "remove_leftovers",
    "sync_folder",
    "write_at",
]

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
OPEN_FILES_MAX: Final = 64
UNFINISHED_SUFFIX: Final = ".tmp"
LEFTOVER_SECONDS: Final = 3_600
"""So old is no file that somebody is still writing."""


@dataclass(frozen=True, slots=True)
class Put:
    """A file to be written."""

    path: Path
    data: bytes


def make_private_folder(path: Path) -> None:
    """Make a folder that only its owner can enter.

    :raises StorageError: it can't be made, or isn't a folder.
    """
    try:
        path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        path.chmod(FOLDER_MODE)
    except OSError as error:
        raise StorageError(f"{path} can't be used as a folder: {error.strerror}") from error


def remove_leftovers(folder: Path) -> None:
    """Remove what programs that were ended in the middle of writing have left unfinished."""
    before = time.time() - LEFTOVER_SECONDS
    for path in folder.glob(f".*{UNFINISHED_SUFFIX}"):
        # It may be finished or removed by now, or be somebody else's: then it is not ours to judge.
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < before:
                path.unlink()


def read_at_most(path: Path, size: int) -> bytes:
    """Return what is in a file; of one that has more bytes than ``size``, that many and one more.

    So whoever is pointed at a device, or at a film, finds out without reading all of it.
    """
    with path.open("rb") as file:
        return file.read(size + 1)


def put_private(path: Path, data: bytes) -> None:
    """Write one file durably, in place of what was there.

    :raises StorageError: the disk is full, or whatever the system says.
    """
    put_all([Put(path, data)])


def put_all(puts: Iterable[Put]) -> None:
    """Write several files durably.

    All are written before the first is flushed: a journaling file system then takes most of them
    to the disk with the first flush, and the others cost little.

    :raises StorageError: the disk is full, or whatever the system says.
    """
    waiting = list(puts)
    for start in range(0, len(waiting), OPEN_FILES_MAX):
        _put_batch(waiting[start : start + OPEN_FILES_MAX])


def _put_batch(puts: list[Put]) -> None:
    unfinished: list[tuple[Path, int]] = []
    try:
        # One by one into the list, so that a failure half way knows what to clean up.
        unfinished.extend(_write_unfinished(put) for put in puts)
        if len(unfinished) > 1:
            for _, descriptor in unfinished:
                _begin_writing(descriptor)
        for _, descriptor in unfinished:
            os.fsync(descriptor)
        for put, (path, _) in zip(puts, unfinished, strict=True):
            path.replace(put.path)
        for folder in {put.path.parent for put in puts}:
            sync_folder(folder)
    except OSError as error:
        for path, _ in unfinished:
            path.unlink(missing_ok=True)
        names = ", ".join(str(put.path) for put in puts[:3])
        raise StorageError(f"{names} can't be written: {error.strerror}") from error
    finally:
        for _, descriptor in unfinished:
            os.close(descriptor)


def _begin_writing(descriptor: int) -> None:
    """Let the system begin to write, where it can: waiting for several files takes half as long."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _write_unfinished(put: Put) -> tuple[Path, int]:
    # The name is random, so that two programs don't write into the same unfinished file.
    path = put.path.with_name(f".{put.path.name}.{secrets.token_hex(4)}{UNFINISHED_SUFFIX}")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    try:
        write_at(descriptor, put.data, 0)
    except OSError:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return path, descriptor


def write_at(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of it at a place of a file, however many turns the system takes."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def sync_folder(folder: Path) -> None:
    """Flush a folder, so that names made or removed in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock against other programs on the same state, for the moment of a change."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold a file for as long as the block lasts; False if another program does, or removed it.

    The system lets go of it if the program is ended in the block.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _hold(descriptor)
    finally:
        os.close(descriptor)


def _hold(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    # Another program may have held and removed it between the opening and the lock.
    return os.fstat(descriptor).st_nlink > 0
