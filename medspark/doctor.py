"""``medspark doctor``: what there is on this machine, each decoder proven by decoding a sample, and what to install."""

import base64
import importlib
import io
import os
import platform
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import DecodeRunner

import medspark
from medspark.errors import ConfigError, ImageError
from medspark.frame import DEFAULT_LIMITS, Image
from medspark.java import java_home
from medspark.readers import codecs, dicom

_BUILT_IN = "built in"
OK, WRONG, NOT_MEANT, MISSING = "ok", "WRONG", "-", "missing"
ADVICE = f"missing: {codecs.EXTRA}"


def report() -> tuple[list[str], bool]:
    """Return what the doctor says, line by line, and whether the core works."""
    versions, has_packages = _versions()
    java, has_java = _java()
    matrix, has_decoders = _matrix()
    lines = [*versions, *java, *_machine(), "", *matrix]
    return lines, has_packages and has_java and has_decoders


# Packages, Java, memory

_PACKAGES = {  # what is imported: what is installed
    "pyspark": "pyspark", "numpy": "numpy", "cv2": "opencv-python-headless", "pydicom": "pydicom", "PIL": "pillow",
    "simplejpeg": "simplejpeg", "tifffile": "tifffile", "scipy": "scipy", "skimage": "scikit-image",
    "sklearn": "scikit-learn", "numba": "numba", "pandas": "pandas", "pyarrow": "pyarrow", "deltalake": "deltalake",
    "packaging": "packaging",
    "matplotlib": "matplotlib", "jinja2": "jinja2",
}  # fmt: skip


def _versions() -> tuple[list[str], bool]:
    lines = [_line("medspark", medspark.__version__), _line("Python", f"{platform.python_version()}  {sys.executable}")]
    broken = False
    for module, package in _PACKAGES.items():
        try:
            found = importlib.import_module(module)
            said = str(getattr(found, "__version__", None) or metadata.version(package))
        except ImportError as error:
            said, broken = f"{WRONG} ({error}): pip install '{package}'", True
        lines.append(_line(package, said))
    return lines, not broken


def _java() -> tuple[list[str], bool]:
    try:
        home = java_home()
    except ConfigError as error:
        return [_line("Java", f"{WRONG}: {error}")], False
    answer = subprocess.run(  # noqa: S603 - the Java that Spark would start
        [home / "bin" / "java", "-version"], capture_output=True, text=True, check=False
    )
    version = answer.stderr.partition("\n")[0]
    return [_line("Java", f"{version}  {home}")], True


