"""The report tells what the tables hold, number by number."""

import dataclasses
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from line import config, listing, rows, run

from medspark import bundle
from medspark.errors import ConfigError
from medspark.jobs import extract, index
from medspark.jobs import report as job
from medspark.models import MODELS
from medspark.report import ComparedModel, Drift
from medspark.spark import tables
from medspark.spark.summary import summarise
from medspark.warehouse import Warehouse


def gathered(spark, warehouse, model, *options):
    settings = config("--warehouse", warehouse, "--set", "report.contact_sheet=3", *options)
    now = datetime(2026, 11, 21, tzinfo=UTC)
    return summarise(spark, Warehouse.at(str(warehouse)), settings, model, run_id="report-1", now=now)


@pytest.fixture(scope="module")
def model(hospital):
    return bundle.load(next((hospital.warehouse / "models").iterdir()))


@pytest.fixture(scope="module")
def report(spark, hospital, model):
    return gathered(spark, hospital.warehouse, model)


def tally(values):
    return {value: values.count(value) for value in set(values)}


def test_the_accounting_is_that_of_the_images_table(hospital, report):
    images = rows(hospital.warehouse, "images")
    accounting = report.accounting
    statuses = tally([row["status"] for row in images])
    assert accounting.n_listed == len(images)
    assert accounting.n_processed == statuses["processed"] == hospital.inventory.n_good
    assert accounting.n_quarantined == statuses["quarantined"]
    assert accounting.n_skipped == statuses["skipped"]
    assert accounting.n_missing == 0
    assert accounting.n_frames == len(rows(hospital.warehouse, "features")) > accounting.n_processed
    assert accounting.by_format == tally([row["format"] for row in images])
    assert accounting.by_modality == tally([row["modality"] for row in images if row["format"] == "dicom"])
    assert accounting.quarantined == tally([row["reason"] for row in rows(hospital.warehouse, "quarantine")])
    assert accounting.skipped == {"hidden": 1}


def test_each_histogram_counts_every_labelled_frame_once_by_its_class(hospital, model, report):
    features = {(row["path"], row["frame"]): row for row in rows(hospital.warehouse, "features")}
    labels = {(row["path"], row["frame"]): row["label"] for row in model.split_table.to_pylist()}
    assert len(report.features) == 12
    for feature in report.features:
        values = {
            label: [features[frame][feature.name] for frame in labels if labels[frame] == label]
            for label in model.classes
        }
        edges = np.array(feature.histogram.edges)
        everything = [value for found in values.values() for value in found]
        np.testing.assert_allclose(edges[[0, -1]], [min(everything), max(everything)], rtol=1e-9)
        for label in model.classes:
            counts = np.array(feature.histogram.counts[label])
            assert counts.sum() == len(values[label])
            # A value on an edge may fall to either side of it, by how the edge is rounded.
            at_edge = np.isclose(np.subtract.outer(values[label], edges), 0, atol=1e-9 * np.ptp(edges)).sum()
            assert np.abs(counts - np.histogram(values[label], edges)[0]).sum() <= 2 * at_edge


def test_the_most_important_features_come_first(model, report):
    importance = dict(zip(model.feature_names, model.model.feature_importances.tolist(), strict=True))
    shown = [feature.importance for feature in report.features]
    assert shown == sorted(importance.values(), reverse=True)[:12]
    assert [importance[feature.name] for feature in report.features] == shown


def test_the_class_balance_is_that_of_the_split(model, report):
    split = pq.read_table(model.directory / "split.parquet").to_pylist()
    assert {(row.label, row.side): (row.n_frames, row.n_patients) for row in report.class_balance} == {
        (label, side): (
            sum((row["label"], row["side"]) == (label, side) for row in split),
            len({row["patient_id"] for row in split if (row["label"], row["side"]) == (label, side)}),
        )
        for label, side in {(row["label"], row["side"]) for row in split}
    }
    assert sum(row.n_frames for row in report.class_balance) == len(split)


def test_the_evaluation_is_the_one_in_the_bundle(model, report):
    metrics = model.manifest["metrics"]
    assert report.evaluation.classes == model.classes
    assert np.sum(report.evaluation.confusion) == metrics["n"] == report.evaluation.metrics["n"]
    assert report.evaluation.metrics["auc"] == metrics["auc"]
    assert {curve.label for curve in report.evaluation.roc} == set(model.classes)


def test_permutation_importances_go_to_the_features_they_belong_to(model, report):
    metrics = model.manifest["metrics"]["permutation_importance"]
    for feature in report.features:
        place = model.feature_names.index(feature.name)
        assert feature.permutation == (metrics["mean"][place], metrics["std"][place])


