"""Which public keys are refused, derived a second time from the curve's equation."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from protocol.curves import is_strong_ed25519, is_strong_x25519
from tests.vectors.cases_keys import ED25519_SMALL_ORDER, X25519_SMALL_ORDER

P = 2**255 - 19
D = -121665 * pow(121666, P - 2, P) % P
ORDER = 2**252 + 27742317777372353535851937790883648493
GENERATOR_Y = 4 * pow(5, P - 2, P) % P
Point = tuple[int, int]


def _square_roots(value: int) -> list[int]:
    """Return the square roots modulo the prime, which is 5 modulo 8."""
    candidate = pow(value, (P + 3) // 8, P)
    for root in (candidate, candidate * pow(2, (P - 1) // 4, P) % P):
        if root * root % P == value % P:
            return sorted({root, -root % P})
    return []


def _points(y: int) -> list[Point]:
    return [(x, y) for x in _square_roots((y * y - 1) * pow(D * y * y + 1, P - 2, P) % P)]


def _add(one: Point, other: Point) -> Point:
    (x1, y1), (x2, y2) = one, other
    shared = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + shared, P - 2, P) % P
    y = (y1 * y2 + x1 * x2) * pow(1 - shared, P - 2, P) % P
    return x, y


def _times(factor: int, point: Point) -> Point:
    result = (0, 1)
    while factor:
        if factor & 1:
            result = _add(result, point)
        point, factor = _add(point, point), factor >> 1
    return result


def _small_order_points() -> set[Point]:
    """Return the torsion: what the group's prime order leaves of the points of the curve."""
    found: set[Point] = set()
    y = 2
    while len(found) < 8:
        for point in _points(y):
            torsion = _times(ORDER, point)
            found |= {_times(factor, torsion) for factor in range(8)}
        y += 1
    return found


def _encodings(point: Point) -> set[bytes]:
    """Return every 32 bytes that a lenient decoder takes for this point."""
    x, y = point
    signs = {0, 1} if x == 0 else {x & 1}
    values = {value for value in (y, y + P) if value < 2**255}
    return {(value | sign << 255).to_bytes(32, "little") for value in values for sign in signs}


def test_the_14_encodings_follow_from_the_curve() -> None:
    points = _small_order_points()
    assert len(points) == 8
    derived = set().union(*(_encodings(point) for point in points))
    assert derived == set(ED25519_SMALL_ORDER)
    assert len(ED25519_SMALL_ORDER) == 14


@pytest.mark.parametrize("key", ED25519_SMALL_ORDER, ids=bytes.hex)
def test_every_encoding_of_small_order_is_refused(key: bytes) -> None:
    Ed25519PublicKey.from_public_bytes(key)  # which takes them all
    assert not is_strong_ed25519(key)


@pytest.mark.parametrize("y", range(19))
@pytest.mark.parametrize("sign", [0, 1])
def test_every_encoding_that_is_not_canonical_is_refused(y: int, sign: int) -> None:
    assert not is_strong_ed25519((y + P | sign << 255).to_bytes(32, "little"))


def test_bytes_that_are_no_point_are_refused() -> None:
    misses = [y for y in range(2, 60) if not _points(y)]
    assert len(misses) > 10
    assert not any(is_strong_ed25519(y.to_bytes(32, "little")) for y in misses)


def test_points_of_the_curve_are_accepted() -> None:
    hits = [y for y in range(2, 60) if _points(y)]
    assert all(is_strong_ed25519(y.to_bytes(32, "little")) for y in hits)
    assert is_strong_ed25519(GENERATOR_Y.to_bytes(32, "little"))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_other_lengths_are_refused(length: int) -> None:
    assert not is_strong_ed25519(bytes(length))
    assert not is_strong_x25519(bytes(length))


@given(st.binary(min_size=32, max_size=32))
def test_real_identity_keys_are_accepted(seed: bytes) -> None:
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    assert is_strong_ed25519(public)


@given(st.binary(min_size=32, max_size=32))
def test_real_encryption_keys_are_accepted(seed: bytes) -> None:
    public = X25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    assert is_strong_x25519(public)


@pytest.mark.parametrize("key", X25519_SMALL_ORDER, ids=bytes.hex)
def test_every_x25519_key_of_small_order_is_refused(key: bytes) -> None:
    assert not is_strong_x25519(key)


def test_the_x25519_list_is_what_gives_no_secret() -> None:
    private = X25519PrivateKey.from_private_bytes(bytes(range(32)))
    # The last five differ from a canonical one by twice the prime: RFC 7748 masks their top bit
    # and so takes them for other points, implementations that don't mask it for these.
    assert [key[-1] >> 7 for key in X25519_SMALL_ORDER] == [0] * 7 + [1] * 5
    for key in X25519_SMALL_ORDER[:7]:
        with pytest.raises(ValueError, match=r".+"):
            private.exchange(X25519PublicKey.from_public_bytes(key))


@pytest.mark.parametrize("u", [*range(P, P + 19), 2**255 + 9])
def test_x25519_keys_that_are_not_canonical_are_refused(u: int) -> None:
    assert not is_strong_x25519(u.to_bytes(32, "little"))
