"""Whatever happens to the files of an archive, each is in one place of the tables and the sums say so."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import killers
import numpy as np
import pyarrow as pa
import pytest
from accounting import faults, walk
from builders import make_dicom, make_pixels, make_png
from deltalake import DeltaTable, write_deltalake
from line import last_run, rows
from pydicom.uid import MediaStorageDirectoryStorage

LETHAL = (
    *("--set", 'features=[{use="first_order"}, {use="killers:strike"}]'),
    *("--set", "limits.seconds_per_file=2"),  # of a busy machine
    *("--set", "limits.memory_mb=300"),
)


def struck(way, *shape, dtype=np.uint8):
    """Return pixels, or frames of which the second ends the process."""
    pixels = np.stack([make_pixels(dtype=dtype, seed=seed) for seed in range(*shape)]) if shape else make_pixels()
    pixels[(1, 0, 0) if shape else (0, 0)] = killers.NAMES.index(way)
    return pixels


def make_zip(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return file.getvalue()


def dicom(seed, uid):
    return make_dicom(make_pixels(dtype=np.uint16, seed=seed), SOPInstanceUID=uid)


def odd(way):
    """A name that has to be told right for the row to be found again."""
    return f"k=v/_{way} 100%20? #1 [x]:\n.png"


PNG = [make_png(make_pixels(seed=seed)) for seed in range(8)]
TWIN = dicom(1, "1.2.840.1")
FILES = {
    "plain.png": PNG[0],
    "twins/one.png": PNG[1],
    "twins/two": PNG[1],
    "uid/first.dcm": TWIN,
    "uid/its copy.dcm": TWIN,
    "uid/another object.dcm": dicom(2, "1.2.840.1"),
    "uid/alone.dcm": dicom(3, "1.2.840.2"),
    "uid/png of the same pixels.png": make_png(make_pixels(dtype=np.uint16, seed=1)),
    "frames.dcm": make_dicom(np.stack([make_pixels(seed=seed) for seed in range(3)]), SOPInstanceUID="1.2.840.3"),
    **{odd(way): make_png(struck(way)) for way in killers.REASONS},
    "second frame.dcm": make_dicom(struck("segfault", 3), SOPInstanceUID="1.2.840.4"),
    "pack.zip": make_zip({"good.png": PNG[2], "twin of plain.png": PNG[0], "bad.png": make_png(struck("exit"))}),
    "deleted.png": PNG[3],
    "ward/deleted with its directory.png": PNG[3],
    "ward 2/a file took the place of its directory.png": PNG[3],
    "ward 2/so of an archive.zip": make_zip({"inner.png": PNG[3]}),
    "deleted.zip": make_zip({"inner.png": PNG[3]}),
    "replaced.png": PNG[4],
    "same size.dcm": dicom(4, "1.2.840.5"),
    "text now.png": PNG[4],
    "cut.png": PNG[5],
    "cut.dcm": dicom(5, "1.2.840.6"),
    "cut.zip": make_zip({"one.png": PNG[5], "two.png": PNG[5]}),
    "emptied.png": PNG[5],
    "lost one.zip": make_zip({"stays.png": PNG[6], "lost.png": PNG[6]}),
    "a directory tomorrow": PNG[6],
    "a directory record tomorrow": PNG[6],
    "closed.png": PNG[7],
    "closed ward/inner.png": PNG[7],
    "names only/inner.png": PNG[7],
}
MODES = {"closed.png": 0, "closed ward": 0, "names only": 0o444}
CHANGES = {
    "replaced.png": make_png(make_pixels(seed=20, rows=50)),
    "same size.dcm": dicom(21, "1.2.840.5"),
    "text now.png": b"no image any more",
    "cut.png": FILES["cut.png"][:600],
    "cut.dcm": FILES["cut.dcm"][:3000],
    "cut.zip": FILES["cut.zip"][:-100],
    "emptied.png": b"",
    "lost one.zip": make_zip({"stays.png": PNG[6]}),
}
TOMORROW = {
    "deleted.png": FILES["deleted.png"],
    "a directory tomorrow/inner.png": PNG[7],
    "a directory record tomorrow": make_dicom(SOPClassUID=MediaStorageDirectoryStorage, PixelData=None),
}
DELETED = (
    "deleted.png",
    "ward/deleted with its directory.png",
    "ward 2/a file took the place of its directory.png",
    "ward 2/so of an archive.zip",
    "deleted.zip",
)
MEASURED = {
    *("plain.png", "twins/one.png", "twins/two", "frames.dcm", "replaced.png", "same size.dcm"),
    *(name for name in FILES if name.startswith("uid/")),
    *("pack.zip!/good.png", "pack.zip!/twin of plain.png", "lost one.zip!/stays.png"),
    *("a directory tomorrow", "a directory record tomorrow"),
}
REASONS = {
    **{odd(way): reason for way, reason in killers.REASONS.items()},
    "second frame.dcm": "crashed",
    "pack.zip!/bad.png": "crashed",
    "deleted.png": "vanished",
    "ward/deleted with its directory.png": "vanished",
    "ward 2/a file took the place of its directory.png": "vanished",
    "ward 2/so of an archive.zip!/inner.png": "vanished",
    "deleted.zip!/inner.png": "vanished",
    "lost one.zip!/lost.png": "vanished",
    "text now.png": "not_an_image",
    "cut.png": "truncated",
    "cut.dcm": "truncated",
    "cut.zip!/one.png": "truncated",
    "cut.zip!/two.png": "truncated",
    "emptied.png": "empty_file",
    **dict.fromkeys(("itself", "closed.png", "closed ward", "names only/inner.png"), "unreadable"),
}


@dataclass(frozen=True)
class Night:
    """What there was after a run."""

    code: int
    printed: str
    faults: list[str]
    images: dict[str, dict]
    features: dict[tuple[str, int], dict]
    quarantine: list[dict]
    counts: dict[str, int]

    @classmethod
    def after(cls, done, archive, warehouse, files):
        def name(row):
            return row["path"].removeprefix(f"{archive}/")

        return cls(
            *done,
            faults(warehouse, files),
            {name(row): row for row in rows(warehouse, "images")},
            {(name(row), row["frame"]): row for row in rows(warehouse, "features")},
            [{**row, "path": name(row)} for row in rows(warehouse, "quarantine")],
            {key: value for key, value in last_run(warehouse).items() if key.startswith("n_")},
        )

    def of(self, *statuses):
        return {name for name, row in self.images.items() if row["status"] in statuses}


@dataclass(frozen=True)
class Nights:
    """An archive and its warehouse; what did not add up after the listing, and what there was after each night."""

    archive: Path
    warehouse: Path
    at_listing: list[str]
    first: Night
    second: Night


def write(archive, files):
    for name, content in files.items():
        (archive / name).parent.mkdir(parents=True, exist_ok=True)
        (archive / name).write_bytes(content)


SCRIPT = """
import json, sys
from medspark.jobs import extract, index
for line in sys.stdin:
    job, *options = json.loads(line)
    print("exit", {"index": index, "extract": extract}[job].main(options), flush=True)
