"""What every command has in common: who one is, where the relay is, which bank is meant."""

from __future__ import annotations

import functools
import getpass
import inspect
import logging
import os
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, ParamSpec

import typer

from clients.bundles import read_bundle_file
from clients.config import BANK_ID, OLD_KEY_ADVICE, Config, General, is_old_key, load_config
from clients.customer import BankPin
from clients.display import Display, printable
from clients.errors import ConfigError, UsageError
from clients.explaining import explain, is_outcome
from clients.files import read_at_most
from clients.retry import RetryPolicy
from clients.session import Setup
from clients.stopping import TERMINATED_STATUS, TerminatedError
from protocol.addresses import check_relay_url
from protocol.bundles import Bundle
from protocol.encoding import check_unicode
from protocol.errors import KeyFileError
from protocol.identifiers import check_client_id
from protocol.keyfile import (
    FILE_BYTES_MAX,
    KeyFile,
    decrypt_key_file,
    read_key_file_header,
)
from protocol.keys import format_fingerprint, parse_fingerprint

__all__ = [
    "Common",
    "PrintableLines",
    "open_key",
    "passphrase_of",
    "setup_of",
    "state_path",
    "with_common_options",
]

ENVIRONMENT_NAME: Final = "TELLERWIRE_PASSPHRASE"
STATE_VARIABLE: Final = "TELLERWIRE_STATE"
PASSPHRASE_FILE_BYTES_MAX: Final = 65_536
DEFAULT_STATE: Final = Path("~/.tellerwire")

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Common:
    """The options that every command takes."""

    config: Path | None = None
    key: Path | None = None
    relay: str | None = None
    bank_id: str | None = None
    bank_fingerprint: str | None = None
    state: Path | None = None
    passphrase_file: Path | None = None
    tries: int | None = None
    timeout: float | None = None
    verbose: bool = False
    debug: bool = False

    def read_config(self) -> Config | None:
        """Return the configuration file's contents, if one was given."""
        return load_config(self.config) if self.config is not None else None


_GROUP: Final = "Options of every command"
_OPTIONS: Final[dict[str, Any]] = {
    "config": Annotated[
        Path | None,
        typer.Option(
            envvar="TELLERWIRE_CONFIG",
            help="Configuration file: id, key file, relay, bank.",
            rich_help_panel=_GROUP,
        ),
    ],
    "key": Annotated[
        Path | None,
        typer.Option(
            envvar="TELLERWIRE_KEY",
            help="Key file, instead of the configuration's.",
            rich_help_panel=_GROUP,
        ),
    ],
    "relay": Annotated[
        str | None,
        typer.Option(
            envvar="TELLERWIRE_RELAY",
            help="The relay's address, ws://host:port/relay.",
            rich_help_panel=_GROUP,
        ),
    ],
    "bank_id": Annotated[
        str | None, typer.Option(help="The bank's id (default: bank).", rich_help_panel=_GROUP)
    ],
    "bank_fingerprint": Annotated[
        str | None,
        typer.Option(
            envvar="TELLERWIRE_BANK_FINGERPRINT",
            help="The bank's fingerprint, as the bank itself told you.",
            rich_help_panel=_GROUP,
        ),
    ],
    "state": Annotated[
        Path | None,
        typer.Option(
            help="Folder for outbox, receipts and pinned keys (default: ~/.tellerwire/ID; "
            "with TELLERWIRE_STATE set, ID in that folder).",
            rich_help_panel=_GROUP,
        ),
    ],
    "passphrase_file": Annotated[
        Path | None,
        typer.Option(
            help="File whose first line is the key file's passphrase (or set "
            "TELLERWIRE_PASSPHRASE; otherwise it is asked for).",
            rich_help_panel=_GROUP,
        ),
    ],
    "tries": Annotated[
        int | None,
        typer.Option(min=1, max=1_000, help="How often a message is sent.", rich_help_panel=_GROUP),
    ],
    "timeout": Annotated[
        float | None,
        typer.Option(
            min=0.05, max=3_600, help="Seconds that each try waits.", rich_help_panel=_GROUP
        ),
    ],
    "verbose": Annotated[
        bool, typer.Option("--verbose", help="Log to standard error.", rich_help_panel=_GROUP)
    ],
    "debug": Annotated[
        bool,
        typer.Option("--debug", help="Show where an error came from.", rich_help_panel=_GROUP),
    ],
}
_DEFAULTS: Final = Common()


