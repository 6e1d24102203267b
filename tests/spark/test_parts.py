"""Files that executors write: all rows, each once, in files that any reader of Parquet reads."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medspark.spark import parts
from medspark.spark.parts import Target, written

SCHEMA = pa.schema({"id": pa.int64(), "word": pa.string()})


@pytest.fixture
def even_and_odd():
    """What makes rows on the executors, who do not know this module."""
    schema = SCHEMA

    def make(batches):
        for batch in batches:
            ids = batch.column("id").to_pylist()
            for name, rest in (("even", 0), ("odd", 1)):
                chosen = [each for each in ids if each % 2 == rest]
                words = [f"number {each}" for each in chosen]
                yield name, pa.RecordBatch.from_pydict({"id": chosen, "word": words}, schema)

    return make


def test_rows_go_to_their_targets_and_the_files_are_told(spark, even_and_odd, tmp_path):
    targets = {name: Target(str(tmp_path / name), SCHEMA) for name in ("even", "odd")}
    found = written(spark.range(0, 100, 1, 4), even_and_odd, targets)
    for name, rest in (("even", 0), ("odd", 1)):
        rows = [row for part in found[name] for row in pq.read_table(part.path).to_pylist()]
        wanted = [{"id": each, "word": f"number {each}"} for each in range(rest, 100, 2)]
        assert sorted(rows, key=lambda row: row["id"]) == wanted
        assert len(found[name]) == 4
        assert {(part.path, part.n_bytes) for part in found[name]} == {
            (str(file), file.stat().st_size) for file in (tmp_path / name).iterdir()
        }
        assert [part.n_rows for part in found[name]] == [pq.read_metadata(part.path).num_rows for part in found[name]]


def test_a_task_without_rows_for_a_target_writes_no_file_there(spark, even_and_odd, tmp_path):
    targets = {name: Target(str(tmp_path / name), SCHEMA) for name in ("even", "odd")}
    found = written(spark.range(0, 10, 2, 2), even_and_odd, targets)
    assert sum(part.n_rows for part in found["even"]) == 5
    assert found["odd"] == []
    assert not (tmp_path / "odd").exists()


def test_many_rows_are_written_group_by_group(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_GROUP_BYTES", 1000)
    file = parts._File(Target(str(tmp_path), SCHEMA))
    for first in range(0, 1000, 50):
        batch = {"id": list(range(first, first + 50)), "word": [f"number {each}" for each in range(first, first + 50)]}
        file.add(pa.RecordBatch.from_pydict(batch, SCHEMA))
    part = file.close()
    read = pq.ParquetFile(part.path)
    assert read.num_row_groups > 5
    assert read.read().column("id").to_pylist() == list(range(1000))
    assert part.n_rows == 1000
