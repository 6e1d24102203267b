"""The content decides the format: signatures of what an archive may hold."""

import re
import struct

HEAD_BYTES = 512
"""How much of a file ``sniff`` wants to see."""

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),  # BigTIFF
    (b"MM\0+", "tiff"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jpeg2000"),
    (b"\xff\x4f\xff\x51", "jpeg2000"),
    (b"\x93NUMPY", "npy"),
    (b"PK\x03\x04", "zip"),
    (b"\x1f\x8b", "gzip"),
    (b"%PDF-", "pdf"),
    (b"P7\n", "pam"),
)
_PNM = re.compile(rb"P[1-6]\s+[#\d]")  # a comment or the number of columns

_FIRST_ELEMENTS = (0x0000, 0x0001, 0x0005, 0x0008, 0x0010, 0x0012, 0x0016, 0x0018)
_FIRST_VRS = (b"UL", b"OB", b"CS", b"UI", b"DA", b"SH")
_STRAY_BYTES = 2


def sniff(head: bytes) -> str:  # noqa: PLR0911 - a list of rules, one a line
    """Return the format that the first bytes of a file tell, or ``unknown``."""
    if head[128:132] == b"DICM":
        return "dicom"
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp"
    if head.startswith(b"BM") and len(head) >= 18 and head[14] in (12, 40, 52, 56, 64, 108, 124):
        return "bmp"
    if _PNM.match(head):
        return "pnm"
    if head[257:262] == b"ustar":
        return "tar"
    if head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0"):
        return "nifti"
    return "dicom" if bare_dicom_offset(head) is not None else "unknown"


def bare_dicom_offset(head: bytes) -> int | None:
    """Return where a DICOM data set without preamble begins, or None if this is not one.

    Cut by a careless tool, such a file may begin with the last byte or two of the file meta information.
    """
    return next((offset for offset in range(_STRAY_BYTES + 1) if _is_element(head[offset : offset + 8])), None)


def _is_element(data: bytes) -> bool:
    """Tell whether this can be the first element of a data set: a low group, and a VR or length that makes sense."""
    if len(data) < 8:
        return False
    for order in "<>":
        group, element = struct.unpack_from(order + "HH", data)
        if group in (0x0002, 0x0008) and element in _FIRST_ELEMENTS:
            if data[4:6] in _FIRST_VRS:
                return True
            return struct.unpack_from(order + "I", data, 4)[0] <= 64 and not data[4:6].isalpha()
    return False
