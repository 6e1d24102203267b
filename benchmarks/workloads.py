"""Makes the images that the benchmark measures with: the same bytes for the same name, number and seed.

    python benchmarks/workloads.py a b c d [--home DIRECTORY] [--scale 1.0]

Drawing a body of ``medspark.phantom`` takes 0.07 s at 512 x 512 and much longer at the size of a chest film, so a
workload draws few of them and varies each: turned, mirrored, moved, another gain, fresh noise. What is complete is used
again; delete the directory to make it anew.
"""

import argparse
import io
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pydicom
from pydicom import uid
from pydicom.encaps import encapsulate

from medspark import phantom
from medspark.frame import Image

HOME = Path(tempfile.gettempdir(), "medspark-workloads")
SEED = 42
PER_DIRECTORY = 500


@dataclass(frozen=True)
class Workload:
    """Files of one shape; ``encode`` makes number k of n from a picture in [0, 1]."""

    title: str
    n_files: int
    shape: tuple[int, int]
    n_drawn: int
    encode: Callable[[Image, int, int], bytes]
    suffix: str


def make(name: str, home: Path = HOME, scale: float = 1.0) -> list[str]:
    """Return the paths of a workload's files, ``scale`` times as many as it has, and make those that are not there.

    They lie in directories of 500, in the order of the paths.
    """
    n = max(1, round(WORKLOADS[name].n_files * scale))
    place = home / f"{name}-{n}"
    if not place.is_dir():
        draft = home / f".{name}-{n}-{os.getpid()}"
        with multiprocessing.get_context("fork").Pool() as pool:
            for _ in pool.imap_unordered(_write, [(name, draft, k, n) for k in range(n)], chunksize=max(1, n // 64)):
                pass
        draft.rename(place)
    return sorted(str(path) for path in place.rglob("*.*"))


def _write(what: tuple[str, Path, int, int]) -> None:
    name, place, number, n = what
    cv2.setNumThreads(1)  # each process has a core of its own
    workload = WORKLOADS[name]
    target = place / f"{number // PER_DIRECTORY:03}" / f"{number:06}{workload.suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(workload.encode(_picture(name, number), number, n))


def _picture(name: str, number: int) -> Image:
    """Return a variation of one of the drawn bodies, float32 in [0, 1]."""
    workload = WORKLOADS[name]
    rng = np.random.default_rng([SEED, ord(name), number])
    body = _body(workload.shape, number % workload.n_drawn)
    body = np.roll(body, rng.integers(-20, 21, 2), (0, 1))[:: rng.choice([1, -1]), :: rng.choice([1, -1])]
    noise = rng.standard_normal(workload.shape, np.float32)
    varied: Image = np.clip(rng.uniform(0.8, 1.0) * body + 0.005 * noise, 0, 1)
    return varied


@cache
def _body(shape: tuple[int, int], number: int) -> Image:
    """Return a drawn body; a large one is drawn at a quarter of its size, where the soft noise costs seconds."""
    rng = np.random.default_rng([SEED, number])
    anatomy = phantom.Anatomy.grow(rng, contrast=0.08)
    if max(shape) <= 1024:
        return anatomy.draw(rng, shape)
    small = anatomy.draw(rng, (shape[0] // 4, shape[1] // 4))
    return cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _png(picture: Image, _number: int, _n: int) -> bytes:
    return cv2.imencode(".png", np.rint(255 * picture).astype(np.uint8))[1].tobytes()


def _slice(picture: Image, number: int, n: int) -> bytes:
    """Return a slice, uncompressed in the first half of the files, in one of three lossless codes in the second."""
    if number < n // 2:
        return _dicom(picture, number, uid.ExplicitVRLittleEndian)
    return _dicom(picture, number, (uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1)[number % 3])


def _film(picture: Image, number: int, _n: int) -> bytes:
    return _dicom(picture, number, uid.ExplicitVRLittleEndian)


def _dicom(picture: Image, number: int, syntax: uid.UID) -> bytes:
    written = uid.ExplicitVRLittleEndian if syntax == uid.JPEGLosslessSV1 else syntax
    scanner = phantom.Scanner("MR", uid.MRImageStorage, written, len(picture), white=4000, bits=16)
    pixels = scanner.stored(picture[None])
    dataset = phantom.header(scanner.sop_class, "MR", patient=number + 1, study=1, number=1, seed=SEED)
    content = phantom.dicom(dataset, scanner, pixels)
    return _jpeg_lossless(content, pixels) if syntax == uid.JPEGLosslessSV1 else content


def _jpeg_lossless(content: bytes, pixels: Image) -> bytes:
    """Return an uncompressed object with its pixels in JPEG Lossless, which pydicom cannot write."""
    import imagecodecs  # of the extra codecs: only this workload needs it

    dataset = pydicom.dcmread(io.BytesIO(content))
    dataset.PixelData = encapsulate([bytes(imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=16))])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = uid.JPEGLosslessSV1
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


WORKLOADS = {
    "a": Workload("PNG 512 x 512, 8 bit", 4000, (512, 512), 64, _png, ".png"),
    "b": Workload("DICOM 512 x 512, 16 bit, half of it compressed", 800, (512, 512), 64, _slice, ".dcm"),
    "c": Workload("DICOM 2500 x 2048, 16 bit", 60, (2500, 2048), 8, _film, ".dcm"),
    "d": Workload("PNG 64 x 64, 8 bit", 50_000, (64, 64), 512, _png, ".png"),
}


def main() -> None:
    """Make workloads and say where they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(WORKLOADS), metavar="NAME", help="default: all")
    parser.add_argument("--home", type=Path, default=HOME)
    parser.add_argument("--scale", type=float, default=1.0)
    given = parser.parse_args()
    for name in given.names:
        began = time.monotonic()
        paths = make(name, given.home, given.scale)
        n_bytes = sum(Path(path).stat().st_size for path in paths)
        print(
            f"{name}  {len(paths):6,} {WORKLOADS[name].title:48} {n_bytes / 1e6:7,.0f} MB"
            f"  {time.monotonic() - began:4.0f} s  {Path(paths[0]).parents[1]}"
        )


if __name__ == "__main__":
    main()
