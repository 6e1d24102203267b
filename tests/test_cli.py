import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_upkeep import frame, held, put, write
from test_warehouse import paths

import medspark
from medspark.cli import JOBS, main
from medspark.warehouse import Warehouse


def exit_code(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in arguments])
    return caught.value.code


def test_help_names_every_command(capsys):
    assert exit_code("--help") == 0
    printed = capsys.readouterr().out
    assert all(re.search(rf"\b{command}\b", printed) for command in (*JOBS, "phantom", "vacuum", "forget"))


def test_the_version_is_that_of_the_package(capsys):
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"medspark {medspark.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("extrct",),
        ("--no-such-option",),
        ("phantom",),
        ("phantom", "d", "--patients", "x"),
        ("vacuum",),
        ("vacuum", "--warehouse", "w", "--retention-hours", "x"),
        ("forget", "--warehouse", "w"),
    ],
)
def test_a_command_line_that_is_wrong_is_exit_code_2_and_says_how(arguments, capsys):
    assert exit_code(*arguments) == 2
    assert "usage: medspark" in capsys.readouterr().err


@pytest.mark.parametrize("job", JOBS)
def test_every_job_has_the_common_options(job, capsys):
    assert exit_code(job, "--help") == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: medspark {job} ")
    options = ("--config", "--set", "--input", "--warehouse", "--labels", "--labels-from", "--model", "--dry-run")
    assert all(f"{option} " in printed for option in options)


@pytest.mark.parametrize("job", JOBS)
def test_an_unknown_option_of_a_job_is_exit_code_2(job):
    assert exit_code(job, "--no-such-option") == 2


def test_phantom_writes_the_archive_that_it_counts(tmp_path, capsys):
    assert main(["phantom", str(tmp_path / "archive"), "--patients", "2", "--seed", "7"]) == 0
    n_good, n_damaged = map(int, re.findall(r"(\d+) (?:good files|damaged)", capsys.readouterr().out))
    (labels,) = tmp_path.rglob("*.csv")
    with labels.open() as file:
        assert len(list(csv.DictReader(file))) == n_good
    n_files = sum(path.is_file() or path.is_symlink() for path in (tmp_path / "archive").rglob("*"))
    assert n_files >= n_good + n_damaged > 0


@pytest.mark.parametrize("patients", ["0", "-1"])
def test_an_archive_that_cannot_be_made_is_exit_code_2_in_one_line(patients, tmp_path, capsys):
    assert main(["phantom", str(tmp_path / "archive"), "--patients", patients]) == 2
    assert capsys.readouterr().err == f"medspark: phantom: patients must be at least 1, got {patients}\n"


def test_a_place_that_is_taken_is_exit_code_2_in_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file", tmp_path / "file" / "archive"):
        assert main(["phantom", str(place)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("medspark: ")
        assert error.count("\n") == 1


PATIENT = "0123456789abcdef" * 4


@pytest.fixture
def warehouse(tmp_path):
    """A warehouse with a file in its table and one that a killed run left."""
    warehouse = Warehouse(str(tmp_path / "warehouse"))
    put(warehouse, "features", [frame("/x/image.png"), frame("/x/other.png")], "run-1")
    write(warehouse, "_outcomes", "run-2", "part-00000.parquet", content=b"1234")
    return warehouse


def test_vacuum_tells_what_it_removes(warehouse, capsys):
    command = ["vacuum", "--warehouse", warehouse.uri]
    assert main([*command, "--dry-run"]) == 0
    told = "_outcomes: 1 files, 4 bytes\n"
    assert capsys.readouterr().out == f"dry run, nothing was removed; without --dry-run this goes:\n{told}"
    assert main(command) == 0
    assert capsys.readouterr().out == told
    assert main([*command, "--retention-hours", "0"]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"
    assert paths(warehouse) == ["/x/image.png", "/x/other.png"]


def test_forget_tells_what_it_erases(warehouse, tmp_path, capsys):
    there = tmp_path / "there.dcm"
    there.touch()
    put(warehouse, "features", [frame(str(there), PATIENT), frame("/not there.dcm", PATIENT)], "run-2")
    assert main(["forget", "--warehouse", warehouse.uri, "--patient", PATIENT]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "features: 2 rows",
        "files of older versions and of killed runs: 1",
        "reports: 0 (all of them: their pages may show images of the patient)",
        "in the archive there are still 1 of the patient's 2 files",
        "delete them there, or the next run brings them back:",
        str(there),
    ]
    assert sorted(warehouse.table("features").to_pyarrow_table()["path"].to_pylist()) == [
        "/x/image.png",
        "/x/other.png",
    ]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["forget", "--patient", "Doe^Jane"], "--patient is no pseudonym"),
        (["forget", "--patient", PATIENT], "--patient: nothing in "),
        (["vacuum", "--retention-hours", "-1"], "--retention-hours -1: must be 0 or more"),
    ],
)
def test_upkeep_that_cannot_be_is_exit_code_2_in_one_line(warehouse, options, told, capsys):
    assert main([*options, "--warehouse", warehouse.uri]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"medspark: {told}")
    assert error.count("\n") == 1
    assert "Doe" not in error


def test_upkeep_of_nothing_is_exit_code_2_and_makes_nothing(tmp_path, capsys):
    for command in (["vacuum"], ["forget", "--patient", PATIENT]):
        assert main([*command, "--warehouse", str(tmp_path / "nowhere")]) == 2
        assert "nowhere is no warehouse" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_upkeep_while_a_run_is_at_work_is_exit_code_3(warehouse, capsys):
    with held(warehouse):
        for command in (["vacuum"], ["forget", "--patient", PATIENT]):
            assert main([*command, "--warehouse", warehouse.uri]) == 3
            assert "medspark: another run (extract, process " in capsys.readouterr().err


def test_upkeep_that_fails_half_way_is_exit_code_3(warehouse, capsys):
    Path(warehouse.path(".lock")).mkdir()
    assert main(["vacuum", "--warehouse", warehouse.uri]) == 3
    assert "medspark vacuum: failed, run again to continue: [Errno 21] Is a directory" in capsys.readouterr().err


def test_the_module_is_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "medspark.cli", "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"medspark {medspark.__version__}\n")
