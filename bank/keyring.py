"""The bank's key file on disk: opened once, rotated daily, shared by several processes.

Whoever rotates holds a lock beside the file, reads the file again under it, and writes a whole new
file: several processes under one id agree on who does it, and no crash leaves half a file. The
others notice that the file has changed, at the latest when somebody seals to a prekey they don't
have.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from bank.errors import BankSetupError
from bank.incoming import BankIdentity
from protocol.errors import KeyFileFormatError, WrongPassphraseError
from protocol.keyfile import (
    DEFAULT_COST,
    Cost,
    KeyFile,
    decrypt_key_file,
    encrypt_key_file,
    lock_name,
    rotate_prekeys,
)
from protocol.keys import Prekey, RandomBytes

__all__ = ["Keyring", "read_passphrase", "write_key_file"]

PREKEY_PERIOD_MS: Final = 86_400_000
"""How old the newest prekey gets before the bank makes the next."""
KEY_FILE_MODE: Final = 0o600


class Keyring:
    """The opened key file. May be used by several threads.

    :param path: of the key file.
    :param clock: milliseconds since the epoch.
    :raises BankSetupError: the file is missing, is no key file, or the passphrase is wrong; with
        words that say what to do.
    """

    def __init__(
        self,
        path: Path,
        passphrase: str,
        *,
        clock: Callable[[], int],
        random_bytes: RandomBytes = os.urandom,
        period_ms: int = PREKEY_PERIOD_MS,
        cost: Cost = DEFAULT_COST,
    ) -> None:
        self._path = path
        self._passphrase = passphrase
        self._clock = clock
        self._random_bytes = random_bytes
        self._period_ms = period_ms
        self._cost = cost
        self._lock = threading.Lock()
        self._version, self._key_file = self._read()

    @property
    def key_file(self) -> KeyFile:
        """The key file as it was last read or written."""
        return self._key_file

    @property
    def client_id(self) -> str:
        """The bank's id."""
        return self._key_file.client_id

    @property
    def fingerprint(self) -> bytes:
        """The bank's fingerprint."""
        return self._key_file.fingerprint

    @property
    def prekeys(self) -> Sequence[Prekey]:
        """The prekeys that are held, newest first."""
        return self._key_file.prekeys

    @property
    def identity(self) -> BankIdentity:
        """In whose name receipts are signed; never changes while the process runs."""
        return BankIdentity(self.client_id, self._key_file.identity)

    async def refresh(self) -> bool:
        """Read the file again if it changed; return whether it did."""
        if self._stamp() == self._version:
            return False
        # Opening a key file takes a tenth of a second on purpose.
        return await asyncio.to_thread(self.reload)

    def reload(self) -> bool:
        """Read the file again if it changed; return whether it did.

        :raises BankSetupError: it can't be read, or is another identity's.
        """
        with self._lock:
            if self._stamp() == self._version:
                return False
            version, key_file = self._read()
            if key_file.fingerprint != self._key_file.fingerprint:
                raise BankSetupError(f"{self._path} now holds another identity; restart the bank")
            self._version, self._key_file = version, key_file
            return True

    def rotate_if_due(self) -> bool:
        """Make new prekeys where the newest is a period old; return whether the keys changed.

        They have also changed where another process has done it.

        :raises BankSetupError: the file, or the lock beside it, can't be used.
        """
        with self._exclusively():
            changed = self.reload()
            newest = max(prekey.created_at for prekey in self._key_file.prekeys)
            if self._clock() - newest < self._period_ms:
                return changed
            self._rotate()
            return True

    def rotate_unless_changed(self) -> None:
        """Make new prekeys now, unless another process has changed the file since it was read.

        For a file whose keys are older than those that are known of it.

        :raises BankSetupError: as :meth:`rotate_if_due`.
        """
        with self._exclusively():
            if not self.reload():
                self._rotate()

    def _rotate(self) -> None:
        rotated = rotate_prekeys(
            self._key_file,
            now=self._clock(),
            random_bytes=self._random_bytes,
            period_ms=self._period_ms,
        )
        data = encrypt_key_file(rotated, self._passphrase, self._random_bytes, self._cost)
        try:
            write_key_file(self._path, data)
        except OSError as error:
            raise BankSetupError(
                f"the key file {self._path} can't be replaced: {error.strerror}"
            ) from error
        with self._lock:
            self._version, self._key_file = self._stamp(), rotated

    @contextlib.contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Hold the file against other programs that replace it."""
        with contextlib.ExitStack() as held:
            path = self._path.with_name(lock_name(self._path.name))
            try:
                lock = held.enter_context(path.open("a"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                raise BankSetupError(
                    f"the lock {path} beside the key file can't be taken: {error.strerror}"
                ) from error
            yield

    def _stamp(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except OSError as error:
            raise BankSetupError(_unreadable(self._path, error)) from error
        return status.st_ino, status.st_mtime_ns

    def _read(self) -> tuple[tuple[int, int], KeyFile]:
        stamp = self._stamp()
        try:
            data = self._path.read_bytes()
        except OSError as error:
            raise BankSetupError(_unreadable(self._path, error)) from error
        try:
            return stamp, decrypt_key_file(data, self._passphrase)
        except WrongPassphraseError as error:
            raise BankSetupError(
                f"the passphrase does not open {self._path} (or the file was altered); check "
                "TELLERWIRE_BANK_PASSPHRASE_FILE"
            ) from error
        except KeyFileFormatError as error:
            raise BankSetupError(f"{self._path}: {error}") from error


def _unreadable(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no key file {path}; `manage.py init_bank` makes one"
    return f"the key file {path} can't be read: {error.strerror}"


def read_passphrase(path: Path) -> str:
    """Return the passphrase in a file: its first line, without the end of the line.

    :raises BankSetupError: it can't be read, or is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BankSetupError(f"the passphrase file {path} can't be read: {error}") from error
    if not lines or not lines[0]:
        raise BankSetupError(f"the passphrase file {path} is empty")
    return lines[0]


def write_key_file(path: Path, data: bytes) -> None:
    """Write a whole key file, mode 0600, so that a crash leaves the old one or the new one."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), KEY_FILE_MODE)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
