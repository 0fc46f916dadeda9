"""Commands about keys: one's own, and those of others."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from clients.bundles import bundle_json, read_bundle_file
from clients.commands.connected import connected
from clients.commands.options import (
    Common,
    first_line,
    given_passphrase,
    open_key,
    setup_of,
    typed_passphrase,
    with_common_options,
)
from clients.connection import system_clock
from clients.display import Display
from clients.errors import ClientError, RefusedError, RegistrationRefusedError, UsageError
from clients.event_loop import run as run_loop
from clients.files import locked, put_private, read_at_most
from clients.memory import PinsOnDisk
from clients.peers import Peers
from clients.session import Session, Setup, peers_of
from clients.storage import StateDirectory
from protocol.bundles import Bundle
from protocol.errors import Code, RelayError
from protocol.identifiers import check_client_id, split_name
from protocol.keyfile import (
    FILE_BYTES_MAX,
    KeyFile,
    decrypt_key_file,
    encrypt_key_file,
    lock_name,
    new_key_file,
    rotate_prekeys,
)
from protocol.keys import format_fingerprint, parse_fingerprint, safety_number

__all__ = ["keygen", "passwd", "rotate", "show", "trust"]

PASSPHRASE_CHARS_ADVISED: Final = 12
ROTATION_MS: Final = 7 * 86_400_000


@with_common_options
def keygen(
    common: Common,
    client_id: Annotated[str, typer.Argument(metavar="ID", help="The id you want to have.")],
    name: Annotated[str, typer.Argument(help='Your name: "Last, First".')],
    *,
    out: Annotated[
        Path | None, typer.Option(help="The key file to make (default: ID.key).")
    ] = None,
) -> None:
    """Make a new key file, encrypted under a passphrase.

    The passphrase is asked for twice. Without it the file is worthless, to you as well.

    Example: python -m clients.person keygen ada "Ärlig, Ada" --out ada.key
    """
    _check_id(client_id)
    try:
        first, last = split_name(name)
    except ValueError as error:
        raise UsageError(str(error)) from error
    path = out if out is not None else Path(f"{client_id}.key")
    if path.exists():
        raise UsageError(f"{path} is there already; keys are never overwritten")
    display = Display()
    passphrase = _new_passphrase(common, display)
    key_file = new_key_file(client_id, first, last, now=system_clock(), random_bytes=os.urandom)
    put_private(path, encrypt_key_file(key_file, passphrase, os.urandom))
    display.say(f"made {path} for {key_file.bundle.name} ({client_id})")
    display.say(f"fingerprint: {format_fingerprint(key_file.fingerprint)}")
    display.say(f"for a bank's enrolment: python -m clients.person show --key {path} --bundle")


def _check_id(client_id: str) -> None:
    try:
        check_client_id(client_id)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _new_passphrase(common: Common, display: Display) -> str:
    return _check_strength(given_passphrase(common, _ask_twice), display)


def _ask_twice() -> str:
    passphrase = typed_passphrase("New passphrase: ")
    if typed_passphrase("The same again: ") != passphrase:
        raise UsageError("the two passphrases differ; nothing was changed")
    return passphrase


def _check_strength(passphrase: str, display: Display) -> str:
    if not passphrase:
        raise UsageError("an empty passphrase protects nothing")
    if len(passphrase) < PASSPHRASE_CHARS_ADVISED or len(set(passphrase)) < 6:
        display.warn(
            "warning: this passphrase is weak. Whoever steals the file can guess at it for as long "
            f"as he likes; take {PASSPHRASE_CHARS_ADVISED} characters or more, best several words"
        )
    return passphrase


@with_common_options
def show(
    common: Common,
    *,
    compare: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="BUNDLE|FINGERPRINT",
            help="Show the safety number with this bundle file or fingerprint.",
        ),
    ] = None,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Print the public bundle, for enrolment.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the bundle to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show who you are: id, name, fingerprint; with --bundle, what a bank needs to enrol you.

    Two people who read the same safety number to each other know that nobody is in between.

    Example: python -m clients.person show --config ada.json --out ada-bundle.json
    """
    _, key_file, _ = open_key(common, common.read_config())
    display = Display()
    if out is not None:
        _write_bundle(out, key_file)
        display.say(f"wrote the public bundle to {out}")
        return
    if bundle:
        display.write(bundle_json(key_file.signed_bundle))
        return
    number = safety_number(key_file.fingerprint, _fingerprint_of(compare)) if compare else None
    if as_json:
        facts = {
            "id": key_file.client_id,
            "name": key_file.bundle.name,
            "fingerprint": format_fingerprint(key_file.fingerprint),
            "generation": key_file.bundle.generation,
            "demo": key_file.demo,
        }
        display.json(facts | ({"safety_number": number} if number else {}))
        return
    _say_who(display, key_file)
    if number:
        display.say(f"safety number: {number}")


