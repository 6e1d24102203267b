"""From a command line to an exit code: one message that says what to do, and no stack trace."""

import json
import re
import subprocess
import sys

import pytest

from medspark.errors import ConfigError
from medspark.jobs import extract, index, report, reprocess, score, train
from medspark.spark.launch import launch

JOBS = {"index": index, "extract": extract, "train": train, "score": score, "report": report}

# Each case in a session of its own, as jobs are started, but in one process: a JVM takes seconds to start.
SCRIPT = """
import sys
import warnings
from pathlib import Path
from medspark.errors import ContractError
from medspark.jobs import extract, index, report
from medspark.spark import tables
from medspark.spark.launch import launch
from medspark.spark.session import _waking

home = Path(sys.argv[1])
archive, warehouse, file = home / "archive", home / "warehouse", home / "file"
archive.mkdir()
file.write_text("in the way")
(archive / "notes").write_text("no image")

def start(run, *options):
    return launch("test", "A job.", run, ["--warehouse", str(warehouse), *options])

def start_json(run):
    return start(run, "--set", "run.log=json")

def worker_raises(spark, config):
    def fail(batches):
        raise ValueError("of Nobody^Test" + chr(10) + "Nobody^Test: was here")
    return spark.range(4).mapInArrow(fail, "id long").count()

def worker_has_no_room(spark, config):
    def fail(batches):
        raise OSError(28, "No space left on device", "/archive/Nobody^Test")
    return spark.range(4).mapInArrow(fail, "id long").count()

def no_worker_starts(spark, config):
    python = home / "python"
    python.write_text("#!/bin/sh\\necho loading >&2\\necho 'medspark: no Python here: install it' >&2\\nexit 2\\n")
    python.chmod(0o755)
    for thread in _waking:  # or it would wake this one, too
        thread.join()
    spark.sparkContext.pythonExec = str(python)
    return spark.range(0, 4, 1, 1).mapInArrow(lambda batches: batches, "id long").count()

def task_is_cancelled(spark, config):
    rows = spark.range(10**6).mapInArrow(lambda batches: batches, "id long")
    return int(rows.isEmpty())

def session_is_left(spark, config):
    return int(spark.sparkContext.appName != "medspark-test" or spark.conf.get("spark.sql.session.timeZone") != "UTC")

def contract(spark, config):
    tables.require(spark.range(1), ["path"], "the table of images")

def warning(spark, config):
    warnings.warn("as " + config.run.log)  # Python says the same words only once
    return 1

def fault(spark, config):
    return {}["a fault of ours"]

def no_place():
    (warehouse / "reports").write_text("in the way")
    return report.main(["--warehouse", str(warehouse)])

def damaged_log():
    for log in warehouse.glob("images/_delta_log/*.json"):
        log.write_text("{")
    return extract.main(["--warehouse", str(warehouse)])

cases = {
    "acceptable": lambda: start(session_is_left),
    "not acceptable": lambda: start(lambda spark, config: 1),
    "cancelled": lambda: start(task_is_cancelled),
    "missing input": lambda: index.main(["--input", str(home / "no/such"), "--warehouse", str(warehouse)]),
    "contract": lambda: start(contract),
    "worker raises": lambda: start(worker_raises),
    "worker has no room": lambda: start(worker_has_no_room),
    "no worker starts": lambda: start(no_worker_starts),
    "Spark cannot write": lambda: start(lambda spark, config: spark.range(1).write.parquet(str(file / "table"))),
    "no place for a warehouse": lambda: index.main(["--input", str(archive), "--warehouse", str(file / "warehouse")]),
    "Spark cannot run this": lambda: start(lambda spark, config: spark.sql("select no such thing").count()),
    "index": lambda: index.main(["--input", str(archive), "--warehouse", str(warehouse)]),
    "no place for the page": no_place,
    "damaged log": damaged_log,
    "fault": lambda: start(fault),
    "json: contract": lambda: start_json(contract),
    "json: worker raises": lambda: start_json(worker_raises),
    "json: fault": lambda: start_json(fault),
    "json: warning": lambda: start_json(warning),
    "warning": lambda: start(warning),
}
for name, case in cases.items():
    print(f"\\n=== {name}", file=sys.stderr, flush=True)
    print(f"\\n=== {name}", case(), flush=True)
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The exit code and the words on stderr of each case."""
    command = [sys.executable, "-c", SCRIPT, tmp_path_factory.mktemp("launch")]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    codes = dict(
        line.removeprefix("=== ").rsplit(" ", 1) for line in process.stdout.splitlines() if line.startswith("=== ")
    )
    told = dict(part.split("\n", 1) for part in process.stderr.split("\n=== ")[1:])
    return {name: (int(code), told[name]) for name, code in codes.items()}


@pytest.mark.parametrize(
    ("case", "code", "message"),
    [
        ("acceptable", 0, ""),
        ("not acceptable", 1, ""),
        ("cancelled", 0, ""),
        (
            "missing input",
            2,
            "medspark index: --input {home}/no/such: no such file or directory, and as a glob it matches nothing",
        ),
        (
            "no place for a warehouse",
            2,
            "medspark index: warehouse {home}/file/warehouse cannot be written: Not a directory",
        ),
        ("contract", 2, "medspark test: the table of images lacks path; it has id"),
    ],
)
def test_what_can_be_told_in_a_line_is(launched, case, code, message):
    found, told = launched[case]
    assert found == code
    lines = [line for line in told.splitlines() if line and "WARN" not in line]
    assert [re.sub(r"/\S*/launch\d+/", "{home}/", line) for line in lines] == ([message] if message else [])


