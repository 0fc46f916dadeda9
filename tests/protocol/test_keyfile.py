from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.bundles import check_succession, open_bundle
from protocol.errors import KeyFileError, KeyFileFormatError, MisuseError, WrongPassphraseError
from protocol.keyfile import (
    DEFAULT_COST,
    FILE_BYTES_MAX,
    Cost,
    KeyFile,
    KeyFileHeader,
    decrypt_key_file,
    encrypt_key_file,
    new_key_file,
    read_key_file_header,
    rotate_prekeys,
)
from protocol.keys import Suite
from tests.protocol.cast import DAY, NOW, ada, fixed_bytes

CHEAPEST = Cost(memory_kib=19 * 1024, passes=1, lanes=1)
"""The least work that is accepted, so that tests stay fast."""
PASSPHRASE = "correct horse"
DEMO = dataclasses.replace(ada(), demo=True)

HEADER_FLIPS: dict[str, Any] = {
    "format": "another key file",
    "version": 2,
    "client_id": "eve",
    "fingerprint": "AAAAAAAAAAAAAAAAAAAAAA",
    "demo": False,
    "created_at": 1,
    "kdf": "argon2i",
    "memory_kib": 20 * 1024,
    "passes": 2,
    "lanes": 2,
    "salt": "AAAAAAAAAAAAAAAAAAAAAA",
    "nonce": "AAAAAAAAAAAAAAAA",
}


@functools.cache
def _data() -> bytes:
    return encrypt_key_file(DEMO, PASSPHRASE, fixed_bytes("key file"), CHEAPEST)


def _edited(**changes: Any) -> bytes:
    line, rest = _data().split(b"\n", 1)
    return msgspec.json.encode(msgspec.json.decode(line) | changes) + b"\n" + rest


def _equal(one: KeyFile, other: KeyFile) -> bool:
    return (
        one.identity.seed == other.identity.seed
        and [prekey.secret for prekey in one.prekeys] == [p.secret for p in other.prekeys]
        and one.bundle == other.bundle
        and (one.demo, one.created_at) == (other.demo, other.created_at)
    )


def test_what_was_encrypted_is_decrypted() -> None:
    key_file = decrypt_key_file(_data(), PASSPHRASE)
    assert _equal(key_file, DEMO)
    assert (key_file.client_id, key_file.first_name, key_file.last_name) == ("ada", "Demo", "Ada")
    assert key_file.signed_bundle == ada().signed_bundle
    assert key_file.fingerprint == ada().fingerprint


def test_the_default_cost_is_as_documented() -> None:
    assert dataclasses.astuple(DEFAULT_COST) == (64 * 1024, 3, 4)
    data = encrypt_key_file(ada(), PASSPHRASE, fixed_bytes("default"))
    header = read_key_file_header(data)
    assert (header.memory_kib, header.passes, header.lanes) == (64 * 1024, 3, 4)
    assert _equal(decrypt_key_file(data, PASSPHRASE), ada())


def test_the_header_is_readable_without_the_passphrase() -> None:
    header = read_key_file_header(_data())
    assert (header.client_id, header.demo, header.created_at) == ("ada", True, NOW - DAY)


@pytest.mark.parametrize("passphrase", ["", "Correct horse", "correct horse ", "x" * 1_000])
def test_a_wrong_passphrase_says_so(passphrase: str) -> None:
    with pytest.raises(WrongPassphraseError, match="passphrase does not open the key file of ada"):
        decrypt_key_file(_data(), passphrase)


def test_a_passphrase_may_be_typed_on_another_keyboard() -> None:
    composed, decomposed = "schl\u00fcssel", "schlu\u0308ssel"
    data = encrypt_key_file(DEMO, composed, fixed_bytes("umlaut"), CHEAPEST)
    assert _equal(decrypt_key_file(data, decomposed), DEMO)


def test_every_member_of_the_header_has_a_flip() -> None:
    assert set(HEADER_FLIPS) == {f.encode_name for f in msgspec.structs.fields(KeyFileHeader)}


@pytest.mark.parametrize("member", HEADER_FLIPS)
def test_every_flipped_member_of_the_header_is_refused(member: str) -> None:
    changed = _edited(**{member: HEADER_FLIPS[member]})
    assert changed != _data()
    with pytest.raises(KeyFileError):
        decrypt_key_file(changed, PASSPHRASE)


def test_the_demo_mark_can_be_neither_removed_nor_added() -> None:
    with pytest.raises(WrongPassphraseError):
        decrypt_key_file(_edited(demo=False), PASSPHRASE)
    real = encrypt_key_file(ada(), PASSPHRASE, fixed_bytes("real"), CHEAPEST)
    marked = real.replace(b'"demo":false', b'"demo":true')
    with pytest.raises(WrongPassphraseError):
        decrypt_key_file(marked, PASSPHRASE)


@pytest.mark.parametrize(
    "changes",
    [
        {"memory_kib": 19 * 1024 - 1},
        {"memory_kib": 1024 * 1024 + 1},
        {"passes": 0},
        {"passes": 17},
        {"lanes": 0},
        {"lanes": 17},
        {"salt": ""},
        {"nonce": "AAAA"},
        {"salt": "+" * 22},
    ],
)
def test_too_little_and_too_much_work_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(KeyFileFormatError):
        read_key_file_header(_edited(**changes))