def _write_bundle(out: Path, key_file: KeyFile) -> None:
    try:
        out.write_text(bundle_json(key_file.signed_bundle), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{out} can't be written: {error.strerror}") from error


def _say_who(display: Display, key_file: KeyFile) -> None:
    display.say(f"id:            {key_file.client_id}")
    display.say(f"name:          {key_file.bundle.name}")
    display.say(f"fingerprint:   {format_fingerprint(key_file.fingerprint)}")
    display.say(f"generation:    {key_file.bundle.generation}")
    if key_file.demo:
        display.say("a demonstration's key: everybody has it")
    age = system_clock() - max(prekey.created_at for prekey in key_file.prekeys)
    if age > ROTATION_MS and not key_file.demo:
        display.warn(f"the encryption keys are {age // 86_400_000} days old; renew them: rotate")


def _fingerprint_of(text: str) -> bytes:
    try:
        return parse_fingerprint(text)
    except ValueError:
        if not _is_there(Path(text)):
            raise UsageError(f"{text!r} is neither a fingerprint nor a file") from None
        return read_bundle_file(Path(text)).fingerprint


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long for a file's name
        return False


@with_common_options
def passwd(
    common: Common,
    *,
    new_passphrase_file: Annotated[
        Path | None, typer.Option(help="File whose first line is the new passphrase.")
    ] = None,
) -> None:
    """Change the passphrase of the key file.

    Copies of the file that were made before keep the old passphrase.

    Example: python -m clients.person passwd --key ada.key
    """
    path, _, old_passphrase = open_key(common, common.read_config())
    display = Display()
    if new_passphrase_file is not None:
        passphrase = first_line(new_passphrase_file)
    elif sys.stdin.isatty():
        passphrase = _ask_twice()
    else:
        raise UsageError("no new passphrase: give --new-passphrase-file, or use a terminal")
    _check_strength(passphrase, display)
    with _replaced(path, old_passphrase) as key_file:
        put_private(path, encrypt_key_file(key_file, passphrase, os.urandom))
    display.say(f"{path} has the new passphrase")


@with_common_options
def rotate(
    common: Common,
    *,
    offline: Annotated[
        bool, typer.Option("--offline", help="Don't tell the relay now; the next command does.")
    ] = False,
) -> None:
    """Replace the encryption keys; the identity and its fingerprint stay the same.

    Once a week is a good habit: what was sealed to keys that are gone stays closed for ever.

    Example: python -m clients.person rotate --config ada.json
    """
    config = common.read_config()
    path, _, passphrase = open_key(common, config)
    display = Display()
    with _replaced(path, passphrase) as key_file:
        rotated = rotate_prekeys(
            key_file, now=system_clock(), random_bytes=os.urandom, period_ms=ROTATION_MS
        )
        put_private(path, encrypt_key_file(rotated, passphrase, os.urandom))
    display.say(f"new encryption keys, generation {rotated.bundle.generation}, in {path}")
    if offline:
        return
    try:
        run_loop(_register(setup_of(common, config), display))
    except RegistrationRefusedError:
        raise  # no later connection would do better
    except ClientError as error:
        display.warn(f"the relay doesn't know them yet, the next connection tells it: {error}")
    else:
        display.say("the relay has them")


@contextlib.contextmanager
def _replaced(path: Path, passphrase: str) -> Iterator[KeyFile]:
    """Hold a key file against other programs that replace it, and yield what is in it now.

    Whoever replaced what was read before another program replaced it would lose its keys.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(path.with_name(lock_name(path.name))))
            data = read_at_most(path, FILE_BYTES_MAX)
        except OSError as error:
            raise UsageError(f"{path} can't be replaced: {error.strerror}") from error
        yield decrypt_key_file(data, passphrase)


async def _register(setup: Setup, display: Display) -> None:
    async with connected(setup, display):
        return


@with_common_options
def trust(
    common: Common,
    peer: Annotated[str | None, typer.Argument(metavar="ID", help="Whose key it is about.")] = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm without being asked.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the old key, forget the new one.")
    ] = False,
    block: Annotated[bool, typer.Option("--block", help="Take no messages any more.")] = False,
    unblock: Annotated[bool, typer.Option("--unblock", help="Take messages again.")] = False,
    forget_relay: Annotated[
        bool,
        typer.Option("--relay-renamed", help="The relay at --relay has another name now."),
    ] = False,
) -> None:
    """Look at a person's key, confirm a changed one, or block somebody.

    When a person's key changes and the old key did not sign the new one, nothing is sent until
    you confirm it here. Compare the fingerprint or the safety number over another way first.

    Example: python -m clients.person trust ben --config ada.json
    """
    named = {
        "--keep": keep,
        "--block": block,
        "--unblock": unblock,
        "--relay-renamed": forget_relay,
    }
    if len(wanted := [name for name, given in named.items() if given]) > 1:
        raise UsageError(f"either {' or '.join(wanted)}")
    if forget_relay:
        _forget_relay(setup_of(common), Display())
        return
    if peer is None:
        raise UsageError("whose key? Give an id: trust ID")
    _check_id(peer)
    setup, display = setup_of(common), Display()
    peers = peers_of(setup, StateDirectory(setup.state_path))
    peer = peers.spelling(peer)
    if block or unblock:
        peers.block(peer, blocked=block)
        display.say(f"{peer} is {'blocked' if block else 'not blocked any more'}")
        return
    if setup.bank is not None and peer == setup.bank.id:
        raise UsageError("the bank's fingerprint is configured; it can't be confirmed here")
    if keep:
        pin = peers.pinned(peer)
        if pin is None:
            raise UsageError(f"no key of {peer} is known here, so there is none to keep")
        peers.confirm(pin.bundle)
        display.say(f"kept the key with {format_fingerprint(pin.bundle.fingerprint)}")
        return
    _look_and_confirm(setup, display, peers, peer, yes=yes)


def _forget_relay(setup: Setup, display: Display) -> None:
    forgotten = PinsOnDisk(StateDirectory(setup.state_path)).forget_relay(setup.relay_url)
    display.say("its next name is taken" if forgotten else "no name of it was known")


def _look_and_confirm(
    setup: Setup, display: Display, peers: Peers, peer: str, *, yes: bool
) -> None:
    pin = peers.pinned(peer)
    offered = run_loop(_offered(setup, display, peer))
    known = pin.bundle if pin is not None else None
    _say_keys(display, setup, known, offered)
    if known is not None and known.identity_key == offered.identity_key:
        peers.confirm(offered if offered.generation >= known.generation else known)
        return
    if not yes and not sys.stdin.isatty():
        raise UsageError("without a terminal to ask at, confirm with --yes")
    if yes or typer.confirm("Is this fingerprint right?"):
        peers.confirm(offered)
        display.say(f"{offered.name} ({offered.id}) is trusted with this key from now on")
    else:
        display.say("nothing was changed")


async def _offered(setup: Setup, display: Display, peer: str) -> Bundle:
    async def lookup(session: Session) -> Bundle:
        for bundle in await session.client.directory.lookup(peer):
            if bundle.id.lower() == peer.lower():
                session.peers.check_spelling(bundle)
                return bundle
        raise RefusedError(Code.UNKNOWN_RECIPIENT, proven=False)

    try:
        async with connected(setup, display) as session:
            return await lookup(session)
    except RelayError as error:
        raise RefusedError(error.code, error.detail, proven=False) from error


def _say_keys(display: Display, setup: Setup, known: Bundle | None, offered: Bundle) -> None:
    display.say(f"{offered.name} ({offered.id})")
    if known is None:
        display.say("no key was known before")
    elif known.identity_key == offered.identity_key:
        display.say("the key is the one that was known before")
    else:
        display.say(f"known until now: {format_fingerprint(known.fingerprint)}")
    display.say(f"offered now:     {format_fingerprint(offered.fingerprint)}")
    number = safety_number(setup.key_file.fingerprint, offered.fingerprint)
    display.say(f"safety number:   {number}")