@pytest.mark.parametrize(
    ("case", "cause"),
    [
        ("worker raises", "ValueError in a Python worker, <string>:"),
        ("worker has no room", "OSError: No space left on device: "),
        ("no worker starts", "no Python worker can start: medspark: no Python here: install it"),
        ("Spark cannot write", "Parent path is not a directory: "),
        ("Spark cannot run this", "ParseException: [PARSE_SYNTAX_ERROR]"),
        ("no place for the page", "Not a directory: "),
        ("damaged log", "DeltaError: "),
    ],
)
def test_when_the_engine_fails_it_says_why_and_to_run_again(launched, case, cause):
    code, told = launched[case]
    assert code == 3
    (line,) = [line for line in told.splitlines() if line.startswith("medspark ")]
    assert "failed, run again to continue: " in line
    assert cause in line
    assert "Traceback" not in told
    assert "\tat " not in told


def test_what_a_worker_says_of_its_failure_is_not_repeated(launched):
    for case in ("worker raises", "worker has no room"):
        assert "Nobody^Test" not in launched[case][1]


def test_a_fault_of_ours_shows_where_it_is_and_does_not_look_like_a_run_that_is_done(launched):
    code, told = launched["fault"]
    assert code == 3
    assert "KeyError" in told
    assert "in fault" in told


@pytest.mark.parametrize(
    ("case", "code", "error", "text"),
    [
        ("contract", 2, "ContractError", r"medspark test: the table of images lacks path; it has id"),
        (
            "worker raises",
            3,
            "PythonException",
            r"medspark test: failed, run again to continue: ValueError in a Python worker, <string>:\d+",
        ),
        (
            "fault",
            3,
            "KeyError",
            r"(?s)Traceback \(most recent call last\):\n.* in fault\n.*KeyError: 'a fault of ours'",
        ),
    ],
)
def test_as_json_the_last_message_is_a_line_with_the_exit_code(launched, case, code, error, text):
    found, told = launched[f"json: {case}"]
    (line,) = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    assert re.fullmatch(text, line.pop("text"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line.pop("time"))
    assert line == {"job": "test", "event": "failed", "exit_code": code, "error": error}
    assert found == code
    assert not [line for line in told.splitlines() if line.startswith(("medspark", "Traceback"))]


def test_a_warning_is_what_it_says_and_as_json_a_line(launched):
    assert "medspark: as text" in launched["warning"][1].splitlines()
    (line,) = [json.loads(line) for line in launched["json: warning"][1].splitlines() if line.startswith("{")]
    assert (line["job"], line["event"], line["text"]) == ("test", "warning", "medspark: as json")


def test_no_worker_complains_of_a_broken_pipe(launched):
    assert [case for case, (_, told) in launched.items() if "BrokenPipe" in told] == []


@pytest.mark.parametrize("job", JOBS)
def test_help_names_the_job_what_it_does_and_the_options(job, capsys):
    with pytest.raises(SystemExit) as exit_:
        JOBS[job].main(["--help"])
    assert exit_.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith(f"usage: medspark {job} ")
    assert " ".join((JOBS[job].__doc__ or "").split()) in told
    for option in ("--config", "--set", "--input", "--warehouse", "--labels", "--labels-from", "--model", "--dry-run"):
        assert option in told


def nothing(spark, config):  # noqa: ARG001 - what a job is given
    return 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "medspark test: warehouse is missing: give --warehouse or warehouse = ... in the configuration"),
        (
            ["--warehouse", "w", "--set", "model.treees=3"],
            "medspark test: unknown key model.treees; did you mean 'trees'?",
        ),
        (["--config", "/no/such.toml"], "medspark test: --config /no/such.toml: No such file or directory"),
        (
            ["--warehouse", "w", "--set", "run.log=xml"],
            "medspark test: run.log = 'xml': allowed are 'text', 'json'",
        ),
        (
            ["--set", "run.log=json", "--set", "model.treees=3"],
            "medspark test: unknown key model.treees; did you mean 'trees'?",
        ),
    ],
)
def test_a_wrong_configuration_is_told_before_a_session_is_started(capsys, arguments, message):
    assert launch("test", "", nothing, arguments) == 2
    assert capsys.readouterr().err.splitlines() == [message]


def test_without_a_warehouse_it_is_told_in_the_form_that_was_asked_for(capsys):
    assert launch("test", "", nothing, ["--set", "run.log=json"]) == 2
    told = json.loads(capsys.readouterr().err)
    assert (told["event"], told["exit_code"]) == ("failed", 2)
    assert launch("test", "", nothing, []) == 2
    assert capsys.readouterr().err.startswith("medspark test: warehouse is missing: ")


def test_an_unknown_option_is_told_with_those_there_are(capsys):
    with pytest.raises(SystemExit) as exit_:
        launch("test", "", nothing, ["--wharehouse", "w"])
    assert exit_.value.code == 2
    assert "unrecognized arguments: --wharehouse" in capsys.readouterr().err


def test_what_a_job_checks_beforehand_is_told_before_a_session_is_started(capsys, monkeypatch):
    monkeypatch.setattr("medspark.spark.session.session", None)  # whoever calls it fails otherwise
    assert launch("test", "", nothing, ["--warehouse", "w"], check=refuse) == 2
    assert capsys.readouterr().err == "medspark test: w: not this one\n"


def refuse(config):
    raise ConfigError(f"{config.warehouse}: not this one")


def test_a_recipe_that_does_not_run_ends_extract_and_reprocess_before_there_is_a_session(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("medspark.spark.session.session", None)
    for job in (extract, reprocess):
        options = ["--input", str(tmp_path), "--warehouse", "w", "--set", 'features=[{use="lbp", P=-1}]']
        assert job.main(options) == 2
        assert "lbp" in capsys.readouterr().err
