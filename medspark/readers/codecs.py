"""Which library decodes which compressed transfer syntax, as a pydicom plug-in of our own.

pydicom finds the frames of an object and gives them shape, sign and colour. One frame is decoded here, by the first
library of ``SYNTAXES`` that is installed and exact for what the compressed image says of itself. That library decides:
were the next one tried after a failure, a damaged image would be read by whichever is the most lenient. Nothing is
registered with pydicom, so that GDCM, which a damaged file can make abort the process, and pylibjpeg-libjpeg, which is
under the GPL, are not used even where they are installed.
"""

import importlib
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image as Pillow
from pydicom import uid
from pydicom._uid_dict import UID_dictionary
from pydicom.pixels.decoders.base import Decoder, DecodeRunner
from pydicom.pixels.decoders.rle import _rle_decode_frame

from medspark.errors import CorruptError, ImageError, TruncatedError, UnsupportedTransferSyntaxError, is_out_of_memory
from medspark.frame import Image

EXTRA = "pip install 'medspark[codecs]'"

ENCAPSULATED = uid.UID("1.2.840.10008.1.2.1.98")
DEFLATED_FRAME = uid.UID("1.2.840.10008.1.2.8.1")
# pydicom 3.0 does not know it, and looks there whether it is a transfer syntax at all.
UID_dictionary.setdefault(str(DEFLATED_FRAME), ("Deflated Image Frame Compression", "Transfer Syntax", "", "", ""))

_SEQUENTIAL, _LOSSLESS = (0, 1, 2), 3  # which process the marker of a JPEG's frame header names


@dataclass(frozen=True)
class Stream:
    """What a compressed frame says of itself; for formats without a header, what the object says of it."""

    rows: int
    columns: int
    samples: int
    bits: int
    is_signed: bool = False
    process: int = 0  # of JPEG: 0-2 lossy, 3 lossless
    is_ycc: bool = False  # of JPEG: libjpeg takes the components for luma and chroma
    wants_rgb: bool = False  # of JPEG: and is to convert them
    start: int = 0  # of JPEG 2000: where the image itself begins; a JP2 header may ask for a colour conversion
    is_planar: bool = False  # of formats without a header: all red, all green, all blue

    @property
    def n_bytes(self) -> int:
        """The length of the frame, uncompressed."""
        return (self.rows * self.columns * self.samples * self.bits + 7) // 8

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the decoded array."""
        return (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)


@dataclass(frozen=True)
class Codec:
    """A library, which images it decodes exactly, and how."""

    library: str
    module: str
    decode: Callable[[bytes, Stream], Image]
    takes: Callable[[Stream], bool]

    @property
    def is_installed(self) -> bool:
        """Whether the library can be imported."""
        return _module(self.module) is not None


class RefusedError(BaseException):
    """Why a frame was not decoded: no Exception, as pydicom swallows those of a plug-in, and the reason with them."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(reason)
        self.reason = reason


def decoder(syntax: uid.UID) -> Decoder:
    """Return pydicom's decoder for a transfer syntax, with ours as its only plug-in.

    Raises UnsupportedTransferSyntaxError where no library decodes it, or none that is installed.
    """
    found = Decoder(syntax)
    if syntax in uid.UncompressedTransferSyntaxes:
        return found
    codecs = SYNTAXES.get(syntax)
    if codecs is None:
        name = syntax if syntax.is_valid else "that is no UID"  # but perhaps some text about a patient
        raise UnsupportedTransferSyntaxError(f"no decoder for transfer syntax {name}")
    if not any(codec.is_installed for codec in codecs):
        raise UnsupportedTransferSyntaxError(f"no decoder is installed for {syntax.name}: {EXTRA}")
    found.add_plugin("medspark", (__name__, "_decode_frame"))
    return found


def is_available(syntax: str) -> bool:
    """Tell pydicom that this plug-in is ready; ``decoder`` has made sure of it."""
    return syntax in SYNTAXES


def choose(syntax: uid.UID, stream: Stream) -> Codec:
    """Return the first installed library that decodes such an image exactly.

    Raises UnsupportedTransferSyntaxError where there is none.
    """
    fit = [codec for codec in SYNTAXES[syntax] if codec.takes(stream)]
    what = f"{stream.bits}-bit {syntax.name}"
    if not fit:
        raise UnsupportedTransferSyntaxError(f"no decoder for {what} of {stream.samples} samples")
    for codec in fit:
        if codec.is_installed:
            return codec
    raise UnsupportedTransferSyntaxError(f"no decoder is installed for {what}: {EXTRA}")


