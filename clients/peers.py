"""Whose key is whose, as far as this client knows: configured, pinned, or first seen now.

Configured fingerprints (the bank's) are never learned and never changed by anybody. Everybody
else's key is trusted when it is first seen and pinned; a later bundle must be the same identity,
or be signed by it, with a generation that rises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from clients.errors import PeerKeyChangedError, RefusedError
from protocol.bundles import Bundle, check_succession
from protocol.errors import Code, RelayError
from protocol.identifiers import name_key, name_keys

__all__ = ["MemoryPins", "Peers", "Pin", "Pins"]


@dataclass(frozen=True, slots=True)
class Pin:
    """What is remembered of one peer.

    :param changed_to: a bundle with another identity that was seen and not confirmed: until
        somebody confirms it, nothing is sent to this peer.
    """

    bundle: Bundle
    blocked: bool = False
    changed_to: Bundle | None = None


class Pins(Protocol):
    """Where pins are kept."""

    def pin(self, peer_id: str) -> Pin | None:
        """Return what is remembered of a peer."""

    def put_pin(self, peer_id: str, pin: Pin) -> None:
        """Remember a peer."""

    def all_pins(self) -> list[Pin]:
        """Return everybody who is remembered."""

    def relay_name(self, url: str) -> str | None:
        """Return the name that the relay at an address had."""

    def put_relay_name(self, url: str, name: str) -> None:
        """Remember the name of a relay."""


class MemoryPins:
    """Pins for as long as the process lives."""

    def __init__(self) -> None:
        self._pins: dict[str, Pin] = {}
        self._relays: dict[str, str] = {}

    def pin(self, peer_id: str) -> Pin | None:
        """See :class:`Pins`."""
        return self._pins.get(peer_id)

    def put_pin(self, peer_id: str, pin: Pin) -> None:
        """See :class:`Pins`."""
        self._pins[peer_id] = pin

    def all_pins(self) -> list[Pin]:
        """See :class:`Pins`."""
        return list(self._pins.values())

    def relay_name(self, url: str) -> str | None:
        """See :class:`Pins`."""
        return self._relays.get(url)

    def put_relay_name(self, url: str, name: str) -> None:
        """See :class:`Pins`."""
        self._relays[url] = name


class Peers:
    """The keys that this client goes by.

    :param configured: fingerprints that are known from elsewhere, by client id.
    """

    def __init__(
        self, pins: Pins | None = None, configured: Mapping[str, bytes] | None = None
    ) -> None:
        self._pins: Pins = pins if pins is not None else MemoryPins()
        self._configured = dict(configured or {})
        self._fitting: dict[str, Bundle] = {}

    def known(self, peer_id: str, now: int) -> Bundle | None:
        """Return the bundle to use for a peer without asking the relay; None to ask.

        :param now: milliseconds since the epoch; a bundle that has expired is not known.
        :raises PeerKeyChangedError: another key was seen, and nobody has confirmed it.
        :raises RefusedError: the peer is blocked here.
        """
        pin = self.pinned(peer_id)
        if pin is None or not self._fits_configuration(pin.bundle):
            return None
        if pin.changed_to is not None and pin.bundle.id not in self._configured:
            raise _changed(pin.bundle, pin.changed_to)
        return pin.bundle if pin.bundle.valid_to > now else None

    def admit(self, bundle: Bundle, *, pin_new: bool = True) -> Bundle:
        """Take in a bundle that the relay gave; return the one to use.

        :param pin_new: remember also who was not known before.
        :raises PeerKeyChangedError: it is another identity than the configured or pinned one, and
            the pinned one did not sign it.
        :raises RefusedError: ``bad_bundle``: an older generation than one seen before, or another
            spelling of the id.
        """
        self.check_spelling(bundle)
        wanted = self._configured.get(bundle.id)
        if wanted is not None and bundle.fingerprint != wanted:
            advice = (
                "The fingerprint is configured, so nothing is sent. If the bank really has a new "
                "key, get its fingerprint from the bank itself and configure that."
            )
            raise PeerKeyChangedError(bundle.id, wanted, bundle.fingerprint, advice)
        pin = self._pins.pin(bundle.id)
        if pin is None or (wanted is not None and not self._fits_configuration(pin.bundle)):
            if pin_new:
                self._pins.put_pin(bundle.id, Pin(bundle))
            return bundle
        if pin.bundle.signed != bundle.signed:
            self._succeed(pin, bundle)
        return bundle

    def _succeed(self, pin: Pin, bundle: Bundle) -> None:
        try:
            check_succession(pin.bundle, bundle)
        except RelayError as error:
            if error.code is Code.ID_TAKEN:
                self._pins.put_pin(bundle.id, Pin(pin.bundle, pin.blocked, bundle))
                raise _changed(pin.bundle, bundle) from error
            raise RefusedError(
                error.code, f"the relay gave an old bundle of {bundle.id}", proven=False
            ) from error
        self._pins.put_pin(bundle.id, Pin(bundle, pin.blocked))

    def confirm(self, bundle: Bundle) -> None:
        """A person has said that this is the peer's key."""
        pin = self._pins.pin(bundle.id)
        self._pins.put_pin(bundle.id, Pin(bundle, pin.blocked if pin else False))

    def block(self, peer_id: str, *, blocked: bool) -> None:
        """Refuse messages of a known peer from now on, or take them again."""
        pin = self.pinned(peer_id)
        if pin is None:
            raise RefusedError(Code.UNKNOWN_SENDER, f"{peer_id} is not known here", proven=True)
        self._pins.put_pin(pin.bundle.id, Pin(pin.bundle, blocked, pin.changed_to))

    def pinned(self, peer_id: str) -> Pin | None:
        """Return all that is remembered of a peer."""
        pin = self._pins.pin(peer_id)
        return pin if pin is not None else self._pins.pin(self.spelling(peer_id))

    def is_blocked(self, peer_id: str) -> bool:
        """Whether messages of this peer are refused."""
        pin = self.pinned(peer_id)
        return pin is not None and pin.blocked

    def spelling(self, peer_id: str) -> str:
        """Return an id as it is known here: ids that differ in case alone are one."""
        folded = peer_id.lower()
        known = [*self._configured, *(pin.bundle.id for pin in self._pins.all_pins())]
        return next((each for each in known if each.lower() == folded), peer_id)

    def check_spelling(self, bundle: Bundle) -> None:
        """Check that a bundle's id is spelled as it is known here.

        Otherwise a relay could have a known person's messages sealed to the key of "somebody else",
        whose id looks the same but for its case.

        :raises RefusedError: ``bad_bundle``.
        """
        known = self.spelling(bundle.id)
        if known != bundle.id:
            raise RefusedError(
                Code.BAD_BUNDLE,
                f"the relay gave a bundle of {bundle.id}, who is known here as {known}, and ids "
                "that differ in case alone are one",
                proven=False,
            )

    def named(self, query: str) -> list[Bundle]:
        """Return the pinned bundles whose name matches."""
        bundles = [pin.bundle for pin in self._pins.all_pins()]
        return [bundle for bundle in bundles if self.matches(bundle, query)]

    @staticmethod
    def matches(bundle: Bundle, query: str) -> bool:
        """Whether a bundle's name is the one asked for, in either order."""
        return name_key(query) in name_keys(bundle.first_name, bundle.last_name)

    def relay_name(self, url: str) -> str | None:
        """Return the pinned name of the relay at an address."""
        return self._pins.relay_name(url)

    def pin_relay(self, url: str, name: str) -> None:
        """Remember the relay's name when it is first seen."""
        if self._pins.relay_name(url) is None:
            self._pins.put_relay_name(url, name)

    def _fits_configuration(self, bundle: Bundle) -> bool:
        wanted = self._configured.get(bundle.id)
        if wanted is None or self._fitting.get(bundle.id) is bundle:
            return True
        if bundle.fingerprint != wanted:
            return False
        self._fitting[bundle.id] = bundle
        return True


def _changed(old: Bundle, new: Bundle) -> PeerKeyChangedError:
    advice = (
        f"The old key did not sign the new one. Ask {old.name} over another way whether the new "
        f"fingerprint is right, then confirm with: trust {old.id}"
    )
    return PeerKeyChangedError(old.id, old.fingerprint, new.fingerprint, advice)
