"""Configuration files: the original's keys, and errors that name the key and the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clients.actions import BankAction, SendAction
from clients.config import Config, General, load_config
from clients.errors import ConfigError
from protocol.banking import Transfer, Withdraw

RSA_KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n-----END RSA PRIVATE KEY-----"

OLD_PRIVATE_KEY = "MIIEowIBAAKCAQEA" + "x" * 480
"""What the original's files held: the base64 of a PEM file without its first and last line."""

Contents = dict[str, Any]


def original() -> Contents:
    """A file of the original's form, numbers as texts."""
    return {
        "person": {
            "id": "ada",
            "name": "Ärlig, Ada",
            "keys": {"private": "keys/ada.key", "public": "ada.pub"},
        },
        "general": {"duration": "60", "retries": "3", "timeout": "2.5"},
        "server": {"ip": "127.0.0.1", "port": "8765"},
        "actions": [
            "SEND [ben] Hello [you]",
            "SEND [bank] ADD [account1] [account2] [100]",
            "SEND [bank] SUB [account2] [12.50]",
        ],
    }


def load(folder: Path, contents: Contents, *, script: bool = False) -> Config:
    path = folder / "ada.json"
    path.write_text(json.dumps(contents), encoding="utf-8")
    return load_config(path, script=script)


def test_the_originals_file_is_understood(tmp_path: Path) -> None:
    config = load(tmp_path, original(), script=True)
    assert (config.person_id, config.first_name, config.last_name) == ("ada", "Ada", "Ärlig")
    assert config.key_file == (tmp_path / "keys" / "ada.key").resolve()
    assert config.public == "ada.pub"
    assert config.general == General(60.0, 3, 2.5)
    assert config.relay_url == "ws://127.0.0.1:8765/relay"
    assert (config.bank_id, config.bank_fingerprint) == ("bank", None)
    assert config.actions == (
        SendAction("SEND [ben] Hello [you]", "ben", "Hello [you]"),
        BankAction(
            "SEND [bank] ADD [account1] [account2] [100]", Transfer("account1", "account2", "100")
        ),
        BankAction("SEND [bank] SUB [account2] [12.50]", Withdraw("account2", "12.50")),
    )


def test_numbers_may_be_numbers_and_much_may_be_left_out(tmp_path: Path) -> None:
    contents = original()
    contents["general"] = {"timeout": 5}
    contents["server"] = {"ip": "::1", "port": 443, "tls": True, "path": "somewhere"}
    contents["bank"] = {"id": "other", "fingerprint": "0123:4567 89ab-cdef" * 2}
    del contents["actions"], contents["person"]["keys"]["public"]
    config = load(tmp_path, contents)
    assert config.general == General(60.0, 3, 5.0)
    assert config.relay_url == "wss://[::1]:443/somewhere"
    assert config.bank_id == "other"
    assert config.bank_fingerprint == bytes.fromhex("0123456789abcdef" * 2)
    assert config.actions == ()
    contents["server"] = {"url": "wss://relay.example/x"}
    assert load(tmp_path, contents).relay_url == "wss://relay.example/x"


@pytest.mark.parametrize("retries", ["0", 0, "1", 1])
def test_a_message_is_sent_once_at_least(tmp_path: Path, retries: object) -> None:
    contents = original()
    contents["general"]["retries"] = retries
    assert load(tmp_path, contents).general.tries == 1


def test_actions_to_a_bank_of_another_id_are_orders(tmp_path: Path) -> None:
    contents = original()
    contents["bank"] = {"id": "piggy"}
    contents["actions"] = ["SEND [piggy] SUB [a] [1]", "SEND [bank] SUB [a] [1]"]
    order, text = load(tmp_path, contents).actions
    assert isinstance(order, BankAction)
    assert isinstance(text, SendAction)


def put(*keys: str, value: object) -> Callable[[Contents], None]:
    def change(contents: Contents) -> None:
        inner = contents
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


def drop(*keys: str) -> Callable[[Contents], None]:
    def change(contents: Contents) -> None:
        inner = contents
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]

    return change


