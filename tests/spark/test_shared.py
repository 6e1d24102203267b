"""A matrix is there once for all workers of a machine, as it is."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np

from medspark.spark.shared import Sent, share


def test_every_task_sees_the_matrix_in_a_file_that_it_does_not_copy(spark):
    X = np.random.default_rng(0).normal(size=(500, 7)).astype(np.float32)
    rows = share(spark, X)

    def look(_):
        found = rows()
        mapped = Path("/proc/self/maps").read_text().splitlines()
        inode = {line.split()[4] for line in mapped if line.endswith(rows.args[0])}
        return found.tobytes(), found.flags.writeable, found.flags.owndata, inode

    seen = spark.sparkContext.parallelize(range(8), 8).map(look).collect()
    assert {content for content, *_ in seen} == {X.tobytes()}
    assert not any(is_writeable or owns for _, is_writeable, owns, _ in seen)
    assert len(set.union(*(inode for *_, inode in seen))) == 1


def test_two_matrices_do_not_take_each_others_place(spark):
    one, two = share(spark, np.zeros(3)), share(spark, np.ones(3))
    assert spark.sparkContext.parallelize([0], 1).map(lambda _: (one().sum(), two().sum())).collect() == [(0.0, 3.0)]


ENCRYPTED = """
import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession
from medspark.java import ensure_java
from medspark.spark.shared import Sent

ensure_java()
settings = {"spark.master": "local[1]", "spark.io.encryption.enabled": "true", "spark.ui.enabled": "false"}
spark = SparkSession.builder.config(map=settings).getOrCreate()
numbers, table = Sent(spark, np.arange(1e5)), Sent(spark, pa.table({"x": np.arange(1e5)}))
rows = spark.sparkContext.parallelize([0, 1], 2)
print(rows.map(lambda _: (float(numbers().sum()), float(np.sum(table()["x"].to_numpy())))).collect())
"""


def test_large_arrays_and_tables_are_sent_where_spark_encrypts_its_files():
    done = subprocess.run([sys.executable, "-c", ENCRYPTED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([(4999950000.0, 4999950000.0)] * 2)


class NewEachTime:
    """What becomes another number whenever it is unpickled."""

    def __reduce__(self):
        return uuid.uuid4, ()


def test_a_worker_unpickles_a_value_once(spark):
    value = Sent(spark, NewEachTime())
    found = set(spark.sparkContext.parallelize(range(8), 8).map(lambda _: (os.getpid(), str(value()))).collect())
    assert len(found) == len({pid for pid, _ in found})
