"""How files are packed into tasks."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medspark.spark.packing import packed

KB, MB = 1 << 10, 1 << 20


def table(sizes, **others):
    paths = pa.array([f"/{number:05}.dcm" for number in range(len(sizes))], pa.string())
    return pa.table({"path": paths, "size_bytes": pa.array(sizes, pa.int64()), **others})


@pytest.mark.parametrize(
    ("n_files", "n_bytes", "n_shares"),
    [
        (1, 10, 1),  # never more tasks than files
        (50, 10, 4 * 3),
        (100, 64 * MB, 100 * (64 * MB + 64 * KB) // (256 * MB) + 2 * 3),  # the last ones are in smaller pieces
        (1000, 256 * MB, 1000),
    ],
)
def test_work_is_cut_by_files_and_bytes(n_files, n_bytes, n_shares):
    assert len(packed(table([n_bytes] * n_files), 3)) == n_shares


def test_the_last_shares_of_few_files_are_small():
    sizes = [(n * 7919 % 61) << 12 for n in range(600)]
    costs = [sum(share["size_bytes"].to_pylist()) + 64 * KB * len(share) for share in packed(table(sizes), 2)]
    weights = [4] * 2 + [2] * 2 + [1] * 4
    whole = sum(sizes) + 600 * 64 * KB
    assert sum(costs) == whole
    expected = [whole * weight / sum(weights) for weight in weights]
    np.testing.assert_allclose(costs, expected, atol=max(sizes) + 64 * KB)  # no file is cut


def test_many_files_are_placed_in_bundles_that_balance_as_well():
    sizes = np.random.default_rng(7).lognormal(12, 1.5, 40_000).astype(int).tolist()  # 160 kB, and some of 50 MB
    shares = packed(table(sizes), 2)
    costs = np.array([sum(share["size_bytes"].to_pylist()) + 64 * KB * len(share) for share in shares])
    assert sum(map(len, shares)) == 40_000
    n_large = len(shares) - 6
    expected = costs.sum() * np.repeat((4, 2, 1), (n_large, 2, 4)) / (4 * n_large + 2 * 2 + 4)
    np.testing.assert_allclose(costs, expected, rtol=0.01)


def test_what_a_file_is_decoded_to_counts_if_it_is_more_and_known():
    decoded = pa.array([None] * 19 + [100 * MB], pa.int64())
    shares = packed(table([MB] * 20, decoded_bytes=decoded), 1)
    (large,) = [share for share in shares if "/00019.dcm" in share["path"].to_pylist()]
    assert len(large) == 1


def test_what_lies_in_a_compressed_tar_stays_together_and_other_archives_do_not():
    members = [f"/a.tar.gz!/{number}" for number in range(50)] + [f"/b.zip!/{number}" for number in range(50)]
    shares = packed(pa.table({"path": members, "size_bytes": [10] * 100}), 2)
    holding = {kind: sum(kind in "".join(share["path"].to_pylist()) for share in shares) for kind in ("a.tar", "b.zip")}
    assert holding == {"a.tar": 1, "b.zip": 7}


@given(st.lists(st.integers(0, 200 * MB), max_size=60), st.integers(1, 5))
def test_every_file_is_in_one_share_and_the_shares_are_in_order(sizes, n_cores):
    shares = [share["path"].to_pylist() for share in packed(table(sizes).take(np.arange(len(sizes))[::-1]), n_cores)]
    assert sorted(path for share in shares for path in share) == table(sizes)["path"].to_pylist()
    assert all(share == sorted(share) for share in shares)
    assert len(shares) <= max(1, len(sizes))
