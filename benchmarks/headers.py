"""What the index costs: header facts against pydicom's full header as JSON, and members of a zip against unpacking it.

    python benchmarks/headers.py [--files N]

Prints CPU seconds and ratios, each measured in turns in one run.
"""

import argparse
import io
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medspark.containers import Archive
from medspark.phantom import write_dicom_set
from medspark.readers import headers

ROUNDS = 3
Measured = Callable[[Path], None]


def facts(path: Path) -> None:
    """Read what the index reads."""
    with path.open("rb") as file:
        headers.header(file)


def full_header(path: Path) -> None:
    """Read what is usually read."""
    pydicom.dcmread(path, stop_before_pixels=True).to_json_dict()


def member_facts(archive: Path) -> None:
    """Read the headers of all members."""
    opened = Archive.read(archive.open("rb"))
    for name in opened.members:
        with opened.open(name) as member:
            headers.header(member)
    opened.close()


def unpack(archive: Path) -> None:
    """Inflate all members."""
    with zipfile.ZipFile(archive) as bundle:
        for name in bundle.namelist():
            bundle.read(name)


def cpu(function: Measured, arguments: Sequence[Path]) -> float:
    """Return the CPU seconds of calls, one for each argument."""
    began = time.process_time()
    for argument in arguments:
        function(argument)
    return time.process_time() - began


def compare(title: str, ours: Measured, theirs: Measured, arguments: Sequence[Path]) -> None:
    """Print the medians of interleaved rounds and their ratio."""
    rounds = [(cpu(ours, arguments), cpu(theirs, arguments)) for _ in range(ROUNDS)]
    mine, other = np.median(rounds, axis=0)
    print(f"{title:<60} {mine:8.3f} s {other:8.3f} s   ratio {mine / other:.4f}")


def make_large_zip(target: Path, source: Path) -> None:
    """Zip three instances of about 30 MB: real header, pixels of noise."""
    dataset = pydicom.dcmread(source)
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as bundle:
        for number in range(3):
            dataset.Rows = dataset.Columns = 3900
            dataset.PixelData = rng.integers(0, 1 << 10, (3900, 3900), np.uint16).tobytes()
            file = io.BytesIO()
            dataset.save_as(file)
            bundle.writestr(f"{number}.dcm", file.getvalue())


def main() -> None:
    """Make the files and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    n_files = parser.parse_args().files
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as directory:
        archive = Path(directory)
        write_dicom_set(archive / "set", n=n_files, size=64, syntaxes=[ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        paths = sorted(path for path in (archive / "set").rglob("*") if path.is_file())
        make_large_zip(archive / "large.zip", paths[0])
        print(f"{'':<60} {'ours':>10} {'theirs':>10}")
        compare(f"header facts of {len(paths)} DICOM files / dcmread().to_json_dict()", facts, full_header, paths)
        compare(
            "headers in a zip of 30 MB instances / inflating it",
            member_facts,
            unpack,
            [archive / "large.zip"],
        )


if __name__ == "__main__":
    main()