def _machine() -> list[str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _memory_mb()
    try:
        from medspark.spark.session import local_settings
    except ImportError:  # the versions above say which package it is
        heap = "?"
    else:
        heap = local_settings().get("spark.driver.memory", "1g")
    each = DEFAULT_LIMITS.memory_mb
    lines = [
        _line("cores", str(cores)),
        _line("memory", f"{memory:,} MB"),
        _line("local mode", f"{cores} tasks at once, {heap} for Java, at most {each:,} MB for each task's file"),
    ]
    if cores * each > memory:
        lines.append(
            _line("", f"files that large, all at once, do not fit: limits.memory_mb = {memory // (2 * cores)}")
        )
    return lines


def _memory_mb() -> int:
    """Return the memory of this machine, or that of its control group where it is less."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            sizes.append(int(Path(limit).read_text("ascii")))
        except (OSError, ValueError):  # no control group, or "max"
            continue
    return min(sizes) >> 20


def _line(name: str, said: str) -> str:
    return f"{name:<24}{said}".rstrip()


# Decoders


@dataclass(frozen=True)
class Sample:
    """A picture whose pixels are known, in a transfer syntax."""

    syntax: uid.UID
    depth: str
    frame: bytes

    @property
    def name(self) -> str:
        """What a row of the matrix is called."""
        return _NAMES[self.syntax]

    @property
    def pixels(self) -> Image:
        """What has to come out."""
        return _pictures()[self.depth]

    @property
    def tolerance(self) -> int:
        """How far a lossy decoder may be off."""
        return _TOLERANCES.get(self.syntax, 0)

    def is_shown_by(self, array: Image) -> bool:
        """Tell whether these are the pixels."""
        wanted = self.pixels
        if array.shape != wanted.shape:
            return False
        # A decoder may give the bits of signed values as unsigned ones; pydicom puts that right.
        difference = array.astype(wanted.dtype).astype(np.int64) - wanted
        return int(np.abs(difference).max()) <= self.tolerance

    def attributes(self) -> dict[str, int | str]:
        """Return the DICOM attributes of the picture, by their names in pydicom's options."""
        rows, columns = self.pixels.shape[:2]
        bits = int(self.depth.split()[0])
        samples = 3 if self.pixels.ndim == 3 else 1
        return {
            "rows": rows,
            "columns": columns,
            "samples_per_pixel": samples,
            "photometric_interpretation": "RGB" if samples == 3 else "MONOCHROME2",
            "bits_allocated": bits if bits == 1 else 8 * self.pixels.itemsize,
            "bits_stored": bits,
            "pixel_representation": int(self.pixels.dtype.kind == "i"),
            "planar_configuration": 0,
        }

    def content(self) -> bytes:
        """Return the picture as a DICOM object."""
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = self.syntax
        meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
        meta.MediaStorageSOPInstanceUID = uid.UID("2.25.1")
        dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        for name, value in self.attributes().items():
            setattr(dataset, "".join(word.capitalize() for word in name.split("_")), value)
        dataset.HighBit = dataset.BitsStored - 1
        is_native = self.syntax in uid.UncompressedTransferSyntaxes
        dataset.PixelData = self.frame if is_native else encapsulate([self.frame])
        dataset["PixelData"].VR = "OW" if is_native and dataset.BitsAllocated > 8 else "OB"
        file = io.BytesIO()
        pydicom.dcmwrite(file, dataset, enforce_file_format=True)
        return file.getvalue()


def cell(codec: codecs.Codec, sample: Sample) -> str:
    """Return whether a library decodes a sample: ok, WRONG, - (it is not meant to) or missing (not installed)."""
    runner = DecodeRunner(sample.syntax)
    for name, value in sample.attributes().items():
        runner.set_option(name, value)
    stream = codecs.read_stream(sample.frame, runner)
    if not codec.takes(stream):
        return NOT_MEANT
    if not codec.is_installed:
        return MISSING
    try:
        return OK if sample.is_shown_by(codec.decode(sample.frame, stream)) else WRONG
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - whatever a broken installation does
        return WRONG


def whole(sample: Sample) -> str:
    """Return whether the reader gives the pixels of a DICOM object with the sample: ok, WRONG or missing."""
    try:
        (frame,) = dicom.frames(sample.content(), max_pixels=DEFAULT_LIMITS.max_pixels, raw=True)
    except ImageError as error:
        return MISSING if error.reason == "unsupported_transfer_syntax" else WRONG
    return OK if sample.is_shown_by(frame.pixels) else WRONG


def _matrix() -> tuple[list[str], bool]:
    libraries = list(dict.fromkeys(codec.library for entry in codecs.SYNTAXES.values() for codec in entry))
    rows = [["transfer syntax", "bits", *libraries, "read"]]
    for sample in sorted(samples(), key=lambda sample: list(_NAMES).index(sample.syntax)):
        read = whole(sample)
        found = {codec.library: cell(codec, sample) for codec in codecs.SYNTAXES.get(sample.syntax, ())}
        found = found or {_BUILT_IN: read}  # uncompressed: pydicom needs nobody
        cells = [found.get(library, NOT_MEANT) for library in libraries]
        rows.append([sample.name, sample.depth, *cells, codecs.EXTRA if read == MISSING else read])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    said = {text for row in rows[1:] for text in row[2:]}
    if MISSING in said:
        lines += ["", ADVICE]
    if WRONG in said:
        lines += [
            "",
            f"{WRONG}: the library is installed, and does not give the pixels of the sample; install it again",
        ]
    lines += ["", "Not read: MPEG and HEVC video, JPEG XL, JPEG 2000 Part 2."]
    return lines, WRONG not in said


@cache
def _pictures() -> dict[str, Image]:
    ramp = np.arange(24).reshape(4, 6)
    gray = (ramp * 10).astype(np.uint8)
    return {
        "1": (ramp % 5 == 0).astype(np.uint8),
        "8": gray,
        "8 rgb": np.stack([gray, 255 - gray, np.full_like(gray, 90)], axis=-1),
        "12": (ramp * 170).astype(np.uint16),
        "16": (ramp * 2800).astype(np.uint16),
        "16 signed": (ramp * 2800 - 32768).astype(np.int16),
        "32": (ramp * 180_000_000).astype(np.uint32),
    }


def samples() -> Iterator[Sample]:
    """Yield a picture in each transfer syntax and depth: some made here, the others carried."""
    for syntax in uid.UncompressedTransferSyntaxes:
        for depth in ("8", "16"):
            pixels = _pictures()[depth]
            yield Sample(syntax, depth, (pixels if syntax.is_little_endian else pixels.byteswap()).tobytes())
    for depth in ("1", "8", "8 rgb", "16", "32"):
        yield Sample(codecs.ENCAPSULATED, depth, _packed(depth))
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        yield Sample(codecs.DEFLATED_FRAME, depth, deflate.compress(_packed(depth)) + deflate.flush())
        yield Sample(uid.RLELossless, depth, _rle(depth))
    for (name, depth), text in _CARRIED.items():
        for syntax in _CARRIED_IN[name]:
            yield Sample(syntax, depth, base64.b85decode(text))


def _packed(depth: str) -> bytes:
    pixels = _pictures()[depth]
    return np.packbits(pixels, bitorder="little").tobytes() if depth == "1" else pixels.tobytes()


def _rle(depth: str) -> bytes:
    """Encode a picture as RLE (PS3.5 G): a segment for each byte of a value, here all of it one literal run."""
    if depth == "1":
        planes = [_packed(depth)]
    else:
        pixels = _pictures()[depth].reshape(24, -1)
        octets = pixels.astype(pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(24, -1)
        planes = [octets[:, column].tobytes() for column in range(octets.shape[1])]
    segments = [bytes([len(plane) - 1]) + plane for plane in planes]
    starts = np.cumsum([64, *map(len, segments)])[:-1]
    header = np.zeros(16, "<u4")
    header[: len(starts) + 1] = [len(starts), *starts]
    return header.tobytes() + b"".join(segments)


def main() -> int:
    """Print the report; 0 if the core works, 2 if Java or a part of the core is missing or wrong."""
    lines, works = report()
    print("\n".join(lines))
    return 0 if works else 2


_NAMES: dict[str, str] = {
    uid.ImplicitVRLittleEndian: "implicit, little endian",
    uid.ExplicitVRLittleEndian: "explicit, little endian",
    uid.ExplicitVRBigEndian: "explicit, big endian",
    uid.DeflatedExplicitVRLittleEndian: "deflated object",
    codecs.ENCAPSULATED: "encapsulated uncompressed",
    codecs.DEFLATED_FRAME: "deflated frames",
    uid.RLELossless: "RLE",
    uid.JPEGBaseline8Bit: "JPEG baseline .50",
    uid.JPEGExtended12Bit: "JPEG extended .51",
    uid.JPEGLossless: "JPEG lossless .57",
    uid.JPEGLosslessSV1: "JPEG lossless .70",
    uid.JPEGLSLossless: "JPEG-LS .80",
    uid.JPEGLSNearLossless: "JPEG-LS near lossless .81",
    uid.JPEG2000Lossless: "JPEG 2000 lossless .90",
    uid.JPEG2000: "JPEG 2000 .91",
    uid.HTJ2KLossless: "HTJ2K lossless .201",
    uid.HTJ2KLosslessRPCL: "HTJ2K lossless .202",
    uid.HTJ2K: "HTJ2K .203",
}
_TOLERANCES: dict[str, int] = {uid.JPEGBaseline8Bit: 2, uid.JPEGExtended12Bit: 2, uid.JPEGLSNearLossless: 2}
_CARRIED_IN: dict[str, tuple[uid.UID, ...]] = {
    "JPEG": (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit),
    "JPEG, 12 bits": (uid.JPEGExtended12Bit,),
    "JPEG lossless, prediction 7": (uid.JPEGLossless,),
    "JPEG lossless": (uid.JPEGLosslessSV1,),
    "JPEG-LS": (uid.JPEGLSLossless,),
    "JPEG-LS near lossless": (uid.JPEGLSNearLossless,),
    "JPEG 2000": (uid.JPEG2000Lossless, uid.JPEG2000),
    "HTJ2K": (uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K),
}
# ``_pictures()`` in base 85, encoded by imagecodecs 2026.3.6 (libjpeg-turbo 3.1.3, CharLS 2.4.3, OpenJPEG 2.5.4 and
# OpenJPH 0.26.3): jpeg8_encode with level=95, or lossless=True and the predictor; jpegls_encode with level 0, or 2 for
# near lossless; jpeg2k_encode with level=0 and codecformat="j2k", htj2k_encode, both reversible with one resolution.
_CARRIED: dict[tuple[str, str], str] = {
    ("JPEG", "8"): (
        "|JeWF01!$>Nk#wx0RR9200961|JwjV00IF40RaI50RaI50s;a81OoyB0s;jD1Oo&H1qKEN1qKEN2MGuU2MGrT1_%oX2?`1d3JL}Y3k(Yi3<("
        "Mf3je?W3kU!N00sd85di<h02BZL00000000000000000008|HJ?t5C8!J2LJ#70000000000009X@00RgXCt+j%+5iXv0RR9$08G<@B&VIea"
        "RWigdgmYi*#"
    ),
    ("JPEG, 12 bits", "12"): (
        "|JeWF01!$>Nk#wx0RR9200961|JwjV00IF40RaI50RaI50s;a81OoyB0s;jD1Oo&H1qKEN1qKEN2MGuU2MGrT1_%oX2?`1d3JL}Y3k(Yi3<("
        "Mf3je_X3k(1R00sd85di<h02BZL0000000000000000000C|HJ?u5C8xK2LJ#70000000000000CHM+FBA8Y@(0|Jncu0RaF2KLBA(G$I#La"
        "m~Ev@YOX?_aa|x6yOK{*#"
    ),
    ("JPEG lossless, prediction 7", "8"): (
        "|JeWF01!$>Nk#wx0RR9200961|HA+a2mk~C1_1#P0RO}Q761VO0RR910000000000000IA2>;pu2mt{A2LJ%i^;K0>JVuQgG;a~3MvWW9Xwj"
        "ob|Je"
    ),
    ("JPEG lossless, prediction 7", "16"): (
        "|JeWF01!$>Nk#wx0RR9200961|HA+a5C8-K1_1#P0RO}Q7XSeP0RaF20000000000000gQ4-"
        "o&_00;pA00#g7>bxrOtHQ4eyfhjF$qAAZBqm5qk)Y5fNKBBKAu>W_jRt`-LS%%=36c{efB)G"
    ),
    ("JPEG lossless", "8"): (
        "|JeWF01!$>Nk#wx0RR9200961|HA+a2mk~C1_1#P0RO}Q761VO0RR910000000000000CA2>;pu2mt{A0RRBc>Qa=e#VJZv;*_N-@k&ya|Je"
    ),
    ("JPEG lossless", "12"): (
        "|JeWF01!$>Nk#wx0RR9200961|HA+a3;+ZG1_1#P0RO}Q761VO0RR910000000000000OI4FB2y2mt{A0RRBc{;E|fl}fApRVtNArB(hal}e"
        ">js{a5LN~Kb%RsY!"
    ),
    ("JPEG lossless", "16"): (
        "|JeWF01!$>Nk#wx0RR9200961|HA+a5C8-"
        "K1_1#P0RO}Q761VO0RR910000000000000aR5dYc$2mt{A0RRBX@K=Jo72vN54FbFs;I9REE5d_7uLXE3!CngRpwKJ9UJCG6g1kTf*#"
    ),
    ("JPEG-LS", "8"): (
        "|JeWN03cIPNk&Eh0ssI300004000063J3-"
        "P0003j0003j|L6b+00001|JeWc01F5J1ONsB0TBTI+5iXv0RR910E34lIUoQ4F5ra_;6MNX7j`KeP}{pOfdAP"
    ),
    ("JPEG-LS", "16"): (
        "|JeWN03cIPNk&Eh0ssI300004000063J?YX0003j0003j|L6b+00001|JeWc01FTR1ONsB0TBTI_y7$7|Nj6I07C&306_oR00;pA00000fp@"
        "`o&D~dRU623(01ki)z;5!pitPgM08HauZFM!$*FfFi372b`u2#7k<14uT*#"
    ),
    ("JPEG-LS near lossless", "8"): (
        "|JeWN03cIPNk&Eh0ssI300004000063J3-P0003j0003j|L6b+00001|JeWc01F5J1ONsB0TBTI+5iXv0RRF30Gn-q1Vo5{0z^oJDMbI-"
    ),
    ("JPEG-LS near lossless", "16"): (
        "|JeWN03cIPNk&Eh0ssI300004000063J?YX0003j0003j|L6b+00001|JeWc01FTR1ONsB0TBTI_y7$7|Nj6O08IfR06_oR00;pA00IC2g1!"
        "~<UnSCC0000e0bnKqUM2vr00KTm<X%POTqXc9<}M=QE+Ww|0RPz"
    ),
    ("JPEG 2000", "8"): (
        "|4;u>04V?f0000600004000000000000006000040000000000009R90sm3}3;+NC0RR951ONg5TmS?>K>uU_B>(|Ka%Ew3Wn>^?c_2@4Wo}"
        "APMMofZWpZ<AZ*CwmE;TMR|BwI*0000004M+f|C8T<xDpzLrAx2yQk`rUOL}}CUUeee1f1*w|Je"
    ),
    ("JPEG 2000", "8 rgb"): (
        "|4;u>051Rl000060000400000000000000600004000000000000RdB0S5sA2LS>9QUDA90003200aa80smY81VBLlWB?@q0Yh?SVRU6=AYy"
        "qSPjF>!N>D{dAa-SPb7^mGATlmBE;Rp;015yA0001500IA#$J8b%*0!4JMnCSOW(K6Agx+>jFw@_Fz!HLTGXg51QDNQQoncR{&{M~fR^xlRg"
        "WrI_5aJ>-^cjN$Dy<)RmdZJbj@@p^iXC)I|Je"
    ),
    ("JPEG 2000", "12"): (
        "|4;u>04V?f0000600004000000000000006000040000000000009dD0sm3}3;+NC0RR951ONg5TmS?>VE<$QB>(|Ka%Ew3Wn>^?c_2@4Wo}"
        "APMMofZWpZ<AZ*CwmE;TMR|BwI*0000005$*t|C8U~loA?+qy{jHE`l6J1zaEf`I5vR_!9yp?hE9aBf3Lo!Y8r5a0~z0"
    ),
    ("JPEG 2000", "16"): (
        "|4;u>04V?f0000600004000000000000006000040000000000009pH0sm3}3;+NC0RR951ONg5TmS?>fd6CwB>(|Ka%Ew3Wn>^?c_2@4Wo}"
        "APMMofZWpZ<AZ*CwmE;TMR|BwI*0000005|{v|C8VNkuVY<Ge#}lZlDnbO0+O?{HeqZq(PC9eS+Z{owwl$KX&Tv-f#>@|Je"
    ),
    ("JPEG 2000", "16 signed"): (
        "|4;u>04V?f000060000400000000000000600004000000000000EBy0sm3}3;+NC0RR951ONg5TmS?>fd6CwB>(|Ka%Ew3Wn>^?c_2@4Wo}"
        "APMMofZWpZ<AZ*CwmE;TMR|BwI*0000005|{v|C8VNkuVY<Ge#}lZlDnbO0+O?{HeqZq(PC9eS+Z{owwl$KX&Tv-f#>@|Je"
    ),
    ("HTJ2K", "8"): (
        "|4;u>04YEK0000600004000000000000006000040000000000009R90sl|{2mk^A00061QUDA90ssL30R#j<0smY82OvmDNJ#%=02crOPjF"
        ">!N>E53R%LP^FfKASE;BCwkN^q*00000F8~4mlfWv#f5w%T5&!@Jc(wq*CV*4`QvQI;bO3hS{s826RRI6l"
    ),
    ("HTJ2K", "16"): (
        "|4;u>04YEK0000600004000000000000006000040000000000009pH0sl|{2mk^A000U9QUDA90ssL30R#j<0smY82Ox-uh=~7W02crOPjF"
        ">!N>E53R%LP^FfKASE;BCwkN^q*00000KL7#$lfVEiApd_(ryr`r^k8H}_yGt2__hGR04g8=6@cE=yZ(cVbO1hsJ_Db@073wFRsjFm"
    ),
    ("HTJ2K", "16 signed"): (
        "|4;u>04YEK000060000400000000000000600004000000000000EBy0sl|{2mk^A000U9QUDA90ssL30R#j<0smY82Ox-uh=~7W02crOPjF"
        ">!N>E53R%LP^FfKASE;BCwkN^q*00000KL7#$lfVEiApd_(ryr`r^k8H}_yGt2__hGR04g8=6@cE=yZ(cVbO1hsJ_Db@073wFRsjFm"
    ),
}