@pytest.mark.parametrize("cost", [Cost(8, 1, 1), Cost(19 * 1024, 0, 1), Cost(19 * 1024, 1, 17)])
def test_a_file_that_nobody_could_open_is_not_written(cost: Cost) -> None:
    with pytest.raises(MisuseError, match="nobody could open"):
        encrypt_key_file(ada(), PASSPHRASE, fixed_bytes("weak"), cost)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{}",
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
        b"\xff\xfe",
        b"[" * 60_000,
        b" " * (FILE_BYTES_MAX + 1),
    ],
)
def test_what_is_no_key_file_is_told_apart_from_a_wrong_passphrase(data: bytes) -> None:
    with pytest.raises(KeyFileFormatError, match="no key file"):
        decrypt_key_file(data, PASSPHRASE)


def test_line_ends_that_an_editor_leaves_change_nothing() -> None:
    line, rest, _ = _data().split(b"\n")
    for data in (line + b"\n" + rest, line + b"\r\n" + rest + b"\r\n", line + b"\r\n" + rest):
        assert _equal(decrypt_key_file(data, PASSPHRASE), DEMO)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda line, _: line, "not two lines"),
        (lambda line, _: line + b"\n", "not two lines"),
        (lambda line, _: line + b"\n\n", "not two lines"),
        (lambda line, rest: line + b"\n\n" + rest, "not two lines"),
        (lambda line, rest: line + b"\n" + rest + b"\n\n", "not two lines"),
        (lambda line, rest: line + b"\n" + rest + b"\nand more", "not two lines"),
        (lambda line, rest: line + b"\n" + rest[:20] + b"\n" + rest[20:] + b"\n", "not two lines"),
        (lambda line, rest: line + b"\n " + rest + b"\n", "base64url"),
        (lambda line, rest: line + b"\n" + rest + b" \n", "base64url"),
        (lambda line, rest: line + b"\n" + rest + b"==\n", "base64url"),
        (lambda line, rest: line + b"\n" + rest[:20] + b"\n", "cut off"),
    ],
)
def test_what_is_not_two_lines_is_no_key_file(change: Any, words: str) -> None:
    line, rest, _ = _data().split(b"\n")
    for read in (read_key_file_header, functools.partial(decrypt_key_file, passphrase=PASSPHRASE)):
        with pytest.raises(KeyFileFormatError, match=f"no key file: .*{words}"):
            read(change(line, rest))


@given(st.binary(max_size=300))
def test_only_named_errors_come_out_of_the_parser(data: bytes) -> None:
    with pytest.raises(KeyFileFormatError):
        decrypt_key_file(data, PASSPHRASE)


@given(st.data())
def test_only_named_errors_come_out_of_a_damaged_header(data: st.DataObject) -> None:
    member = data.draw(st.sampled_from(sorted(HEADER_FLIPS)) | st.text(max_size=5))
    value = data.draw(st.none() | st.integers() | st.text(max_size=30) | st.booleans())
    try:
        read_key_file_header(_edited(**{member: value}))
    except KeyFileFormatError as error:
        message = str(error)
    else:
        message = ""
    assert message == "" or "no key file" in message


def test_the_passphrase_does_not_stand_in_an_error() -> None:
    with pytest.raises(WrongPassphraseError) as caught:
        decrypt_key_file(_data(), "my wrong secret")
    assert "my wrong secret" not in repr(caught.value)


# --- New files and rotation -----------------------------------------------------------------------


def test_a_new_file_has_a_prekey_for_each_suite() -> None:
    key_file = new_key_file(
        "eve", "Eve", "Eve", now=NOW, random_bytes=fixed_bytes("eve"), demo=True
    )
    assert key_file.bundle.suites == (Suite.HYBRID, Suite.CLASSIC)
    assert (key_file.demo, key_file.created_at, key_file.bundle.generation) == (True, NOW, 1)
    assert {p.public.key_id for p in key_file.prekeys} == {
        key.key_id for key in key_file.bundle.encryption_keys
    }


def test_a_rotation_offers_new_keys_and_keeps_the_old_for_two_periods() -> None:
    files = [ada()]
    for period in range(1, 5):
        later = NOW - DAY + period * DAY
        random_bytes = fixed_bytes(f"period {period}")
        files.append(rotate_prekeys(files[-1], now=later, random_bytes=random_bytes, period_ms=DAY))
    for old, new in itertools.pairwise(files):
        check_succession(open_bundle(old.signed_bundle), open_bundle(new.signed_bundle))
        assert new.identity is old.identity
        assert not {k.key_id for k in new.bundle.encryption_keys} & {
            k.key_id for k in old.bundle.encryption_keys
        }
    first = {prekey.public.key_id for prekey in files[0].prekeys}
    held = [{prekey.public.key_id for prekey in file.prekeys} for file in files]
    assert [first <= ids for ids in held] == [True, True, True, False, False]
    assert [len(file.prekeys) for file in files] == [2, 4, 6, 6, 6]
