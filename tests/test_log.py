"""What the jobs say as JSON: a line for each stage, which a collector can add up, and nothing of a patient."""

import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from builders import make_dicom, make_pixels, make_png
from line import RECIPE, rows

from medspark import log
from medspark.jobs import index
from medspark.log import complain, line, say

PAGE = (Path(__file__).parents[1] / "docs" / "observability.md").read_text("utf-8")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
COUNTS = ("n_listed", "n_processed", "n_unchanged", "n_skipped", "n_quarantined")


@pytest.fixture
def as_json():
    log.use("json", "night")
    yield
    log.use("text")


def test_text_is_what_was_said_and_what_stands_below_it(capsys):
    say("extract: 3 listed", "stage", ["  truncated: 1", "  hidden: 2"], n_listed=3)
    complain("medspark test: no", "failed", exit_code=2)
    assert capsys.readouterr() == ("extract: 3 listed\n  truncated: 1\n  hidden: 2\n", "medspark test: no\n")


@pytest.mark.usefixtures("as_json")
def test_json_is_one_line_with_the_facts_in_place_of_what_stands_below(capsys):
    say("  extract: 3 listed", "stage", ["  truncated: 1"], n_listed=3, run_id="extract-1", job="extract")
    complain("two\nlines", "failed", exit_code=2)
    out, err = capsys.readouterr()
    assert out.count("\n") == err.count("\n") == 1
    told = json.loads(out)
    assert TIME.fullmatch(told.pop("time"))
    expected = {"job": "extract", "run_id": "extract-1", "event": "stage", "text": "extract: 3 listed", "n_listed": 3}
    assert list(told.items()) == list(expected.items())
    told = json.loads(err)
    assert TIME.fullmatch(told.pop("time"))
    assert told == {"job": "night", "event": "failed", "text": "two\nlines", "exit_code": 2}


@pytest.mark.usefixtures("as_json")
@pytest.mark.parametrize(
    ("fact", "written"),
    [
        (3, "3"),
        (0.25, "0.25"),
        (True, "true"),
        ({"truncated": 3}, '{"truncated": 3}'),
        ([0.5, None, math.nan], "[0.5, null, null]"),
        ({"auc": math.inf, 1: (2,)}, '{"auc": null, "1": [2]}'),
        (datetime(2026, 1, 2, 3, 4, 5, 678900, UTC), '"2026-01-02T03:04:05.678Z"'),
        (datetime(2026, 1, 2, 0, 30, tzinfo=timezone(timedelta(hours=1))), '"2026-01-01T23:30:00.000Z"'),
        ("\udcff é\n", '"\\udcff \\u00e9\\n"'),
    ],
)
def test_a_fact_is_written_as_every_reader_of_json_takes_it(fact, written):
    assert line("words", "event", fact=fact).endswith(f'"fact": {written}}}')


@pytest.mark.usefixtures("as_json")
def test_a_fact_that_is_none_is_left_out():
    assert json.loads(line("words", "event", model_id=None, n=0)).keys() == {"time", "job", "event", "text", "n"}


# The whole line and a night of it, each job as it is launched, and three that fail.
SCRIPT = """
import shutil, sys, warnings
from pathlib import Path
from medspark.jobs import extract, index, report, reprocess, score, train
from medspark.spark import progress

home, *options = sys.argv[1:]
archive, more, warehouse = Path(home, "archive"), Path(home, "more"), Path(home, "warehouse")
common = ["--warehouse", str(warehouse), "--set", "run.log=json", *options]
inputs = ["--input", str(archive)]
progress._SECONDS_IN_A_LOG = 0.2
codes = [index.main([*inputs, *common, "--dry-run"]), extract.main([*inputs, *common])]
learning = [*common, "--labels", str(Path(home, "labels.csv")), "--set", "split.group_duplicates=true"]
codes += [train.main([*learning, *options]) for options in (["--dry-run"], ["--set", 'model.compare=["tree"]'])]
codes += [job.main(common) for job in (score, report)]
shutil.copytree(more, archive, dirs_exist_ok=True)
codes.append(reprocess.main([*inputs, *common, "--set", "run.max_failed=0.01"]))
codes.append(index.main(["--input", str(Path(home, "nowhere")), *common]))
codes.append(extract.main([*common, "--dry-run", "--set", "run.log=xml"]))
(warehouse / "reports").rename(warehouse / "before")
(warehouse / "reports").write_text("in the way")
warnings.warn("a word of a library")
codes.append(report.main(common))
Path(home, "codes").write_text(repr(codes))
"""
CANARIES = ("ZZTOP", "CANARY", "canary", "Doe^John", "19420229", "MRN-77", "1.2.77.")


