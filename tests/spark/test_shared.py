"""A matrix is there once for all workers of a machine, as it is."""

from pathlib import Path

import numpy as np

from medspark.spark.shared import share


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
