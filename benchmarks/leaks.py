"""Copies found among real images: recall for each kind of change, false pairs, comparisons, and what it costs.

    python benchmarks/leaks.py DIRECTORY [--images N] [--copies M] [--patient REGEX]

DIRECTORY holds images of one frame; N of them are taken, and of each of M a copy of every kind is made in memory. What
REGEX matches in the name of a file is its patient: images of one patient may be alike. Any other pair is printed, to be
looked at: equal bytes are true copies under two names, what is "near" may be false. Copies stand there too.
"""

import argparse
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from pyspark.sql import DataFrame, SparkSession

from medspark.fingerprint import axes, fingerprint, keys, moments, unpack
from medspark.frame import Image
from medspark.java import ensure_java
from medspark.readers import read_frames
from medspark.spark.leaks import crowded, near_duplicates

Change = Callable[[Image, np.random.Generator], Image]
Row = tuple[str, int, str, bytes | None]

LARGEST_CROP = 8


def resized(image: Image, rng: np.random.Generator) -> Image:
    """Return the image at 50 to 200 % of its size."""
    factor = rng.uniform(0.5, 2)
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=how))


def encoded(image: Image, rng: np.random.Generator) -> Image:
    """Return the image after JPEG of quality 30 to 60."""
    _, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 61))])
    return np.asarray(cv2.imdecode(content, cv2.IMREAD_GRAYSCALE))


def cropped(image: Image, rng: np.random.Generator) -> Image:
    """Return the image without 0 to 8 pixels at each side."""
    top, bottom, left, right = rng.integers(0, LARGEST_CROP + 1, 4)
    return image[top : image.shape[0] - bottom, left : image.shape[1] - right]


CHANGES: Mapping[str, Sequence[Change]] = {
    "exact": (),
    "resized": (resized,),
    "encoded": (encoded,),
    "cropped": (cropped,),
    "resized, encoded": (resized, encoded),
    "cropped, resized": (cropped, resized),
    "cropped, encoded": (cropped, encoded),
}


def read(path: Path) -> Image:
    """Return the first frame as 8 bits."""
    pixels = next(iter(read_frames(path.read_bytes()))).pixels
    return np.asarray(cv2.normalize(pixels, None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U))


def copies(path: Path, name: str, rng: np.random.Generator) -> Iterator[Row]:
    """Yield a copy of each kind; an exact one has the hash of its original, as a copied file would."""
    original, digest = read(path), hashlib.sha256(path.read_bytes()).hexdigest()
    for kind, changes in CHANGES.items():
        image = original
        for change in changes:
            image = change(image, rng)
        yield f"{kind}: {name}", 0, f"{kind} {name}" if changes else digest, fingerprint(image)


def session() -> SparkSession:
    """Return a local session that says little."""
    ensure_java()
    settings = {"ui.enabled": "false", "ui.showConsoleProgress": "false", "sql.shuffle.partitions": "4"}
    builder = SparkSession.builder.master("local[2]")
    spark = builder.config(map={f"spark.{name}": value for name, value in settings.items()}).getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def as_frames(spark: SparkSession, rows: Sequence[Row]) -> DataFrame:
    """Return the rows as ``near_duplicates`` takes them."""
    return spark.createDataFrame(list(rows), "path string, frame int, content_sha256 string, fingerprint binary")


def print_recall(pairs: set[tuple[str, str]], names: Sequence[str]) -> None:
    """Print how many of the copies were found with their original."""
    print(f"\n{'copy':<20} {'found':>7} {'of':>6} {'recall':>8}")
    for kind in CHANGES:
        found = sum((name, f"{kind}: {name}") in pairs or (f"{kind}: {name}", name) in pairs for name in names)
        print(f"{kind:<20} {found:7} {len(names):6} {found / len(names):8.4f}")


