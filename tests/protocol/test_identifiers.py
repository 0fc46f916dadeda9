from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.identifiers import (
    ACCOUNT_NUMBER_PATTERN,
    CURRENCY_PATTERN,
    UUID7_PATTERN,
    check_client_id,
    check_name,
    display_name,
    is_name_query,
    name_key,
    name_keys,
    split_name,
    uuid7,
)


@pytest.mark.parametrize("text", ["a", "0", "demo-ada", "A.b_c-9", "x" * 64])
def test_accepts_client_ids(text: str) -> None:
    assert check_client_id(text) == text


@pytest.mark.parametrize(
    "text", ["", "-a", ".a", "_a", "x" * 65, "a b", "a,b", "ä", "a\n", "a/b", "\u0430da", "a\x00"]
)
def test_refuses_other_client_ids(text: str) -> None:
    with pytest.raises(ValueError, match="is no client id"):
        check_client_id(text)


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (ACCOUNT_NUMBER_PATTERN, ["account1", "1", "DE.12_3-4", "x" * 34], ["", "-1", "x" * 35]),
        (CURRENCY_PATTERN, ["TWC", "EUR", "X12", "A" * 12], ["TW", "twc", "1AB", "A" * 13]),
    ],
)
def test_numbers_and_currencies_end_where_the_text_ends(
    pattern: str, good: list[str], bad: list[str]
) -> None:
    assert all(re.match(pattern, text) for text in good)
    assert not any(re.match(pattern, text) for text in bad)
    assert not any(re.match(pattern, text + "\n") for text in good)


@pytest.mark.parametrize("text", ["Ada", "Ärlig", "de la Cruz", "O'Neil", "李", "n" * 100, "ﬁx"])
def test_accepts_names(text: str) -> None:
    assert check_name(text) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "1 to 100"),
        ("n" * 101, "1 to 100"),
        (" Ada", "white space"),
        ("Ada\u00a0", "white space"),
        ("Bank, Demo", "comma"),
        ("Bank\uff0c Demo", "comma"),  # full width
        ("Bank\ufe50 Demo", "comma"),  # small
        ("Bank\ufe10 Demo", "comma"),  # upright
        ("Tab\there", "control"),
        ("Line\nhere", "control"),
        ("Ada\u200b", "control"),  # zero width
        ("\u202eadA", "control"),  # right-to-left override
        ("A\u2028b", "control"),  # line separator
        ("A\ud800", "control"),  # half a surrogate pair
        ("A\u0378", "control"),  # unassigned
        ("A\u0308rlig", "form C"),
    ],
)
def test_refuses_other_names_and_says_why(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_name(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("KÜPPERS", "Ku\u0308ppers"),
        ("Straße", "STRASSE"),
        ("ﬁnn", "Finn"),
        ("\uff21da", "ada"),  # full-width A
        ("Ada  Maria", "ada maria"),
        ("Ada\u00a0Maria", "ada maria"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("Ärlig ,Ada", "ärlig, ada"),
        ("Ärlig\uff0cAda", "ärlig, ada"),
    ],
)
def test_names_meet_under_their_key(one: str, other: str) -> None:
    assert name_key(one) == name_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("Ada", "Ad\u0430"), ("Ärlig", "Arlig"), ("İda", "Ida"), ("Ada", "Ad a")]
)
def test_names_that_only_look_alike_stay_apart(one: str, other: str) -> None:
    assert name_key(one) != name_key(other)


def test_a_name_is_found_in_both_orders() -> None:
    assert name_keys("Ada", "Ärlig") == (name_key("ärlig, ADA"), name_key("Ada,Ärlig"))
    assert name_keys("Ada", "Ärlig")[0] == name_key(display_name("Ada", "Ärlig"))


@pytest.mark.parametrize("text", ["Ärlig, Ada", "Ärlig,Ada", "Ärlig\uff0c Ada", ","])
def test_a_comma_of_any_width_makes_a_name_query(text: str) -> None:
    assert is_name_query(text)


def test_an_id_is_no_name_query() -> None:
    assert not is_name_query("demo-ada")


@pytest.mark.parametrize("text", ["Ärlig, Ada", " Ärlig ,Ada ", "A\u0308rlig,Ada"])
def test_splits_a_typed_name_into_first_and_last(text: str) -> None:
    assert split_name(text) == ("Ada", "Ärlig")


@pytest.mark.parametrize("text", ["Ada", "a,b,c", "Ärlig,", ",Ada", ""])
def test_refuses_to_split_what_is_no_name(text: str) -> None:
    with pytest.raises(ValueError, match="name"):
        split_name(text)


@given(st.text(max_size=30))
def test_a_name_that_passes_is_exactly_as_it_travels(text: str) -> None:
    try:
        name = check_name(text)
    except ValueError:
        return
    assert name == unicodedata.normalize("NFC", name)
    assert name_key(name).count(",") == 0
    assert 1 <= len(name) <= limits.NAME_CHARS_MAX


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_uuid7_has_time_version_and_variant(now: int, random: bytes) -> None:
    text = uuid7(now, random)
    assert re.match(UUID7_PATTERN, text)
    assert int(text.replace("-", "")[:12], 16) == now


def test_uuid7_of_rfc_9562() -> None:
    # RFC 9562, appendix A.6: 0x017F22E279B0, then rand_a 0xCC3 and rand_b 0x18C4DC0C0C07398F.
    random = bytes.fromhex("0cc318c4dc0c0c07398f")
    assert uuid7(0x017F22E279B0, random) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


def test_uuids_sort_by_time() -> None:
    ids = [uuid7(now, bytes(10)) for now in (0, 1, 255, 256, 2**40)]
    assert ids == sorted(ids)


def test_uuid7_wants_ten_random_bytes() -> None:
    with pytest.raises(ValueError, match="10 random bytes"):
        uuid7(0, bytes(9))
