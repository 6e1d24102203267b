"""The nightly job over the life of an archive: what is new or changed is measured and scored, and nothing else."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from accounting import faults, walk
from builders import make_png
from line import RECIPE, last_run, listing, rows, run

from medspark.errors import ContractError
from medspark.jobs import reprocess, train
from medspark.phantom import write_archive

OPTIONS = (*RECIPE, "--set", "report.contact_sheet=0")
WIDE = make_png(np.tile(np.arange(250, dtype=np.uint8), (250, 1)))
SMALL = ("--set", f"limits.max_pixels={240 * 240}")
TABLES = ("images", "features", "quarantine", "predictions", "runs")


@dataclass(frozen=True)
class Night:
    """What there was after a run; each table by path and frame."""

    code: int
    printed: str
    faults: list[str]
    tables: dict[str, dict[tuple[str, int | None], dict]]
    run: dict
    n_reports: int

    @classmethod
    def after(cls, done, archive, warehouse):
        def key(row):
            return (row.get("path") or row["run_id"]).removeprefix(f"{archive}/"), row.get("frame")

        tables = {}
        for name in TABLES if (warehouse / "predictions").exists() else (*TABLES[:3], "runs"):
            found = rows(warehouse, name)
            tables[name] = {key(row): row for row in found}
            assert len(found) == len(tables[name]), f"a doubled row in {name}"
        n_reports = len(list(warehouse.glob("reports/*/index.html")))
        return cls(*done, faults(warehouse, walk(archive)), tables, last_run(warehouse), n_reports)

    @property
    def counts(self):
        return tuple(self.run[f"n_{name}"] for name in ("processed", "unchanged", "skipped", "quarantined"))

    def files(self, *statuses):
        return {path for (path, _), row in self.tables["images"].items() if row["status"] in statuses}

    def of(self, table, *names):
        """Return the rows of some files."""
        return {key: row for key, row in self.tables[table].items() if key[0] in names}

    def others(self, table, *names):
        """Return the rows of all other files."""
        return {key: row for key, row in self.tables[table].items() if key[0] not in names}

    def contents(self, table):
        """Return what each row of the frames is of, and since when that is gone."""
        return {key: (row["content_sha256"], row["gone_at"]) for key, row in self.tables[table].items()}


@dataclass(frozen=True)
class Life:
    """An archive and its warehouse, every night there was, and four files of it that each give one row."""

    archive: Path
    warehouse: Path
    nights: dict[str, Night]
    names: list[str]

    @property
    def options(self):
        return ("--input", self.archive, "--warehouse", self.warehouse, *OPTIONS)

    def after(self, done):
        return Night.after(done, self.archive, self.warehouse)


@pytest.fixture(scope="module")
def life(spark, tmp_path_factory):
    """The first night, the training, the night after it, and one in which nothing has changed."""
    home = tmp_path_factory.mktemp("nightly")
    archive = home / "archive"
    inventory = write_archive(archive, patients=6, seed=3)
    (archive / "wide.png").write_bytes(WIDE)
    captures = sorted(str(path.relative_to(archive)) for path in archive.glob("*/*/export/*"))
    life = Life(archive, home / "warehouse", {}, captures)
    life.nights["first"] = life.after(run(reprocess, spark, *life.options, *SMALL))
    code, printed = run(train, spark, *life.options, "--labels", inventory.labels)
    assert code == 0, printed
    for name in ("with a model", "unchanged"):
        life.nights[name] = life.after(run(reprocess, spark, *life.options))
    return life


@pytest.fixture(scope="module")
def plan(spark, life):
    """What a dry run says after some changes of the archive, and what it wrote."""
    changed, its_twin, twin_of_new, deleted = life.names[:4]
    shutil.copyfile(life.archive / its_twin, life.archive / changed)
    shutil.copyfile(life.archive / twin_of_new, life.archive / "new")
    (life.archive / "new but cut.png").write_bytes(WIDE[:200])
    (life.archive / deleted).unlink()
    before = listing(life.warehouse)
    done = run(reprocess, spark, *life.options, "--dry-run")
    return *done, listing(life.warehouse) == before


@pytest.fixture(scope="module")
def changes(spark, life, plan):  # noqa: ARG001 - it is told before it is done
    """The night after the changes, of which too many files are bad."""
    return life.after(run(reprocess, spark, *life.options, "--set", "run.max_failed=0.1"))


@pytest.fixture(scope="module")
def at_once(life, changes):  # noqa: ARG001 - one night after the other
    """A night with more changes that was started twice; and what was said."""
    new_name, changed, its_twin, back = life.names[4], life.names[0], life.names[5], life.names[3]
    (life.archive / new_name).rename(life.archive / "renamed")
    shutil.copyfile(life.archive / its_twin, life.archive / changed)
    shutil.copyfile(life.archive / its_twin, life.archive / back)
    command = [sys.executable, "-m", "medspark.cli", "reprocess", *life.options, "--retry", "too_large"]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=life.warehouse)
        for _ in range(2)
    ]
    told = [process.communicate()[0] for process in started]
    done = sorted((process.returncode, text) for process, text in zip(started, told, strict=True))
    return done, life.after(done[0])


def features(row):
    return {name: value for name, value in row.items() if name.startswith(("first_order", "lbp"))}


def test_the_first_night_measures_everything_and_says_that_nothing_was_scored(life):
    first = life.nights["first"]
    assert (first.code, first.faults) == (0, [])
    n_processed, n_unchanged, n_skipped, n_quarantined = first.counts
    assert (n_processed, n_unchanged, n_skipped) == (len(first.files("processed")), 0, 1)
    (last,) = [line for line in first.printed.splitlines() if line.startswith("reprocess: ")]
    assert last == first.printed.splitlines()[-1]
    assert last == (
        f"reprocess: {first.run['n_listed']} listed = {n_processed} processed + 0 unchanged + 1 skipped +"
        f" {n_quarantined} quarantined; not scored: no model of this recipe; exit 0"
    )
    assert first.of("quarantine", "wide.png")["wide.png", None]["reason"] == "too_large"
    assert "predictions" not in first.tables
    assert first.n_reports == 1


def test_as_soon_as_there_is_a_model_all_that_was_measured_is_scored_and_nothing_is_measured_again(life):
    first, scored = life.nights["first"], life.nights["with a model"]
    assert (scored.code, scored.faults) == (0, [])
    assert scored.counts == (0, first.counts[0], *first.counts[2:])
    assert scored.tables["features"] == first.tables["features"]
    assert scored.tables["quarantine"] == first.tables["quarantine"]  # no reason is tried again unasked
    assert scored.contents("predictions") == scored.contents("features")
    assert "; scored; exit 0" in scored.printed.splitlines()[-1]


def test_a_night_in_which_nothing_changed_changes_no_row(life):
    before, unchanged = life.nights["with a model"], life.nights["unchanged"]
    assert (unchanged.code, unchanged.faults) == (0, [])
    assert unchanged.counts == before.counts
    for name in ("images", "features", "quarantine", "predictions"):
        assert unchanged.tables[name] == before.tables[name]
    assert "; scored; exit 0" in unchanged.printed.splitlines()[-1]
    assert unchanged.n_reports == 3


def test_each_job_of_a_night_is_a_run_and_the_night_is_the_last(life):
    before, unchanged = (life.nights[name].tables["runs"] for name in ("with a model", "unchanged"))
    new = sorted((row for key, row in unchanged.items() if key not in before), key=lambda row: row["finished_at"])
    assert [row["job"] for row in new] == ["index", "extract", "score", "report", "reprocess"]
    assert {row["status"] for row in new} == {"done"}
    assert len({row["recipe_id"] for row in new[1:]}) == 1


def test_a_dry_run_tells_the_files_and_the_bytes_and_writes_nothing(life, plan):
    code, printed, is_as_before = plan
    assert code == 0
    assert is_as_before
    n_bytes = sum((life.archive / name).stat().st_size for name in (life.names[0], "new", "new but cut.png"))
    before = life.nights["unchanged"]
    told = (
        f"extract would process 3 files of {n_bytes:,} bytes (2 new, 1 changed or to be tried again), and leave"
        f" {before.counts[1] - 2} unchanged, 1 skipped, {before.counts[3]} in quarantine, 1 gone; about "
    )
    assert told in printed


def test_a_dry_run_does_not_say_that_nothing_would_be_scored_when_there_is(plan):
    _, printed, _ = plan
    assert "would score 0 " not in printed


def test_exactly_what_is_new_or_changed_is_measured_as_the_dry_run_said(life, changes):
    changed, its_twin, twin_of_new, deleted = life.names[:4]
    before = life.nights["unchanged"]
    assert changes.faults == []
    assert changes.files("processed") == {changed, "new"}
    assert changes.files("quarantined") - before.files("quarantined") == {"new but cut.png"}
    assert changes.files("gone") == {deleted}
    assert changes.counts == (2, before.counts[1] - 2, 1, before.counts[3] + 1)
    assert changes.others("features", changed, "new", deleted) == before.others("features", changed, deleted)
    assert changes.others("quarantine", "new but cut.png") == before.tables["quarantine"]
    for name, twin in ((changed, its_twin), ("new", twin_of_new)):
        assert features(changes.tables["features"][name, 0]) == features(changes.tables["features"][twin, 0])
    assert features(changes.tables["features"][changed, 0]) != features(before.tables["features"][changed, 0])


def test_predictions_follow_the_files(life, changes):
    changed, its_twin, twin_of_new, deleted = life.names[:4]
    before, after = life.nights["unchanged"].tables["predictions"], changes.tables["predictions"]
    assert changes.contents("predictions") == changes.contents("features")
    assert changes.others("predictions", changed, "new", deleted) == {
        key: row for key, row in before.items() if key[0] not in (changed, deleted)
    }
    for name, twin in ((changed, its_twin), ("new", twin_of_new)):
        assert after[name, 0]["probability"] == after[twin, 0]["probability"]
    assert after[changed, 0]["probability"] != before[changed, 0]["probability"]
    gone_at = changes.tables["images"][deleted, None]["gone_at"]
    assert gone_at is not None
    assert after[deleted, 0] == {**before[deleted, 0], "gone_at": gone_at}


def test_too_many_bad_files_make_the_exit_code_1_after_everything_was_done(life, changes):
    assert changes.code == 1
    assert "more than run.max_failed = 0.1 of the files are in quarantine" in changes.printed
    assert changes.printed.splitlines()[-1].endswith("; scored; exit 1")
    assert changes.run["job"] == "reprocess"
    assert changes.n_reports == life.nights["unchanged"].n_reports + 1


def test_of_two_that_are_started_at_once_each_is_done_or_says_that_the_other_holds_the_warehouse(at_once):
    done, _ = at_once
    (first, told), (second, told_by_second) = done
    assert first == 0, told
    assert second in (0, 3), told_by_second
    assert "Traceback" not in told + told_by_second
    if second == 3:
        holds = r"medspark reprocess: another run( \(reprocess, process \d+ on .*\))? holds the warehouse .*; run again"
        assert re.search(holds, told_by_second)
    assert re.search(r"^reprocess: .*; scored; exit 0$", told, re.MULTILINE)


def test_started_twice_at_once_no_row_is_lost_or_doubled(life, changes, at_once):
    changed, back, renamed, its_twin = life.names[0], *life.names[3:6]
    _, after = at_once
    assert after.faults == []
    assert after.files("gone") == {renamed}
    touched = (changed, back, renamed, "renamed", "wide.png")
    for name in ("features", "predictions", "quarantine"):
        assert after.others(name, *touched) == changes.others(name, *touched)
    assert after.contents("predictions") == after.contents("features")
    for name in (changed, back):
        assert features(after.tables["features"][name, 0]) == features(after.tables["features"][its_twin, 0])
    assert features(after.tables["features"]["renamed", 0]) == features(changes.tables["features"][renamed, 0])


def test_a_reason_is_tried_again_only_when_asked_for(life, changes, at_once):
    for night in (*life.nights.values(), changes):
        assert night.tables["images"]["wide.png", None]["reason"] == "too_large"
    _, after = at_once
    assert after.tables["images"]["wide.png", None]["reason"] is None
    assert after.tables["features"]["wide.png", 0]["first_order_mean"] == pytest.approx(249 / 2)
    assert not after.of("quarantine", "wide.png")


def test_a_model_that_is_not_there_is_told_before_anything_is_done(spark, tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "wide.png").write_bytes(WIDE)
    options = ("--input", archive, "--warehouse", tmp_path / "warehouse", *OPTIONS, "--model", "forest-0")
    with pytest.raises(ContractError, match="no model forest-0 in"):
        run(reprocess, spark, *options)
    assert not (tmp_path / "warehouse").exists()