def print_strangers(pairs: Sequence[tuple[str, str, str, float]], patient: re.Pattern[str]) -> None:
    """Print the pairs of two patients, the closest for each two, and how many there are."""
    strangers = [pair for pair in pairs if owner(pair[0], patient) != owner(pair[1], patient)]
    print(f"\npairs: {len(pairs)}, of two patients: {len(strangers)}")
    told: set[frozenset[str]] = set()
    for one, other, kind, apart in sorted(strangers, key=lambda pair: pair[3]):
        patients = frozenset((owner(one, patient), owner(other, patient)))
        if patients not in told:
            told.add(patients)
            print(f"  {kind:<10} {apart:8.5f}  {one}  {other}")


def owner(name: str, patient: re.Pattern[str]) -> str:
    """Return the patient of a file, or of a copy, by its name; or all of the name."""
    match = patient.search(Path(name).name)
    return match[0] if match else name


def print_comparisons(prints: Sequence[bytes]) -> None:
    """Print how many pairs have a key in common, for a quarter, a half and all of the images, in random order."""
    print(f"\n{'images':>7} {'compared':>9} {'an image':>9} {'of all pairs':>13} {'largest key':>12}")
    order = np.random.default_rng(1).permutation(len(prints))
    for n in (len(prints) // 4, len(prints) // 2, len(prints)):
        some = unpack([prints[number] for number in order[:n]])
        n_pairs, largest = meetings(keys(some, axes(moments(some)))[0])
        print(f"{n:7} {n_pairs:9} {n_pairs / n:9.2f} {n_pairs / (n * (n - 1) / 2):13.5%} {largest:12}")


def meetings(found: np.ndarray) -> tuple[int, int]:
    """Return how many pairs of rows have a key in common, and how many rows the most common key has."""
    members: dict[int, set[int]] = {}
    for row, row_keys in enumerate(found.tolist()):
        for key in row_keys:
            members.setdefault(key, set()).add(row)
    pairs = {(a, b) for rows in members.values() for a in rows for b in rows if a < b}
    return len(pairs), max(map(len, members.values()))


def print_milliseconds() -> None:
    """Print what one fingerprint costs."""
    rng = np.random.default_rng(0)
    for size in (224, 512, 2048):
        for dtype in (np.uint8, np.int16):
            image = rng.integers(0, 200, (size, size)).astype(dtype)
            times = []
            for _ in range(50):
                began = time.perf_counter()
                fingerprint(image)
                times.append(time.perf_counter() - began)
            print(f"fingerprint of {size} x {size} {image.dtype!s:<7} {np.median(times) * 1000:7.3f} ms")


def main() -> None:
    """Make the copies and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--copies", type=int, default=500)
    parser.add_argument("--patient", type=re.compile, default=re.compile(r"^(person\d+|(NORMAL2-)?IM-\d+)"))
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    print_milliseconds()

    rng = np.random.default_rng(0)
    suffixes = {".jpeg", ".jpg", ".png", ".dcm", ".tif", ".tiff"}
    every = sorted(path for path in asked.directory.rglob("*") if path.suffix.lower() in suffixes)
    paths = [every[number] for number in rng.permutation(len(every))[: asked.images]]
    names = [str(path.relative_to(asked.directory)) for path in paths]
    originals: list[Row] = [
        (name, 0, hashlib.sha256(path.read_bytes()).hexdigest(), fingerprint(read(path)))
        for name, path in zip(names, paths, strict=True)
    ]
    print_comparisons([row[3] for row in originals if row[3]])

    n_copies = min(asked.copies, len(names))
    made = [copy for path, name in zip(paths[:n_copies], names, strict=False) for copy in copies(path, name, rng)]
    spark = session()
    frames = as_frames(spark, [*originals, *made])
    began = time.perf_counter()
    pairs = [(row["path_a"], row["path_b"], row["kind"], row["distance"]) for row in near_duplicates(frames).collect()]
    print(f"\nnear_duplicates of {len(originals) + len(made)} frames: {time.perf_counter() - began:.1f} s")
    print(f"keys that were too common: {crowded(frames).count()}")
    print_recall({pair[:2] for pair in pairs}, names[:n_copies])
    print_strangers(pairs, asked.patient)
    spark.stop()


if __name__ == "__main__":
    main()