WRONG: list[tuple[str, Callable[[Contents], None]]] = [
    ("person", drop("person")),
    ("person", put("person", value=[])),
    ("person.id", drop("person", "id")),
    ("person.id", put("person", "id", value="a b")),
    ("person.id", put("person", "id", value=7)),
    ("person.name", put("person", "name", value="Ada Ärlig")),
    ("person.name", put("person", "name", value=" ")),
    ("person.nickname", put("person", "nickname", value="x")),
    ("person.keys", drop("person", "keys")),
    ("person.keys.private", drop("person", "keys", "private")),
    ("person.keys.private", put("person", "keys", "private", value=RSA_KEY)),
    ("person.keys.private", put("person", "keys", "private", value="ada\0.key")),
    ("person.keys.private", put("person", "keys", "private", value="ada\ud800.key")),
    ("person.keys.private", put("person", "keys", "private", value="~nobody-at-all/ada.key")),
    ("person.keys.secret", put("person", "keys", "secret", value="x")),
    ("general.duration", put("general", "duration", value="soon")),
    ("general.duration", put("general", "duration", value=-1)),
    ("general.duration", put("general", "duration", value="nan")),
    ("general.retries", put("general", "retries", value="2.5")),
    ("general.retries", put("general", "retries", value="-1")),
    ("general.retries", put("general", "retries", value="\u0663")),
    ("general.retries", put("general", "retries", value="1_0")),
    ("general.timeout", put("general", "timeout", value=None)),
    ("general.timeout", put("general", "timeout", value=True)),
    ("general.time_out", put("general", "time_out", value="1")),
    ("server", drop("server")),
    ("server.ip", drop("server", "ip")),
    ("server.ip", put("server", "ip", value="a b")),
    ("server.port", drop("server", "port")),
    ("server.port", put("server", "port", value="70000")),
    ("server.tls", put("server", "tls", value="yes")),
    ("server.url", put("server", "url", value="http://x")),
    ("server.ip", put("server", "url", value="ws://x:1/")),
    *(
        ("server.ip", put("server", "ip", value=value))
        for value in ("127.0.0.1/x", "a@b", "a#b", "a?b", "a..b", "x" * 64 + ".example", "a:b", "%")
    ),
    ("server.path", put("server", "path", value="relay#top")),
    ("bank.fingerprint", put("bank", value={"fingerprint": "0123"})),
    ("bank.id", put("bank", value={"id": "?"})),
    ("bank.key", put("bank", value={"key": "x"})),
    ("actions", put("actions", value="SEND [ben] hi")),
    ("actions[1]", put("actions", value=[1])),
    ("actions[2]", put("actions", value=["SEND [ben] hi", "SHOUT [ben] hi"])),
    ("actions[2]", put("actions", value=["SEND [ben] hi", "SEND [ben] \ud800"])),
    ("actions[1]", put("actions", value=["SEND [bank] SUB [a] [\udfff]"])),
    ("person.name", put("person", "name", value="Ärlig, A\ud800da")),
    ("person.keys.public", put("person", "keys", "public", value="ada\ud800.pub")),
    ("server.url", put("server", value={"url": "ws://host/\ud800"})),
    ("extra", put("extra", value=1)),
]


@pytest.mark.parametrize(
    ("key", "change"), WRONG, ids=[f"{number}-{key}" for number, (key, _) in enumerate(WRONG)]
)
def test_a_wrong_key_is_named_with_its_file(
    tmp_path: Path, key: str, change: Callable[[Contents], None]
) -> None:
    contents = original()
    change(contents)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, contents)
    assert caught.value.key == key
    assert f"{tmp_path / 'ada.json'}: {key}: " in str(caught.value)


def test_an_address_that_never_can_work_is_refused(tmp_path: Path) -> None:
    contents = original()
    contents["server"] = {"url": "ws://a..example/relay"}
    with pytest.raises(ConfigError, match="one looks like ws://host:port/relay") as caught:
        load(tmp_path, contents)
    assert caught.value.key == "server.url"


@pytest.mark.parametrize(
    "keys",
    [
        ("person",),
        ("person", "id"),
        ("person", "name"),
        ("person", "keys"),
        ("person", "keys", "private"),
        ("general",),
        ("general", "duration"),
        ("general", "retries"),
        ("general", "timeout"),
        ("server",),
        ("server", "ip"),
        ("server", "port"),
        ("actions",),
    ],
    ids=".".join,
)
def test_a_script_names_whatever_is_missing(tmp_path: Path, keys: tuple[str, ...]) -> None:
    contents = original()
    drop(*keys)(contents)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, contents, script=True)
    assert str(caught.value) == f"{tmp_path / 'ada.json'}: {'.'.join(keys)}: is missing"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (put("person", "name", value=" "), "person.name: must not be empty"),
        (put("general", "timeout", value=""), "general.timeout: must not be empty"),
        (
            put("general", "duration", value="1e9"),
            "general.duration: must be between 0 and 2592000, and is 1e9",
        ),
        (
            put("server", "url", value="ws://relay.example/relay"),
            "server.ip: can't be given beside server.url; leave one of them out",
        ),
    ],
)
def test_what_is_wrong_is_said_so_that_it_can_be_put_right(
    tmp_path: Path, change: Callable[[Contents], None], problem: str
) -> None:
    contents = original()
    change(contents)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, contents)
    assert str(caught.value) == f"{tmp_path / 'ada.json'}: {problem}"


@pytest.mark.parametrize("key", [RSA_KEY, OLD_PRIVATE_KEY], ids=["PEM", "the base64 in it"])
def test_a_key_in_clear_is_refused_with_words_about_what_to_do(tmp_path: Path, key: str) -> None:
    contents = original()
    contents["person"]["keys"]["private"] = key
    with pytest.raises(ConfigError, match="keygen") as caught:
        load(tmp_path, contents)
    assert caught.value.key == "person.keys.private"
    assert "MIIEow" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not good JSON"),
        (b"{", "not good JSON"),
        (b"[1]", "one object"),
        (b'{"a": "\xff"}', "not good JSON in UTF-8"),
        (b'{"person": {}, "person": {}}', "'person' appears twice"),
        (b"[" * 100_000, "not good JSON"),
        (b" " * 2_000_000, "too long"),
    ],
)
def test_what_is_no_configuration_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "ada.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: can't be read: No such file"):
        load_config(tmp_path / "none.json")


def test_a_byte_order_mark_is_forgiven(tmp_path: Path) -> None:
    path = tmp_path / "ada.json"
    path.write_text(json.dumps(original()), encoding="utf-8-sig")
    assert load_config(path).person_id == "ada"
