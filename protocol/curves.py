"""Which bytes are refused as public keys on Curve25519.

The ``cryptography`` package loads any 32 bytes as an Ed25519 or X25519 public key. Whoever enrols
a key of small order can later deny everything that was signed under it, because one signature
then fits many messages; and a point with two encodings is one key with two fingerprints.
"""

from __future__ import annotations

from typing import Final

__all__ = ["is_strong_ed25519", "is_strong_x25519"]

_P: Final = 2**255 - 19
_D: Final = (-121665 * pow(121666, -1, _P)) % _P
_SQRT_M1: Final = pow(2, (_P - 1) // 4, _P)
_SIGN_BIT: Final = 1 << 255


def _recover_x(y: int, sign: int) -> int | None:
    """Return x of the point with this y and sign bit, or None (RFC 8032, section 5.1.3)."""
    numerator, denominator = (y * y - 1) % _P, (_D * y * y + 1) % _P
    inverse_seventh = pow(denominator, 7, _P)
    x = numerator * pow(denominator, 3, _P) * pow(numerator * inverse_seventh, (_P - 5) // 8, _P)
    x %= _P
    square = denominator * x * x % _P
    if square == (-numerator) % _P:
        x = x * _SQRT_M1 % _P
    elif square != numerator:
        return None
    if x == 0 and sign:
        return None
    return _P - x if x & 1 != sign else x


def _double(x: int, y: int) -> tuple[int, int]:
    product = _D * x * x * y * y % _P
    new_x = 2 * x * y * pow(1 + product, -1, _P)
    new_y = (y * y + x * x) * pow(1 - product, -1, _P)
    return new_x % _P, new_y % _P


def is_strong_ed25519(key: bytes) -> bool:
    """Return whether ``key`` is the one canonical encoding of a point whose order is not small.

    Refused are: other lengths, y not below the field's prime, "minus zero", bytes that are no
    point of the curve, and the eight points whose order divides 8 (14 encodings in all, counting
    those that are not canonical).
    """
    if len(key) != 32:
        return False
    value = int.from_bytes(key, "little")
    y, sign = value & (_SIGN_BIT - 1), value >> 255
    if y >= _P:
        return False
    x = _recover_x(y, sign)
    if x is None:
        return False
    point = (x, y)
    for _ in range(3):
        point = _double(*point)
    return point != (0, 1)


# The u-coordinates of small order on the curve and on its twist (RFC 7748, section 7; the list
# that Bernstein gives at cr.yp.to/ecdh.html), below the prime: the others aren't canonical.
_X25519_SMALL_ORDER: Final = frozenset(
    {
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        _P - 1,
    }
)


def is_strong_x25519(key: bytes) -> bool:
    """Return whether ``key`` is a canonical X25519 public key whose order is not small."""
    if len(key) != 32:
        return False
    u = int.from_bytes(key, "little")
    return u < _P and u not in _X25519_SMALL_ORDER