def _decode_frame(src: bytes, runner: DecodeRunner) -> memoryview:
    """Decode one frame for pydicom."""
    syntax = runner.transfer_syntax
    try:
        stream = read_stream(src, runner)
        array = choose(syntax, stream).decode(src[stream.start :], stream).reshape(stream.shape)
    except (ImageError, MemoryError) as error:
        raise RefusedError(error) from None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - Rust's panics are no Exception; texts may quote the file
        if is_out_of_memory(error):
            raise RefusedError(MemoryError()) from None
        raise RefusedError(CorruptError(f"not decodable as {syntax.name} ({type(error).__name__})")) from None
    runner.set_option("bits_allocated", 8 * array.itemsize)
    runner.set_option("planar_configuration", 0)
    return np.ascontiguousarray(array).data.cast("B")


# What a frame says of itself


def read_stream(src: bytes, runner: DecodeRunner) -> Stream:
    """Return the facts of a compressed frame, which cost no decoding.

    Raises CorruptError if they contradict the object: so no frame needs more memory than Rows and Columns allow.
    """
    if runner.transfer_syntax in uid.JPEG2000TransferSyntaxes:
        stream = _jpeg2000_stream(src)
    elif runner.transfer_syntax in (*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes):
        stream = _jpeg_stream(src, str(runner.photometric_interpretation))
    else:
        stream = _bare_stream(runner)
        if runner.transfer_syntax == uid.RLELossless:
            _check_rle(src, stream)
        return stream
    said, found = (runner.rows, runner.columns, runner.samples_per_pixel), (stream.rows, stream.columns, stream.samples)
    if said != found:
        raise CorruptError(f"rows, columns and samples are {said} in the header, {found} in the compressed image")
    return stream


def _jpeg2000_stream(src: bytes) -> Stream:
    start = src.find(b"\xff\x4f\xff\x51")  # start of codestream, size (ISO 15444-1 A.5.1)
    if start < 0 or len(src) < start + 43:
        raise CorruptError("no JPEG 2000 codestream")
    right, bottom, left, top = struct.unpack_from(">4I", src, start + 8)
    (samples,) = struct.unpack_from(">H", src, start + 40)
    depth = src[start + 42]
    return Stream(bottom - top, right - left, samples, (depth & 127) + 1, is_signed=depth > 127, start=start)


def _jpeg_stream(src: bytes, photometric: str) -> Stream:
    """Read a JPEG's or JPEG-LS's frame header, and guess its colours as libjpeg does."""
    # Of a cut image imagecodecs returns what there is, and CharLS may search its end for minutes.
    if src.rfind(b"\xff\xd9") < src.rfind(b"\xff\xda"):
        raise TruncatedError("the compressed image has no end")
    has_jfif, adobe = False, None
    for marker, segment in _jpeg_segments(src):
        if marker == 0xE0 and segment.startswith(b"JFIF\0"):
            has_jfif = True
        elif marker == 0xEE and segment.startswith(b"Adobe") and len(segment) >= 12:
            adobe = segment[11]
        elif marker == 0xF7 or (marker & 0xF0 == 0xC0 and marker not in (0xC4, 0xC8, 0xCC)):
            bits, rows, columns, samples = struct.unpack_from(">BHHB", segment)
            process = marker & 15
            is_ycc = samples == 3 and (
                has_jfif or (bool(adobe) if adobe is not None else process != _LOSSLESS and segment[6::3][:3] != b"RGB")
            )
            wants_rgb = is_ycc and adobe == 1 and photometric == "RGB" and process != _LOSSLESS
            return Stream(rows, columns, samples, bits, process=process, is_ycc=is_ycc, wants_rgb=wants_rgb)
    raise CorruptError("no frame header in the JPEG image")


