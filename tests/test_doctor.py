"""medspark doctor: what it says of an installation that lacks something, or has something broken."""

import configparser
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from pydicom import uid

from medspark import doctor
from medspark.cli import main
from medspark.errors import ConfigError
from medspark.readers import codecs

EXTRAS = {"imagecodecs", "jpeg_ls", "openjpeg", "rle", "rle.utils"}
PIP = "pip install 'medspark[codecs]'"


def hide(monkeypatch, modules):
    found = codecs._module
    monkeypatch.setattr(codecs, "_module", lambda name: None if name in modules else found(name))


def told():
    """Return the matrix that is printed, {(syntax, bits): {column: cell}}, and whether the core works."""
    lines, works = doctor.report()
    (top,) = (number for number, line in enumerate(lines) if line.startswith("transfer syntax"))
    columns = re.split(r" {2,}", lines[top])
    rows = [re.split(r" {2,}", line) for line in lines[top + 1 : lines.index("", top)]]
    assert {len(row) for row in rows} == {len(columns)}
    return {(row[0], row[1]): dict(zip(columns[2:], row[2:], strict=True)) for row in rows}, works


def spoil(monkeypatch, syntax, decode):
    """Put ``decode`` in the place of every library for a transfer syntax."""
    broken = tuple(replace(codec, decode=decode(codec)) for codec in codecs.SYNTAXES[syntax])
    monkeypatch.setitem(codecs.SYNTAXES, syntax, broken)


def test_a_full_installation_reads_every_syntax_in_every_depth():
    pytest.importorskip("imagecodecs")
    matrix, works = told()
    assert works
    assert {row["read"] for row in matrix.values()} == {"ok"}
    assert {cell for row in matrix.values() for cell in row.values()} == {"ok", "-"}
    proven = {library: sum(row[library] == "ok" for row in matrix.values()) for library in next(iter(matrix.values()))}
    assert min(proven.values()) > 0


def test_without_the_extra_each_empty_cell_tells_what_to_install(monkeypatch):
    hide(monkeypatch, EXTRAS)
    matrix, works = told()
    assert works  # it is an extra
    assert matrix["JPEG-LS .80", "8"] == dict.fromkeys(matrix["RLE", "8"], "-") | {"pyjpegls": "missing", "read": PIP}
    assert matrix["JPEG lossless .70", "8"]["pillow"] == "ok"
    assert matrix["JPEG lossless .70", "12"]["pillow"] == "-"
    assert matrix["JPEG lossless .70", "12"]["imagecodecs"] == "missing"
    assert {row: cells["read"] for row, cells in matrix.items() if cells["read"] != "ok"} == {
        ("JPEG extended .51", "12"): PIP,
        ("JPEG lossless .57", "16"): PIP,
        ("JPEG lossless .70", "12"): PIP,
        ("JPEG lossless .70", "16"): PIP,
        ("JPEG-LS .80", "8"): PIP,
        ("JPEG-LS .80", "16"): PIP,
        ("JPEG-LS near lossless .81", "8"): PIP,
        ("JPEG-LS near lossless .81", "16"): PIP,
    }
    assert f"missing: {PIP}" in doctor.report()[0]


def test_one_library_less_is_one_column_less(monkeypatch):
    pytest.importorskip("imagecodecs")
    before, _ = told()
    hide(monkeypatch, {"openjpeg"})
    after, _ = told()
    changed = {
        (row, column) for row, cells in before.items() for column in cells if cells[column] != after[row][column]
    }
    assert {column for _, column in changed} == {"pylibjpeg-openjpeg"}
    assert {after[row][column] for row, column in changed} == {"missing"}
    assert after["JPEG 2000 .91", "16"]["read"] == "ok"  # OpenCV's turn


