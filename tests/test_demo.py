"""The demo is true: what it says of a synthetic hospital is what was built."""

import shutil
from dataclasses import replace

import pytest
from deltalake import DeltaTable

from medspark.demo import differences
from medspark.warehouse import Warehouse


@pytest.fixture
def found(spark, hospital):
    def differences_to(inventory, warehouse=hospital.warehouse):
        return list(differences(spark, Warehouse.at(str(warehouse)), inventory))

    return differences_to


def test_every_job_of_the_line_ends_well(hospital):
    assert hospital.codes == {"index": 0, "extract": 0, "train": 0, "score": 0, "report": 0}


def test_the_tables_are_as_the_archive_was_built(found, hospital):
    assert found(hospital.inventory) == []


def test_a_damaged_file_with_another_reason_is_told(found, hospital):
    reasons = {**hospital.inventory.reasons, "incoming/cut.png": "corrupt"}
    assert found(replace(hospital.inventory, reasons=reasons)) == ["incoming/cut.png should be corrupt, is truncated"]


def test_a_damaged_file_that_is_not_in_quarantine_is_told(found, hospital):
    reasons = {**hospital.inventory.reasons, "incoming/copy": "truncated"}
    assert found(replace(hospital.inventory, reasons=reasons)) == ["incoming/copy should be truncated, is None"]


def test_a_good_file_that_was_lost_is_told(found, hospital):
    n_good = hospital.inventory.n_good
    assert found(replace(hospital.inventory, n_good=n_good + 1)) == [
        f"{n_good + 1} good files were written, {n_good} were processed"
    ]


def test_a_frame_that_was_not_scored_is_told(found, hospital, tmp_path):
    shutil.copytree(hospital.warehouse, tmp_path / "warehouse")
    predictions = DeltaTable(str(tmp_path / "warehouse/predictions"))
    n_measured = predictions.to_pyarrow_table().num_rows
    predictions.delete("path LIKE '%/incoming/copy'")
    assert found(hospital.inventory, tmp_path / "warehouse") == [
        f"{n_measured} frames were measured, {n_measured - 1} were scored"
    ]