def _jpeg_segments(src: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the marker segments before the first scan."""
    position = 2
    while src[position : position + 1] == b"\xff" and position + 4 <= len(src):
        marker, length = struct.unpack_from(">BH", src, position + 1)
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xDA:
            return
        yield marker, src[position + 4 : position + 2 + length]
        position += 2 + length


def _bare_stream(runner: DecodeRunner) -> Stream:
    stream: Stream | None = runner.get_option("stream")  # from the second frame on, the rest tells what was decoded
    if stream is None:
        is_planar = runner.samples_per_pixel > 1 and runner.planar_configuration == 1
        stream = Stream(
            runner.rows, runner.columns, runner.samples_per_pixel, runner.bits_allocated, is_planar=is_planar
        )
        runner.set_option("stream", stream)
    return stream


def _check_rle(src: bytes, stream: Stream) -> None:
    """Compare the header of a frame with its segments, one for each byte of a pixel (PS3.5 G.5)."""
    n_segments = max(1, stream.samples * stream.bits // 8)
    if len(src) < 64 or n_segments > 15:
        raise CorruptError("no RLE header")
    n_found, *starts = struct.unpack_from(f"<{n_segments + 1}I", src)
    if n_found != n_segments or starts[0] != 64 or sorted({*starts, len(src)}) != [*starts, len(src)]:
        raise CorruptError(f"the RLE header does not describe {n_segments} segments")


# The libraries


@cache
def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _pillow_jpeg(src: bytes, stream: Stream) -> Image:
    is_converted = not stream.is_ycc or stream.wants_rgb
    strict = _strict_jpeg(src, stream, is_converted=is_converted)
    if strict is not None and is_converted:
        return strict.reshape(stream.shape)
    image = Pillow.open(io.BytesIO(src), formats=("JPEG",))
    if not is_converted:
        image.draft("YCbCr", image.size)  # as stored
    return np.asarray(image)


def _strict_jpeg(src: bytes, stream: Stream, *, is_converted: bool) -> Image | None:
    """Return what libjpeg-turbo, which is Pillow's decoder too, makes of a JPEG; a small picture if not as wanted.

    Raises TruncatedError or CorruptError for a scan that decodes only by skipping damage, which Pillow does silently.
    None where simplejpeg does not take it.
    """
    if not is_converted and stream.process == _LOSSLESS:  # made smaller, it would be written beyond its end
        return None
    size = {} if is_converted else {"min_height": 1, "min_width": 1, "min_factor": 8}
    wanted = "RGB" if is_converted and stream.samples == 3 else "GRAY"
    try:
        simplejpeg.decode_jpeg_header(src)
    except ValueError:  # rare subsampling
        return None
    try:
        array: Image = simplejpeg.decode_jpeg(src, colorspace=wanted, strict=True, **size)
    except ValueError as error:
        if "Unsupported" in str(error):
            return None
        if "Premature end" in str(error):
            raise TruncatedError("the compressed image ends before its end") from None
        raise CorruptError("the scan of the compressed image is damaged") from None
    return array


def _imagecodecs_jpeg(src: bytes, stream: Stream) -> Image:
    as_stored = {} if stream.samples == 1 or stream.wants_rgb else {"colorspace": "RGB", "outcolorspace": "RGB"}
    array: Image = _module("imagecodecs").jpeg8_decode(src, **as_stored)
    return array


def _pyjpegls(src: bytes, stream: Stream) -> Image:
    data, facts = _module("jpeg_ls").decode_pixel_data(src)
    is_planar = stream.samples > 1 and facts["interleave_mode"] == 0
    return _shaped(data, stream, 8 if stream.bits <= 8 else 16, is_planar=is_planar)


def _openjpeg(src: bytes, _: Stream) -> Image:
    array: Image = _module("openjpeg").decode(src)
    return array


def _opencv(src: bytes, stream: Stream) -> Image:
    with _quiet_opencv():
        array = cv2.imdecode(np.frombuffer(src, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise CorruptError("OpenCV cannot decode the JPEG 2000 image")
    return array if stream.samples == 1 else array[..., ::-1]


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Silence a line on stderr for each frame without a colour space, which is how they are in DICOM."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _pillow_jpeg2000(src: bytes, stream: Stream) -> Image:
    """Undo what Pillow makes of the depths that OpenCV refuses: unsigned, and stretched to 8 or 16 bits."""
    array = np.asarray(Pillow.open(io.BytesIO(src), formats=("JPEG2000",)))
    width = 8 * array.itemsize
    zero = 1 << (width - 1) if stream.is_signed else 0
    values = (array.astype(np.int32) - zero) >> (width - stream.bits)
    return values.astype(f"{'i' if stream.is_signed else 'u'}{array.itemsize}")


def _pylibjpeg_rle(src: bytes, stream: Stream) -> Image:
    decode = _module("rle.utils").decode_pixel_data
    rows, columns, bits = (1, stream.n_bytes, 8) if stream.bits == 1 else (stream.rows, stream.columns, stream.bits)
    try:
        data = decode(src, version=2, rows=rows, columns=columns, bits_allocated=bits)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - a panic of Rust's is no Exception; some writers pad, which is no damage
        return _pydicom_rle(src, stream)
    return _shaped(data, stream, stream.bits, is_planar=True)


def _pydicom_rle(src: bytes, stream: Stream) -> Image:
    if stream.bits == 1:
        data = _rle_decode_frame(src, 1, stream.n_bytes, 1, 8)
    else:
        data = _rle_decode_frame(src, stream.rows, stream.columns, stream.samples, stream.bits)
    return _shaped(data, stream, stream.bits, is_planar=True)


def _inflate(src: bytes, stream: Stream) -> Image:
    return _plain(zlib.decompressobj(-zlib.MAX_WBITS).decompress(src, stream.n_bytes), stream)


def _plain(src: bytes, stream: Stream) -> Image:
    if len(src) < stream.n_bytes:
        raise TruncatedError(f"a frame has {len(src)} of {stream.n_bytes} bytes")
    return _shaped(src[: stream.n_bytes], stream, stream.bits, is_planar=stream.is_planar)


def _shaped(data: bytes | bytearray, stream: Stream, bits: int, *, is_planar: bool) -> Image:
    """Return little-endian values, or eight pixels a byte, as an array of the frame's shape."""
    if bits == 1:
        packed = np.frombuffer(data, np.uint8)
        return np.unpackbits(packed, count=stream.rows * stream.columns, bitorder="little").reshape(stream.shape)
    flat = np.frombuffer(data, f"<u{bits // 8}")
    if is_planar and stream.samples > 1:
        return flat.reshape(stream.samples, stream.rows, stream.columns).transpose(1, 2, 0)
    return flat.reshape(stream.shape)


def _is_bare(stream: Stream) -> bool:
    return stream.bits in (8, 16, 32, 64) or (stream.bits == 1 and stream.samples == 1)


def _is_pillow_jpeg(stream: Stream) -> bool:
    return stream.bits == 8 and stream.process in (*_SEQUENTIAL, _LOSSLESS) and stream.samples in (1, 3)


def _is_imagecodecs_jpeg(stream: Stream) -> bool:
    depths = range(2, 17) if stream.process == _LOSSLESS else (8, 12)
    return stream.bits in depths and stream.process in (*_SEQUENTIAL, _LOSSLESS) and stream.samples in (1, 3)


def _is_opencv_jpeg2000(stream: Stream) -> bool:
    return 8 <= stream.bits <= 16 and not stream.is_signed and stream.samples in (1, 3)


def _is_pillow_jpeg2000(stream: Stream) -> bool:
    return stream.bits <= 16 and stream.samples == 1


def _always(_: Stream) -> bool:
    return True


_JPEG = (
    Codec("pillow", "PIL", _pillow_jpeg, _is_pillow_jpeg),
    Codec("imagecodecs", "imagecodecs", _imagecodecs_jpeg, _is_imagecodecs_jpeg),
)
_JPEG_LS = (Codec("pyjpegls", "jpeg_ls", _pyjpegls, _always),)
_JPEG_2000 = (
    Codec("pylibjpeg-openjpeg", "openjpeg", _openjpeg, _always),
    Codec("opencv", "cv2", _opencv, _is_opencv_jpeg2000),
    Codec("pillow", "PIL", _pillow_jpeg2000, _is_pillow_jpeg2000),
)
_RLE = (
    Codec("pylibjpeg-rle", "rle", _pylibjpeg_rle, _is_bare),
    Codec("built in", "pydicom", _pydicom_rle, _is_bare),
)

SYNTAXES: dict[str, tuple[Codec, ...]] = {
    uid.JPEGBaseline8Bit: _JPEG,
    uid.JPEGExtended12Bit: _JPEG,
    uid.JPEGLossless: _JPEG,
    uid.JPEGLosslessSV1: _JPEG,
    uid.JPEGLSLossless: _JPEG_LS,
    uid.JPEGLSNearLossless: _JPEG_LS,
    uid.JPEG2000Lossless: _JPEG_2000,
    uid.JPEG2000: _JPEG_2000,
    uid.HTJ2KLossless: _JPEG_2000,
    uid.HTJ2KLosslessRPCL: _JPEG_2000,
    uid.HTJ2K: _JPEG_2000,
    uid.RLELossless: _RLE,
    ENCAPSULATED: (Codec("built in", "numpy", _plain, _is_bare),),
    DEFLATED_FRAME: (Codec("built in", "zlib", _inflate, _is_bare),),
}
"""What decodes a compressed transfer syntax, the best first: exactness, then safety on damaged files, then speed."""
