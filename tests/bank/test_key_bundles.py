"""Key bundles as people hand them over: whatever comes, a bundle or a ``ValueError`` with words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bank.key_bundles import OldKeyError, read_bundle, read_bundle_file
from protocol.bundles import Bundle
from tests.bank.parties import bundle_object, signed_bundle

NOWHERE = Path("/nonexistent-folder")
TEXT = json.dumps(bundle_object(signed_bundle("demo-ada")))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["bundle", "signature", "previous_signature", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(JSON_VALUES)
def test_any_value_is_refused_with_words(value: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_bundle(value, NOWHERE)


@given(st.integers(0, len(TEXT) - 1), st.characters(codec="utf-8"))
def test_a_bundle_with_one_character_changed_is_refused_or_the_same(at: int, other: str) -> None:
    altered = TEXT[:at] + other + TEXT[at + 1 :]
    try:
        bundle = read_bundle(altered, NOWHERE)
    except ValueError:
        return
    assert isinstance(bundle, Bundle)
    assert bundle.signed == signed_bundle("demo-ada")


@pytest.mark.parametrize(
    "key",
    ["-----BEGIN RSA PUBLIC KEY-----\nMIIB", "ssh-rsa AAAAB3Nza", " MIIBCgKCAQEA "],
)
def test_keys_of_the_old_system_are_known_for_what_they_are(tmp_path: Path, key: str) -> None:
    (tmp_path / "old.pem").write_text(key)
    for value in (key, "old.pem"):
        with pytest.raises(OldKeyError, match="RSA key of the old system"):
            read_bundle(value, tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{" * 50_000, b"hello", b"{}", b"W10"])
def test_a_file_that_holds_no_bundle_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ada.bundle"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"ada\.bundle"):
        read_bundle_file(path)


def test_a_folder_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Is a directory"):
        read_bundle_file(tmp_path)