def test_without_impurity_importances_the_order_is_that_of_permutation(spark, hospital, model):
    X = np.random.default_rng(0).normal(size=(8, len(model.feature_names)))
    bare = dataclasses.replace(model, model=MODELS["logistic"].fit(X, model.classes * 4, seed=0))
    lost = dict(zip(model.feature_names, model.manifest["metrics"]["permutation_importance"]["mean"], strict=True))
    found = gathered(spark, hospital.warehouse, bare, "--set", "report.contact_sheet=0").features
    assert [lost[feature.name] for feature in found] == sorted(lost.values(), reverse=True)[:12]
    assert {feature.importance for feature in found} == {None}


def test_the_drift_is_that_of_the_table_the_furthest_first(hospital, model, report):
    found = rows(hospital.warehouse, "drift")
    assert (report.drifts.n_compared, report.drifts.n_drifted) == (
        len(found),
        sum(row["is_drifted"] for row in found),
    )
    assert len(found) == len(model.feature_names) + len(model.classes)
    assert report.drifts.run_id == found[0]["run_id"]
    assert len(report.drifts.shown) == 12
    untouched = [row["psi"] for row in found if not row["is_drifted"]]
    drifted = [row["psi"] for row in found if row["is_drifted"]]
    assert [drift.psi for drift in report.drifts.shown] == [
        *sorted(drifted, reverse=True),
        *sorted(untouched, reverse=True),
    ][:12]


def test_where_nothing_was_compared_and_nothing_leaked_nothing_is_told(report, model):
    (kept,) = report.compared
    metrics = model.manifest["metrics"]
    assert (kept.name, kept.purpose, kept.is_kept, kept.n_test) == ("forest", "model", True, metrics["n"])
    assert (kept.auc, kept.interval) == (metrics["auc"], tuple(metrics["intervals"]["auc"]))
    assert (kept.sensitivity, kept.specificity, kept.brier) == (
        metrics["sensitivity"],
        metrics["specificity"],
        metrics["brier"],
    )
    assert report.leaks is None


@pytest.fixture(scope="module")
def busy(spark, hospital, model, tmp_path_factory):
    """The report of a copy of the hospital in which other runs have left rows too."""
    home = tmp_path_factory.mktemp("busy") / "warehouse"
    shutil.copytree(hospital.warehouse, home)
    warehouse = Warehouse.at(str(home))
    (run_id,) = {row["run_id"] for row in rows(home, "evaluations")}
    nothing = dict.fromkeys(tables.EVALUATIONS.names)
    tried = [
        ("search", "forest", '{"depth": 10}', 0.5, None),
        ("search", "forest", '{"depth": 0, "trees": 7}', 0.75, None),
        ("compare", "tree", "{}", None, None),
        ("compare", "svm", '{"C": 10.0}', 0.625, (0.5, 0.75)),
    ]
    entries = [
        nothing
        | {"run_id": run_id, "purpose": purpose, "kind": kind, "parameters": parameters, "n_test": 40, "auc": auc}
        | dict(zip(("auc_low", "auc_high"), interval or (None, None), strict=True))
        for purpose, kind, parameters, auc, interval in tried
    ]
    other = nothing | entries[2] | {"run_id": "train-29990101T000000Z-ffffff", "purpose": "model", "model_id": "tree-x"}
    warehouse.append_rows("evaluations", [*entries, other], tables.arrow(tables.EVALUATIONS))
    kinds = {"train-20200101T000000Z-aaaaaa": ["near", "same_bytes"] * 5, run_id: ["near", "two_labels", "near"]}
    leaks = [dict.fromkeys(tables.LEAKS.names) | {"run_id": of, "kind": kind} for of in kinds for kind in kinds[of]]
    warehouse.append_rows("leaks", leaks, tables.arrow(tables.LEAKS))
    far = {"what": "feature", "psi": 9.0, "ks": 0.5, "n": 7, "n_reference": 9, "is_drifted": True}
    of_model = {**far, "run_id": "score-29980101T000000Z-000000", "model_id": model.model_id}
    drifts = [
        {**of_model, "name": "a", "psi": 0.25},
        {**of_model, "name": "b", "psi": 0.5},
        {**of_model, "name": "c", "is_drifted": False},
        {**of_model, "name": "d", "run_id": "score-20200101T000000Z-000000"},
        {**of_model, "name": "e", "run_id": "score-29990101T000000Z-000000", "model_id": "tree-x"},
    ]
    warehouse.append_rows("drift", drifts, tables.arrow(tables.DRIFT))
    return gathered(spark, home, model, "--set", "report.contact_sheet=0")


def test_the_models_of_the_run_stand_beside_each_other_the_kept_one_first(busy, report):
    assert list(busy.compared) == [
        *report.compared,
        ComparedModel("svm, C 10.0", "compare", 40, 0.625, (0.5, 0.75)),
        ComparedModel("tree", "compare", 40),
        ComparedModel("forest, trees 7, depth 0", "search", 40, 0.75),
        ComparedModel("forest, depth 10", "search", 40, 0.5),
    ]


def test_the_leaks_are_those_of_the_newest_run_that_found_some(busy):
    assert busy.leaks.counts == {"near": 2, "two_labels": 1}
    assert list(busy.leaks.counts) == ["near", "two_labels"]
    assert busy.leaks.is_of_model


