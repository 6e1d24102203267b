"""The collection of bad files: each becomes what it must, and nothing of a patient comes out anywhere."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from line import last_run, rows
from pydicom.pixels import get_decoder
from pydicom.uid import JPEGLSLossless

SCRIPT = """
import sys
from medspark.jobs import extract, report
archive, warehouse = sys.argv[1:]
code = extract.main(["--input", archive, "--warehouse", warehouse])
sys.exit(code or report.main(["--warehouse", warehouse]))
"""
NEEDS_A_CODEC = "good/MR_small_jpeg_ls_lossless.dcm"
# What the notes of expected.json say in words, in our words.
REASONS = {
    "bad/crc.png": "corrupt",
    "bad/html.jpg": "not_an_image",
    "bad/text.dcm": "not_an_image",
    "bad/zero.dcm": "empty_file",
    "bad/trunc.png": "truncated",
    "bad/trunc.jpg": "truncated",
    "bad/trunc.bmp": "truncated",
    "bad/trunc70_CT_small.dcm": "truncated",
    "bomb/px400M.png": "too_large",
    "nonimage/rtplan.dcm": "no_pixel_data",
    "nonimage/test-SR.dcm": "no_pixel_data",
    "names/.hidden.dcm": "hidden",
}


@pytest.fixture(scope="module")
def run(shared_data, tmp_path_factory):
    """The warehouse of the bad files, and the process that made it and a report of it."""
    warehouse = tmp_path_factory.mktemp("bad") / "warehouse"
    command = [sys.executable, "-c", SCRIPT, shared_data / "bad/files", warehouse]
    return warehouse, subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def expected(shared_data):
    return json.loads((shared_data / "bad/expected.json").read_text("utf-8"))


def test_no_bad_file_fails_the_job(run):
    _, process = run
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr


def test_each_file_becomes_what_it_must(run, expected):
    warehouse, _ = run
    images = {row["relative_path"]: row["status"] for row in rows(warehouse, "images")}
    assert images.keys() == expected.keys()
    allowed = {
        "processed": {"processed"},
        "quarantine": {"quarantined"},
        "quarantine_or_processed": {"processed", "quarantined"},
        "skipped": {"skipped"},
    }
    if not get_decoder(JPEGLSLossless).is_available:
        expected = {**expected, NEEDS_A_CODEC: {"expect": "quarantine"}}
    wrong = {name: images[name] for name, entry in expected.items() if images[name] not in allowed[entry["expect"]]}
    assert wrong == {}


def test_the_reasons_are_the_right_ones(run):
    warehouse, _ = run
    reasons = {row["relative_path"]: row["reason"] for row in rows(warehouse, "images")}
    wanted = dict(REASONS)
    if not get_decoder(JPEGLSLossless).is_available:
        wanted[NEEDS_A_CODEC] = "unsupported_transfer_syntax"
    assert {name: reasons[name] for name in wanted} == wanted


def test_every_file_is_in_one_table_and_the_sums_say_so(run, expected):
    warehouse, _ = run
    images = {row["path"]: row["status"] for row in rows(warehouse, "images")}
    measured = {row["path"] for row in rows(warehouse, "features")}
    failed = {row["path"] for row in rows(warehouse, "quarantine")}
    assert {path for path, status in images.items() if status == "quarantined"} == failed
    assert {path for path, status in images.items() if status == "processed"} == measured - failed
    extract = next(row for row in rows(warehouse, "runs") if row["job"] == "extract")
    assert extract["n_listed"] == len(expected) == len(images)
    assert extract["n_processed"] == len(measured - failed)
    assert extract["n_quarantined"] == len(failed)
    assert last_run(warehouse)["job"] == "report"


def said(warehouse, process):
    """Yield where, and all text that there is: of the process, of each file as bytes, of each column decoded."""
    yield "stdout", process.stdout.encode()
    yield "stderr", process.stderr.encode()
    for path in sorted(warehouse.rglob("*")):
        yield f"name of {path}", str(path.relative_to(warehouse)).encode()
        if path.is_file():
            yield str(path), path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            for name in table.column_names:
                yield f"{path}, {name}", repr(table[name].to_pylist()).encode()
            yield f"{path}, metadata", repr(pq.read_metadata(path).metadata).encode()


def test_nothing_of_the_patient_comes_out_anywhere(run, shared_data):
    canaries = (shared_data / "bad/canaries.txt").read_text("utf-8").splitlines()
    assert len(canaries) > 5
    found = [
        (canary, where)
        for where, text in said(*run)
        for canary in canaries
        if any(canary.encode(code, "ignore") in text for code in ("utf-8", "utf-16-le", "iso2022_jp"))
    ]
    assert found == []


def test_the_search_would_have_found_it(run):
    warehouse, process = run
    places = [where for where, text in said(warehouse, process) if b"canary_truncated.dcm" in text]
    assert any(where.endswith(", path") and "quarantine" in where for where in places)
    assert any(b"not_an_image" in text for where, text in said(warehouse, process) if where == "stdout")
    assert any(
        Path(where).name == "index.html" and b"no_pixel_data" in text for where, text in said(warehouse, process)
    )
