"""What a client remembers of others on disk: pinned keys, and which messages it has received."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import msgspec

from clients.errors import StorageError
from clients.files import put_private
from clients.peers import Pin
from clients.storage import StateDirectory
from protocol.bundles import SignedBundle, open_bundle
from protocol.encoding import b64u
from protocol.errors import Code, EndToEndError, ProtocolError

__all__ = ["PinsOnDisk", "SeenMessages"]

SEEN_MESSAGES_MAX: Final = 20_000


class _StoredPin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bundle: SignedBundle
    blocked: bool = False
    changed_to: SignedBundle | None = None


class _StoredPins(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    peers: dict[str, _StoredPin]
    relays: dict[str, str]


class PinsOnDisk:
    """Pins in ``pins.json``; see :class:`clients.peers.Pins`.

    Every look checks whether another program has changed the file, every change is made to what is
    on disk at that moment.
    """

    def __init__(self, state: StateDirectory) -> None:
        """:raises StorageError: the file is damaged."""
        self._state = state
        self._path = state.pins_file
        self._stamp: tuple[int, int] | None = None
        self._pins: dict[str, Pin] = {}
        self._relays: dict[str, str] = {}
        self._refresh()

    def pin(self, peer_id: str) -> Pin | None:
        """Return what is remembered of a peer."""
        self._refresh()
        return self._pins.get(peer_id)

    def put_pin(self, peer_id: str, pin: Pin) -> None:
        """Remember a peer."""
        with self._state.locked():
            self._refresh()
            self._pins[peer_id] = pin
            self._save()

    def all_pins(self) -> list[Pin]:
        """Return everybody who is remembered."""
        self._refresh()
        return list(self._pins.values())

    def relay_name(self, url: str) -> str | None:
        """Return the name that the relay at an address had."""
        self._refresh()
        return self._relays.get(url)

    def put_relay_name(self, url: str, name: str) -> None:
        """Remember the name of a relay."""
        with self._state.locked():
            self._refresh()
            self._relays[url] = name
            self._save()

    def forget_relay(self, url: str) -> bool:
        """Take any name from the relay at an address the next time; False if none was known."""
        with self._state.locked():
            self._refresh()
            known = self._relays.pop(url, None) is not None
            self._save()
        return known

    def _refresh(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        if stamp is None:
            self._pins, self._relays = {}, {}
        else:
            self._load()
        self._stamp = stamp

    def _load(self) -> None:
        try:
            stored = msgspec.json.decode(self._path.read_bytes(), type=_StoredPins)
            self._pins = {name: _open_pin(pin) for name, pin in stored.peers.items()}
        except (msgspec.DecodeError, ProtocolError) as error:
            raise StorageError(
                f"{self._path} is damaged ({error}); it holds the keys that are trusted, so "
                "restore it, or remove it to trust anew whatever keys are seen next"
            ) from error
        self._relays = dict(stored.relays)

    def _save(self) -> None:
        stored = _StoredPins(
            version=1,
            peers={
                name: _StoredPin(
                    pin.bundle.signed,
                    pin.blocked,
                    pin.changed_to.signed if pin.changed_to is not None else None,
                )
                for name, pin in self._pins.items()
            },
            relays=self._relays,
        )
        put_private(self._path, msgspec.json.format(msgspec.json.encode(stored), indent=2))
        self._stamp = _stamp(self._path)


def _open_pin(stored: _StoredPin) -> Pin:
    changed = open_bundle(stored.changed_to) if stored.changed_to is not None else None
    return Pin(open_bundle(stored.bundle), stored.blocked, changed)


def _stamp(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(FileNotFoundError):
        status = path.stat()
        return status.st_mtime_ns, status.st_ino
    return None


class SeenMessages:
    """The memory by which a message that comes again is recognized, across restarts.

    A line for each message: expiry, sender, id, hash. Lines are only appended, and dropped together
    when they have expired. When the memory is full new messages are refused: forgetting an old one
    would let it be played again.
    """

    def __init__(self, state: StateDirectory, capacity: int = SEEN_MESSAGES_MAX) -> None:
        self._state = state
        self._path = state.seen_file
        self._capacity = capacity
        self._read_to = 0
        self._inode = -1
        self._seen: dict[tuple[str, str], tuple[int, str]] = {}

    def is_known(self, sender: str, message_id: str, message_hash: bytes) -> bool:
        """Whether exactly this message was received before.

        :raises EndToEndError: ``replayed``: another message came under the same id.
        """
        with self._state.locked():
            self._catch_up()
        known = self._seen.get((sender, message_id))
        if known is not None and known[1] != b64u(message_hash):
            raise EndToEndError(Code.REPLAYED, "another message had this id before")
        return known is not None

    def remember(
        self, sender: str, message_id: str, message_hash: bytes, expires_at: int, now: int
    ) -> bool:
        """Remember a message durably; False if another program just did.

        :param expires_at: and ``now``: milliseconds since the epoch.
        :raises EndToEndError: ``replay_window_full``.
        """
        key = (sender, message_id)
        with self._state.locked():
            self._catch_up()
            if key in self._seen:
                return False
            if len(self._seen) >= self._capacity:
                self._drop_expired(now)
            if len(self._seen) >= self._capacity:
                raise EndToEndError(Code.REPLAY_WINDOW_FULL, "too many messages; try again later")
            entry = (expires_at, b64u(message_hash))
            self._append(_line(key, entry))
            self._seen[key] = entry
        return True

    def _append(self, line: bytes) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            rest = memoryview(line)
            while rest:  # a disk that is nearly full takes a part, and says why with the next
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
            status = os.fstat(descriptor)
            self._read_to, self._inode = status.st_size, status.st_ino
        finally:
            os.close(descriptor)

    def _catch_up(self) -> None:
        """Read what other programs have appended, or everything after one has tidied up."""
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._read_to:
                    self._seen, self._read_to, self._inode = {}, 0, status.st_ino
                file.seek(self._read_to)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # cut off by a crash; its message was never acknowledged
                    self._take(line)
                    self._read_to += len(line)
        except FileNotFoundError:
            self._seen, self._read_to, self._inode = {}, 0, -1
        self._cut_off_rest()

    def _cut_off_rest(self) -> None:
        """Remove a line that a crash cut off, or the next one would be glued to it."""
        if self._inode != -1 and self._path.stat().st_size > self._read_to:
            os.truncate(self._path, self._read_to)

    def _take(self, line: bytes) -> None:
        parts = line.decode("utf-8", "replace").split()
        if len(parts) != 4 or not parts[0].isdigit():
            raise StorageError(f"{self._path} is damaged: {line[:80]!r}")
        expires_at, sender, message_id, message_hash = parts
        self._seen[sender, message_id] = (int(expires_at), message_hash)

    def _drop_expired(self, now: int) -> None:
        kept = {key: entry for key, entry in self._seen.items() if entry[0] > now}
        if len(kept) == len(self._seen):
            return
        put_private(self._path, b"".join(_line(key, entry) for key, entry in kept.items()))
        self._seen = kept
        status = self._path.stat()
        self._read_to, self._inode = status.st_size, status.st_ino


def _line(key: tuple[str, str], entry: tuple[int, str]) -> bytes:
    return f"{entry[0]} {key[0]} {key[1]} {entry[1]}\n".encode()