@pytest.mark.parametrize(("syntax", "row", "off", "verdict"), [
    (uid.RLELossless, ("RLE", "16"), 1, "WRONG"),
    (uid.JPEG2000, ("JPEG 2000 .91", "16"), 1, "WRONG"),
    (uid.JPEGBaseline8Bit, ("JPEG baseline .50", "8"), 4, "WRONG"),
    (uid.RLELossless, ("RLE", "16"), 0, "ok"),
])  # fmt: skip
def test_a_decoder_that_gives_other_pixels_is_wrong(monkeypatch, syntax, row, off, verdict):
    spoil(monkeypatch, syntax, lambda codec: lambda src, stream: codec.decode(src, stream) + np.uint8(off))
    matrix, works = told()
    assert (matrix[row]["read"], works) == (verdict, verdict == "ok")
    assert {cell for cell in matrix[row].values() if cell not in {"-", "missing"}} == {verdict}


def test_a_decoder_that_panics_is_wrong_and_the_others_are_still_tried(monkeypatch):
    class PanicError(BaseException):
        pass

    def panic(_codec):
        def decode(_src, _stream):
            raise PanicError

        return decode

    spoil(monkeypatch, uid.RLELossless, panic)
    matrix, works = told()
    assert not works
    assert {row for row, cells in matrix.items() if cells["read"] == "WRONG"} == {
        ("RLE", bits) for bits in ("1", "8", "8 rgb", "16", "32")
    }


def test_every_transfer_syntax_that_is_read_has_a_sample_and_every_sample_tells_rows_from_columns():
    known = {sample.syntax for sample in doctor.samples()}
    assert known == {*codecs.SYNTAXES, *uid.UncompressedTransferSyntaxes}
    for sample in doctor.samples():
        assert sample.pixels.shape[:2] == (4, 6)
        assert not sample.is_shown_by(sample.pixels.swapaxes(0, 1))
        assert not sample.is_shown_by(sample.pixels[::-1])
        assert sample.is_shown_by(sample.pixels)
    assert doctor.Sample(uid.JPEG2000, "16 signed", b"").pixels[0, 0] == -32768


def test_the_command_prints_versions_java_and_local_mode_and_exits_with_0(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"^numpy +{re.escape(np.__version__)}$", printed, re.MULTILINE)
    assert re.search(r"^Java +\S.*version.*  /\S+$", printed, re.MULTILINE)
    assert re.search(r"^local mode +\d+ tasks at once, 2g for Java", printed, re.MULTILINE)
    assert "WRONG" not in printed


def test_without_java_it_exits_with_2_and_tells_why(monkeypatch, capsys):
    def no_java():
        raise ConfigError("no Java 17 or 21 found: set JAVA_HOME")

    monkeypatch.setattr(doctor, "java_home", no_java)
    assert main(["doctor"]) == 2
    assert re.search(r"^Java +WRONG: no Java 17 or 21 found: set JAVA_HOME$", capsys.readouterr().out, re.MULTILINE)


def test_without_a_package_of_the_core_it_exits_with_2_and_names_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "deltalake", None)  # as if it were not installed
    assert main(["doctor"]) == 2
    assert re.search(r"^deltalake +WRONG .*: pip install 'deltalake'$", capsys.readouterr().out, re.MULTILINE)


def test_every_package_of_the_core_is_looked_for():
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[1] / "setup.cfg")
    wanted = {Requirement(line).name for line in config["options"]["install_requires"].split()}
    assert set(doctor._PACKAGES.values()) == wanted


def test_without_what_the_doctor_itself_needs_it_exits_with_2_and_names_it():
    code = "import sys; sys.modules['cv2'] = None; from medspark.cli import main; sys.exit(main(['doctor']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"medspark: a package of the core is missing \(.*cv2.*\): pip install medspark\n", done.stderr)


def test_less_memory_than_all_tasks_may_take_is_told_with_a_limit_that_fits(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(doctor, "_memory_mb", lambda: 6000)
    said = "\n".join(doctor.report()[0])
    assert re.search(r"^local mode +3 tasks at once, 2g for Java, at most 4,096 MB for each", said, re.MULTILINE)
    assert "limits.memory_mb = 1000" in said
    monkeypatch.setattr(doctor, "_memory_mb", lambda: 3 * 4096)
    assert "limits.memory_mb" not in "\n".join(doctor.report()[0])
