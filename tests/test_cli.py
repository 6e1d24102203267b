import csv
import re
import subprocess
import sys

import pytest

import medspark
from medspark.cli import JOBS, main


def exit_code(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in arguments])
    return caught.value.code


def test_help_names_every_command(capsys):
    assert exit_code("--help") == 0
    printed = capsys.readouterr().out
    assert all(re.search(rf"\b{command}\b", printed) for command in (*JOBS, "phantom"))


def test_the_version_is_that_of_the_package(capsys):
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"medspark {medspark.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [(), ("extrct",), ("--no-such-option",), ("phantom",), ("phantom", "d", "--patients", "x")]
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


def test_the_module_is_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "medspark.cli", "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"medspark {medspark.__version__}\n")
