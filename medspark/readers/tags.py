"""A walk over the first elements of a DICOM object (PS3.5 chapter 7), for the few that an index wants.

pydicom reads every element up to the pixels and makes an object of each; an index of millions of files has time for
neither. Whatever is not plain raises UnusualError, and the caller asks pydicom.
"""

import math
import struct
import zlib
from collections.abc import Container
from typing import IO

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

_BLOCK = 1 << 14  # the wanted elements of nearly all objects lie in the first
_MOST = 1 << 24  # beyond that pydicom may search
_UNDEFINED = 0xFFFFFFFF
_ITEM, _END_OF_ITEM, _END_OF_SEQUENCE = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
SYNTAX = 0x00020010


class UnusualError(Exception):
    """The object is damaged, or written in a way that this walk does not know."""


def first_elements(file: IO[bytes], wanted: Container[int], last: int) -> tuple[dict[int, bytes], str]:
    """Return the values of the wanted tags up to ``last``, as stored, and the byte order of numbers for ``struct``.

    ``file`` stands at its beginning, and the object has a preamble. Raises UnusualError.
    """
    head = file.read(_BLOCK)
    while True:
        try:
            return _parse(head, wanted, last)
        except (struct.error, IndexError):
            more = file.read(len(head)) if len(head) < _MOST else b""
            if not more:
                raise UnusualError from None
            head += more


def text(value: bytes) -> str | None:
    """Return a value without its padding, or None for an empty one; UnusualError for several, or beyond ASCII."""
    if not value.isascii() or b"\\" in value:
        raise UnusualError
    return value.decode("ascii").strip(" \0") or None


def number(value: bytes, order: str) -> int | None:
    """Return an unsigned number of two bytes, or None for an empty value."""
    if len(value) not in (0, 2):
        raise UnusualError
    return int(struct.unpack(order + "H", value)[0]) if value else None


def numbers(value: bytes, count: int) -> list[float] | None:
    """Return the first of the decimal numbers in a text; None if there are fewer, or one is not finite."""
    try:
        found = [float(part) for part in value.strip(b" \0").split(b"\\")[:count]] if value else []
    except ValueError:
        raise UnusualError from None
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def _parse(head: bytes, wanted: Container[int], last: int) -> tuple[dict[int, bytes], str]:
    if head[128:132] != b"DICM":
        raise UnusualError
    meta, start = _walk(head, 132, wanted, 0x0002FFFF, order="<", is_implicit=False)
    syntax = meta.get(SYNTAX, b"").decode("ascii", "replace").rstrip(" \0")
    if not syntax:
        raise UnusualError
    if syntax == DeflatedExplicitVRLittleEndian:
        try:
            head, start = zlib.decompressobj(-zlib.MAX_WBITS).decompress(head[start:], _MOST), 0
        except zlib.error:
            raise UnusualError from None
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    rest, _ = _walk(head, start, wanted, last, order=order, is_implicit=syntax == ImplicitVRLittleEndian)
    return meta | rest, order


def _walk(
    head: bytes, at: int, wanted: Container[int], last: int, *, order: str, is_implicit: bool
) -> tuple[dict[int, bytes], int]:
    """Return the wanted values and where the first element beyond ``last`` begins."""
    found: dict[int, bytes] = {}
    before = 0
    while True:
        if _tag(head, at, order) > last:  # it may be of another encoding, as after the file meta information
            return found, at
        tag, length, value = _element(head, at, order, is_implicit=is_implicit)
        if tag <= before:
            raise UnusualError
        before = tag
        if length == _UNDEFINED:
            at = _after_sequence(head, value, order, is_implicit=is_implicit)
            if tag in wanted:
                found[tag] = b""  # that it is there
            continue
        at = value + length
        if tag in wanted:
            if at > len(head):
                raise IndexError
            found[tag] = head[value:at]


def _element(head: bytes, at: int, order: str, *, is_implicit: bool) -> tuple[int, int, int]:
    """Return an element's tag, the length of its value, and where that begins."""
    tag = _tag(head, at, order)
    if is_implicit or tag >> 16 == 0xFFFE:
        return tag, struct.unpack_from(order + "I", head, at + 4)[0], at + 8
    vr = head[at + 4 : at + 6]
    if vr in _LONG:
        return tag, struct.unpack_from(order + "I", head, at + 8)[0], at + 12
    if not (vr.isalpha() and vr.isupper()):
        raise UnusualError
    return tag, struct.unpack_from(order + "H", head, at + 6)[0], at + 8


def _tag(head: bytes, at: int, order: str) -> int:
    group, element = struct.unpack_from(order + "HH", head, at)
    return int(group << 16 | element)


def _after_sequence(head: bytes, at: int, order: str, *, is_implicit: bool) -> int:
    """Return where a sequence of undefined length, whose items begin here, is over."""
    while True:
        tag, length, at = _element(head, at, order, is_implicit=is_implicit)
        if tag == _END_OF_SEQUENCE:
            return at
        if tag != _ITEM:
            raise UnusualError
        at = at + length if length != _UNDEFINED else _after_item(head, at, order, is_implicit=is_implicit)


def _after_item(head: bytes, at: int, order: str, *, is_implicit: bool) -> int:
    while True:
        tag, length, at = _element(head, at, order, is_implicit=is_implicit)
        if tag == _END_OF_ITEM:
            return at
        if length == _UNDEFINED:
            at = _after_sequence(head, at, order, is_implicit=is_implicit)
        else:
            at += length