def fill(archive, numbers, brightness):
    """Write a PNG and a DICOM file for each of some patients, whose names are everywhere."""
    for number in numbers:
        patient = archive / f"Doe^John^19420229_{number}"
        patient.mkdir(parents=True)
        pixels = make_pixels(seed=number) // 4 + brightness + 30 * (number % 2)
        (patient / f"canary_scan_{number}.png").write_bytes(make_png(pixels))
        names = {"PatientName": f"ZZTOP^CANARY{number}", "PatientID": f"MRN-77{number}"}
        uids = {"StudyInstanceUID": f"1.2.77.{number}", "SOPInstanceUID": f"1.2.77.{number}.1"}
        (patient / f"canary_slice_{number}.dcm").write_bytes(make_dicom(pixels, **names, **uids))


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """The lines of stdout and of stderr, the exit codes, and the warehouse."""
    home = tmp_path_factory.mktemp("said")
    archive = home / "archive"
    fill(archive, range(12), 10)
    fill(home / "more", range(12, 24), 150)
    (archive / "canary_torn.png").write_bytes(make_png()[:200])
    (archive / ".canary_hidden.png").write_bytes(make_png())
    images = sorted(path.relative_to(archive) for path in archive.rglob("canary_s*"))
    labels = [f"{path},{'odd' if int(path.stem.split('_')[-1]) % 2 else 'even'}" for path in images]
    (home / "labels.csv").write_text("\n".join(["path,label", *labels, ""]))
    options = [*RECIPE, "--set", "report.contact_sheet=0", "--set", "model.trees=5"]
    talkative = {**os.environ, "SPARK_SUBMIT_OPTS": "-XX:+PrintCodeCache"}  # Java has something to say
    command = [sys.executable, "-c", SCRIPT, home, *options]
    ended = subprocess.run(command, env=talkative, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    codes = json.loads((home / "codes").read_text())
    return ended.stdout.splitlines(), ended.stderr.splitlines(), codes, home / "warehouse"


def told(said, event, job=None):
    """Return the lines of an event, of one job if it is named."""
    lines = map(json.loads, said[0])
    return [entry for entry in lines if entry["event"] == event and job in (None, entry["job"])]


def complaints(said):
    """Return the lines of ours on stderr."""
    return [json.loads(text) for text in said[1] if text.startswith("{")]


@pytest.mark.spark
def test_every_line_on_stdout_is_an_object_that_says_when_who_and_what(said):
    lines = [json.loads(text) for text in said[0]]
    assert len(lines) > 10
    for entry in lines:
        assert list(entry)[:2] == ["time", "job"]
        assert TIME.fullmatch(entry["time"])
        assert entry["event"] == "plan" or entry["run_id"].startswith(f"{entry['job']}-")
        assert "\n" not in entry["text"]
    assert [entry["time"] for entry in lines] == sorted(entry["time"] for entry in lines)


@pytest.mark.spark
def test_each_stage_has_one_line_and_reprocess_one_for_each_stage_of_it(said):
    stages = [entry["job"] for entry in told(said, "stage")]
    night = ["index", "extract", "score", "report", "reprocess"]
    assert stages == ["index", "extract", "train", "score", "report", *night]
    assert said[2][:7] == [0, 0, 0, 0, 0, 0, 1]


@pytest.mark.spark
def test_the_counts_of_a_stage_are_those_of_the_archive(said):
    counted = [(entry["job"], *(entry[name] for name in COUNTS)) for entry in told(said, "stage")]
    assert counted == [
        ("index", 26, 25, 0, 1, 0),
        ("extract", 26, 24, 0, 1, 1),
        ("train", 24, 24, 0, 0, 0),
        ("score", 24, 24, 0, 0, 0),
        ("report", 26, 26, 0, 0, 0),
        ("index", 50, 24, 25, 1, 0),
        ("extract", 50, 24, 24, 1, 1),
        ("score", 48, 24, 24, 0, 0),
        ("report", 50, 50, 0, 0, 0),
        ("reprocess", 50, 24, 24, 1, 1),
    ]


@pytest.mark.spark
def test_a_line_of_a_stage_is_the_row_of_its_run_with_its_seconds(said):
    runs = {row["run_id"]: row for row in rows(said[3], "runs")}
    stages = told(said, "stage")
    assert {entry["run_id"] for entry in stages} == runs.keys()
    for entry in stages:
        row = {name: value for name, value in runs[entry["run_id"]].items() if value is not None}
        began, ended = row.pop("started_at"), row.pop("finished_at")
        assert {name: entry[name] for name in row} == row
        assert ("model_id" in entry, "recipe_id" in entry) == ("model_id" in row, "recipe_id" in row)
        assert entry["seconds"] == pytest.approx((ended - began).total_seconds(), abs=0.001)
        assert 0 < entry["seconds"] < 600
        assert datetime.fromisoformat(entry["started_at"]) == began.replace(
            microsecond=began.microsecond // 1000 * 1000
        )


@pytest.mark.spark
def test_what_text_says_below_a_stage_is_in_its_facts(said):
    first, second = told(said, "stage", "extract")
    assert first["reasons"] == second["reasons"] == {"truncated": 1, "hidden": 1}
    first, second = told(said, "stage", "score")
    assert first["predictions"].keys() <= {"even", "odd"}
    assert (sum(first["predictions"].values()), sum(second["predictions"].values())) == (24, 48)
    (night,) = told(said, "stage", "reprocess")
    assert (night["is_scored"], night["exit_code"]) == (True, 1)
    page = told(said, "stage", "report")[0]["page"]
    assert page.startswith(str(said[3]))
    assert page.endswith("index.html")


@pytest.mark.spark
def test_a_dry_run_tells_its_plan_and_no_stage(said):
    index, train = told(said, "plan")
    assert (index["job"], index["n_files"]) == ("index", 26)
    assert (train["job"], train["n_train"] + train["n_test"]) == ("train", 24)


@pytest.mark.spark
def test_progress_is_numbers_under_the_run_that_makes_it(said):
    found = told(said, "progress")
    assert {entry["run_id"] for entry in found} <= {entry["run_id"] for entry in told(said, "stage", "extract")}
    assert {(entry["job"], entry["n_total"]) for entry in found} == {("extract", 25), ("extract", 24)}


@pytest.mark.spark
def test_what_was_trained_and_what_was_found_before_it_are_values(said):
    (stage,) = told(said, "stage", "train")
    evaluated = {row["purpose"]: row for row in rows(said[3], "evaluations")}
    assert stage["model_id"] == evaluated["model"]["model_id"]
    assert stage["metrics"]["auc"] == evaluated["model"]["auc"]
    compared, model = told(said, "model")
    assert (compared["kind"], compared["auc"]) == ("tree", evaluated["compare"]["auc"])
    assert (model["kind"], model["parameters"]["trees"], model["model_id"]) == ("forest", 5, stage["model_id"])
    planned, kept = told(said, "leak")
    assert planned["found"] == kept["found"] == Counter(row["kind"] for row in rows(said[3], "leaks"))
    warned = [entry for entry in complaints(said) if "n_ungrouped" in entry]
    assert [(entry["event"], entry["n_ungrouped"]) for entry in warned] == [("warning", 12), ("warning", 12)]
    assert warned[1]["run_id"] == stage["run_id"]


@pytest.mark.spark
def test_what_has_drifted_and_that_it_is_time_to_train_are_lines_of_their_own(said):
    far = {(row["run_id"], row["name"]): row["psi"] for row in rows(said[3], "drift") if row["is_drifted"]}
    runs = Counter(run_id for run_id, _ in far)
    assert {entry["run_id"]: entry["n_drifted"] for entry in told(said, "retrain")} == runs
    drifted = told(said, "drift")
    assert Counter(entry["run_id"] for entry in drifted) == {run_id: min(5, n) for run_id, n in runs.items()}
    assert {entry["run_id"] for entry in told(said, "stage", "score")[1:]} <= runs.keys()
    assert all(entry["psi"] == far[entry["run_id"], entry["name"]] for entry in drifted)


@pytest.mark.spark
def test_what_is_not_acceptable_is_a_line_with_the_limit(said):
    (found,) = told(said, "not_acceptable")
    assert (found["job"], found["max_failed"], found["n_quarantined"]) == ("extract", 0.01, 1)


@pytest.mark.spark
def test_a_failure_and_a_warning_are_lines_on_stderr(said):
    assert said[2][7:] == [2, 2, 3]
    nowhere, report = [entry for entry in complaints(said) if entry["event"] == "failed"]
    assert (nowhere["job"], nowhere["exit_code"], nowhere["error"]) == ("index", 2, "ConfigError")
    assert nowhere["text"].startswith("medspark index: --input ")
    assert (report["job"], report["exit_code"], report["error"]) == ("report", 3, "NotADirectoryError")
    assert report["text"].startswith("medspark report: failed, run again to continue: ")


@pytest.mark.spark
def test_java_speaks_on_stderr_and_a_long_night_leaves_it_room_to_compile(said):
    (room,) = re.findall(r"CodeCache: size=(\d+)Kb .* max_used=(\d+)Kb", "\n".join(said[1]))
    size, used = map(int, room)
    assert used < size / 2


@pytest.mark.spark
def test_before_the_form_is_known_and_after_the_job_a_message_is_text(said):
    assert "medspark extract: run.log = 'xml': allowed are 'text', 'json'" in said[1]
    assert "medspark: a word of a library" in said[1]


@pytest.mark.spark
def test_the_page_shows_a_line_as_it_is_and_names_every_event(said):
    shown = json.loads(re.search(r"^```json\n(.*)\n```$", PAGE, re.MULTILINE)[1])
    first = told(said, "stage", "extract")[0]
    assert list(shown) == list(first)
    assert {type(value) for value in shown.values()} == {str, int, float, dict}
    assert [type(value) for value in shown.values()] == [type(value) for value in first.values()]
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE.partition("## The event log")[0], re.MULTILINE))
    lines = [*map(json.loads, said[0]), *complaints(said)]
    assert named - {"engine", "mlflow"} == {entry["event"] for entry in lines}


@pytest.mark.spark
def test_no_line_holds_anything_of_a_patient_or_the_name_of_a_file(said):
    everything = "\n".join([*said[0], *said[1]])
    assert [word for word in CANARIES if word in everything] == []
    assert re.findall(r"\b[0-9a-f]{64}\b", everything) == []  # a pseudonym, or a hash of a file's bytes


@pytest.mark.spark
def test_the_search_for_patients_would_have_found_them(said):
    images = rows(said[3], "images")
    assert {word for word in CANARIES if any(word in row["path"] for row in images)} == {
        "canary",
        "Doe^John",
        "19420229",
    }


@pytest.mark.spark
def test_who_calls_a_job_from_a_notebook_sees_text(spark, tmp_path, capsys):
    from line import config

    (tmp_path / "archive").mkdir()
    options = ("--input", tmp_path / "archive", "--warehouse", tmp_path / "warehouse", "--set", "run.log=json")
    assert index.run(spark, config(*options)) == 0
    expected = "index: 0 listed = 0 processed + 0 unchanged + 0 skipped + 0 quarantined\n"
    assert capsys.readouterr().out == expected
