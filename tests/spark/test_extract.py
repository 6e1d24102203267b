"""One pass over the images: the same rows however they are cut, and equal to the recipe run by hand."""

import hashlib
import os

import numpy as np
import pytest
from builders import make_dicom, make_pixels, make_png
from line import config
from pyspark.sql import functions as F

from medspark.errors import ConfigError, ContractError
from medspark.frame import Limits
from medspark.jobs import extract
from medspark.privacy.pseudonym import pseudonym
from medspark.recipe import Recipe
from medspark.spark import extract as measuring
from medspark.spark import extract_features, read_images, split_quarantine, tables

STEPS = [
    {"use": "to_uint8"},
    {"use": "median", "size": 3},
    {"use": "canny", "low": 50, "high": 100, "to": "edges"},
]
FEATURES = [{"use": "first_order"}, {"use": "density", "of": "edges"}, {"use": "lbp", "points": 8, "radius": 1}]
RECIPE = Recipe.from_dict({"steps": STEPS, "features": FEATURES})
KEY = b"a key of this module's own"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Seven files, eleven frames, two of the files not images."""
    root = tmp_path_factory.mktemp("archive")
    for seed in range(3):
        (root / f"{seed}.png").write_bytes(make_png(make_pixels(seed=seed)))
    (root / "sixteen.png").write_bytes(make_png(make_pixels(seed=4, dtype=np.uint16)))
    (root / "five.dcm").write_bytes(make_dicom(np.stack([make_pixels(seed=seed) for seed in range(5)])))
    (root / "cut.png").write_bytes(make_png()[:400])
    (root / "notes").write_bytes(b"no image at all")
    for path in root.iterdir():  # Spark's own listing knows a file's time to the millisecond
        os.utime(path, ns=(0, 1_700_000_000_123_000_000))
    return root


@pytest.fixture(scope="module")
def paths(spark, archive):
    return spark.createDataFrame([(str(path),) for path in sorted(archive.iterdir())], "path string")


def rows(outcomes):
    return sorted((row.asDict() for row in outcomes.collect()), key=lambda row: (row["path"], row["frame"] or 0))


@pytest.fixture(scope="module")
def expected(paths):
    return rows(extract_features(paths.coalesce(1), RECIPE, key=KEY))


def test_each_value_is_that_of_the_recipe_on_the_same_bytes_to_the_last_bit(expected, archive):
    by_hand = []
    for path in sorted(archive.iterdir()):
        for outcome in RECIPE.run(path):
            values = outcome.features or [None] * len(RECIPE.feature_names)
            failure = {name: getattr(outcome, name) for name in ("failed_stage", "reason", "error")}
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            identity = {
                "path": str(path),
                "frame": outcome.frame,
                "content_sha256": digest,
                "recipe_id": RECIPE.recipe_id,
            }
            by_hand.append({**identity, **failure, **dict(zip(RECIPE.feature_names, values, strict=True))})
    assert [{name: row[name] for name in by_hand[0]} for row in expected] == by_hand
    assert len(by_hand) == 4 + 5 + 2


def test_identifiers_leave_the_executors_as_pseudonyms_only(expected):
    known = {row["patient_id"] for row in expected if row["path"].endswith(".dcm")}
    assert known == {pseudonym(KEY, "P1")}
    assert {row["patient_id"] for row in expected if not row["path"].endswith(".dcm")} == {None}


@pytest.mark.parametrize("n_partitions", [2, 7])
def test_the_rows_do_not_depend_on_the_number_of_partitions_nor_on_the_order(paths, expected, n_partitions):
    shuffled = paths.orderBy(F.rand(seed=n_partitions)).repartition(n_partitions)
    assert rows(extract_features(shuffled, RECIPE, key=KEY)) == expected


def test_sparks_own_table_of_contents_gives_the_same_rows(spark, archive, expected):
    facts = ("size_bytes", "modified_at")
    images = read_images(spark, str(archive))
    assert images.columns == ["path", "modificationTime", "length", "content"]
    found = rows(extract_features(images, RECIPE, key=KEY))
    assert [{**row, **dict.fromkeys(facts)} for row in found] == expected
    assert {row["path"]: row["size_bytes"] for row in found} == {
        str(path): path.stat().st_size for path in archive.iterdir()
    }
    assert {row["modified_at"].microsecond for row in found} == {123_000}


def test_good_and_bad_rows_go_to_tables_of_their_own(paths, expected):
    good, bad = (rows(part) for part in split_quarantine(extract_features(paths, RECIPE, key=KEY)))
    assert [row["path"].rpartition("/")[2] for row in bad] == ["cut.png", "notes"]
    assert list(bad[0])[:7] == ["path", "frame", "content_sha256", "recipe_id", "failed_stage", "reason", "error"]
    assert [row["reason"] for row in bad] == ["truncated", "not_an_image"]
    without = ("failed_stage", "reason", "error", "decoders")
    assert good == [
        {name: value for name, value in row.items() if name not in without} for row in expected if not row["reason"]
    ]


def test_between_the_listing_and_the_numbers_there_is_one_python_node(paths):
    plan = extract_features(paths, RECIPE, key=KEY).where("reason is null").select("path", "first_order_mean")
    operators = plan._jdf.queryExecution().executedPlan().toString()
    nodes = [
        line.strip(" +-:*()0123456789").split()[0]
        for line in operators.splitlines()
        if "Python" in line or "Arrow" in line
    ]
    assert nodes == ["MapInArrow"]


def test_the_job_opens_the_images_in_one_python_node(spark, archive, tmp_path, monkeypatch):
    """Looked at where it happens: the plans of what the job stages, and of what it hands to the node that writes."""
    n_python = []
    stage, written = tables.stage, measuring.written

    def note(name, table):
        plan = table._jdf.queryExecution().executedPlan().toString()
        n_python.append((name, plan.count("MapInArrow") + plan.count("Python")))

    monkeypatch.setattr(tables, "stage", lambda table, *place: (note(place[1], table), stage(table, *place))[1])
    monkeypatch.setattr(measuring, "written", lambda source, *rest: (note("files", source), written(source, *rest))[1])
    options = ("--input", archive, "--warehouse", tmp_path, "--set", 'features=[{use="density"}]')
    assert extract.run(spark, config(*options)) == 0
    # The listing is one pass of its own; what is measured comes from the plan, what is counted from the files written.
    assert [name for name, _ in n_python] == ["images", "series", "files", "images"]
    assert [n for _, n in n_python[2:]] == [0, 0]
    n_python.clear()
    assert extract.run(spark, config(*options, "--retry", "truncated")) == 0
    # There are results now, which the run itself will change: the plan is written down first.
    assert [each for each in n_python if each[0] in ("_plan", "files")] == [("_plan", 0), ("files", 0)]


def test_limits_reach_the_executors(paths):
    images = paths.where("path like '%0.png'")
    (row,) = rows(extract_features(images, RECIPE, key=KEY, limits=Limits(max_pixels=1000)))
    assert row["reason"] == "too_large"
    assert "48 x 64 pixels" in row["error"]


def test_a_recipe_that_does_not_run_stops_before_any_file_is_read(spark):
    images = spark.createDataFrame([("/no/such/file",)], "path string")
    with pytest.raises(ConfigError, match="recipe, median: median: size must be"):
        extract_features(
            images, Recipe.from_dict({"steps": [{"use": "median", "size": 4}], "features": [{"use": "lbp"}]})
        )


def test_a_table_without_paths_is_refused(spark):
    with pytest.raises(ContractError, match="the table of images lacks path; it has id"):
        extract_features(spark.range(1), RECIPE, key=KEY)