def with_common_options(command: Callable[Concatenate[Common, P], None]) -> Callable[..., None]:
    """Give a command the common options; it gets them as its first argument."""
    signature = inspect.signature(command)
    hints = typing.get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(annotation=hints[name])
        for name, parameter in list(signature.parameters.items())[1:]
    ]
    shared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(_DEFAULTS, name),
            annotation=annotation,
        )
        for name, annotation in _OPTIONS.items()
    ]

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        _check_texts(kwargs)
        common = Common(**{name: kwargs.pop(name) for name in _OPTIONS})
        _set_up_logging(common)
        try:
            command(common, *args, **kwargs)
        except TerminatedError:
            raise typer.Exit(TERMINATED_STATUS) from None
        except Exception as error:
            if not is_outcome(error):
                raise
            _end_in_json(error, kwargs)
            raise

    positional = [each for each in own if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    keywords = [each for each in own if each.kind is inspect.Parameter.KEYWORD_ONLY]
    # typer reads the signature and the hints; both must tell of the added options.
    vars(wrapper)["__signature__"] = signature.replace(parameters=[*positional, *keywords, *shared])
    wrapper.__annotations__ = {
        each.name: each.annotation for each in [*positional, *keywords, *shared]
    }
    del vars(wrapper)["__wrapped__"]
    # The lines of a paragraph are one text, to be broken where the terminal's width wants it.
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    wrapper.__doc__ = "\n\n".join(" ".join(each.split()) for each in paragraphs)
    return wrapper


def _end_in_json(error: Exception, options: Mapping[str, object]) -> None:
    """Say as JSON what became of it, and end the command, where its output was to be JSON."""
    if options.get("as_json"):
        raise typer.Exit(explain(error, Display(as_json=True))) from error
    if options.get("json_lines"):
        raise typer.Exit(explain(error, Display(as_json=True), event="ended")) from error


def _check_texts(values: Mapping[str, object]) -> None:
    """Refuse what is no Unicode, but for names of files, which are the system's own.

    :raises UsageError: it names the argument.
    """
    for name, value in values.items():
        if isinstance(value, str):
            try:
                check_unicode(value)
            except ValueError as error:
                raise UsageError(f"{name.replace('_', ' ')}: {error}") from error


class PrintableLines(logging.Formatter):
    """Escapes what a terminal would not show: much of what is logged was said by the relay."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and those of a traceback."""
        record.msg, record.args = printable(record.getMessage()), None
        return "\n".join(map(printable, super().format(record).split("\n")))


def _set_up_logging(common: Common) -> None:
    level = logging.DEBUG if common.debug else logging.INFO if common.verbose else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableLines("%(asctime)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # A dependency's log of every frame drowns everything, and holds whole frames.
    logging.getLogger("websockets").setLevel(logging.WARNING)


# --- Passphrase and key file ---


def passphrase_of(common: Common, prompt: str) -> str:
    """Return the passphrase: from the file, the environment, or whoever sits at the terminal.

    :raises UsageError: there is none of these, or it is not Unicode.
    """
    return given_passphrase(common, lambda: typed_passphrase(prompt))


def given_passphrase(common: Common, ask: Callable[[], str]) -> str:
    """Return the passphrase from the file or the environment; ``ask`` gets it from a terminal.

    :raises UsageError: there is none of these, or it is not Unicode.
    """
    if common.passphrase_file is not None:
        return first_line(common.passphrase_file)
    from_environment = os.environ.get(ENVIRONMENT_NAME)
    if from_environment is not None:
        return _unicode_passphrase(from_environment, f"the passphrase in {ENVIRONMENT_NAME}")
    if not sys.stdin.isatty():
        raise UsageError(
            f"no passphrase: set {ENVIRONMENT_NAME}, give --passphrase-file, or start the "
            "program in a terminal to be asked"
        )
    return ask()


def typed_passphrase(prompt: str) -> str:
    """Return the passphrase that somebody types.

    :raises UsageError: it is not Unicode.
    """
    try:
        typed = getpass.getpass(prompt)
    except UnicodeDecodeError:
        raise UsageError("the passphrase is not Unicode") from None
    return _unicode_passphrase(typed, "the passphrase")


def _unicode_passphrase(passphrase: str, what: str) -> str:
    try:
        return check_unicode(passphrase)
    except ValueError:
        raise UsageError(f"{what} is not Unicode") from None


def first_line(path: Path) -> str:
    """Return the first line of a passphrase file.

    :raises UsageError: it can't be read, or is no text in UTF-8, or too long for a passphrase.
    """
    try:
        data = read_at_most(path, PASSPHRASE_FILE_BYTES_MAX)
        if len(data) > PASSPHRASE_FILE_BYTES_MAX:
            raise UsageError(f"the passphrase file {path} is too long for one")
        return data.decode("utf-8").split("\n", 1)[0].rstrip("\r")
    except OSError as error:
        raise UsageError(f"the passphrase file {path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"the passphrase file {path} is no text in UTF-8") from None


def key_path_of(common: Common, config: Config | None) -> Path:
    """Return where the key file is.

    :raises UsageError: neither option nor configuration says.
    """
    if common.key is not None:
        return common.key
    if config is not None:
        return config.key_file
    raise UsageError("which key file? Give --config FILE or --key FILE (`keygen` makes one)")


def open_key(common: Common, config: Config | None) -> tuple[Path, KeyFile, str]:
    """Return the key file's place, its contents and the passphrase that opened it.

    :raises UsageError: it can't be read, or it is not that of the configured person.
    :raises WrongPassphraseError: the passphrase is wrong.
    :raises KeyFileFormatError: it is no key file.
    """
    path = key_path_of(common, config)
    try:
        data = read_at_most(path, FILE_BYTES_MAX)
    except OSError as error:
        problem = f"the key file {path} can't be read: {error.strerror}"
        if config is not None and common.key is None:
            raise ConfigError(config.path, "person.keys.private", problem) from error
        raise UsageError(problem) from error
    try:
        header = read_key_file_header(data)
    except KeyFileError as error:
        is_old = is_old_key(data.decode("ascii", "replace"))
        if is_old and config is not None and common.key is None:
            problem = f"the file {path} {OLD_KEY_ADVICE}"
            raise ConfigError(config.path, "person.keys.private", problem) from error
        raise type(error)(f"{path}: {error}") from error
    passphrase = passphrase_of(common, f"Passphrase for the key of {header.client_id}: ")
    key_file = decrypt_key_file(data, passphrase)
    if config is not None and common.key is None:
        _check_fits(config, key_file)
    return path, key_file, passphrase


def _check_fits(config: Config, key_file: KeyFile) -> None:
    bundle = key_file.bundle
    if key_file.client_id != config.person_id:
        raise ConfigError(
            config.path, "person.id", f"is {config.person_id}, but the key is {bundle.id}'s"
        )
    if (bundle.first_name, bundle.last_name) != (config.first_name, config.last_name):
        raise ConfigError(config.path, "person.name", f"differs from the key file's: {bundle.name}")
    if config.public is not None:
        _check_public(config, config.public, bundle)


def _check_public(config: Config, public: str, bundle: Bundle) -> None:
    shown = format_fingerprint(bundle.fingerprint)
    if is_old_key(public):
        Display().warn(
            f"warning: {config.path}: person.keys.public is a key of the old system, which nothing "
            f"uses any more; leave it out, or write there: {shown}"
        )
    elif _public_fingerprint(config, public) != bundle.fingerprint:
        raise ConfigError(config.path, "person.keys.public", f"is not of this key, {shown}")


def _public_fingerprint(config: Config, text: str) -> bytes:
    try:
        return parse_fingerprint(text)
    except ValueError:
        pass
    try:
        return read_bundle_file(config.path.parent / text).fingerprint
    except UsageError as error:
        raise ConfigError(
            config.path, "person.keys.public", f"is neither a fingerprint nor a bundle: {error}"
        ) from error


# --- Everything together ---


def state_path(common: Common, client_id: str) -> Path:
    """Return the state directory of a client.

    :raises UsageError: it is in the home of somebody who has none here.
    """
    base = os.environ.get(STATE_VARIABLE)
    path = common.state or (Path(base) if base else DEFAULT_STATE) / client_id
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"there is no folder {path} for outbox and receipts: nobody's home is known by that "
            f"name. Give --state FOLDER, or set {STATE_VARIABLE}"
        ) from error


def bank_of(common: Common, config: Config | None) -> BankPin | None:
    """Return the configured bank; None where its fingerprint is not configured.

    :raises UsageError: the fingerprint or the id is none.
    """
    bank_id = common.bank_id or (config.bank_id if config is not None else BANK_ID)
    try:
        check_client_id(bank_id)
        if common.bank_fingerprint is not None:
            return BankPin(bank_id, parse_fingerprint(common.bank_fingerprint))
    except ValueError as error:
        raise UsageError(f"the bank: {error}") from error
    if config is not None and config.bank_fingerprint is not None:
        return BankPin(bank_id, config.bank_fingerprint)
    return None


def relay_of(common: Common, config: Config | None) -> str:
    """Return the relay's address.

    :raises UsageError: neither option nor configuration says, or it is no address.
    """
    if common.relay is not None:
        try:
            return check_relay_url(common.relay)
        except ValueError as error:
            raise UsageError(str(error)) from error
    if config is not None:
        return config.relay_url
    raise UsageError("which relay? Give --config FILE or --relay ws://host:port/relay")


def policy_of(common: Common, config: Config | None) -> RetryPolicy:
    """Return how much patience there is."""
    general = config.general if config is not None else General()
    timeout = common.timeout if common.timeout is not None else general.timeout_seconds
    return RetryPolicy(tries=common.tries or general.tries, try_ms=max(1, int(timeout * 1_000)))


def setup_of(common: Common, config: Config | None = None) -> Setup:
    """Return everything that is needed to connect, after asking for the passphrase.

    :raises UsageError: something is missing or wrong; it says what.
    """
    found = config if config is not None else common.read_config()
    relay_url, bank = relay_of(common, found), bank_of(common, found)
    _, key_file, _ = open_key(common, found)
    return Setup(
        key_file=key_file,
        relay_url=relay_url,
        bank=bank,
        state_path=state_path(common, key_file.client_id),
        policy=policy_of(common, found),
    )