def test_the_drift_is_that_of_the_newest_run_of_this_model_the_drifted_first(busy):
    assert busy.drifts.run_id == "score-29980101T000000Z-000000"
    assert (busy.drifts.n_compared, busy.drifts.n_drifted) == (3, 2)
    assert list(busy.drifts.shown) == [
        Drift("feature", "b", 0.5, 0.5, 7, is_drifted=True),
        Drift("feature", "a", 0.25, 0.5, 7, is_drifted=True),
        Drift("feature", "c", 9.0, 0.5, 7, is_drifted=False),
    ]


def test_leaks_of_another_run_are_not_said_to_be_of_the_model(spark, hospital, model, tmp_path):
    shutil.copytree(hospital.warehouse, tmp_path / "warehouse")
    leak = dict.fromkeys(tables.LEAKS.names) | {"run_id": "train-29990101T000000Z-ffffff", "kind": "same_patient"}
    Warehouse.at(str(tmp_path / "warehouse")).append_rows("leaks", [leak], tables.arrow(tables.LEAKS))
    leaks = gathered(spark, tmp_path / "warehouse", model, "--set", "report.contact_sheet=0").leaks
    assert (leaks.counts, leaks.is_of_model) == ({"same_patient": 1}, False)


def test_the_predictions_are_those_in_the_table(hospital, report):
    found = rows(hospital.warehouse, "predictions")
    assert report.predictions.counts == tally([row["prediction"] for row in found])
    histogram = report.predictions.top_probability
    assert np.sum(histogram.counts["all"]) == len(found)
    np.testing.assert_allclose(histogram.edges, np.linspace(0, 1, 25))
    assert np.sum(histogram.counts["all"][:11]) == 0  # of two classes, the more probable has at least a half


def test_the_contact_sheet_has_as_many_images_as_asked_for(report):
    assert len(report.contact_sheet) == 3
    assert all(max(plane.shape) <= 160 for sample in report.contact_sheet for plane in sample.planes.values())


def test_without_a_model_features_are_shown_all_together(spark, hospital):
    report = gathered(spark, hospital.warehouse, None, "--set", "report.contact_sheet=0")
    assert (report.model_id, report.evaluation, report.predictions, list(report.class_balance)) == (
        None,
        None,
        None,
        [],
    )
    assert (list(report.compared), report.leaks, report.drifts) == ([], None, None)
    assert {(feature.importance, feature.permutation) for feature in report.features} == {(None, None)}
    assert list(report.contact_sheet) == []
    n_frames = len(rows(hospital.warehouse, "features"))
    assert {np.sum(feature.histogram.counts["all"]) for feature in report.features} == {n_frames}


def page_of(printed):
    return Path(re.search(r"report: (.*index\.html)", printed).group(1)).read_text("utf-8")


def test_the_page_is_written_loads_nothing_and_tells_the_numbers(hospital):
    page = page_of(hospital.printed["report"])
    assert not re.findall(
        r"""(?:src|href)\s*=\s*["'](?!data:|#)|url\((?!["']?data:|#)|@import|<script(?![^>]*json)""", page
    )
    assert f"{hospital.inventory.n_good:,}" in page
    for reason in ("truncated", "not_an_image", "hidden"):
        assert reason in page
    for heading in ("95 % interval", "Calibration", "Subgroups", "Drift"):
        assert heading in page
    for heading in ("Models beside each other", "Operating point", "frames at random", "Leaks"):
        assert heading not in page
    for patient in range(1, 11):
        assert f"Phantom^{patient:04d}" not in page


def test_a_dry_run_writes_no_page(spark, hospital):
    before = listing(hospital.warehouse)
    code, printed = run(job, spark, "--warehouse", hospital.warehouse, "--dry-run")
    assert (code, listing(hospital.warehouse)) == (0, before)
    assert "report would write" in printed


def test_without_a_listing_there_is_nothing_to_report(spark, tmp_path):
    with pytest.raises(ConfigError, match="has no images table: run index first"):
        run(job, spark, "--warehouse", tmp_path)


def test_an_archive_without_a_good_image_has_a_report_too(spark, tmp_path):
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive/notes").write_bytes(b"no image")
    where = ("--warehouse", tmp_path / "warehouse")
    assert run(index, spark, "--input", tmp_path / "archive", *where)[0] == 0
    code, printed = run(job, spark, *where)  # listed only: nothing is known of the file yet
    assert code == 0
    assert gathered(spark, tmp_path / "warehouse", None).accounting.n_missing == 1
    assert run(extract, spark, *where)[0] == 0
    report = gathered(spark, tmp_path / "warehouse", None)
    assert (report.accounting.n_missing, report.accounting.quarantined) == (0, {"not_an_image": 1})
    assert (list(report.features), list(report.contact_sheet)) == ([], [])
    code, printed = run(job, spark, *where)
    assert code == 0
    assert "not_an_image" in page_of(printed)