"""
# Root reads everything by two capabilities; who takes them out of the bounding set starts no process that has them.
AS_ANYBODY = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
if os.geteuid() == 0:
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@contextmanager
def anybody():
    """Give a function that runs a job as its command line does, in a process that may not read everything."""
    command = [sys.executable, "-c", AS_ANYBODY, "-c", SCRIPT]
    where = {**os.environ, "PYTHONPATH": str(Path(killers.__file__).parent)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, **pipes, text=True, env=where) as process:

        def job(*arguments):
            print(json.dumps([str(argument) for argument in arguments]), file=process.stdin, flush=True)
            lines = []
            while not lines or not lines[-1].startswith("exit "):
                lines.append(process.stdout.readline())
                assert lines[-1], "".join(lines)
            return int(lines.pop().split()[1]), "".join(lines)

        yield job


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """An archive with images that kill, which changes between the listing and the reading; and the night after."""
    home = tmp_path_factory.mktemp("accounting")
    archive, warehouse = home / "archive", home / "warehouse"
    write(archive, FILES)
    (archive / "itself").symlink_to("itself")
    listed = walk(archive)
    for name, mode in MODES.items():
        (archive / name).chmod(mode)
    with anybody() as job:
        job("index", "--input", archive, "--warehouse", warehouse)
        at_listing = faults(warehouse, listed)

        for name in DELETED:
            (archive / name).unlink()
        for directory in ("ward", "ward 2"):
            (archive / directory).rmdir()
        (archive / "ward 2").write_bytes(PNG[0])
        write(archive, CHANGES | {"late.png": PNG[7]})
        first = job("extract", "--warehouse", warehouse, *LETHAL)
        first = Night.after(first, archive, warehouse, listed)

        for name in MODES:
            (archive / name).chmod(0o755)
        (archive / "a directory tomorrow").unlink()
        write(archive, TOMORROW)
        second = job("extract", "--input", archive, "--warehouse", warehouse, *LETHAL)
    return Nights(archive, warehouse, at_listing, first, Night.after(second, archive, warehouse, walk(archive)))


def test_the_accounting_adds_up_after_the_listing_and_after_each_night(nights):
    assert (nights.at_listing, nights.first.faults, nights.second.faults) == ([], [], [])


SPOILED = {
    "lost": lambda _: [],
    "doubled": lambda row: [row, row],
    "of other bytes": lambda row: [{**row, "content_sha256": "other"}],
    "of another file": lambda row: [{**row, "path": "/nowhere"}],
    "gone": lambda row: [{**row, "gone_at": datetime.now(UTC)}],
}


@pytest.mark.parametrize("spoiled", SPOILED)
@pytest.mark.parametrize("table", ["images", "features", "quarantine"])
def test_the_accounting_would_not_add_up_if_a_row_were(nights, tmp_path, table, spoiled):
    warehouse = shutil.copytree(nights.warehouse, tmp_path / "warehouse")
    schema = DeltaTable(warehouse / table).to_pyarrow_table().schema
    names = ("/plain.png", "/cut.png")  # one is measured, one is not
    row, *others = sorted(rows(warehouse, table), key=lambda row: not row["path"].endswith(names))
    changed = pa.Table.from_pylist([*SPOILED[spoiled](row), *others], schema)
    write_deltalake(warehouse / table, changed, mode="overwrite")
    assert set(faults(warehouse, walk(nights.archive))) - set(nights.second.faults)


def test_no_file_fails_the_job_whatever_it_does_to_its_process_or_whatever_was_done_to_it(nights):
    first, second = nights.first, nights.second
    assert (first.code, second.code) == (0, 0)
    assert first.of("processed") == MEASURED
    assert {name: first.images[name]["reason"] for name in first.of("quarantined")} == REASONS
    assert {name for name, _ in first.features} == MEASURED
    assert first.counts == {
        "n_listed": len(MEASURED) + len(REASONS),
        "n_processed": len(MEASURED),
        "n_unchanged": 0,
        "n_skipped": 0,
        "n_quarantined": len(REASONS),
    }


def test_each_file_that_kills_is_one_row_that_says_how_and_nothing_of_what_it_held(nights):
    first = nights.first
    assert Counter(row["path"] for row in first.quarantine) == Counter(REASONS.keys())
    errors = {row["path"]: (row["frame"], row["error"]) for row in first.quarantine}
    assert {way: errors[odd(way)] for way in killers.REASONS} == {
        "segfault": (None, "took the process down (signal SIGSEGV)"),
        "exit": (None, "ended the process (exit code 0)"),
        "kill": (None, "took the process down (signal SIGKILL)"),
        "panic": (None, "ended the process (PanicError)"),
        "sleep": (None, "took longer than 2 s (limits.seconds_per_file)"),
        "hoard": (None, "needs more than 300 MiB (limits.memory_mb)"),
    }
    assert errors["second frame.dcm"] == (None, "took the process down (signal SIGSEGV)")


def test_what_was_replaced_after_the_listing_is_measured_as_what_it_is_now(nights):
    first, second = nights.first, nights.second
    for name, mean in (
        ("replaced.png", make_pixels(seed=20, rows=50).mean()),
        ("same size.dcm", make_pixels(dtype=np.uint16, seed=21).mean()),
    ):
        row = first.features[name, 0]
        assert row["content_sha256"] == hashlib.sha256(CHANGES[name]).hexdigest()
        assert row["first_order_mean"] == pytest.approx(mean, rel=1e-12)
        again = second.features[name, 0]
        assert {**again, "size_bytes": 0, "modified_at": 0} == {**row, "size_bytes": 0, "modified_at": 0}


def test_the_same_bytes_under_two_paths_are_both_measured_and_flagged(nights):
    first = nights.first
    flagged = {name for name, row in first.images.items() if "same_content" in row["flags"]}
    assert flagged == {
        *("plain.png", "pack.zip!/twin of plain.png", "twins/one.png", "twins/two"),
        *("uid/first.dcm", "uid/its copy.dcm"),
        *("lost one.zip!/stays.png", "a directory tomorrow", "a directory record tomorrow"),
    }
    values = [
        {name: row[name] for name in row if name.startswith(("first_order", "survived"))}
        for row in (first.features["twins/one.png", 0], first.features["twins/two", 0])
    ]
    assert values[0] == values[1]


def test_two_objects_with_one_sop_instance_uid_are_both_measured_and_flagged(nights):
    first = nights.first
    flagged = {name for name, row in first.images.items() if "shared_sop_instance_uid" in row["flags"]}
    assert flagged == {"uid/first.dcm", "uid/its copy.dcm", "uid/another object.dcm"}
    means = {name: first.features[name, 0]["first_order_mean"] for name in flagged}
    assert means["uid/first.dcm"] == means["uid/its copy.dcm"] != means["uid/another object.dcm"]


def test_the_next_night_sees_what_came_back_what_came_late_and_what_is_gone(nights):
    second = nights.second
    gone = {
        *("ward/deleted with its directory.png", "ward 2/a file took the place of its directory.png"),
        *("deleted.zip!/inner.png", "cut.zip!/one.png", "cut.zip!/two.png", "lost one.zip!/lost.png"),
        *("ward 2/so of an archive.zip!/inner.png", "a directory tomorrow", "closed ward"),
    }
    assert second.of("gone") == gone
    # "replaced.png" has another size than at the listing: until it is read again nobody knows that it is the same.
    new = {
        *("deleted.png", "late.png", "ward 2", "a directory tomorrow/inner.png"),
        *("closed.png", "closed ward/inner.png", "names only/inner.png"),
    }
    assert second.of("processed") == {"replaced.png", *new}
    assert second.of("unchanged") == MEASURED - {"replaced.png", "a directory record tomorrow", *gone}
    assert second.of("skipped") == {"a directory record tomorrow"}
    stays = {name: reason for name, reason in REASONS.items() if name not in gone | new}
    assert {name: second.images[name]["reason"] for name in second.of("quarantined")} == {
        **stays,
        "cut.zip": "truncated",
    }
    assert second.images["cut.png"]["content_sha256"] == hashlib.sha256(CHANGES["cut.png"]).hexdigest()
